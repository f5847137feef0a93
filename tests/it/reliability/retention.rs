//! Retention: which old rows are deleted, and which are kept at any age.

use std::time::Duration;

use chrono::TimeDelta;
use patchbay::service::Pruned;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgConnection};
use uuid::Uuid;

use super::event_streams::StreamReader;
use super::text;
use crate::eventually::eventually;
use crate::test_app::{TestApp, User};

/// The pruning interval with which each run is due.
const IMMEDIATE_PRUNING: Duration = Duration::ZERO;

async fn prune(app: &TestApp) -> Pruned {
    let pruned = app.service().await.retention.prune(IMMEDIATE_PRUNING).await;
    pruned.unwrap().expect("no other pruning is in progress")
}

async fn count(sql: &mut PgConnection, what: &str) -> i64 {
    let count = AssertSqlSafe(format!("select count(*) from {what}"));
    sqlx::query_scalar(count).fetch_one(sql).await.unwrap()
}

/// Creates a connection with a connect, a token access and a denied reconnect, and ages it. Returns its id.
async fn set_age(app: &TestApp, ada: &User<'_>) -> Uuid {
    let connected = ada.connected("gmail").await;
    let id = text(&connected, "id");
    sqlx::query(
        "insert into token_access (connection_id, user_id, service, purpose, used_at) \
         select id, user_id, 'engine', 'token', updated_at from user_connector_connection",
    )
    .execute(&mut app.sql().await)
    .await
    .unwrap();
    app.faults(json!({ "consent": "deny" })).await;
    let path = format!("/connections/{id}/reconnect");
    let (status, started) = ada.call(Method::POST, &path, None).await;
    assert_eq!(status, StatusCode::OK, "{started}");
    app.popup(text(&started, "oauth_url")).await;
    eventually(async || ada.connection(id).await["attempt"]["outcome"] == "failed").await;
    id.parse().unwrap()
}

/// Returns the versions on a page of a connection's history, and the next cursor.
async fn history(user: &User<'_>, id: Uuid, query: &str) -> (Vec<i64>, Value) {
    let page = user.get(&format!("/connections/{id}/history{query}")).await;
    let events = page["events"].as_array().unwrap().iter();
    let versions = events.map(|event| event["version"].as_i64().unwrap());
    (versions.collect(), page["next_cursor"].clone())
}

#[tokio::test]
async fn pruning_deletes_old_rows_and_keeps_visible_ones() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let id = set_age(&app, &ada).await;
    let before = ada.connection(&id.to_string()).await;
    assert_eq!(history(&ada, id, "?limit=1").await, (vec![4], json!(4)));
    let seen = super::event_streams::ids(&app).await;
    app.advance(TimeDelta::days(399));
    assert_eq!(prune(&app).await, Pruned::default());
    app.advance(TimeDelta::days(2));
    let ada = app.user("ada").await;
    ada.connect("github").await;

    let expected = Pruned {
        uses: 1,
        attempts: 1,
        events: 3,
    };
    assert_eq!(prune(&app).await, expected);
    assert_eq!(prune(&app).await, Pruned::default());
    let after = ada.connection(&id.to_string()).await;
    assert_eq!(after["attempt"], before["attempt"]);
    assert_eq!(after["connected_at"], before["connected_at"]);
    for query in ["", "?limit=1"] {
        assert_eq!(history(&ada, id, query).await, (vec![4], Value::Null));
    }
    let accesses = ada.get(&format!("/connections/{id}/accesses")).await;
    assert_eq!(accesses["accesses"], json!([]));
    // A reader whose last event was pruned must reload; a reader whose last event remains resumes after it.
    let mut gone = StreamReader::open(&ada, Some(&seen[0])).await;
    assert_eq!(gone.ready["resumed"], false);
    let mut left = StreamReader::open(&ada, Some(&seen[3])).await;
    assert_eq!(left.ready["resumed"], true);
    assert_eq!(left.next().await.unwrap()["kind"], "attempt_started");
    ada.connect("notion").await;
    for stream in [&mut gone, &mut left] {
        assert_eq!(stream.next().await.unwrap()["kind"], "attempt_started");
    }
}

#[tokio::test]
async fn connection_with_pruned_attempt_is_not_an_orphan() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let id = set_age(&app, &ada).await;
    let stored = app.nango_connections().await;
    app.advance(TimeDelta::days(401));
    assert_eq!(prune(&app).await.attempts, 1);
    let report = app.sweep().await;
    assert_eq!((report.listed, report.orphans), (1, 0));
    assert_eq!(app.nango_connections().await, stored);
    let ada = app.user("ada").await;
    let connection = ada.connection(&id.to_string()).await;
    assert_eq!(connection["status"], "connected");
    let (_, ended) = ada.disconnect("gmail", "").await;
    assert_eq!(ended["upstream_deleted"], true);
    assert!(app.nango_connections().await.is_empty());
}

