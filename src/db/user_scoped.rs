//! One connection, scoped to its owner: another user's connection is not found.

use super::RowError;
use super::Transaction;
use super::rows::select_connections;
use crate::domain::{Connection, ConnectionId, UserId};
use sqlx::PgExecutor;

/// Returns a connection that was read for a user. Every statement filters by user; this check is a second defence,
/// against a statement without that filter or a wrong result of the database.
pub(crate) fn ensure_owned(user: &UserId, connection: Connection) -> Result<Connection, RowError> {
    if connection.user_id == *user {
        Ok(connection)
    } else {
        Err(RowError::WrongUser {
            table: "user_connector_connection",
            id: connection.id.0,
        })
    }
}

/// Does the same for an optional connection.
fn ensure_owned_if_any(
    user: &UserId,
    connection: Option<Connection>,
) -> sqlx::Result<Option<Connection>> {
    let own = connection.map(|connection| ensure_owned(user, connection));
    Ok(own.transpose()?)
}

/// Returns a user's connection by our id.
pub(crate) async fn find_own(
    db: impl PgExecutor<'_>,
    user: &UserId,
    id: ConnectionId,
) -> sqlx::Result<Option<Connection>> {
    let connection = sqlx::query_as(select_connections!("where c.user_id = $1 and c.id = $2"))
        .bind(user.as_str())
        .bind(id)
        .fetch_optional(db)
        .await?;
    ensure_owned_if_any(user, connection)
}

/// Returns a user's connection by its Nango id.
pub(crate) async fn find_own_by_nango_id(
    db: impl PgExecutor<'_>,
    user: &UserId,
    nango_id: &str,
) -> sqlx::Result<Option<Connection>> {
    let connection = sqlx::query_as(select_connections!(
        "where c.user_id = $1 and c.nango_connection_id = $2"
    ))
    .bind(user.as_str())
    .bind(nango_id)
    .fetch_optional(db)
    .await?;
    ensure_owned_if_any(user, connection)
}

/// Returns a user's connection by its id, locked until the transaction ends. No transaction waits for another user's
/// lock, and rows that refer to the connection are not blocked.
pub(crate) async fn lock_own(
    db: &mut Transaction,
    user: &UserId,
    id: ConnectionId,
) -> sqlx::Result<Option<Connection>> {
    let connection = sqlx::query_as(select_connections!(
        "where c.user_id = $1 and c.id = $2 for no key update of c"
    ))
    .bind(user.as_str())
    .bind(id)
    .fetch_optional(db)
    .await?;
    ensure_owned_if_any(user, connection)
}

/// Returns the ids of all connections of a user.
pub(crate) async fn connection_ids(
    db: impl PgExecutor<'_>,
    user: &UserId,
) -> sqlx::Result<Vec<ConnectionId>> {
    sqlx::query_scalar("select id from user_connector_connection where user_id = $1")
        .bind(user.as_str())
        .fetch_all(db)
        .await
}
