//! Takes over the tables of the service that Patchbay succeeds.
//!
//! They have the names that ours have. They are set aside in a schema of their
//! own, as they were, and their rows are copied into ours, in the transaction
//! that migrates. Whatever speaks against it is told before anything changes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sqlx::AssertSqlSafe;
use sqlx::postgres::PgDatabaseError;
use uuid::Uuid;

use super::{DatabaseError, Transaction};
use crate::catalog::Catalog;
use crate::db;

use crate::domain::UserId;

/// How long is waited for whoever uses the tables.
const LOCK_TIMEOUT: &str = "set local lock_timeout = '10s'";

/// The time between two deletions at Nango of what was disconnected before, in milliseconds.
const DELETION_INTERVAL_MS: i64 = 2_000;

/// PostgreSQL's code for a lock that was not to be had in time.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// What each column may be; of some it does not matter.
const CONNECTION_COLUMNS: [(&str, &[&str]); 13] = [
    ("id", &["uuid"]),
    ("user_id", &["uuid", "text", "character varying"]),
    ("connector_id", &["uuid"]),
    ("nango_connection_id", &["text", "character varying"]),
    ("status", &[]),
    ("connected_at", TIME_TYPES),
    ("disconnected_at", TIME_TYPES),
    ("last_synced_at", TIME_TYPES),
    ("config", &["json", "jsonb"]),
    ("last_error", &["text", "character varying"]),
    ("error_count", &["integer", "smallint", "bigint"]),
    ("created_at", TIME_TYPES),
    ("updated_at", TIME_TYPES),
];
const CONNECTOR_COLUMNS: [(&str, &[&str]); 2] =
    [("id", &["uuid"]), ("slug", &["text", "character varying"])];
const TIME_TYPES: &[&str] = &["timestamp with time zone", "timestamp without time zone"];

/// What was taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LegacyImport {
    /// How many connections there are, before and after.
    pub connections: i64,
    /// For how long their table was locked.
    pub locked: Duration,
}

/// The predecessor's tables, locked, checked and set aside.
pub(crate) struct LegacyTables {
    connections: i64,
    since: Instant,
}

/// Whether the predecessor's tables are there, and ours not yet. `_sqlx_migrations` has to be there.
pub(crate) async fn exists(tx: &mut Transaction) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "select (to_regclass('user_connector_connection') is not null or to_regclass('connector') is not null) \
           and not exists (select 1 from _sqlx_migrations)",
    )
    .fetch_one(tx)
    .await
}

/// Locks the tables, checks that all of it can be taken over, and sets them aside.
pub(crate) async fn move_to_backup_schema(
    tx: &mut Transaction,
    catalog: &Catalog,
) -> Result<LegacyTables, DatabaseError> {
    let mut problems = check_columns(tx).await?;
    if !problems.is_empty() {
        return Err(DatabaseError::LegacyTables(problems));
    }
    let since = Instant::now();
    lock_tables(tx).await?;
    problems.extend(check_foreign_keys(tx).await?);
    problems.extend(check_rows(tx, catalog).await?);
    if !problems.is_empty() {
        return Err(DatabaseError::LegacyTables(problems));
    }
    let connections = sqlx::query_scalar("select count(*) from user_connector_connection")
        .fetch_one(&mut *tx)
        .await?;
    sqlx::raw_sql(include_str!("set_aside.sql"))
        .execute(tx)
        .await?;
    Ok(LegacyTables { connections, since })
}

