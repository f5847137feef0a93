//! The scenarios, and which recordings each replays.

use chrono::TimeDelta;
use reqwest::Method;
use serde_json::{Value, json};

use super::world::{World, recording};

/// Every list of this file.
pub(super) const SCENARIOS: &[&[&str]] = &[
    KEYS,
    SESSIONS,
    INTEGRATIONS,
    OBSTACLES,
    FLOWS,
    MIDWAY,
    CALLBACK_URL,
    OVERRIDES,
    LISTS,
    ONE,
    CHANGES,
    RECONNECT,
    REFRESH,
    NO_REFRESH,
    IMPORTS,
    REST,
    RATE_LIMIT,
];

fn ada() -> Value {
    recording("connect-session-create")["request"]["body"].clone()
}

fn user(id: &str) -> Value {
    json!({ "end_user": { "id": id } })
}

fn user_with_email(id: &str, email: &str) -> Value {
    json!({ "end_user": { "id": id, "email": email } })
}

const KEYS: &[&str] = &[
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

const SESSIONS: &[&str] = &[
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

const INTEGRATIONS: &[&str] = &[
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

const OBSTACLES: &[&str] = &[
    "oauth-connect-bad-token-format",
    "oauth-connect-connection-id-forbidden",
    "oauth-connect-integration-not-allowed",
    "oauth-connect-no-token",
    "oauth-connect-public-key-deprecated",
    "oauth-connect-unknown-integration",
    "oauth-connect-unknown-token",
    "oauth-callback-garbage-state",
    "oauth-callback-no-state",
    "oauth-callback-unknown-state",
];

#[tokio::test]
async fn popups_that_cannot_go_on_say_why() {
    let mut world = World::new(OBSTACLES).await;
    world
        .session_for(&["oauth-connect-integration-not-allowed"], ada())
        .await;
    world.replay_all(OBSTACLES).await;
    world.finish();
}

const FLOWS: &[&str] = &[
    "oauth-flow-success",
    "webhook-auth-creation-success",
    "oauth-flow-denied",
    "webhook-auth-creation-denied",
    "oauth-flow-token-exchange-failed",
    "webhook-auth-creation-token-failed",
    "oauth-flow-no-cookie",
    "webhook-auth-creation-tags-only",
];

#[tokio::test]
async fn popups_end_in_a_page_and_a_webhook() {
    let mut world = World::new(FLOWS).await;
    world.faults(json!({ "consent": "allow" })).await;
    world.session_for(&["oauth-flow-success"], ada()).await;
    world.replay_flow("oauth-flow-success").await;
    world
        .learn_newest("03c2c808-f823-47ef-885e-95c8092ae626")
        .await;
    world.replay_hook("webhook-auth-creation-success").await;

    world.faults(json!({ "consent": "deny" })).await;
    world.session_for(&["oauth-flow-denied"], ada()).await;
    world.replay_flow("oauth-flow-denied").await;
    world.replay_hook("webhook-auth-creation-denied").await;

    world
        .faults(json!({ "consent": "allow", "refuse_code": true }))
        .await;
    world
        .session_for(&["oauth-flow-token-exchange-failed"], ada())
        .await;
    world.replay_flow("oauth-flow-token-exchange-failed").await;
    world
        .replay_hook("webhook-auth-creation-token-failed")
        .await;

    world.faults(json!({ "consent": "allow" })).await;
    let tags = recording("connect-session-create-tags-only")["request"]["body"].clone();
    let mut tags_only = tags;
    tags_only["tags"]["end_user_id"] = "user-203".into();
    world
        .session_for(&["oauth-flow-no-cookie"], tags_only)
        .await;
    world.replay_flow("oauth-flow-no-cookie").await;
    world
        .learn_newest("fd2f7b80-e775-46be-b6b3-25e8d243c300")
        .await;
    world.replay_hook("webhook-auth-creation-tags-only").await;
    world.finish();
}

const MIDWAY: &[&str] = &[
    "oauth-flow-denied-then-retry-same-token",
    "oauth-flow-session-token-reused",
    "connect-session-get-after-connection",
    "oauth-callback-replayed",
    "oauth-callback-session-deleted-midway",
    "oauth-callback-session-expired-midway",
];

#[tokio::test]
async fn a_session_may_be_used_again_and_may_end_midway() {
    let mut world = World::new(MIDWAY).await;
    let name = "oauth-flow-denied-then-retry-same-token";
    let exchanges = world.open(name)["exchanges"].clone();
    let token = world.session(ada()).await;
    for (exchange, consent) in [(0, "deny"), (1, "allow")] {
        world.faults(json!({ "consent": consent })).await;
        let query = world.authorize(&token, "github").await;
        world
            .replay_callback(name, &exchanges[exchange], &query)
            .await;
    }

    let name = "oauth-flow-session-token-reused";
    let exchanges = world.open(name)["exchanges"].clone();
    let mut bob = user_with_email("user-200", "bob@example.com");
    bob["allowed_integrations"] = json!(["github", "gmail"]);
    let token = world
        .session_for(&["connect-session-get-after-connection"], bob)
        .await;
    for (exchange, integration) in [(0, "github"), (1, "github"), (2, "gmail")] {
        let query = world.authorize(&token, integration).await;
        world
            .replay_callback(name, &exchanges[exchange], &query)
            .await;
    }
    let made = world
        .call(Method::GET, "/connections?endUserId=user-200", None)
        .await;
    assert_eq!(made["connections"].as_array().unwrap().len(), 3);
    world.replay("connect-session-get-after-connection").await;

    for name in [
        "replayed",
        "session-deleted-midway",
        "session-expired-midway",
    ] {
        let name = format!("oauth-callback-{name}");
        let token = world.session(ada()).await;
        world.advance(TimeDelta::minutes(29));
        let query = world.authorize(&token, "github").await;
        match name.as_str() {
            "oauth-callback-replayed" => assert_eq!(world.callback(&query).await.status(), 200),
            "oauth-callback-session-expired-midway" => world.advance(TimeDelta::minutes(2)),
            _ => {
                let url = format!("{}/connect/session", world.sandbox.url());
                let request = world.http.delete(url).bearer_auth(&token);
                assert_eq!(request.send().await.unwrap().status(), 204);
            }
        }
        let exchange = world.open(&name);
        world.replay_callback(&name, &exchange, &query).await;
    }
    world.finish();
}

const CALLBACK_URL: &[&str] = &["oauth-flow-custom-callback-url"];

#[tokio::test]
async fn a_custom_callback_url_is_the_providers_redirect_uri() {
    let mut world = World::bare(CALLBACK_URL, |config| {
        config.callback_url = Some("http://localhost:4999/api/nango-callback".into());
    })
    .await;
    world.create_integration("github", "GitHub").await;
    world.faults(json!({ "consent": "allow" })).await;
    world.session_for(CALLBACK_URL, ada()).await;
    world.replay_flow("oauth-flow-custom-callback-url").await;
    world.finish();
}

const OVERRIDES: &[&str] = &[
    "webhook-auth-creation-url-override",
    "webhook-auth-creation-denied-url-override",
];

#[tokio::test]
async fn webhooks_go_where_the_session_says_failures_too() {
    let mut world = World::new(OVERRIDES).await;
    let mut body = user("user-202");
    body["webhook_url_override"] = "http://localhost:4101/override-hook".into();
    world
        .connect("github", "73fbda34-518c-4e3f-9b1a-72f96681a5ab", body)
        .await;
    world
        .replay_hook("webhook-auth-creation-url-override")
        .await;

    let body = json!({
        "tags": { "end_user_id": "u-denied", "patchbay_connection": "abc" },
        "allowed_integrations": ["github"],
        "webhook_url_override": "http://localhost:4101/hook/attempt-1",
    });
    let token = world.session(body).await;
    world.faults(json!({ "consent": "deny" })).await;
    let query = world.authorize(&token, "github").await;
    assert_eq!(world.callback(&query).await.status(), 400);
    let name = "webhook-auth-creation-denied-url-override";
    let after_retry = recording(name)["after_retry"][0].clone();
    world.replay_hook(name).await;
    world.faults(json!({ "consent": "allow" })).await;
    let query = world.authorize(&token, "github").await;
    assert_eq!(world.callback(&query).await.status(), 200);
    world
        .learn_newest("24a289c8-4b5a-4be4-aa6d-718c8324c337")
        .await;
    let hook = world.next_hook().await;
    world.compare_hook(name, &after_retry, &hook);
    world.finish();
}

const LISTS: &[&str] = &[
    "connections-list",
    "connections-list-filter-connection-id",
    "connections-list-filter-connection-id-none",
    "connections-list-filter-end-user",
    "connections-list-filter-end-user-misses-tags-only",
    "connections-list-filter-end-user-none",
    "connections-list-filter-integration",
    "connections-list-filter-integration-multi",
    "connections-list-filter-integration-unknown",
    "connections-list-filter-organization",
    "connections-list-filter-tags",
    "connections-list-filter-tags-encoded",
    "connections-list-filter-tags-json",
    "connections-list-filter-tags-two",
    "connections-list-limit-too-big",
    "connections-list-limit-zero",
    "connections-list-page-0",
    "connections-list-page-1",
    "connections-list-page-past-end",
    "connections-list-search",
    "connections-list-unknown-param",
    "legacy-connection-list",
    "cors-get-connections",
    "connections-list-same-end-user-two-emails",
];

#[tokio::test]
async fn connections_are_listed_and_filtered() {
    let mut world = World::new(LISTS).await;
    let bob = || user_with_email("user-200", "bob@example.com");
    let tags = json!({ "tags": { "end_user_id": "user-203", "workspace": "ws-1" } });
    for (integration, id, body) in [
        ("github", "03c2c808-f823-47ef-885e-95c8092ae626", ada()),
        ("github", "6b50b93d-69d1-44d3-b665-f714cedceb7d", bob()),
        ("github", "55e573e5-a337-4441-b5a2-7678894e7457", bob()),
        ("gmail", "fe4000e2-a090-46cf-a134-9fe756ed2528", bob()),
        (
            "github",
            "518df9c9-e42c-454f-be4c-591b842d3333",
            user("user-201"),
        ),
        (
            "github",
            "b4295093-2015-4727-98e7-b91961b6bf86",
            user("user-201"),
        ),
        (
            "github",
            "73fbda34-518c-4e3f-9b1a-72f96681a5ab",
            user("user-202"),
        ),
        ("github", "fd2f7b80-e775-46be-b6b3-25e8d243c300", tags),
    ] {
        world.connect(integration, id, body).await;
        world.advance(TimeDelta::milliseconds(137));
    }
    world.replay_all(&LISTS[..22]).await;
    let newest = "2e1817d6-f4cb-456b-865a-a045f964e39a";
    world.connect("github", newest, user("user-502")).await;
    world.replay("cors-get-connections").await;
    for (id, email) in [
        ("a2f4c1b0-76b9-4bc3-b472-e0a76660e74f", "first@example.com"),
        ("39c6bac2-d3d0-44b9-9dbf-62044c35b559", "second@example.com"),
    ] {
        world
            .connect("github", id, user_with_email("user-903", email))
            .await;
    }
    world
        .replay("connections-list-same-end-user-two-emails")
        .await;
    world.finish();
}

const ONE: &[&str] = &[
    "connection-get",
    "connection-get-404",
    "connection-get-bad-bool",
    "connection-get-bad-connection-id",
    "connection-get-missing-provider-config-key",
    "connection-get-unknown-integration",
    "connection-get-unknown-param",
    "connection-get-wrong-integration",
    "connection-get-with-refresh-token",
    "connection-get-force-refresh",
    "legacy-connection-get",
    "legacy-connection-delete",
];

#[tokio::test]
async fn one_connection_is_read_with_its_credentials() {
    let mut world = World::new(ONE).await;
    world
        .connect("github", "03c2c808-f823-47ef-885e-95c8092ae626", ada())
        .await;
    world.replay_all(ONE).await;
    world.finish();
}

const CHANGES: &[&str] = &[
    "metadata-set",
    "metadata-patch",
    "connection-get-after-metadata",
    "metadata-set-404",
    "metadata-set-multi",
    "metadata-set-validation-error",
    "legacy-metadata-set",
    "legacy-metadata-patch",
    "connection-patch-end-user",
    "connection-get-after-patch-end-user",
    "connection-patch-tags",
    "connection-get-after-patch-tags",
    "connection-patch-tags-uppercase",
    "connection-get-after-patch-tags-uppercase",
    "connection-patch-empty",
    "connection-patch-404",
    "connection-patch-missing-provider-config-key",
    "connection-patch-tags-bad-key",
    "connection-patch-unknown-field",
    "connection-patch-unknown-integration",
    "connection-patch-webhook-url-override",
];

#[tokio::test]
async fn metadata_tags_and_end_users_are_replaced() {
    let mut world = World::new(CHANGES).await;
    world
        .connect(
            "github",
            "39c6bac2-d3d0-44b9-9dbf-62044c35b559",
            user("user-903"),
        )
        .await;
    world
        .connect("github", "03c2c808-f823-47ef-885e-95c8092ae626", ada())
        .await;
    world.replay_all(CHANGES).await;
    world.finish();
}

const RECONNECT: &[&str] = &[
    "connect-session-reconnect",
    "connect-session-reconnect-allowed-integrations-refused",
    "connect-session-reconnect-unknown-connection",
    "connect-session-reconnect-validation-error",
    "connect-session-reconnect-with-end-user",
    "connect-session-reconnect-wrong-integration",
    "connect-session-get-reconnect",
    "oauth-flow-reconnect-success",
    "webhook-auth-override-success",
    "connection-get-after-reconnect",
    "webhook-auth-override-success-with-end-user",
    "oauth-flow-reconnect-denied",
    "webhook-auth-override-denied",
    "connections-list-after-reconnect-denied",
];

#[tokio::test]
async fn a_reconnect_keeps_the_connection_and_replaces_its_tags() {
    let mut world = World::new(RECONNECT).await;
    let recorded = "296a2cae-42a2-4983-9dbb-23096284a8ed";
    let end_user = user_with_email("user-300", "user-300@example.com");
    let id = world.connect("github", recorded, end_user.clone()).await;
    world.next_hook().await;
    world.replay_all(&RECONNECT[..6]).await;

    let path = "/connect/sessions/reconnect";
    let mut body = json!({ "connection_id": id, "integration_id": "github" });
    let answer = world.call(Method::POST, path, Some(body.clone())).await;
    let token = answer["data"]["token"].as_str().unwrap().to_owned();
    world.use_token("oauth-flow-reconnect-success", &token);
    world.replay("connect-session-get-reconnect").await;
    world.replay_flow("oauth-flow-reconnect-success").await;
    world.replay_hook("webhook-auth-override-success").await;
    world.replay("connection-get-after-reconnect").await;

    body["end_user"] = end_user["end_user"].clone();
    body["tags"] = json!({ "workspace": "ws-1" });
    let answer = world.call(Method::POST, path, Some(body)).await;
    let token = answer["data"]["token"].as_str().unwrap().to_owned();
    let query = world.authorize(&token, "github").await;
    assert_eq!(world.callback(&query).await.status(), 200);
    world
        .replay_hook("webhook-auth-override-success-with-end-user")
        .await;

    world.faults(json!({ "consent": "deny" })).await;
    world.use_token("oauth-flow-reconnect-denied", &token);
    world.replay_flow("oauth-flow-reconnect-denied").await;
    world.replay_hook("webhook-auth-override-denied").await;
    world
        .replay("connections-list-after-reconnect-denied")
        .await;
    world.finish();
}

const REFRESH: &[&str] = &[
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

const NO_REFRESH: &[&str] = &[
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

const IMPORTS: &[&str] = &[
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

const REST: &[&str] = &[
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

const RATE_LIMIT: &[&str] = &["rate-limit-429", "rate-limit-429-other-endpoint"];

#[tokio::test]
async fn the_minutes_budget_is_shared_and_comes_back() {
    let mut world = World::bare(RATE_LIMIT, |config| config.rate_limit = 1).await;
    world.call(Method::GET, "/connections", None).await;
    world.replay_all(RATE_LIMIT).await;
    world.advance(TimeDelta::minutes(1));
    world.call(Method::GET, "/connections", None).await;
    world.finish();
}
