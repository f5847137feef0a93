//! Webhooks that are lost, duplicated, late, out of order, or forged.

use std::time::Duration;

use chrono::TimeDelta;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    assert_status, deliver, deliveries, describe_status, event_kinds, nango_refreshes, popup,
    read_column, reconnect, refused_until_dead, revoked, send, text, wait_until_settled,
};
use crate::eventually::eventually;
use crate::test_app::{self, TestApp, User};

/// Waits for an attempt like a tab. Returns the time between the grant and the end of the wait.
async fn wait_for(app: &TestApp, user: &User<'_>, started: &Value) -> Duration {
    let path = format!("/connections/{}?wait=25", text(started, "connection_id"));
    let waiting = async {
        let waited = user.get(&path).await;
        assert_eq!(waited["status"], "connected");
        assert_eq!(waited["attempt"]["outcome"], "succeeded");
        Instant::now()
    };
    let granting = async {
        popup(app, started).await;
        Instant::now()
    };
    let (reported, granted) = tokio::join!(waiting, granting);
    reported.saturating_duration_since(granted)
}

#[tokio::test]
async fn connect_webhook_lost() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let faults = json!({ "consent": "allow", "drop_webhooks": true });
    app.faults(faults).await;
    let started = ada.connect("gmail").await;
    let delay = wait_for(&app, &ada, &started).await;
    assert!(delay < test_app::PROMPT_TIMEOUT, "{delay:?}");
    assert_eq!(
        event_kinds(&ada, text(&started, "connection_id")).await,
        "attempt_started connected"
    );
    wait_until_settled(&app).await;
}

#[tokio::test]
async fn reconnect_webhook_lost() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let before = ada.connected("gmail").await;
    let id = text(&before, "id");
    let faults = json!({ "consent": "allow", "drop_webhooks": true });
    app.faults(faults).await;
    let started = reconnect(&ada, id).await;
    let delay = wait_for(&app, &ada, &started).await;
    assert!(delay < test_app::PROMPT_TIMEOUT, "{delay:?}");
    let after = ada.connection(id).await;
    assert_eq!(after["nango_connection_id"], before["nango_connection_id"]);
    assert_eq!(
        event_kinds(&ada, id).await,
        "attempt_started connected attempt_started reauthorized"
    );
    wait_until_settled(&app).await;
}

#[tokio::test]
async fn refresh_webhook_lost() {
    let app = TestApp::new().await;
    let (ada, id) = revoked(&app).await;
    app.faults(json!({ "drop_webhooks": true })).await;
    let status = nango_refreshes(&app, &ada, &id).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(describe_status(&ada, &id).await, "connected - succeeded");
    assert_eq!(app.sweep().await.checked, 1);
    assert_eq!(describe_status(&ada, &id).await, "connected - succeeded");
    refused_until_dead(&app).await;
    assert_eq!(
        describe_status(&ada, &id).await,
        "error needs_reauthorization succeeded"
    );
    wait_until_settled(&app).await;
}

#[tokio::test]
async fn disconnect_webhook_lost() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let faults = json!({ "consent": "allow", "drop_webhooks": true });
    app.faults(faults).await;
    let started = ada.connect("gmail").await;
    popup(&app, &started).await;
    assert_eq!(app.nango_connections().await.len(), 1);
    let (_, ended) = ada.disconnect("gmail", "").await;
    assert_eq!(ended["upstream_deleted"], true, "{ended}");
    assert_eq!(app.nango_connections().await.len(), 0);
    let id = text(&started, "connection_id");
    assert_eq!(
        describe_status(&ada, id).await,
        "disconnected user_disconnected superseded"
    );
    assert_eq!(event_kinds(&ada, id).await, "attempt_started disconnected");
    wait_until_settled(&app).await;
}

#[tokio::test]
async fn connect_webhook_twice() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let faults = json!({ "consent": "allow", "duplicate_webhooks": true });
    app.faults(faults).await;
    let started = ada.connect("gmail").await;
    popup(&app, &started).await;
    assert_eq!(assert_status(&app).await, [204, 204]);
    assert_eq!(read_column(&app, "status").await, "connected");
    assert_eq!(
        event_kinds(&ada, text(&started, "connection_id")).await,
        "attempt_started connected"
    );
    wait_until_settled(&app).await;
}

#[tokio::test]
async fn reconnect_webhook_twice() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let before = ada.connected("gmail").await;
    let faults = json!({ "consent": "allow", "duplicate_webhooks": true });
    app.faults(faults).await;
    let started = reconnect(&ada, text(&before, "id")).await;
    popup(&app, &started).await;
    assert_eq!(assert_status(&app).await, [204, 204, 204]);
    assert_eq!(
        event_kinds(&ada, text(&before, "id")).await,
        "attempt_started connected attempt_started reauthorized"
    );
    wait_until_settled(&app).await;
}

