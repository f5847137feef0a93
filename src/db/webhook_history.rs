//! The history of webhook messages, and their replay.

use chrono::{DateTime, Utc};

use sqlx::PgExecutor;

use super::Transaction;
use super::rows::readable;
use super::webhook_endpoints::message_id;
use crate::domain::{ConnectionId, EventId};

/// A message for one endpoint, and its outcome.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Delivery {
    /// The endpoint's id.
    #[sqlx(rename = "endpoint_id")]
    pub endpoint: String,
    /// The `webhook-id`, the same for every attempt.
    pub message: String,
    /// The event type.
    pub kind: String,
    /// The number of attempts, without those that the endpoint postponed.
    pub attempts: i32,
    /// `delivered` or `given_up`; `None` while the message waits.
    pub outcome: Option<String>,
    /// The status of the last response.
    pub last_status: Option<i16>,
    /// Human-readable reason why the last attempt failed.
    pub last_error: Option<String>,
    /// When the message was queued.
    pub created_at: DateTime<Utc>,
    /// When the message was last sent.
    pub last_attempt_at: Option<DateTime<Utc>>,
}

/// A filter of deliveries.
#[derive(Clone, Debug, Default)]
pub struct DeliveryFilter {
    /// Only deliveries to this endpoint.
    pub endpoint: Option<String>,
    /// Only deliveries of this connection.
    pub connection: Option<ConnectionId>,
    /// `true` for only deliveries that failed and have not succeeded since.
    pub failed: bool,
    /// The maximum number of deliveries.
    pub limit: i64,
}

/// The columns of a [`Delivery`], of a delivery `d` and its event `v`.
macro_rules! delivery_columns {
    () => {
        concat!(
            "d.endpoint_id, ",
            message_id!(),
            " message, v.webhook->>'type' kind, d.attempts, d.outcome, d.last_status, \
               d.last_error, d.created_at, d.last_attempt_at"
        )
    };
}

/// A select of deliveries with their events, newest first, from `$from`, which defines `d`.
macro_rules! select_deliveries {
    ($from:expr) => {
        concat!(
            "select ",
            delivery_columns!(),
            " from ",
            $from,
            " join connection_event v on v.user_id = d.user_id and v.id = d.event_id \
              order by d.created_at desc, d.id desc limit $1"
        )
    };
}

/// The newest deliveries that match `$condition`.
macro_rules! newest_deliveries {
    ($condition:literal) => {
        concat!(
            "(select * from webhook_delivery where ",
            $condition,
            " order by created_at desc, id desc limit $1) d"
        )
    };
}

/// Returns the deliveries that match the filter, newest first. Each combination has its own statement, so that an index
/// serves it.
pub(crate) async fn deliveries(
    db: &mut Transaction,
    filter: &DeliveryFilter,
) -> sqlx::Result<Vec<Delivery>> {
    if let Some(connection) = filter.connection {
        return deliveries_of(db, connection, filter).await;
    }
    let query = match (&filter.endpoint, filter.failed) {
        (Some(_), false) => select_deliveries!(newest_deliveries!("endpoint_id = $2")),
        (Some(_), true) => select_deliveries!(newest_deliveries!(
            "endpoint_id = $2 and last_error is not null and outcome is distinct from 'delivered'"
        )),
        (None, false) => select_deliveries!(newest_deliveries!("$2::text is null")),
        (None, true) => select_deliveries!(concat!(
            "(select id from webhook_endpoint where $2::text is null) e cross join lateral ",
            newest_deliveries!(
                "endpoint_id = e.id and last_error is not null and outcome is distinct from 'delivered'"
            )
        )),
    };
    let rows = sqlx::query_as(query)
        .bind(filter.limit)
        .bind(&filter.endpoint)
        .fetch_all(db)
        .await?;
    Ok(readable("webhook_delivery", rows))
}

/// Returns the deliveries of one connection that match the filter, newest first.
async fn deliveries_of(
    db: &mut Transaction,
    connection: ConnectionId,
    filter: &DeliveryFilter,
) -> sqlx::Result<Vec<Delivery>> {
    let rows = sqlx::query_as(concat!(
        "select ",
        delivery_columns!(),
        " from user_connector_connection c \
           join connection_event v on v.user_id = c.user_id and v.connection_id = c.id \
           join webhook_delivery d on d.user_id = v.user_id and d.event_id = v.id \
         where c.id = $2 and ($3::text is null or d.endpoint_id = $3) \
           and (not $4 or (d.last_error is not null and d.outcome is distinct from 'delivered')) \
         order by d.created_at desc, d.id desc limit $1"
    ))
    .bind(filter.limit)
    .bind(connection)
    .bind(&filter.endpoint)
    .bind(filter.failed)
    .fetch_all(db)
    .await?;
    Ok(readable("webhook_delivery", rows))
}

/// The maximum delay between an event's time and the assignment of its position. Transactions are shorter, and so is
/// the time in which changes are merged into one event.
const POSITION_DELAY_SECONDS: f64 = 600.0;

/// Returns the position before the first event since `since`. Positions follow the events' times within a few minutes,
/// so a binary search finds it, with one look-up for each doubling of the number of events.
pub(crate) async fn position_before(
    db: &mut Transaction,
    since: DateTime<Utc>,
) -> sqlx::Result<i64> {
    let (mut low, mut high): (i64, i64) = sqlx::query_as(
        "select coalesce(min(position), 1), coalesce(max(position), 0) + 1 from connection_event",
    )
    .fetch_one(&mut *db)
    .await?;
    while low < high {
        let middle = low + (high - low) / 2;
        let is_older: Option<bool> = sqlx::query_scalar(
            "select created_at < $2 - make_interval(secs => $3) from connection_event \
             where position >= $1 order by position limit 1",
        )
        .bind(middle)
        .bind(since)
        .bind(POSITION_DELAY_SECONDS)
        .fetch_optional(&mut *db)
        .await?;
        if is_older == Some(true) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low - 1)
}

