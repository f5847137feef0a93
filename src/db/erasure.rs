//! Erases the connections of a user, a batch in each transaction.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;

use super::deletions::queue_erased;
use super::{RowError, Transaction};
use crate::domain::{ConnectionId, UserId};

/// The columns that are read of an erased connection: as few as possible, so that other unreadable columns do not
/// prevent erasure.
#[derive(sqlx::FromRow)]
struct ErasedRow {
    user_id: String,
    id: ConnectionId,
    nango_connection_id: Option<String>,
    integration_key: String,
}

/// Deletes the next token accesses of a user after `last`, a connection's id and an access's. Returns those of the last
/// deleted one; `None` if there are no more. A connection may have millions, too many for one statement.
pub(crate) async fn erase_token_accesses(
    db: impl PgExecutor<'_>,
    user: &UserId,
    last: (ConnectionId, i64),
) -> sqlx::Result<Option<(ConnectionId, i64)>> {
    // The limit is a literal, because the plan for a parameter assumes a tenth of the table.
    sqlx::query_as(
        "with batch as materialized ( \
           select ctid, connection_id, id from token_access \
           where user_id = $1 and (connection_id, id) > ($2, $3) order by connection_id, id limit 10000 \
         ), gone as ( \
           delete from token_access where ctid = any(array(select ctid from batch)) \
         ) \
         select connection_id, id from batch order by connection_id desc, id desc limit 1",
    )
    .bind(user.as_str())
    .bind(last.0)
    .bind(last.1)
    .fetch_optional(db)
    .await
}

/// Deletes these connections of a user with their history, and queues their deletion at Nango. Returns their number.
pub(crate) async fn erase_connections(
    db: &mut Transaction,
    user: &UserId,
    ids: &[ConnectionId],
    now: DateTime<Utc>,
) -> sqlx::Result<usize> {
    // Locked for update, so that no transaction writes rows that refer to them.
    let rows: Vec<ErasedRow> = sqlx::query_as(
        "select user_id, id, nango_connection_id, coalesce(integration_key, '') as integration_key \
         from user_connector_connection where user_id = $1 and id = any($2) order by id for update",
    )
    .bind(user.as_str())
    .bind(ids)
    .fetch_all(&mut *db)
    .await?;
    if let Some(other) = rows.iter().find(|row| row.user_id != user.as_str()) {
        let (table, id) = ("user_connector_connection", other.id.0);
        return Err(RowError::WrongUser { table, id }.into());
    }
    let ids: Vec<ConnectionId> = rows.iter().map(|row| row.id).collect();
    // The ids of their attempts stay, so that a late grant is recognized.
    sqlx::query(
        "update attempt_owner set user_id = null, connection_id = null, browser_token_hash = null \
         where connection_id = any($1)",
    )
    .bind(&ids)
    .execute(&mut *db)
    .await?;
    // Before the messages in them: deliveries acquire locks in this order.
    sqlx::query("delete from webhook_queue where user_id = $1 and connection_id = any($2)")
        .bind(user.as_str())
        .bind(&ids)
        .execute(&mut *db)
        .await?;
    sqlx::query("delete from user_connector_connection where user_id = $1 and id = any($2)")
        .bind(user.as_str())
        .bind(&ids)
        .execute(&mut *db)
        .await?;
    let at_nango: Vec<(ConnectionId, &str, &str)> = rows
        .iter()
        .filter_map(|row| {
            let nango_id = row.nango_connection_id.as_deref()?;
            Some((row.id, nango_id, row.integration_key.as_str()))
        })
        .collect();
    queue_erased(db, user, &ids, &at_nango, now).await?;
    Ok(ids.len())
}
