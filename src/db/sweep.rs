//! The rows that the sweep compares with Nango.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgExecutor};
use uuid::Uuid;

use super::Transaction;
use super::rows::{readable, select_connections};
use crate::domain::{AttemptId, Connection, ConnectionId, ConnectorId, UserId};
use crate::nango::ConnectionSummary;

/// A connection that should exist at Nango.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct SweepRow {
    pub(crate) user_id: String,
    pub(crate) id: ConnectionId,
    pub(crate) nango_connection_id: String,
    pub(crate) nango_created_at: DateTime<Utc>,
    pub(crate) nango_serial: Option<i64>,
    pub(crate) status: String,
    pub(crate) status_reason: Option<String>,
    pub(crate) integration_key: String,
    pub(crate) failing_since: Option<DateTime<Utc>>,
    pub(crate) refusals: Vec<DateTime<Utc>>,
    pub(crate) absences: Vec<DateTime<Utc>>,
    pub(crate) last_checked_at: Option<DateTime<Utc>>,
}

impl SweepRow {
    /// Returns whether a connection at Nango is the one of this row: it has its id, creation time and serial number.
    pub(crate) fn is(&self, summary: &ConnectionSummary) -> bool {
        let serials = self.nango_serial.zip(summary.serial);
        self.nango_connection_id == summary.connection_id
            && self.nango_created_at == summary.created_at
            && serials.is_none_or(|(ours, found)| ours == found)
    }

    /// Returns whether the creation time at Nango is an estimate: the row was imported, and no sweep has read the time.
    pub(crate) fn is_time_unknown(&self) -> bool {
        self.nango_serial.is_none()
    }
}

/// The creation time and serial number of a row's connection, as Nango lists them.
#[derive(Clone, Debug)]
pub(crate) struct Creation {
    pub(crate) user_id: String,
    pub(crate) id: ConnectionId,
    pub(crate) nango_connection_id: String,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) serial: Option<i64>,
}

/// Returns the rows of these connections at Nango.
pub(crate) async fn find_by_nango_ids(
    db: &mut Transaction,
    nango_ids: &[&str],
) -> sqlx::Result<Vec<SweepRow>> {
    let rows = sqlx::query_as(
        "select user_id, id, nango_connection_id, nango_created_at, nango_serial, integration_key, status, status_reason, failing_since, \
           refusals, absences, last_checked_at from user_connector_connection where nango_connection_id = any($1)",
    )
    .bind(nango_ids)
    .fetch_all(db)
    .await?;
    Ok(readable("user_connector_connection", rows))
}

/// The number of unreadable rows that [`sibling`] skips.
const MAX_UNREADABLE: i64 = 2;

/// A range of Nango's list, by creation time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CreationRange {
    /// Exclusive; `None` for the oldest.
    pub(crate) after: Option<DateTime<Utc>>,
    /// Inclusive; `None` for the newest.
    pub(crate) until: Option<DateTime<Utc>>,
}

/// Returns connections that Nango created in this range and that have not changed since `since`, after `after`, by
/// creation time.
pub(crate) async fn list_at_nango_since(
    db: impl PgExecutor<'_>,
    since: DateTime<Utc>,
    range: CreationRange,
    after: Option<(DateTime<Utc>, ConnectionId)>,
    limit: i64,
) -> sqlx::Result<Vec<SweepRow>> {
    let first = range.after.map(|after| (after, ConnectionId(Uuid::max())));
    let (created_at, id) = after
        .or(first)
        .unwrap_or((DateTime::UNIX_EPOCH, ConnectionId(Uuid::nil())));
    let rows = sqlx::query_as(
        "select user_id, id, nango_connection_id, nango_created_at, nango_serial, integration_key, status, status_reason, failing_since, \
           refusals, absences, last_checked_at from user_connector_connection \
         where (nango_created_at, id) > ($2, $3) and nango_created_at <= coalesce($4::timestamptz, 'infinity') \
           and nango_connection_id is not null and updated_at < $1 and status in ('connected', 'error') \
         order by nango_created_at, id limit $5",
    )
    .bind(since)
    .bind(created_at)
    .bind(id)
    .bind(range.until)
    .bind(limit)
    .fetch_all(db)
    .await?;
    Ok(readable("user_connector_connection", rows))
}

