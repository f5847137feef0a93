//! Who may call, what is checked, and what exists.

use chrono::TimeDelta;
use reqwest::Method;
use serde_json::json;

use super::ada;
use crate::contract::world::World;

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
async fn keys_are_told_apart_as_nango_tells_them() {
    let mut world = World::new(KEYS).await;
    world
        .session_for(&["connections-list-with-session-token"], ada())
        .await;
    world.replay_all(KEYS).await;
    world.finish();
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
async fn sessions_are_checked_opened_read_and_ended() {
    let mut world = World::bare(SESSIONS, |config| {
        config.integrations = World::other_integrations();
    })
    .await;
    for (key, name) in [("github", "GitHub"), ("gmail", "Gmail")] {
        world.create_integration(key, name).await;
    }
    let dead = [
        "connect-session-delete",
        "integrations-list-with-session-token",
    ];
    world.session_for(&dead, ada()).await;
    world.session_for(&["connect-session-get"], ada()).await;
    world.replay_all(&SESSIONS[..27]).await;
    world
        .session_for(&["connect-session-get-expired"], ada())
        .await;
    world.advance(TimeDelta::minutes(30));
    world.replay_all(&SESSIONS[27..]).await;
    world.finish();
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
async fn integrations_are_made_listed_and_renamed() {
    let mut world = World::bare(INTEGRATIONS, |_| {}).await;
    world.replay("integration-create").await;
    for (key, name) in [("gmail", "Gmail"), ("slack", "Slack")] {
        world.create_integration(key, name).await;
    }
    world.replay_all(&INTEGRATIONS[1..12]).await;
    for key in ["openai", "twilio", "chargebee"] {
        let body = json!({ "unique_key": key, "provider": key });
        world.call(Method::POST, "/integrations", Some(body)).await;
    }
    world.replay_all(&INTEGRATIONS[12..]).await;
    world.finish();
}

pub(super) const REST: &[&str] = &[
    "health",
    "ready",
    "cors-preflight-connect-sessions",
    "unknown-route-post",
    "webhook-signing-key-rotate",
];

#[tokio::test]
async fn health_cors_and_unknown_routes() {
    let mut world = World::new(REST).await;
    world.replay_all(REST).await;
    world.finish();
}

pub(super) const RATE_LIMIT: &[&str] = &["rate-limit-429", "rate-limit-429-other-endpoint"];

#[tokio::test]
async fn the_minutes_budget_is_shared_and_comes_back() {
    let mut world = World::bare(RATE_LIMIT, |config| config.rate_limit = 1).await;
    world.call(Method::GET, "/connections", None).await;
    world.replay_all(RATE_LIMIT).await;
    world.advance(TimeDelta::minutes(1));
    world.call(Method::GET, "/connections", None).await;
    world.finish();
}
