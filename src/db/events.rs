//! Events: written with each change, read by the history and the streams.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use uuid::Uuid;

use super::Transaction;

use super::batch::BatchQuery;

use super::one_row;
use super::rows::{RowReader, event_columns};
use crate::domain::Event;
use crate::domain::UserId;
use crate::domain::state_machine::Transition;
use crate::views::Message;

/// The channel on which each change is announced, with the user's id.
pub(crate) const EVENT_CHANNEL: &str = "patchbay_event";

/// How a statement writes the event of a changed connection, which it has the row of.
///
/// One user's events get their ids in the order of their commits, so that who reads after an id
/// misses none: the lock is had before the row, and its id, are made.
macro_rules! insert_event_cte {
    (
        of $connection:literal, kind $kind:literal, attempt $attempt:literal, detail $detail:literal,
        webhook $webhook:literal, config $config:literal, context $context:literal
    ) => {
        concat!(
            "changed as materialized ( \
               select c.*, pg_advisory_xact_lock(1, hashtext(c.user_id)) from ",
            $connection,
            " c), event as ( \
               insert into connection_event \
                 (connection_id, user_id, version, kind, status, status_reason, attempt_id, detail, created_at, \
                  webhook, webhook_config, context) \
               select id, user_id, version, ",
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
            "::jsonb from changed returning id, connection_id, user_id, created_at)",
        )
    };
}

pub(crate) use insert_event_cte;

/// Writes a change down, with what every endpoint is to be told of it, and announces it to all
/// replicas when it is committed.
pub(crate) async fn insert_event(
    db: &mut Transaction,
    connection: Uuid,
    transition: &Transition,
    attempt: Option<Uuid>,
    message: Option<&Message>,
) -> sqlx::Result<()> {
    let body = message.map(serde_json::to_string).transpose();
    let body = body.map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
    // An endpoint, switched off or not, is locked before its queues, as everywhere: neither waits for
    // the other in a circle.
    let done = sqlx::query(concat!(
        "with ",
        insert_event_cte!(
            of "(select id, user_id, version, status, status_reason, updated_at \
               from user_connector_connection where id = $1)",
            kind "$2", attempt "$3", detail "$7", webhook "$4", config "$8", context "$9"
        ),
        ", endpoint as materialized ( \
           select id from webhook_endpoint where events = '{}' or $5 = any(events) order by id for key share \
         ), delivery as ( \
           insert into webhook_delivery (endpoint_id, connection_id, event_id, created_at) \
           select endpoint.id, event.connection_id, event.id, event.created_at \
           from event cross join endpoint where $5 is not null returning endpoint_id, connection_id, created_at \
         ), queue as ( \
           insert into webhook_queue (endpoint_id, connection_id, next_attempt_at) \
           select endpoint_id, connection_id, created_at from delivery order by endpoint_id \
           on conflict (endpoint_id, connection_id) do update set next_attempt_at = webhook_queue.next_attempt_at \
         ) \
         select pg_notify($6, user_id) from event",
    ))
    .bind(connection)
    .bind(transition.event.as_str())
    .bind(attempt)
    // As text, which keeps its fields in order.
    .bind(body)
    .bind(message.map(|message| message.kind.as_str()))
    .bind(EVENT_CHANNEL)
    .bind(&transition.detail)
    .bind(message.and_then(|message| message.config.as_ref()))
    .bind(Json(&transition.context))
    .execute(db)
    .await?;
    one_row(done.rows_affected(), "connection_event", connection)
}

