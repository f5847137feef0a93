//! Every SQL statement of the domain, and the rows behind the domain's types.
//!
//! Each function takes the connection of a transaction that the service owns.

mod attempts;
mod begin;
mod connectors;
mod deletions;
mod events;
mod figures;
mod jobs;
mod keys;
mod own;
mod parameters;
mod prune;
mod reads;
mod rows;
mod sweep;
mod uses;
mod writes;

use uuid::Uuid;

use super::events::{Message, MessageData};
use super::machine::Transition;
use super::shown::KnownAccount;
use super::{Attempt, Connection, Details, MessageType, Status};
use crate::auth::UserId;
use crate::connections::Transaction;

pub(in crate::connections) use attempts::*;
pub(in crate::connections) use begin::*;
pub(in crate::connections) use connectors::*;
pub(in crate::connections) use deletions::*;
pub(in crate::connections) use events::*;
pub(in crate::connections) use figures::*;
pub(in crate::connections) use jobs::*;
pub(in crate::connections) use keys::*;
pub(in crate::connections) use own::*;
pub(in crate::connections) use parameters::*;
pub(in crate::connections) use prune::*;
pub(in crate::connections) use reads::*;
pub(in crate::connections) use sweep::*;
pub(in crate::connections) use uses::*;

use rows::{Columns, newest_attempt_columns, select_connections, select_seen};
use writes::{bind_connection, update_connection};

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
    #[error("{table} {id} was read for a user whose it is not")]
    Foreign { table: &'static str, id: Uuid },
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
fn one_row(written: u64, table: &'static str, id: Uuid) -> sqlx::Result<()> {
    if written == 1 {
        Ok(())
    } else {
        Err(Corrupt::Lost { table, id }.into())
    }
}

/// Which of a user's connections are meant.
#[derive(Clone, Debug, Default)]
pub(in crate::connections) struct Filter {
    pub(in crate::connections) connector_id: Option<Uuid>,
    pub(in crate::connections) status: Option<Status>,
    /// Only those made before this one.
    pub(in crate::connections) before: Option<Uuid>,
}

/// One page of a user's connections, newest first.
pub(in crate::connections) async fn list(
    db: &mut Transaction,
    user: &UserId,
    filter: &Filter,
    limit: i64,
) -> sqlx::Result<Vec<SeenRow>> {
    let rows = sqlx::query(select_seen!(
        "user_connector_connection c \
         where c.user_id = $1 and ($2::uuid is null or c.connector_id = $2) \
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
    rows.into_iter()
        .map(|row| SeenRow::owned(row, user))
        .collect()
}

/// How many connections the filter lets through, on all pages.
pub(in crate::connections) async fn count(
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

/// The accounts that a user's connections are known to be of.
pub(in crate::connections) async fn accounts_of(
    db: &mut Transaction,
    user: &UserId,
) -> sqlx::Result<Vec<KnownAccount>> {
    let rows: Vec<(Uuid, Uuid, String)> = sqlx::query_as(
        "select id, connector_id, account_id from user_connector_connection \
         where user_id = $1 and account_id is not null and status <> 'disconnected'",
    )
    .bind(user.as_str())
    .fetch_all(db)
    .await?;
    let known = |(connection, connector, account_id)| KnownAccount {
        connection,
        connector,
        account_id,
    };
    Ok(rows.into_iter().map(known).collect())
}

/// Anybody's connection by our id.
pub(in crate::connections) async fn find_any(
    db: &mut Transaction,
    id: Uuid,
) -> sqlx::Result<Option<Connection>> {
    sqlx::query_as(select_connections!("where c.id = $1"))
        .bind(id)
        .fetch_optional(db)
        .await
}

/// A connection by Nango's id of it.
pub(in crate::connections) async fn find_upstream(
    db: &mut Transaction,
    nango_id: &str,
) -> sqlx::Result<Option<Connection>> {
    sqlx::query_as(select_connections!("where c.nango_connection_id = $1"))
        .bind(nango_id)
        .fetch_optional(db)
        .await
}

/// Deletes a connection with its attempts, its history, its uses and what was still to be told of it.
pub(in crate::connections) async fn delete(db: &mut Transaction, id: Uuid) -> sqlx::Result<()> {
    // Before the messages in them, as who sends locks them: neither waits for the other in a circle.
    sqlx::query("delete from webhook_queue where connection_id = $1")
        .bind(id)
        .execute(&mut *db)
        .await?;
    let done = sqlx::query("delete from user_connector_connection where id = $1")
        .bind(id)
        .execute(db)
        .await?;
    one_row(done.rows_affected(), "user_connector_connection", id)
}

/// A connection by our id, locked until the transaction ends.
pub(in crate::connections) async fn lock(
    db: &mut Transaction,
    id: Uuid,
) -> sqlx::Result<Option<Connection>> {
    sqlx::query_as(select_connections!("where c.id = $1 for update of c"))
        .bind(id)
        .fetch_optional(db)
        .await
}

/// Writes a change: the connection under its next version, its event, the attempt's end and what is to be deleted.
pub(in crate::connections) async fn apply(
    db: &mut Transaction,
    transition: &Transition,
    attempt: Option<Uuid>,
) -> sqlx::Result<Connection> {
    let connection = Connection {
        version: transition.connection.version + 1,
        ..transition.connection.clone()
    };
    // Before its connection, whose row then shows it.
    if let (Some(attempt), Some((outcome, failure))) = (attempt, &transition.outcome) {
        end_attempt(db, attempt, *outcome, failure.as_ref(), &connection).await?;
    }
    let newest = update(db, &connection).await?;
    let message = message(db, &connection, newest, transition).await?;
    insert_event(db, connection.id, transition, attempt, message.as_ref()).await?;
    if let Some(upstream) = &transition.discard {
        let key = &connection.connector.integration_key;
        delete_later(
            db,
            upstream,
            key,
            Some(connection.id),
            connection.updated_at,
        )
        .await?;
    }
    Ok(connection)
}

/// What webhooks tell of a change that has been written, if anything.
async fn message(
    db: &mut Transaction,
    connection: &Connection,
    newest: Option<Attempt>,
    transition: &Transition,
) -> sqlx::Result<Option<Message>> {
    let Some(kind) = MessageType::of(transition.event) else {
        return Ok(None);
    };
    let accounts = if connection.account.is_some() {
        accounts_of(db, &connection.user_id).await?
    } else {
        Vec::new()
    };
    let failure = transition.outcome.as_ref();
    let failure = failure.and_then(|(_, failure)| failure.as_ref());
    let reason = failure.map(|failure| failure.reason);
    Ok(Some(Message {
        kind,
        timestamp: connection.updated_at,
        data: MessageData {
            connection: Details::new(connection.clone(), newest, &accounts),
            version: connection.version,
            change: transition.event,
            reason: reason.or(connection.state.reason()),
        },
    }))
}

/// Writes a connection; its newest attempt, if it has one.
async fn update(db: &mut Transaction, connection: &Connection) -> sqlx::Result<Option<Attempt>> {
    let update = sqlx::query(concat!(
        update_connection!(),
        " returning ",
        newest_attempt_columns!(),
    ));
    let written = bind_connection(update, connection)
        .fetch_optional(db)
        .await?;
    let lost = || Corrupt::Lost {
        table: "user_connector_connection",
        id: connection.id,
    };
    Columns::of(&written.ok_or_else(lost)?, 0).newest_attempt(connection.id)
}
