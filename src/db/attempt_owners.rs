//! Finds the user of an attempt by its id alone, for Nango's webhooks and for browsers. It is also the queue of
//! attempts that expire.
//!
//! Its rows have no foreign key to users' rows, which may be deleted before a look-up.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{FromRow, PgExecutor};

use super::Transaction;
use super::{invalid_row, note_unreadable_row};
use crate::auth::BrowserToken;
use crate::domain::{AttemptId, AttemptKind, ConnectionId, UserId};

/// The pause before the next read of an attempt that cannot be read.
const UNREADABLE_RETRY: TimeDelta = TimeDelta::hours(1);

/// An attempt and its owner.
#[derive(Clone, Debug)]
pub(crate) struct OwnedAttempt {
    pub(crate) attempt_id: AttemptId,
    pub(crate) connection_id: ConnectionId,
    pub(crate) user: UserId,
}

/// An open attempt that has expired.
#[derive(Clone, Debug)]
pub(crate) struct DueAttempt {
    pub(crate) attempt_id: AttemptId,
    pub(crate) user: UserId,
    pub(crate) kind: AttemptKind,
    pub(crate) created_at: DateTime<Utc>,
}

/// The owner of an attempt.
#[derive(Clone, Debug)]
pub(crate) enum AttemptOwner {
    /// The attempt belongs to this user.
    User(OwnedAttempt),
    /// The user was erased while the attempt could still be granted.
    Erased,
}

#[derive(FromRow)]
struct OwnerRow {
    attempt_id: AttemptId,
    user_id: Option<String>,
    connection_id: Option<ConnectionId>,
}

impl TryFrom<OwnerRow> for AttemptOwner {
    type Error = sqlx::Error;

    fn try_from(row: OwnerRow) -> sqlx::Result<Self> {
        let Some((user, connection_id)) = row.user_id.zip(row.connection_id) else {
            return Ok(Self::Erased);
        };
        let user = UserId::try_from(user);
        Ok(Self::User(OwnedAttempt {
            user: user.map_err(|error| invalid_row("attempt_owner", row.attempt_id.0, &error))?,
            attempt_id: row.attempt_id,
            connection_id,
        }))
    }
}

/// Returns the owner of an attempt; `None` if the attempt can no longer be granted.
pub(crate) async fn attempt_owner(
    db: impl PgExecutor<'_>,
    attempt: AttemptId,
) -> sqlx::Result<Option<AttemptOwner>> {
    let row: Option<OwnerRow> = sqlx::query_as(
        "select attempt_id, user_id, connection_id from attempt_owner where attempt_id = $1",
    )
    .bind(attempt)
    .fetch_optional(db)
    .await?;
    row.map(AttemptOwner::try_from).transpose()
}

/// Returns the owner of a connection that has an attempt which may still be granted.
pub(crate) async fn owner_of_connection(
    db: impl PgExecutor<'_>,
    connection: ConnectionId,
) -> sqlx::Result<Option<OwnedAttempt>> {
    let row: Option<OwnerRow> = sqlx::query_as(
        "select attempt_id, user_id, connection_id from attempt_owner where connection_id = $1 limit 1",
    )
    .bind(connection)
    .fetch_optional(db)
    .await?;
    match row.map(AttemptOwner::try_from).transpose()? {
        Some(AttemptOwner::User(owned)) => Ok(Some(owned)),
        Some(AttemptOwner::Erased) | None => Ok(None),
    }
}

/// Returns the newest attempts that a browser started and that may still be granted.
pub(crate) async fn attempts_of_browser(
    db: impl PgExecutor<'_>,
    browser: &BrowserToken,
    now: DateTime<Utc>,
) -> sqlx::Result<Vec<OwnedAttempt>> {
    let rows: Vec<OwnerRow> = sqlx::query_as(
        "select attempt_id, user_id, connection_id from attempt_owner \
         where browser_token_hash = $1 and kept_until > $2 order by attempt_id desc limit 100",
    )
    .bind(browser.hash())
    .bind(now)
    .fetch_all(db)
    .await?;
    Ok(owned(rows).0)
}

