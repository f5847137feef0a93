//! The queues' SQL: what is claimed, and what came of it.
//!
//! Locks are taken in the order that the store's are.

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;
use sqlx::FromRow;
use sqlx::types::Json;
use uuid::Uuid;

use super::Transaction;
use super::webhook_endpoints::{Target, TargetRow, message_id};

/// The first message of a queue that was claimed.
#[derive(Debug)]
pub(crate) struct ClaimedDelivery {
    pub(crate) endpoint: String,
    pub(crate) connection: Uuid,
    /// Whose lease it is: another claim has another.
    pub(crate) leased_until: DateTime<Utc>,
    pub(crate) target: Target,
    pub(crate) delivery: i64,
    /// The number of attempts before, without those that the endpoint postponed.
    pub(crate) attempts: i32,
    /// When the message was queued.
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) message: String,
    pub(crate) body: Box<RawValue>,
}

#[derive(FromRow)]
struct ClaimedRow {
    endpoint_id: String,
    connection_id: Uuid,
    leased_until: DateTime<Utc>,
    #[sqlx(flatten)]
    target: TargetRow,
    delivery: i64,
    attempts: i32,
    created_at: DateTime<Utc>,
    message: String,
    body: Json<Box<RawValue>>,
}

/// Claims queues that are due, for `lease` seconds of the database's time, so many of an endpoint
/// at once that `most` of it are claimed by all replicas together.
pub(crate) async fn claim(
    db: &mut Transaction,
    now: DateTime<Utc>,
    lease: f64,
    most: i64,
) -> sqlx::Result<Vec<ClaimedDelivery>> {
    let leases: Vec<(String, Uuid)> = sqlx::query_as(
        "with due as ( \
           select q.endpoint_id, q.connection_id from webhook_endpoint e cross join lateral ( \
             select endpoint_id, connection_id from webhook_queue \
             where endpoint_id = e.id and next_attempt_at <= $1 and (leased_until is null or leased_until < now()) \
             order by next_attempt_at \
             limit greatest(0, $3 - (select count(*) from webhook_queue l \
                                     where l.endpoint_id = e.id and l.leased_until >= now())) \
             for update skip locked \
           ) q where e.off_since is null \
         ) \
         update webhook_queue q set leased_until = now() + make_interval(secs => $2) \
         from due where q.endpoint_id = due.endpoint_id and q.connection_id = due.connection_id \
         returning q.endpoint_id, q.connection_id",
    )
    .bind(now)
    .bind(lease)
    .bind(most)
    .fetch_all(&mut *db)
    .await?;
    if leases.is_empty() {
        return Ok(Vec::new());
    }
    let (endpoints, connections): (Vec<String>, Vec<Uuid>) = leases.into_iter().unzip();
    let claimed = first_messages(db, &endpoints, &connections).await?;
    // Those whose messages were too old and forgotten are empty.
    sqlx::query(
        "delete from webhook_queue q using unnest($1::text[], $2::uuid[]) c (endpoint_id, connection_id) \
         where q.endpoint_id = c.endpoint_id and q.connection_id = c.connection_id and not exists ( \
           select 1 from webhook_delivery d where d.endpoint_id = c.endpoint_id \
             and d.connection_id = c.connection_id and d.ended_at is null)",
    )
    .bind(&endpoints)
    .bind(&connections)
    .execute(db)
    .await?;
    Ok(claimed)
}

/// The first message of each of these queues, if anything waits in it.
async fn first_messages(
    db: &mut Transaction,
    endpoints: &[String],
    connections: &[Uuid],
) -> sqlx::Result<Vec<ClaimedDelivery>> {
    let rows: Vec<ClaimedRow> = sqlx::query_as(concat!(
        "select q.endpoint_id, q.connection_id, q.leased_until, e.url, e.secret, e.old_secret, e.old_secret_until, \
           d.id delivery, d.attempts, d.created_at, ",
        message_id!(),
        " message, case when e.with_config and v.webhook_config is not null \
             then jsonb_set(v.webhook::jsonb, '{data,config}', v.webhook_config)::json else v.webhook end body \
         from unnest($1::text[], $2::uuid[]) c (endpoint_id, connection_id) \
         join webhook_queue q on q.endpoint_id = c.endpoint_id and q.connection_id = c.connection_id \
         join webhook_endpoint e on e.id = c.endpoint_id \
         cross join lateral ( \
           select id, attempts, created_at, event_id from webhook_delivery \
           where endpoint_id = c.endpoint_id and connection_id = c.connection_id and ended_at is null \
           order by id limit 1 \
         ) d \
         join connection_event v on v.id = d.event_id"
    ))
    .bind(endpoints)
    .bind(connections)
    .fetch_all(db)
    .await?;
    let claimed = |row: ClaimedRow| {
        Ok(ClaimedDelivery {
            endpoint: row.endpoint_id,
            connection: row.connection_id,
            leased_until: row.leased_until,
            target: row.target.try_into()?,
            delivery: row.delivery,
            attempts: row.attempts,
            created_at: row.created_at,
            message: row.message,
            body: row.body.0,
        })
    };
    rows.into_iter().map(claimed).collect()
}

