//! The webhooks' SQL.
//!
//! Locks are taken in one order everywhere, so that nobody waits in a circle:
//! a connection, an endpoint, a queue, a message in it.

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use sqlx::FromRow;
use sqlx::postgres::PgRow;
use url::Url;
use uuid::Uuid;

use super::Transaction;
use super::rows::{note_unreadable_row, readable};
use crate::domain::MessageType;

/// Where the product is told.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its name in commands and logs: `whe_` and twelve hexadecimal digits.
    pub id: String,
    /// Where messages are sent.
    pub url: Url,
    /// What it is told of; empty for all.
    pub events: Vec<MessageType>,
    /// Whether messages to it carry the connection's config.
    pub with_config: bool,
    /// Since when nothing has arrived there.
    pub failing_since: Option<DateTime<Utc>>,
    /// Since when it is switched off, and why.
    pub off: Option<(DateTime<Utc>, String)>,
    /// How many messages wait.
    pub waiting: i64,
    /// When it was added.
    pub created_at: DateTime<Utc>,
}

/// One message for one endpoint, and what has become of it.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Delivery {
    /// The endpoint's id.
    #[sqlx(rename = "endpoint_id")]
    pub endpoint: String,
    /// The `webhook-id`, the same for every attempt.
    pub message: String,
    /// What it tells of.
    pub kind: String,
    /// The number of attempts, without those that the endpoint postponed.
    pub attempts: i32,
    /// `delivered` or `given_up`; `None` while it waits.
    pub outcome: Option<String>,
    /// The status of the last answer.
    pub last_status: Option<i16>,
    /// Why the last attempt did not count, for a person to read.
    pub last_error: Option<String>,
    /// When it was put into the queue.
    pub created_at: DateTime<Utc>,
    /// When it was last sent.
    pub last_attempt_at: Option<DateTime<Utc>>,
}

/// Which deliveries are shown.
#[derive(Clone, Debug, Default)]
pub struct DeliveryFilter {
    /// Only this endpoint's.
    pub endpoint: Option<String>,
    /// Only this connection's.
    pub connection: Option<Uuid>,
    /// Only those that have not arrived.
    pub failed: bool,
    /// How many at the most.
    pub limit: i64,
}

#[derive(FromRow)]
struct EndpointRow {
    id: String,
    url: String,
    events: Vec<String>,
    with_config: bool,
    failing_since: Option<DateTime<Utc>>,
    off_since: Option<DateTime<Utc>>,
    off_reason: Option<String>,
    waiting: i64,
    created_at: DateTime<Utc>,
}

impl TryFrom<EndpointRow> for Endpoint {
    type Error = sqlx::Error;

    fn try_from(row: EndpointRow) -> sqlx::Result<Self> {
        Ok(Self {
            url: parse_url(&row.url)?,
            // A type that this version does not know is never told.
            events: row
                .events
                .iter()
                .filter_map(|kind| kind.parse().ok())
                .collect(),
            with_config: row.with_config,
            off: row.off_since.zip(row.off_reason),
            id: row.id,
            failing_since: row.failing_since,
            waiting: row.waiting,
            created_at: row.created_at,
        })
    }
}