impl LegacyTables {
    /// Copies the rows into our tables, which are there by now.
    pub(crate) async fn import(
        self,
        tx: &mut Transaction,
        catalog: &Catalog,
    ) -> Result<LegacyImport, DatabaseError> {
        db::seed_connectors(tx, catalog).await?;
        let (slugs, ids): (Vec<&str>, Vec<Uuid>) = catalog
            .iter()
            .map(|connector| (connector.slug.as_str(), connector.id))
            .unzip();
        // Times without a zone were written in UTC.
        sqlx::raw_sql("set local timezone = 'UTC'")
            .execute(&mut *tx)
            .await?;
        sqlx::query(include_str!("import.sql"))
            .bind(&slugs)
            .bind(&ids)
            .bind(DELETION_INTERVAL_MS)
            .execute(&mut *tx)
            .await?;
        let taken: i64 = sqlx::query_scalar("select count(*) from user_connector_connection")
            .fetch_one(&mut *tx)
            .await?;
        if taken != self.connections {
            return Err(DatabaseError::LegacyTables(vec![format!(
                "of {} connections {taken} could be taken over",
                self.connections
            )]));
        }
        Ok(LegacyImport {
            connections: taken,
            locked: self.since.elapsed(),
        })
    }
}

/// What the tables lack, or have otherwise than it was.
async fn check_columns(tx: &mut Transaction) -> sqlx::Result<Vec<String>> {
    let mut problems = Vec::new();
    for (table, expected) in [
        ("user_connector_connection", CONNECTION_COLUMNS.as_slice()),
        ("connector", CONNECTOR_COLUMNS.as_slice()),
    ] {
        let columns: Vec<(String, String)> = sqlx::query_as(
            "select attname::text, format_type(atttypid, null) from pg_attribute \
             where attrelid = to_regclass($1) and attnum > 0 and not attisdropped",
        )
        .bind(table)
        .fetch_all(&mut *tx)
        .await?;
        if columns.is_empty() {
            problems.push(format!("there is no table {table}"));
            continue;
        }
        let columns: BTreeMap<String, String> = columns.into_iter().collect();
        for (column, types) in expected {
            match columns.get(*column) {
                None => problems.push(format!("{table} has no column {column}")),
                Some(found) if !types.is_empty() && !types.contains(&found.as_str()) => {
                    problems.push(format!(
                        "{table}.{column} is {found}, and not {}",
                        types.join(" or ")
                    ));
                }
                Some(_) => {}
            }
        }
    }
    let taken: bool = sqlx::query_scalar("select to_regnamespace('before_patchbay') is not null")
        .fetch_one(tx)
        .await?;
    if taken {
        problems.push(
            "there is a schema before_patchbay, to which the tables would be moved: rename it"
                .to_owned(),
        );
    }
    Ok(problems)
}

async fn lock_tables(tx: &mut Transaction) -> Result<(), DatabaseError> {
    sqlx::raw_sql(LOCK_TIMEOUT).execute(&mut *tx).await?;
    let locked =
        sqlx::raw_sql("lock table user_connector_connection, connector in access exclusive mode")
            .execute(&mut *tx)
            .await;
    if let Err(error) = locked {
        let database = error.as_database_error();
        let code = database
            .and_then(|error| error.try_downcast_ref::<PgDatabaseError>())
            .map(PgDatabaseError::code);
        return Err(match code {
            Some(LOCK_NOT_AVAILABLE) => DatabaseError::LegacyTables(vec![
                "somebody else uses the tables: stop the service that does".to_owned(),
            ]),
            _ => error.into(),
        });
    }
    sqlx::raw_sql("set local lock_timeout = 0")
        .execute(tx)
        .await?;
    Ok(())
}

/// The foreign keys of other tables to these: they would go on pointing to what is set aside.
async fn check_foreign_keys(tx: &mut Transaction) -> sqlx::Result<Vec<String>> {
    let found: Vec<(String, String, String)> = sqlx::query_as(
        "select conrelid::regclass::text, conname::text, confrelid::regclass::text from pg_constraint \
         where contype = 'f' \
           and confrelid in (to_regclass('user_connector_connection'), to_regclass('connector')) \
           and conrelid not in (to_regclass('user_connector_connection'), to_regclass('connector')) \
         order by 1, 2",
    )
    .fetch_all(tx)
    .await?;
    let problem = |(table, name, other): (String, String, String)| {
        format!(
            "{table} refers to {other} by the foreign key {name}: drop it first (connections keep their ids, connectors get others)"
        )
    };
    Ok(found.into_iter().map(problem).collect())
}