#[tokio::test]
async fn refresh_webhook_twice() {
    let app = TestApp::new().await;
    let (ada, id) = revoked(&app).await;
    app.faults(json!({ "duplicate_webhooks": true })).await;
    nango_refreshes(&app, &ada, &id).await;
    eventually(async || ada.connection(&id).await["failing_since"].is_string()).await;
    assert_status(&app).await;
    refused_until_dead(&app).await;
    let dead = ada.connection(&id).await;
    assert_eq!(dead["status_reason"], "needs_reauthorization");
    assert_eq!(
        event_kinds(&ada, &id).await,
        "attempt_started connected credentials_failing needs_reauthorization"
    );
    wait_until_settled(&app).await;
}

#[tokio::test]
async fn disconnect_webhook_twice() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    ada.disconnect("gmail", "").await;
    for delivery in deliveries(&app).await {
        deliver(&app, &delivery).await;
        deliver(&app, &delivery).await;
    }
    assert_eq!(
        event_kinds(&ada, text(&connected, "id")).await,
        "attempt_started connected disconnected"
    );
    assert_eq!(app.nango_connections().await.len(), 0);
    wait_until_settled(&app).await;
}

#[tokio::test]
async fn connect_webhook_late() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let started = ada.connect("gmail").await;
    for consent in ["deny", "allow"] {
        let faults = json!({ "consent": consent, "drop_webhooks": true });
        app.faults(faults).await;
        popup(&app, &started).await;
    }
    let reported = deliveries(&app).await;
    assert_eq!(reported[0]["body"]["success"], false);
    // The grant's webhook arrives before that of the earlier denial.
    deliver(&app, &reported[1]).await;
    deliver(&app, &reported[0]).await;
    let id = text(&started, "connection_id");
    assert_eq!(describe_status(&ada, id).await, "connected - succeeded");
    assert_eq!(event_kinds(&ada, id).await, "attempt_started connected");
    wait_until_settled(&app).await;
}

#[tokio::test]
async fn reconnect_webhook_late() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    let id = text(&connected, "id");
    for consent in ["deny", "allow"] {
        let faults = json!({ "consent": consent, "drop_webhooks": true });
        app.faults(faults).await;
        let started = reconnect(&ada, id).await;
        popup(&app, &started).await;
    }
    let reported = deliveries(&app).await;
    for late in [2, 1, 0] {
        deliver(&app, &reported[late]).await;
    }
    assert_eq!(describe_status(&ada, id).await, "connected - succeeded");
    assert_eq!(
        event_kinds(&ada, id).await,
        "attempt_started connected attempt_started attempt_started reauthorized"
    );
    wait_until_settled(&app).await;
}

#[tokio::test]
async fn refresh_webhook_late() {
    let app = TestApp::new().await;
    let (ada, id) = revoked(&app).await;
    let faults = json!({ "consent": "allow", "drop_webhooks": true });
    app.faults(faults).await;
    nango_refreshes(&app, &ada, &id).await;
    let late = deliveries(&app).await.pop().unwrap();
    assert_eq!(late["body"]["operation"], "refresh");
    app.faults(json!({ "consent": "allow" })).await;
    popup(&app, &reconnect(&ada, &id).await).await;
    answered_by_reconnect(&ada, &id).await;
    // The reported failure is repaired by now, which only Nango knows.
    app.advance(TimeDelta::minutes(2));
    deliver(&app, &late).await;
    assert_eq!(describe_status(&ada, &id).await, "connected - succeeded");
    assert_eq!(
        event_kinds(&ada, &id).await,
        "attempt_started connected attempt_started reauthorized"
    );
    wait_until_settled(&app).await;
}

/// Waits until the newest attempt has succeeded.
async fn answered_by_reconnect(user: &User<'_>, id: &str) {
    let path = format!("/connections/{id}?wait=25");
    assert_eq!(user.get(&path).await["attempt"]["outcome"], "succeeded");
}

