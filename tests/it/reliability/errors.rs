//! A cause has the same code on every endpoint, and an error is reported only as long as it lasts.

use chrono::TimeDelta;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{check, text};
use crate::test_app::{TestApp, User};

const KEY: &str = "pbk_workflow_0123456789abcdef0123456789abcdef";

async fn app() -> TestApp {
    TestApp::with(&[("SERVICE_API_KEYS", &format!("workflow={KEY}"))]).await
}

/// Requests a connection's token as a workflow. Returns the status and JSON.
async fn token(app: &TestApp, user: &str, id: &str) -> (StatusCode, Value) {
    let url = format!("{}/api/v1/connectors/connections/{id}/token", app.url);
    let request = app.client.post(url).bearer_auth(KEY);
    let answer = request.header("patchbay-user", user).send().await.unwrap();
    (answer.status(), answer.json().await.unwrap())
}

/// Returns the status and code of each endpoint that needs Nango for a connection.
async fn answers(app: &TestApp, user: &User<'_>, id: &str) -> Vec<(u16, String)> {
    let post = async |path: String| user.call(Method::POST, &path, None).await;
    let all = [
        post("/gmail/connect?instance_id=another".to_owned()).await,
        post(format!("/connections/{id}/reconnect")).await,
        post(format!("/connections/{id}/check")).await,
        token(app, "ada", id).await,
    ];
    let code =
        |(status, body): &(StatusCode, Value)| (status.as_u16(), text(body, "code").to_owned());
    all.iter().map(code).collect()
}

async fn events(user: &User<'_>, id: &str) -> Vec<(String, Option<String>)> {
    let history = user.get(&format!("/connections/{id}/history")).await;
    let events = history["events"].as_array().unwrap().iter().rev();
    events
        .map(|event| {
            let detail = event["detail"].as_str().map(str::to_owned);
            (text(event, "kind").to_owned(), detail)
        })
        .collect()
}

#[tokio::test]
async fn one_trouble_of_nango_has_one_code_everywhere() {
    let app = app().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    for (faults, status, code) in [
        (json!({ "latency_ms": 10_000 }), 504, "nango_timeout"),
        (
            json!({ "status": 429, "html": true }),
            503,
            "nango_rate_limited",
        ),
        (json!({ "hang_up": true }), 503, "nango_unavailable"),
        (json!({ "status": 401 }), 502, "nango_misconfigured"),
        (json!({ "html": true }), 502, "nango_error"),
    ] {
        app.faults(faults).await;
        let answers = answers(&app, &ada, text(&connected, "id")).await;
        assert_eq!(answers, vec![(status, code.to_owned()); 4]);
    }
}

#[tokio::test]
async fn deleted_integration_has_one_code_everywhere() {
    let app = app().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    app.advance(TimeDelta::minutes(5));
    let deleted = app.nango(Method::DELETE, "/integrations/gmail").await;
    assert_eq!(deleted.0, StatusCode::OK);
    let expected = vec![(409, "connector_not_configured".to_owned()); 4];
    let id = text(&connected, "id");
    assert_eq!(answers(&app, &ada, id).await, expected);
    // Then the sweep finds that Nango has deleted the connection along with it.
    assert_eq!(app.sweep_until_missing().await, 1);
    assert_eq!(answers(&app, &ada, id).await, expected);
}

#[tokio::test]
async fn token_ends_an_outage_that_is_over() {
    let app = app().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    let id = text(&connected, "id");
    app.advance(TimeDelta::minutes(50));
    app.faults(json!({ "refuse_refresh": true })).await;
    assert!(check(&ada, id).await["failing_since"].is_string());
    assert_eq!(
        token(&app, "ada", id).await.1["code"],
        "provider_unavailable"
    );
    app.faults(json!({})).await;
    app.advance(TimeDelta::minutes(2));
    assert_eq!(token(&app, "ada", id).await.0, StatusCode::OK);
    let after = ada.connection(id).await;
    assert_eq!(
        (&after["failing_since"], &after["last_error"]),
        (&json!(null), &json!(null))
    );
    let last = events(&ada, id).await.pop().unwrap();
    assert_eq!(last, ("recovered".to_owned(), None));
}