/// Returns the owner of a connection, by the connection's id alone.
pub(crate) async fn user_of_connection(
    db: &mut Transaction,
    connection: ConnectionId,
) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar("select user_id from user_connector_connection where id = $1")
        .bind(connection)
        .fetch_optional(db)
        .await
}

/// The events of a replay, and their endpoint.
#[derive(Debug)]
pub(crate) struct Replay<'a> {
    pub(crate) endpoint: &'a str,
    pub(crate) since: DateTime<Utc>,
    /// Only events of this connection, with its user.
    pub(crate) connection: Option<(String, ConnectionId)>,
    /// The number of events that are read in one batch.
    pub(crate) limit: i64,
}

/// Selects the next events of `$users`, each with whether the endpoint wants it. The limit applies to all events, not
/// only to wanted ones.
macro_rules! next_events {
    ($users:literal, $connections:literal) => {
        concat!(
            "select v.user_id, v.id, v.position, v.webhook is not null and v.created_at >= $3 \
               and (e.events = '{}' or v.webhook->>'type' = any(e.events)) ",
            $connections,
            " wanted from (select * from connection_event where ",
            $users,
            " position > $2 order by position limit $4) v \
             join webhook_endpoint e on e.id = $1 order by v.position"
        )
    };
}

/// An event that may be replayed.
#[derive(sqlx::FromRow)]
struct NextEvent {
    user_id: String,
    id: EventId,
    position: i64,
    wanted: bool,
}

/// Queues the next events after the position `after` for an endpoint again. Returns the number of wanted events, and
/// the position of the last event that was read.
pub(crate) async fn replay(
    db: &mut Transaction,
    replay: &Replay<'_>,
    after: i64,
    now: DateTime<Utc>,
) -> sqlx::Result<(usize, Option<i64>)> {
    let select = match replay.connection {
        None => next_events!("", ""),
        Some(_) => next_events!("user_id = $5 and", "and v.connection_id = $6"),
    };
    let mut select = sqlx::query_as(select)
        .bind(replay.endpoint)
        .bind(after)
        .bind(replay.since)
        .bind(replay.limit);
    if let Some((user, connection)) = &replay.connection {
        select = select.bind(user).bind(connection);
    }
    let events: Vec<NextEvent> = select.fetch_all(&mut *db).await?;
    let last = events.last().map(|event| event.position);
    let (users, ids): (Vec<&str>, Vec<EventId>) = events
        .iter()
        .filter(|event| event.wanted)
        .map(|event| (event.user_id.as_str(), event.id))
        .unzip();
    if ids.is_empty() {
        return Ok((0, last));
    }
    // Waits for an erasure in progress, and delays later erasures until this transaction ends.
    sqlx::query(
        "select 1 from user_connector_connection where (user_id, id) in ( \
           select v.user_id, v.connection_id from unnest($1::text[], $2::uuid[]) asked (user_id, id) \
           join connection_event v on v.user_id = asked.user_id and v.id = asked.id) \
         order by id for key share",
    )
    .bind(&users)
    .bind(&ids)
    .execute(&mut *db)
    .await?;
    sqlx::query(
        "with delivery as ( \
           insert into webhook_delivery (user_id, endpoint_id, connection_id, event_id, created_at) \
           select v.user_id, $1, v.connection_id, v.id, $4 from unnest($2::text[], $3::uuid[]) asked (user_id, id) \
           join connection_event v on v.user_id = asked.user_id and v.id = asked.id order by v.position \
           returning user_id, connection_id \
         ) \
         insert into webhook_queue (user_id, connection_id, endpoint_id, next_attempt_at) \
         select distinct user_id, connection_id, $1, $4 from delivery order by connection_id \
         on conflict (user_id, connection_id, endpoint_id) \
           do update set next_attempt_at = webhook_queue.next_attempt_at",
    )
    .bind(replay.endpoint)
    .bind(&users)
    .bind(&ids)
    .bind(now)
    .execute(db)
    .await?;
    Ok((ids.len(), last))
}

/// Deletes at most `limit` deliveries to an endpoint and at most `limit` of its queues, without those that another
/// transaction has locked. Returns the number of rows.
pub(crate) async fn delete_of_endpoint(
    db: &mut Transaction,
    endpoint: &str,
    limit: i64,
) -> sqlx::Result<u64> {
    // Queues before their messages, as everywhere.
    let queues = sqlx::query(
        "delete from webhook_queue where ctid = any(array( \
           select ctid from webhook_queue where endpoint_id = $1 limit $2 for update skip locked))",
    )
    .bind(endpoint)
    .bind(limit)
    .execute(&mut *db)
    .await?;
    let deliveries = sqlx::query(
        "delete from webhook_delivery where ctid = any(array( \
           select ctid from webhook_delivery where endpoint_id = $1 limit $2 for update skip locked))",
    )
    .bind(endpoint)
    .bind(limit)
    .execute(db)
    .await?;
    Ok(queues.rows_affected() + deliveries.rows_affected())
}

/// Deletes deliveries that were queued before this time, regardless of their outcome.
pub(crate) async fn delete_old_deliveries(
    db: impl PgExecutor<'_>,
    before: DateTime<Utc>,
    limit: i64,
) -> sqlx::Result<u64> {
    let done = sqlx::query(
        "delete from webhook_delivery where ctid = any(array( \
           select ctid from webhook_delivery where created_at < $1 order by created_at limit $2 \
           for update skip locked))",
    )
    .bind(before)
    .bind(limit)
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}
