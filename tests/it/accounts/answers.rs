//! Responses of providers that differ from their documentation.

use reqwest::Method;
use serde_json::{Value, json};

use super::{app_with_accounts, make_lookups_due, reconnect_as, text, wait_for};
use crate::eventually::eventually;
use crate::test_app::{PROMPT_TIMEOUT, TestApp, User};

async fn answer_with(app: &TestApp, body: &Value) {
    app.faults(json!({ "consent": "allow", "account_lookup_body": body }))
        .await;
}

/// Connects GitHub under its own instance. Returns the connection's id.
async fn connect(user: &User<'_>, instance: usize) -> String {
    let path = format!("/github/connect?instance_id=i{instance}");
    let (_, started) = user.call(Method::POST, &path, None).await;
    user.app.popup(text(&started, "oauth_url")).await;
    let id = text(&started, "connection_id").to_owned();
    let connected = tokio::time::timeout(PROMPT_TIMEOUT, user.wait_until(&id, "connected")).await;
    connected.expect("the look-up delays no connection");
    id
}

#[tokio::test]
async fn answer_without_id_is_retried() {
    let app = app_with_accounts().await;
    let ada = app.user("ada").await;
    let answers = [
        json!("<!doctype html><title>502 Bad Gateway</title>"),
        json!({ "ok": false, "error": "ratelimited", "id": 7 }),
        json!({ "id": "unauthorized", "error": { "message": "try later" } }),
        json!({ "id": { "value": 7 }, "login": "ada" }),
        json!({ "id": null }),
        json!([]),
        json!([[{ "id": 7 }]]),
        json!("x".repeat(600_000)),
    ];
    let mut ids = Vec::new();
    for (instance, answer) in answers.iter().enumerate() {
        answer_with(&app, answer).await;
        let id = connect(&ada, instance).await;
        let unknown = wait_for(&ada, &id, |one| one["account_unknown_reason"].is_string()).await;
        let reason = text(&unknown, "account_unknown_reason");
        assert!(
            ["not_in_answer", "provider_unavailable"].contains(&reason),
            "{reason}"
        );
        assert_eq!(unknown["account"], Value::Null);
        ids.push(id);
    }
    app.faults(json!({ "consent": "allow" })).await;
    for id in ids {
        // A lookup in progress is postponed once more.
        let identified = async || {
            make_lookups_due(&app).await;
            ada.connection(&id).await["account"].is_object()
        };
        eventually(identified).await;
        let known = ada.connection(&id).await;
        assert_eq!(known["account_unknown_reason"], Value::Null);
    }
}

#[tokio::test]
async fn missing_fields_of_account_are_null() {
    let app = app_with_accounts().await;
    let ada = app.user("ada").await;
    let answer = json!({ "id": 7, "login": "ada", "name": null, "email": null, "avatar_url": "http://plain.example/a" });
    answer_with(&app, &answer).await;
    let id = connect(&ada, 0).await;
    let known = wait_for(&ada, &id, |one| one["account"].is_object()).await;
    assert_eq!(
        known["account"],
        json!({
            "id": "7", "name": "ada", "email": null, "avatar_url": null, "workspace_id": null, "workspace_name": null,
        })
    );
}

#[tokio::test]
async fn changed_name_is_updated_without_mismatch() {
    let app = app_with_accounts().await;
    let ada = app.user("ada").await;
    let github = ada.connected("github").await;
    let id = text(&github, "id");
    let known = wait_for(&ada, id, |one| one["account"].is_object()).await;
    let account: u64 = text(&known["account"], "id").parse().unwrap();
    answer_with(
        &app,
        &json!({ "id": account, "name": "Ada King", "email": null }),
    )
    .await;
    reconnect_as(&ada, id, "ada-work").await;
    let renamed = wait_for(&ada, id, |one| one["account"]["name"] == "Ada King").await;
    assert_eq!(renamed["status"], "connected");
    assert_eq!(renamed["account"]["id"], known["account"]["id"]);
    assert_eq!(renamed["account"]["email"], known["account"]["email"]);
}

#[tokio::test]
async fn malformed_id_token_leads_to_request() {
    let app = app_with_accounts().await;
    let ada = app.user("ada").await;
    for (instance, token) in ["", "a.b", "a.!!!.c", "a.bnVsbA.c", "a.W10.c"]
        .into_iter()
        .enumerate()
    {
        app.faults(json!({ "consent": "allow", "id_token": token }))
            .await;
        let path = format!("/gmail/connect?instance_id=i{instance}");
        let (_, started) = ada.call(Method::POST, &path, None).await;
        app.popup(text(&started, "oauth_url")).await;
        let id = text(&started, "connection_id");
        let known = wait_for(&ada, id, |one| one["account"].is_object()).await;
        assert_eq!(known["account"]["id"], "440722470455853043520", "{token}");
    }
}

#[tokio::test]
async fn slow_provider_delays_neither_connection_nor_others() {
    let app = app_with_accounts().await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "allow", "account_lookup_delay_ms": 30_000 }))
        .await;
    let slow = connect(&ada, 0).await;
    app.faults(json!({ "consent": "allow" })).await;
    let prompt = connect(&ada, 1).await;
    let is_known = |one: &Value| one["account"].is_object();
    let known = tokio::time::timeout(PROMPT_TIMEOUT, wait_for(&ada, &prompt, is_known)).await;
    known.expect("a slow look-up does not delay the next");
    let unknown = wait_for(&ada, &slow, |one| {
        one["account_unknown_reason"].is_string() || is_known(one)
    })
    .await;
    assert_eq!(unknown["status"], "connected");
}
