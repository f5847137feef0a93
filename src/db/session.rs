//! The settings of sessions and transactions, which do not depend on defaults of the server, the database or the role.

use std::fmt::Write;
use std::sync::Arc;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row, SqlSafeStr, SqlStr};

/// The lock timeout, in milliseconds.
const LOCK_TIMEOUT_MS: u32 = 4_000;

/// The statement timeout of the server, in milliseconds: less than [`super::connection_health::STATEMENT_TIMEOUT`], so
/// that its error arrives and the connection remains usable.
const STATEMENT_TIMEOUT_MS: u32 = 8_000;

/// The timeout of a transaction in which no statement runs, in milliseconds. A frozen or disconnected replica then
/// loses its locks.
const IDLE_TRANSACTION_TIMEOUT_MS: u32 = 15_000;

/// How soon the server detects a disconnected client, during a statement and while waiting for the next. Older servers
/// lack some of these settings.
const GONE_CLIENT_SETTINGS: [(&str, &str); 5] = [
    ("client_connection_check_interval", "2000"),
    ("tcp_keepalives_count", "3"),
    ("tcp_keepalives_idle", "15"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_user_timeout", "20000"),
];

/// The statements that set up sessions and begin transactions.
#[derive(Clone, Debug)]
pub(crate) struct SessionSetup {
    session: Arc<str>,
    begin: Arc<str>,
    begin_snapshot: Arc<str>,
}

impl SessionSetup {
    /// Builds the statements. Behind a transaction-mode pooler (`per_transaction`), they set up transactions instead of
    /// sessions. `settings` are those of the database's URL, by name.
    pub(crate) fn new(settings: &[(String, String)], per_transaction: bool) -> Self {
        let timeouts = [
            ("lock_timeout", LOCK_TIMEOUT_MS.to_string()),
            ("statement_timeout", STATEMENT_TIMEOUT_MS.to_string()),
            (
                "idle_in_transaction_session_timeout",
                IDLE_TRANSACTION_TIMEOUT_MS.to_string(),
            ),
        ];
        let all: Vec<(&str, &str)> = (settings.iter().map(|(name, value)| (&**name, &**value)))
            .chain(timeouts.iter().map(|(name, value)| (*name, &**value)))
            .collect();
        let mut session = String::new();
        let mut local = String::new();
        if per_transaction {
            local = format!("; select {}", set_config(&all, true));
        } else {
            session = format!(
                "select {}; ",
                set_config(
                    &[
                        &all[..],
                        &[("default_transaction_isolation", "read committed")]
                    ]
                    .concat(),
                    false
                )
            );
            for (name, value) in GONE_CLIENT_SETTINGS {
                // Writing to a `String` does not fail.
                let _ = write!(
                    session,
                    "select set_config(name, '{value}', false) from pg_settings where name = '{name}'; "
                );
            }
        }
        session.push_str("show transaction_read_only");
        Self {
            session: session.into(),
            begin: format!("begin isolation level read committed{local}").into(),
            begin_snapshot: format!("begin isolation level repeatable read, read only{local}")
                .into(),
        }
    }

    /// Begins a transaction.
    pub(crate) fn begin(&self) -> SqlStr {
        AssertSqlSafe(self.begin.clone()).into_sql_str()
    }

    /// Begins a read-only transaction, whose statements all see the same snapshot.
    pub(crate) fn begin_snapshot(&self) -> SqlStr {
        AssertSqlSafe(self.begin_snapshot.clone()).into_sql_str()
    }

    /// Sets up a new session. Returns whether it can write.
    ///
    /// # Errors
    /// If the server does not answer, or rejects a setting of the database's URL.
    pub(crate) async fn apply(&self, connection: &mut PgConnection) -> sqlx::Result<bool> {
        is_on(
            connection,
            AssertSqlSafe(self.session.clone()).into_sql_str(),
        )
        .await
    }
}

/// Returns whether a session can write: its server is not a standby, and sessions are not read-only by default.
///
/// # Errors
/// If the server does not answer.
pub(crate) async fn can_write(connection: &mut PgConnection) -> sqlx::Result<bool> {
    is_on(connection, "show transaction_read_only".into_sql_str()).await
}

/// Runs statements by the simple protocol. Returns whether the last one returned `off`, which means that the session
/// can write.
async fn is_on(connection: &mut PgConnection, statements: SqlStr) -> sqlx::Result<bool> {
    let rows = sqlx::raw_sql(statements).fetch_all(connection).await?;
    let last = rows.last().ok_or(sqlx::Error::RowNotFound)?;
    Ok(last.try_get::<&str, _>(0)? == "off")
}

/// Returns the `set_config` calls of these settings, separated by commas.
fn set_config(settings: &[(&str, &str)], local: bool) -> String {
    let calls: Vec<String> = settings
        .iter()
        .map(|(name, value)| format!("set_config({}, {}, {local})", literal(name), literal(value)))
        .collect();
    calls.join(", ")
}

/// Returns a string constant that is valid for any `standard_conforming_strings`.
fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}
