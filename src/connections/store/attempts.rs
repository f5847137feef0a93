//! Attempts.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use sqlx::FromRow;
use uuid::Uuid;

use super::{Corrupt, corrupt, one_row};
use crate::auth::UserId;
use crate::connections::Transaction;
use crate::connections::{Attempt, Browser, Connection, Failure, Outcome};

/// A select of attempts from what the caller adds.
macro_rules! select_attempts {
    ($($distinct:literal,)? from $rest:literal) => {
        concat!(
            "select ", $($distinct,)? "a.id, a.connection_id, a.kind, a.expires_at, a.outcome, a.error_code, \
             a.error_message, a.void, case when a.browser is not null then a.returned_at is not null end as returned, \
             a.created_at, a.ended_at from connect_attempt a ",
            $rest
        )
    };
}

#[derive(FromRow)]
pub(super) struct AttemptRow {
    pub(super) id: Uuid,
    pub(super) connection_id: Uuid,
    pub(super) kind: String,
    pub(super) expires_at: DateTime<Utc>,
    pub(super) outcome: Option<String>,
    pub(super) error_code: Option<String>,
    pub(super) error_message: Option<String>,
    pub(super) void: bool,
    pub(super) returned: Option<bool>,
    pub(super) created_at: DateTime<Utc>,
    pub(super) ended_at: Option<DateTime<Utc>>,
}

impl TryFrom<AttemptRow> for Attempt {
    type Error = Corrupt;

    fn try_from(row: AttemptRow) -> Result<Self, Corrupt> {
        let wrong = |detail: &dyn ToString| corrupt("connect_attempt", row.id, detail);
        let error = match row.error_code {
            Some(code) => Some(Failure {
                reason: code.parse().map_err(|error| wrong(&error))?,
                message: row.error_message.unwrap_or_default(),
            }),
            None => None,
        };
        Ok(Self {
            id: row.id,
            connection_id: row.connection_id,
            kind: row.kind.parse().map_err(|error| wrong(&error))?,
            expires_at: row.expires_at,
            outcome: row
                .outcome
                .as_deref()
                .map(str::parse)
                .transpose()
                .map_err(|error| wrong(&error))?,
            error,
            void: row.void,
            returned: row.returned,
            created_at: row.created_at,
            ended_at: row.ended_at,
        })
    }
}

fn attempts(rows: Vec<AttemptRow>) -> sqlx::Result<Vec<Attempt>> {
    Ok(rows
        .into_iter()
        .map(Attempt::try_from)
        .collect::<Result<_, _>>()?)
}

/// Begins an attempt. An open one of the same connection is superseded.
pub(in crate::connections) async fn insert_attempt(
    db: &mut Transaction,
    attempt: &Attempt,
) -> sqlx::Result<()> {
    supersede_open(db, attempt.connection_id, attempt.created_at).await?;
    let done = sqlx::query(
        "insert into connect_attempt (id, connection_id, kind, expires_at, created_at) values ($1, $2, $3, $4, $5)",
    )
    .bind(attempt.id)
    .bind(attempt.connection_id)
    .bind(attempt.kind.as_str())
    .bind(attempt.expires_at)
    .bind(attempt.created_at)
    .execute(db)
    .await?;
    one_row(&done, "connect_attempt", attempt.id)
}

/// Notes what Nango said of an attempt's session: until when it is valid, and which kind it became.
pub(in crate::connections) async fn session_opened(
    db: &mut Transaction,
    attempt: &Attempt,
) -> sqlx::Result<()> {
    let done = sqlx::query("update connect_attempt set expires_at = $2, kind = $3 where id = $1")
        .bind(attempt.id)
        .bind(attempt.expires_at)
        .bind(attempt.kind.as_str())
        .execute(db)
        .await?;
    one_row(&done, "connect_attempt", attempt.id)
}

