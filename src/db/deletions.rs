//! The queue of deletions at Nango.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgExecutor};

use super::{Transaction, admit_change};
use crate::domain::{Brake, ConnectionId, DeletionReason, NangoConnectionRef, UserId};

/// A pending deletion of a connection at Nango.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct Deletion {
    pub(crate) nango_connection_id: String,
    pub(crate) integration_key: String,
    pub(crate) user_id: Option<String>,
    pub(crate) connection_id: Option<ConnectionId>,
    pub(crate) reason: String,
    pub(crate) attempts: i32,
}

/// Queues the deletion of a connection at Nango, for a reason that the caller has read in this transaction. Returns
/// `false` if it is queued already, or if a row uses the connection.
///
/// `user` and `connection_id` identify the former owner and row, if known. For an erased user, a digest is stored.
pub(crate) async fn queue_deletion(
    db: &mut Transaction,
    upstream: &NangoConnectionRef,
    reason: DeletionReason,
    user: Option<&UserId>,
    connection_id: Option<ConnectionId>,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    if is_in_use(&mut *db, &upstream.id).await? {
        tracing::warn!(
            nango_connection = upstream.id,
            reason = reason.as_str(),
            "a connection at nango is in use and is not deleted"
        );
        return Ok(false);
    }
    let queued = sqlx::query(
        "insert into upstream_deletion \
           (nango_connection_id, integration_key, user_id, erased_user, connection_id, reason, next_attempt_at, created_at) \
         values ($1, $2, case when $5 <> 'erased' then $3 end, \
           case when $5 = 'erased' then sha256(convert_to($3, 'UTF8')) end, $4, $5, $6, $7) \
         on conflict (nango_connection_id) do nothing",
    )
    .bind(&upstream.id)
    .bind(&upstream.integration.key)
    .bind(user.map(UserId::as_str))
    .bind(connection_id)
    .bind(reason.as_str())
    .bind(now + reason.delay())
    .bind(now)
    .execute(&mut *db)
    .await?;
    let is_new = queued.rows_affected() > 0;
    if is_new && reason.is_automatic() {
        // With the brake engaged, the entry stays in the queue until an operator releases the brake.
        if let Some(user) = user {
            admit_change(db, Brake::Deletions, user, 0).await?;
        }
    }
    Ok(is_new)
}

/// Queues the deletion of erased connections at Nango: each with its id, Nango's id and the integration's key. Pending
/// deletions of these connections get the same reason. Skips connections that a row uses.
pub(crate) async fn queue_erased(
    db: &mut Transaction,
    user: &UserId,
    connections: &[ConnectionId],
    at_nango: &[(ConnectionId, &str, &str)],
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    let ids: Vec<ConnectionId> = at_nango.iter().map(|one| one.0).collect();
    let nango_ids: Vec<&str> = at_nango.iter().map(|one| one.1).collect();
    let keys: Vec<&str> = at_nango.iter().map(|one| one.2).collect();
    sqlx::query(
        "insert into upstream_deletion \
           (nango_connection_id, integration_key, erased_user, connection_id, reason, next_attempt_at, created_at) \
         select nango_id, key, sha256(convert_to($6, 'UTF8')), id, $4, $5, $5 from unnest($1::uuid[], $2::text[], $3::text[]) erased (id, nango_id, key) \
         where not exists (select from user_connector_connection c where c.nango_connection_id = erased.nango_id) \
         on conflict (nango_connection_id) do nothing",
    )
    .bind(ids)
    .bind(nango_ids)
    .bind(keys)
    .bind(DeletionReason::Erased.as_str())
    .bind(now)
    .bind(user.as_str())
    .execute(&mut *db)
    .await?;
    sqlx::query(
        "update upstream_deletion set reason = $2, next_attempt_at = least(next_attempt_at, $3), user_id = null, \
           erased_user = sha256(convert_to($4, 'UTF8')) \
         where connection_id = any($1) and reason <> $2",
    )
    .bind(connections)
    .bind(DeletionReason::Erased.as_str())
    .bind(now)
    .bind(user.as_str())
    .execute(db)
    .await?;
    Ok(())
}

/// Returns whether a row, of any user, uses a connection at Nango.
pub(crate) async fn is_in_use(db: impl PgExecutor<'_>, nango_id: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "select exists (select 1 from user_connector_connection where nango_connection_id = $1)",
    )
    .bind(nango_id)
    .fetch_one(db)
    .await
}

