//! The SQL of the webhook queues: claims and their outcomes.
//!
//! Locks are acquired in the order that `webhook_endpoints` describes.

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;
use sqlx::FromRow;
use sqlx::types::Json;

use super::Transaction;
use super::rows::{Readable, note_unreadable_row, readable};
use super::webhook_endpoints::{Target, TargetRow, message_id};
use crate::domain::ConnectionId;

/// The first message of a claimed queue.
#[derive(Debug)]
pub(crate) struct ClaimedDelivery {
    pub(crate) endpoint: String,
    pub(crate) user: String,
    pub(crate) connection: ConnectionId,
    /// The end of the lease, which identifies the claim.
    pub(crate) leased_until: DateTime<Utc>,
    pub(crate) target: Target,
    pub(crate) delivery: i64,
    /// The number of previous attempts, without those that the endpoint postponed.
    pub(crate) attempts: i32,
    /// When the message was queued.
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) message: String,
    pub(crate) body: Box<RawValue>,
    /// `true` if the endpoint was failing when the queue was claimed.
    pub(crate) is_failing: bool,
}

/// The number of queues that may be claimed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capacity {
    /// Of one working endpoint, by all replicas together.
    pub(crate) per_working: i64,
    /// Of one failing endpoint, by all replicas together.
    pub(crate) per_failing: i64,
    /// Of all working endpoints, by this claim.
    pub(crate) working: i64,
    /// Of all failing endpoints, by this claim.
    pub(crate) failing: i64,
}

/// A claimed queue, and the target of its messages.
#[derive(FromRow)]
struct Lease {
    endpoint_id: String,
    user_id: String,
    connection_id: ConnectionId,
    leased_until: DateTime<Utc>,
    is_failing: bool,
    #[sqlx(flatten)]
    target: TargetRow,
}

/// The first message of a queue.
#[derive(FromRow)]
struct FirstMessage {
    endpoint_id: String,
    user_id: String,
    connection_id: ConnectionId,
    id: i64,
    attempts: i32,
    created_at: DateTime<Utc>,
    message: String,
    body: Json<Box<RawValue>>,
}

/// Locks the due queues of endpoints that match `$condition`, in random order of endpoints: at most `$each` for one
/// endpoint, including queues that are leased already, and at most `$all` in total.
macro_rules! due_queues {
    ($condition:literal, each $each:literal, all $all:literal) => {
        concat!(
            "array(select q.row from ( \
               select id from webhook_endpoint where off_since is null and ",
            $condition,
            " order by random()) e cross join lateral ( \
               select ctid as row from webhook_queue \
               where endpoint_id = e.id and next_attempt_at <= $1 \
                 and (leased_until is null or leased_until < now() or leased_until > clock_timestamp() + make_interval(secs => $2)) \
               order by next_attempt_at \
               limit greatest(0, ",
            $each,
            " - (select count(*) from webhook_queue l \
                                     where l.endpoint_id = e.id \
                                       and l.leased_until between now() and clock_timestamp() + make_interval(secs => $2))) \
               for update skip locked \
             ) q limit ",
            $all,
            ")"
        )
    };
}

/// Claims due queues for `lease` seconds of the database's time, up to the capacity.
pub(crate) async fn claim(
    db: &mut Transaction,
    now: DateTime<Utc>,
    lease: f64,
    capacity: Capacity,
) -> sqlx::Result<Vec<ClaimedDelivery>> {
    let leases = lease_due(db, now, lease, capacity).await?;
    if leases.is_empty() {
        return Ok(Vec::new());
    }
    let (mut messages, all_readable) = first_messages(db, &leases).await?;
    let mut claimed = Vec::with_capacity(leases.len());
    let mut empty = Vec::new();
    for lease in leases {
        let of_lease = |message: &FirstMessage| {
            message.connection_id == lease.connection_id
                && message.endpoint_id == lease.endpoint_id
                && message.user_id == lease.user_id
        };
        let Some(found) = messages.iter().position(of_lease) else {
            empty.push(lease);
            continue;
        };
        let target = match Target::try_from(lease.target) {
            Ok(target) => target,
            Err(error) => {
                note_unreadable_row("webhook_endpoint", &lease.endpoint_id, &error);
                continue;
            }
        };
        let message = messages.swap_remove(found);
        claimed.push(ClaimedDelivery {
            endpoint: lease.endpoint_id,
            user: lease.user_id,
            connection: lease.connection_id,
            leased_until: lease.leased_until,
            target,
            delivery: message.id,
            attempts: message.attempts,
            created_at: message.created_at,
            message: message.message,
            body: message.body.0,
            is_failing: lease.is_failing,
        });
    }
    if all_readable {
        remove_empty(db, &empty).await?;
    }
    Ok(claimed)
}