#[tokio::test]
async fn event_carries_only_its_own_detail() {
    let app = app().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    let id = text(&connected, "id");
    app.advance(TimeDelta::minutes(2));
    app.faults(json!({ "refuse_refresh": true })).await;
    check(&ada, id).await;
    let path = format!("/connections/{id}");
    let label = json!({ "label": "mine" });
    ada.call(Method::PATCH, &path, Some(label)).await;
    app.faults(json!({ "refuse_refresh": true, "consent": "deny" }))
        .await;
    let reconnect = format!("/connections/{id}/reconnect");
    let (_, started) = ada.call(Method::POST, &reconnect, None).await;
    app.popup(text(&started, "oauth_url")).await;
    let after = ada.get(&format!("/connections/{id}?wait=25")).await;
    let outage = "The provider does not refresh the credentials at the moment";
    let denied = "Access was not granted: The user denied the request";
    let expected = [
        ("attempt_started", None),
        ("connected", None),
        ("credentials_failing", Some(outage)),
        ("updated", None),
        ("attempt_started", None),
        ("attempt_failed", Some(denied)),
    ];
    let expected = expected.map(|(kind, detail)| (kind.to_owned(), detail.map(str::to_owned)));
    assert_eq!(events(&ada, id).await, expected);
    // The connection keeps its own error, and so does the attempt.
    assert_eq!(after["last_error"], outage);
    assert_eq!(after["attempt"]["error_message"], denied);
}

#[tokio::test]
async fn denied_reconnect_leaves_no_error_on_a_working_connection() {
    let app = app().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    let id = text(&connected, "id");
    app.faults(json!({ "consent": "deny" })).await;
    let path = format!("/connections/{id}/reconnect");
    let (_, started) = ada.call(Method::POST, &path, None).await;
    app.popup(text(&started, "oauth_url")).await;
    let after = ada.get(&format!("/connections/{id}?wait=25")).await;
    assert_eq!(after["attempt"]["outcome"], "failed");
    assert_eq!(
        (
            &after["status"],
            &after["last_error"],
            &after["error_count"]
        ),
        (&json!("connected"), &json!(null), &json!(0))
    );
}

#[tokio::test]
async fn denied_reconnect_of_dead_credentials_still_needs_one() {
    let app = app().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    app.user("bob").await.connected("gmail").await;
    let id = text(&connected, "id");
    let revoked = json!({ "connection_id": connected["nango_connection_id"] });
    app.control("revoke", Method::POST, revoked).await;
    for _ in 0..3 {
        check(&ada, id).await;
        app.advance(TimeDelta::minutes(3));
    }
    app.faults(json!({ "consent": "deny" })).await;
    let path = format!("/connections/{id}/reconnect");
    let (_, started) = ada.call(Method::POST, &path, None).await;
    app.popup(text(&started, "oauth_url")).await;
    ada.get(&format!("/connections/{id}?wait=25")).await;
    let (status, refused) = token(&app, "ada", id).await;
    assert_eq!(
        (status, text(&refused, "code")),
        (StatusCode::CONFLICT, "needs_reauthorization")
    );
}

#[tokio::test]
async fn grant_that_cannot_be_stored_does_not_stop_others() {
    let app = TestApp::new().await;
    app.faults(json!({ "consent": "allow", "drop_webhooks": true }))
        .await;
    let (ada, bob, cy) = (
        app.user("ada").await,
        app.user("bob").await,
        app.user("cy").await,
    );
    let refused = ada.connect("gmail").await;
    app.popup(text(&refused, "oauth_url")).await;
    let nango_id = app.nango_connections().await.remove(0);
    let refuse = format!(
        "alter table user_connector_connection add constraint refused check (nango_connection_id <> '{nango_id}')"
    );
    sqlx::query(sqlx::AssertSqlSafe(refuse))
        .execute(&mut app.sql().await)
        .await
        .unwrap();
    let granted = bob.connect("gmail").await;
    app.popup(text(&granted, "oauth_url")).await;
    let abandoned = cy.connect("gmail").await;
    assert_eq!(app.sweep().await.found, 1);
    let status = async |user: &User<'_>, started: &Value| {
        user.connection(text(started, "connection_id")).await["status"].clone()
    };
    assert_eq!(status(&bob, &granted).await, "connected");
    app.advance(TimeDelta::minutes(31));
    assert_eq!(app.service().await.expiry.run().await.unwrap(), 1);
    assert_eq!(status(&cy, &abandoned).await, "error");
}
