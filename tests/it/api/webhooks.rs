//! Nango's webhooks and their verification.

mod calls;

use aws_lc_rs::{digest, hmac};
use insta::assert_snapshot;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{TestResponse, events, text};
use crate::eventually::eventually_value;
use crate::test_app::TestApp;

/// Returns Nango's webhook body of a success.
pub(super) fn success(nango_id: &str, integration: &str, tags: &Value) -> Value {
    json!({
        "from": "nango", "type": "auth", "operation": "creation", "success": true, "environment": "dev",
        "authMode": "OAUTH2", "connectionId": nango_id, "providerConfigKey": integration,
        "provider": integration, "tags": tags,
    })
}

/// Returns Nango's webhook body of a failure, which names no existing user or connection.
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

/// Creates an unsigned webhook to the address of the environment or of an attempt.
fn post(app: &TestApp, attempt: &str, body: &str) -> RequestBuilder {
    let mut url = format!("{}/api/v1/webhooks/nango", app.url);
    if !attempt.is_empty() {
        url = format!("{url}/{attempt}");
    }
    let request = app
        .client
        .post(url)
        .header("content-type", "application/json");
    request.body(body.to_owned())
}

/// Sends a webhook with a valid signature.
pub(super) async fn send(app: &TestApp, attempt: &str, body: &Value) -> TestResponse {
    let body = body.to_string();
    let request =
        post(app, attempt, &body).header("x-nango-hmac-sha256", signature(&app.signing_key, &body));
    TestResponse::to(request).await
}

/// Returns Nango's tags of a connection for a webhook.
async fn tags(app: &TestApp, nango_id: &str, key: &str) -> Value {
    let path = format!("/connections/{nango_id}?provider_config_key={key}");
    app.nango(Method::GET, &path).await.1["tags"].clone()
}

#[tokio::test]
async fn webhook_with_invalid_signature_is_rejected() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "allow", "drop_webhooks": true }))
        .await;
    let started = ada.connect("gmail").await;
    let (id, attempt) = (
        text(&started, "connection_id"),
        text(&started, "attempt_id"),
    );
    let body = denial("gmail").to_string();
    let good = signature(&app.signing_key, &body);
    let deprecated = digest::digest(
        &digest::SHA256,
        format!("{}{body}", app.signing_key).as_bytes(),
    );
    let forged = [
        post(&app, &attempt, &body),
        post(&app, &attempt, &body).header("x-nango-signature", hex::encode(deprecated)),
        post(&app, &attempt, &body).header("x-nango-hmac-sha256", hex::encode(deprecated)),
        post(&app, &attempt, &body)
            .header("x-nango-hmac-sha256", signature(&app.secret_key, &body)),
        post(&app, &attempt, &body).header("x-nango-hmac-sha256", ""),
        post(&app, &attempt, &body).header("x-nango-hmac-sha256", "not hexadecimal"),
        post(&app, &attempt, &body).header("x-nango-hmac-sha256", &good[..62]),
        post(&app, &attempt, &format!("{body} ")).header("x-nango-hmac-sha256", &good),
        post(&app, "", &body.replace("false", "true")).header("x-nango-hmac-sha256", &good),
    ];
    for request in forged {
        let answer = TestResponse::to(request).await;
        answer.is_problem(401, "invalid_signature");
    }
    assert_snapshot!(TestResponse::to(post(&app, &attempt, &body)).await, @r#"
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
    assert_eq!(events(&app, &id).await, ["attempt_started"]);
    // The same body with its signature is accepted.
    let taken = send(&app, &attempt, &serde_json::from_str(&body).unwrap()).await;
    assert_eq!(taken.status, 204);
    assert_eq!(
        ada.connection(&id).await["status_reason"],
        "authorization_denied"
    );
}

