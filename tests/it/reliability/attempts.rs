//! Superseded attempts, and sessions with repeated grants.

use chrono::TimeDelta;
use futures::future::join_all;
use serde_json::json;
use sqlx::{AssertSqlSafe, PgConnection};
use uuid::Uuid;

use super::event_streams::StreamReader;
use super::{app_with_accounts, text};
use crate::eventually::{eventually, eventually_locked, eventually_value};
use crate::test_app::{TestApp, User};

/// Returns an attempt's outcome, also of superseded attempts, which the API does not return.
async fn outcome(app: &TestApp, attempt: &str) -> Option<String> {
    let attempt: Uuid = attempt.parse().unwrap();
    sqlx::query_scalar("select outcome from connect_attempt where id = $1")
        .bind(attempt)
        .fetch_one(&mut app.sql().await)
        .await
        .unwrap()
}

#[tokio::test]
async fn superseded_attempt_success_connects_and_ends_newer_wait() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "allow" })).await;
    let (old, new) = (ada.connect("gmail").await, ada.connect("gmail").await);
    let (old_id, new_id) = (text(&old, "attempt_id"), text(&new, "attempt_id"));
    let superseded = outcome(&app, old_id).await;
    assert_eq!(superseded.as_deref(), Some("superseded"));
    assert_eq!(outcome(&app, new_id).await, None);

    let path = format!("/connections/{}?wait=25", text(&new, "connection_id"));
    let (waited, _) = tokio::join!(ada.get(&path), app.popup(text(&old, "oauth_url")));
    assert_eq!(waited["status"], "connected");
    let late = outcome(&app, old_id).await;
    assert_eq!(late.as_deref(), Some("succeeded"));
    let ended = outcome(&app, new_id).await;
    assert_eq!(ended.as_deref(), Some("superseded"));
}

#[tokio::test]
async fn regrant_cancels_pending_deletion() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "allow" })).await;
    let started = ada.connect("gmail").await;
    app.popup(text(&started, "oauth_url")).await;
    let id = text(&started, "connection_id");
    let first = ada.wait_until(id, "connected").await;
    let path = format!("/connections/{id}/reconnect");
    let (_, renewal) = ada.call(reqwest::Method::POST, &path, None).await;

    // The first session is granted again. The new grant replaces the other, which is deleted, but
    // the response to the deletion is lost.
    let lost = json!({ "consent": "allow", "lose_answer": true, "only": "DELETE /connections" });
    app.faults(lost).await;
    app.advance(TimeDelta::seconds(1));
    app.popup(text(&started, "oauth_url")).await;
    let nango_id = text(&first, "nango_connection_id");
    until_nango_id(&ada, id, |stored| stored != nango_id).await;
    app.advance(TimeDelta::minutes(11));
    let is_deleted = |ids: &Vec<String>| !ids.iter().any(|id| id == nango_id);
    eventually_value(async || app.nango_connections().await, is_deleted).await;
    // No retry of the deletion is due.
    until_deletions_wait(&app).await;

    // The renewal creates it again with the same id, and so it is the newest.
    app.advance(TimeDelta::seconds(1));
    app.popup(text(&renewal, "oauth_url")).await;
    until_nango_id(&ada, id, |stored| stored == nango_id).await;
    app.faults(json!({ "consent": "allow" })).await;
    app.advance(TimeDelta::hours(1));
    let service = app.service().await;
    while service.deletions.delete_due().await.unwrap() > 0 {}
    app.wait_for_nango_connections(&[nango_id]).await;
    assert_eq!(ada.connection(id).await["status"], "connected");
    // The running replica may have claimed the deletion first.
    let is_done = "select not exists (select from upstream_deletion)";
    let mut sql = app.sql().await;
    eventually(async || {
        sqlx::query_scalar(is_done)
            .fetch_one(&mut sql)
            .await
            .unwrap()
    })
    .await;
}

/// Waits until Nango's id in the row satisfies a condition.
async fn until_nango_id(user: &User<'_>, id: &str, is_it: impl Fn(&str) -> bool) {
    let stored = async || user.connection(id).await["nango_connection_id"].clone();
    eventually_value(stored, |stored| stored.as_str().is_some_and(&is_it)).await;
}

