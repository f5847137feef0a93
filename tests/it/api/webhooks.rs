//! What Nango tells, and what is believed of it.

use std::time::Duration;

use aws_lc_rs::{digest, hmac};
use insta::assert_snapshot;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Answer, events, text};
use crate::house::House;

/// The body of a success, as Nango writes it.
pub(super) fn success(nango_id: &str, integration: &str, tags: &Value) -> Value {
    json!({
        "from": "nango", "type": "auth", "operation": "creation", "success": true, "environment": "dev",
        "authMode": "OAUTH2", "connectionId": nango_id, "providerConfigKey": integration,
        "provider": integration, "tags": tags,
    })
}

/// The body of a failure, which names neither a user nor a connection that there is.
fn denial(integration: &str) -> Value {
    json!({
        "from": "nango", "type": "auth", "operation": "creation", "success": false, "environment": "dev",
        "authMode": "OAUTH2", "connectionId": Uuid::new_v4(), "providerConfigKey": integration,
        "provider": integration,
        "error": {
            "type": "invalid_callback",
            "description": "Did not get authorization code in the callback. Provider error: \
                            error: access_denied; error_description: The user denied the request",
        },
    })
}

fn signature(key: &str, body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
    hex::encode(hmac::sign(&key, body.as_bytes()))
}

/// A webhook without a signature, for the environment's address or that of an attempt.
fn post(house: &House, attempt: &str, body: &str) -> RequestBuilder {
    let mut url = format!("{}/api/v1/webhooks/nango", house.url);
    if !attempt.is_empty() {
        url = format!("{url}/{attempt}");
    }
    let request = house
        .client
        .post(url)
        .header("content-type", "application/json");
    request.body(body.to_owned())
}

/// Sends a webhook that is signed as Nango signs.
pub(super) async fn send(house: &House, attempt: &str, body: &Value) -> Answer {
    let body = body.to_string();
    let request = post(house, attempt, &body)
        .header("x-nango-hmac-sha256", signature(&house.signing_key, &body));
    Answer::to(request).await
}

/// What Nango holds of a connection, as the tags of a webhook.
async fn tags(house: &House, nango_id: &str, key: &str) -> Value {
    let path = format!("/connections/{nango_id}?provider_config_key={key}");
    house.nango(Method::GET, &path).await.1["tags"].clone()
}

#[tokio::test]
async fn what_is_not_signed_by_nango_changes_nothing() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    house
        .faults(json!({ "consent": "allow", "drop_webhooks": true }))
        .await;
    let begun = ada.connect("gmail").await;
    let (id, attempt) = (text(&begun, "connection_id"), text(&begun, "attempt_id"));
    let body = denial("gmail").to_string();
    let good = signature(&house.signing_key, &body);
    let deprecated = digest::digest(
        &digest::SHA256,
        format!("{}{body}", house.signing_key).as_bytes(),
    );
    let forged = [
        post(&house, &attempt, &body),
        post(&house, &attempt, &body).header("x-nango-signature", hex::encode(deprecated)),
        post(&house, &attempt, &body).header("x-nango-hmac-sha256", hex::encode(deprecated)),
        post(&house, &attempt, &body)
            .header("x-nango-hmac-sha256", signature(&house.secret_key, &body)),
        post(&house, &attempt, &body).header("x-nango-hmac-sha256", ""),
        post(&house, &attempt, &body).header("x-nango-hmac-sha256", "not hexadecimal"),
        post(&house, &attempt, &body).header("x-nango-hmac-sha256", &good[..62]),
        post(&house, &attempt, &format!("{body} ")).header("x-nango-hmac-sha256", &good),
        post(&house, "", &body.replace("false", "true")).header("x-nango-hmac-sha256", &good),
    ];
    for request in forged {
        let answer = Answer::to(request).await;
        answer.is_problem(401, "invalid_signature");
    }
    assert_snapshot!(Answer::to(post(&house, &attempt, &body)).await, @r#"
    401 Unauthorized
    www-authenticate: X-Nango-Hmac-Sha256
    {
      "code": "invalid_signature",
      "detail": "the X-Nango-Hmac-Sha256 header is missing",
      "request_id": "[id]",
      "status": 401,
      "title": "The signature is not valid",
      "type": "urn:patchbay:problem:invalid_signature"
    }
    "#);
    let row = ada.connection(&id).await;
    assert_eq!(
        (&row["status"], &row["error_count"]),
        (&json!("pending"), &json!(0))
    );
    assert_eq!(events(&house, &id).await, ["attempt_started"]);
    // The same with its signature is taken.
    let taken = send(&house, &attempt, &serde_json::from_str(&body).unwrap()).await;
    assert_eq!(taken.status, 204);
    assert_eq!(
        ada.connection(&id).await["status_reason"],
        "authorization_denied"
    );
}