/// Something has arrived at an endpoint.
pub(crate) async fn mark_endpoint_working(db: &mut Transaction, id: &str) -> sqlx::Result<()> {
    sqlx::query(
        "update webhook_endpoint set failing_since = null where id = $1 and failing_since is not null",
    )
    .bind(id)
    .execute(db)
    .await?;
    Ok(())
}

/// Something has not arrived at an endpoint. Answers since when nothing has; `None` if it is off or gone.
pub(crate) async fn mark_endpoint_failing(
    db: &mut Transaction,
    id: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<Option<DateTime<Utc>>> {
    sqlx::query_scalar(
        "update webhook_endpoint set failing_since = coalesce(failing_since, $2) \
         where id = $1 and off_since is null returning failing_since",
    )
    .bind(id)
    .bind(now)
    .fetch_optional(db)
    .await
}

/// Locks a claimed queue, if the lease is still the claim's own.
pub(crate) async fn lock_if_leased(
    db: &mut Transaction,
    claimed: &ClaimedDelivery,
) -> sqlx::Result<bool> {
    let row: Option<String> = sqlx::query_scalar(
        "select endpoint_id from webhook_queue \
         where endpoint_id = $1 and connection_id = $2 and leased_until = $3 for update",
    )
    .bind(&claimed.endpoint)
    .bind(claimed.connection)
    .bind(claimed.leased_until)
    .fetch_optional(db)
    .await?;
    Ok(row.is_some())
}

/// What came of sending a message once.
pub(crate) struct AttemptResult<'a> {
    pub(crate) status: Option<u16>,
    pub(crate) error: Option<&'a str>,
    /// Whether it is over, and how.
    pub(crate) outcome: Option<&'static str>,
    /// `false` if the endpoint postponed the message. The attempt then does not count.
    pub(crate) counts: bool,
}

pub(crate) async fn record_attempt(
    db: &mut Transaction,
    delivery: i64,
    sending: &AttemptResult<'_>,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query(
        "update webhook_delivery set attempts = attempts + $6::integer, last_status = $2, last_error = $3, \
           last_attempt_at = $5, outcome = $4, ended_at = case when $4::text is null then null else $5 end \
         where id = $1",
    )
    .bind(delivery)
    .bind(sending.status.and_then(|status| i16::try_from(status).ok()))
    .bind(sending.error)
    .bind(sending.outcome)
    .bind(now)
    .bind(i32::from(sending.counts))
    .execute(db)
    .await?;
    Ok(())
}

/// Gives a queue back: its first message is due then. A queue in which nothing waits goes.
pub(crate) async fn release(
    db: &mut Transaction,
    claimed: &ClaimedDelivery,
    due: DateTime<Utc>,
) -> sqlx::Result<()> {
    let waits: bool = sqlx::query_scalar(
        "select exists (select 1 from webhook_delivery \
         where endpoint_id = $1 and connection_id = $2 and ended_at is null)",
    )
    .bind(&claimed.endpoint)
    .bind(claimed.connection)
    .fetch_one(&mut *db)
    .await?;
    let query = if waits {
        sqlx::query(
            "update webhook_queue set leased_until = null, next_attempt_at = $3 \
             where endpoint_id = $1 and connection_id = $2",
        )
        .bind(&claimed.endpoint)
        .bind(claimed.connection)
        .bind(due)
    } else {
        sqlx::query("delete from webhook_queue where endpoint_id = $1 and connection_id = $2")
            .bind(&claimed.endpoint)
            .bind(claimed.connection)
    };
    query.execute(db).await?;
    Ok(())
}
