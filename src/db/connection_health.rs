//! Detects dead database connections, whose state a firewall has dropped or whose server is gone. TCP reports them only
//! after a quarter of an hour, and never if the connection only listens; timeouts and pings detect them earlier.

use std::io;
use std::time::Duration;

use sqlx::Executor;
use sqlx::postgres::{
    PgConnectOptions, PgDatabaseError, PgListener, PgNotification, PgPoolOptions, PgSeverity,
};
use tokio::time::timeout;

/// The maximum duration of a transaction, from begin to commit, and of a batched read.
pub(crate) const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);

/// The timeout of a ping.
pub(crate) const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a listener receives nothing before it pings the server.
const IDLE_PING_INTERVAL: Duration = Duration::from_secs(10);

/// Runs a query with a timeout, after which the connection counts as lost.
///
/// # Errors
/// As the query, and on timeout.
pub(crate) async fn with_timeout<T>(
    within: Duration,
    query: impl Future<Output = sqlx::Result<T>>,
) -> sqlx::Result<T> {
    timeout(within, query)
        .await
        .unwrap_or_else(|_elapsed| Err(timed_out()))
}

/// Returns the error of a timeout.
pub(crate) fn timed_out() -> sqlx::Error {
    io::Error::from(io::ErrorKind::TimedOut).into()
}

/// A kind of failure that the statement did not cause: the same statement may succeed later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outage {
    /// The server does not respond, lacks resources, or was shut down by an operator.
    Unreachable,
    /// The server accepts no writes: it is a standby or a former primary.
    ReadOnly,
    /// Another transaction holds a lock or conflicts.
    Busy,
}

impl Outage {
    /// Classifies an error; `None` if the statement itself or its values were rejected.
    pub(crate) fn of(error: &sqlx::Error) -> Option<Self> {
        let code = match error {
            // A load balancer without a server closes accepted connections, which sqlx reports as a protocol error.
            sqlx::Error::Io(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed => return Some(Self::Unreachable),
            sqlx::Error::Database(error) => error.code()?,
            _ => return None,
        };
        match (&*code, &code[..2]) {
            // read_only_sql_transaction
            ("25006", _) => Some(Self::ReadOnly),
            // lock_not_available, query_canceled (by a timeout), serialization_failure, deadlock_detected
            ("55P03" | "57014" | "40001" | "40P01", _) => Some(Self::Busy),
            // idle_in_transaction_session_timeout
            ("25P03", _) => Some(Self::Unreachable),
            // invalid_catalog_name, undefined_table: the database is replaced or restored under running replicas.
            ("3D000" | "42P01", _) => Some(Self::Unreachable),
            // No connection, rejected login, insufficient resources, operator intervention, system error.
            (_, "08" | "28" | "53" | "57" | "58") => Some(Self::Unreachable),
            // The server ended or refused the session, such as in a database that admits no connections.
            _ => is_fatal(error).then_some(Self::Unreachable),
        }
    }
}

/// Returns whether the server ended or refused the session with this error.
fn is_fatal(error: &sqlx::Error) -> bool {
    let refused = error
        .as_database_error()
        .and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
    refused.is_some_and(|error| matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic))
}

/// Returns whether a connection can be reused after this error of a statement.
pub(crate) fn is_connection_usable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Encode(_) => true,
        sqlx::Error::Database(_) => {
            !is_fatal(error) && matches!(Outage::of(error), None | Some(Outage::Busy))
        }
        _ => false,
    }
}

/// Receives the notifications of the database on its own connection.
pub(crate) struct Listener(PgListener);

impl Listener {
    /// Starts to listen to a channel.
    ///
    /// # Errors
    /// When the server does not answer.
    pub(crate) async fn new(options: PgConnectOptions, channel: &str) -> sqlx::Result<Self> {
        let own = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(PING_TIMEOUT);
        let own = own.connect_lazy_with(options);
        let listening = async {
            let mut listener = PgListener::connect_with(&own).await?;
            listener.listen(channel).await?;
            Ok(Self(listener))
        };
        with_timeout(STATEMENT_TIMEOUT, listening).await
    }

    /// Waits for the next notification; `None` if some may have been missed.
    ///
    /// # Errors
    /// When the server does not answer.
    pub(crate) async fn next(&mut self) -> sqlx::Result<Option<PgNotification>> {
        loop {
            if let Ok(heard) = timeout(IDLE_PING_INTERVAL, self.0.try_recv()).await {
                return heard;
            }
            with_timeout(PING_TIMEOUT, self.0.execute("select 1")).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use sqlx::ConnectOptions;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn connection_closed_by_balancer_is_an_outage() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move { while listener.accept().await.is_ok() {} });
        let options = PgConnectOptions::new_without_pgpass();
        let refused = options.host("127.0.0.1").port(port).connect().await;
        let error = refused.unwrap_err();
        assert_eq!(Outage::of(&error), Some(Outage::Unreachable), "{error}");
    }
}
