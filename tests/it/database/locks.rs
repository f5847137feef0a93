//! Long locks of another transaction.

use std::time::Duration;

use futures::future::join_all;
use patchbay::db::Database;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::PgConnection;
use url::Url;

use crate::eventually::{eventually, eventually_locked, eventually_value};
use crate::test_app::TestApp;
use crate::test_database;

/// Locks all connections' rows until the transaction ends.
async fn lock_connections(sql: &mut PgConnection) {
    sqlx::raw_sql("begin; select from user_connector_connection for update")
        .execute(sql)
        .await
        .unwrap();
}

/// Returns the number of the service's statements that wait for a lock.
async fn waiting_statements(app: &TestApp) -> i64 {
    sqlx::query_scalar(
        "select count(*) from pg_stat_activity where wait_event_type = 'Lock' \
           and datname = current_database() and application_name = 'patchbay'",
    )
    .fetch_one(&mut app.sql().await)
    .await
    .unwrap()
}

#[tokio::test]
async fn readiness_has_retry_after_when_database_hangs() {
    let app = TestApp::new().await;
    let mut sql = app.sql().await;
    sqlx::raw_sql("begin; lock table installation in access exclusive mode")
        .execute(&mut sql)
        .await
        .unwrap();
    // A result from before the lock is cached for half a second.
    let ready = format!("{}/readyz", app.url);
    let readiness = async || app.client.get(&ready).send().await.unwrap();
    let answer = eventually_value(readiness, |answer| answer.status() != StatusCode::OK).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers()["retry-after"], "5");
    let problem: Value = answer.json().await.unwrap();
    assert_eq!(problem["code"], "database_unavailable");
    assert_eq!(problem["retry_after"], 5);
}

#[tokio::test]
async fn locked_row_leaves_connections_for_other_users() {
    let app = TestApp::without_webhooks().await;
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    app.faults(json!({ "consent": "allow" })).await;
    let started = ada.connect("gmail").await;
    app.popup(started["oauth_url"].as_str().unwrap()).await;
    let path = format!(
        "/connections/{}",
        started["connection_id"].as_str().unwrap()
    );
    let mut sql = app.sql().await;
    lock_connections(&mut sql).await;
    let waited = format!("{path}?wait=8");
    let polls = join_all((0..8).map(|_| ada.call(Method::GET, &waited, None)));
    let others = async {
        eventually_locked(&mut app.sql().await).await;
        for _ in 0..20 {
            assert_eq!(
                ben.call(Method::GET, "/connections", None).await.0,
                StatusCode::OK
            );
            let ready = app.client.get(format!("{}/readyz", app.url)).send().await;
            assert_eq!(ready.unwrap().status(), StatusCode::OK);
            assert!(waiting_statements(&app).await <= 3);
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    };
    let (polled, ()) = tokio::join!(polls, others);
    for (status, body) in polled {
        assert_eq!(status, StatusCode::OK, "{body}");
    }
    sqlx::raw_sql("rollback").execute(&mut sql).await.unwrap();
    assert_eq!(
        ada.get(&format!("{path}?wait=10")).await["status"],
        "connected"
    );
}

#[tokio::test]
async fn write_of_locked_row_is_refused_as_temporary() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let started = ada.connect("gmail").await;
    let path = format!(
        "/connections/{}",
        started["connection_id"].as_str().unwrap()
    );
    let mut sql = app.sql().await;
    lock_connections(&mut sql).await;
    let request = ada
        .request(Method::PATCH, &path)
        .json(&json!({ "label": "x" }));
    let refused = request.send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["retry-after"], "1");
    let request = ada
        .request(Method::PATCH, &path)
        .json(&json!({ "label": "x" }));
    let abandoned = request.timeout(Duration::from_millis(500)).send().await;
    assert!(abandoned.is_err());
    eventually(async || waiting_statements(&app).await == 0).await;
    sqlx::raw_sql("rollback").execute(&mut sql).await.unwrap();
    let (status, _) = ada
        .call(Method::PATCH, &path, Some(json!({ "label": "x" })))
        .await;
    assert_eq!(status, StatusCode::OK);
}

/// Returns the settings of a transaction.
async fn settings(database: &Database) -> Vec<String> {
    let mut tx = database.begin().await.unwrap();
    sqlx::query_scalar(
        "select name || ' ' || setting from pg_settings where name in ('lock_timeout', 'statement_timeout', \
           'idle_in_transaction_session_timeout', 'transaction_isolation', 'search_path') order by name",
    )
    .fetch_all(&mut tx)
    .await
    .unwrap()
}

#[tokio::test]
async fn transactions_have_timeouts_and_isolation_of_their_own() {
    let database = test_database::database().await;
    let name = Url::parse(database.url()).unwrap().path()[1..].to_owned();
    let direct = test_database::pool(database.url(), 1).await.unwrap();
    let mut tx = direct.begin().await.unwrap();
    for setting in [
        "default_transaction_isolation = serializable",
        "lock_timeout = 0",
    ] {
        let alter = sqlx::AssertSqlSafe(format!("alter database {name} set {setting}"));
        sqlx::raw_sql(alter).execute(&mut tx).await.unwrap();
    }
    sqlx::raw_sql("create schema app")
        .execute(&mut tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    for parameters in [
        "schema=app",
        "schema=app&pgbouncer=true",
        "options=-c%20search_path%3Dapp",
    ] {
        let mut url = Url::parse(database.url()).unwrap();
        url.set_query(Some(&format!("sslmode=disable&{parameters}")));
        let patchbay = test_database::pool(url, 1).await.unwrap();
        let found = settings(&patchbay).await;
        assert_eq!(
            found[0], "idle_in_transaction_session_timeout 15000",
            "{parameters}"
        );
        assert_eq!(found[1], "lock_timeout 4000", "{parameters}");
        assert_eq!(found[2].replace('"', ""), "search_path app", "{parameters}");
        assert_eq!(found[3], "statement_timeout 8000", "{parameters}");
        assert_eq!(
            found[4], "transaction_isolation read committed",
            "{parameters}"
        );
        patchbay.migrate().await.unwrap();
        let tables =
            "select count(*) from pg_tables where schemaname = 'app' and tablename = 'job'";
        let tables = sqlx::query_scalar(tables).fetch_one(&patchbay).await;
        let tables: i64 = tables.unwrap();
        assert_eq!(tables, 1, "{parameters}");
    }
}

#[tokio::test]
async fn concurrent_connects_succeed_with_serializable_default() {
    let database = test_database::database().await;
    let name = Url::parse(database.url()).unwrap().path()[1..].to_owned();
    let alter = format!("alter database {name} set default_transaction_isolation = serializable");
    let patchbay = test_database::pool(database.url(), 1).await.unwrap();
    let mut tx = patchbay.begin().await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(alter))
        .execute(&mut tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let app = TestApp::build_on(database, None, &[], |_| {}).await;
    let ada = app.user("ada").await;
    let connectors = ["gmail", "github", "asana", "box", "bitbucket", "airtable"];
    let connects = connectors.iter().cycle().take(24).map(async |connector| {
        ada.call(Method::POST, &format!("/{connector}/connect"), None)
            .await
    });
    for (status, body) in join_all(connects).await {
        assert_eq!(status, StatusCode::OK, "{body}");
    }
}
