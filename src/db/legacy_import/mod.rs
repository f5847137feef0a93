//! Imports the tables of the original service.
//!
//! They have the same names as Patchbay's tables. The migration's transaction moves them unchanged to a schema of
//! their own, and copies their rows into Patchbay's tables. All obstacles are reported before anything changes.

mod rows;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sqlx::postgres::PgDatabaseError;
use uuid::Uuid;

use self::rows::OddValue;
use super::{DatabaseError, Transaction};
use crate::catalog::Catalog;
use crate::db;
use crate::domain::ConnectorId;

/// How to omit rows that cannot be imported.
const SKIP_REMEDY: &str = "correct these rows, or leave them out by `patchbay migrate --skip-invalid-rows`: they stay in the schema before_patchbay";

/// How long the import waits for other users of the tables.
const LOCK_TIMEOUT: &str = "set local lock_timeout = '10s'";

/// The maximum number of rows that cannot be imported in a report, for each of two queries.
const MAX_REPORTED: u32 = 1000;

/// The interval between deletions at Nango of connections that were disconnected before the import, in milliseconds.
const DELETION_INTERVAL_MS: i64 = 2_000;

/// PostgreSQL's error code of a lock timeout.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// The accepted types of each column; empty for any type.
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

/// The handling of rows that cannot be imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidRows {
    /// One such row prevents the import.
    Refuse,
    /// Such rows stay only in the old table.
    Skip,
}

/// The result of an import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegacyImport {
    /// The number of imported connections.
    pub connections: i64,
    /// How long their table was locked.
    pub locked: Duration,
    /// The problems of the skipped rows, one sentence for each value.
    pub skipped: Vec<String>,
}

/// The original service's tables, locked, checked and moved aside.
pub(crate) struct LegacyTables {
    connections: i64,
    since: Instant,
    skipped: Vec<OddValue>,
}

/// Returns whether the original service's tables exist, and Patchbay's do not yet. `_sqlx_migrations` has to exist.
pub(crate) async fn exists(tx: &mut Transaction) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "select (to_regclass('user_connector_connection') is not null or to_regclass('connector') is not null) \
           and to_regclass('installation') is null and not exists (select 1 from _sqlx_migrations)",
    )
    .fetch_one(tx)
    .await
}

/// Locks the tables, checks that all rows can be imported, and moves the tables to another schema.
pub(crate) async fn move_to_backup_schema(
    tx: &mut Transaction,
    catalog: &Catalog,
    invalid: InvalidRows,
) -> Result<LegacyTables, DatabaseError> {
    let mut problems = check_columns(tx).await?;
    if !problems.is_empty() {
        return Err(DatabaseError::LegacyTables(problems));
    }
    lock_tables(tx).await?;
    // Without the wait for the locks, in which other programs still use the tables.
    let since = Instant::now();
    problems.extend(check_foreign_keys(tx).await?);
    let limit = match invalid {
        InvalidRows::Refuse => MAX_REPORTED,
        InvalidRows::Skip => u32::MAX,
    };
    let skipped = rows::odd_values(tx, catalog, limit).await?;
    if invalid == InvalidRows::Refuse {
        problems.extend(skipped.iter().map(ToString::to_string));
        if !skipped.is_empty() {
            problems.push(SKIP_REMEDY.to_owned());
        }
    }
    if !problems.is_empty() {
        return Err(DatabaseError::LegacyTables(problems));
    }
    let connections =
        sqlx::query_scalar("select count(*) from user_connector_connection where not id = any($1)")
            .bind(row_ids(&skipped))
            .fetch_one(&mut *tx)
            .await?;
    sqlx::raw_sql(include_str!("set_aside.sql"))
        .execute(tx)
        .await?;
    Ok(LegacyTables {
        connections,
        since,
        skipped,
    })
}

fn row_ids(rows: &[OddValue]) -> Vec<Uuid> {
    rows.iter().map(|it| it.row).collect()
}

impl LegacyTables {
    /// Copies the rows into Patchbay's tables, which exist by now.
    pub(crate) async fn import(
        self,
        tx: &mut Transaction,
        catalog: &Catalog,
    ) -> Result<LegacyImport, DatabaseError> {
        db::seed_connectors(tx, catalog).await?;
        let (slugs, ids): (Vec<&str>, Vec<ConnectorId>) = catalog
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
            .bind(row_ids(&self.skipped))
            .execute(&mut *tx)
            .await?;
        let imported: i64 = sqlx::query_scalar("select count(*) from user_connector_connection")
            .fetch_one(&mut *tx)
            .await?;
        if imported != self.connections {
            return Err(DatabaseError::LegacyTables(vec![format!(
                "of {} connections, only {imported} could be imported",
                self.connections
            )]));
        }
        // Until autovacuum runs, the planner and the metrics would consider the table empty.
        sqlx::raw_sql("analyze user_connector_connection")
            .execute(&mut *tx)
            .await?;
        Ok(LegacyImport {
            connections: imported,
            locked: self.since.elapsed(),
            skipped: self.skipped.iter().map(ToString::to_string).collect(),
        })
    }
}

/// Returns what the tables lack, or have in an unexpected form.
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
    let is_taken: bool =
        sqlx::query_scalar("select to_regnamespace('before_patchbay') is not null")
            .fetch_one(tx)
            .await?;
    if is_taken {
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
                "another program uses the tables: stop it and try again".to_owned(),
            ]),
            _ => error.into(),
        });
    }
    sqlx::raw_sql("set local lock_timeout = 0")
        .execute(tx)
        .await?;
    Ok(())
}

/// Returns the foreign keys of other tables to these tables, which would point to the moved tables.
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
