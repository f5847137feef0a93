//! Authorization attempts.
//!
//! A connection's open attempt, if it has one, is its newest, and the connection's row has a copy of it. Queries read
//! that copy: the plan for an index of all open attempts depends on PostgreSQL's estimate of their number, which
//! changes from hour to hour.
//!
//! Each statement that writes an attempt also updates the copy in the connection's row, where the attempt is the
//! newest.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{PgExecutor, Postgres};

use super::Transaction;
use super::one_row;
use super::rows::{newest_attempt_columns, readable, select_attempts_with_connection};
use crate::auth::BrowserToken;
use crate::domain::UserId;
use crate::domain::{Attempt, AttemptId, Connection, ConnectionId, Failure, Integration, Outcome};

/// An attempt with the connection that it is to authorize.
#[derive(Clone, Debug)]
pub(crate) struct AttemptWithConnection {
    pub(crate) connection: Connection,
    pub(crate) attempt: Attempt,
    /// The integration of the attempt's session.
    pub(crate) integration: Integration,
}

/// Returns a user's attempt and its connection, both locked until the transaction ends.
pub(crate) async fn lock_attempt(
    db: &mut Transaction,
    user: &UserId,
    attempt: AttemptId,
) -> sqlx::Result<Option<AttemptWithConnection>> {
    // The connection is locked first, as everywhere. After waiting for a lock, PostgreSQL rereads only locked rows, so
    // an attempt that was not locked could be stale.
    sqlx::query_as(select_attempts_with_connection!(
        "where a.user_id = $1 and a.id = $2 for no key update of c, a"
    ))
    .bind(user.as_str())
    .bind(attempt)
    .fetch_optional(db)
    .await
}

/// Records the expiry, kind and integration of an attempt's session, as reported by Nango.
pub(crate) async fn update_session(
    db: impl PgExecutor<'_>,
    user: &UserId,
    attempt: &Attempt,
    integration: &Integration,
) -> sqlx::Result<()> {
    // The connection is locked first, as everywhere.
    let done = sqlx::query(
        "with locked as ( \
           update user_connector_connection set \
             attempt_kind = case when attempt_id = $3 then $4 else attempt_kind end, \
             attempt_expires_at = case when attempt_id = $3 then $5 else attempt_expires_at end \
           where user_id = $1 and id = $2 returning id \
         ), owner as ( \
           update attempt_owner set due_at = $5, kept_until = greatest(kept_until, $5) where attempt_id = $3 \
         ) \
         update connect_attempt a set kind = $4, expires_at = $5, integration_key = $6, provider = $7 from locked \
         where a.user_id = $1 and a.id = $3 and a.connection_id = locked.id",
    )
    .bind(user.as_str())
    .bind(attempt.connection_id)
    .bind(attempt.id)
    .bind(attempt.kind.as_str())
    .bind(attempt.expires_at)
    .bind(&integration.key)
    .bind(&integration.provider)
    .execute(db)
    .await?;
    one_row(done.rows_affected(), "connect_attempt", attempt.id.0)
}

/// How an attempt ended.
pub(crate) struct AttemptEnd<'a> {
    pub(crate) attempt: AttemptId,
    pub(crate) outcome: Outcome,
    pub(crate) failure: Option<&'a Failure>,
}

/// The update of a connection and the end of one of its attempts, in one statement. The success of an older attempt
/// supersedes the open one.
macro_rules! end_attempt {
    () => {
        concat!(
            "with ended as ( \
               update connect_attempt set outcome = $25, error_code = $26, error_message = $27, \
                 nango_connection_id = $28, ended_at = $13 where user_id = $23 and id = $24 returning 1 \
             ), superseded as ( \
               update connect_attempt a set outcome = 'superseded', ended_at = $13 from user_connector_connection c \
               where $25 = 'succeeded' and c.user_id = $23 and c.id = $1 and c.attempt_id <> $24 \
                 and c.attempt_outcome is null and a.user_id = $23 and a.id = c.attempt_id \
             ) ",
            crate::db::writes::update_connection!(
                ", attempt_outcome, attempt_error_code, attempt_error_message, attempt_ended_at",
                ", case when c.attempt_id = $24 then $25 \
                     when $25 = 'succeeded' and c.attempt_outcome is null then 'superseded' \
                     else c.attempt_outcome end, \
                 case when c.attempt_id = $24 then $26 else c.attempt_error_code end, \
                 case when c.attempt_id = $24 then $27 else c.attempt_error_message end, \
                 case when c.attempt_id = $24 or ($25 = 'succeeded' and c.attempt_outcome is null) then $13 \
                     else c.attempt_ended_at end"
            ),
        )
    };
}

pub(crate) use end_attempt;

/// Binds the parameters of [`end_attempt`] after those of the connection.
pub(crate) fn bind_attempt_end<'q>(
    statement: Query<'q, Postgres, PgArguments>,
    connection: &Connection,
    end: &AttemptEnd<'_>,
) -> Query<'q, Postgres, PgArguments> {
    let granted = connection.state.upstream();
    let granted = granted.filter(|_| end.outcome == Outcome::Succeeded);
    statement
        .bind(end.attempt)
        .bind(end.outcome.as_str())
        .bind(end.failure.map(|failure| failure.reason.as_str()))
        .bind(end.failure.map(|failure| failure.message.clone()))
        .bind(granted.map(|upstream| upstream.id.clone()))
}