#[tokio::test]
async fn a_success_that_is_told_twice_is_one_event() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    house
        .faults(json!({ "consent": "allow", "duplicate_webhooks": true }))
        .await;
    let begun = ada.connect("gmail").await;
    let (id, attempt) = (text(&begun, "connection_id"), text(&begun, "attempt_id"));
    house.popup(&text(&begun, "oauth_url")).await;
    let connected = ada.until(&id, "connected").await;
    let nango_id = text(&connected, "nango_connection_id");
    let event = success(&nango_id, "gmail", &tags(&house, &nango_id, "gmail").await);
    for path in [attempt.as_str(), "", attempt.as_str()] {
        assert_eq!(send(&house, path, &event).await.status, 204);
    }
    // A failure that comes after the success is an old one.
    assert_eq!(send(&house, &attempt, &denial("gmail")).await.status, 204);
    assert_eq!(ada.connection(&id).await, connected);
    assert_eq!(events(&house, &id).await, ["attempt_started", "connected"]);
}

#[tokio::test]
async fn a_failure_that_is_told_twice_counts_once() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let begun = ada.connect("gmail").await;
    let (id, attempt) = (text(&begun, "connection_id"), text(&begun, "attempt_id"));
    for _ in 0..2 {
        assert_eq!(send(&house, &attempt, &denial("gmail")).await.status, 204);
    }
    assert_snapshot!(ada.ask_get(&format!("/connections/{id}")).await, @r#"
    200 OK
    {
      "account": null,
      "attempt": {
        "created_at": "2027-01-15T08:00:00Z",
        "ended_at": "2027-01-15T08:00:00Z",
        "error_code": "authorization_denied",
        "error_message": "Access was not granted: The user denied the request",
        "expires_at": "2027-01-15T08:30:00Z",
        "id": "[id]",
        "kind": "connect",
        "outcome": "failed",
        "same_browser": null
      },
      "config": {},
      "connected_at": null,
      "connector_id": "2ca8a1b8-0995-578b-b87c-dc39f677e722",
      "connector_name": "Gmail",
      "connector_slug": "gmail",
      "created_at": "2027-01-15T08:00:00Z",
      "disconnected_at": null,
      "error_count": 1,
      "failing_since": null,
      "found_account": null,
      "id": "[id]",
      "instance_id": "",
      "label": null,
      "last_checked_at": null,
      "last_error": "Access was not granted: The user denied the request",
      "last_synced_at": null,
      "nango_connection_id": null,
      "same_account_as": [],
      "status": "error",
      "status_reason": "authorization_denied",
      "updated_at": "2027-01-15T08:00:00Z",
      "user_id": "ada",
      "version": 2
    }
    "#);
    assert_eq!(
        events(&house, &id).await,
        ["attempt_started", "attempt_failed"]
    );
}