/// Returns the attempts that can be read and whose users still exist, and the ids of the rows that cannot be read.
fn owned(rows: Vec<OwnerRow>) -> (Vec<OwnedAttempt>, Vec<AttemptId>) {
    let (mut all, mut unreadable) = (Vec::with_capacity(rows.len()), Vec::new());
    for row in rows {
        let id = row.attempt_id;
        match AttemptOwner::try_from(row) {
            Ok(AttemptOwner::User(owned)) => all.push(owned),
            Ok(AttemptOwner::Erased) => {}
            Err(error) => {
                note_unreadable_row("attempt_owner", &id.to_string(), &error);
                unreadable.push(id);
            }
        }
    }
    (all, unreadable)
}

/// Returns the ids of all attempts that are due, and those of them that are open. Open attempts expire; the others are
/// deleted.
pub(crate) async fn due_attempts(
    db: &mut Transaction,
    now: DateTime<Utc>,
    limit: usize,
) -> sqlx::Result<(Vec<AttemptId>, Vec<DueAttempt>)> {
    let rows: Vec<OwnerRow> = sqlx::query_as(
        "select attempt_id, user_id, connection_id from attempt_owner where due_at <= $1 order by due_at limit $2",
    )
    .bind(now)
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .fetch_all(&mut *db)
    .await?;
    let due: Vec<AttemptId> = rows.iter().map(|row| row.attempt_id).collect();
    let (owned, unreadable) = owned(rows);
    let due: Vec<AttemptId> = due
        .into_iter()
        .filter(|id| !unreadable.contains(id))
        .collect();
    if !unreadable.is_empty() {
        postpone_unreadable(&mut *db, &unreadable, now).await?;
    }
    let (users, attempts): (Vec<&str>, Vec<AttemptId>) = owned
        .iter()
        .map(|one| (one.user.as_str(), one.attempt_id))
        .unzip();
    let open: Vec<(AttemptId, String, DateTime<Utc>)> = sqlx::query_as(
        "select a.id, a.kind, a.created_at from unnest($1::text[], $2::uuid[]) due (user_id, id) \
         join connect_attempt a on a.user_id = due.user_id and a.id = due.id where a.outcome is null",
    )
    .bind(users)
    .bind(attempts)
    .fetch_all(db)
    .await?;
    let open: HashMap<AttemptId, (String, DateTime<Utc>)> = open
        .into_iter()
        .map(|(id, kind, created_at)| (id, (kind, created_at)))
        .collect();
    let open = owned.into_iter().filter_map(|one| {
        let (kind, created_at) = open.get(&one.attempt_id)?;
        Some(DueAttempt {
            attempt_id: one.attempt_id,
            user: one.user,
            // A schema constraint permits no other names.
            kind: kind.parse().unwrap_or(AttemptKind::Reconnect),
            created_at: *created_at,
        })
    });
    Ok((due, open.collect()))
}

/// Postpones attempts that cannot be read, so that they do not block the queue.
pub(crate) async fn postpone_unreadable(
    db: impl PgExecutor<'_>,
    attempts: &[AttemptId],
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query("update attempt_owner set due_at = $2 where attempt_id = any($1)")
        .bind(attempts)
        .bind(now + UNREADABLE_RETRY)
        .execute(db)
        .await?;
    Ok(())
}

/// Deletes ended attempts that can no longer be granted. Makes the others due when they can no longer be granted.
pub(crate) async fn settle_due(
    db: impl PgExecutor<'_>,
    attempts: &[AttemptId],
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query(
        "with gone as (delete from attempt_owner where attempt_id = any($1) and kept_until <= $2) \
         update attempt_owner set due_at = kept_until where attempt_id = any($1) and kept_until > $2",
    )
    .bind(attempts)
    .bind(now)
    .execute(db)
    .await?;
    Ok(())
}
