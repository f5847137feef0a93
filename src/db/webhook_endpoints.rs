//! The SQL of webhook endpoints.
//!
//! Locks are acquired in the same order everywhere, so that no deadlock occurs: a connection, an endpoint, a queue, a
//! message in it.

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgExecutor};
use url::Url;

use super::Transaction;
use super::rows::{note_unreadable_row, readable};
use crate::domain::MessageType;

/// An endpoint that receives the product's webhooks.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The id in commands and logs: `whe_` and twelve hexadecimal digits.
    pub id: String,
    /// The URL to which messages are sent.
    pub url: Url,
    /// The event types that the endpoint receives; empty for all.
    pub events: Vec<MessageType>,
    /// `true` if messages to it contain the connection's config.
    pub with_config: bool,
    /// The start of the current failure: no delivery has succeeded since. `None` if the endpoint works.
    pub failing_since: Option<DateTime<Utc>>,
    /// When and why the endpoint was disabled; `None` if it is enabled.
    pub off: Option<(DateTime<Utc>, String)>,
    /// The number of waiting messages.
    pub waiting: i64,
    /// When the endpoint was added.
    pub created_at: DateTime<Utc>,
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
            // Event types unknown to this version are never sent.
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
    db: impl PgExecutor<'_>,
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

pub(crate) async fn list(db: impl PgExecutor<'_>) -> sqlx::Result<Vec<Endpoint>> {
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
    db: impl PgExecutor<'_>,
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

/// The stored secrets of an endpoint.
#[derive(Clone, Debug, FromRow)]
pub(crate) struct StoredSecrets {
    pub(crate) id: String,
    pub(crate) secret: String,
    pub(crate) old_secret: Option<String>,
}

/// Returns the next endpoints after `after`, by id, that have a secret without this prefix.
pub(crate) async fn secrets_without(
    db: impl PgExecutor<'_>,
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

/// Replaces an endpoint's secrets, unless they were rotated since they were read. Returns the number of changed
/// endpoints.
pub(crate) async fn replace_secrets(
    db: impl PgExecutor<'_>,
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

/// Deletes rotated secrets that no longer sign. Returns their number.
pub(crate) async fn delete_old_secrets(
    db: impl PgExecutor<'_>,
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

/// Enables an endpoint. Returns `false` if there is none.
pub(crate) async fn enable(db: impl PgExecutor<'_>, id: &str) -> sqlx::Result<bool> {
    let done = sqlx::query(
        "update webhook_endpoint set off_since = null, off_reason = null, failing_since = null where id = $1",
    )
    .bind(id)
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The queues of an endpoint that [`make_due`] changes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Queues {
    /// Queues that are due later.
    Later,
    /// Queues that were due before.
    Earlier,
}

/// Makes some queues of an endpoint due now, and resets the attempts of their messages. Returns the number of queues,
/// without those that another transaction has locked.
pub(crate) async fn make_due(
    db: impl PgExecutor<'_>,
    id: &str,
    which: Queues,
    now: DateTime<Utc>,
    limit: i64,
) -> sqlx::Result<u64> {
    /// The statement for queues that match `$condition`.
    macro_rules! make_due {
        ($condition:literal) => {
            concat!(
                "with due as ( \
                   update webhook_queue set next_attempt_at = $2 where ctid = any(array( \
                     select ctid from webhook_queue where endpoint_id = $1 and ",
                $condition,
                " order by next_attempt_at limit $3 for update skip locked)) \
                   returning user_id, connection_id \
                 ), reset as ( \
                   update webhook_delivery d set attempts = 0 from due \
                   where d.user_id = due.user_id and d.connection_id = due.connection_id and d.endpoint_id = $1 \
                     and d.ended_at is null and d.attempts > 0 \
                 ) \
                 select count(*) from due"
            )
        };
    }
    let statement = match which {
        Queues::Later => make_due!("next_attempt_at > $2"),
        Queues::Earlier => make_due!("next_attempt_at < $2"),
    };
    let count: i64 = sqlx::query_scalar(statement)
        .bind(id)
        .bind(now)
        .bind(limit)
        .fetch_one(db)
        .await?;
    Ok(count.unsigned_abs())
}

/// Disables an endpoint; a disabled one keeps its time and reason. Returns `false` if there is none.
pub(crate) async fn disable(
    db: impl PgExecutor<'_>,
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

/// Locks an endpoint until the transaction ends, so that no message is queued for it. Returns `false` if there is none.
pub(crate) async fn lock_to_remove(db: &mut Transaction, id: &str) -> sqlx::Result<bool> {
    let row: Option<String> =
        sqlx::query_scalar("select id from webhook_endpoint where id = $1 for update")
            .bind(id)
            .fetch_optional(db)
            .await?;
    Ok(row.is_some())
}

/// Removes an endpoint that the caller has locked, with its queued messages: queues first, as everywhere.
pub(crate) async fn remove(db: &mut Transaction, id: &str) -> sqlx::Result<()> {
    for statement in [
        "delete from webhook_queue where endpoint_id = $1",
        "delete from webhook_delivery where endpoint_id = $1",
        "delete from webhook_endpoint where id = $1",
    ] {
        sqlx::query(statement).bind(id).execute(&mut *db).await?;
    }
    Ok(())
}

/// Prevents the removal of an endpoint until the transaction ends. Returns `false` if there is none.
pub(crate) async fn lock(db: &mut Transaction, id: &str) -> sqlx::Result<bool> {
    let row: Option<String> =
        sqlx::query_scalar("select id from webhook_endpoint where id = $1 for key share")
            .bind(id)
            .fetch_optional(db)
            .await?;
    Ok(row.is_some())
}

/// The `webhook-id` of an event: derived from the event's id, so that it is unique and the same for every attempt.
macro_rules! message_id {
    () => {
        "'evt_' || replace(v.id::text, '-', '')"
    };
}

pub(crate) use message_id;

/// The URL of an endpoint and its stored secrets.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) url: Url,
    pub(crate) secret: SecretString,
    /// The previous secret, and until when it also signs.
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

/// Returns all endpoints, as rows for [`read_target`].
pub(crate) async fn targets(db: impl PgExecutor<'_>) -> sqlx::Result<Vec<PgRow>> {
    sqlx::query("select id, url, secret, old_secret, old_secret_until from webhook_endpoint")
        .fetch_all(db)
        .await
}

/// Parses a row of [`targets`].
pub(crate) fn read_target(row: &PgRow) -> sqlx::Result<Target> {
    TargetRow::from_row(row)?.try_into()
}

pub(crate) async fn target(db: impl PgExecutor<'_>, id: &str) -> sqlx::Result<Option<Target>> {
    let row: Option<TargetRow> = sqlx::query_as(
        "select url, secret, old_secret, old_secret_until from webhook_endpoint where id = $1",
    )
    .bind(id)
    .fetch_optional(db)
    .await?;
    row.map(Target::try_from).transpose()
}
