//! Connections to the database that may die without a word: a firewall forgets them, or their server is gone. TCP
//! tells it a quarter of an hour later, or, to whoever only listens, never; nobody here waits for that.

use std::io;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgListener, PgNotification, PgPoolOptions};
use sqlx::{Executor, PgConnection, Postgres};
use tokio::time::timeout;

/// How long an answer may take, the wait for a connection included.
pub(crate) const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a server may take to answer what costs it nothing.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// For how long nothing is announced before it is asked whether anybody is still there to announce it.
const IDLE_PING_INTERVAL: Duration = Duration::from_secs(10);

/// What is answered within this time; then it counts as lost.
///
/// # Errors
/// As what is waited for, and when it takes too long.
pub(crate) async fn with_timeout<T>(
    within: Duration,
    asked: impl Future<Output = sqlx::Result<T>>,
) -> sqlx::Result<T> {
    timeout(within, asked)
        .await
        .unwrap_or_else(|_elapsed| Err(io::Error::from(io::ErrorKind::TimedOut).into()))
}

/// Whether the database itself is out of order, whatever it was asked.
pub(crate) fn is_unreachable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed => true,
        // Classes 08, 53 and 57: no connection, no resources, an operator's intervention.
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            ["08", "53", "57"]
                .iter()
                .any(|class| code.starts_with(class))
        }),
        _ => false,
    }
}

/// A connection of the pool's, whose place there is free again even if its server never answers.
#[derive(Debug)]
pub(crate) struct PooledConnection(PoolConnection<Postgres>);

impl PooledConnection {
    pub(crate) fn new(connection: PoolConnection<Postgres>) -> Self {
        Self(connection)
    }
}

impl Deref for PooledConnection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.0
    }
}

impl DerefMut for PooledConnection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.0
    }
}

impl Drop for PooledConnection {
    fn drop(&mut self) {
        // As sqlx gives it back, which first asks whether it still works, and waits for as long as that takes.
        tokio::spawn(timeout(PING_TIMEOUT, self.0.return_to_pool()));
    }
}

/// Listens to what the database announces, on a connection of its own.
pub(crate) struct Listener(PgListener);

impl Listener {
    /// Listens to a channel from now on.
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

    /// The next announcement; `None` if some may have been missed.
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
