//! The database and its schema.

use patchbay::cli::doctor::Level;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use url::Url;

use super::{checked, only, wrong};
use crate::house::House;
use crate::postgres;

#[tokio::test]
async fn what_is_wrong_with_the_database_is_told() {
    let house = House::now().await;
    let gone = "postgres://nobody@127.0.0.1:9/nowhere";
    let report = checked(&house, &[("DATABASE_URL", gone)], None).await;
    only(
        &report,
        "database",
        Level::Fail,
        "cannot be reached",
        "start the database",
    );

    let settings = house.settings(&[]);
    let url = settings.iter().find(|(name, _)| *name == "DATABASE_URL");
    let mut elsewhere: Url = url.unwrap().1.parse().unwrap();
    elsewhere.set_path("no_such_database");
    let report = checked(&house, &[("DATABASE_URL", elsewhere.as_str())], None).await;
    only(
        &report,
        "database",
        Level::Fail,
        "refuses",
        "correct user, password and database",
    );

    let empty = postgres::database().await;
    let report = checked(&house, &[("DATABASE_URL", empty.url())], None).await;
    only(
        &report,
        "migrations",
        Level::Warn,
        "not applied yet",
        "the next start",
    );

    let before = postgres::database().await;
    let mut sql = PgConnection::connect(before.url()).await.unwrap();
    let schema = include_str!("../../data/predecessor/schema.sql");
    sqlx::raw_sql(schema).execute(&mut sql).await.unwrap();
    let report = checked(&house, &[("DATABASE_URL", before.url())], None).await;
    only(
        &report,
        "migrations",
        Level::Warn,
        "those of the service before",
        "`patchbay migrate` or the next start takes them over",
    );

    let mut pooled: Url = url.unwrap().1.parse().unwrap();
    pooled.query_pairs_mut().append_pair("pgbouncer", "true");
    let report = checked(&house, &[("DATABASE_URL", pooled.as_str())], None).await;
    only(
        &report,
        "pooler",
        Level::Warn,
        "transaction mode",
        "session mode",
    );
}

#[tokio::test]
async fn migrations_of_a_newer_version_are_told_where_they_matter() {
    let house = House::now().await;
    for (migration, level, found, mend) in [
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
        let mut sql = house.sql().await;
        sqlx::raw_sql(AssertSqlSafe(insert))
            .execute(&mut sql)
            .await
            .unwrap();
        let report = checked(&house, &[], None).await;
        match level {
            Some(level) => only(&report, "migrations", level, found, mend),
            None => assert_eq!(wrong(&report), []),
        }
    }
}
