//! Connections of one user, and the write of a transition with its event.

use super::Transaction;
use crate::domain::UserId;
use crate::domain::state_machine::Transition;
use crate::domain::{
    Attempt, AttemptId, Connection, ConnectionId, ConnectorId, DeletionReason, EventKind,
    MessageType,
};
use crate::views::AccountRef;
use crate::views::ConnectionView;
use crate::views::{Message, MessageData};
use sqlx::PgExecutor;

use super::account_lookups::{changes_identity, write_identity};
use super::attempts::{AttemptEnd, bind_attempt_end, end_attempt};
use super::reads::ConnectionWithAttemptRow;
use super::rows::{RowReader, newest_attempt_columns, select_connections, select_with_attempt};
use super::writes::{bind_connection, mutable_columns, mutable_values, update_connection};
use super::{RowError, insert_event, one_row, queue_deletion};

/// Returns all of a user's connections, or those of one connector, newest first.
pub(crate) async fn list(
    db: impl PgExecutor<'_>,
    user: &UserId,
    connector: Option<ConnectorId>,
) -> sqlx::Result<Vec<ConnectionWithAttemptRow>> {
    let rows = sqlx::query(select_with_attempt!(
        "user_connector_connection c \
         where c.user_id = $1 and ($2::uuid is null or c.connector_id = $2) \
         order by c.id desc"
    ))
    .bind(user.as_str())
    .bind(connector)
    .fetch_all(db)
    .await?;
    rows.into_iter()
        .map(|row| ConnectionWithAttemptRow::owned(row, user))
        .collect()
}

/// Returns the number of a user's connections.
pub(crate) async fn count(db: impl PgExecutor<'_>, user: &UserId) -> sqlx::Result<i64> {
    sqlx::query_scalar("select count(*) from user_connector_connection where user_id = $1")
        .bind(user.as_str())
        .fetch_one(db)
        .await
}

/// Returns the known accounts of a user's connections.
pub(crate) async fn accounts_of(
    db: &mut Transaction,
    user: &UserId,
) -> sqlx::Result<Vec<AccountRef>> {
    let rows: Vec<(ConnectionId, ConnectorId, String)> = sqlx::query_as(
        "select id, connector_id, account_id from user_connector_connection \
         where user_id = $1 and account_id is not null and nango_connection_id is not null",
    )
    .bind(user.as_str())
    .fetch_all(db)
    .await?;
    let known = |(connection, connector, account_id)| AccountRef {
        connection,
        connector,
        account_id,
    };
    Ok(rows.into_iter().map(known).collect())
}

/// Finds a connection of any user by its Nango id, where the caller has no user: the sweep, a webhook of an imported
/// connection without tags, or the popup's page.
pub(crate) async fn find_by_nango_id(
    db: impl PgExecutor<'_>,
    nango_id: &str,
) -> sqlx::Result<Option<Connection>> {
    sqlx::query_as(select_connections!("where c.nango_connection_id = $1"))
        .bind(nango_id)
        .fetch_optional(db)
        .await
}

/// Returns whether a write failed because another row of the user has the same connection at Nango.
pub(crate) fn is_used_by_other_row(error: &sqlx::Error) -> bool {
    let constraint = error
        .as_database_error()
        .and_then(|error| error.constraint());
    // A shard's constraint has a suffix.
    constraint.is_some_and(|name| name.starts_with("user_connector_connection_nango_key"))
}

/// Writes a change: the connection with its next version, its event, the attempt's end and the queued deletions.
pub(crate) async fn apply(
    db: &mut Transaction,
    transition: &Transition,
    attempt: Option<AttemptId>,
) -> sqlx::Result<Connection> {
    let connection = Connection {
        version: transition.connection.version + 1,
        ..transition.connection.clone()
    };
    let end = attempt.zip(transition.outcome.as_ref());
    let end = end.map(|(attempt, (outcome, failure))| AttemptEnd {
        attempt,
        outcome: *outcome,
        failure: failure.as_ref(),
    });
    let kind = MessageType::of(transition.event);
    let (newest, wanted) = update(db, &connection, end, kind).await?;
    if changes_identity(transition.event) {
        write_identity(db, &connection).await?;
    }
    let message = match kind.zip(wanted) {
        Some(wanted) => Some(queue_message(db, &connection, newest, transition, wanted).await?),
        None => None,
    };
    insert_event(db, &connection, transition, attempt, message.as_ref()).await?;
    if let Some(upstream) = &transition.discard {
        let reason = match transition.event {
            EventKind::Disconnected => DeletionReason::Disconnected,
            _ => DeletionReason::Replaced,
        };
        let (user, id) = (Some(&connection.user_id), Some(connection.id));
        queue_deletion(db, upstream, reason, user, id, connection.updated_at).await?;
    }
    Ok(connection)
}

