//! What each session and each transaction is set to, whatever the server's, the database's or the role's defaults are.

use std::fmt::Write;
use std::sync::Arc;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row, SqlSafeStr, SqlStr};

/// How long a statement waits for another transaction's lock, in milliseconds.
const LOCK_TIMEOUT_MS: u32 = 4_000;

/// How long the server works on a statement, in milliseconds: less than [`super::connection_health::STATEMENT_TIMEOUT`], so that
/// its error arrives and the connection remains usable.
const STATEMENT_TIMEOUT_MS: u32 = 8_000;

/// How long the server keeps a transaction in which no statement runs, in milliseconds. A replica that is frozen or cut off
/// then loses its locks.
const IDLE_TRANSACTION_TIMEOUT_MS: u32 = 15_000;

/// How soon the server notices that its client is gone: while a statement runs, and while it waits for the next. Older
/// servers do not have all of these.
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
    /// Behind a pooler that switches servers, transactions are set up instead of sessions. `settings` are those of the
    /// database's URL, by name.
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

    /// Begins a transaction that reads only, and sees one moment however many statements it has.
    pub(crate) fn begin_snapshot(&self) -> SqlStr {
        AssertSqlSafe(self.begin_snapshot.clone()).into_sql_str()
    }

    /// Sets up a new session. Returns whether it can write.
    ///
    /// # Errors
    /// When the server does not answer, or refuses a setting of the database's URL.
    pub(crate) async fn apply(&self, connection: &mut PgConnection) -> sqlx::Result<bool> {
        is_on(
            connection,
            AssertSqlSafe(self.session.clone()).into_sql_str(),
        )
        .await
    }
}

/// Returns whether a session can write: its server is no standby, and its default is not to read only.
///
/// # Errors
/// When the server does not answer.
pub(crate) async fn can_write(connection: &mut PgConnection) -> sqlx::Result<bool> {
    is_on(connection, "show transaction_read_only".into_sql_str()).await
}

/// Runs statements by the simple protocol, of which the last says `off` where the session can write.
async fn is_on(connection: &mut PgConnection, statements: SqlStr) -> sqlx::Result<bool> {
    let rows = sqlx::raw_sql(statements).fetch_all(connection).await?;
    let last = rows.last().ok_or(sqlx::Error::RowNotFound)?;
    Ok(last.try_get::<&str, _>(0)? == "off")
}

/// The calls that set these, with commas between.
fn set_config(settings: &[(&str, &str)], local: bool) -> String {
    let calls: Vec<String> = settings
        .iter()
        .map(|(name, value)| format!("set_config({}, {}, {local})", literal(name), literal(value)))
        .collect();
    calls.join(", ")
}

/// A string constant, whatever `standard_conforming_strings` is.
fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}