/// The rows that have no place in our table.
async fn check_rows(tx: &mut Transaction, catalog: &Catalog) -> sqlx::Result<Vec<String>> {
    let slugs: Vec<&str> = catalog.iter().map(|one| one.slug.as_str()).collect();
    let unknown: Vec<(Option<String>, i64)> = sqlx::query_as(
        "select k.slug::text, count(*) from user_connector_connection o left join connector k on k.id = o.connector_id \
         where k.slug is null or not k.slug = any($1) group by 1 order by 1",
    )
    .bind(&slugs)
    .fetch_all(&mut *tx)
    .await?;
    let mut problems: Vec<String> = unknown
        .into_iter()
        .map(|(slug, count)| match slug {
            Some(slug) => format!(
                "{count} connections are of the connector {slug:?}, which the catalog does not have: add it to the file that CATALOG_FILE names"
            ),
            None => format!("{count} connections are of no connector"),
        })
        .collect();
    let statuses: Vec<(Option<String>, i64)> = sqlx::query_as(
        "select status::text, count(*) from user_connector_connection \
         where status is null or lower(status::text) not in ('pending', 'connected', 'disconnected', 'error') \
         group by 1 order by 1",
    )
    .fetch_all(&mut *tx)
    .await?;
    problems.extend(statuses.into_iter().map(|(status, count)| {
        let status = status.unwrap_or_else(|| "null".to_owned());
        format!(
            "{count} connections have the status {status}: it has to be pending, connected, disconnected or error"
        )
    }));
    problems.extend(users(tx).await?);
    problems.extend(values(tx).await?);
    Ok(problems)
}

/// What our table refuses, by a condition on a row, and the problem that is reported.
const REFUSED: [(&str, &str); 3] = [
    (
        "jsonb_typeof(config::jsonb) not in ('object', 'null')",
        "have a config that is not a JSON object",
    ),
    (
        "exists (select from unnest(array[connected_at::timestamptz, disconnected_at::timestamptz, \
             last_synced_at::timestamptz, created_at::timestamptz, updated_at::timestamptz]) at \
           where at < '1970-01-02' or at > '9999-12-30')",
        "have a time before 1970 or after 9999",
    ),
    (
        "lower(status::text) <> 'disconnected' and nango_connection_id <> '' and exists ( \
           select from user_connector_connection other \
           where other.nango_connection_id = o.nango_connection_id and other.id <> o.id \
             and lower(other.status::text) <> 'disconnected')",
        "have the same nango_connection_id as another that is not disconnected: keep it in one of them",
    ),
];

/// The rows with values that our table refuses.
async fn values(tx: &mut Transaction) -> sqlx::Result<Vec<String>> {
    let mut problems = Vec::new();
    for (refused, reported) in REFUSED {
        let count = format!("select count(*) from user_connector_connection o where {refused}");
        let count: i64 = sqlx::query_scalar(AssertSqlSafe(count))
            .fetch_one(&mut *tx)
            .await?;
        if count > 0 {
            problems.push(format!("{count} connections {reported}"));
        }
    }
    Ok(problems)
}

/// The user ids that are refused wherever a user is named: their connections could not be reached. Ids of plain
/// ASCII are left to the database, so that few are read.
async fn users(tx: &mut Transaction) -> sqlx::Result<Vec<String>> {
    let odd: Vec<(Option<String>, i64)> = sqlx::query_as(
        "select user_id::text, count(*) from user_connector_connection \
         where user_id is null or user_id::text = '..' \
           or user_id::text collate \"C\" !~ '^[!-~][ -~]{0,253}[!-~]$' \
         group by 1 order by 1",
    )
    .fetch_all(tx)
    .await?;
    let mut counts: BTreeMap<String, i64> = BTreeMap::new();
    for (id, count) in odd {
        let refused = match id.map(UserId::try_from) {
            None => "is missing".to_owned(),
            Some(Err(error)) => format!("is refused: {error}"),
            Some(Ok(_)) => continue,
        };
        *counts.entry(refused).or_default() += count;
    }
    let problem = |(why, count)| format!("{count} connections have a user_id that {why}");
    Ok(counts.into_iter().map(problem).collect())
}