#[tokio::test]
async fn pruning_keeps_events_with_pending_deliveries() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let id = set_age(&app, &ada).await;
    let mut sql = app.sql().await;
    sqlx::raw_sql(
        "insert into webhook_endpoint (id, url, secret, created_at) values ('whe_1', 'https://example.com', '', now()); \
         insert into webhook_delivery (user_id, endpoint_id, connection_id, event_id, created_at) \
         select user_id, 'whe_1', connection_id, id, '2030-01-01' from connection_event where version = 2",
    )
    .execute(&mut sql)
    .await
    .unwrap();
    app.advance(TimeDelta::days(401));
    assert_eq!(prune(&app).await.events, 2);
    assert_eq!(count(&mut sql, "webhook_delivery").await, 1);
    let ada = app.user("ada").await;
    assert_eq!(history(&ada, id, "").await, (vec![4, 2], Value::Null));
    sqlx::raw_sql("delete from webhook_delivery")
        .execute(&mut sql)
        .await
        .unwrap();
    assert_eq!(prune(&app).await.events, 1);
}

/// Records the number of rows that each statement deletes.
const LOG_BATCHES: &str = "
    create table deleted_batch (rows bigint);
    create function log_batch() returns trigger language plpgsql as $$
    begin insert into deleted_batch select count(*) from gone; return null; end $$;
    create trigger log_batch after delete on token_access
      referencing old table as gone for each statement execute function log_batch();
    create trigger log_batch after delete on connect_attempt
      referencing old table as gone for each statement execute function log_batch();
    create trigger log_batch after delete on connection_event
      referencing old table as gone for each statement execute function log_batch();";

/// 2500 prunable rows of each kind for each connection, and 1500 that must be kept.
const OLD_ROWS: &str = "
    insert into token_access (connection_id, user_id, service, purpose, used_at)
    select id, user_id, 'engine', 'token', '2020-01-01' from user_connector_connection, generate_series(1, 2500);
    insert into token_access (connection_id, user_id, service, purpose, used_at)
    select id, user_id, 'engine', 'token', updated_at from user_connector_connection, generate_series(1, 1500);
    insert into connect_attempt
      (user_id, id, connection_id, kind, integration_key, expires_at, outcome, created_at, ended_at)
    select user_id, ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, id, 'connect', 'gmail', '2020-01-01', 'expired',
           '2020-01-01', case when n > 1500 then '2020-01-01'::timestamptz else updated_at end
    from user_connector_connection, generate_series(1, 4000) n;
    update user_connector_connection set version = 3000;
    insert into connection_event (user_id, id, connection_id, version, kind, status, created_at)
    select user_id, gen_random_uuid(), id, case when n > 1500 then n - 1400 else n + 3000 end, 'updated', 'pending', '2020-01-01'
    from user_connector_connection, generate_series(1, 4000) n;";

#[tokio::test]
async fn pruning_deletes_in_small_batches() {
    let app = TestApp::new().await;
    app.user("ada").await.connect("gmail").await;
    let mut sql = app.sql().await;
    for statements in [OLD_ROWS, LOG_BATCHES] {
        sqlx::raw_sql(statements).execute(&mut sql).await.unwrap();
    }
    let expected = Pruned {
        uses: 2500,
        attempts: 2500,
        events: 2500,
    };
    assert_eq!(prune(&app).await, expected);
    for (table, left) in [
        ("token_access", 1500),
        ("connect_attempt", 1501),
        ("connection_event", 1501),
    ] {
        assert_eq!(count(&mut sql, table).await, left, "{table}");
    }
    let largest: i64 = sqlx::query_scalar("select max(rows) from deleted_batch")
        .fetch_one(&mut sql)
        .await
        .unwrap();
    assert_eq!(largest, 1000);
}

#[tokio::test]
async fn concurrent_prunings_run_once() {
    let app = TestApp::new().await;
    let (one, other) = (app.service().await, app.service().await);
    let daily = Duration::from_secs(24 * 3600);
    let done = tokio::join!(one.retention.prune(daily), other.retention.prune(daily));
    let done = [done.0.unwrap(), done.1.unwrap()];
    assert_eq!(done.iter().flatten().count(), 1);
    assert_eq!(one.retention.prune(daily).await.unwrap(), None);
}

#[tokio::test]
async fn old_idempotency_keys_and_deliveries_are_all_deleted() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    ada.connect("gmail").await;
    let mut sql = app.sql().await;
    sqlx::raw_sql(
        "insert into idempotency_key (user_id, key, fingerprint, created_at) \
         select 'ada', n::text, '', now() - interval '2 days' from generate_series(1, 1200) n; \
         insert into webhook_endpoint (id, url, secret, created_at) values ('whe_1', 'https://example.com', '', now()); \
         insert into webhook_delivery (user_id, endpoint_id, connection_id, event_id, created_at) \
         select user_id, 'whe_1', connection_id, id, '2020-01-01' from connection_event, generate_series(1, 2500)",
    )
    .execute(&mut sql)
    .await
    .unwrap();
    app.service()
        .await
        .retention
        .delete_expired_keys()
        .await
        .unwrap();
    let hooks = crate::outgoing_webhooks::webhooks(&app).await;
    hooks.prune_deliveries().await.unwrap();
    assert_eq!(count(&mut sql, "idempotency_key").await, 0);
    assert_eq!(count(&mut sql, "webhook_delivery").await, 0);
}
