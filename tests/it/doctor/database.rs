//! The database and its schema.

use patchbay::cli::doctor::Level;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use url::Url;

use super::{failures, run_doctor, single_finding};
use crate::test_app::TestApp;
use crate::test_database;

#[tokio::test]
async fn database_check_reports_each_problem() {
    let app = TestApp::with_system_clock().await;
    let gone = "postgres://nobody@127.0.0.1:9/nowhere";
    let report = run_doctor(&app, &[("DATABASE_URL", gone)], None).await;
    single_finding(
        &report,
        "database",
        Level::Fail,
        "cannot be reached",
        "start the database",
    );

    let settings = app.settings(&[]);
    let url = settings.iter().find(|(name, _)| *name == "DATABASE_URL");
    let mut elsewhere: Url = url.unwrap().1.parse().unwrap();
    elsewhere.set_path("no_such_database");
    let report = run_doctor(&app, &[("DATABASE_URL", elsewhere.as_str())], None).await;
    single_finding(
        &report,
        "database",
        Level::Fail,
        "refuses",
        "correct the user, password or database",
    );

    let empty = test_database::database().await;
    let report = run_doctor(&app, &[("DATABASE_URL", empty.url())], None).await;
    single_finding(
        &report,
        "migrations",
        Level::Warn,
        "not applied yet",
        "the next start",
    );

    let before = test_database::database().await;
    let mut sql = PgConnection::connect(before.url()).await.unwrap();
    let schema = include_str!("../../data/legacy_schema/schema.sql");
    sqlx::raw_sql(schema).execute(&mut sql).await.unwrap();
    let report = run_doctor(&app, &[("DATABASE_URL", before.url())], None).await;
    single_finding(
        &report,
        "migrations",
        Level::Warn,
        "the tables of the FastAPI service",
        "`patchbay migrate` or the next start imports them",
    );

    let mut pooled: Url = url.unwrap().1.parse().unwrap();
    pooled.query_pairs_mut().append_pair("pgbouncer", "true");
    let report = run_doctor(&app, &[("DATABASE_URL", pooled.as_str())], None).await;
    single_finding(
        &report,
        "pooler",
        Level::Warn,
        "transaction mode",
        "session mode",
    );
}

#[tokio::test]
async fn migration_check_fails_only_for_newer_contractions() {
    let app = TestApp::with_system_clock().await;
    for (migration, level, found, remediation) in [
        ("9001, 'of tomorrow'", None, "", ""),
        (
            "9002, 'contract it'",
            Some(Level::Fail),
            "has removed",
            "run that version",
        ),
    ] {
        let insert = format!(
            "insert into _sqlx_migrations (version, description, success, checksum, execution_time) \
             values ({migration}, true, '', 0)"
        );
        let mut sql = app.sql().await;
        sqlx::raw_sql(AssertSqlSafe(insert))
            .execute(&mut sql)
            .await
            .unwrap();
        let report = run_doctor(&app, &[], None).await;
        match level {
            Some(level) => single_finding(&report, "migrations", level, found, remediation),
            None => assert_eq!(failures(&report), []),
        }
    }
}