#[tokio::test]
async fn what_nango_does_not_confirm_is_not_believed() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let begun = ada.connect("gmail").await;
    let (id, attempt) = (text(&begun, "connection_id"), text(&begun, "attempt_id"));
    let tags =
        json!({ "end_user_id": "ada", "patchbay_connection": id, "patchbay_attempt": attempt });
    let invented = success(&Uuid::new_v4().to_string(), "gmail", &tags);
    assert_eq!(send(&house, &attempt, &invented).await.status, 204);
    assert_eq!(send(&house, "", &invented).await.status, 204);
    assert_eq!(ada.connection(&id).await["status"], "pending");
}

#[tokio::test]
async fn a_webhook_cannot_carry_one_users_grant_to_another() {
    let house = House::new().await;
    let (ada, bob) = (house.user("ada").await, house.user("bob").await);
    let granted = ada.connected("gmail").await;
    let nango_id = text(&granted, "nango_connection_id");
    let begun = bob.connect("gmail").await;
    let (id, attempt) = (text(&begun, "connection_id"), text(&begun, "attempt_id"));
    let bobs =
        json!({ "end_user_id": "bob", "patchbay_connection": id, "patchbay_attempt": attempt });
    let adas = tags(&house, &nango_id, "gmail").await;
    for (path, tags) in [
        (attempt.as_str(), &bobs),
        ("", &bobs),
        (attempt.as_str(), &adas),
    ] {
        let event = success(&nango_id, "gmail", tags);
        assert_eq!(send(&house, path, &event).await.status, 204);
    }
    assert_eq!(bob.connection(&id).await["status"], "pending");
    assert_eq!(ada.connection(&text(&granted, "id")).await, granted);

    // Not even where Nango itself holds a mix of both users' tags.
    let mixed = json!({ "tags": { "end_user_id": "ada", "patchbay_connection": id, "patchbay_attempt": attempt } });
    let url = format!(
        "http://{}/connections/{nango_id}?provider_config_key=gmail",
        house.sandbox.address()
    );
    let patched = house
        .client
        .patch(url)
        .bearer_auth(&house.secret_key)
        .json(&mixed);
    assert_eq!(Answer::to(patched).await.status, 200);
    assert_eq!(
        send(&house, &attempt, &success(&nango_id, "gmail", &bobs))
            .await
            .status,
        204
    );
    assert_eq!(bob.connection(&id).await["status"], "pending");
}

#[tokio::test]
async fn what_is_of_no_concern_is_taken_and_forgotten() {
    let house = House::new().await;
    let unknown = Uuid::now_v7().to_string();
    for body in [
        json!({ "type": "sync", "model": "Contact" }),
        json!({ "type": "from the future" }),
        json!({ "type": "auth", "operation": "rename", "success": true, "connectionId": "c", "providerConfigKey": "gmail" }),
        json!({ "type": "auth", "operation": "refresh", "success": false, "connectionId": "c", "providerConfigKey": "gmail" }),
        success("c", "gmail", &json!({})),
        denial("gmail"),
    ] {
        for path in ["", &unknown] {
            assert_eq!(send(&house, path, &body).await.status, 204, "{body}");
        }
    }
    for body in [json!({}), json!({ "type": "auth" }), json!([1])] {
        send(&house, "", &body)
            .await
            .is_problem(400, "invalid_request");
    }
    send(&house, "not-a-uuid", &json!({ "type": "sync" }))
        .await
        .is_problem(400, "invalid_request");
}

/// How many calls Nango has received.
async fn calls(house: &House) -> usize {
    let calls = house.control("requests", Method::GET, Value::Null).await;
    calls.as_array().unwrap().len()
}

