//! PostgreSQL: the pool, transactions, migrations, and a repository for each table.
//!
//! This module contains every SQL statement. A repository's functions of one statement take an executor: the
//! [`Database`], or the [`Transaction`] that a service owns. Those of several statements take the transaction.

pub(crate) mod account_lookups;
pub(crate) mod attempt_owners;
pub(crate) mod attempts;
pub(crate) mod batch;
pub(crate) mod brakes;
pub(crate) mod config;
pub(crate) mod connect;
pub(crate) mod connection_health;
pub(crate) mod connections;
pub(crate) mod connector_cache;
pub(crate) mod connectors;
pub(crate) mod database;
pub(crate) mod database_url;
pub(crate) mod deletions;
mod erasure;
mod error;
pub(crate) mod events;
pub(crate) mod idempotency;
mod ids;
pub(crate) mod jobs;
pub(crate) mod legacy_import;
mod migrate;
pub(crate) mod nango_webhooks;
pub(crate) mod parameters;
mod pooled_connection;
mod primary;
pub(crate) mod reads;
pub(crate) mod retention;
mod rows;
#[cfg(feature = "sandbox")]
pub(crate) mod sandbox_schema;
pub(crate) mod schema_status;
pub(crate) mod service_keys;
mod session;
pub(crate) mod start_attempt;
pub(crate) mod statistics;
pub(crate) mod sweep;
pub(crate) mod token_accesses;
pub(crate) mod transaction;
pub(crate) mod unreadable;
pub(crate) mod user_scoped;
pub(crate) mod webhook_deliveries;
pub(crate) mod webhook_endpoints;
pub(crate) mod webhook_history;
mod writes;

use uuid::Uuid;

pub use config::DatabaseConfig;
pub use database::Database;
pub use error::DatabaseError;
pub(crate) use error::INSUFFICIENT_PRIVILEGE;
pub use legacy_import::{InvalidRows, LegacyImport};
pub(crate) use migrate::CONTRACT_PREFIX;
pub use migrate::MIGRATOR;
pub(crate) use nango_webhooks::WebhookActivity;
pub use schema_status::{COLUMNS, SchemaStatus};
pub use transaction::Transaction;

pub(crate) use account_lookups::*;
pub(crate) use attempt_owners::*;
pub(crate) use attempts::*;
pub(crate) use brakes::*;
pub(crate) use connections::*;
pub(crate) use connectors::*;
pub(crate) use deletions::*;
pub(crate) use erasure::{erase_connections, erase_token_accesses};
pub(crate) use events::*;
pub(crate) use idempotency::*;
pub(crate) use jobs::*;
pub(crate) use nango_webhooks::record_webhook;
pub(crate) use parameters::*;
pub(crate) use reads::*;
pub(crate) use retention::*;
pub(crate) use rows::{note_unreadable_row, unreadable_rows};
pub(crate) use start_attempt::*;
pub(crate) use statistics::*;
pub(crate) use sweep::*;
pub(crate) use token_accesses::*;
pub(crate) use user_scoped::*;

/// A row with a value that the domain does not know, or a write that did not find its row.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RowError {
    #[error("{table} {id} holds what the domain does not know: {detail}")]
    Invalid {
        table: &'static str,
        id: Uuid,
        detail: String,
    },
    #[error("{table} {id} was not there to be written, or had another version")]
    NotUpdated { table: &'static str, id: Uuid },
    #[error("{table} {id} was read for a user who does not own it")]
    WrongUser { table: &'static str, id: Uuid },
}

impl From<RowError> for sqlx::Error {
    fn from(corrupt: RowError) -> Self {
        Self::Decode(Box::new(corrupt))
    }
}

pub(crate) fn invalid_row(table: &'static str, id: Uuid, detail: &dyn ToString) -> RowError {
    RowError::Invalid {
        table,
        id,
        detail: detail.to_string(),
    }
}

/// Fails unless exactly one row was written.
pub(crate) fn one_row(written: u64, table: &'static str, id: Uuid) -> sqlx::Result<()> {
    if written == 1 {
        Ok(())
    } else {
        Err(RowError::NotUpdated { table, id }.into())
    }
}