/// Corrects the creation times and serial numbers of connections at Nango: imported rows have other times. Writes no new
/// version.
pub(crate) async fn correct_creations(
    db: impl PgExecutor<'_>,
    corrected: &[Creation],
) -> sqlx::Result<()> {
    let users: Vec<&str> = corrected.iter().map(|it| it.user_id.as_str()).collect();
    let ids: Vec<ConnectionId> = corrected.iter().map(|it| it.id).collect();
    let nango_ids: Vec<&str> = corrected
        .iter()
        .map(|it| it.nango_connection_id.as_str())
        .collect();
    let times: Vec<DateTime<Utc>> = corrected.iter().map(|it| it.created_at).collect();
    let serials: Vec<Option<i64>> = corrected.iter().map(|it| it.serial).collect();
    // Locked rows are left for the next sweep, so that no deadlock occurs.
    sqlx::query(
        "update user_connector_connection c \
         set nango_created_at = found.created_at, nango_serial = coalesce(found.serial, c.nango_serial) from ( \
           select l.user_id, l.id, u.created_at, u.serial \
           from unnest($1::text[], $2::uuid[], $3::text[], $4::timestamptz[], $5::bigint[]) \
             u (user_id, id, nango_id, created_at, serial) \
           join user_connector_connection l on l.user_id = u.user_id and l.id = u.id and l.nango_connection_id = u.nango_id \
           for no key update of l skip locked) found \
         where c.user_id = found.user_id and c.id = found.id",
    )
    .bind(users)
    .bind(ids)
    .bind(nango_ids)
    .bind(times)
    .bind(serials)
    .execute(db)
    .await?;
    Ok(())
}

/// The progress of a sweep of all connections.
#[derive(Clone, Copy, Debug, FromRow)]
pub(crate) struct SweepPass {
    pub(crate) started_at: DateTime<Utc>,
    /// The next page of Nango's list.
    pub(crate) page: i32,
    /// The creation time of the last connection before it; `None` before the first page.
    pub(crate) before: Option<DateTime<Utc>>,
    pub(crate) orphans: i64,
}

/// Returns the progress of an interrupted sweep, if there is one.
pub(crate) async fn interrupted_sweep(db: impl PgExecutor<'_>) -> sqlx::Result<Option<SweepPass>> {
    sqlx::query_as("select started_at, page, before, orphans from sweep_pass")
        .fetch_optional(db)
        .await
}

/// Records the progress of a sweep.
pub(crate) async fn record_sweep(db: impl PgExecutor<'_>, pass: &SweepPass) -> sqlx::Result<()> {
    sqlx::query(
        "insert into sweep_pass (started_at, page, before, orphans) values ($1, $2, $3, $4) \
         on conflict (only_row) do update set started_at = excluded.started_at, page = excluded.page, \
           before = excluded.before, orphans = excluded.orphans",
    )
    .bind(pass.started_at)
    .bind(pass.page)
    .bind(pass.before)
    .bind(pass.orphans)
    .execute(db)
    .await?;
    Ok(())
}

/// Deletes the progress of a sweep that has ended.
pub(crate) async fn end_sweep(db: impl PgExecutor<'_>) -> sqlx::Result<()> {
    sqlx::query("delete from sweep_pass").execute(db).await?;
    Ok(())
}

/// Returns the newest connection of a connector that belongs to none of these users: a working one, or else a failing
/// one. Skips at most the connections of these users in the index.
pub(crate) async fn sibling(
    db: impl PgExecutor<'_>,
    connector: ConnectorId,
    users: &[&str],
) -> sqlx::Result<Option<Connection>> {
    let rows = sqlx::query_as(select_connections!(
        "where c.connector_id = $1 and c.status = 'connected' and c.user_id <> all($2) \
         order by c.failing_since nulls first, c.nango_created_at desc limit $3"
    ))
    .bind(connector)
    .bind(users)
    .bind(MAX_UNREADABLE + 1)
    .fetch_all(db)
    .await?;
    let readable = readable("user_connector_connection", rows);
    Ok(readable.into_iter().next())
}