/// Writes a connection that an operator restores, and its event. `None` if the user already has another one in its
/// place.
pub(crate) async fn insert_restored(
    db: &mut Transaction,
    transition: &Transition,
) -> sqlx::Result<Option<Connection>> {
    let connection = Connection {
        version: 1,
        ..transition.connection.clone()
    };
    let insert = sqlx::query(concat!(
        "insert into user_connector_connection (user_id, id, connector_id, instance_id, created_at, ",
        mutable_columns!(),
        ") values ($23, $1, $24, $25, $26, ",
        mutable_values!(config "$10", checked "$22"),
        ") on conflict do nothing"
    ));
    let inserted = bind_connection(insert, &connection)
        .bind(connection.connector.id)
        .bind(&connection.instance_id)
        .bind(connection.created_at)
        .execute(&mut *db)
        .await?;
    if inserted.rows_affected() == 0 {
        return Ok(None);
    }
    let message = match MessageType::of(transition.event) {
        Some(kind) => {
            let with_config: Option<bool> = sqlx::query_scalar(
                "select bool_or(with_config) from webhook_endpoint where events = '{}' or $1 = any(events)",
            )
            .bind(kind.as_str())
            .fetch_one(&mut *db)
            .await?;
            let wanted = (kind, with_config.unwrap_or_default());
            Some(queue_message(db, &connection, None, transition, wanted).await?)
        }
        None => None,
    };
    insert_event(db, &connection, transition, None, message.as_ref()).await?;
    Ok(Some(connection))
}

/// Builds the webhook message of a written change, with the connection's config if an endpoint asks for it.
async fn queue_message(
    db: &mut Transaction,
    connection: &Connection,
    newest: Option<Attempt>,
    transition: &Transition,
    (kind, with_config): (MessageType, bool),
) -> sqlx::Result<Message> {
    let accounts = if connection.account.is_some() {
        accounts_of(db, &connection.user_id).await?
    } else {
        Vec::new()
    };
    let failure = transition.outcome.as_ref();
    let failure = failure.and_then(|(_, failure)| failure.as_ref());
    let reason = failure.map(|failure| failure.reason);
    let details = ConnectionView::new(connection.clone(), newest, &accounts);
    let config = with_config.then(|| details.config()).transpose();
    Ok(Message {
        config: config.map_err(|error| sqlx::Error::Encode(Box::new(error)))?,
        kind,
        timestamp: connection.updated_at,
        data: MessageData {
            connection: details,
            change: transition.event,
            reason: reason.or(connection.state.reason()),
        },
    })
}

/// The `returning` clause of a connection's update: the number of ended attempts, whether an endpoint that wants a
/// message of the type `$message` requests configs (null if no endpoint wants it), and the newest attempt.
macro_rules! returning {
    (ended $ended:literal, message $message:literal) => {
        concat!(
            " returning ",
            $ended,
            ", (select bool_or(with_config) from webhook_endpoint \
                 where ",
            $message,
            "::text is not null and (events = '{}' or ",
            $message,
            " = any(events))), ",
            newest_attempt_columns!()
        )
    };
}

/// Writes a connection, and the end of an attempt if one ended. Returns its newest attempt, if it has one; and, if an
/// endpoint wants a message of this type, whether one of them requests configs.
async fn update(
    db: &mut Transaction,
    connection: &Connection,
    end: Option<AttemptEnd<'_>>,
    message: Option<MessageType>,
) -> sqlx::Result<(Option<Attempt>, Option<bool>)> {
    let written = match &end {
        None => {
            let update = concat!(
                update_connection!("", ""),
                returning!(ended "1::bigint", message "$24")
            );
            bind_connection(sqlx::query(update), connection)
        }
        Some(end) => {
            let update = concat!(
                end_attempt!(),
                returning!(ended "(select count(*) from ended)", message "$29")
            );
            let update = bind_connection(sqlx::query(update), connection);
            bind_attempt_end(update, connection, end)
        }
    };
    let written = written
        .bind(message.map(MessageType::as_str))
        .fetch_optional(db)
        .await?;
    let lost = || RowError::NotUpdated {
        table: "user_connector_connection",
        id: connection.id.0,
    };
    let written = written.ok_or_else(lost)?;
    let mut columns = RowReader::of(&written, 0);
    let ended: i64 = columns.next()?;
    if let Some(end) = end {
        one_row(ended.unsigned_abs(), "connect_attempt", end.attempt.0)?;
    }
    let wanted = columns.next()?;
    Ok((columns.newest_attempt(connection.id)?, wanted))
}
