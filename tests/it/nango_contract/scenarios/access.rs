//! Authentication, validation, and missing resources.

use chrono::TimeDelta;
use reqwest::Method;
use serde_json::json;

use super::ada;
use crate::nango_contract::scenario::Scenario;

pub(super) const KEYS: &[&str] = &[
    "auth-no-scheme",
    "auth-basic-scheme",
    "auth-empty-bearer",
    "auth-lowercase-bearer",
    "connect-session-create-bad-key",
    "connect-session-create-malformed-key",
    "connect-session-create-no-auth",
    "connect-session-get-with-secret-key",
    "connection-get-no-auth",
    "connections-list-bad-key",
    "connections-list-no-auth",
    "connections-list-with-session-token",
];

#[tokio::test]
async fn authentication_errors_match_recordings() {
    let mut scenario = Scenario::new(KEYS).await;
    scenario
        .session_for(&["connections-list-with-session-token"], ada())
        .await;
    scenario.replay_all(KEYS).await;
    scenario.finish();
}

pub(super) const SESSIONS: &[&str] = &[
    "connect-session-create",
    "connect-session-create-api-key",
    "connect-session-create-docs-connect-override",
    "connect-session-create-empty-allowed",
    "connect-session-create-full",
    "connect-session-create-invalid-json",
    "connect-session-create-minimal",
    "connect-session-create-no-body",
    "connect-session-create-query-not-allowed",
    "connect-session-create-tags-and-end-user",
    "connect-session-create-tags-only",
    "connect-session-create-unknown-integration",
    "connect-session-create-unknown-integration-defaults",
    "connect-session-create-validation-error",
    "connect-session-create-validation-error-bad-email",
    "connect-session-create-validation-error-bad-integration-chars",
    "connect-session-create-validation-error-bad-tags",
    "connect-session-create-validation-error-empty-id",
    "connect-session-create-validation-error-extra-field",
    "connect-session-create-validation-error-multiple",
    "connect-session-create-validation-error-tags-too-long",
    "connect-session-create-validation-error-webhook-url",
    "connect-session-create-wrong-content-type",
    "connect-session-get",
    "integrations-list-with-session-token",
    "connect-session-delete",
    "connect-session-get-after-delete",
    "connect-session-get-expired",
    "oauth-connect-expired-token",
];

#[tokio::test]
async fn connect_sessions_match_recordings() {
    let mut scenario = Scenario::without_integrations(SESSIONS, |config| {
        config.integrations = Scenario::other_integrations();
    })
    .await;
    for (key, name) in [("github", "GitHub"), ("gmail", "Gmail")] {
        scenario.create_integration(key, name).await;
    }
    let dead = [
        "connect-session-delete",
        "integrations-list-with-session-token",
    ];
    scenario.session_for(&dead, ada()).await;
    scenario.session_for(&["connect-session-get"], ada()).await;
    scenario.replay_all(&SESSIONS[..27]).await;
    scenario
        .session_for(&["connect-session-get-expired"], ada())
        .await;
    scenario.advance(TimeDelta::minutes(30));
    scenario.replay_all(&SESSIONS[27..]).await;
    scenario.finish();
}

pub(super) const INTEGRATIONS: &[&str] = &[
    "integration-create",
    "integrations-list",
    "integration-get",
    "integration-get-credentials",
    "integration-get-include",
    "integration-get-404",
    "integration-create-duplicate",
    "integration-create-missing-credentials",
    "integration-create-scopes-with-spaces",
    "integration-create-unknown-provider",
    "integration-patch",
    "legacy-config-get",
    "integrations-list-mixed",
    "integration-create-airtable-pat",
    "integration-create-customer-io",
];

#[tokio::test]
async fn integrations_match_recordings() {
    let mut scenario = Scenario::without_integrations(INTEGRATIONS, |_| {}).await;
    scenario.replay("integration-create").await;
    for (key, name) in [("gmail", "Gmail"), ("slack", "Slack")] {
        scenario.create_integration(key, name).await;
    }
    scenario.replay_all(&INTEGRATIONS[1..12]).await;
    for key in ["openai", "twilio", "chargebee"] {
        let body = json!({ "unique_key": key, "provider": key });
        scenario
            .call(Method::POST, "/integrations", Some(body))
            .await;
    }
    scenario.replay_all(&INTEGRATIONS[12..]).await;
    scenario.finish();
}

pub(super) const REST: &[&str] = &[
    "health",
    "ready",
    "cors-preflight-connect-sessions",
    "unknown-route-post",
    "webhook-signing-key-rotate",
];

#[tokio::test]
async fn health_cors_and_unknown_routes_match_recordings() {
    let mut scenario = Scenario::new(REST).await;
    scenario.replay_all(REST).await;
    scenario.finish();
}

pub(super) const RATE_LIMIT: &[&str] = &["rate-limit-429", "rate-limit-429-other-endpoint"];

#[tokio::test]
async fn rate_limit_matches_recordings_and_resets() {
    let mut scenario =
        Scenario::without_integrations(RATE_LIMIT, |config| config.rate_limit = 1).await;
    scenario.call(Method::GET, "/connections", None).await;
    scenario.replay_all(RATE_LIMIT).await;
    scenario.advance(TimeDelta::minutes(1));
    scenario.call(Method::GET, "/connections", None).await;
    scenario.finish();
}