#[tokio::test]
async fn webhook_of_unknown_attempt_costs_no_call() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let connected = ada.connected("gmail").await;
    let nango_id = text(&connected, "nango_connection_id");
    let known = tags(&house, &nango_id, "gmail").await;
    let before = calls(&house).await;
    for _ in 0..20 {
        let attempt = Uuid::now_v7().to_string();
        assert_eq!(send(&house, &attempt, &denial("gmail")).await.status, 204);
        let mut tags = known.clone();
        tags["patchbay_attempt"] = json!(attempt);
        let event = success(&nango_id, "gmail", &tags);
        for path in [attempt.as_str(), ""] {
            assert_eq!(send(&house, path, &event).await.status, 204);
        }
        let mut event = success(&Uuid::new_v4().to_string(), "gmail", &json!({}));
        event["operation"] = json!("refresh");
        assert_eq!(send(&house, "", &event).await.status, 204);
    }
    assert_eq!(calls(&house).await, before);
    assert_eq!(ada.connection(&text(&connected, "id")).await, connected);
}

#[tokio::test]
async fn replayed_denial_costs_no_call_and_changes_nothing() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let begun = ada.connect("gmail").await;
    let (id, attempt) = (text(&begun, "connection_id"), text(&begun, "attempt_id"));
    let denial = denial("gmail");
    let before = calls(&house).await;
    assert_eq!(send(&house, &attempt, &denial).await.status, 204);
    assert_eq!(calls(&house).await, before + 1);
    let denied = ada.connection(&id).await;
    assert_eq!(denied["status_reason"], "authorization_denied");
    for _ in 0..20 {
        assert_eq!(send(&house, &attempt, &denial).await.status, 204);
    }
    assert_eq!(calls(&house).await, before + 1);
    assert_eq!(ada.connection(&id).await, denied);
    // That of an attempt that was granted or overtaken changes nothing, either.
    let connected = ada.connected("gmail").await;
    let before = calls(&house).await;
    let granted = text(&connected["attempt"], "id");
    for attempt in [&attempt, &granted] {
        assert_eq!(send(&house, attempt, &denial).await.status, 204);
    }
    assert_eq!(calls(&house).await, before);
    assert_eq!(ada.connection(&id).await, connected);
}

#[tokio::test]
async fn replayed_success_costs_few_calls() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let connected = ada.connected("gmail").await;
    let nango_id = text(&connected, "nango_connection_id");
    let event = success(&nango_id, "gmail", &tags(&house, &nango_id, "gmail").await);
    let before = calls(&house).await;
    let (mut taken, mut refused) = (0, 0);
    for n in 0..60 {
        // The address is not signed: whatever it says, the body's tags count.
        let path = [String::new(), Uuid::now_v7().to_string()][n % 2].clone();
        let answer = send(&house, &path, &event).await;
        match answer.status.as_u16() {
            204 => taken += 1,
            _ => {
                answer.is_problem(503, "nango_unavailable");
                refused += 1;
            }
        }
    }
    assert!(taken <= 10 && refused >= 50, "{taken} {refused}");
    assert!(calls(&house).await - before <= 10);
    assert_eq!(ada.connection(&text(&connected, "id")).await, connected);
}

#[tokio::test]
async fn webhook_without_a_waiting_user_keeps_to_the_rate_budget() {
    const LIMIT: u32 = 100;
    let house = House::build(&[], |nango| nango.rate_limit = LIMIT).await;
    let ada = house.user("ada").await;
    let connected = ada.connected("gmail").await;
    let nango_id = text(&connected, "nango_connection_id");
    let tags = tags(&house, &nango_id, "gmail").await;
    house.pass(chrono::TimeDelta::minutes(2));
    let attempt = text(&ada.connect("github").await, "attempt_id");
    for _ in 0..LIMIT * 3 / 4 {
        house.nango(Method::GET, "/connections?limit=1").await;
    }
    // The user waits for this one; and its call tells how many are left.
    assert_eq!(send(&house, &attempt, &denial("github")).await.status, 204);
    let before = calls(&house).await;
    let mut event = success(&nango_id, "gmail", &tags);
    send(&house, "", &event)
        .await
        .is_problem(503, "nango_unavailable");
    event["operation"] = json!("refresh");
    event["success"] = json!(false);
    send(&house, "", &event)
        .await
        .is_problem(503, "nango_unavailable");
    assert_eq!(calls(&house).await, before);
    house.pass(chrono::TimeDelta::minutes(1));
    assert_eq!(send(&house, "", &event).await.status, 204);
    assert!(calls(&house).await > before);
}

