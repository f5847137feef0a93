//! The schema, and replicas that start together.

mod clocks;
pub(crate) mod hung_connections;
mod locks;
mod odd_rows;
mod old_server;
mod read_only;
mod roles;
mod schema_damage;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use patchbay::catalog::{Catalog, CatalogMode};
use patchbay::clock::Clock;
use patchbay::db::DatabaseError;
use patchbay::encryption::Encryption;
use patchbay::service::{Services, Settings};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::task::JoinSet;

use crate::eventually::eventually_locked;
use crate::test_app::TestApp;
use crate::test_database::{self, TestDatabase};

/// Creates a database with the schema and the catalog. Returns it with a connection.
async fn seeded_database() -> (TestDatabase, PgConnection) {
    let database = test_database::database().await;
    start_replica(database.url().to_owned()).await;
    let connection = PgConnection::connect(database.url()).await.unwrap();
    (database, connection)
}

/// Runs the database operations of a starting replica.
pub(crate) async fn start_replica(url: String) {
    let database = test_database::pool(url, 3).await.unwrap();
    database.migrate().await.unwrap();
    let catalog = Arc::new(Catalog::builtin());
    let settings = Settings {
        public_url: "http://localhost".parse().unwrap(),
        catalog_mode: CatalogMode::All,
        webhook_base_url: "http://localhost".parse().unwrap(),
        token_cache: Duration::ZERO,
        history: TimeDelta::days(1),
        encryption: Encryption::default(),
    };
    let connections = Services::new(database.clone(), catalog, None, Clock::System, settings);
    connections.await.unwrap();
    database.close().await;
}

#[tokio::test]
async fn concurrent_starts_migrate_and_seed_once() {
    for _ in 0..5 {
        let database = test_database::database().await;
        let mut replicas = JoinSet::new();
        for _ in 0..8 {
            replicas.spawn(start_replica(database.url().to_owned()));
        }
        replicas.join_all().await;
        let mut sql = PgConnection::connect(database.url()).await.unwrap();
        let counts: (i64, i64) = sqlx::query_as(
            "select (select count(*) from connector where enabled), \
                    (select count(*) - count(distinct version) from _sqlx_migrations)",
        )
        .fetch_one(&mut sql)
        .await
        .unwrap();
        assert_eq!(counts, (99, 0));
    }
}

/// Returns everything that a migration or the seed could have written again.
async fn fingerprint(sql: &mut PgConnection) -> Vec<String> {
    sqlx::query_scalar(
        "select to_jsonb(m)::text from _sqlx_migrations m \
         union all select to_jsonb(c)::text from connector c order by 1",
    )
    .fetch_all(sql)
    .await
    .unwrap()
}

#[tokio::test]
async fn second_start_changes_nothing() {
    let (database, mut sql) = seeded_database().await;
    let before = fingerprint(&mut sql).await;
    start_replica(database.url().to_owned()).await;
    assert_eq!(fingerprint(&mut sql).await, before);
}

#[tokio::test]
async fn migrate_rejects_changed_checksum() {
    let (database, mut sql) = seeded_database().await;
    let patchbay = test_database::pool(database.url(), 3).await.unwrap();
    sqlx::raw_sql("update _sqlx_migrations set checksum = 'x' where version = 1")
        .execute(&mut sql)
        .await
        .unwrap();
    let changed = patchbay.migrate().await.unwrap_err();
    assert!(
        matches!(changed, DatabaseError::MigrationChanged(1)),
        "{changed}"
    );
}

#[tokio::test]
async fn failed_migration_is_rolled_back() {
    let database = test_database::database().await;
    let mut sql = PgConnection::connect(database.url()).await.unwrap();
    sqlx::raw_sql("create table upstream_deletion (in_the_way int)")
        .execute(&mut sql)
        .await
        .unwrap();
    let patchbay = test_database::pool(database.url(), 3).await.unwrap();
    let failed = patchbay.migrate().await.unwrap_err();
    assert!(
        matches!(failed, DatabaseError::Migration { version: 1, .. }),
        "{failed}"
    );
    let tables: Vec<String> =
        sqlx::query_scalar("select tablename::text from pg_tables where schemaname = 'public'")
            .fetch_all(&mut sql)
            .await
            .unwrap();
    assert_eq!(tables, ["upstream_deletion"]);
}