#[tokio::test]
async fn disconnect_webhook_late() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let before = ada.connected("gmail").await;
    let id = text(&before, "id");
    let faults = json!({ "consent": "allow", "drop_webhooks": true });
    app.faults(faults.clone()).await;
    let started = reconnect(&ada, id).await;
    ada.disconnect("gmail", "").await;
    // The popup was still open, so Nango creates the deleted connection again.
    popup(&app, &started).await;
    assert_eq!(app.nango_connections().await.len(), 1);
    let late = deliveries(&app).await.pop().unwrap();
    deliver(&app, &late).await;
    assert_eq!(
        describe_status(&ada, id).await,
        "disconnected user_disconnected superseded"
    );
    eventually(async || app.nango_connections().await.is_empty()).await;
    assert_eq!(
        event_kinds(&ada, id).await,
        "attempt_started connected attempt_started disconnected"
    );
    wait_until_settled(&app).await;
}

/// Returns a webhook body about a creation or refresh of a connection, successful or not.
fn forge_webhook(operation: &str, success: bool, nango_id: &str) -> Value {
    json!({
        "type": "auth", "operation": operation, "success": success, "connectionId": nango_id,
        "providerConfigKey": "gmail", "provider": "google-mail", "authMode": "OAUTH2",
        "environment": "dev", "from": "nango", "tags": {},
        "error": { "type": "unknown", "description": "made up" },
    })
}

/// Sends a false webhook to an attempt's address. Returns the response's status.
async fn send_webhook(app: &TestApp, attempt: &str, lie: &Value, key: &str) -> StatusCode {
    let url = format!("{}/api/v1/webhooks/nango/{attempt}", app.url);
    send(&url, lie, key).await
}

#[tokio::test]
async fn connect_webhook_forged() {
    let app = TestApp::new().await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    let his = bob.connected("gmail").await;
    let started = ada.connect("gmail").await;
    let (id, attempt) = (
        text(&started, "connection_id"),
        text(&started, "attempt_id"),
    );
    let failed = forge_webhook("creation", false, &Uuid::new_v4().to_string());
    let status = send_webhook(&app, attempt, &failed, "not the key").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    // Even a sender with the key can only cause a query to Nango.
    for nango_id in [
        &Uuid::new_v4().to_string(),
        text(&his, "nango_connection_id"),
    ] {
        let made_up = forge_webhook("creation", true, nango_id);
        let status = send_webhook(&app, attempt, &made_up, &app.signing_key).await;
        assert_eq!(status, StatusCode::NO_CONTENT);
    }
    assert_eq!(
        describe_status(&ada, id).await,
        "pending awaiting_authorization -"
    );
    assert_eq!(event_kinds(&ada, id).await, "attempt_started");
    assert_eq!(
        describe_status(&bob, text(&his, "id")).await,
        "connected - succeeded"
    );
    wait_until_settled(&app).await;
}

#[tokio::test]
async fn reconnect_webhook_forged() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    let id = text(&connected, "id");
    let started = reconnect(&ada, id).await;
    let attempt = text(&started, "attempt_id");
    let nango_id = text(&connected, "nango_connection_id");
    let failed = forge_webhook("creation", false, nango_id);
    let status = send_webhook(&app, attempt, &failed, "not the key").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let granted = forge_webhook("override", true, nango_id);
    let status = send_webhook(&app, attempt, &granted, &app.signing_key).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    assert_eq!(describe_status(&ada, id).await, "connected - -");
    assert_eq!(
        event_kinds(&ada, id).await,
        "attempt_started connected attempt_started"
    );
    wait_until_settled(&app).await;
}

#[tokio::test]
async fn refresh_webhook_forged() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    let id = text(&connected, "id");
    app.advance(TimeDelta::minutes(2));
    let failed = forge_webhook("refresh", false, text(&connected, "nango_connection_id"));
    let attempt = text(&connected["attempt"], "id");
    let status = send_webhook(&app, attempt, &failed, "not the key").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let status = send_webhook(&app, attempt, &failed, &app.signing_key).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let after = ada.connection(id).await;
    assert_eq!(
        (&after["status"], &after["failing_since"]),
        (&json!("connected"), &json!(null))
    );
    assert_eq!(event_kinds(&ada, id).await, "attempt_started connected");
    wait_until_settled(&app).await;
}

#[tokio::test]
async fn disconnect_webhook_forged() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    ada.disconnect("gmail", "").await;
    let attempt = text(&connected["attempt"], "id");
    for operation in ["creation", "override", "refresh"] {
        let again = forge_webhook(operation, true, text(&connected, "nango_connection_id"));
        let status = send_webhook(&app, attempt, &again, &app.signing_key).await;
        assert_eq!(status, StatusCode::NO_CONTENT);
    }
    let id = text(&connected, "id");
    assert_eq!(
        describe_status(&ada, id).await,
        "disconnected user_disconnected succeeded"
    );
    assert_eq!(
        event_kinds(&ada, id).await,
        "attempt_started connected disconnected"
    );
    wait_until_settled(&app).await;
}