pub(super) async fn end_attempt(
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
    let done = sqlx::query(
        "update connect_attempt set outcome = $2, error_code = $3, error_message = $4, \
           nango_connection_id = $5, ended_at = $6 where id = $1",
    )
    .bind(attempt)
    .bind(outcome.as_str())
    .bind(failure.map(|failure| failure.reason.as_str()))
    .bind(failure.map(|failure| failure.message.as_str()))
    .bind(nango_id.map(|upstream| upstream.id.as_str()))
    .bind(connection.updated_at)
    .execute(&mut *db)
    .await?;
    one_row(&done, "connect_attempt", attempt)?;
    if outcome == Outcome::Succeeded {
        // The success of an older attempt ends the wait for the one that came after it.
        supersede_open(db, connection.id, connection.updated_at).await?;
    }
    Ok(())
}

async fn supersede_open(
    db: &mut Transaction,
    connection_id: Uuid,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query(
        "update connect_attempt set outcome = 'superseded', ended_at = $2 \
         where connection_id = $1 and outcome is null",
    )
    .bind(connection_id)
    .bind(now)
    .execute(db)
    .await?;
    Ok(())
}

/// Notes which browser a user's attempt was begun in.
pub(in crate::connections) async fn bind_attempt(
    db: &mut Transaction,
    connection: &Connection,
    attempt: Uuid,
    browser: &Browser,
) -> sqlx::Result<()> {
    let done =
        sqlx::query("update connect_attempt set browser = $3 where id = $1 and connection_id = $2")
            .bind(attempt)
            .bind(connection.id)
            .bind(browser.digest())
            .execute(db)
            .await?;
    one_row(&done, "connect_attempt", attempt)
}

/// Notes that a browser has come back from a provider, with whichever attempt it has begun since then and not
/// yet finished. Says whether there was one.
pub(in crate::connections) async fn browser_returned(
    db: &mut Transaction,
    browser: &Browser,
    since: DateTime<Utc>,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    let done = sqlx::query(
        "update connect_attempt set returned_at = $3 where browser = $1 and created_at > $2 \
           and not void and outcome is distinct from 'succeeded'",
    )
    .bind(browser.digest())
    .bind(since)
    .bind(now)
    .execute(db)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Ends what a disconnect ends: no attempt that began before it connects any more.
pub(in crate::connections) async fn void_attempts(
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

/// An attempt by its id.
pub(in crate::connections) async fn attempt(
    db: &mut Transaction,
    id: Uuid,
) -> sqlx::Result<Option<Attempt>> {
    let row: Option<AttemptRow> = sqlx::query_as(select_attempts!(from "where a.id = $1"))
        .bind(id)
        .fetch_optional(db)
        .await?;
    Ok(row.map(Attempt::try_from).transpose()?)
}

/// The newest attempt of each of these connections.
pub(in crate::connections) async fn latest_attempts(
    db: &mut Transaction,
    connections: &[Uuid],
) -> sqlx::Result<Vec<Attempt>> {
    let rows = sqlx::query_as(select_attempts!(
        "distinct on (a.connection_id) ",
        from "where a.connection_id = any($1) \
         order by a.connection_id, a.created_at desc, a.id desc"
    ))
    .bind(connections)
    .fetch_all(db)
    .await?;
    attempts(rows)
}

/// Attempts that are still open past their time.
pub(in crate::connections) async fn overdue_attempts(
    db: &mut Transaction,
    now: DateTime<Utc>,
    limit: i64,
) -> sqlx::Result<Vec<Attempt>> {
    let rows: Vec<AttemptRow> = sqlx::query_as(select_attempts!(
        from "where a.outcome is null and a.expires_at <= $1 order by a.expires_at limit $2"
    ))
    .bind(now)
    .bind(limit)
    .fetch_all(db)
    .await?;
    attempts(rows)
}

/// A user's open attempts.
pub(in crate::connections) async fn open_attempts_of(
    db: &mut Transaction,
    user: &UserId,
) -> sqlx::Result<Vec<Attempt>> {
    let rows = sqlx::query_as(select_attempts!(
        from "join user_connector_connection c on c.id = a.connection_id \
         where c.user_id = $1 and a.outcome is null order by a.created_at desc"
    ))
    .bind(user.as_str())
    .fetch_all(db)
    .await?;
    attempts(rows)
}

/// Those of these attempts whose grant, if there is one, nobody has told of yet. They need
/// not be open: one that was denied or superseded may be granted all the same.
pub(in crate::connections) async fn untold_attempts(
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
