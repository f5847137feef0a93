//! The stored answers for Idempotency-Keys.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgExecutor;

use super::Transaction;
use crate::domain::UserId;

/// The state of a key.
#[derive(Debug)]
pub(crate) enum KeyState {
    /// The key was unused: this request has claimed it, at this time. The time identifies the claim.
    Acquired(DateTime<Utc>),
    /// Another request with the key is in progress.
    InProgress,
    /// The key was used for another request.
    Mismatch,
    /// The stored answer.
    Completed(Value),
}

/// Claims a key, or returns its current state. A request in progress for longer than `lease` seconds was lost with its
/// process; a key whose answer has expired is free again.
pub(crate) async fn claim_key(
    db: &mut Transaction,
    user: &UserId,
    key: &str,
    fingerprint: &[u8],
    lease: f64,
    now: DateTime<Utc>,
) -> sqlx::Result<KeyState> {
    let claimed: Option<DateTime<Utc>> = sqlx::query_scalar(
        "insert into idempotency_key as k (user_id, key, fingerprint) values ($1, $2, $3) \
         on conflict (user_id, key) do update \
         set created_at = now(), fingerprint = excluded.fingerprint, answer = null, expires_at = null \
         where k.expires_at <= $5 or k.answer is null and k.fingerprint = $3 \
           and k.created_at < now() - make_interval(secs => $4) \
         returning created_at",
    )
    .bind(user.as_str())
    .bind(key)
    .bind(fingerprint)
    .bind(lease)
    .bind(now)
    .fetch_optional(&mut *db)
    .await?;
    if let Some(claimed) = claimed {
        return Ok(KeyState::Acquired(claimed));
    }
    let found: Option<(String, bool, Option<Value>)> = sqlx::query_as(
        "select user_id, fingerprint = $3, answer from idempotency_key where user_id = $1 and key = $2",
    )
    .bind(user.as_str())
    .bind(key)
    .bind(fingerprint)
    .fetch_optional(db)
    .await?;
    Ok(match found {
        Some((owner, same, _)) if !same || owner != user.as_str() => KeyState::Mismatch,
        Some((_, _, Some(answer))) => KeyState::Completed(answer),
        // The key may have been deleted just now; then a retry acquires it.
        Some((_, _, None)) | None => KeyState::InProgress,
    })
}

/// Stores the answer for a key that was claimed at `claimed`, unless another request has claimed it since. `until` is the
/// time at which the answer expires, if it does.
pub(crate) async fn store_answer(
    db: impl PgExecutor<'_>,
    user: &UserId,
    (key, claimed): (&str, DateTime<Utc>),
    answer: &Value,
    until: Option<DateTime<Utc>>,
) -> sqlx::Result<()> {
    sqlx::query(
        "update idempotency_key set answer = $3, expires_at = $4 \
         where user_id = $1 and key = $2 and created_at = $5",
    )
    .bind(user.as_str())
    .bind(key)
    .bind(answer)
    .bind(until)
    .bind(claimed)
    .execute(db)
    .await?;
    Ok(())
}

/// Releases a key that was claimed at `claimed`, so that the request can be retried.
pub(crate) async fn release_key(
    db: impl PgExecutor<'_>,
    user: &UserId,
    (key, claimed): (&str, DateTime<Utc>),
) -> sqlx::Result<()> {
    sqlx::query(
        "delete from idempotency_key \
         where user_id = $1 and key = $2 and created_at = $3 and answer is null",
    )
    .bind(user.as_str())
    .bind(key)
    .bind(claimed)
    .execute(db)
    .await?;
    Ok(())
}

/// Deletes a user's keys.
pub(crate) async fn delete_keys_of(db: &mut Transaction, user: &UserId) -> sqlx::Result<()> {
    sqlx::query("delete from idempotency_key where user_id = $1")
        .bind(user.as_str())
        .execute(db)
        .await?;
    Ok(())
}

/// Deletes keys older than `age` seconds and keys whose answer has expired, at most `limit` of each.
pub(crate) async fn delete_expired_keys(
    db: impl PgExecutor<'_>,
    age: f64,
    now: DateTime<Utc>,
    limit: i64,
) -> sqlx::Result<u64> {
    let done = sqlx::query(
        "delete from idempotency_key where ctid = any(array( \
           (select ctid from idempotency_key where created_at < now() - make_interval(secs => $1) \
            order by created_at limit $3) \
           union all \
           (select ctid from idempotency_key where expires_at <= $2 order by expires_at limit $3)))",
    )
    .bind(age)
    .bind(now)
    .bind(limit)
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}
