//! The arrival of Nango's webhooks.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgExecutor;

use super::Database;

/// When webhooks last arrived, and when their causes last happened.
#[derive(Clone, Copy, Debug, sqlx::FromRow)]
pub(crate) struct WebhookActivity {
    /// When a webhook of a new connection last arrived.
    pub(crate) creation: Option<DateTime<Utc>>,
    /// When a webhook of a deletion last arrived.
    pub(crate) deletion: Option<DateTime<Utc>>,
    /// When an account was last connected.
    pub(crate) last_connect: Option<DateTime<Utc>>,
    /// When an account was last disconnected.
    pub(crate) last_disconnect: Option<DateTime<Utc>>,
}

impl WebhookActivity {
    /// How much earlier than its cause a webhook may be recorded: they are recorded once a minute, and clocks differ.
    pub(crate) const GRANULARITY: TimeDelta = TimeDelta::minutes(3);
}

/// Records that a webhook of an operation arrived.
pub(crate) async fn record_webhook(db: impl PgExecutor<'_>, operation: &str) -> sqlx::Result<()> {
    sqlx::query(
        "insert into nango_webhook (operation, received_at) values ($1, now()) \
         on conflict (operation) do update set received_at = excluded.received_at",
    )
    .bind(operation)
    .execute(db)
    .await?;
    Ok(())
}

impl Database {
    /// Returns when webhooks last arrived, and when their causes last happened.
    ///
    /// # Errors
    /// When the database does not answer, or has no current schema.
    pub(crate) async fn webhook_activity(&self) -> sqlx::Result<WebhookActivity> {
        sqlx::query_as(
            "select \
               (select received_at from nango_webhook where operation = 'creation') as creation, \
               (select received_at from nango_webhook where operation = 'deletion') as deletion, \
               (select max(ended_at) from connect_attempt where outcome = 'succeeded' and kind = 'connect') as last_connect, \
               (select max(created_at) from connection_event where kind = 'disconnected') as last_disconnect",
        )
        .fetch_one(self)
        .await
    }
}
