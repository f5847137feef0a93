//! Expiry, rejection, import and deletion of credentials.

use chrono::TimeDelta;
use reqwest::Method;
use serde_json::{Value, json};

use super::user_with_email;
use crate::nango_contract::scenario::Scenario;

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
async fn refresh_failures_match_recordings() {
    let mut scenario = Scenario::new(REFRESH).await;
    let body = user_with_email("user-300", "user-300@example.com");
    scenario
        .connect("github", "296a2cae-42a2-4983-9dbb-23096284a8ed", body)
        .await;
    scenario.next_hook().await;
    scenario.faults(json!({ "refuse_refresh": true })).await;
    scenario.replay("connection-get-refresh-failed").await;
    scenario.replay_hook("webhook-auth-refresh-failed").await;
    scenario.replay("connection-get-refresh-failed-again").await;
    scenario.next_hook().await;
    scenario
        .replay("connections-list-after-refresh-failed")
        .await;
    scenario.advance(TimeDelta::seconds(29));
    scenario.replay("connection-get-after-refresh-failed").await;
    scenario.faults(json!({})).await;
    scenario.replay("connection-get-refresh-recovered").await;
    scenario.faults(json!({ "refuse_refresh": true })).await;
    scenario
        .replay("connection-get-refresh-failed-provider-500")
        .await;
    scenario
        .replay_hook("webhook-auth-refresh-failed-provider-500")
        .await;
    scenario.faults(json!({})).await;
    let id = scenario
        .substitutions
        .apply("296a2cae-42a2-4983-9dbb-23096284a8ed");
    let path = format!("/connections/{id}?provider_config_key=github&force_refresh=true");
    scenario.call(Method::GET, &path, None).await;
    scenario.advance(TimeDelta::seconds(31));
    scenario
        .replay("connection-get-after-refresh-cooldown")
        .await;

    let body = user_with_email("user-301", "user-301@example.com");
    let id = scenario
        .connect("github", "b1a688a7-2226-4786-8a59-fe0c30e232db", body)
        .await;
    let named = json!({ "connection_id": id });
    scenario.advance(TimeDelta::minutes(45));
    scenario.replay("connection-get-auto-refresh").await;
    scenario
        .call(Method::POST, "/sandbox/expire", Some(named.clone()))
        .await;
    scenario.faults(json!({ "refuse_refresh": true })).await;
    scenario
        .replay("connection-get-expired-refresh-failed")
        .await;
    scenario
        .call(Method::POST, "/sandbox/exhaust", Some(named))
        .await;
    scenario.replay("connection-get-refresh-exhausted").await;
    scenario.faults(json!({})).await;
    scenario
        .replay("connection-get-refresh-exhausted-forced")
        .await;
    scenario.finish();
}

pub(super) const NO_REFRESH: &[&str] = &[
    "connection-get-no-refresh-token",
    "connection-get-force-refresh-no-refresh-token",
];

#[tokio::test]
async fn missing_refresh_token_matches_recordings() {
    let mut scenario = Scenario::new(NO_REFRESH).await;
    scenario
        .faults(json!({ "consent": "allow", "no_refresh_token": true }))
        .await;
    let body = user_with_email("user-302", "user-302@example.com");
    let token = scenario.session(body).await;
    let query = scenario.authorize(&token, "github").await;
    assert_eq!(scenario.callback(&query).await.status(), 200);
    scenario
        .learn_newest("3716ecde-0312-4c92-8962-062a0ff8e983")
        .await;
    scenario.replay_all(NO_REFRESH).await;
    scenario.finish();
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
async fn imports_and_deletions_match_recordings() {
    let mut scenario = Scenario::without_integrations(IMPORTS, |config| {
        config.integrations = Scenario::other_integrations();
    })
    .await;
    scenario.create_integration("gmail", "Gmail").await;
    scenario.create_integration("github", "GitHub").await;
    for key in ["airtable-pat", "customer-io"] {
        let body = json!({ "unique_key": key, "provider": key });
        scenario
            .call(Method::POST, "/integrations", Some(body))
            .await;
    }
    scenario.replay("connection-import").await;
    scenario.replay_hook("webhook-auth-import").await;
    scenario.replay("connection-import-again").await;
    scenario.replay_hook("webhook-auth-import-again").await;
    scenario.replay_all(&IMPORTS[4..8]).await;
    let before = scenario.call(Method::GET, "/sandbox/webhooks", None).await;
    scenario.replay("connection-delete").await;
    let after = scenario.call(Method::GET, "/sandbox/webhooks", None).await;
    let silence = scenario.open("webhook-after-delete");
    assert_eq!(silence["webhooks"].as_array().unwrap().len(), 0);
    let count = |list: &Value| list.as_array().unwrap().len();
    assert_eq!(count(&before), count(&after), "a deletion sends no webhook");
    scenario.replay_all(&IMPORTS[10..]).await;
    scenario.finish();
}
