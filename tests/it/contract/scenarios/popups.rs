//! From the popup's first request to its last page, and the webhooks that follow.

use chrono::TimeDelta;
use reqwest::Method;
use serde_json::json;

use super::{ada, user, user_with_email};
use crate::contract::world::{World, recording};

pub(super) const OBSTACLES: &[&str] = &[
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

pub(super) const FLOWS: &[&str] = &[
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

pub(super) const MIDWAY: &[&str] = &[
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

pub(super) const CALLBACK_URL: &[&str] = &["oauth-flow-custom-callback-url"];

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

pub(super) const OVERRIDES: &[&str] = &[
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

pub(super) const RECONNECT: &[&str] = &[
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
