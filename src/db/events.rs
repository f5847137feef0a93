//! Events: written with each change, read by the history and the streams.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{FromRow, PgExecutor};
use uuid::Uuid;

use super::Transaction;
use super::batch::{BatchQuery, TooMuch};
use super::one_row;
use super::rows::{RowReader, event_columns, name_of, note_unreadable_row, readable};
use crate::domain::Event;
use crate::domain::UserId;
use crate::domain::state_machine::Transition;
use crate::domain::{AttemptId, Connection, ConnectionId, EventId};
use crate::views::Message;

/// The channel that announces each change; the payload is the user's id.
pub(crate) const EVENT_CHANNEL: &str = "patchbay_event";

/// The part of a statement that writes the event of a changed connection from the connection's row.
///
/// The positions of a user's events follow the order of their commits, so that a reader that continues after a position
/// misses none: the statement acquires a lock before it creates the row and its position.
macro_rules! insert_event_cte {
    (
        id $id:literal, of $connection:literal, kind $kind:literal, attempt $attempt:literal, detail $detail:literal,
        webhook $webhook:literal, config $config:literal, context $context:literal
    ) => {
        concat!(
            "changed as materialized ( \
               select c.*, pg_advisory_xact_lock(1, hashtext(c.user_id)) from ",
            $connection,
            " c), event as ( \
               insert into connection_event \
                 (user_id, id, connection_id, version, kind, status, status_reason, attempt_id, detail, created_at, \
                  webhook, webhook_config, context) \
               select user_id, ",
            $id,
            ", id, version, ",
            $kind,
            ", status, status_reason, ",
            $attempt,
            ", ",
            $detail,
            "::text, updated_at, ",
            $webhook,
            "::json, ",
            $config,
            "::jsonb, ",
            $context,
            "::jsonb from changed returning user_id, id, connection_id, created_at)",
        )
    };
}

pub(crate) use insert_event_cte;

/// Stores a change with its message for each endpoint, and notifies all replicas on commit.
pub(crate) async fn insert_event(
    db: &mut Transaction,
    connection: &Connection,
    transition: &Transition,
    attempt: Option<AttemptId>,
    message: Option<&Message>,
) -> sqlx::Result<()> {
    let body = message.map(serde_json::to_string).transpose();
    let body = body.map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
    // An endpoint, enabled or not, is locked before its queues, as everywhere, so that no deadlock occurs.
    let done = sqlx::query(concat!(
        "with ",
        insert_event_cte!(
            id "$9",
            of "(select id, user_id, version, status, status_reason, updated_at \
               from user_connector_connection where user_id = $10 and id = $1)",
            kind "$2", attempt "$3", detail "$7", webhook "$4", config "$8", context "$11"
        ),
        ", endpoint as materialized ( \
           select id from webhook_endpoint where events = '{}' or $5 = any(events) order by id for key share \
         ), delivery as ( \
           insert into webhook_delivery (user_id, endpoint_id, connection_id, event_id, created_at) \
           select event.user_id, endpoint.id, event.connection_id, event.id, event.created_at \
           from event cross join endpoint where $5 is not null \
           returning user_id, connection_id, endpoint_id, created_at \
         ), queue as ( \
           insert into webhook_queue (user_id, connection_id, endpoint_id, next_attempt_at) \
           select user_id, connection_id, endpoint_id, created_at from delivery order by endpoint_id \
           on conflict (user_id, connection_id, endpoint_id) do update set next_attempt_at = webhook_queue.next_attempt_at \
         ) \
         select pg_notify($6, user_id) from event",
    ))
    .bind(connection.id)
    .bind(transition.event.as_str())
    .bind(attempt)
    // As text, which preserves the order of its fields.
    .bind(body)
    .bind(message.map(|message| message.kind.as_str()))
    .bind(EVENT_CHANNEL)
    .bind(&transition.detail)
    .bind(message.and_then(|message| message.config.as_ref()))
    .bind(EventId(Uuid::now_v7()))
    .bind(connection.user_id.as_str())
    .bind(Json(&transition.context))
    .execute(db)
    .await?;
    one_row(done.rows_affected(), "connection_event", connection.id.0)
}

