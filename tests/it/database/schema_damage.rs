//! Schemas that differ from the migrations' result.

use patchbay::cli::doctor::Level;
use patchbay::db::{COLUMNS, DatabaseError};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::start_replica;
use crate::doctor::{failures, run_doctor};
use crate::startup::serve;
use crate::test_app::TestApp;
use crate::test_database;

#[tokio::test]
async fn column_list_matches_migrated_schema() {
    let database = test_database::database().await;
    start_replica(database.url().to_owned()).await;
    let mut sql = PgConnection::connect(database.url()).await.unwrap();
    let columns: Vec<String> = sqlx::query_scalar(
        "select c.relname || ' ' || a.attname from pg_attribute a join pg_class c on c.oid = a.attrelid \
         where c.relnamespace = current_schema()::regnamespace and c.relkind in ('r', 'p') and a.attnum > 0 \
           and not a.attisdropped and c.relname <> '_sqlx_migrations' \
         order by c.relname collate \"C\", a.attname collate \"C\"",
    )
    .fetch_all(&mut sql)
    .await
    .unwrap();
    assert_eq!(
        COLUMNS.lines().collect::<Vec<_>>(),
        columns,
        "write these lines to src/db/columns.txt"
    );
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn damaged_schema_is_reported_at_start_by_readiness_and_doctor() {
    let app = TestApp::with_system_clock().await;
    for (damage, reported, runs_on) in [
        (
            "update _sqlx_migrations set success = false where version = 1",
            "migration 1 is marked as failed",
            true,
        ),
        (
            "alter table connector drop column name",
            "connector.name",
            true,
        ),
        (
            "delete from installation",
            "the table installation is empty",
            true,
        ),
        (
            "delete from _sqlx_migrations",
            "_sqlx_migrations is empty",
            false,
        ),
        (
            "alter table _sqlx_migrations drop column success",
            "_sqlx_migrations is not as sqlx makes it",
            false,
        ),
    ] {
        let database = test_database::database().await;
        start_replica(database.url().to_owned()).await;
        let patchbay = test_database::pool(database.url(), 3).await.unwrap();
        patchbay.check_ready().await.unwrap();
        let mut sql = PgConnection::connect(database.url()).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(damage))
            .execute(&mut sql)
            .await
            .unwrap();

        let refused = patchbay.migrate().await.unwrap_err();
        assert!(
            matches!(refused, DatabaseError::Damaged(_)),
            "{damage}: {refused}"
        );
        assert!(
            refused.to_string().contains(reported),
            "{damage}: {refused}"
        );
        if runs_on {
            let unready = patchbay.check_ready().await.unwrap_err().to_string();
            assert!(unready.contains(reported), "{damage}: {unready}");
        }
        let (mut process, _) = serve(database.url(), &[]);
        assert_eq!(process.ended().await.code(), Some(1), "{damage}");
        assert!(
            process.output().contains(reported),
            "{damage}: {}",
            process.output()
        );
        let report = run_doctor(&app, &[("DATABASE_URL", database.url())], None).await;
        let found = failures(&report);
        assert_eq!(
            (found[0].0, found[0].1),
            ("migrations", Level::Fail),
            "{damage}: {found:?}"
        );
        assert!(found[0].2.contains(reported), "{damage}: {found:?}");
    }
}