/// Leases due queues, up to the capacity. A queue that cannot be read is due again when its lease ends.
async fn lease_due(
    db: &mut Transaction,
    now: DateTime<Utc>,
    lease: f64,
    capacity: Capacity,
) -> sqlx::Result<Vec<Lease>> {
    // By `ctid`: a join by key would scan the whole queue.
    let leases = sqlx::query_as(concat!(
        "update webhook_queue q set leased_until = now() + make_interval(secs => $2) \
         from webhook_endpoint e \
         where e.id = q.endpoint_id and q.ctid = any(",
        due_queues!("failing_since is null", each "$3", all "$5"),
        " || ",
        due_queues!("failing_since is not null", each "$4", all "$6"),
        ") returning q.endpoint_id, q.user_id, q.connection_id, q.leased_until, e.failing_since is not null is_failing, \
           e.url, e.secret, e.old_secret, e.old_secret_until",
    ))
    .bind(now)
    .bind(lease)
    .bind(capacity.per_working)
    .bind(capacity.per_failing)
    .bind(capacity.working)
    .bind(capacity.failing)
    .fetch_all(db)
    .await?;
    Ok(readable("webhook_queue", leases))
}

/// Returns the first waiting message of each queue, and whether all of them can be read.
async fn first_messages(
    db: &mut Transaction,
    leases: &[Lease],
) -> sqlx::Result<(Vec<FirstMessage>, bool)> {
    let users: Vec<&str> = leases.iter().map(|one| one.user_id.as_str()).collect();
    let connections: Vec<ConnectionId> = leases.iter().map(|one| one.connection_id).collect();
    let endpoints: Vec<&str> = leases.iter().map(|one| one.endpoint_id.as_str()).collect();
    let rows: Vec<Readable<FirstMessage>> = sqlx::query_as(concat!(
        "with first as ( \
           select d.user_id, min(d.id) id \
           from unnest($1::text[], $2::uuid[], $3::text[]) c (user_id, connection_id, endpoint_id) \
           join webhook_delivery d on d.user_id = c.user_id and d.connection_id = c.connection_id \
             and d.endpoint_id = c.endpoint_id and d.ended_at is null \
           group by d.user_id, d.connection_id, d.endpoint_id \
         ) \
         select d.endpoint_id, d.user_id, d.connection_id, d.id, d.attempts, d.created_at, ",
        message_id!(),
        " message, case when e.with_config and v.webhook_config is not null \
             then jsonb_set(v.webhook::jsonb, '{data,config}', v.webhook_config)::json else v.webhook end body \
         from first join webhook_delivery d on d.user_id = first.user_id and d.id = first.id \
         join connection_event v on v.user_id = d.user_id and v.id = d.event_id \
         join webhook_endpoint e on e.id = d.endpoint_id"
    ))
    .bind(users)
    .bind(connections)
    .bind(endpoints)
    .fetch_all(db)
    .await?;
    let count = rows.len();
    let messages = readable("webhook_delivery", rows);
    let all_readable = messages.len() == count;
    Ok((messages, all_readable))
}

/// Removes claimed queues that are empty, because their messages were too old or their user was erased. A concurrent
/// transaction that adds a message waits for the claim, and then creates the queue again.
async fn remove_empty(db: &mut Transaction, empty: &[Lease]) -> sqlx::Result<()> {
    if empty.is_empty() {
        return Ok(());
    }
    let users: Vec<&str> = empty.iter().map(|one| one.user_id.as_str()).collect();
    let connections: Vec<ConnectionId> = empty.iter().map(|one| one.connection_id).collect();
    let endpoints: Vec<&str> = empty.iter().map(|one| one.endpoint_id.as_str()).collect();
    sqlx::query(
        "delete from webhook_queue q \
         using unnest($1::text[], $2::uuid[], $3::text[]) c (user_id, connection_id, endpoint_id) \
         where q.user_id = c.user_id and q.connection_id = c.connection_id and q.endpoint_id = c.endpoint_id",
    )
    .bind(users)
    .bind(connections)
    .bind(endpoints)
    .execute(db)
    .await?;
    Ok(())
}

