//! Roles with few privileges, and schemas other than `public`.

use patchbay::cli::doctor::Level;
use patchbay::db::DatabaseError;
use reqwest::Method;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use url::Url;
use uuid::Uuid;

use super::start_replica;
use crate::doctor::{failures, run_doctor};
use crate::eventually::{eventually, eventually_value};
use crate::test_app::TestApp;
use crate::test_database;

#[tokio::test]
async fn role_without_create_starts_only_on_migrated_schema() {
    let app = TestApp::with_system_clock().await;
    let database = test_database::database().await;
    let role = format!("role_{}", Uuid::new_v4().simple());
    let mut sql = PgConnection::connect(database.url()).await.unwrap();
    let create = format!(
        "create role {role} login password 'few'; revoke create on schema public from public"
    );
    sqlx::raw_sql(AssertSqlSafe(create))
        .execute(&mut sql)
        .await
        .unwrap();
    let mut url = Url::parse(database.url()).unwrap();
    url.set_username(&role).unwrap();
    url.set_password(Some("few")).unwrap();

    let patchbay = test_database::pool(url.as_str(), 3).await.unwrap();
    let refused = patchbay.migrate().await.unwrap_err();
    assert!(matches!(refused, DatabaseError::Privilege(..)), "{refused}");
    assert!(
        refused.to_string().contains("grant usage, create"),
        "{refused}"
    );
    let report = run_doctor(&app, &[("DATABASE_URL", url.as_str())], None).await;
    let found = failures(&report);
    let write = found
        .iter()
        .find(|it| it.0 == "database write")
        .expect("it cannot write");
    assert_eq!(write.1, Level::Fail, "{found:?}");
    assert!(
        write.2.contains("permission denied") && write.3.contains("create"),
        "{found:?}"
    );

    start_replica(database.url().to_owned()).await;
    let refused = patchbay.migrate().await.unwrap_err();
    assert!(matches!(refused, DatabaseError::Privilege(..)), "{refused}");
    let grant = format!(
        "grant select, insert, update, delete on all tables in schema public to {role}; \
                         grant usage on all sequences in schema public to {role}"
    );
    sqlx::raw_sql(AssertSqlSafe(grant))
        .execute(&mut sql)
        .await
        .unwrap();
    start_replica(url.to_string()).await;
    let report = run_doctor(&app, &[("DATABASE_URL", url.as_str())], None).await;
    assert_eq!(failures(&report), [], "{report}");
    patchbay.close().await;
    let drop = format!("drop owned by {role}; drop role {role}");
    sqlx::raw_sql(AssertSqlSafe(drop))
        .execute(&mut sql)
        .await
        .unwrap();
}

#[tokio::test]
async fn changed_password_is_an_outage_until_it_is_corrected() {
    let app = TestApp::with_system_clock().await;
    let role = format!("role_{}", Uuid::new_v4().simple());
    let mut sql = app.sql().await;
    let mut run = async |statement: String| {
        let statement = AssertSqlSafe(statement);
        sqlx::raw_sql(statement).execute(&mut sql).await.unwrap();
    };
    run(format!("create role {role} superuser login password 'old'")).await;
    let mut url = Url::parse(
        &app.settings(&[])
            .iter()
            .find(|it| it.0 == "DATABASE_URL")
            .unwrap()
            .1,
    )
    .unwrap();
    url.set_username(&role).unwrap();
    url.set_password(Some("old")).unwrap();
    let replica = app.replica(&[("DATABASE_URL", url.as_str())]).await;
    let ada = app.user("ada").await;
    let ada = ada.at(&replica);
    ada.get("/connections").await;
    run(format!(
        "alter role {role} password 'new'; \
         select pg_terminate_backend(pid) from pg_stat_activity where usename = '{role}'"
    ))
    .await;
    for path in ["/api/v1/connectors/connections", "/readyz"] {
        let request = async || {
            let request = app.client.get(format!("{}{path}", replica.url));
            let response = request.bearer_auth(&ada.token).send().await.unwrap();
            (response.status(), response.json::<Value>().await.unwrap())
        };
        let (_, problem) = eventually_value(request, |last| last.0 != 200).await;
        assert_eq!(problem["code"], "database_unavailable", "{path}: {problem}");
        assert!(problem["retry_after"].is_number(), "{path}: {problem}");
    }
    run(format!("alter role {role} password 'old'")).await;
    eventually(async || ada.call(Method::GET, "/connections", None).await.0 == 200).await;
    drop(replica);
}

#[tokio::test]
async fn database_that_admits_no_connection_is_an_outage() {
    let app = TestApp::with_system_clock().await;
    let other = test_database::database().await;
    let mut server = PgConnection::connect(other.url()).await.unwrap();
    let name: String = sqlx::query_scalar("select current_database()")
        .fetch_one(&mut app.sql().await)
        .await
        .unwrap();
    let mut run = async |statement: String| {
        let statement = AssertSqlSafe(statement);
        sqlx::raw_sql(statement).execute(&mut server).await.unwrap();
    };
    run(format!("alter database {name} allow_connections false")).await;
    run(format!(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'"
    ))
    .await;
    let request = async || {
        let response = app.client.get(format!("{}/readyz", app.url)).send().await;
        let response = response.unwrap();
        (response.status(), response.json::<Value>().await.unwrap())
    };
    for _ in 0..20 {
        let (status, problem) = request().await;
        assert!(
            status == 200 || problem["code"] == "database_unavailable",
            "{problem}"
        );
    }
    eventually_value(request, |last| last.0 == 503).await;
    run(format!("alter database {name} allow_connections true")).await;
    eventually_value(request, |last| last.0 == 200).await;
}

#[tokio::test]
async fn search_path_without_schema_is_reported() {
    let app = TestApp::with_system_clock().await;
    let database = test_database::database().await;
    let mut url = Url::parse(database.url()).unwrap();
    url.query_pairs_mut().append_pair("schema", "nowhere");
    let patchbay = test_database::pool(url.as_str(), 3).await.unwrap();
    let refused = patchbay.migrate().await.unwrap_err();
    assert!(matches!(refused, DatabaseError::NoSchema(_)), "{refused}");
    assert!(
        refused
            .to_string()
            .contains("search_path \"nowhere\" exists"),
        "{refused}"
    );
    let report = run_doctor(&app, &[("DATABASE_URL", url.as_str())], None).await;
    let found = failures(&report);
    let write = found
        .iter()
        .find(|it| it.0 == "database write")
        .expect("it cannot write");
    assert!(write.2.contains("nowhere"), "{found:?}");
}
