//! The worker of account lookups, with a failing Nango or provider.

use chrono::TimeDelta;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{app_with_accounts, make_lookups_due, reconnect_as, text, wait_for};
use crate::eventually::eventually_value;
use crate::test_app::{PROMPT_TIMEOUT, User};

fn is_identified(connection: &Value) -> bool {
    connection["account"].is_object()
}

/// Connects while the provider refuses to say the account. Returns the connection's id.
async fn connect_without_account(user: &User<'_>) -> String {
    let faults = json!({ "consent": "allow", "account_lookup_status": 503 });
    user.app.faults(faults).await;
    let started = user.connect("github").await;
    user.app.popup(text(&started, "oauth_url")).await;
    text(&started, "connection_id").to_owned()
}

fn is_unknown(connection: &Value) -> bool {
    connection["account_unknown_reason"].is_string()
}

#[tokio::test]
async fn account_is_looked_up_after_grant_and_stays_after_disconnect() {
    let app = app_with_accounts().await;
    let ada = app.user("ada").await;
    let github = ada.connected("github").await;
    let id = text(&github, "id");
    let known = wait_for(&ada, id, is_identified).await;
    assert_eq!(known["account"]["name"], "Ada Lovelace (work)");
    assert_eq!(known["account"]["email"], "ada@analytical.example");
    assert!(text(&known["account"], "avatar_url").starts_with("https://"));
    assert_eq!(known["account_unknown_reason"], Value::Null);
    let history = ada.get(&format!("/connections/{id}/history")).await;
    assert_eq!(history["events"][0]["kind"], "account_identified");

    let (status, _) = ada.disconnect("github", "").await;
    assert_eq!(status, StatusCode::OK);
    let ended = ada.connection(id).await;
    assert_eq!(ended["status"], "disconnected");
    assert_eq!(ended["account"], known["account"]);
    // The next account may differ without a mismatch.
    let body = json!({ "login_hint": "grace" });
    let (_, started) = ada.call(Method::POST, "/github/connect", Some(body)).await;
    app.popup(text(&started, "oauth_url")).await;
    let is_graces = |one: &Value| one["account"]["name"] == "Grace Hopper";
    let new = wait_for(&ada, id, is_graces).await;
    assert_eq!(new["status"], "connected");
}

#[tokio::test]
async fn slow_or_failing_provider_does_not_delay_connection() {
    let app = app_with_accounts().await;
    let ada = app.user("ada").await;
    let id = &connect_without_account(&ada).await;
    let connected = tokio::time::timeout(PROMPT_TIMEOUT, ada.wait_until(id, "connected")).await;
    assert_eq!(connected.unwrap()["account"], Value::Null);
    let unknown = wait_for(&ada, id, is_unknown).await;
    assert_eq!(unknown["account_unknown_reason"], "provider_unavailable");
    assert_eq!(unknown["status"], "connected");
    app.faults(json!({ "consent": "allow" })).await;
    make_lookups_due(&app).await;
    let known = wait_for(&ada, id, is_identified).await;
    assert_eq!(known["account_unknown_reason"], Value::Null);
}

#[tokio::test]
async fn each_pause_between_lookups_is_four_times_as_long() {
    let app = app_with_accounts().await;
    let ada = app.user("ada").await;
    let id = &connect_without_account(&ada).await;
    wait_for(&ada, id, is_unknown).await;
    let mut sql = app.sql().await;
    for (failures, pause) in [(2, 8.0), (3, 32.0), (4, 128.0)] {
        make_lookups_due(&app).await;
        let postponed = "select extract(epoch from due_at - now())::float8 from account_lookup where failures = $1";
        let read = async || -> Option<f64> {
            let row = sqlx::query_scalar(postponed).bind(failures);
            row.fetch_optional(&mut sql).await.unwrap()
        };
        let left = eventually_value(read, Option::is_some).await.unwrap();
        assert!((pause / 4.0..=pause).contains(&left), "{failures}: {left}");
    }
}

#[tokio::test]
async fn lost_scope_and_refused_host_are_reasons() {
    let app = app_with_accounts().await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "allow" })).await;
    let body = json!({ "scopes": ["tweet.read"] });
    let (_, started) = ada.call(Method::POST, "/twitter/connect", Some(body)).await;
    app.popup(text(&started, "oauth_url")).await;
    let unknown = wait_for(&ada, text(&started, "connection_id"), is_unknown).await;
    assert_eq!(unknown["account_unknown_reason"], "missing_scope");

    app.faults(json!({ "consent": "allow", "refuse_base_url_override": true }))
        .await;
    let started = ada.connect("basecamp").await;
    app.popup(text(&started, "oauth_url")).await;
    let unknown = wait_for(&ada, text(&started, "connection_id"), is_unknown).await;
    assert_eq!(unknown["account_unknown_reason"], "nango_misconfigured");

    assert_eq!(ada.get("/google-ai").await["identifies_account"], false);
}

