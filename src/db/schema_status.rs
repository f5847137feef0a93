//! Reads the state of a database without changing it, for readiness and for `doctor`.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::migrate::{AppliedMigration, applied_migrations};
use super::{Database, DatabaseError, MIGRATOR, Transaction};

/// Every column of the current schema: a table and a column on each line. A test compares it with a migrated database.
pub const COLUMNS: &str = include_str!("columns.txt");

/// Selects the missing columns among those that `$1` (tables) and `$2` (columns) name.
macro_rules! missing_columns {
    () => {
        "select e.t || '.' || e.c from unnest($1::text[], $2::text[]) e (t, c) \
         left join pg_attribute a on a.attrelid = to_regclass(e.t) and a.attname = e.c and not a.attisdropped \
         where a.attname is null order by 1"
    };
}
/// The state of a database.
#[derive(Clone, Debug)]
pub struct SchemaStatus {
    /// The server's version, such as `15.4`.
    pub version: String,
    /// The server's time.
    pub now: DateTime<Utc>,
    /// `true` if the original service's tables exist and have not been imported.
    pub has_legacy_tables: bool,
    /// The schema in which tables are created; `None` if no schema of `search_path` exists.
    pub schema: Option<String>,
    /// The setting `search_path`.
    pub search_path: String,
    /// The connected role.
    pub role: String,
    /// Migrations of this program that have not been applied.
    pub pending: Vec<i64>,
    /// Applied migrations that differ from this program's under the same number.
    pub changed: Vec<i64>,
    /// Applied migrations that this program does not know, with their descriptions.
    pub newer: Vec<(i64, String)>,
    /// What is missing in a schema that is up to date, one sentence each.
    pub damage: Vec<String>,
}

impl Database {
    /// Reads the state of the server and the schema.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn schema_status(&self) -> Result<SchemaStatus, DatabaseError> {
        let mut tx = self.begin_snapshot().await?;
        let (version, now, schema, search_path, role, migrated, tables): (
            _,
            _,
            _,
            _,
            _,
            bool,
            bool,
        ) = sqlx::query_as(
            "select current_setting('server_version'), clock_timestamp(), current_schema()::text, \
                   current_setting('search_path'), current_user::text, to_regclass('_sqlx_migrations') is not null, \
                   (to_regclass('user_connector_connection') is not null or to_regclass('connector') is not null) \
                     and to_regclass('installation') is null",
        )
        .fetch_one(&mut tx)
        .await?;
        let mut applied = if migrated {
            applied_migrations(&mut tx).await?
        } else {
            BTreeMap::new()
        };
        let damage = damage(&mut tx, &applied).await?;
        tx.commit().await?;
        let mut status = SchemaStatus {
            version,
            now,
            has_legacy_tables: tables && applied.is_empty(),
            schema,
            search_path,
            role,
            pending: Vec::new(),
            changed: Vec::new(),
            newer: Vec::new(),
            damage,
        };
        for migration in MIGRATOR.iter() {
            match applied.remove(&migration.version) {
                None => status.pending.push(migration.version),
                Some(applied) if *applied.checksum != *migration.checksum => {
                    status.changed.push(migration.version);
                }
                Some(_) => {}
            }
        }
        let unknown = applied.into_iter();
        status.newer = unknown
            .map(|(version, applied)| (version, applied.description))
            .collect();
        Ok(status)
    }

    /// Checks that requests can be served: the server accepts writes, and the schema matches the migrations.
    ///
    /// # Errors
    /// If requests cannot be served, or the server does not answer.
    pub async fn check_ready(&self) -> Result<(), DatabaseError> {
        let (tables, columns) = expected_columns();
        let (read_only, failed, installed, missing): (bool, Option<i64>, bool, Vec<String>) =
            sqlx::query_as(concat!(
                "select current_setting('transaction_read_only') = 'on', \
                   (select min(version) from _sqlx_migrations where not success), \
                   exists (select from installation), array(",
                missing_columns!(),
                ")"
            ))
            .bind(&tables)
            .bind(&columns)
            .fetch_one(self)
            .await?;
        if read_only {
            return Err(DatabaseError::ReadOnly);
        }
        let damage = describe_damage(failed, installed, &missing);
        if damage.is_empty() {
            Ok(())
        } else {
            Err(DatabaseError::Damaged(damage))
        }
    }

    /// Writes a row, or creates a table if none exist, in a transaction that is rolled back.
    ///
    /// # Errors
    /// The error that a service would encounter with this database.
    pub async fn test_write(&self) -> sqlx::Result<()> {
        let mut tx = self.begin().await?;
        let (is_migrated,): (bool,) = sqlx::query_as("select to_regclass('job') is not null")
            .fetch_one(&mut tx)
            .await?;
        let statement = if is_migrated {
            "insert into job (name) values ('doctor') on conflict do nothing"
        } else {
            "create table patchbay_doctor (id int)"
        };
        sqlx::raw_sql(statement).execute(&mut tx).await?;
        Ok(())
    }

    /// Returns the privileges that the role lacks on the schema's tables, such as `insert, update on job`. Tables that
    /// do not exist are omitted.
    ///
    /// # Errors
    /// If the server does not answer.
    pub async fn missing_privileges(&self) -> sqlx::Result<Vec<String>> {
        let (tables, _) = expected_columns();
        sqlx::query_scalar(
            "select string_agg(p.name, ', ' order by p.at) || ' on ' || t.name \
             from (select distinct unnest($1::text[]) as name) t \
             cross join unnest(array['select', 'insert', 'update', 'delete']) with ordinality p (name, at) \
             where to_regclass(t.name) is not null and not has_table_privilege(to_regclass(t.name), p.name) \
             group by t.name order by t.name",
        )
        .bind(&tables)
        .fetch_all(self)
        .await
    }
}

