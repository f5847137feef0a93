//! Expiry of unfinished attempts.

use chrono::TimeDelta;
use serde_json::json;

use super::{events, text};
use crate::eventually::eventually_value;
use crate::test_app::TestApp;

#[tokio::test]
async fn unfinished_attempt_expires() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let connections = app.service().await;
    let started = ada.connect("gmail").await;
    let id = text(&started, "connection_id");
    assert_eq!(started["expires_at"], "2027-01-15T08:30:00Z");
    app.advance(TimeDelta::minutes(29));
    connections.expiry.run().await.unwrap();
    assert_eq!(ada.connection(&id).await["status"], "pending");
    app.advance(TimeDelta::minutes(1));
    connections.expiry.run().await.unwrap();
    let row = ada.wait_until(&id, "error").await;
    assert_eq!(
        (&row["status"], &row["status_reason"]),
        (&json!("error"), &json!("attempt_expired"))
    );
    assert_eq!(
        row["last_error"],
        "The authorization was not finished in time"
    );
    assert_eq!(row["attempt"]["outcome"], "expired");
    assert_eq!(row["attempt"]["error_code"], "attempt_expired");
    // Repeated and concurrent calls change nothing more.
    connections.expiry.run().await.unwrap();
    assert_eq!(
        events(&app, &id).await,
        ["attempt_started", "attempt_failed"]
    );
    let again = ada.connected("gmail").await;
    assert_eq!(
        (&again["id"], &again["error_count"]),
        (&json!(id), &json!(0))
    );
}

#[tokio::test]
async fn expiry_poll_finds_grant_without_webhook() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let connections = app.service().await;
    app.faults(json!({ "consent": "allow", "drop_webhooks": true }))
        .await;
    let started = ada.connect("gmail").await;
    let id = text(&started, "connection_id");
    app.popup(&text(&started, "oauth_url")).await;
    app.advance(TimeDelta::minutes(31));
    connections.expiry.run().await.unwrap();
    // Poll the database: a request to the service would make it query Nango. The running replica may process
    // the expiry instead.
    let kinds = eventually_value(async || events(&app, &id).await, |kinds| kinds.len() > 1).await;
    assert_eq!(kinds, ["attempt_started", "connected"]);
}

#[tokio::test]
async fn attempt_does_not_expire_while_nango_is_unavailable() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let connections = app.service().await;
    app.faults(json!({ "consent": "allow", "drop_webhooks": true }))
        .await;
    let started = ada.connect("gmail").await;
    let id = text(&started, "connection_id");
    app.popup(&text(&started, "oauth_url")).await;
    app.faults(json!({ "status": 500 })).await;
    app.advance(TimeDelta::minutes(31));
    connections.expiry.run().await.unwrap();
    assert_eq!(events(&app, &id).await, ["attempt_started"]);
    app.faults(json!({})).await;
    // The result of the last poll is cached for a second.
    let expire = async || {
        connections.expiry.run().await.unwrap();
        events(&app, &id).await
    };
    let kinds = eventually_value(expire, |kinds| kinds.len() > 1).await;
    assert_eq!(kinds, ["attempt_started", "connected"]);
}