/// Records a successful delivery to an endpoint.
pub(crate) async fn mark_endpoint_working(db: &mut Transaction, id: &str) -> sqlx::Result<()> {
    sqlx::query(
        "update webhook_endpoint set failing_since = null where id = $1 and failing_since is not null",
    )
    .bind(id)
    .execute(db)
    .await?;
    Ok(())
}

/// Records that an endpoint fails. Returns the start of the failure; `None` if the endpoint is disabled or removed. A
/// row that is already marked is not updated: concurrent deliveries would wait for each other's row lock.
pub(crate) async fn mark_endpoint_failing(
    db: &mut Transaction,
    id: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<DateTime<Utc>>> {
    sqlx::query_scalar(
        "with marked as ( \
           update webhook_endpoint set failing_since = $2 \
           where id = $1 and off_since is null and failing_since is null returning failing_since \
         ) \
         select failing_since from marked \
         union all \
         select failing_since from webhook_endpoint where id = $1 and off_since is null and failing_since is not null",
    )
    .bind(id)
    .bind(now)
    .fetch_optional(db)
    .await
}

/// Locks a claimed queue, unless another claim has leased it since.
pub(crate) async fn lock_if_leased(
    db: &mut Transaction,
    claimed: &ClaimedDelivery,
) -> sqlx::Result<bool> {
    let row: Option<String> = sqlx::query_scalar(
        "select endpoint_id from webhook_queue \
         where user_id = $1 and connection_id = $2 and endpoint_id = $3 and leased_until = $4 for update",
    )
    .bind(&claimed.user)
    .bind(claimed.connection)
    .bind(&claimed.endpoint)
    .bind(claimed.leased_until)
    .fetch_optional(db)
    .await?;
    Ok(row.is_some())
}

/// The result of one attempt to send a message.
pub(crate) struct AttemptResult<'a> {
    pub(crate) status: Option<u16>,
    pub(crate) error: Option<&'a str>,
    /// The final outcome; `None` if further attempts follow.
    pub(crate) outcome: Option<&'static str>,
    /// `false` if the endpoint postponed the message. The attempt then does not count.
    pub(crate) counts: bool,
}

pub(crate) async fn record_attempt(
    db: &mut Transaction,
    claimed: &ClaimedDelivery,
    sending: &AttemptResult<'_>,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query(
        "update webhook_delivery set attempts = attempts + $7::integer, last_status = $2, last_error = $3, \
           last_attempt_at = $5, outcome = $4, ended_at = case when $4::text is null then null else $5 end \
         where user_id = $6 and id = $1",
    )
    .bind(claimed.delivery)
    .bind(sending.status.and_then(|status| i16::try_from(status).ok()))
    .bind(sending.error)
    .bind(sending.outcome)
    .bind(now)
    .bind(&claimed.user)
    .bind(i32::from(sending.counts))
    .execute(db)
    .await?;
    Ok(())
}

/// Releases a queue, and makes it due at `due`. Deletes it if no message waits in it.
pub(crate) async fn release(
    db: &mut Transaction,
    claimed: &ClaimedDelivery,
    due: DateTime<Utc>,
) -> sqlx::Result<()> {
    let waits: bool = sqlx::query_scalar(
        "select exists (select 1 from webhook_delivery \
         where user_id = $1 and connection_id = $2 and endpoint_id = $3 and ended_at is null)",
    )
    .bind(&claimed.user)
    .bind(claimed.connection)
    .bind(&claimed.endpoint)
    .fetch_one(&mut *db)
    .await?;
    let query = if waits {
        "update webhook_queue set leased_until = null, next_attempt_at = $4 \
         where user_id = $1 and connection_id = $2 and endpoint_id = $3"
    } else {
        "delete from webhook_queue where user_id = $1 and connection_id = $2 and endpoint_id = $3"
    };
    let query = sqlx::query(query)
        .bind(&claimed.user)
        .bind(claimed.connection)
        .bind(&claimed.endpoint);
    let query = if waits { query.bind(due) } else { query };
    query.execute(db).await?;
    Ok(())
}
