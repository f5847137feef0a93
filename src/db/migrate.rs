//! The schema's migrations.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::error::DatabaseError as DatabaseErrorTrait;
use sqlx::migrate::{Migration, Migrator};
use tokio::time::Instant;

use super::legacy_import::{self, InvalidRows, LegacyImport};
use super::schema_status::damage;
use super::{Database, DatabaseError, Transaction};
use crate::catalog::Catalog;

/// All migrations, embedded.
pub static MIGRATOR: Migrator = sqlx::migrate!();

/// The key of the advisory lock under which replicas migrate, one after the other.
const MIGRATION_LOCK: i64 = 0x7061_7463_6862_6179;

/// The prefix of the description of a migration that removes or changes something that older programs use. Such a
/// migration ships one version after the last program that needs it; all others only add.
pub(crate) const CONTRACT_PREFIX: &str = "contract";

/// The timeout of migrations and of the import of the legacy tables, including the wait for other replicas.
const MIGRATION_TIMEOUT: Duration = Duration::from_hours(1);

/// PostgreSQL's code for a missing column.
const UNDEFINED_COLUMN: &str = "42703";

impl Database {
    /// Brings the schema up to date, one replica at a time, in one transaction.
    ///
    /// Additions of a newer version stay: during a rolling update, old replicas continue to work with the new schema,
    /// and may restart. A schema from which a newer version has removed something is rejected.
    ///
    /// # Errors
    /// If a migration fails, or this program and the database are incompatible; then nothing has changed.
    /// [`DatabaseError::NotImported`] for a database of the original service, which
    /// [`import_legacy`](Self::import_legacy) migrates.
    pub async fn migrate(&self) -> Result<(), DatabaseError> {
        let mut tx = self.begin_migration().await?;
        if legacy_import::exists(&mut tx).await? {
            return Err(DatabaseError::NotImported);
        }
        apply_migrations(&mut tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Brings the schema up to date as [`migrate`](Self::migrate) does, and imports the original service's tables if
    /// they exist. Their connectors have to be in the catalog.
    ///
    /// # Errors
    /// As [`migrate`](Self::migrate), and with all obstacles to the import.
    pub async fn import_legacy(
        &self,
        catalog: &Catalog,
        invalid: InvalidRows,
    ) -> Result<Option<LegacyImport>, DatabaseError> {
        let mut tx = self.begin_migration().await?;
        let legacy = if legacy_import::exists(&mut tx).await? {
            Some(legacy_import::move_to_backup_schema(&mut tx, catalog, invalid).await?)
        } else {
            None
        };
        apply_migrations(&mut tx).await?;
        let imported = match legacy {
            Some(legacy) => Some(legacy.import(&mut tx, catalog).await?),
            None => None,
        };
        tx.commit().await?;
        Ok(imported)
    }

    /// Begins a transaction after all other replicas' migrations. Creates the table in which sqlx's own tools record
    /// migrations.
    async fn begin_migration(&self) -> Result<Transaction, DatabaseError> {
        let mut tx = self.begin().await?;
        tx.set_deadline(Instant::now() + MIGRATION_TIMEOUT);
        sqlx::raw_sql("set local statement_timeout = 0; set local lock_timeout = 0")
            .execute(&mut tx)
            .await?;
        // The lock ends with the transaction, so it works behind a transaction-mode pooler.
        sqlx::query("select pg_advisory_xact_lock($1)")
            .bind(MIGRATION_LOCK)
            .execute(&mut tx)
            .await?;
        sqlx::raw_sql("set local lock_timeout = '30s'")
            .execute(&mut tx)
            .await?;
        let (schema, search_path, exists): (Option<String>, String, bool) = sqlx::query_as(
            "select current_schema()::text, current_setting('search_path'), \
               to_regclass('_sqlx_migrations') is not null",
        )
        .fetch_one(&mut tx)
        .await?;
        if schema.is_none() {
            return Err(DatabaseError::NoSchema(search_path));
        }
        // A role that may not create tables can use a schema that is up to date.
        if !exists {
            let created = sqlx::raw_sql(
                "create table _sqlx_migrations (
                     version bigint primary key,
                     description text not null,
                     installed_on timestamptz not null default now(),
                     success boolean not null,
                     checksum bytea not null,
                     execution_time bigint not null
                 )",
            );
            created.execute(&mut tx).await?;
        }
        Ok(tx)
    }
}

/// An applied migration, as recorded by sqlx's own tools.
pub(crate) struct AppliedMigration {
    pub(crate) description: String,
    pub(crate) checksum: Vec<u8>,
    pub(crate) succeeded: bool,
}

/// Returns the applied migrations by number.
pub(crate) async fn applied_migrations(
    tx: &mut Transaction,
) -> Result<BTreeMap<i64, AppliedMigration>, DatabaseError> {
    let rows =
        sqlx::query_as("select version, description, checksum, success from _sqlx_migrations");
    let rows: Vec<(i64, String, Vec<u8>, bool)> = rows.fetch_all(tx).await.map_err(|error| {
        match error.as_database_error().and_then(DatabaseErrorTrait::code).as_deref() {
            Some(UNDEFINED_COLUMN) => DatabaseError::Damaged(vec![format!(
                "the table _sqlx_migrations is not as sqlx makes it ({error}): restore it from a backup"
            )]),
            _ => error.into(),
        }
    })?;
    let applied = rows
        .into_iter()
        .map(|(version, description, checksum, succeeded)| {
            let applied = AppliedMigration {
                description,
                checksum,
                succeeded,
            };
            (version, applied)
        });
    Ok(applied.collect())
}

/// Applies missing migrations, and checks that the schema matches the migrations.
///
/// sqlx's runner is not used. It acquires a session lock, which behind a pooler would stay with a server connection
/// that another client gets, and its statements are named.
async fn apply_migrations(tx: &mut Transaction) -> Result<(), DatabaseError> {
    let mut applied = applied_migrations(tx).await?;
    // Before the comparison of columns, because a newer version has removed some.
    let is_newer_contract = |version: &i64, migration: &AppliedMigration| {
        !MIGRATOR.version_exists(*version) && migration.description.starts_with(CONTRACT_PREFIX)
    };
    let mut contracts = applied
        .iter()
        .filter(|(version, it)| is_newer_contract(version, it));
    if let Some((version, _)) = contracts.next() {
        return Err(DatabaseError::SchemaTooNew(*version));
    }
    let damage = damage(tx, &applied).await?;
    if !damage.is_empty() {
        return Err(DatabaseError::Damaged(damage));
    }
    for migration in MIGRATOR.iter() {
        let version = migration.version;
        match applied.remove(&version) {
            Some(applied) if *applied.checksum == *migration.checksum => {}
            Some(_) => return Err(DatabaseError::MigrationChanged(version)),
            None => apply(tx, migration)
                .await
                .map_err(|source| match source.into() {
                    DatabaseError::Statement(source) => {
                        DatabaseError::Migration { version, source }
                    }
                    other => other,
                })?,
        }
    }
    for (version, newer) in applied {
        let description = newer.description;
        tracing::info!(
            version,
            description,
            "a newer Patchbay has migrated the database"
        );
    }
    Ok(())
}

async fn apply(tx: &mut Transaction, migration: &Migration) -> sqlx::Result<()> {
    sqlx::raw_sql(migration.sql.clone())
        .execute(&mut *tx)
        .await?;
    sqlx::query(
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time) \
         values ($1, $2, true, $3, -1)",
    )
    .bind(migration.version)
    .bind(&*migration.description)
    .bind(&*migration.checksum)
    .execute(&mut *tx)
    .await?;
    Ok(())
}