/// Writes a connection's changed label and config under the version that it has, if its newest event is `updated` and
/// not from before `since`: then that event stands for both changes. `false` if it does not, and nothing is written.
///
/// The event gets a new id, so that readers who have seen it read it again; that it has no message is checked, for a
/// message is sent once. The connection is locked by the caller. Its time of change grows in any case: by it, an attempt
/// that was prepared before this change is told from one that was prepared after it.
pub(crate) async fn merge_update(
    db: &mut Transaction,
    updated: &Transition,
    since: DateTime<Utc>,
) -> sqlx::Result<bool> {
    let connection = &updated.connection;
    let done = sqlx::query(
        "with newest as materialized ( \
           select id, pg_advisory_xact_lock(1, hashtext($3)) from connection_event \
           where connection_id = $1 and version = $2 and kind = 'updated' and created_at >= $4 and webhook is null \
         ), event as ( \
           update connection_event e set id = default, context = case \
             when not $9::jsonb ? 'rename' then e.context \
             when e.context ? 'rename' then jsonb_set(e.context, '{rename,to}', $9::jsonb #> '{rename,to}') \
             else e.context || $9::jsonb end \
           from newest where e.id = newest.id returning e.user_id \
         ), written as ( \
           update user_connector_connection c set label = $5, \
             config = case when c.config::text = $6::jsonb::text then c.config else $6 end, \
             updated_at = greatest($7, c.updated_at + interval '1 microsecond') \
           from event where c.id = $1 and c.version = $2 returning c.user_id \
         ) \
         select pg_notify($8, user_id) from written",
    )
    .bind(connection.id)
    .bind(connection.version)
    .bind(connection.user_id.as_str())
    .bind(since)
    .bind(&connection.label)
    .bind(Json(&connection.config))
    .bind(connection.updated_at)
    .bind(EVENT_CHANNEL)
    .bind(Json(&updated.context))
    .execute(db)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// A user's next events after this one, in order: a hundred at the most.
#[derive(Clone, Debug)]
pub(crate) struct EventsAfter(pub(crate) UserId, pub(crate) i64);

/// The rows of some events, as they came.
#[derive(Default)]
pub(crate) struct EventRows(Vec<PgRow>);

impl EventRows {
    /// How the select of [`EventsAfter`] begins: with which question a row answers.
    const FIRST: usize = 2;

    /// What the rows hold, in order.
    pub(crate) fn events(&self) -> sqlx::Result<Vec<Event>> {
        let event = |row| RowReader::of(row, Self::FIRST).event();
        let mut events: Vec<Event> = self.0.iter().map(event).collect::<Result<_, _>>()?;
        events.sort_unstable_by_key(|event| event.id);
        Ok(events)
    }
}

impl BatchQuery for EventsAfter {
    type Output = Arc<EventRows>;

    async fn load_many<'c>(
        db: impl PgExecutor<'c>,
        queries: &[Self],
    ) -> sqlx::Result<Vec<Self::Output>> {
        let (users, ids): (Vec<&str>, Vec<i64>) = queries
            .iter()
            .map(|Self(user, after)| (user.as_str(), *after))
            .unzip();
        let rows = sqlx::query(concat!(
            "select e.user_id, asked.id, ",
            event_columns!(),
            " from (select distinct * from unnest((select $1::text[]), (select $2::bigint[])) as pair (user_id, id)) asked \
             cross join lateral (select * from connection_event \
               where user_id = asked.user_id and id > asked.id order by id limit 100) e",
        ))
        .bind(users)
        .bind(ids)
        .fetch_all(db)
        .await?;
        let mut found: HashMap<(String, i64), EventRows> = HashMap::new();
        for row in rows {
            // By whose it is, not by who asked: another's event is handed to nobody.
            let mut columns = RowReader::of(&row, 0);
            let question = (columns.next()?, columns.next()?);
            found.entry(question).or_default().0.push(row);
        }
        let found: HashMap<_, Arc<EventRows>> = found
            .into_iter()
            .map(|(question, rows)| (question, Arc::new(rows)))
            .collect();
        let answer = |Self(user, after): &Self| {
            let rows = found.get(&(user.as_str().to_owned(), *after));
            rows.cloned().unwrap_or_default()
        };
        Ok(queries.iter().map(answer).collect())
    }
}

/// The id of a user's last event, 0 if there is none; and whether the one of this id is the user's.
pub(crate) async fn last_event(
    db: &mut Transaction,
    user: &UserId,
    id: Option<i64>,
) -> sqlx::Result<(i64, bool)> {
    sqlx::query_as(
        "select coalesce((select max(id) from connection_event where user_id = $1), 0), \
           exists (select 1 from connection_event where user_id = $1 and id = $2)",
    )
    .bind(user.as_str())
    .bind(id)
    .fetch_one(db)
    .await
}

/// The ids of these users' last events.
pub(crate) async fn last_events(
    db: &mut Transaction,
    users: &[String],
) -> sqlx::Result<Vec<(String, i64)>> {
    sqlx::query_as(
        "select u, coalesce((select max(id) from connection_event e where e.user_id = u), 0) from unnest($1::text[]) u",
    )
    .bind(users)
    .fetch_all(db)
    .await
}

/// A connection's events before this version, the newest first.
pub(crate) async fn history(
    db: &mut Transaction,
    connection: Uuid,
    before_version: Option<i64>,
    limit: i64,
) -> sqlx::Result<Vec<Event>> {
    sqlx::query_as(concat!(
        "select ",
        event_columns!(),
        " from connection_event e where connection_id = $1 and ($2::bigint is null or version < $2) \
          order by version desc limit $3",
    ))
    .bind(connection)
    .bind(before_version)
    .bind(limit)
    .fetch_all(db)
    .await
}
