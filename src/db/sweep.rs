//! What the sweep compares with Nango.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::FromRow;
use uuid::Uuid;

use super::Transaction;
use super::rows::{readable, select_connections};
use crate::domain::Connection;

/// A connection that Nango should hold.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct SweepRow {
    pub(crate) user_id: String,
    pub(crate) id: Uuid,
    pub(crate) nango_connection_id: String,
    pub(crate) status: String,
    pub(crate) status_reason: Option<String>,
    pub(crate) integration_key: String,
    pub(crate) failing_since: Option<DateTime<Utc>>,
    pub(crate) refusals: Vec<DateTime<Utc>>,
    pub(crate) last_checked_at: Option<DateTime<Utc>>,
}

/// Those of Nango's connections that are ours.
pub(crate) async fn find_by_nango_ids(
    db: &mut Transaction,
    nango_ids: &[&str],
) -> sqlx::Result<Vec<SweepRow>> {
    let rows = sqlx::query_as(
        "select user_id, id, nango_connection_id, integration_key, status, status_reason, failing_since, refusals, \
           last_checked_at from user_connector_connection where nango_connection_id = any($1)",
    )
    .bind(nango_ids)
    .fetch_all(db)
    .await?;
    Ok(readable("user_connector_connection", rows))
}

/// Connections that Nango has held since before `since`, after this one, in the order of their users and ids.
pub(crate) async fn list_at_nango_since(
    db: &mut Transaction,
    since: DateTime<Utc>,
    (user, id): (&str, Uuid),
    limit: i64,
) -> sqlx::Result<Vec<SweepRow>> {
    let rows = sqlx::query_as(
        "select user_id, id, nango_connection_id, integration_key, status, status_reason, failing_since, refusals, \
           last_checked_at from user_connector_connection \
         where (user_id, id) > ($2, $3) and nango_connection_id is not null and updated_at < $1 \
           and status in ('connected', 'error') \
         order by user_id, id limit $4",
    )
    .bind(since)
    .bind(user)
    .bind(id)
    .bind(limit)
    .fetch_all(db)
    .await?;
    Ok(readable("user_connector_connection", rows))
}

/// Some other connections of the same connector, whoever's: those that work before those that are failing, too.
pub(crate) async fn siblings(
    db: &mut Transaction,
    connection: &Connection,
    limit: i64,
) -> sqlx::Result<Vec<Connection>> {
    let rows = sqlx::query_as(select_connections!(
        "where c.connector_id = $1 and c.id <> $2 and c.status = 'connected' \
         order by c.failing_since nulls first, c.nango_created_at desc limit $3"
    ))
    .bind(connection.connector.id)
    .bind(connection.id)
    .bind(limit)
    .fetch_all(db)
    .await?;
    Ok(readable("user_connector_connection", rows))
}

/// Notes when Nango was asked about a connection, which is no change of it.
pub(crate) async fn record_check(
    db: &mut Transaction,
    connection: &Connection,
    at: Option<DateTime<Utc>>,
) -> sqlx::Result<()> {
    // A connection that was deleted meanwhile has nothing to be noted.
    sqlx::query(
        "update user_connector_connection set last_checked_at = $3 where user_id = $1 and id = $2",
    )
    .bind(connection.user_id.as_str())
    .bind(connection.id)
    .bind(at)
    .execute(db)
    .await?;
    Ok(())
}

/// Records when the provider refused to refresh a connection's credentials, which is no change of it.
pub(crate) async fn record_refusals(
    db: &mut Transaction,
    connection: &Connection,
    refusals: &[DateTime<Utc>],
) -> sqlx::Result<()> {
    sqlx::query(
        "update user_connector_connection set refusals = $3 where user_id = $1 and id = $2",
    )
    .bind(connection.user_id.as_str())
    .bind(connection.id)
    .bind(refusals)
    .execute(db)
    .await?;
    Ok(())
}

/// Those of these attempts that are known: `true` for one whose user was erased.
pub(crate) async fn known_attempts(
    db: &mut Transaction,
    attempts: &[Uuid],
) -> sqlx::Result<HashMap<Uuid, bool>> {
    let known: Vec<(Uuid, bool)> = sqlx::query_as(
        "select id, false from connect_attempt where id = any($1) \
         union all select attempt_id, true from attempt_owner where attempt_id = any($1) and user_id is null",
    )
    .bind(attempts)
    .fetch_all(db)
    .await?;
    Ok(known.into_iter().collect())
}