fn expected_columns() -> (Vec<&'static str>, Vec<&'static str>) {
    let pairs = COLUMNS.lines().filter_map(|line| line.split_once(' '));
    pairs.unzip()
}

/// Returns what is missing in a schema with these migrations applied, one sentence each.
pub(crate) async fn damage(
    tx: &mut Transaction,
    applied: &BTreeMap<i64, AppliedMigration>,
) -> sqlx::Result<Vec<String>> {
    let has_tables: bool = sqlx::query_scalar("select to_regclass('installation') is not null")
        .fetch_one(&mut *tx)
        .await?;
    if applied.is_empty() {
        let lost = "Patchbay's tables are there, but _sqlx_migrations is empty: restore its rows from a backup, or name an \
                    empty database"
            .to_owned();
        return Ok(Vec::from_iter(has_tables.then_some(lost)));
    }
    let failed = applied.iter().find(|(_, it)| !it.succeeded);
    let failed = failed.map(|(version, _)| *version);
    let is_current = MIGRATOR.iter().all(|it| applied.contains_key(&it.version));
    if !is_current {
        return Ok(describe_damage(failed, true, &[]));
    }
    let (tables, columns) = expected_columns();
    let missing: Vec<String> = sqlx::query_scalar(missing_columns!())
        .bind(&tables)
        .bind(&columns)
        .fetch_all(&mut *tx)
        .await?;
    let is_installed = has_tables
        && sqlx::query_scalar("select exists (select from installation)")
            .fetch_one(tx)
            .await?;
    Ok(describe_damage(failed, is_installed, &missing))
}

fn describe_damage(failed: Option<i64>, is_installed: bool, missing: &[String]) -> Vec<String> {
    let mut damage = Vec::new();
    if let Some(version) = failed {
        damage.push(format!(
            "migration {version} is marked as failed: restore the database from a backup, or complete the migration by hand \
             and set success to true in _sqlx_migrations"
        ));
    }
    if !missing.is_empty() {
        damage.push(format!(
            "columns are missing that the migrations have created: {}. Restore them from a backup",
            missing.join(", ")
        ));
    }
    if !is_installed {
        damage.push(
            "the table installation is empty: restore its row from a backup. Its id marks this installation's connections \
             at Nango"
                .to_owned(),
        );
    }
    damage
}
