//! Credentials that run out, are refused, imported and deleted.

use chrono::TimeDelta;
use reqwest::Method;
use serde_json::{Value, json};

use super::user_with_email;
use crate::contract::world::World;

pub(super) const REFRESH: &[&str] = &[
    "connection-get-refresh-failed",
    "webhook-auth-refresh-failed",
    "connection-get-refresh-failed-again",
    "connections-list-after-refresh-failed",
    "connection-get-after-refresh-failed",
    "connection-get-refresh-recovered",
    "connection-get-refresh-failed-provider-500",
    "webhook-auth-refresh-failed-provider-500",
    "connection-get-after-refresh-cooldown",
    "connection-get-auto-refresh",
    "connection-get-expired-refresh-failed",
    "connection-get-refresh-exhausted",
    "connection-get-refresh-exhausted-forced",
];

#[tokio::test]
async fn refreshing_fails_backs_off_and_recovers() {
    let mut world = World::new(REFRESH).await;
    let body = user_with_email("user-300", "user-300@example.com");
    world
        .connect("github", "296a2cae-42a2-4983-9dbb-23096284a8ed", body)
        .await;
    world.next_hook().await;
    world.faults(json!({ "refuse_refresh": true })).await;
    world.replay("connection-get-refresh-failed").await;
    world.replay_hook("webhook-auth-refresh-failed").await;
    world.replay("connection-get-refresh-failed-again").await;
    world.next_hook().await;
    world.replay("connections-list-after-refresh-failed").await;
    world.advance(TimeDelta::seconds(29));
    world.replay("connection-get-after-refresh-failed").await;
    world.faults(json!({})).await;
    world.replay("connection-get-refresh-recovered").await;
    world.faults(json!({ "refuse_refresh": true })).await;
    world
        .replay("connection-get-refresh-failed-provider-500")
        .await;
    world
        .replay_hook("webhook-auth-refresh-failed-provider-500")
        .await;
    world.faults(json!({})).await;
    let id = world
        .substitutions
        .apply("296a2cae-42a2-4983-9dbb-23096284a8ed");
    let path = format!("/connections/{id}?provider_config_key=github&force_refresh=true");
    world.call(Method::GET, &path, None).await;
    world.advance(TimeDelta::seconds(31));
    world.replay("connection-get-after-refresh-cooldown").await;

    let body = user_with_email("user-301", "user-301@example.com");
    let id = world
        .connect("github", "b1a688a7-2226-4786-8a59-fe0c30e232db", body)
        .await;
    let named = json!({ "connection_id": id });
    world.advance(TimeDelta::minutes(45));
    world.replay("connection-get-auto-refresh").await;
    world
        .call(Method::POST, "/sandbox/expire", Some(named.clone()))
        .await;
    world.faults(json!({ "refuse_refresh": true })).await;
    world.replay("connection-get-expired-refresh-failed").await;
    world
        .call(Method::POST, "/sandbox/exhaust", Some(named))
        .await;
    world.replay("connection-get-refresh-exhausted").await;
    world.faults(json!({})).await;
    world
        .replay("connection-get-refresh-exhausted-forced")
        .await;
    world.finish();
}

pub(super) const NO_REFRESH: &[&str] = &[
    "connection-get-no-refresh-token",
    "connection-get-force-refresh-no-refresh-token",
];

#[tokio::test]
async fn without_a_refresh_token_nothing_is_refreshed() {
    let mut world = World::new(NO_REFRESH).await;
    world
        .faults(json!({ "consent": "allow", "no_refresh_token": true }))
        .await;
    let body = user_with_email("user-302", "user-302@example.com");
    let token = world.session(body).await;
    let query = world.authorize(&token, "github").await;
    assert_eq!(world.callback(&query).await.status(), 200);
    world
        .learn_newest("3716ecde-0312-4c92-8962-062a0ff8e983")
        .await;
    world.replay_all(NO_REFRESH).await;
    world.finish();
}

pub(super) const IMPORTS: &[&str] = &[
    "connection-import",
    "webhook-auth-import",
    "connection-import-again",
    "webhook-auth-import-again",
    "connection-import-no-id",
    "connection-import-bad-credentials",
    "connection-import-test-failed",
    "connection-import-unknown-integration",
    "connection-delete",
    "webhook-after-delete",
    "connection-get-after-delete",
    "connection-delete-again",
    "connection-delete-404",
    "connection-delete-missing-provider-config-key",
    "connection-delete-unknown-integration",
    "connection-import-airtable-pat",
    "connection-get-airtable-pat",
    "connection-import-customer-io",
    "connection-get-customer-io",
];

#[tokio::test]
async fn credentials_are_imported_tested_and_deleted() {
    let mut world = World::bare(IMPORTS, |config| {
        config.integrations = World::other_integrations();
    })
    .await;
    world.create_integration("gmail", "Gmail").await;
    world.create_integration("github", "GitHub").await;
    for key in ["airtable-pat", "customer-io"] {
        let body = json!({ "unique_key": key, "provider": key });
        world.call(Method::POST, "/integrations", Some(body)).await;
    }
    world.replay("connection-import").await;
    world.replay_hook("webhook-auth-import").await;
    world.replay("connection-import-again").await;
    world.replay_hook("webhook-auth-import-again").await;
    world.replay_all(&IMPORTS[4..8]).await;
    let before = world.call(Method::GET, "/sandbox/webhooks", None).await;
    world.replay("connection-delete").await;
    let after = world.call(Method::GET, "/sandbox/webhooks", None).await;
    let silence = world.open("webhook-after-delete");
    assert_eq!(silence["webhooks"].as_array().unwrap().len(), 0);
    let count = |list: &Value| list.as_array().unwrap().len();
    assert_eq!(count(&before), count(&after), "a deletion sends no webhook");
    world.replay_all(&IMPORTS[10..]).await;
    world.finish();
}
