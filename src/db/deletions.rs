//! What still has to be deleted at Nango.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use sqlx::FromRow;
use uuid::Uuid;

use super::Transaction;
use crate::domain::NangoConnectionRef;

/// What still has to be deleted at Nango.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct Deletion {
    pub(crate) nango_connection_id: String,
    pub(crate) integration_key: String,
    pub(crate) connection_id: Option<Uuid>,
    pub(crate) attempts: i32,
}

/// Notes that a connection has to be deleted at Nango. `false` if that was noted before.
pub(crate) async fn queue_deletion(
    db: &mut Transaction,
    upstream: &NangoConnectionRef,
    connection_id: Option<Uuid>,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    let noted = sqlx::query(
        "insert into upstream_deletion \
           (nango_connection_id, integration_key, connection_id, next_attempt_at, created_at) \
         values ($1, $2, $3, $4, $4) on conflict (nango_connection_id) do nothing",
    )
    .bind(&upstream.id)
    .bind(&upstream.integration.key)
    .bind(connection_id)
    .bind(now)
    .execute(db)
    .await?;
    Ok(noted.rows_affected() > 0)
}

/// Which of Nango's connections wait to be deleted.
pub(crate) async fn find_queued_deletions(
    db: &mut Transaction,
    nango_ids: &[&str],
) -> sqlx::Result<HashSet<String>> {
    let ids: Vec<String> = sqlx::query_scalar(
        "select nango_connection_id from upstream_deletion where nango_connection_id = any($1)",
    )
    .bind(nango_ids)
    .fetch_all(db)
    .await?;
    Ok(ids.into_iter().collect())
}

/// A statement that claims deletions of which `$condition` is true. Each condition has its own: one that asks
/// which of several is meant goes by the index of none.
macro_rules! claim {
    ($condition:literal) => {
        concat!(
            "with due as ( \
               select nango_connection_id from upstream_deletion where ",
            $condition,
            " and (leased_until is null or leased_until < now()) \
               order by next_attempt_at limit $3 for update skip locked \
             ) \
             update upstream_deletion d set leased_until = now() + make_interval(secs => $2), attempts = attempts + 1 \
             from due where d.nango_connection_id = due.nango_connection_id \
             returning d.nango_connection_id, d.integration_key, d.connection_id, d.attempts",
        )
    };
}

/// Claims deletions that are due, for as long as `lease` seconds of the database's time.
///
/// With a `connection`, only its own, whether due or not.
pub(crate) async fn claim_deletions(
    db: &mut Transaction,
    connection: Option<Uuid>,
    now: DateTime<Utc>,
    lease: f64,
    limit: i64,
) -> sqlx::Result<Vec<Deletion>> {
    let claim = match connection {
        Some(connection) => sqlx::query_as(claim!("connection_id = $1")).bind(connection),
        None => sqlx::query_as(claim!("next_attempt_at <= $1")).bind(now),
    };
    claim.bind(lease).bind(limit).fetch_all(db).await
}

/// What is granted is not to be deleted any more. `false` while somebody is deleting it.
pub(crate) async fn cancel_deletion(db: &mut Transaction, nango_id: &str) -> sqlx::Result<bool> {
    // Locked, so that nobody begins meanwhile: who has waited for the lock sees the lease as it is then.
    let deleting: Option<bool> = sqlx::query_scalar(
        "select coalesce(leased_until >= now(), false) from upstream_deletion \
         where nango_connection_id = $1 for update",
    )
    .bind(nango_id)
    .fetch_optional(&mut *db)
    .await?;
    if deleting == Some(false) {
        complete_deletion(db, nango_id).await?;
    }
    Ok(deleting != Some(true))
}

/// Nango has confirmed a deletion.
pub(crate) async fn complete_deletion(db: &mut Transaction, nango_id: &str) -> sqlx::Result<()> {
    // Another replica whose lease had run out may have finished it before: no row is fine.
    sqlx::query("delete from upstream_deletion where nango_connection_id = $1")
        .bind(nango_id)
        .execute(db)
        .await?;
    Ok(())
}

/// A deletion did not work and is tried again later.
pub(crate) async fn reschedule_deletion(
    db: &mut Transaction,
    nango_id: &str,
    error: &str,
    next_attempt_at: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query(
        "update upstream_deletion set leased_until = null, last_error = $2, next_attempt_at = $3 \
         where nango_connection_id = $1",
    )
    .bind(nango_id)
    .bind(error)
    .bind(next_attempt_at)
    .execute(db)
    .await?;
    Ok(())
}

/// Whether anything of a connection still has to be deleted at Nango.
pub(crate) async fn has_pending_deletion(
    db: &mut Transaction,
    connection_id: Uuid,
) -> sqlx::Result<bool> {
    sqlx::query_scalar("select exists (select 1 from upstream_deletion where connection_id = $1)")
        .bind(connection_id)
        .fetch_one(db)
        .await
}
