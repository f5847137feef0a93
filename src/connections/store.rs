//! Every SQL statement of the domain, and the rows behind the domain's types.
//!
//! Each function takes the connection of a transaction that the service owns.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use sqlx::FromRow;
use sqlx::types::Json;
use uuid::Uuid;

use super::machine::Transition;
use super::transaction::Transaction;
use super::{
    Attempt, Connection, ConnectorRef, EventKind, Failure, Outcome, State, Status, Upstream,
};
use crate::auth::UserId;
use crate::catalog::{Catalog, Connector};

/// A row that the domain does not know, or a write that did not find its row.
#[derive(Debug, thiserror::Error)]
enum Corrupt {
    #[error("{table} {id} holds what the domain does not know: {detail}")]
    Row {
        table: &'static str,
        id: Uuid,
        detail: String,
    },
    #[error("{table} {id} was not there to be written, or had another version")]
    Lost { table: &'static str, id: Uuid },
}

impl From<Corrupt> for sqlx::Error {
    fn from(corrupt: Corrupt) -> Self {
        Self::Decode(Box::new(corrupt))
    }
}

fn corrupt(table: &'static str, id: Uuid, detail: &dyn ToString) -> Corrupt {
    Corrupt::Row {
        table,
        id,
        detail: detail.to_string(),
    }
}

/// Fails unless exactly one row was written.
fn one_row(
    done: &sqlx::postgres::PgQueryResult,
    table: &'static str,
    id: Uuid,
) -> sqlx::Result<()> {
    if done.rows_affected() == 1 {
        Ok(())
    } else {
        Err(Corrupt::Lost { table, id }.into())
    }
}

/// A select of connections with what their connector is called; the caller adds the rest.
macro_rules! select_connections {
    ($rest:literal) => {
        concat!(
            "select c.*, k.slug, k.name, k.integration_key \
             from user_connector_connection c join connector k on k.id = c.connector_id ",
            $rest
        )
    };
}

#[derive(FromRow)]
struct ConnectionRow {
    id: Uuid,
    user_id: String,
    connector_id: Uuid,
    instance_id: String,
    label: Option<String>,
    nango_connection_id: Option<String>,
    nango_created_at: Option<DateTime<Utc>>,
    status: String,
    status_reason: Option<String>,
    connected_at: Option<DateTime<Utc>>,
    disconnected_at: Option<DateTime<Utc>>,
    last_synced_at: Option<DateTime<Utc>>,
    last_checked_at: Option<DateTime<Utc>>,
    config: Json<Map<String, Value>>,
    last_error: Option<String>,
    error_count: i32,
    version: i64,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    slug: String,
    name: String,
    integration_key: String,
}

impl TryFrom<ConnectionRow> for Connection {
    type Error = Corrupt;