fn parse_url(text: &str) -> sqlx::Result<Url> {
    text.parse()
        .map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

pub(crate) async fn insert(
    db: &mut Transaction,
    id: &str,
    url: &Url,
    events: &[MessageType],
    with_config: bool,
    secret: &SecretString,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    let events: Vec<&str> = events.iter().map(|kind| kind.as_str()).collect();
    sqlx::query(
        "insert into webhook_endpoint (id, url, events, with_config, secret, created_at) \
         values ($1, $2, $3, $4, $5, $6)",
    )
    .bind(id)
    .bind(url.as_str())
    .bind(&events)
    .bind(with_config)
    .bind(secret.expose_secret())
    .bind(now)
    .execute(db)
    .await?;
    Ok(())
}

pub(crate) async fn list(db: &mut Transaction) -> sqlx::Result<Vec<Endpoint>> {
    let rows = sqlx::query_as(
        "select e.id, e.url, e.events, e.with_config, e.failing_since, e.off_since, e.off_reason, e.created_at, \
           coalesce(w.waiting, 0) waiting \
         from webhook_endpoint e left join ( \
           select endpoint_id, count(*) waiting from webhook_delivery where ended_at is null group by endpoint_id \
         ) w on w.endpoint_id = e.id order by e.created_at, e.id",
    )
    .fetch_all(db)
    .await?;
    let rows: Vec<EndpointRow> = readable("webhook_endpoint", rows);
    let endpoint = |row: EndpointRow| {
        let id = row.id.clone();
        let read = Endpoint::try_from(row);
        read.inspect_err(|error| note_unreadable_row("webhook_endpoint", &id, error))
            .ok()
    };
    Ok(rows.into_iter().filter_map(endpoint).collect())
}

pub(crate) async fn rotate(
    db: &mut Transaction,
    id: &str,
    secret: &SecretString,
    old_until: DateTime<Utc>,
) -> sqlx::Result<bool> {
    let done = sqlx::query(
        "update webhook_endpoint set old_secret = secret, old_secret_until = $3, secret = $2 where id = $1",
    )
    .bind(id)
    .bind(secret.expose_secret())
    .bind(old_until)
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// An endpoint's secrets, as they are stored.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct StoredSecrets {
    pub(crate) id: String,
    pub(crate) secret: String,
    pub(crate) old_secret: Option<String>,
}

/// The next endpoints after this one, of whose secrets one does not begin so; by id.
pub(crate) async fn secrets_without(
    db: &mut Transaction,
    prefix: &str,
    after: &str,
    limit: i64,
) -> sqlx::Result<Vec<StoredSecrets>> {
    sqlx::query_as(
        "select id, secret, old_secret from webhook_endpoint \
         where id > $2 and ($1 = '' or not starts_with(secret, $1) or not starts_with(old_secret, $1)) \
         order by id limit $3",
    )
    .bind(prefix)
    .bind(after)
    .bind(limit)
    .fetch_all(db)
    .await
}

/// Replaces an endpoint's secrets, unless they were rotated since they were read. Answers how many endpoints have changed.
pub(crate) async fn replace_secrets(
    db: &mut Transaction,
    read: &StoredSecrets,
    new: &StoredSecrets,
) -> sqlx::Result<u64> {
    let done = sqlx::query(
        "update webhook_endpoint set secret = $2, old_secret = $3 \
         where id = $1 and secret = $4 and old_secret is not distinct from $5",
    )
    .bind(&read.id)
    .bind(&new.secret)
    .bind(&new.old_secret)
    .bind(&read.secret)
    .bind(&read.old_secret)
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// Removes the secrets of before a rotation that sign no more. Answers how many.
pub(crate) async fn delete_old_secrets(
    db: &mut Transaction,
    now: DateTime<Utc>,
) -> sqlx::Result<u64> {
    let done = sqlx::query(
        "update webhook_endpoint set old_secret = null, old_secret_until = null where old_secret_until <= $1",
    )
    .bind(now)
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// Switches an endpoint on; what waits for it is due, with all its attempts before it.
pub(crate) async fn enable(
    db: &mut Transaction,
    id: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    let done = sqlx::query(
        "update webhook_endpoint set off_since = null, off_reason = null, failing_since = null where id = $1",
    )
    .bind(id)
    .execute(&mut *db)
    .await?;
    sqlx::query("update webhook_queue set next_attempt_at = $2 where endpoint_id = $1")
        .bind(id)
        .bind(now)
        .execute(&mut *db)
        .await?;
    sqlx::query(
        "update webhook_delivery set attempts = 0 where endpoint_id = $1 and ended_at is null and attempts > 0",
    )
    .bind(id)
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Switches an endpoint off, unless it is.
pub(crate) async fn disable(
    db: &mut Transaction,
    id: &str,
    reason: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<bool> {
    let done = sqlx::query(
        "update webhook_endpoint set off_since = coalesce(off_since, $3), \
           off_reason = coalesce(off_reason, $2) where id = $1",
    )
    .bind(id)
    .bind(reason)
    .bind(now)
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

pub(crate) async fn remove(db: &mut Transaction, id: &str) -> sqlx::Result<bool> {
    let done = sqlx::query("delete from webhook_endpoint where id = $1")
        .bind(id)
        .execute(db)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Keeps an endpoint from being removed until the transaction ends. `false` if there is none.
pub(crate) async fn lock(db: &mut Transaction, id: &str) -> sqlx::Result<bool> {
    let row: Option<String> =
        sqlx::query_scalar("select id from webhook_endpoint where id = $1 for key share")
            .bind(id)
            .fetch_optional(db)
            .await?;
    Ok(row.is_some())
}

/// Puts the next events after the position `after` into an endpoint's queues once more. Returns how many there are, and
/// the position of the last.
pub(crate) async fn replay(
    db: &mut Transaction,
    endpoint: &str,
    since: DateTime<Utc>,
    connection: Option<Uuid>,
    after: i64,
    now: DateTime<Utc>,
    limit: i64,
) -> sqlx::Result<(usize, Option<i64>)> {
    let events: Vec<(String, Uuid, i64)> = sqlx::query_as(
        "select v.user_id, v.id, v.position from connection_event v join webhook_endpoint e on e.id = $1 \
         where v.position > $4 and v.created_at >= $2 and ($3::uuid is null or v.connection_id = $3) \
           and v.webhook is not null and (e.events = '{}' or v.webhook->>'type' = any(e.events)) \
         order by v.position limit $5",
    )
    .bind(endpoint)
    .bind(since)
    .bind(connection)
    .bind(after)
    .bind(limit)
    .fetch_all(&mut *db)
    .await?;
    let last = events.last().map(|(_, _, position)| *position);
    let (users, ids): (Vec<&str>, Vec<Uuid>) = events
        .iter()
        .map(|(user, id, _)| (user.as_str(), *id))
        .unzip();
    // What is being erased is erased first; what is not cannot be before this is done.
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
    .bind(endpoint)
    .bind(&users)
    .bind(&ids)
    .bind(now)
    .execute(db)
    .await?;
    Ok((events.len(), last))
}

/// The `webhook-id` of an event: the event's own id, so that every attempt has the same and no other message ever has it.
macro_rules! message_id {
    () => {
        "'evt_' || replace(v.id::text, '-', '')"
    };
}

pub(crate) use message_id;

pub(crate) async fn deliveries(
    db: &mut Transaction,
    filter: &DeliveryFilter,
) -> sqlx::Result<Vec<Delivery>> {
    let rows = sqlx::query_as(concat!(
        "select d.endpoint_id, ",
        message_id!(),
        " message, v.webhook->>'type' kind, d.attempts, d.outcome, d.last_status, \
           d.last_error, d.created_at, d.last_attempt_at \
         from webhook_delivery d join connection_event v on v.user_id = d.user_id and v.id = d.event_id \
         where ($1::text is null or d.endpoint_id = $1) and ($2::uuid is null or d.connection_id = $2) \
           and (not $3 or (d.last_error is not null and d.outcome is distinct from 'delivered')) \
         order by d.created_at desc, d.id desc limit $4"
    ))
    .bind(&filter.endpoint)
    .bind(filter.connection)
    .bind(filter.failed)
    .bind(filter.limit)
    .fetch_all(db)
    .await?;
    Ok(readable("webhook_delivery", rows))
}

/// Where a message is sent, and what signs it, as it is stored.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) url: Url,
    pub(crate) secret: SecretString,
    /// The one before, and until when it signs, too.
    pub(crate) old_secret: Option<(SecretString, DateTime<Utc>)>,
}

#[derive(FromRow)]
pub(crate) struct TargetRow {
    url: String,
    secret: String,
    old_secret: Option<String>,
    old_secret_until: Option<DateTime<Utc>>,
}

impl TryFrom<TargetRow> for Target {
    type Error = sqlx::Error;

    fn try_from(row: TargetRow) -> sqlx::Result<Self> {
        Ok(Self {
            url: parse_url(&row.url)?,
            secret: row.secret.into(),
            old_secret: row
                .old_secret
                .map(SecretString::from)
                .zip(row.old_secret_until),
        })
    }
}

/// All endpoints, as rows for [`read_target`].
pub(crate) async fn targets(db: &mut Transaction) -> sqlx::Result<Vec<PgRow>> {
    sqlx::query("select id, url, secret, old_secret, old_secret_until from webhook_endpoint")
        .fetch_all(db)
        .await
}

/// Reads a row of [`targets`].
pub(crate) fn read_target(row: &PgRow) -> sqlx::Result<Target> {
    TargetRow::from_row(row)?.try_into()
}

pub(crate) async fn target(db: &mut Transaction, id: &str) -> sqlx::Result<Option<Target>> {
    let row: Option<TargetRow> = sqlx::query_as(
        "select url, secret, old_secret, old_secret_until from webhook_endpoint where id = $1",
    )
    .bind(id)
    .fetch_optional(db)
    .await?;
    row.map(Target::try_from).transpose()
}

pub(crate) async fn delete_old_deliveries(
    db: &mut Transaction,
    before: DateTime<Utc>,
    limit: i64,
) -> sqlx::Result<u64> {
    let done = sqlx::query(
        "delete from webhook_delivery where (user_id, id) in ( \
           select user_id, id from webhook_delivery where created_at < $1 order by created_at limit $2 \
           for update skip locked)",
    )
    .bind(before)
    .bind(limit)
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}