#[tokio::test]
async fn nango_is_told_to_send_again_what_it_could_not_confirm() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    house
        .faults(json!({ "consent": "allow", "drop_webhooks": true }))
        .await;
    let begun = ada.connect("gmail").await;
    let (id, attempt) = (text(&begun, "connection_id"), text(&begun, "attempt_id"));
    house.popup(&text(&begun, "oauth_url")).await;
    let nango_id = house.nango_connections().await.remove(0);
    let event = success(&nango_id, "gmail", &tags(&house, &nango_id, "gmail").await);
    for (faults, status, code) in [
        (json!({ "status": 500 }), 503, "nango_unavailable"),
        (json!({ "status": 401 }), 502, "nango_misconfigured"),
        (json!({ "html": true }), 502, "nango_error"),
        (json!({ "hang_up": true }), 503, "nango_unavailable"),
    ] {
        house.faults(faults).await;
        for event in [&event, &denial("gmail")] {
            let answer = send(&house, &attempt, event).await;
            answer.is_problem(status, code);
        }
    }
    assert_eq!(events(&house, &id).await, ["attempt_started"]);
    house.faults(json!({})).await;
    assert_eq!(send(&house, &attempt, &event).await.status, 204);
    assert_eq!(ada.connection(&id).await["status"], "connected");
}

#[tokio::test]
async fn denial_in_another_form_is_still_a_denial() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    for error in [
        json!({ "type": "invalid_callback" }),
        json!({ "type": null, "description": null }),
        json!({ "type": "unknown", "description": { "code": 1 } }),
        json!("it broke"),
        json!(null),
    ] {
        let begun = ada.connect("gmail").await;
        let (id, attempt) = (text(&begun, "connection_id"), text(&begun, "attempt_id"));
        let mut event = denial("gmail");
        event["error"] = error;
        event["tags"] = json!(null);
        assert_eq!(send(&house, &attempt, &event).await.status, 204, "{event}");
        let failed = ada.connection(&id).await;
        assert_eq!(
            (&failed["status"], &failed["attempt"]["outcome"]),
            (&json!("error"), &json!("failed")),
            "{event}"
        );
    }
}

#[tokio::test]
async fn the_environments_address_does_as_well() {
    // A Nango that refuses the session's own address tells the environment's.
    let house = House::new().await;
    let ada = house.user("ada").await;
    house
        .faults(json!({ "consent": "allow", "refuse_webhook_url_override": true }))
        .await;
    let begun = ada.connect("gmail").await;
    house.popup(&text(&begun, "oauth_url")).await;
    ada.until(&text(&begun, "connection_id"), "connected").await;
    let address = format!("{}/api/v1/webhooks/nango", house.url);
    for _ in 0..100 {
        let sent = house.control("webhooks", Method::GET, json!(null)).await;
        assert_eq!(sent[0]["url"], address);
        // The connection may be known from a look before the webhook is answered.
        if sent[0]["attempts"][0]["status"] == 204 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the webhook was not taken");
}

/// As after a restore, or when the history of an attempt is over.
#[tokio::test]
async fn a_grant_whose_attempt_nobody_knows_any_more_leaves_what_a_row_uses() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let gmail = ada.connected("gmail").await;
    let held = text(&gmail, "nango_connection_id");
    sqlx::query("delete from connect_attempt")
        .execute(&mut house.sql().await)
        .await
        .unwrap();
    let event = success(&held, "gmail", &tags(&house, &held, "gmail").await);
    send(&house, "", &event).await;
    house.service().await.delete_due().await.unwrap();
    assert_eq!(house.nango_connections().await, [held]);
    let now = ada.connection(&text(&gmail, "id")).await;
    assert_eq!(now["status"], "connected");
}