    fn try_from(row: ConnectionRow) -> Result<Self, Corrupt> {
        let wrong = |detail: &dyn ToString| corrupt("user_connector_connection", row.id, detail);
        let upstream = match (row.nango_connection_id, row.nango_created_at) {
            (Some(id), Some(created_at)) => Some(Upstream { id, created_at }),
            (None, None) => None,
            _ => return Err(wrong(&"half of what Nango holds")),
        };
        let status: Status = row.status.parse().map_err(|error| wrong(&error))?;
        let reason = row
            .status_reason
            .as_deref()
            .map(str::parse)
            .transpose()
            .map_err(|error| wrong(&error))?;
        let state = match (status, reason, upstream) {
            (Status::Pending, _, previous) => State::Pending { previous },
            (Status::Connected, None, Some(upstream)) => State::Connected { upstream },
            (Status::Disconnected, Some(reason), None) => State::Disconnected { reason },
            (Status::Error, Some(reason), upstream) => State::Error { reason, upstream },
            _ => return Err(wrong(&format!("status {status} with reason {reason:?}"))),
        };
        let user_id = UserId::try_from(row.user_id).map_err(|error| wrong(&error))?;
        Ok(Self {
            id: row.id,
            user_id,
            connector: ConnectorRef {
                id: row.connector_id,
                slug: row.slug,
                name: row.name,
                integration_key: row.integration_key,
            },
            instance_id: row.instance_id,
            label: row.label,
            state,
            connected_at: row.connected_at,
            disconnected_at: row.disconnected_at,
            last_synced_at: row.last_synced_at,
            last_checked_at: row.last_checked_at,
            config: row.config.0,
            last_error: row.last_error,
            error_count: row.error_count,
            version: row.version,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

fn connection(row: Option<ConnectionRow>) -> sqlx::Result<Option<Connection>> {
    Ok(row.map(Connection::try_from).transpose()?)
}

/// Which of a user's connections are meant.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    pub(super) connector_id: Option<Uuid>,
    pub(super) status: Option<Status>,
    /// Only those made before this one.
    pub(super) before: Option<Uuid>,
}

/// One page of a user's connections, newest first.
pub(super) async fn list(
    db: &mut Transaction,
    user: &UserId,
    filter: &Filter,
    limit: i64,
) -> sqlx::Result<Vec<Connection>> {
    let rows: Vec<ConnectionRow> = sqlx::query_as(select_connections!(
        "where c.user_id = $1 and ($2::uuid is null or c.connector_id = $2) \
           and ($3::text is null or c.status = $3) and ($4::uuid is null or c.id < $4) \
         order by c.id desc limit $5"
    ))
    .bind(user.as_str())
    .bind(filter.connector_id)
    .bind(filter.status.map(Status::as_str))
    .bind(filter.before)
    .bind(limit)
    .fetch_all(db)
    .await?;
    Ok(rows
        .into_iter()
        .map(Connection::try_from)
        .collect::<Result<_, _>>()?)
}

/// How many connections the filter lets through, on all pages.
pub(super) async fn count(
    db: &mut Transaction,
    user: &UserId,
    filter: &Filter,
) -> sqlx::Result<i64> {
    sqlx::query_scalar(
        "select count(*) from user_connector_connection \
         where user_id = $1 and ($2::uuid is null or connector_id = $2) and ($3::text is null or status = $3)",
    )
    .bind(user.as_str())
    .bind(filter.connector_id)
    .bind(filter.status.map(Status::as_str))
    .fetch_one(db)
    .await
}

/// A user's connection by our id.
pub(super) async fn find(
    db: &mut Transaction,
    user: &UserId,
    id: Uuid,
) -> sqlx::Result<Option<Connection>> {
    let row = sqlx::query_as(select_connections!("where c.id = $1 and c.user_id = $2"))
        .bind(id)
        .bind(user.as_str())
        .fetch_optional(db)
        .await?;
    connection(row)
}

/// Anybody's connection by our id.
pub(super) async fn find_any(db: &mut Transaction, id: Uuid) -> sqlx::Result<Option<Connection>> {
    let row = sqlx::query_as(select_connections!("where c.id = $1"))
        .bind(id)
        .fetch_optional(db)
        .await?;
    connection(row)
}

/// A connection by Nango's id of it.
pub(super) async fn find_upstream(
    db: &mut Transaction,
    nango_id: &str,
) -> sqlx::Result<Option<Connection>> {
    let row = sqlx::query_as(select_connections!("where c.nango_connection_id = $1"))
        .bind(nango_id)
        .fetch_optional(db)
        .await?;
    connection(row)
}

/// A connection by our id, locked until the transaction ends.
pub(super) async fn lock(db: &mut Transaction, id: Uuid) -> sqlx::Result<Option<Connection>> {
    let row = sqlx::query_as(select_connections!("where c.id = $1 for update of c"))
        .bind(id)
        .fetch_optional(db)
        .await?;
    connection(row)
}

/// The connection of this user, connector and instance, made if there was none; locked.
pub(super) async fn lock_or_insert(
    db: &mut Transaction,
    user: &UserId,
    connector: &Connector,
    instance_id: &str,
    now: DateTime<Utc>,
) -> sqlx::Result<Connection> {
    sqlx::query(
        "insert into user_connector_connection \
           (id, user_id, connector_id, instance_id, status, status_reason, version, created_at, updated_at) \
         values ($1, $2, $3, $4, 'pending', 'awaiting_authorization', 0, $5, $5) \
         on conflict on constraint user_connector_connection_instance_key do nothing",
    )
    .bind(Uuid::now_v7())
    .bind(user.as_str())
    .bind(connector.id)
    .bind(instance_id)
    .bind(now)
    .execute(&mut *db)
    .await?;
    let row: ConnectionRow = sqlx::query_as(select_connections!(
        "where c.user_id = $1 and c.connector_id = $2 and c.instance_id = $3 for update of c"
    ))
    .bind(user.as_str())
    .bind(connector.id)
    .bind(instance_id)
    .fetch_one(db)
    .await?;
    Ok(row.try_into()?)
}

/// Writes a change: the connection under its next version, its event, the attempt's end and what is to be deleted.
pub(super) async fn apply(
    db: &mut Transaction,
    transition: &Transition,
    attempt: Option<Uuid>,
) -> sqlx::Result<Connection> {
    let connection = Connection {
        version: transition.connection.version + 1,
        ..transition.connection.clone()
    };
    update(db, &connection).await?;
    insert_event(db, &connection, transition.event, attempt).await?;
    if let (Some(attempt), Some((outcome, failure))) = (attempt, &transition.outcome) {
        end_attempt(db, attempt, *outcome, failure.as_ref(), &connection).await?;
    }
    if let Some(upstream) = &transition.discard {
        delete_later(db, upstream, &connection, connection.updated_at).await?;
    }
    Ok(connection)
}

async fn update(db: &mut Transaction, connection: &Connection) -> sqlx::Result<()> {
    let upstream = connection.state.upstream();
    let done = sqlx::query(
        "update user_connector_connection set label = $3, nango_connection_id = $4, nango_created_at = $5, \
           status = $6, status_reason = $7, connected_at = $8, disconnected_at = $9, last_synced_at = $10, \
           last_checked_at = $11, config = $12, last_error = $13, error_count = $14, version = $2, updated_at = $15 \
         where id = $1 and version = $2 - 1",
    )
    .bind(connection.id)
    .bind(connection.version)
    .bind(&connection.label)
    .bind(upstream.map(|upstream| upstream.id.as_str()))
    .bind(upstream.map(|upstream| upstream.created_at))
    .bind(connection.state.status().as_str())
    .bind(connection.state.reason().map(super::Reason::as_str))
    .bind(connection.connected_at)
    .bind(connection.disconnected_at)
    .bind(connection.last_synced_at)
    .bind(connection.last_checked_at)
    .bind(Json(&connection.config))
    .bind(&connection.last_error)
    .bind(connection.error_count)
    .bind(connection.updated_at)
    .execute(db)
    .await?;
    one_row(&done, "user_connector_connection", connection.id)
}

async fn insert_event(
    db: &mut Transaction,
    connection: &Connection,
    kind: EventKind,
    attempt: Option<Uuid>,
) -> sqlx::Result<()> {
    let done = sqlx::query(
        "insert into connection_event \
           (connection_id, user_id, version, kind, status, status_reason, attempt_id, detail, created_at) \
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(connection.id)
    .bind(connection.user_id.as_str())
    .bind(connection.version)
    .bind(kind.as_str())
    .bind(connection.state.status().as_str())
    .bind(connection.state.reason().map(super::Reason::as_str))
    .bind(attempt)
    .bind(&connection.last_error)
    .bind(connection.updated_at)
    .execute(db)
    .await?;
    one_row(&done, "connection_event", connection.id)
}

#[derive(FromRow)]
struct AttemptRow {
    id: Uuid,
    connection_id: Uuid,
    kind: String,
    expires_at: DateTime<Utc>,
    outcome: Option<String>,
    error_code: Option<String>,
    error_message: Option<String>,
    void: bool,
    created_at: DateTime<Utc>,
    ended_at: Option<DateTime<Utc>>,
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
pub(super) async fn insert_attempt(db: &mut Transaction, attempt: &Attempt) -> sqlx::Result<()> {
    sqlx::query(
        "update connect_attempt set outcome = 'superseded', ended_at = $2 \
         where connection_id = $1 and outcome is null",
    )
    .bind(attempt.connection_id)
    .bind(attempt.created_at)
    .execute(&mut *db)
    .await?;
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
pub(super) async fn session_opened(db: &mut Transaction, attempt: &Attempt) -> sqlx::Result<()> {
    let done = sqlx::query("update connect_attempt set expires_at = $2, kind = $3 where id = $1")
        .bind(attempt.id)
        .bind(attempt.expires_at)
        .bind(attempt.kind.as_str())
        .execute(db)
        .await?;
    one_row(&done, "connect_attempt", attempt.id)
}

async fn end_attempt(
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
    .execute(db)
    .await?;
    one_row(&done, "connect_attempt", attempt)
}

/// Ends what a disconnect ends: no attempt that began before it connects any more.
pub(super) async fn void_attempts(
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
pub(super) async fn attempt(db: &mut Transaction, id: Uuid) -> sqlx::Result<Option<Attempt>> {
    let row: Option<AttemptRow> = sqlx::query_as("select * from connect_attempt where id = $1")
        .bind(id)
        .fetch_optional(db)
        .await?;
    Ok(row.map(Attempt::try_from).transpose()?)
}

/// The newest attempt of each of these connections.
pub(super) async fn latest_attempts(
    db: &mut Transaction,
    connections: &[Uuid],
) -> sqlx::Result<Vec<Attempt>> {
    let rows = sqlx::query_as(
        "select distinct on (connection_id) * from connect_attempt where connection_id = any($1) \
         order by connection_id, created_at desc, id desc",
    )
    .bind(connections)
    .fetch_all(db)
    .await?;
    attempts(rows)
}

/// Attempts that are still open past their time.
pub(super) async fn overdue_attempts(
    db: &mut Transaction,
    now: DateTime<Utc>,
    limit: i64,
) -> sqlx::Result<Vec<Attempt>> {
    let rows: Vec<AttemptRow> = sqlx::query_as(
        "select * from connect_attempt where outcome is null and expires_at <= $1 order by expires_at limit $2",
    )
    .bind(now)
    .bind(limit)
    .fetch_all(db)
    .await?;
    attempts(rows)
}

/// What still has to be deleted at Nango.
#[derive(Clone, Debug, FromRow)]
pub(super) struct Deletion {
    pub(super) nango_connection_id: String,
    pub(super) integration_key: String,
    pub(super) connection_id: Option<Uuid>,
    pub(super) attempts: i32,
}

/// Notes that a connection has to be deleted at Nango.
pub(super) async fn delete_later(
    db: &mut Transaction,
    upstream: &Upstream,
    connection: &Connection,
    now: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query(
        "insert into upstream_deletion \
           (nango_connection_id, integration_key, connection_id, next_attempt_at, created_at) \
         values ($1, $2, $3, $4, $4) on conflict (nango_connection_id) do nothing",
    )
    .bind(&upstream.id)
    .bind(&connection.connector.integration_key)
    .bind(connection.id)
    .bind(now)
    .execute(db)
    .await?;
    Ok(())
}

/// Claims deletions that are due, for as long as `lease` seconds of the database's time.
///
/// With a `connection`, only its own, whether due or not.
pub(super) async fn claim_deletions(
    db: &mut Transaction,
    connection: Option<Uuid>,
    now: DateTime<Utc>,
    lease: f64,
    limit: i64,
) -> sqlx::Result<Vec<Deletion>> {
    sqlx::query_as(
        "with due as ( \
           select nango_connection_id from upstream_deletion \
           where (next_attempt_at <= $2 or connection_id = $1) and ($1::uuid is null or connection_id = $1) \
             and (leased_until is null or leased_until < now()) \
           order by next_attempt_at limit $4 for update skip locked \
         ) \
         update upstream_deletion d set leased_until = now() + make_interval(secs => $3), attempts = attempts + 1 \
         from due where d.nango_connection_id = due.nango_connection_id \
         returning d.nango_connection_id, d.integration_key, d.connection_id, d.attempts",
    )
    .bind(connection)
    .bind(now)
    .bind(lease)
    .bind(limit)
    .fetch_all(db)
    .await
}

/// Nango has confirmed a deletion.
pub(super) async fn deletion_done(db: &mut Transaction, nango_id: &str) -> sqlx::Result<()> {
    // Another replica whose lease had run out may have finished it before: no row is fine.
    sqlx::query("delete from upstream_deletion where nango_connection_id = $1")
        .bind(nango_id)
        .execute(db)
        .await?;
    Ok(())
}

/// A deletion did not work and is tried again later.
pub(super) async fn deletion_failed(
    db: &mut Transaction,
    nango_id: &str,
    error: &str,
    next_attempt_at: DateTime<Utc>,
) -> sqlx::Result<()> {
    sqlx::query(
        "update upstream_deletion set leased_until = null, last_error = $2, next_attempt_at = $3 \
         where nango_connection_id = $1",
    )
    .bind(nango_id)
    .bind(error)
    .bind(next_attempt_at)
    .execute(db)
    .await?;
    Ok(())
}

/// Whether anything of a connection still has to be deleted at Nango.
pub(super) async fn deletion_pending(
    db: &mut Transaction,
    connection_id: Uuid,
) -> sqlx::Result<bool> {
    sqlx::query_scalar("select exists (select 1 from upstream_deletion where connection_id = $1)")
        .bind(connection_id)
        .fetch_one(db)
        .await
}

/// A connector's id by its slug or itself, whether or not the catalog still has it.
pub(super) async fn connector_id(
    db: &mut Transaction,
    reference: &str,
) -> sqlx::Result<Option<Uuid>> {
    sqlx::query_scalar("select id from connector where slug = $1 or id::text = lower($1)")
        .bind(reference)
        .fetch_optional(db)
        .await
}

/// Writes the catalog to the `connector` table. Connectors that left it stay, disabled.
pub(super) async fn seed_connectors(db: &mut Transaction, catalog: &Catalog) -> sqlx::Result<()> {
    let mut connectors: Vec<&Connector> = catalog.iter().collect();
    // In one order, so that two starting replicas do not lock each other out.
    connectors.sort_by_key(|connector| connector.id);
    for connector in &connectors {
        sqlx::query(
            "insert into connector (id, slug, name, category, provider, integration_key, auth_mode, enabled, manifest) \
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
             on conflict (id) do update set slug = excluded.slug, name = excluded.name, \
               category = excluded.category, provider = excluded.provider, \
               integration_key = excluded.integration_key, auth_mode = excluded.auth_mode, \
               enabled = excluded.enabled, manifest = excluded.manifest, updated_at = now() \
             where (connector.manifest, connector.enabled) is distinct from (excluded.manifest, excluded.enabled)",
        )
        .bind(connector.id)
        .bind(&connector.slug)
        .bind(&connector.name)
        .bind(&connector.category)
        .bind(&connector.provider)
        .bind(&connector.integration_key)
        .bind(connector.auth_mode.map(|mode| mode.to_string()))
        .bind(connector.enabled)
        .bind(connector.manifest())
        .execute(&mut *db)
        .await?;
    }
    let ids: Vec<Uuid> = connectors.iter().map(|connector| connector.id).collect();
    sqlx::query("update connector set enabled = false, updated_at = now() where enabled and not id = any($1)")
        .bind(&ids)
        .execute(db)
        .await?;
    Ok(())
}