/// Waits until a failed deletion is pending and no deletion is leased.
async fn until_deletions_wait(app: &TestApp) {
    let waits = "select exists (select from upstream_deletion where attempts > 0) \
                 and not exists (select from upstream_deletion where leased_until > now())";
    let mut sql = app.sql().await;
    eventually(async || sqlx::query_scalar(waits).fetch_one(&mut sql).await.unwrap()).await;
}

#[tokio::test]
async fn regrant_with_other_account_is_detected() {
    let (app, _file) = app_with_accounts(&[]).await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "allow" })).await;
    let work = ada.connected("gmail").await;
    let id = text(&work, "id");
    let path = format!("/connections/{id}/reconnect");
    let (_, started) = ada.call(reqwest::Method::POST, &path, None).await;
    app.popup(text(&started, "oauth_url")).await;
    let waited = ada.get(&format!("/connections/{id}?wait=25")).await;
    assert_eq!(waited["attempt"]["outcome"], "succeeded");

    // The user completes the popup again with another account.
    let first = crate::test_app::client()
        .get(text(&started, "oauth_url"))
        .send()
        .await
        .unwrap();
    let provider = first.headers()["location"].to_str().unwrap();
    app.popup(&format!("{provider}&login_hint=grace")).await;
    let refused = ada.wait_until(id, "error").await;
    assert_eq!(refused["status_reason"], "account_mismatch");
    assert_eq!(refused["pending_account"]["id"], "grace");
}

#[tokio::test]
async fn concurrent_update_survives_attempt_start() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    let id = text(&connected, "id");
    let mut sql = app.sql().await;
    sqlx::raw_sql("begin; select from user_connector_connection for update")
        .execute(&mut sql)
        .await
        .unwrap();
    let noting = async {
        // The attempt has read the connection, and waits to update it.
        eventually_locked(&mut sql).await;
        sqlx::raw_sql(
            "update user_connector_connection \
             set last_synced_at = '2027-02-03 04:05:06Z', last_checked_at = '2027-02-03 04:05:07Z'; commit",
        )
        .execute(&mut sql)
        .await
        .unwrap();
    };
    let path = format!("/connections/{id}/reconnect");
    let (started, ()) = tokio::join!(ada.call(reqwest::Method::POST, &path, None), noting);
    assert_eq!(started.0, 200, "{}", started.1);
    let noted = ada.connection(id).await;
    assert_eq!(noted["attempt"]["id"], started.1["attempt_id"]);
    assert_eq!(noted["last_synced_at"], "2027-02-03T04:05:06Z");
    assert_eq!(noted["last_checked_at"], "2027-02-03T04:05:07Z");
}

#[tokio::test]
async fn merged_change_is_not_lost_when_an_attempt_begins() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let started = ada.connect("gmail").await;
    let id = text(&started, "connection_id");
    let path = format!("/connections/{id}");
    let label = |label: &str| Some(json!({ "label": label }));
    ada.call(reqwest::Method::PATCH, &path, label("one")).await;
    let mut sql = app.sql().await;
    sqlx::raw_sql("begin; select from user_connector_connection for update")
        .execute(&mut sql)
        .await
        .unwrap();
    let changing = async {
        // The attempt has read the connection, and waits to update it.
        eventually_locked(&mut sql).await;
        // A change that is merged into the previous event keeps the version.
        sqlx::raw_sql(
            "update user_connector_connection \
             set label = 'two', updated_at = updated_at + interval '1 microsecond'; commit",
        )
        .execute(&mut sql)
        .await
        .unwrap();
    };
    let config = Some(json!({ "config": { "a": 1 } }));
    let connect = ada.call(reqwest::Method::POST, "/gmail/connect", config);
    let (again, ()) = tokio::join!(connect, changing);
    assert_eq!(again.0, 200, "{}", again.1);
    let now = ada.connection(id).await;
    assert_eq!(
        (&now["label"], &now["config"]),
        (&json!("two"), &json!({ "a": 1 }))
    );
    assert_eq!(now["attempt"]["id"], again.1["attempt_id"]);
}

