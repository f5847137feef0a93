//! What a database is like, without changing it: for the setup's check.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::{Database, MIGRATOR};

/// What a database is like.
#[derive(Clone, Debug)]
pub struct SchemaStatus {
    /// What the server calls its version, such as `15.4`.
    pub version: String,
    /// The same as a number, such as 150004.
    pub version_number: i32,
    /// The server's time.
    pub now: DateTime<Utc>,
    /// Whether its tables are those of the service that Patchbay succeeds, not taken over yet.
    pub has_legacy_tables: bool,
    /// Migrations of this program that have not been applied.
    pub pending: Vec<i64>,
    /// Applied migrations that are not what this program knows under their number.
    pub changed: Vec<i64>,
    /// Applied migrations that this program does not know, with their descriptions.
    pub newer: Vec<(i64, String)>,
}

impl Database {
    /// Looks at the server and at the schema, and changes nothing.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn schema_status(&self) -> sqlx::Result<SchemaStatus> {
        let mut tx = self.begin_snapshot().await?;
        let (version, version_number, now, migrated, tables): (_, _, _, bool, bool) =
            sqlx::query_as(
                "select current_setting('server_version'), current_setting('server_version_num')::int, \
                   clock_timestamp(), to_regclass('_sqlx_migrations') is not null, \
                   to_regclass('user_connector_connection') is not null or to_regclass('connector') is not null",
            )
            .fetch_one(&mut tx)
            .await?;
        let applied: Vec<(i64, String, Vec<u8>)> = if migrated {
            sqlx::query_as("select version, description, checksum from _sqlx_migrations")
                .fetch_all(&mut tx)
                .await?
        } else {
            Vec::new()
        };
        tx.commit().await?;
        let mut applied: BTreeMap<i64, (String, Vec<u8>)> = applied
            .into_iter()
            .map(|(version, description, checksum)| (version, (description, checksum)))
            .collect();
        let mut survey = SchemaStatus {
            version,
            version_number,
            now,
            has_legacy_tables: tables && applied.is_empty(),
            pending: Vec::new(),
            changed: Vec::new(),
            newer: Vec::new(),
        };
        for migration in MIGRATOR.iter() {
            match applied.remove(&migration.version) {
                None => survey.pending.push(migration.version),
                Some((_, checksum)) if *checksum != *migration.checksum => {
                    survey.changed.push(migration.version);
                }
                Some(_) => {}
            }
        }
        let unknown = applied.into_iter();
        survey.newer = unknown
            .map(|(version, (description, _))| (version, description))
            .collect();
        Ok(survey)
    }
}