/// Writes a connection's changed label and config under its current version, if its newest event is `updated` and not
/// from before `since`: then that event covers both changes. Otherwise returns `false` and writes nothing.
///
/// The event gets a new id and position, so that clients that have read it read it again. The statement checks that
/// the event has no message, because a message is sent once. The caller locks the connection. Its time of change
/// always increases: it distinguishes an attempt that was prepared before this change from one that was prepared after
/// it.
pub(crate) async fn merge_update(
    db: &mut Transaction,
    updated: &Transition,
    since: DateTime<Utc>,
) -> sqlx::Result<bool> {
    let connection = &updated.connection;
    let done = sqlx::query(
        "with newest as materialized ( \
           select user_id, id, pg_advisory_xact_lock(1, hashtext($1)) from connection_event \
           where user_id = $1 and connection_id = $2 and version = $3 and kind = 'updated' and created_at >= $4 \
             and webhook is null \
         ), event as ( \
           update connection_event e set id = $9, position = default, context = case \
             when not $10::jsonb ? 'rename' then e.context \
             when e.context ? 'rename' then jsonb_set(e.context, '{rename,to}', $10::jsonb #> '{rename,to}') \
             else e.context || $10::jsonb end \
           from newest where e.user_id = $1 and e.id = newest.id returning e.user_id \
         ), written as ( \
           update user_connector_connection c set label = $5, \
             config = case when c.config::text = $6::jsonb::text then c.config else $6 end, \
             updated_at = greatest($7, c.updated_at + interval '1 microsecond') \
           from event where c.user_id = $1 and c.id = $2 and c.version = $3 returning c.user_id \
         ) \
         select pg_notify($8, user_id) from written",
    )
    .bind(connection.user_id.as_str())
    .bind(connection.id)
    .bind(connection.version)
    .bind(since)
    .bind(&connection.label)
    .bind(Json(&connection.config))
    .bind(connection.updated_at)
    .bind(EVENT_CHANNEL)
    .bind(EventId(Uuid::now_v7()))
    .bind(Json(&updated.context))
    .execute(db)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Queries a user's next events after this position, in order: at most [`MOST`](Self::MOST).
#[derive(Clone, Debug)]
pub(crate) struct EventsAfter(pub(crate) UserId, pub(crate) i64);

/// The unparsed rows of some events.
#[derive(Default)]
pub(crate) struct EventRows(Vec<PgRow>);

impl EventRows {
    /// The number of columns before the event: the user and position of the query.
    const FIRST: usize = 2;

    /// Returns the events of the rows that can be read, in order.
    pub(crate) fn events(&self) -> Vec<Event> {
        let event = |row| {
            let read = RowReader::of(row, Self::FIRST).event();
            read.inspect_err(|error| note_unreadable_row("connection_event", &name_of(row), error))
                .ok()
        };
        let mut events: Vec<Event> = self.0.iter().filter_map(event).collect();
        events.sort_unstable_by_key(|event| event.position);
        events.truncate(EventsAfter::MOST);
        events
    }
}

impl EventsAfter {
    const MOST: usize = 100;

    /// The maximum number of rows of a batch. Beyond it, the queries run separately, so that a reader that is far
    /// behind does not slow down the others.
    const MOST_TOGETHER: usize = 1000;
}

impl BatchQuery for EventsAfter {
    type Output = Arc<EventRows>;

    async fn load_many<'c>(
        db: impl PgExecutor<'c>,
        queries: &[Self],
    ) -> sqlx::Result<Vec<Self::Output>> {
        let rows = match queries {
            [Self(user, after)] => {
                sqlx::query(concat!(
                    "select e.user_id, $2::bigint, ",
                    event_columns!(),
                    " from connection_event e where e.user_id = $1 and e.position > $2 \
                      order by e.position limit 100",
                ))
                .bind(user.as_str())
                .bind(after)
                .fetch_all(db)
                .await?
            }
            queries => Self::together(db, queries).await?,
        };
        let mut found: HashMap<(String, i64), EventRows> = HashMap::new();
        for row in rows {
            // Group the rows by their owner, not by the query, so that no user receives another user's event.
            let mut columns = RowReader::of(&row, 0);
            let key = (columns.next()?, columns.next()?);
            found.entry(key).or_default().0.push(row);
        }
        let found: HashMap<_, Arc<EventRows>> = found
            .into_iter()
            .map(|(key, rows)| (key, Arc::new(rows)))
            .collect();
        let answer = |Self(user, after): &Self| {
            let rows = found.get(&(user.as_str().to_owned(), *after));
            rows.cloned().unwrap_or_default()
        };
        Ok(queries.iter().map(answer).collect())
    }
}

