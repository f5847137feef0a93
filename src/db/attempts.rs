//! Attempts.
//!
//! A connection's open attempt, if it has one, is its newest, which its row shows: it is looked for there, for of all that
//! are open an index tells only as well as PostgreSQL's statistics know how many they are, which changes from hour to hour.

use std::collections::HashSet;

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::Transaction;
use super::one_row;
use super::rows::{select_attempts, select_attempts_with_connection};
use crate::auth::BrowserToken;
use crate::domain::UserId;
use crate::domain::{Attempt, Connection, Failure, Outcome};

/// An attempt with the connection that it is to authorize.
#[derive(Clone, Debug)]
pub(crate) struct AttemptWithConnection {
    pub(crate) connection: Connection,
    pub(crate) attempt: Attempt,
}

/// An attempt and its connection, both locked until the transaction ends.
pub(crate) async fn lock_attempt(
    db: &mut Transaction,
    attempt: Uuid,
) -> sqlx::Result<Option<AttemptWithConnection>> {
    // The connection is locked first, as everywhere. Who has waited for a lock is given the row as
    // it is then; an attempt that were only read would be as it was before.
    sqlx::query_as(select_attempts_with_connection!(
        "where a.id = $1 for no key update of c, a"
    ))
    .bind(attempt)
    .fetch_optional(db)
    .await
}

/// Notes what Nango said of an attempt's session: until when it is valid, and which kind it became.
pub(crate) async fn update_session(db: &mut Transaction, attempt: &Attempt) -> sqlx::Result<()> {
    // The connection is locked first, as everywhere: its row shows the attempt.
    let done = sqlx::query(
        "with locked as materialized ( \
           select id from user_connector_connection where id = $4 for update \
         ) \
         update connect_attempt set expires_at = $2, kind = $3 from locked \
         where connect_attempt.id = $1 and connection_id = locked.id",
    )
    .bind(attempt.id)
    .bind(attempt.expires_at)
    .bind(attempt.kind.as_str())
    .bind(attempt.connection_id)
    .execute(db)
    .await?;
    one_row(done.rows_affected(), "connect_attempt", attempt.id)
}

pub(crate) async fn end_attempt(
    db: &mut Transaction,
    attempt: Uuid,
    outcome: Outcome,
    failure: Option<&Failure>,
    connection: &Connection,
) -> sqlx::Result<()> {
    let nango_id = connection
        .state
        .upstream()
        .filter(|_| outcome == Outcome::Succeeded);
    // The success of an older attempt ends the wait for the one that came after it.
    let ended: i64 = sqlx::query_scalar(
        "with ended as ( \
           update connect_attempt set outcome = $2, error_code = $3, error_message = $4, \
             nango_connection_id = $5, ended_at = $6 where id = $1 returning id \
         ), superseded as ( \
           update connect_attempt set outcome = 'superseded', ended_at = $6 \
           where $2 = 'succeeded' and id <> $1 and id = ( \
             select attempt_id from user_connector_connection where id = $7 and attempt_outcome is null) \
         ) \
         select count(*) from ended",
    )
    .bind(attempt)
    .bind(outcome.as_str())
    .bind(failure.map(|failure| failure.reason.as_str()))
    .bind(failure.map(|failure| failure.message.as_str()))
    .bind(nango_id.map(|upstream| upstream.id.as_str()))
    .bind(connection.updated_at)
    .bind(connection.id)
    .fetch_one(db)
    .await?;
    one_row(ended.unsigned_abs(), "connect_attempt", attempt)
}

/// Notes which browser a user's attempt was begun in.
pub(crate) async fn bind_attempt(
    db: &mut Transaction,
    connection: &Connection,
    attempt: Uuid,
    browser: &BrowserToken,
) -> sqlx::Result<()> {
    // The connection is locked first, as everywhere: its row shows the attempt.
    let done = sqlx::query(
        "with locked as materialized ( \
           select id from user_connector_connection where id = $2 for update \
         ) \
         update connect_attempt set browser = $3 from locked \
         where connect_attempt.id = $1 and connection_id = locked.id",
    )
    .bind(attempt)
    .bind(connection.id)
    .bind(browser.hash())
    .execute(db)
    .await?;
    one_row(done.rows_affected(), "connect_attempt", attempt)
}

