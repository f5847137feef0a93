//! The database and its schema.

use patchbay::cli::doctor::Level;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use url::Url;
use uuid::Uuid;

use super::{failures, run_doctor, single_finding};
use crate::test_app::TestApp;
use crate::test_database;

#[tokio::test]
async fn database_check_reports_each_problem() {
    let app = TestApp::with_system_clock().await;
    let gone = "postgres://user@127.0.0.1:9/nowhere";
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

/// Executes statements on the app's database.
async fn execute(app: &TestApp, statements: String) {
    sqlx::raw_sql(AssertSqlSafe(statements))
        .execute(&mut app.sql().await)
        .await
        .unwrap();
}

/// Creates a role that may not use some tables. Returns its name and its `DATABASE_URL`.
async fn role_with(app: &TestApp, revoked: &str) -> (String, String) {
    let role = format!("role_{}", Uuid::new_v4().simple());
    let statements = format!(
        "create role {role} login password 'few'; \
         grant select, insert, update, delete on all tables in schema public to {role}; revoke {revoked} from {role}"
    );
    execute(app, statements).await;
    let settings = app.settings(&[]);
    let url = settings.iter().find(|(name, _)| *name == "DATABASE_URL");
    let mut url: Url = url.unwrap().1.parse().unwrap();
    url.set_username(&role).unwrap();
    url.set_password(Some("few")).unwrap();
    (role, url.to_string())
}

#[tokio::test]
async fn database_check_reports_missing_table_privileges() {
    let app = TestApp::with_system_clock().await;
    let other_owner = "all on user_connector_connection";
    let (role, url) = role_with(&app, other_owner).await;
    let report = run_doctor(&app, &[("DATABASE_URL", &url)], None).await;
    let found = failures(&report);
    let found: Vec<_> = (found.iter())
        .filter(|it| ["database write", "rows"].contains(&it.0))
        .collect();
    let [write, rows] = found[..] else {
        panic!("{report}");
    };
    assert_eq!((write.1, rows.1), (Level::Fail, Level::Fail));
    let missing = "select, insert, update, delete on user_connector_connection";
    assert!(write.2.ends_with(missing), "{report}");
    assert!(write.3.contains("grant it the missing privileges"));
    assert!(rows.2.contains("permission denied"), "{report}");
    assert!(rows.3.contains(&format!("grant the role {role} select")));

    let (other, url) = role_with(&app, "update, delete on webhook_queue").await;
    let report = run_doctor(&app, &[("DATABASE_URL", &url)], None).await;
    single_finding(
        &report,
        "database write",
        Level::Fail,
        "update, delete on webhook_queue",
        "grant",
    );
    let drop = format!("drop owned by {role}, {other}; drop role {role}, {other}");
    execute(&app, drop).await;
}

#[tokio::test]
async fn failed_write_has_remediation_of_its_cause() {
    let app = TestApp::with_system_clock().await;
    for (code, remediation) in [
        ("53100", "free disk space"),
        ("53200", "give the database server the resource"),
        ("42501", "grant it the missing privileges"),
        ("XX000", "fix the cause that the error names"),
    ] {
        let statements = format!(
            "create or replace function fail() returns trigger language plpgsql as \
               $$ begin raise 'it failed' using errcode = '{code}'; end $$; \
             drop trigger if exists fail on job; \
             create trigger fail before insert on job execute function fail()"
        );
        execute(&app, statements).await;
        let report = run_doctor(&app, &[], None).await;
        single_finding(
            &report,
            "database write",
            Level::Fail,
            "it failed",
            remediation,
        );
    }
}
