//! Beginning to authorize a connection, in one statement.

use sqlx::types::Json;

use super::Transaction;
use chrono::{DateTime, Utc};

use super::events::{EVENT_CHANNEL, insert_event_cte};
use super::one_row;
use super::writes::{bind_connection, mutable_columns, mutable_values, update_connection};
use crate::domain::state_machine::Transition;
use crate::domain::{Attempt, Connection, MessageType};

/// A statement that writes a connection, its new attempt and its event.
///
/// The connection comes first: whoever writes an attempt has its connection locked. Then an attempt
/// that is open is superseded, for a connection has one at a time, the newest, which its row shows; a count makes
/// each wait for the one before.
macro_rules! insert_attempt {
    ($written:expr, context $context:literal) => {
        concat!(
            "with connection as (",
            $written,
            " returning c.id, c.user_id, c.version, c.status, c.status_reason, c.updated_at, \
                 c.attempt_id, c.attempt_outcome \
             ), superseded as ( \
               update connect_attempt a set outcome = 'superseded', ended_at = connection.updated_at from connection \
               where a.id = connection.attempt_id and connection.attempt_outcome is null returning 1 \
             ), attempt as ( \
               insert into connect_attempt (id, connection_id, kind, expires_at, created_at) \
               select $21, connection.id, $22, $23, connection.updated_at \
               from connection cross join (select count(*) from superseded) as first returning 1 \
             ), ",
            insert_event_cte!(
                of "(select connection.* from connection cross join attempt)",
                kind "$24", attempt "$21", detail "null", webhook "null", config "null", context $context
            ),
            " select pg_notify($25, user_id) from event",
        )
    };
}

/// How many connections a user may have, those that have ended included. Whatever reads all of a user's reads no more.
pub(crate) const MAX_CONNECTIONS_PER_USER: i64 = 500;

/// Begins an attempt, if the connection is still as it was read: of the version before, and last changed at `read`. Makes
/// it, if it is not there yet. Where somebody else was faster, or its user has [`MAX_CONNECTIONS_PER_USER`] already, nothing is written, and
/// there is no answer.
pub(crate) async fn start_attempt(
    db: &mut Transaction,
    transition: &Transition,
    attempt: &Attempt,
    read: DateTime<Utc>,
) -> sqlx::Result<Option<Connection>> {
    let connection = Connection {
        version: transition.connection.version + 1,
        ..transition.connection.clone()
    };
    debug_assert!(
        MessageType::of(transition.event).is_none(),
        "endpoints are told of no beginning"
    );
    let is_new = connection.version == 1;
    let statement = sqlx::query(if is_new {
        insert_attempt!(concat!(
            "insert into user_connector_connection as c (id, user_id, connector_id, instance_id, created_at, ",
            mutable_columns!(),
            ") select $1, $26, $27, $28, $29, ",
            mutable_values!(config "$10", checked "$20"),
            " where (select count(*) from user_connector_connection where user_id = $26) < $30 \
             on conflict on constraint user_connector_connection_instance_key do nothing",
        ), context "$31")
    } else {
        insert_attempt!(concat!(update_connection!(), " and c.updated_at = $26"), context "$27")
    });
    let mut statement = bind_connection(statement, &connection)
        .bind(attempt.id)
        .bind(attempt.kind.as_str())
        .bind(attempt.expires_at)
        .bind(transition.event.as_str())
        .bind(EVENT_CHANNEL);
    if is_new {
        statement = statement
            .bind(connection.user_id.as_str())
            .bind(connection.connector.id)
            .bind(&connection.instance_id)
            .bind(connection.created_at)
            .bind(MAX_CONNECTIONS_PER_USER);
    } else {
        statement = statement.bind(read);
    }
    let context = Json(&transition.context);
    let done = statement.bind(context).execute(db).await?;
    if done.rows_affected() == 0 {
        return Ok(None);
    }
    one_row(done.rows_affected(), "connect_attempt", attempt.id)?;
    Ok(Some(connection))
}