/// Makes the pending deletions of a connection due now, with a new reason, because the user disconnected it.
pub(crate) async fn hasten_deletions(
    db: &mut Transaction,
    connection_id: ConnectionId,
    reason: DeletionReason,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query(
        "update upstream_deletion set reason = $2, next_attempt_at = least(next_attempt_at, $3) \
         where connection_id = $1 and reason <> $2",
    )
    .bind(connection_id)
    .bind(reason.as_str())
    .bind(now)
    .execute(db)
    .await?;
    Ok(())
}

/// Returns the number of an erased user's connections whose deletion Nango has not confirmed.
pub(crate) async fn count_pending_erasures(
    db: &mut Transaction,
    user: &UserId,
) -> sqlx::Result<i64> {
    sqlx::query_scalar(
        "select count(*) from upstream_deletion where erased_user = sha256(convert_to($1, 'UTF8'))",
    )
    .bind(user.as_str())
    .fetch_one(db)
    .await
}

/// Returns which of these connections at Nango have a pending deletion.
pub(crate) async fn find_queued_deletions(
    db: impl PgExecutor<'_>,
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

/// A statement that claims deletions that match `$condition`. Each condition has its own statement: for one that
/// combines them, PostgreSQL would use no index.
macro_rules! claim {
    ($condition:literal) => {
        concat!(
            // By `ctid`: a join by key would scan the whole queue.
            "update upstream_deletion set leased_until = now() + make_interval(secs => $2), attempts = attempts + 1 \
             where ctid = any(array( \
               select ctid from upstream_deletion where ",
            $condition,
            " and (leased_until is null or leased_until < now() or leased_until > clock_timestamp() + make_interval(secs => $2)) \
               order by next_attempt_at limit $3 for update skip locked)) \
             returning nango_connection_id, integration_key, user_id, connection_id, reason, attempts",
        )
    };
}

/// Claims due deletions, with a lease of `lease` seconds of the database's time.
///
/// With a `connection`, claims only its deletions, whether due or not, because its user requested them. A replaced grant
/// is claimed only when it is due and the deletion brake is not engaged. Without a connection, the brake excludes all
/// that no user requested.
pub(crate) async fn claim_deletions(
    db: &mut Transaction,
    connection: Option<ConnectionId>,
    now: DateTime<Utc>,
    lease: f64,
    limit: i64,
) -> sqlx::Result<Vec<Deletion>> {
    let claim = match connection {
        Some(connection) => sqlx::query_as(claim!(
            "connection_id = $1 and (reason <> 'replaced' or (next_attempt_at <= $4 and not exists ( \
               select from brake where kind = 'deletions' and engaged_at is not null)))"
        ))
        .bind(connection),
        None => sqlx::query_as(claim!(
            "next_attempt_at <= $1 and (reason not in ('replaced', 'invalidated') or not exists ( \
               select from brake where kind = 'deletions' and engaged_at is not null))"
        ))
        .bind(now),
    };
    let claim = claim.bind(lease).bind(limit);
    let claim = match connection {
        Some(_) => claim.bind(now),
        None => claim,
    };
    claim.fetch_all(db).await
}

/// Cancels the deletion of a connection that was granted again. Returns `false` while a worker is deleting it.
pub(crate) async fn cancel_deletion(db: &mut Transaction, nango_id: &str) -> sqlx::Result<bool> {
    // Locks the row, so that no worker claims it meanwhile. After waiting for the lock, the query reads the current
    // lease.
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

/// Removes a deletion that Nango has confirmed.
pub(crate) async fn complete_deletion(db: impl PgExecutor<'_>, nango_id: &str) -> sqlx::Result<()> {
    // No row is not an error: another replica whose lease had expired may have completed the deletion.
    sqlx::query("delete from upstream_deletion where nango_connection_id = $1")
        .bind(nango_id)
        .execute(db)
        .await?;
    Ok(())
}

/// Schedules the retry of a failed deletion.
pub(crate) async fn reschedule_deletion(
    db: impl PgExecutor<'_>,
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

/// Returns whether a connection has pending deletions at Nango, and whether another claim is worth a try: one is
/// leased, or its user requested it.
pub(crate) async fn pending_deletions(
    db: impl PgExecutor<'_>,
    connection_id: ConnectionId,
) -> sqlx::Result<(bool, bool)> {
    sqlx::query_as(
        "select count(*) > 0, coalesce(bool_or(reason <> 'replaced' or leased_until >= now()), false) \
         from upstream_deletion where connection_id = $1",
    )
    .bind(connection_id)
    .fetch_one(db)
    .await
}