/// Records the browser in which a user's attempt was started.
pub(crate) async fn bind_attempt(
    db: impl PgExecutor<'_>,
    connection: &Connection,
    attempt: AttemptId,
    browser: &BrowserToken,
) -> sqlx::Result<()> {
    // The connection is locked first, as everywhere.
    let done = sqlx::query(
        "with locked as ( \
           update user_connector_connection set attempt_returned = \
             case when attempt_id = $3 then coalesce(attempt_returned, false) else attempt_returned end \
           where user_id = $1 and id = $2 returning id \
         ), owner as ( \
           update attempt_owner set browser_token_hash = $4 where attempt_id = $3 and user_id = $1 \
         ) \
         update connect_attempt a set browser_token_hash = $4 from locked \
         where a.user_id = $1 and a.id = $3 and a.connection_id = locked.id",
    )
    .bind(connection.user_id.as_str())
    .bind(connection.id)
    .bind(attempt)
    .bind(browser.hash())
    .execute(db)
    .await?;
    one_row(done.rows_affected(), "connect_attempt", attempt.0)
}

/// Records that a browser returned from a provider, in those attempts of a user that may still be granted. Returns
/// whether there is one. `attempts` contains the ids of attempts, each with its connection's.
pub(crate) async fn record_browser_return(
    db: impl PgExecutor<'_>,
    user: &UserId,
    attempts: &[(AttemptId, ConnectionId)],
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    let (attempts, connections): (Vec<AttemptId>, Vec<ConnectionId>) =
        attempts.iter().copied().unzip();
    // The connections are locked first, as everywhere.
    let returned: i64 = sqlx::query_scalar(
        "with locked as materialized ( \
           select id from user_connector_connection where user_id = $1 and id = any($2) order by id for no key update \
         ), returned as ( \
           update connect_attempt a set returned_at = $4 from locked \
           where a.user_id = $1 and a.id = any($3) and a.connection_id = locked.id \
             and not a.invalidated and a.outcome is distinct from 'succeeded' \
           returning a.id, a.connection_id \
         ), copied as ( \
           update user_connector_connection c set attempt_returned = true from returned \
           where c.user_id = $1 and c.id = returned.connection_id and c.attempt_id = returned.id \
         ) \
         select count(*) from returned",
    )
    .bind(user.as_str())
    .bind(connections)
    .bind(attempts)
    .bind(now)
    .fetch_one(db)
    .await?;
    Ok(returned > 0)
}

/// Invalidates the attempts that started before a disconnect: a grant of one no longer connects.
pub(crate) async fn invalidate_attempts(
    db: &mut Transaction,
    user: &UserId,
    connection_id: ConnectionId,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query(
        "with invalidated as ( \
           update connect_attempt set invalidated = true, outcome = coalesce(outcome, 'superseded'), \
             ended_at = coalesce(ended_at, $3) where user_id = $1 and connection_id = $2 and not invalidated \
         ) \
         update user_connector_connection set attempt_invalidated = true, \
           attempt_outcome = coalesce(attempt_outcome, 'superseded'), attempt_ended_at = coalesce(attempt_ended_at, $3) \
         where user_id = $1 and id = $2 and attempt_id is not null",
    )
    .bind(user.as_str())
    .bind(connection_id)
    .bind(now)
    .execute(db)
    .await?;
    Ok(())
}

/// Returns a connection's newest attempt if it started after `since` and no grant of it was applied. A grant may still
/// arrive or be detected, even if the attempt has ended.
pub(crate) async fn ungranted_attempt(
    db: impl PgExecutor<'_>,
    user: &UserId,
    connection_id: ConnectionId,
    since: DateTime<Utc>,
) -> sqlx::Result<Option<AttemptId>> {
    sqlx::query_scalar(
        "select attempt_id from user_connector_connection where user_id = $1 and id = $2 \
           and attempt_created_at > $3 and attempt_outcome is distinct from 'succeeded'",
    )
    .bind(user.as_str())
    .bind(connection_id)
    .bind(since)
    .fetch_optional(db)
    .await
}

/// Returns whether a connection's newest attempt started after `since`. Then this or an earlier attempt may have a grant
/// that was not reported, even if it has ended: one session can be granted several times.
pub(crate) async fn has_recent_attempt(
    db: &mut Transaction,
    user: &UserId,
    connection_id: ConnectionId,
    since: DateTime<Utc>,
) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "select exists (select 1 from user_connector_connection \
           where user_id = $1 and id = $2 and attempt_created_at > $3)",
    )
    .bind(user.as_str())
    .bind(connection_id)
    .bind(since)
    .fetch_one(db)
    .await
}

/// Returns at most `limit` of a user's newest open attempts.
pub(crate) async fn open_attempts_of(
    db: impl PgExecutor<'_>,
    user: &UserId,
    limit: u8,
) -> sqlx::Result<Vec<Attempt>> {
    let rows = sqlx::query_as(concat!(
        "select c.id, ",
        newest_attempt_columns!(),
        " from user_connector_connection c \
          where c.user_id = $1 and c.attempt_id is not null and c.attempt_outcome is null \
          order by c.attempt_created_at desc limit $2"
    ))
    .bind(user.as_str())
    .bind(i64::from(limit))
    .fetch_all(db)
    .await?;
    Ok(readable("connect_attempt", rows))
}

/// Returns those of `attempts`, of any user, whose grant has not been applied yet. They need not be open: a denied or
/// superseded attempt may still be granted.
pub(crate) async fn unapplied_attempts(
    db: &mut Transaction,
    attempts: &[AttemptId],
) -> sqlx::Result<HashSet<AttemptId>> {
    let ids: Vec<AttemptId> = sqlx::query_scalar(
        "select id from connect_attempt where id = any($1) \
           and outcome is distinct from 'succeeded' and error_code is distinct from 'account_mismatch'",
    )
    .bind(attempts)
    .fetch_all(db)
    .await?;
    Ok(ids.into_iter().collect())
}
