//! Popups, from the first request to the last page, with the webhooks that follow.

use chrono::TimeDelta;
use reqwest::Method;
use serde_json::json;

use super::{ada, user, user_with_email};
use crate::nango_contract::scenario::{Scenario, recording};

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
async fn popup_errors_match_recordings() {
    let mut scenario = Scenario::new(OBSTACLES).await;
    scenario
        .session_for(&["oauth-connect-integration-not-allowed"], ada())
        .await;
    scenario.replay_all(OBSTACLES).await;
    scenario.finish();
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
async fn popup_flows_match_recordings() {
    let mut scenario = Scenario::new(FLOWS).await;
    scenario.faults(json!({ "consent": "allow" })).await;
    scenario.session_for(&["oauth-flow-success"], ada()).await;
    scenario.replay_flow("oauth-flow-success").await;
    scenario
        .learn_newest("03c2c808-f823-47ef-885e-95c8092ae626")
        .await;
    scenario.replay_hook("webhook-auth-creation-success").await;

    scenario.faults(json!({ "consent": "deny" })).await;
    scenario.session_for(&["oauth-flow-denied"], ada()).await;
    scenario.replay_flow("oauth-flow-denied").await;
    scenario.replay_hook("webhook-auth-creation-denied").await;

    scenario
        .faults(json!({ "consent": "allow", "refuse_code": true }))
        .await;
    scenario
        .session_for(&["oauth-flow-token-exchange-failed"], ada())
        .await;
    scenario
        .replay_flow("oauth-flow-token-exchange-failed")
        .await;
    scenario
        .replay_hook("webhook-auth-creation-token-failed")
        .await;

    scenario.faults(json!({ "consent": "allow" })).await;
    let tags = recording("connect-session-create-tags-only")["request"]["body"].clone();
    let mut tags_only = tags;
    tags_only["tags"]["end_user_id"] = "user-203".into();
    scenario
        .session_for(&["oauth-flow-no-cookie"], tags_only)
        .await;
    scenario.replay_flow("oauth-flow-no-cookie").await;
    scenario
        .learn_newest("fd2f7b80-e775-46be-b6b3-25e8d243c300")
        .await;
    scenario
        .replay_hook("webhook-auth-creation-tags-only")
        .await;
    scenario.finish();
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
async fn reused_and_expired_sessions_match_recordings() {
    let mut scenario = Scenario::new(MIDWAY).await;
    let name = "oauth-flow-denied-then-retry-same-token";
    let exchanges = scenario.open(name)["exchanges"].clone();
    let token = scenario.session(ada()).await;
    for (exchange, consent) in [(0, "deny"), (1, "allow")] {
        scenario.faults(json!({ "consent": consent })).await;
        let query = scenario.authorize(&token, "github").await;
        scenario
            .replay_callback(name, &exchanges[exchange], &query)
            .await;
    }

    let name = "oauth-flow-session-token-reused";
    let exchanges = scenario.open(name)["exchanges"].clone();
    let mut bob = user_with_email("user-200", "bob@example.com");
    bob["allowed_integrations"] = json!(["github", "gmail"]);
    let token = scenario
        .session_for(&["connect-session-get-after-connection"], bob)
        .await;
    for (exchange, integration) in [(0, "github"), (1, "github"), (2, "gmail")] {
        let query = scenario.authorize(&token, integration).await;
        scenario
            .replay_callback(name, &exchanges[exchange], &query)
            .await;
    }
    let made = scenario
        .call(Method::GET, "/connections?endUserId=user-200", None)
        .await;
    assert_eq!(made["connections"].as_array().unwrap().len(), 3);
    scenario
        .replay("connect-session-get-after-connection")
        .await;

    for name in [
        "replayed",
        "session-deleted-midway",
        "session-expired-midway",
    ] {
        let name = format!("oauth-callback-{name}");
        let token = scenario.session(ada()).await;
        scenario.advance(TimeDelta::minutes(29));
        let query = scenario.authorize(&token, "github").await;
        match name.as_str() {
            "oauth-callback-replayed" => assert_eq!(scenario.callback(&query).await.status(), 200),
            "oauth-callback-session-expired-midway" => scenario.advance(TimeDelta::minutes(2)),
            _ => {
                let url = format!("{}/connect/session", scenario.sandbox.url());
                let request = scenario.http.delete(url).bearer_auth(&token);
                assert_eq!(request.send().await.unwrap().status(), 204);
            }
        }
        let exchange = scenario.open(&name);
        scenario.replay_callback(&name, &exchange, &query).await;
    }
    scenario.finish();
}

pub(super) const CALLBACK_URL: &[&str] = &["oauth-flow-custom-callback-url"];

#[tokio::test]
async fn custom_callback_url_matches_recordings() {
    let mut scenario = Scenario::without_integrations(CALLBACK_URL, |config| {
        config.callback_url = Some("http://localhost:4999/api/nango-callback".into());
    })
    .await;
    scenario.create_integration("github", "GitHub").await;
    scenario.faults(json!({ "consent": "allow" })).await;
    scenario.session_for(CALLBACK_URL, ada()).await;
    scenario.replay_flow("oauth-flow-custom-callback-url").await;
    scenario.finish();
}

pub(super) const OVERRIDES: &[&str] = &[
    "webhook-auth-creation-url-override",
    "webhook-auth-creation-denied-url-override",
];

#[tokio::test]
async fn webhook_url_overrides_match_recordings() {
    let mut scenario = Scenario::new(OVERRIDES).await;
    let mut body = user("user-202");
    body["webhook_url_override"] = "http://localhost:4101/override-hook".into();
    scenario
        .connect("github", "73fbda34-518c-4e3f-9b1a-72f96681a5ab", body)
        .await;
    scenario
        .replay_hook("webhook-auth-creation-url-override")
        .await;

    let body = json!({
        "tags": { "end_user_id": "u-denied", "patchbay_connection": "abc" },
        "allowed_integrations": ["github"],
        "webhook_url_override": "http://localhost:4101/hook/attempt-1",
    });
    let token = scenario.session(body).await;
    scenario.faults(json!({ "consent": "deny" })).await;
    let query = scenario.authorize(&token, "github").await;
    assert_eq!(scenario.callback(&query).await.status(), 400);
    let name = "webhook-auth-creation-denied-url-override";
    let after_retry = recording(name)["after_retry"][0].clone();
    scenario.replay_hook(name).await;
    scenario.faults(json!({ "consent": "allow" })).await;
    let query = scenario.authorize(&token, "github").await;
    assert_eq!(scenario.callback(&query).await.status(), 200);
    scenario
        .learn_newest("24a289c8-4b5a-4be4-aa6d-718c8324c337")
        .await;
    let hook = scenario.next_hook().await;
    scenario.compare_hook(name, &after_retry, &hook);
    scenario.finish();
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
async fn reconnects_match_recordings() {
    let mut scenario = Scenario::new(RECONNECT).await;
    let recorded = "296a2cae-42a2-4983-9dbb-23096284a8ed";
    let end_user = user_with_email("user-300", "user-300@example.com");
    let id = scenario.connect("github", recorded, end_user.clone()).await;
    scenario.next_hook().await;
    scenario.replay_all(&RECONNECT[..6]).await;

    let path = "/connect/sessions/reconnect";
    let mut body = json!({ "connection_id": id, "integration_id": "github" });
    let answer = scenario.call(Method::POST, path, Some(body.clone())).await;
    let token = answer["data"]["token"].as_str().unwrap().to_owned();
    scenario.use_token("oauth-flow-reconnect-success", &token);
    scenario.replay("connect-session-get-reconnect").await;
    scenario.replay_flow("oauth-flow-reconnect-success").await;
    scenario.replay_hook("webhook-auth-override-success").await;
    scenario.replay("connection-get-after-reconnect").await;

    body["end_user"] = end_user["end_user"].clone();
    body["tags"] = json!({ "workspace": "ws-1" });
    let answer = scenario.call(Method::POST, path, Some(body)).await;
    let token = answer["data"]["token"].as_str().unwrap().to_owned();
    let query = scenario.authorize(&token, "github").await;
    assert_eq!(scenario.callback(&query).await.status(), 200);
    scenario
        .replay_hook("webhook-auth-override-success-with-end-user")
        .await;

    scenario.faults(json!({ "consent": "deny" })).await;
    scenario.use_token("oauth-flow-reconnect-denied", &token);
    scenario.replay_flow("oauth-flow-reconnect-denied").await;
    scenario.replay_hook("webhook-auth-override-denied").await;
    scenario
        .replay("connections-list-after-reconnect-denied")
        .await;
    scenario.finish();
}
