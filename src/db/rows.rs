//! Converts rows to the domain's types.
//!
//! Columns are read by position, in the order of the selects of this module: in a list, look-ups by name took as long
//! as the rest.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{Decode, FromRow, Postgres, Row, Type};
use uuid::Uuid;

use super::{AttemptWithConnection, RowError, invalid_row};
use crate::domain::UserId;
use crate::domain::{
    Account, AccountDetails, Attempt, AttemptId, Connection, ConnectionId, ConnectorId,
    ConnectorRef, Event, EventContext, Failure, Integration, NangoConnectionRef, State, Status,
};

/// The columns of a connection, `c`.
///
/// All selects name their columns. A prepared `select *` fails in a running replica when a newer version's migration
/// adds a column.
macro_rules! connection_columns {
    () => {
        "c.id, c.connector_id, c.user_id, c.instance_id, c.label, c.nango_connection_id, \
         c.nango_created_at, c.nango_serial, c.integration_key, c.provider, c.status, c.status_reason, c.connected_at, c.disconnected_at, \
         c.last_synced_at, c.last_checked_at, c.config, c.account_id, c.account_name, \
         c.pending_account_id, c.pending_account_name, c.failing_since, c.refusals, c.absences, \
         c.last_error, c.error_count, c.version, c.created_at, c.updated_at, c.account_details, \
         c.pending_account_details, c.account_unknown_reason, c.scopes, c.missing_scopes"
    };
}

/// The columns of a connection after those of its connector, `k`.
macro_rules! named_connection_columns {
    () => {
        concat!(
            "k.id, k.slug, k.name, ",
            crate::db::rows::connection_columns!()
        )
    };
}

/// A select of connections with the names of their connectors; the caller appends the rest.
macro_rules! select_connections {
    ($rest:literal) => {
        concat!(
            "select ",
            crate::db::rows::named_connection_columns!(),
            " from user_connector_connection c join connector k on k.id = c.connector_id ",
            $rest
        )
    };
}

/// The columns of an attempt, `a`.
macro_rules! attempt_columns {
    () => {
        "a.connection_id, a.id, a.kind, a.expires_at, a.outcome, a.error_code, a.error_message, a.invalidated, \
         case when a.browser_token_hash is not null then a.returned_at is not null end, a.created_at, a.ended_at"
    };
}

/// A select of attempts, each after the connection that it is to authorize; the caller appends the rest.
macro_rules! select_attempts_with_connection {
    ($rest:literal) => {
        concat!(
            "select ",
            crate::db::rows::named_connection_columns!(),
            ", ",
            crate::db::rows::attempt_columns!(),
            ", a.integration_key, a.provider from connect_attempt a \
              join user_connector_connection c on c.user_id = a.user_id and c.id = a.connection_id \
              join connector k on k.id = c.connector_id ",
            $rest
        )
    };
}

/// The positions of the user's id and the attempt's id in [`select_attempts_with_connection`].
pub(crate) const ATTEMPTED_USER: usize = 5;
pub(crate) const ATTEMPT_ID: usize = 38;

/// The columns of the newest attempt, as copied in the row of its connection, `c`.
macro_rules! newest_attempt_columns {
    () => {
        "c.attempt_id, c.attempt_kind, c.attempt_expires_at, c.attempt_outcome, c.attempt_error_code, \
         c.attempt_error_message, c.attempt_invalidated, c.attempt_returned, c.attempt_created_at, c.attempt_ended_at"
    };
}

/// A select of connections with their newest attempt, from `$from`, which defines `c`.
macro_rules! select_with_attempt {
    ($from:literal) => {
        concat!(
            "select ",
            crate::db::rows::connection_columns!(),
            ", ",
            crate::db::rows::newest_attempt_columns!(),
            " from ",
            $from,
        )
    };
}

/// The columns of an event, `e`.
macro_rules! event_columns {
    () => {
        "e.id, e.position, e.connection_id, e.version, e.kind, e.status, e.status_reason, e.attempt_id, \
         e.detail, e.created_at, e.context"
    };
}

