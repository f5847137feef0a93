//! Webhooks of Nango from version 0.72 on: deletions, and refreshes that succeed again.

use chrono::TimeDelta;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{check, text};
use crate::eventually::eventually;
use crate::test_app::{TestApp, User};

/// Waits until every webhook was answered. Returns the last one's body.
async fn last_webhook(app: &TestApp) -> Value {
    let mut last = Value::Null;
    eventually(async || {
        let hooks = app.control("webhooks", Method::GET, Value::Null).await;
        last = hooks.as_array().unwrap().last().unwrap()["body"].clone();
        let mut hooks = hooks.as_array().unwrap().iter();
        hooks.all(|hook| hook["attempts"][0]["status"] == 204)
    })
    .await;
    last
}

async fn forced_refreshes(app: &TestApp) -> usize {
    let calls = app.control("requests", Method::GET, Value::Null).await;
    let calls = calls.as_array().unwrap().iter();
    let forced = calls.filter(|call| text(call, "query").contains("force_refresh=true"));
    forced.count()
}

async fn kinds(user: &User<'_>, id: &str) -> Vec<String> {
    let history = user.get(&format!("/connections/{id}/history")).await;
    let events = history["events"].as_array().unwrap().iter().rev();
    events.map(|event| text(event, "kind").to_owned()).collect()
}

/// Sends a signed webhook of this connection to the environment's address.
async fn send(app: &TestApp, operation: &str, nango_id: &str) {
    let body = json!({
        "type": "auth", "operation": operation, "success": true, "connectionId": nango_id,
        "providerConfigKey": "gmail", "provider": "google-mail", "authMode": "OAUTH2",
        "environment": "dev", "from": "nango", "tags": {},
    });
    let body = body.to_string();
    let key = app.signing_key.as_bytes();
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, key);
    let signature = hex::encode(aws_lc_rs::hmac::sign(&key, body.as_bytes()));
    let request = app
        .client
        .post(format!("{}/api/v1/webhooks/nango", app.url))
        .header("content-type", "application/json")
        .header("x-nango-hmac-sha256", signature)
        .body(body);
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn deletion_webhook_marks_the_connection_missing() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    let id = text(&connected, "id");
    app.faults(json!({ "deletion_webhooks": true })).await;
    let nango_id = text(&connected, "nango_connection_id");
    let path = format!("/connections/{nango_id}?provider_config_key=gmail");
    app.nango(Method::DELETE, &path).await;
    let missing = ada.wait_until(id, "error").await;
    assert_eq!(missing["status_reason"], "missing_upstream");
    assert_eq!(last_webhook(&app).await["operation"], "deletion");
    assert_eq!(
        kinds(&ada, id).await,
        ["attempt_started", "connected", "missing_upstream"]
    );
}

#[tokio::test]
async fn deletion_webhook_changes_nothing_nango_does_not_confirm() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    send(&app, "deletion", text(&connected, "nango_connection_id")).await;
    send(&app, "deletion", "an id of nobody's").await;
    let id = text(&connected, "id");
    assert_eq!(ada.connection(id).await["status"], "connected");
    assert_eq!(kinds(&ada, id).await, ["attempt_started", "connected"]);
    // Nango is queried only for known connections.
    let calls = app.control("requests", Method::GET, Value::Null).await;
    let mut calls = calls.as_array().unwrap().iter();
    assert!(!calls.any(|call| text(call, "query").contains("nobody")));
}

#[tokio::test]
async fn deletion_webhook_of_a_disconnect_is_ignored() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    app.faults(json!({ "deletion_webhooks": true })).await;
    let (_, ended) = ada.disconnect("gmail", "").await;
    assert_eq!(ended["upstream_deleted"], true);
    assert_eq!(last_webhook(&app).await["operation"], "deletion");
    let id = text(&connected, "id");
    assert_eq!(
        kinds(&ada, id).await,
        ["attempt_started", "connected", "disconnected"]
    );
}

#[tokio::test]
async fn recovery_webhook_ends_an_outage_without_a_refresh() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    let (id, nango_id) = (
        text(&connected, "id"),
        text(&connected, "nango_connection_id"),
    );
    app.advance(TimeDelta::minutes(2));
    app.faults(json!({ "refuse_refresh": true })).await;
    let failing = check(&ada, id).await;
    assert!(failing["failing_since"].is_string(), "{failing}");
    app.advance(TimeDelta::minutes(5));
    app.faults(json!({ "recovery_webhooks": true })).await;
    let before = forced_refreshes(&app).await;
    // Nango refreshes by itself.
    let path = format!("/connections/{nango_id}?provider_config_key=gmail&force_refresh=true");
    assert_eq!(app.nango(Method::GET, &path).await.0, StatusCode::OK);
    eventually(async || ada.connection(id).await["failing_since"].is_null()).await;
    assert_eq!(last_webhook(&app).await["success"], true);
    assert_eq!(forced_refreshes(&app).await, before + 1);
    let recovered = ada.connection(id).await;
    assert_eq!(
        (&recovered["last_error"], &recovered["error_count"]),
        (&json!(null), &json!(0))
    );
    assert_eq!(
        kinds(&ada, id).await,
        [
            "attempt_started",
            "connected",
            "credentials_failing",
            "recovered"
        ]
    );
}

#[tokio::test]
async fn recovery_webhook_is_ignored_while_nango_reports_failure() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    let (id, nango_id) = (
        text(&connected, "id"),
        text(&connected, "nango_connection_id"),
    );
    app.advance(TimeDelta::minutes(2));
    app.faults(json!({ "refuse_refresh": true })).await;
    let failing = check(&ada, id).await;
    send(&app, "refresh", nango_id).await;
    app.advance(TimeDelta::seconds(31));
    send(&app, "refresh", nango_id).await;
    let after = ada.connection(id).await;
    assert_eq!(after["failing_since"], failing["failing_since"]);
}