#[tokio::test]
async fn duplicate_success_webhook_writes_one_event() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "allow", "duplicate_webhooks": true }))
        .await;
    let started = ada.connect("gmail").await;
    let (id, attempt) = (
        text(&started, "connection_id"),
        text(&started, "attempt_id"),
    );
    app.popup(&text(&started, "oauth_url")).await;
    let connected = ada.wait_until(&id, "connected").await;
    let nango_id = text(&connected, "nango_connection_id");
    let event = success(&nango_id, "gmail", &tags(&app, &nango_id, "gmail").await);
    for path in [attempt.as_str(), "", attempt.as_str()] {
        assert_eq!(send(&app, path, &event).await.status, 204);
    }
    // A failure after the success is ignored as stale.
    assert_eq!(send(&app, &attempt, &denial("gmail")).await.status, 204);
    assert_eq!(ada.connection(&id).await, connected);
    assert_eq!(events(&app, &id).await, ["attempt_started", "connected"]);
}

#[tokio::test]
async fn duplicate_failure_webhook_counts_once() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let started = ada.connect("gmail").await;
    let (id, attempt) = (
        text(&started, "connection_id"),
        text(&started, "attempt_id"),
    );
    for _ in 0..2 {
        assert_eq!(send(&app, &attempt, &denial("gmail")).await.status, 204);
    }
    assert_snapshot!(ada.send_get(&format!("/connections/{id}")).await, @r#"
    200 OK
    {
      "account": null,
      "account_unknown_reason": null,
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
      "id": "[id]",
      "instance_id": "",
      "label": null,
      "last_checked_at": null,
      "last_error": "Access was not granted: The user denied the request",
      "last_synced_at": null,
      "missing_scopes": null,
      "nango_connection_id": null,
      "pending_account": null,
      "same_account_as": [],
      "scopes": null,
      "status": "error",
      "status_reason": "authorization_denied",
      "updated_at": "2027-01-15T08:00:00Z",
      "user_id": "ada",
      "version": 2
    }
    "#);
    assert_eq!(
        events(&app, &id).await,
        ["attempt_started", "attempt_failed"]
    );
}

#[tokio::test]
async fn unconfirmed_webhook_is_ignored() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let started = ada.connect("gmail").await;
    let (id, attempt) = (
        text(&started, "connection_id"),
        text(&started, "attempt_id"),
    );
    let tags =
        json!({ "end_user_id": "ada", "patchbay_connection": id, "patchbay_attempt": attempt });
    let invented = success(&Uuid::new_v4().to_string(), "gmail", &tags);
    assert_eq!(send(&app, &attempt, &invented).await.status, 204);
    assert_eq!(send(&app, "", &invented).await.status, 204);
    assert_eq!(ada.connection(&id).await["status"], "pending");
}

#[tokio::test]
async fn webhook_cannot_assign_grant_to_another_user() {
    let app = TestApp::new().await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    let granted = ada.connected("gmail").await;
    let nango_id = text(&granted, "nango_connection_id");
    let started = bob.connect("gmail").await;
    let (id, attempt) = (
        text(&started, "connection_id"),
        text(&started, "attempt_id"),
    );
    let bobs =
        json!({ "end_user_id": "bob", "patchbay_connection": id, "patchbay_attempt": attempt });
    let adas = tags(&app, &nango_id, "gmail").await;
    for (path, tags) in [
        (attempt.as_str(), &bobs),
        ("", &bobs),
        (attempt.as_str(), &adas),
    ] {
        let event = success(&nango_id, "gmail", tags);
        assert_eq!(send(&app, path, &event).await.status, 204);
    }
    assert_eq!(bob.connection(&id).await["status"], "pending");
    assert_eq!(ada.connection(&text(&granted, "id")).await, granted);

    // Nango's connection has tags of both users, and is rejected, too.
    let mixed = json!({ "tags": { "end_user_id": "ada", "patchbay_connection": id, "patchbay_attempt": attempt } });
    let url = format!(
        "http://{}/connections/{nango_id}?provider_config_key=gmail",
        app.sandbox.address()
    );
    let patched = app
        .client
        .patch(url)
        .bearer_auth(&app.secret_key)
        .json(&mixed);
    assert_eq!(TestResponse::to(patched).await.status, 200);
    assert_eq!(
        send(&app, &attempt, &success(&nango_id, "gmail", &bobs))
            .await
            .status,
        204
    );
    assert_eq!(bob.connection(&id).await["status"], "pending");
}