/// Asserts that a valid row, changed by `case`, violates this constraint.
async fn connect_error(sql: &mut PgConnection, base: &str, case: &str, constraint: &str) {
    let mut tx = sql.begin().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(base.to_owned()))
        .execute(&mut *tx)
        .await
        .unwrap();
    let error = sqlx::raw_sql(AssertSqlSafe(case.to_owned()))
        .execute(&mut *tx)
        .await
        .expect_err(case);
    let error = error.as_database_error().unwrap();
    assert_eq!(error.constraint(), Some(constraint), "{case}: {error}");
    tx.rollback().await.unwrap();
}

const CONNECTION: &str = "
    insert into user_connector_connection
      (id, user_id, connector_id, status, status_reason, created_at, updated_at)
    select '00000000-0000-7000-8000-000000000001', 'ada', id, 'pending', 'awaiting_authorization', now(), now()
    from connector where slug = 'gmail';
    insert into connect_attempt (user_id, id, connection_id, kind, integration_key, expires_at, created_at)
    values ('ada', '00000000-0000-7000-8000-00000000000a', '00000000-0000-7000-8000-000000000001', 'connect', 'gmail', now(), now());
    insert into connection_event (user_id, id, connection_id, version, kind, status, created_at)
    values ('ada', gen_random_uuid(), '00000000-0000-7000-8000-000000000001', 1, 'attempt_started', 'pending', now());
    insert into webhook_endpoint (id, url, secret, created_at) values ('whe_1', 'https://example.com', '', now());";

/// Invalid changes of the connection, and the constraint that rejects each.
const INVALID_ROWS: &[(&str, &str)] = &[
    ("account_name = 'Ada'", "user_connector_connection_account"),
    (
        "pending_account_id = '7'",
        "user_connector_connection_pending_account",
    ),
    (
        "status = 'error', status_reason = 'account_mismatch'",
        "user_connector_connection_pending_account",
    ),
    ("status = 'unknown'", "connection_status_known"),
    (
        "status = 'error', status_reason = 'of another version'",
        "status_reason_known",
    ),
    ("created_at = 'infinity'", "utc_time_range"),
    ("updated_at = '-infinity'", "utc_time_range"),
    ("last_synced_at = '1969-12-31 23:59:59Z'", "utc_time_range"),
    (
        "last_checked_at = '10000-01-01 00:00:00Z'",
        "utc_time_range",
    ),
    ("user_id = U&'a\\0001b'", "user_id_text_form"),
    ("user_id = U&'a\\0085b'", "user_id_text_form"),
    (
        "attempt_id = gen_random_uuid()",
        "user_connector_connection_attempt",
    ),
    (
        "attempt_kind = 'connect'",
        "user_connector_connection_attempt",
    ),
    ("version = 0", "user_connector_connection_version_check"),
    ("status_reason = null", "user_connector_connection_state"),
    (
        "status_reason = 'user_disconnected'",
        "user_connector_connection_state",
    ),
    (
        "status = 'connected', status_reason = null",
        "user_connector_connection_state",
    ),
    (
        "status = 'connected', status_reason = null, connected_at = now()",
        "user_connector_connection_state",
    ),
    (
        "status = 'connected', status_reason = null, nango_connection_id = 'n', nango_created_at = now(), integration_key = 'i'",
        "user_connector_connection_state",
    ),
    (
        "status = 'connected', connected_at = now(), nango_connection_id = 'n', nango_created_at = now(), integration_key = 'i'",
        "user_connector_connection_state",
    ),
    (
        "status = 'disconnected', status_reason = 'user_disconnected'",
        "user_connector_connection_state",
    ),
    (
        "status = 'disconnected', status_reason = null, disconnected_at = now()",
        "user_connector_connection_state",
    ),
    (
        "status = 'disconnected', status_reason = 'user_disconnected', disconnected_at = now(), nango_connection_id = 'n', nango_created_at = now(), integration_key = 'i'",
        "user_connector_connection_state",
    ),
    (
        "status = 'error', status_reason = null",
        "user_connector_connection_state",
    ),
    (
        "nango_connection_id = 'n'",
        "user_connector_connection_upstream",
    ),
    (
        "nango_connection_id = 'n', nango_created_at = now()",
        "user_connector_connection_upstream",
    ),
    (
        "integration_key = 'i'",
        "user_connector_connection_upstream",
    ),
    ("provider = 'p'", "user_connector_connection_upstream"),
    (
        "nango_created_at = now()",
        "user_connector_connection_upstream",
    ),
    ("user_id = ''", "user_id_text_form"),
    ("user_id = repeat('a', 256)", "user_id_text_form"),
    (
        "instance_id = repeat('a', 256)",
        "user_connector_connection_instance_id_check",
    ),
    ("label = ''", "user_connector_connection_label_check"),
    ("config = '[]'", "user_connector_connection_config_check"),
    (
        "error_count = -1",
        "user_connector_connection_error_count_check",
    ),
    (
        "connector_id = gen_random_uuid()",
        "user_connector_connection_connector_id_fkey",
    ),
];