#[tokio::test]
async fn other_account_is_detected_when_provider_answers_late() {
    let app = app_with_accounts().await;
    let ada = app.user("ada").await;
    let github = ada.connected("github").await;
    let id = text(&github, "id");
    let known = wait_for(&ada, id, is_identified).await;
    app.faults(json!({ "consent": "allow", "account_lookup_status": 500 }))
        .await;
    reconnect_as(&ada, id, "grace").await;
    let again = wait_for(&ada, id, |one| one["attempt"]["outcome"] == "succeeded").await;
    assert_eq!(again["account"], known["account"]);
    app.faults(json!({ "consent": "allow" })).await;
    let looked_up = async || {
        make_lookups_due(&app).await;
        ada.connection(id).await
    };
    let refused = eventually_value(looked_up, |one| one["status"] == "error").await;
    assert_eq!(refused["status_reason"], "account_mismatch");
    assert_eq!(refused["pending_account"]["name"], "Grace Hopper");
    let accepted = json!({ "account_id": refused["pending_account"]["id"] });
    let path = format!("/connections/{id}/account");
    let (status, taken) = ada.call(Method::POST, &path, Some(accepted)).await;
    assert_eq!(
        (status, &taken["account"]["email"]),
        (StatusCode::OK, &json!("grace@navy.example"))
    );
}

#[tokio::test]
async fn sweep_looks_up_connections_without_account() {
    let app = app_with_accounts().await;
    let ada = app.user("ada").await;
    let github = ada.connected("github").await;
    let id = text(&github, "id");
    wait_for(&ada, id, is_identified).await;
    // The state after an import, or after a version without the rule.
    let mut sql = app.sql().await;
    sqlx::query("update user_connector_connection set account_id = null, account_name = null, account_details = null")
        .execute(&mut sql)
        .await
        .unwrap();
    assert!(!is_identified(&ada.connection(id).await));
    app.sweep().await;
    wait_for(&ada, id, is_identified).await;
}

#[tokio::test]
async fn two_connections_of_one_account_name_each_other() {
    let app = app_with_accounts().await;
    let ada = app.user("ada").await;
    let first = ada.connected("linear").await;
    let (_, started) = ada
        .call(Method::POST, "/linear/connect?instance_id=second", None)
        .await;
    app.popup(text(&started, "oauth_url")).await;
    let id = text(&started, "connection_id");
    let second = wait_for(&ada, id, |one| one["same_account_as"] != json!([])).await;
    assert_eq!(second["same_account_as"], json!([first["id"]]));
}

#[tokio::test]
async fn lookups_end_with_a_single_database_connection() {
    let mut app = app_with_accounts().await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "allow", "account_lookup_status": 503 }))
        .await;
    for instance in 0..3 {
        let path = format!("/github/connect?instance_id=i{instance}");
        let (_, started) = ada.call(Method::POST, &path, None).await;
        app.popup(text(&started, "oauth_url")).await;
        wait_for(&ada, text(&started, "connection_id"), is_unknown).await;
    }
    app.faults(json!({})).await;
    app.stop().await.unwrap();
    let mut sql = app.sql().await;
    let due = "update account_lookup set due_at = now(), leased_until = null";
    sqlx::query(due).execute(&mut sql).await.unwrap();

    let service = app.service_with(&[("DATABASE_POOL_SIZE", "1")]).await;
    let ended = service
        .account_lookups
        .run_due(&CancellationToken::new())
        .await;
    assert_eq!(ended.unwrap(), 3);
    let identified = "select count(*) from user_connector_connection where account_id is not null";
    let identified: i64 = sqlx::query_scalar(identified)
        .fetch_one(&mut sql)
        .await
        .unwrap();
    assert_eq!(identified, 3);
}

#[tokio::test]
async fn absent_connection_of_another_account_does_not_recover() {
    let app = app_with_accounts().await;
    let ada = app.user("ada").await;
    let github = ada.connected("github").await;
    let id = text(&github, "id");
    wait_for(&ada, id, is_identified).await;
    app.faults(json!({ "consent": "allow" })).await;
    reconnect_as(&ada, id, "grace").await;
    let refused = wait_for(&ada, id, |one| one["status"] == "error").await;
    assert_eq!(refused["status_reason"], "account_mismatch");

    let hidden = json!({ "hide_connections": [refused["nango_connection_id"]] });
    app.faults(hidden).await;
    assert_eq!(app.sweep_until_missing().await, 0);
    let reason = async || ada.connection(id).await["status_reason"].clone();
    assert_eq!(reason().await, "account_mismatch");
    // Nango has it again: at first the provider does not say whose it is, then it does.
    for faults in [json!({ "account_lookup_status": 503 }), json!({})] {
        app.faults(faults).await;
        for _ in 0..3 {
            app.advance(TimeDelta::minutes(5));
            app.sweep().await;
            assert_eq!(reason().await, "account_mismatch");
        }
    }
}