/// Returns the number of reads and of writes of attempts' rows, as far as PostgreSQL has counted them.
async fn row_operations(sql: &mut PgConnection) -> (i64, i64) {
    let counts = "select coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0), n_tup_ins \
                  from pg_stat_user_tables where relname = 'connect_attempt'";
    sqlx::query_as(counts).fetch_one(sql).await.unwrap()
}

/// If no attempt was open during ANALYZE, PostgreSQL assumes that the partial index of open attempts is empty, and
/// scans it completely wherever possible.
#[tokio::test]
async fn attempt_queries_ignore_other_users_open_attempts() {
    const OPEN: i64 = 2000;
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "allow" })).await;
    let mut sql = app.sql().await;
    let disconnect = async || ada.disconnect("gmail", "").await;
    ada.connected("gmail").await;
    disconnect().await;
    // Many ended attempts and no open one, during ANALYZE.
    sqlx::raw_sql(AssertSqlSafe(format!(
        "insert into user_connector_connection \
           (id, user_id, connector_id, instance_id, status, status_reason, created_at, updated_at) \
         select gen_random_uuid(), 'user ' || n, connector_id, '', 'pending', 'awaiting_authorization', now(), now() \
         from user_connector_connection, generate_series(1, {OPEN}) n; \
         insert into connect_attempt \
           (user_id, id, connection_id, kind, integration_key, expires_at, created_at, outcome, ended_at) \
         select user_id, gen_random_uuid(), id, 'connect', 'gmail', '2100-01-01', now(), 'superseded', now() \
         from user_connector_connection, generate_series(1, 5) where status = 'pending'; \
         analyze connect_attempt, user_connector_connection; \
         insert into connect_attempt (user_id, id, connection_id, kind, integration_key, expires_at, created_at) \
         select user_id, gen_random_uuid(), id, 'connect', 'gmail', '2100-01-01', now() \
         from user_connector_connection where status = 'pending'; \
         select pg_stat_force_next_flush()"
    )))
    .execute(&mut sql)
    .await
    .unwrap();
    let before = row_operations(&mut sql).await;
    let mut rounds = 0;
    let (read, written) = loop {
        let old = ada.connect("gmail").await;
        ada.connect("gmail").await;
        app.popup(text(&old, "oauth_url")).await;
        ada.wait_until(text(&old, "connection_id"), "connected")
            .await;
        drop(StreamReader::open(&ada, None).await);
        disconnect().await;
        rounds += 1;
        let now = row_operations(&mut sql).await;
        // PostgreSQL updates the counters a second later.
        if now.1 - before.1 >= 6 {
            break (now.0 - before.0, now.1 - before.1);
        }
        assert!(rounds < 100, "PostgreSQL does not count");
    };
    assert!(read < written * 100, "{read} for {written}");
}

#[tokio::test]
async fn expiry_polls_by_tag_and_not_only_newest_connections() {
    let app = TestApp::new().await;
    let mut renewed = Vec::new();
    for name in ["ada", "bob", "cem", "dora", "eve"] {
        let user = app.user(name).await;
        let gmail = user.connected("gmail").await;
        renewed.push((user, text(&gmail, "id").to_owned()));
    }
    let unheard = json!({ "consent": "allow", "drop_webhooks": true });
    app.faults(unheard).await;
    // A reauthorized connection keeps its creation time, so these imports are newer.
    join_all((0..200).map(|_| app.import_with(json!({})))).await;
    let mut attempts = Vec::new();
    for (user, id) in &renewed {
        let path = format!("/connections/{id}/reconnect");
        let (_, started) = user.call(reqwest::Method::POST, &path, None).await;
        app.popup(text(&started, "oauth_url")).await;
        attempts.push(text(&started, "attempt_id").to_owned());
    }
    app.advance(TimeDelta::minutes(61));
    app.service().await.expiry.run().await.unwrap();
    for attempt in &attempts {
        let ended = outcome(&app, attempt).await;
        assert_eq!(ended.as_deref(), Some("succeeded"));
    }
}