/// Notes that a browser has come back from a provider, with whichever attempt it has begun since then and not
/// yet finished. Says whether there was one.
pub(crate) async fn record_browser_return(
    db: &mut Transaction,
    browser: &BrowserToken,
    since: DateTime<Utc>,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    let done = sqlx::query(
        "with locked as materialized ( \
           select id from user_connector_connection where id in ( \
             select connection_id from connect_attempt where browser = $1 and created_at > $2) \
           order by id for update \
         ) \
         update connect_attempt set returned_at = $3 from locked \
         where connection_id = locked.id and browser = $1 and connect_attempt.created_at > $2 \
           and not void and outcome is distinct from 'succeeded'",
    )
    .bind(browser.hash())
    .bind(since)
    .bind(now)
    .execute(db)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Ends what a disconnect ends: no attempt that began before it connects any more.
pub(crate) async fn invalidate_attempts(
    db: &mut Transaction,
    connection_id: Uuid,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query(
        "update connect_attempt set void = true, outcome = coalesce(outcome, 'superseded'), \
           ended_at = coalesce(ended_at, $2) where connection_id = $1 and not void",
    )
    .bind(connection_id)
    .bind(now)
    .execute(db)
    .await?;
    Ok(())
}

/// A connection's newest attempt, if it began since then and no grant of it was taken: one may come yet, or be there
/// unseen, though the attempt is over.
pub(crate) async fn ungranted_attempt(
    db: &mut Transaction,
    connection_id: Uuid,
    since: DateTime<Utc>,
) -> sqlx::Result<Option<Uuid>> {
    sqlx::query_scalar(
        "select attempt_id from user_connector_connection where id = $1 \
           and attempt_created_at > $2 and attempt_outcome is distinct from 'succeeded'",
    )
    .bind(connection_id)
    .bind(since)
    .fetch_optional(db)
    .await
}

/// Attempts that are still open past their time.
pub(crate) async fn overdue_attempts(
    db: &mut Transaction,
    now: DateTime<Utc>,
    limit: i64,
) -> sqlx::Result<Vec<Attempt>> {
    sqlx::query_as(select_attempts!(
        "where a.outcome is null and a.expires_at <= $1 order by a.expires_at limit $2"
    ))
    .bind(now)
    .bind(limit)
    .fetch_all(db)
    .await
}

/// A user's newest open attempts, so many.
pub(crate) async fn open_attempts_of(
    db: &mut Transaction,
    user: &UserId,
    limit: u8,
) -> sqlx::Result<Vec<Attempt>> {
    sqlx::query_as(select_attempts!(
        "join user_connector_connection c on c.attempt_id = a.id \
         where c.user_id = $1 and c.attempt_outcome is null order by a.created_at desc limit $2"
    ))
    .bind(user.as_str())
    .bind(i64::from(limit))
    .fetch_all(db)
    .await
}

/// Those of these attempts whose grant, if there is one, nobody has told of yet. They need
/// not be open: one that was denied or superseded may be granted all the same.
pub(crate) async fn unapplied_attempts(
    db: &mut Transaction,
    attempts: &[Uuid],
) -> sqlx::Result<HashSet<Uuid>> {
    let ids: Vec<Uuid> = sqlx::query_scalar(
        "select id from connect_attempt where id = any($1) \
           and outcome is distinct from 'succeeded' and error_code is distinct from 'account_mismatch'",
    )
    .bind(attempts)
    .fetch_all(db)
    .await?;
    Ok(ids.into_iter().collect())
}

/// Keeps the ids of a connection's attempts that may still be granted though the connection is erased: those that began
/// less than `returns` ago. Nothing else of them is kept.
pub(crate) async fn keep_erased_attempts(
    db: &mut Transaction,
    connection_id: Uuid,
    returns: TimeDelta,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    let seconds = returns.as_seconds_f64();
    sqlx::query(
        "insert into erased_attempt (id, expires_at) \
         select id, created_at + make_interval(secs => $2) from connect_attempt \
         where connection_id = $1 and created_at + make_interval(secs => $2) > $3 on conflict do nothing",
    )
    .bind(connection_id)
    .bind(seconds)
    .bind(now)
    .execute(db)
    .await?;
    Ok(())
}

/// Whether an attempt is one of a connection that was erased, and may still be granted.
pub(crate) async fn is_erased_attempt(
    db: &mut Transaction,
    attempt: Uuid,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "select exists (select from erased_attempt where id = $1 and expires_at > $2)",
    )
    .bind(attempt)
    .bind(now)
    .fetch_one(db)
    .await
}

/// Deletes ids of erased attempts that can no longer be granted.
pub(crate) async fn delete_expired_erased_attempts(
    db: &mut Transaction,
    now: DateTime<Utc>,
    limit: i64,
) -> sqlx::Result<u64> {
    let done = sqlx::query(
        "delete from erased_attempt where ctid = any(array( \
           select ctid from erased_attempt where expires_at <= $1 order by expires_at limit $2))",
    )
    .bind(now)
    .bind(limit)
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}
