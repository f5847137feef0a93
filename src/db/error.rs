//! The reason for which the database cannot be used.

use super::connection_health::Outage;

/// PostgreSQL's code for a missing privilege.
pub(crate) const INSUFFICIENT_PRIVILEGE: &str = "42501";

/// The reason for which the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// `DATABASE_URL` is malformed.
    #[error("DATABASE_URL cannot be read: {0}")]
    Url(String),
    /// The server rejects this user, password or database: a retry does not help.
    #[error("the database refuses the user, password or database of DATABASE_URL: {0}")]
    AccessDenied(#[source] sqlx::Error),
    /// The server fails the verification that `sslmode` requires, or has no TLS: a retry does not help.
    #[error(
        "no TLS connection to the database of DATABASE_URL: {0}. sslmode=verify-ca and verify-full need a certificate that a public authority, \
         one of this system's, or one in the file of sslrootcert has signed; certificates of X.509 version 1 are not \
         supported; sslmode=prefer connects without TLS where it fails"
    )]
    Tls(#[source] sqlx::Error),
    /// No server of `DATABASE_URL` accepts writes: a standby may be promoted.
    #[error(
        "the database of DATABASE_URL is read-only (a standby, or default_transaction_read_only is on): \
         let DATABASE_URL name the primary, or all servers as host1:5432,host2:5432"
    )]
    ReadOnly,
    /// The server's major version is not supported.
    #[error("the database is PostgreSQL {0}: update it to PostgreSQL 13 or newer")]
    TooOld(u32),
    /// The role lacks a required privilege.
    #[error(
        "the role of DATABASE_URL lacks a privilege: {0}. Let its owner run: grant usage, create on schema public to the role \
         (or the schema of search_path), or run `patchbay migrate` as the owner and grant the role select, insert, update \
         and delete on all tables"
    )]
    Privilege(#[source] sqlx::Error),
    /// `search_path` names no schema that exists.
    #[error(
        "no schema of the search_path {0} exists, or the role may not use it: create it, or set the schema by DATABASE_URL's \
         parameter `schema`"
    )]
    NoSchema(String),
    /// The schema differs from the one that the migrations created.
    #[error("the database's schema is damaged: {}", .0.join("; "))]
    Damaged(Vec<String>),
    /// The server cannot be reached.
    #[error("the database of DATABASE_URL cannot be reached: {0}")]
    Unreachable(#[source] sqlx::Error),
    /// A migration failed; nothing has changed.
    #[error("migration {version} of the database failed: {source}")]
    Migration {
        /// The migration's number.
        version: i64,
        /// The server's error.
        source: sqlx::Error,
    },
    /// A newer version's migration has removed something that this program needs.
    #[error(
        "a newer Patchbay has removed from the database what this version needs (migration {0}): run that version, or a newer one"
    )]
    SchemaTooNew(i64),
    /// A migration was changed after it had been applied.
    #[error(
        "migration {0} is not what it was when the database was migrated: this program and the database do not fit together"
    )]
    MigrationChanged(i64),
    /// The original service's tables cannot be imported; nothing has changed.
    #[error(
        "the database has the original service's tables, which cannot be imported; nothing was changed:\n  {}",
        .0.join("\n  ")
    )]
    LegacyTables(Vec<String>),
    /// The original service's tables are not imported yet, and this operation does not import them.
    #[error(
        "this command needs an imported database, but the database still has the tables of the FastAPI service. Run \
         `patchbay migrate`, which imports them (docs/UPGRADING.md)"
    )]
    NotImported,
    /// A statement failed.
    #[error("the database failed: {0}")]
    Statement(#[source] sqlx::Error),
}

impl From<sqlx::Error> for DatabaseError {
    fn from(error: sqlx::Error) -> Self {
        let code = error
            .as_database_error()
            .and_then(sqlx::error::DatabaseError::code);
        if code.is_some_and(|code| code == INSUFFICIENT_PRIVILEGE) {
            Self::Privilege(error)
        } else {
            Self::Statement(error)
        }
    }
}

impl DatabaseError {
    /// Returns whether a retry may help: the server is unreachable, does not accept writes yet, or is busy.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::ReadOnly => true,
            Self::Statement(error) | Self::Migration { source: error, .. } => {
                Outage::of(error).is_some()
            }
            _ => false,
        }
    }
}