impl EventsAfter {
    /// Returns the rows of several queries.
    async fn together<'c>(db: impl PgExecutor<'c>, queries: &[Self]) -> sqlx::Result<Vec<PgRow>> {
        let (users, positions): (Vec<&str>, Vec<i64>) = queries
            .iter()
            .map(|Self(user, after)| (user.as_str(), *after))
            .unzip();
        let rows = sqlx::query(concat!(
            "select e.user_id, asked.position, ",
            event_columns!(),
            " from (select distinct * from unnest((select $1::text[]), (select $2::bigint[])) \
               as pair (user_id, position)) asked \
             join connection_event e on e.user_id = asked.user_id and e.position > asked.position limit 1000",
        ))
        .bind(users)
        .bind(positions)
        .fetch_all(db)
        .await?;
        if rows.len() < Self::MOST_TOGETHER {
            return Ok(rows);
        }
        Err(TooMuch.into())
    }
}

/// Queries whether a user has an event with this id.
#[derive(Clone, Debug)]
pub(crate) struct EventExists(pub(crate) UserId, pub(crate) EventId);

impl BatchQuery for EventExists {
    type Output = bool;

    async fn load_many<'c>(
        db: impl PgExecutor<'c>,
        queries: &[Self],
    ) -> sqlx::Result<Vec<Self::Output>> {
        let (users, ids): (Vec<&str>, Vec<EventId>) = queries
            .iter()
            .map(|Self(user, id)| (user.as_str(), *id))
            .unzip();
        let found: Vec<(String, EventId)> = sqlx::query_as(
            "select e.user_id, e.id \
             from (select distinct * from unnest((select $1::text[]), (select $2::uuid[])) as pair (user_id, id)) asked \
             join connection_event e on e.user_id = asked.user_id and e.id = asked.id",
        )
        .bind(users)
        .bind(ids)
        .fetch_all(db)
        .await?;
        let found: HashSet<(&str, EventId)> = found
            .iter()
            .map(|(user, id)| (user.as_str(), *id))
            .collect();
        let answer = |Self(user, id): &Self| found.contains(&(user.as_str(), *id));
        Ok(queries.iter().map(answer).collect())
    }
}

/// A user's last event, if there is one; and the position of the event with this id, if it is the user's.
#[derive(Debug, FromRow)]
pub(crate) struct LastEvent {
    pub(crate) id: Option<EventId>,
    pub(crate) position: Option<i64>,
    pub(crate) asked: Option<i64>,
}

pub(crate) async fn last_event(
    db: &mut Transaction,
    user: &UserId,
    id: Option<EventId>,
) -> sqlx::Result<LastEvent> {
    sqlx::query_as(
        "select last.id, last.position, \
           (select position from connection_event where user_id = $1 and id = $2) asked \
         from (select 1) one left join ( \
           select id, position from connection_event where user_id = $1 order by position desc limit 1 \
         ) last on true",
    )
    .bind(user.as_str())
    .bind(id)
    .fetch_one(db)
    .await
}

/// Returns the position of each user's last event, for users whose last event is after the given position.
pub(crate) async fn last_events(
    db: impl PgExecutor<'_>,
    users: &[(String, i64)],
) -> sqlx::Result<Vec<(String, i64)>> {
    let (names, positions): (Vec<&str>, Vec<i64>) = users
        .iter()
        .map(|(user, position)| (user.as_str(), *position))
        .unzip();
    sqlx::query_as(
        "select e.user_id, max(e.position) from unnest($1::text[], $2::bigint[]) asked (user_id, position) \
         join connection_event e on e.user_id = asked.user_id and e.position > asked.position group by 1",
    )
    .bind(names)
    .bind(positions)
    .fetch_all(db)
    .await
}

/// Returns a connection's events before this version, newest first.
pub(crate) async fn history(
    db: impl PgExecutor<'_>,
    user: &UserId,
    connection: ConnectionId,
    before_version: Option<i64>,
    limit: i64,
) -> sqlx::Result<Vec<Event>> {
    let rows = sqlx::query_as(concat!(
        "select ",
        event_columns!(),
        " from connection_event e \
          where user_id = $1 and connection_id = $2 and version < $3 \
          order by version desc limit $4",
    ))
    .bind(user.as_str())
    .bind(connection)
    // Never null, because PostgreSQL would evaluate a nullable condition row by row.
    .bind(before_version.unwrap_or(i64::MAX))
    .bind(limit)
    .fetch_all(db)
    .await?;
    Ok(readable("connection_event", rows))
}