/// Invalid statements on related tables, and the constraint that rejects each.
const INVALID_RELATED_ROWS: &[(&str, &str)] = &[
    (
        "insert into user_connector_connection (user_id, id, connector_id, instance_id, status, status_reason, created_at, updated_at) select user_id, gen_random_uuid(), connector_id, instance_id, status, status_reason, created_at, updated_at from user_connector_connection",
        "user_connector_connection_instance_key",
    ),
    (
        "update connect_attempt set outcome = 'succeeded'",
        "connect_attempt_end",
    ),
    (
        "update connect_attempt set ended_at = now()",
        "connect_attempt_end",
    ),
    (
        "update connect_attempt set outcome = 'lost', ended_at = now()",
        "attempt_outcome_known",
    ),
    (
        "update connect_attempt set kind = 'guess'",
        "attempt_kind_known",
    ),
    (
        "insert into connect_attempt (user_id, id, connection_id, kind, integration_key, expires_at, created_at) select user_id, gen_random_uuid(), connection_id, kind, integration_key, now(), now() from connect_attempt",
        "connect_attempt_open",
    ),
    (
        "insert into connection_event (user_id, id, connection_id, version, kind, status, created_at) select user_id, gen_random_uuid(), connection_id, version, kind, status, now() from connection_event",
        "connection_event_version",
    ),
    (
        "update connection_event set kind = 'labelled'",
        "connection_event_kind_check",
    ),
    (
        "update connect_attempt set user_id = 'ben'",
        "connect_attempt_user_id_connection_id_fkey",
    ),
    (
        "update connect_attempt set error_code = 'of another version'",
        "status_reason_known",
    ),
    (
        "update webhook_endpoint set url = 'nowhere'",
        "webhook_endpoint_url_check",
    ),
    (
        "insert into attempt_owner (attempt_id, user_id, due_at, kept_until) values (gen_random_uuid(), 'ada', now(), now())",
        "attempt_owner_erased",
    ),
    (
        "insert into job (name, finished_at) values ('sweep', 'infinity')",
        "utc_time_range",
    ),
];

#[tokio::test]
async fn constraints_reject_inconsistent_rows() {
    let (_database, mut sql) = seeded_database().await;
    for (columns, constraint) in INVALID_ROWS {
        let case = format!("update user_connector_connection set {columns}");
        connect_error(&mut sql, CONNECTION, &case, constraint).await;
    }
    for (case, constraint) in INVALID_RELATED_ROWS {
        connect_error(&mut sql, CONNECTION, case, constraint).await;
    }
}

/// A change may occur between two statements: one response must not combine two points in time.
#[tokio::test]
async fn connection_and_attempt_are_read_from_one_snapshot() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let started = ada.connect("gmail").await;
    let mut sql = app.sql().await;
    sqlx::raw_sql("begin; lock table connect_attempt in access exclusive mode")
        .execute(&mut sql)
        .await
        .unwrap();
    let path = format!(
        "/connections/{}",
        started["connection_id"].as_str().unwrap()
    );
    let change = async {
        eventually_locked(&mut sql).await;
        sqlx::raw_sql(
            "update user_connector_connection set status = 'connected', status_reason = null, \
               connected_at = now(), nango_connection_id = 'n', nango_created_at = now(), integration_key = 'gmail', \
               attempt_outcome = 'succeeded', attempt_ended_at = now(); \
             update connect_attempt set outcome = 'succeeded', ended_at = now(); commit",
        )
        .execute(&mut sql)
        .await
        .unwrap();
    };
    let (reported, ()) = tokio::join!(ada.get(&path), change);
    let both = (&reported["status"], &reported["attempt"]["outcome"]);
    let (before, after) = (
        (&json!("pending"), &json!(null)),
        (&json!("connected"), &json!("succeeded")),
    );
    assert!(both == before || both == after, "{reported:#}");
}