/// Records when Nango was queried about a connection. Writes no new version.
pub(crate) async fn record_check(
    db: impl PgExecutor<'_>,
    connection: &Connection,
    at: Option<DateTime<Utc>>,
) -> sqlx::Result<()> {
    // A connection that was deleted meanwhile is ignored.
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

/// Renews the revision of a connection, unless it has changed since it was read. Writes no new version.
pub(crate) async fn renew_revision(
    db: impl PgExecutor<'_>,
    connection: &Connection,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query(
        "update user_connector_connection \
         set updated_at = greatest($4, updated_at + interval '1 microsecond') \
         where user_id = $1 and id = $2 and updated_at = $3",
    )
    .bind(connection.user_id.as_str())
    .bind(connection.id)
    .bind(connection.updated_at)
    .bind(now)
    .execute(db)
    .await?;
    Ok(())
}

/// Records when the provider refused to refresh a connection's credentials. Writes no new version.
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

/// Records when Nango did not have a connection, which is no change of it. Empty: Nango has it.
pub(crate) async fn record_absences(
    db: impl PgExecutor<'_>,
    connection: &Connection,
    absences: &[DateTime<Utc>],
) -> sqlx::Result<()> {
    sqlx::query(
        "update user_connector_connection set absences = $3 where user_id = $1 and id = $2",
    )
    .bind(connection.user_id.as_str())
    .bind(connection.id)
    .bind(absences)
    .execute(db)
    .await?;
    Ok(())
}

/// Records that Nango has these of its connections.
pub(crate) async fn end_absences(db: &mut Transaction, nango_ids: &[&str]) -> sqlx::Result<()> {
    // A row that is locked is left to the next look-up.
    sqlx::query(
        "update user_connector_connection c set absences = '{}' from ( \
           select user_id, id from user_connector_connection \
           where nango_connection_id = any($1) and absences <> '{}' \
           for no key update skip locked) found \
         where c.user_id = found.user_id and c.id = found.id",
    )
    .bind(nango_ids)
    .execute(db)
    .await?;
    Ok(())
}

/// Removes all recorded absences, which a restored database has from an earlier time.
pub(crate) async fn end_all_absences(db: &mut Transaction) -> sqlx::Result<()> {
    sqlx::query("update user_connector_connection set absences = '{}' where absences <> '{}'")
        .execute(db)
        .await?;
    Ok(())
}

/// Returns some of the connections that Nango has lacked since a time after `since`, in random order; none while a brake
/// stops them from becoming missing.
pub(crate) async fn absent_connections(
    db: impl PgExecutor<'_>,
    since: DateTime<Utc>,
    limit: i64,
) -> sqlx::Result<Vec<Connection>> {
    let rows = sqlx::query_as(select_connections!(
        "where c.absences <> '{}' and c.absences[1] > $1 and c.status in ('connected', 'error') \
           and not exists (select 1 from brake where kind = 'missing' and engaged_at is not null) \
         order by random() limit $2"
    ))
    .bind(since)
    .bind(limit)
    .fetch_all(db)
    .await?;
    Ok(readable("user_connector_connection", rows))
}

/// Returns how many users other than `user` have a connection that Nango has lacked since `until` or longer.
pub(crate) async fn count_absent_users(
    db: &mut Transaction,
    user: &UserId,
    until: DateTime<Utc>,
) -> sqlx::Result<i64> {
    sqlx::query_scalar(
        "select count(distinct user_id) from user_connector_connection \
         where absences <> '{}' and absences[1] <= $1 and user_id <> $2",
    )
    .bind(until)
    .bind(user.as_str())
    .fetch_one(db)
    .await
}

/// Returns those of these attempts that are known: `true` for one whose user was erased.
pub(crate) async fn known_attempts(
    db: &mut Transaction,
    attempts: &[AttemptId],
) -> sqlx::Result<HashMap<AttemptId, bool>> {
    let known: Vec<(AttemptId, bool)> = sqlx::query_as(
        "select id, false from connect_attempt where id = any($1) \
         union all select attempt_id, true from attempt_owner where attempt_id = any($1) and user_id is null",
    )
    .bind(attempts)
    .fetch_all(db)
    .await?;
    Ok(known.into_iter().collect())
}