#[tokio::test]
async fn irrelevant_webhooks_are_accepted_and_ignored() {
    let app = TestApp::new().await;
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
            assert_eq!(send(&app, path, &body).await.status, 204, "{body}");
        }
    }
    for body in [json!({}), json!({ "type": "auth" }), json!([1])] {
        send(&app, "", &body)
            .await
            .is_problem(400, "invalid_request");
    }
    send(&app, "not-a-uuid", &json!({ "type": "sync" }))
        .await
        .is_problem(400, "invalid_request");
}

#[tokio::test]
async fn webhook_returns_503_when_nango_cannot_confirm() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "allow", "drop_webhooks": true }))
        .await;
    let started = ada.connect("gmail").await;
    let (id, attempt) = (
        text(&started, "connection_id"),
        text(&started, "attempt_id"),
    );
    app.popup(&text(&started, "oauth_url")).await;
    let nango_id = app.nango_connections().await.remove(0);
    let event = success(&nango_id, "gmail", &tags(&app, &nango_id, "gmail").await);
    for (faults, status, code) in [
        (json!({ "status": 500 }), 503, "nango_unavailable"),
        (json!({ "status": 401 }), 502, "nango_misconfigured"),
        (json!({ "html": true }), 502, "nango_error"),
        (json!({ "hang_up": true }), 503, "nango_unavailable"),
    ] {
        app.faults(faults).await;
        for event in [&event, &denial("gmail")] {
            let answer = send(&app, &attempt, event).await;
            answer.is_problem(status, code);
        }
    }
    assert_eq!(events(&app, &id).await, ["attempt_started"]);
    app.faults(json!({})).await;
    assert_eq!(send(&app, &attempt, &event).await.status, 204);
    assert_eq!(ada.connection(&id).await["status"], "connected");
}

#[tokio::test]
async fn denial_in_another_form_is_still_a_denial() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    for error in [
        json!({ "type": "invalid_callback" }),
        json!({ "type": null, "description": null }),
        json!({ "type": "unknown", "description": { "code": 1 } }),
        json!("it broke"),
        json!(null),
    ] {
        let started = ada.connect("gmail").await;
        let (id, attempt) = (
            text(&started, "connection_id"),
            text(&started, "attempt_id"),
        );
        let mut event = denial("gmail");
        event["error"] = error;
        event["tags"] = json!(null);
        assert_eq!(send(&app, &attempt, &event).await.status, 204, "{event}");
        let failed = ada.connection(&id).await;
        assert_eq!(
            (&failed["status"], &failed["attempt"]["outcome"]),
            (&json!("error"), &json!("failed")),
            "{event}"
        );
    }
}

#[tokio::test]
async fn environment_webhook_url_is_supported() {
    // A Nango that rejects the session's own address notifies the environment's.
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "allow", "refuse_webhook_url_override": true }))
        .await;
    let started = ada.connect("gmail").await;
    app.popup(&text(&started, "oauth_url")).await;
    ada.wait_until(&text(&started, "connection_id"), "connected")
        .await;
    let address = format!("{}/api/v1/webhooks/nango", app.url);
    let sent = async || app.control("webhooks", Method::GET, json!(null)).await;
    // A poll may have found the connection before the webhook was answered.
    let sent = eventually_value(sent, |sent| sent[0]["attempts"][0]["status"] == 204).await;
    assert_eq!(sent[0]["url"], address);
}

/// The state after a restore, or after an attempt's history was pruned.
#[tokio::test]
async fn grant_of_unknown_attempt_keeps_connection_in_use() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let gmail = ada.connected("gmail").await;
    let stored = text(&gmail, "nango_connection_id");
    sqlx::query("delete from connect_attempt")
        .execute(&mut app.sql().await)
        .await
        .unwrap();
    let event = success(&stored, "gmail", &tags(&app, &stored, "gmail").await);
    send(&app, "", &event).await;
    app.service().await.deletions.delete_due().await.unwrap();
    assert_eq!(app.nango_connections().await, [stored]);
    let now = ada.connection(&text(&gmail, "id")).await;
    assert_eq!(now["status"], "connected");
}