/// The FastAPI service had one index per column. The primary key, the unique key and the indexes on Nango's id, the
/// connector and the status serve the same queries.
#[tokio::test]
async fn connection_queries_use_indexes() {
    let (_database, mut sql) = seeded_database().await;
    sqlx::raw_sql(
        "insert into user_connector_connection
           (id, user_id, connector_id, instance_id, nango_connection_id, nango_created_at, integration_key,
            status, status_reason, connected_at, created_at, updated_at)
         select gen_random_uuid(), 'user ' || n % 500, (select id from connector order by slug offset n % 99 limit 1),
                n::text, 'nango ' || n, now(), 'gmail', case when n % 100 = 0 then 'error' else 'connected' end,
                case when n % 100 = 0 then 'needs_reauthorization' end, now(), now(), now()
         from generate_series(1, 20000) n;
         analyze user_connector_connection",
    )
    .execute(&mut sql)
    .await
    .unwrap();
    for (condition, index) in [
        ("user_id = 'user 7'", "user_connector_connection_"),
        (
            "connector_id = (select id from connector where slug = 'gmail')",
            "user_connector_connection_connector",
        ),
        (
            "nango_connection_id = 'nango 7'",
            "user_connector_connection_nango",
        ),
        ("status = 'error'", "user_connector_connection_status"),
        (
            "user_id = 'user 7' and connector_id = (select id from connector where slug = 'gmail')",
            "user_connector_connection_instance_key",
        ),
        (
            "user_id = 'user 7' order by id desc limit 20",
            "user_connector_connection_pkey",
        ),
        (
            "user_id = 'user 7' and nango_connection_id = 'nango 7'",
            "user_connector_connection_nango",
        ),
    ] {
        let statement = format!("select * from user_connector_connection where {condition}");
        let plan = plan(&mut sql, &statement).await;
        assert!(
            !plan.contains("Seq Scan on user_connector_connection"),
            "{condition}:\n{plan}"
        );
        assert!(
            plan.contains(&format!("on {index}")) || plan.contains(&format!("using {index}")),
            "{condition}:\n{plan}"
        );
    }
}

/// Returns PostgreSQL's plan of a statement.
async fn plan(sql: &mut PgConnection, statement: &str) -> String {
    let explain = AssertSqlSafe(format!("explain {statement}"));
    let lines: Vec<String> = sqlx::query_scalar(explain).fetch_all(sql).await.unwrap();
    lines.join("\n")
}

#[tokio::test]
async fn job_queries_use_indexes() {
    let (_database, mut sql) = seeded_database().await;
    sqlx::raw_sql(
        "insert into user_connector_connection
           (id, user_id, connector_id, nango_connection_id, nango_created_at, integration_key, status, connected_at,
            created_at, updated_at)
         select gen_random_uuid(), 'user ' || n, (select id from connector where slug = 'gmail'),
                'nango ' || n, now(), 'gmail', 'connected', now(), now(), now()
         from generate_series(1, 20000) n;
         insert into upstream_deletion
           (nango_connection_id, integration_key, connection_id, reason, next_attempt_at, created_at)
         select 'nango ' || n, 'gmail', gen_random_uuid(), 'disconnected', now(), now() from generate_series(1, 20000) n;
         analyze user_connector_connection, upstream_deletion",
    )
    .execute(&mut sql)
    .await
    .unwrap();
    for (statement, index) in [
        (
            "select * from user_connector_connection \
             where connector_id = (select id from connector where slug = 'gmail') and status = 'connected' \
               and user_id <> all(array['user 1', 'user 20000']) \
             order by failing_since nulls first, nango_created_at desc limit 3",
            "using user_connector_connection_siblings",
        ),
        (
            "select * from upstream_deletion where connection_id = '00000000-0000-7000-8000-000000000001'",
            "upstream_deletion_connection",
        ),
    ] {
        let plan = plan(&mut sql, statement).await;
        assert!(plan.contains(index), "{statement}:\n{plan}");
        assert!(!plan.contains("Sort"), "{statement}:\n{plan}");
    }
}