pub(crate) use {
    attempt_columns, connection_columns, event_columns, named_connection_columns,
    newest_attempt_columns, select_attempts_with_connection, select_connections,
    select_with_attempt,
};

/// Reads the columns of a row in order.
pub(crate) struct RowReader<'r> {
    row: &'r PgRow,
    next: usize,
}

impl<'r> RowReader<'r> {
    /// Starts at this column.
    pub(crate) fn of(row: &'r PgRow, first: usize) -> Self {
        Self { row, next: first }
    }

    pub(crate) fn next<T>(&mut self) -> sqlx::Result<T>
    where
        T: Decode<'r, Postgres> + Type<Postgres>,
    {
        let value = catch_decode_panic(|| self.row.try_get(self.next))?;
        self.next += 1;
        Ok(value)
    }

    /// Parses a column with the name of a domain value.
    fn parse_column<T>(&mut self, table: &'static str, id: Uuid) -> sqlx::Result<T>
    where
        T: FromStr,
    {
        parse_value(self.next()?, table, id)
    }

    fn parse_optional_column<T>(&mut self, table: &'static str, id: Uuid) -> sqlx::Result<Option<T>>
    where
        T: FromStr,
    {
        let word: Option<&str> = self.next()?;
        word.map(|word| parse_value(word, table, id)).transpose()
    }

    fn account(&mut self) -> sqlx::Result<Option<Account>> {
        let (id, name): (Option<String>, _) = (self.next()?, self.next()?);
        Ok(id.map(|id| Account {
            id,
            name,
            details: AccountDetails::default(),
        }))
    }

    /// Reads a connection from [`connection_columns`]. The caller supplies its connector.
    pub(crate) fn connection(&mut self, connector: Arc<ConnectorRef>) -> sqlx::Result<Connection> {
        const TABLE: &str = "user_connector_connection";
        let id: ConnectionId = self.next()?;
        let wrong = |detail: &dyn ToString| invalid_row(TABLE, id.0, detail);
        let _connector_id: ConnectorId = self.next()?;
        let user_id: String = self.next()?;
        let (instance_id, label) = (self.next()?, self.next()?);
        let upstream = self.upstream(&wrong)?;
        let (status, reason) = (
            self.parse_column(TABLE, id.0)?,
            self.parse_optional_column(TABLE, id.0)?,
        );
        let state = match (status, reason, upstream) {
            (Status::Pending, _, previous) => State::Pending { previous },
            (Status::Connected, None, Some(upstream)) => State::Connected { upstream },
            (Status::Disconnected, Some(reason), None) => State::Disconnected { reason },
            (Status::Error, Some(reason), upstream) => State::Error { reason, upstream },
            _ => {
                let status = status.as_str();
                return Err(wrong(&format!("status {status} with reason {reason:?}")).into());
            }
        };
        let mut connection = Connection {
            id,
            user_id: UserId::try_from(user_id).map_err(|error| wrong(&error))?,
            connector,
            instance_id,
            label,
            state,
            connected_at: self.next()?,
            disconnected_at: self.next()?,
            last_synced_at: self.next()?,
            last_checked_at: self.next()?,
            config: self.next::<Json<_>>()?.0,
            account: self.account()?,
            pending_account: self.account()?,
            account_unknown_reason: None,
            scopes: None,
            missing_scopes: None,
            failing_since: self.next()?,
            refusals: self.next()?,
            absences: self.next()?,
            last_error: self.next()?,
            error_count: self.next()?,
            version: self.next()?,
            created_at: self.next()?,
            updated_at: self.next()?,
        };
        self.identity(&mut connection)?;
        Ok(connection)
    }

    /// Reads the columns of the accounts and the scopes, which follow the others.
    fn identity(&mut self, connection: &mut Connection) -> sqlx::Result<()> {
        for account in [&mut connection.account, &mut connection.pending_account] {
            let details: Option<Json<AccountDetails>> = self.next()?;
            if let (Some(account), Some(Json(details))) = (account, details) {
                account.details = details;
            }
        }
        connection.account_unknown_reason =
            self.parse_optional_column("user_connector_connection", connection.id.0)?;
        connection.scopes = self.next()?;
        connection.missing_scopes = self.next()?;
        Ok(())
    }

    /// Reads the reference to the connection at Nango, if there is one.
    fn upstream(
        &mut self,
        wrong: &impl Fn(&dyn ToString) -> RowError,
    ) -> sqlx::Result<Option<NangoConnectionRef>> {
        let (id, created_at, serial): (Option<String>, _, _) =
            (self.next()?, self.next()?, self.next()?);
        match (id, created_at, self.integration()?) {
            (Some(id), Some(created_at), Some(integration)) => Ok(Some(NangoConnectionRef {
                id,
                created_at,
                serial,
                integration,
            })),
            (None, None, None) => Ok(None),
            _ => Err(wrong(&"an incomplete reference to Nango").into()),
        }
    }

    fn integration(&mut self) -> sqlx::Result<Option<Integration>> {
        let (key, provider): (Option<String>, _) = (self.next()?, self.next()?);
        Ok(key.map(|key| Integration { key, provider }))
    }

    /// Reads a connection from [`select_connections`].
    fn named_connection(&mut self) -> sqlx::Result<Connection> {
        let connector = ConnectorRef {
            id: self.next()?,
            slug: self.next()?,
            name: self.next()?,
        };
        self.connection(Arc::new(connector))
    }

    /// Reads an attempt from [`attempt_columns`], or from a connection's id and [`newest_attempt_columns`].
    fn attempt(&mut self) -> sqlx::Result<Attempt> {
        let connection_id = self.next()?;
        let id = self.next()?;
        self.attempt_fields(connection_id, id)
    }

    /// Reads a connection's newest attempt from [`newest_attempt_columns`], if it has one.
    pub(crate) fn newest_attempt(
        &mut self,
        connection_id: ConnectionId,
    ) -> sqlx::Result<Option<Attempt>> {
        let id: Option<AttemptId> = self.next()?;
        id.map(|id| self.attempt_fields(connection_id, id))
            .transpose()
    }

    fn attempt_fields(
        &mut self,
        connection_id: ConnectionId,
        id: AttemptId,
    ) -> sqlx::Result<Attempt> {
        const TABLE: &str = "connect_attempt";
        let (kind, expires_at) = (self.parse_column(TABLE, id.0)?, self.next()?);
        let outcome = self.parse_optional_column(TABLE, id.0)?;
        let (reason, message): (_, Option<String>) =
            (self.parse_optional_column(TABLE, id.0)?, self.next()?);
        let error = reason.map(|reason| Failure {
            reason,
            message: message.unwrap_or_default(),
        });
        Ok(Attempt {
            id,
            connection_id,
            kind,
            expires_at,
            outcome,
            error,
            invalidated: self.next()?,
            returned: self.next()?,
            created_at: self.next()?,
            ended_at: self.next()?,
        })
    }

    /// Reads an event from [`event_columns`].
    pub(crate) fn event(&mut self) -> sqlx::Result<Event> {
        const TABLE: &str = "connection_event";
        let (id, position) = (self.next()?, self.next()?);
        let connection_id: ConnectionId = self.next()?;
        let version = self.next()?;
        let kind = self.parse_column(TABLE, connection_id.0)?;
        let status = self.parse_column(TABLE, connection_id.0)?;
        let status_reason = self.parse_optional_column(TABLE, connection_id.0)?;
        let (attempt_id, detail) = (self.next()?, self.next()?);
        let created_at = self.next::<DateTime<Utc>>()?;
        let Json(context) = self.next::<Json<EventContext>>()?;
        Ok(Event {
            id,
            position,
            connection_id,
            version,
            kind,
            status,
            status_reason,
            attempt_id,
            detail,
            actor: context.actor,
            account: context.account,
            rename: context.rename,
            created_at,
        })
    }
}

/// Turns a panic into an error. chrono panics at times beyond its range, such as `infinity`.
pub(crate) fn catch_decode_panic<T>(decode: impl FnOnce() -> sqlx::Result<T>) -> sqlx::Result<T> {
    let decoded = catch_unwind(AssertUnwindSafe(decode));
    decoded.unwrap_or_else(|_panic| Err(sqlx::Error::Decode("a value is out of range".into())))
}

/// The number of rows that were skipped because they cannot be read.
static UNREADABLE_ROWS: AtomicU64 = AtomicU64::new(0);

/// Returns how many rows this process has skipped because they cannot be read.
pub(crate) fn unreadable_rows() -> u64 {
    UNREADABLE_ROWS.load(Ordering::Relaxed)
}

/// Logs and counts a row that is skipped because it cannot be read.
pub(crate) fn note_unreadable_row(table: &str, id: &str, error: &sqlx::Error) {
    UNREADABLE_ROWS.fetch_add(1, Ordering::Relaxed);
    tracing::error!(table, id, %error, "skipped a row that cannot be read: correct or delete it");
}

/// A row that may be unreadable. The other rows are read nevertheless.
pub(crate) struct Readable<T>(Result<T, (String, sqlx::Error)>);

impl<'r, T: FromRow<'r, PgRow>> FromRow<'r, PgRow> for Readable<T> {
    fn from_row(row: &'r PgRow) -> sqlx::Result<Self> {
        let read = catch_decode_panic(|| T::from_row(row));
        Ok(Self(read.map_err(|error| (name_of(row), error))))
    }
}

/// Returns the first column that identifies a row in a log.
pub(crate) fn name_of(row: &PgRow) -> String {
    let uuid = |column| row.try_get::<Uuid, _>(column).map(|id| id.to_string());
    let text = |column| row.try_get::<String, _>(column);
    let number = |column| row.try_get::<i64, _>(column).map(|id| id.to_string());
    let mut names = ["id", "attempt_id", "connection_id", "prefix"].into_iter();
    let name = names.find_map(|it| uuid(it).or(text(it)).or(number(it)).ok());
    name.unwrap_or_default()
}

/// Returns the rows of a table that can be read. The others are logged with their ids, and counted.
pub(crate) fn readable<T>(table: &str, rows: Vec<Readable<T>>) -> Vec<T> {
    let read = |Readable(row): Readable<T>| {
        row.inspect_err(|(id, error)| note_unreadable_row(table, id, error))
            .ok()
    };
    rows.into_iter().filter_map(read).collect()
}

fn parse_value<T>(word: &str, table: &'static str, id: Uuid) -> sqlx::Result<T>
where
    T: FromStr,
{
    let unknown = |_unknown| RowError::Invalid {
        table,
        id,
        detail: format!("{word:?} is not a known value"),
    };
    Ok(word.parse().map_err(unknown)?)
}

/// Reads a row of [`select_connections`].
impl FromRow<'_, PgRow> for Connection {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        RowReader::of(row, 0).named_connection()
    }
}

/// Reads a row of a connection's id and [`newest_attempt_columns`].
impl FromRow<'_, PgRow> for Attempt {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        RowReader::of(row, 0).attempt()
    }
}

/// Reads a row of [`select_attempts_with_connection`].
impl FromRow<'_, PgRow> for AttemptWithConnection {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        let mut columns = RowReader::of(row, 0);
        let connection = columns.named_connection()?;
        let attempt = columns.attempt()?;
        let integration = columns.integration()?;
        Ok(Self {
            integration: integration
                .ok_or_else(|| invalid_row("connect_attempt", attempt.id.0, &"no integration"))?,
            connection,
            attempt,
        })
    }
}

/// Reads a row of [`event_columns`].
impl FromRow<'_, PgRow> for Event {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        RowReader::of(row, 0).event()
    }
}

impl FromRow<'_, PgRow> for ConnectorRef {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            id: row.try_get("id")?,
            slug: row.try_get("slug")?,
            name: row.try_get("name")?,
        })
    }
}
