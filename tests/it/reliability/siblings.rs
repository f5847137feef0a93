//! The connections that are refreshed to distinguish a revoked grant from a provider's outage belong to different users.

use chrono::TimeDelta;
use reqwest::Method;
use serde_json::{Value, json};

use super::{check, text};
use crate::test_app::{TestApp, User};

/// Connects an instance of Gmail.
async fn connected(app: &TestApp, user: &User<'_>, instance: &str) -> Value {
    let path = format!("/gmail/connect?instance_id={instance}");
    let (_, started) = user.call(Method::POST, &path, None).await;
    app.popup(text(&started, "oauth_url")).await;
    user.wait_until(text(&started, "connection_id"), "connected")
        .await
}

/// Revokes a connection's grant at the provider.
async fn revoke(app: &TestApp, connection: &Value) {
    let revoked = json!({ "connection_id": connection["nango_connection_id"] });
    app.control("revoke", Method::POST, revoked).await;
}

/// Returns the result of a check after an older user has connected, then one user three times, and these three
/// connections and the last one were revoked.
async fn health_after_revocations(app: &TestApp, revoking: &User<'_>, checked: &User<'_>) -> Value {
    app.faults(json!({ "consent": "allow", "drop_webhooks": true }))
        .await;
    let bob = app.user("bob").await;
    connected(app, &bob, "").await;
    let mut revoked = Vec::new();
    for instance in ["a", "b", "c"] {
        revoked.push(connected(app, revoking, instance).await);
    }
    let last = connected(app, checked, "last").await;
    app.advance(TimeDelta::minutes(2));
    for connection in revoked.iter().chain([&last]) {
        revoke(app, connection).await;
    }
    check(checked, text(&last, "id")).await["health"].clone()
}

#[tokio::test]
async fn revocations_of_one_user_are_no_outage_for_others() {
    let app = TestApp::new().await;
    let (mallory, ada) = (app.user("mallory").await, app.user("ada").await);
    let health = health_after_revocations(&app, &mallory, &ada).await;
    assert_eq!(health, "refused");
}

#[tokio::test]
async fn own_revoked_connections_are_no_outage() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let health = health_after_revocations(&app, &ada, &ada).await;
    assert_eq!(health, "refused");
}

#[tokio::test]
async fn refusals_of_three_users_are_an_outage() {
    let app = TestApp::new().await;
    app.faults(json!({ "consent": "allow", "drop_webhooks": true }))
        .await;
    let mut all = Vec::new();
    for name in ["ada", "bob", "cy", "dan"] {
        let user = app.user(name).await;
        let connection = connected(&app, &user, "").await;
        all.push((user, connection));
    }
    app.advance(TimeDelta::minutes(2));
    for (_, connection) in &all {
        revoke(&app, connection).await;
    }
    let (dan, last) = &all[3];
    assert_eq!(
        check(dan, text(last, "id")).await["health"],
        "provider_outage"
    );
}
