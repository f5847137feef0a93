//! Starts an attempt to authorize a connection, in one statement.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use sqlx::types::Json;
use uuid::Uuid;

use super::events::{EVENT_CHANNEL, insert_event_cte};
use super::writes::{bind_connection, mutable_columns, mutable_values, update_connection};
use super::{Transaction, one_row};
use crate::domain::state_machine::Transition;
use crate::domain::{Attempt, AttemptId, Connection, EventId, Integration, MessageType, UserId};

/// A statement that writes a connection, its new attempt and its event.
///
/// The connection comes first, because a transaction that writes an attempt must have locked its connection. The
/// connection's row gets a copy of the attempt. An open attempt is superseded before the new one is inserted, because a
/// connection has at most one; a count makes each step wait for the one before.
macro_rules! insert_attempt {
    ($written:expr, context $context:literal) => {
        concat!(
            "with connection as (",
            $written,
            " returning c.id, c.user_id, c.version, c.status, c.status_reason, c.updated_at \
             ), superseded as ( \
               update connect_attempt a set outcome = 'superseded', ended_at = connection.updated_at from connection \
               where a.user_id = $23 and a.id = $33 and a.outcome is null returning 1 \
             ), attempt as ( \
               insert into connect_attempt \
                 (user_id, id, connection_id, kind, integration_key, provider, expires_at, created_at) \
               select connection.user_id, $24, connection.id, $25, $30, $31, $26, connection.updated_at \
               from connection cross join (select count(*) from superseded) as first \
               returning id, user_id, connection_id \
             ), owner as ( \
               insert into attempt_owner (attempt_id, user_id, connection_id, due_at, kept_until) \
               select id, user_id, connection_id, $26, $32 from attempt \
             ), ",
            insert_event_cte!(
                id "$29", of "(select connection.* from connection cross join attempt)",
                kind "$27", attempt "$24", detail "null", webhook "null", config "null", context $context
            ),
            " select pg_notify($28, user_id) from event",
        )
    };
}

/// The columns of the new attempt's copy in its connection's row.
macro_rules! attempt_copy {
    () => {
        ", attempt_id, attempt_kind, attempt_expires_at, attempt_outcome, attempt_error_code, \
         attempt_error_message, attempt_invalidated, attempt_returned, attempt_created_at, attempt_ended_at"
    };
}

/// The values of [`attempt_copy`].
macro_rules! attempt_copy_values {
    () => {
        ", $24, $25, $26, null, null, null, false, null, $13, null"
    };
}

/// A new attempt.
pub(crate) struct NewAttempt<'a> {
    pub(crate) attempt: &'a Attempt,
    /// The integration of the attempt's session.
    pub(crate) integration: &'a Integration,
    /// Until when the attempt may be granted.
    pub(crate) kept_until: DateTime<Utc>,
    /// The open attempt of the connection that was read. The new one supersedes it.
    pub(crate) supersedes: Option<AttemptId>,
}

/// The maximum number of connections of a user, including ended ones. It bounds all reads of a user's connections.
pub(crate) const MAX_CONNECTIONS_PER_USER: i64 = 500;

/// The number of a user's connections up to which new ones need no lock. Concurrent requests cannot add as many as are
/// left.
pub(crate) const MAX_UNLOCKED_CONNECTIONS: i64 = MAX_CONNECTIONS_PER_USER / 2;

/// Waits until no other transaction with this lock creates a connection of the user. The next statement counts all of
/// them.
pub(crate) async fn lock_new_connections(db: &mut Transaction, user: &UserId) -> sqlx::Result<()> {
    sqlx::query("select pg_advisory_xact_lock(2, hashtext($1))")
        .bind(user.as_str())
        .execute(db)
        .await?;
    Ok(())
}

/// Starts an attempt, if the connection is unchanged since it was read: it has the previous version and was last
/// changed at `read`. Creates the connection if it does not exist. If another transaction was faster, or the user
/// already has `most` connections, nothing is written and no row is returned.
pub(crate) async fn start_attempt(
    db: impl PgExecutor<'_>,
    transition: &Transition,
    new: &NewAttempt<'_>,
    read: DateTime<Utc>,
    most: i64,
) -> sqlx::Result<Option<Connection>> {
    let connection = Connection {
        version: transition.connection.version + 1,
        ..transition.connection.clone()
    };
    debug_assert!(
        MessageType::of(transition.event).is_none(),
        "endpoints receive no message when an attempt starts"
    );
    let is_new = connection.version == 1;
    let statement = sqlx::query(if is_new {
        insert_attempt!(concat!(
            "insert into user_connector_connection as c (user_id, id, connector_id, instance_id, created_at, ",
            mutable_columns!(),
            attempt_copy!(),
            ") select $23, $1, $34, $35, $36, ",
            mutable_values!(config "$10", checked "$22"),
            attempt_copy_values!(),
            " where (select count(*) from user_connector_connection where user_id = $23) < $37 \
             on conflict on constraint user_connector_connection_instance_key do nothing",
        ), context "$38")
    } else {
        insert_attempt!(concat!(
            update_connection!(attempt_copy!(), attempt_copy_values!()),
            " and c.updated_at = $34"
        ), context "$35")
    });
    let attempt = new.attempt;
    let mut statement = bind_connection(statement, &connection)
        .bind(attempt.id)
        .bind(attempt.kind.as_str())
        .bind(attempt.expires_at)
        .bind(transition.event.as_str())
        .bind(EVENT_CHANNEL)
        .bind(EventId(Uuid::now_v7()))
        .bind(&new.integration.key)
        .bind(&new.integration.provider)
        .bind(new.kept_until)
        .bind(new.supersedes);
    if is_new {
        statement = statement
            .bind(connection.connector.id)
            .bind(&connection.instance_id)
            .bind(connection.created_at)
            .bind(most);
    } else {
        statement = statement.bind(read);
    }
    let context = Json(&transition.context);
    let done = statement.bind(context).execute(db).await?;
    if done.rows_affected() == 0 {
        return Ok(None);
    }
    one_row(done.rows_affected(), "connect_attempt", attempt.id.0)?;
    Ok(Some(connection))
}
