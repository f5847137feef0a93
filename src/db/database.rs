//! The pool, right behind a transaction-mode pooler too.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{PgPool, SqlStr};
use tokio::time::Instant;
use tracing::Instrument;

use super::connect::Server;
use super::connection_health::{Listener, with_timeout};
use super::pooled_connection::PooledConnection;
use super::primary::Primary;
use super::session::{SessionSetup, can_write};
use super::transaction::Transaction;
use super::{DatabaseConfig, DatabaseError};
use crate::telemetry;
use crate::telemetry::metrics;

/// How long a request waits for a free connection before it fails with a retryable error.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// For how long an unused connection is taken to be still there.
const IDLE_CHECK_AFTER: Duration = Duration::from_secs(1);

/// How long an unused connection may take to answer; then another one is made.
const IDLE_CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// A pool of connections to the primary of one PostgreSQL.
#[derive(Clone)]
pub struct Database {
    pool: PgPool,
    counts: PoolMetrics,
    setup: SessionSetup,
    primary: Arc<Primary>,
    switches_servers: bool,
}

/// What is counted of the pool. Clones count together.
#[derive(Clone, Debug)]
struct PoolMetrics {
    waits: Histogram,
    gave_up: Counter,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The pool's options have the password.
        f.debug_struct("Database").finish_non_exhaustive()
    }
}

impl Database {
    /// Connects to the server that accepts writes, and finds out whether a transaction-mode pooler stands between.
    ///
    /// # Errors
    /// What [`may_pass`](DatabaseError::may_pass) may pass if tried again; the others do not.
    pub async fn connect(config: &DatabaseConfig) -> Result<Self, DatabaseError> {
        let Server {
            servers,
            settings,
            switches_servers,
        } = Server::find(config).await?;
        let servers: Vec<PgConnectOptions> = if switches_servers {
            tracing::info!(
                "a transaction-mode pooler is in front of the database: prepared statements are off"
            );
            let uncached = |server: PgConnectOptions| server.statement_cache_capacity(0);
            servers.into_iter().map(uncached).collect()
        } else {
            servers
        };
        let setup = SessionSetup::new(&settings, switches_servers);
        let primary = Arc::new(Primary::default());
        let pool = pool_options(config.pool_size, &setup, &primary, servers.len() > 1)
            .connect_lazy_with(servers[0].clone());
        if servers.len() > 1 {
            let (primary, pool) = (primary.clone(), pool.clone());
            tokio::spawn(async move { primary.follow(servers, pool).await });
        }
        Ok(Self {
            pool,
            counts: PoolMetrics {
                waits: metrics::latency_histogram(),
                gave_up: Counter::default(),
            },
            setup,
            primary,
            switches_servers,
        })
    }

    /// Whether a connection has another server in each transaction, as behind a pooler in
    /// transaction mode. Then nothing that belongs to a session works: no `listen`, no session locks.
    #[must_use]
    pub fn is_transaction_pooled(&self) -> bool {
        self.switches_servers
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// When no connection is free in time, or the server does not answer.
    pub async fn begin(&self) -> sqlx::Result<Transaction> {
        self.begin_with(self.setup.begin()).await
    }

    /// Begins a transaction of one statement, which is committed when it has run: dropping it takes nothing back. It needs
    /// no rounds of its own, but where servers are switched.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    pub async fn begin_single(&self) -> sqlx::Result<Transaction> {
        if self.switches_servers {
            return self.begin().await;
        }
        // Apart, for it is large, and each caller's own future would have room for it.
        let connection = Box::pin(self.acquire()).await?;
        Ok(Transaction::single(connection))
    }

    /// A connection for reads of one statement each, straight to PostgreSQL. Behind a pooler that
    /// switches servers a statement alone is not safe: there, [`begin`](Self::begin) is the only way.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    pub(crate) async fn acquire(&self) -> sqlx::Result<PooledConnection> {
        self.timed_acquire(self.connection()).await
    }

    /// Begins a transaction that reads only, and sees one moment however many statements it has.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    pub async fn begin_snapshot(&self) -> sqlx::Result<Transaction> {
        self.begin_with(self.setup.begin_snapshot()).await
    }

    async fn begin_with(&self, statement: SqlStr) -> sqlx::Result<Transaction> {
        let begin = async {
            let mut connection = self.connection().await?;
            connection.begin(statement).await?;
            Ok(Transaction::new(connection, self.switches_servers))
        };
        self.timed_acquire(begin).await
    }

    async fn connection(&self) -> sqlx::Result<PooledConnection> {
        let connection = self.pool.acquire().await?;
        Ok(PooledConnection::new(connection, self.primary.clone()))
    }

    /// Counts how long the pool lets one wait.
    async fn timed_acquire<T>(
        &self,
        waits: impl Future<Output = sqlx::Result<T>>,
    ) -> sqlx::Result<T> {
        let started = Instant::now();
        let got = waits.instrument(telemetry::begin_span()).await;
        self.counts.waits.observe(started.elapsed().as_secs_f64());
        match got {
            Err(sqlx::Error::PoolTimedOut) => {
                self.counts.gave_up.inc();
                self.primary.search();
            }
            Err(sqlx::Error::Io(_) | sqlx::Error::Tls(_)) => self.primary.suspect(),
            _ => {}
        }
        got
    }

    /// Returns the number of open connections, and how many of them are idle.
    #[must_use]
    pub fn pool_size(&self) -> (u64, u64) {
        (u64::from(self.pool.size()), self.pool.num_idle() as u64)
    }

    /// The most connections that the pool opens.
    #[must_use]
    pub(crate) fn max_connections(&self) -> u32 {
        self.pool.options().get_max_connections()
    }

    /// Makes what is counted of the pool part of what a scrape reads.
    pub fn register_metrics(&self, registry: &mut Registry) {
        registry.register(
            "database_begin_seconds",
            "How long a transaction waited for its connection and its beginning",
            self.counts.waits.clone(),
        );
        registry.register(
            "database_pool_timeouts",
            "Transactions that got no connection in time",
            self.counts.gave_up.clone(),
        );
    }

    /// Listens to a channel on a connection of its own; `None` behind a pooler that passes no announcements on.
    ///
    /// # Errors
    /// When the server does not answer.
    pub(crate) async fn listen(&self, channel: &str) -> sqlx::Result<Option<Listener>> {
        if self.switches_servers {
            return Ok(None);
        }
        // Not those of the start: the primary may be another server by now.
        let options = (*self.pool.connect_options()).clone();
        let listener = Listener::new(options, channel).await?;
        Ok(Some(listener))
    }

    /// Closes every connection, once those in use are back.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

fn pool_options(
    size: u32,
    setup: &SessionSetup,
    primary: &Arc<Primary>,
    has_other_servers: bool,
) -> PgPoolOptions {
    let (new, tested) = (primary.clone(), primary.clone());
    let setup = setup.clone();
    PgPoolOptions::new()
        .max_connections(size)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .after_connect(move |connection, _about| {
            let (setup, primary) = (setup.clone(), new.clone());
            Box::pin(async move {
                let is_writable = setup.apply(connection).await?;
                if has_other_servers && !is_writable {
                    // The pool tries again in a moment; by then it may know the primary.
                    primary.suspect();
                    return Err(sqlx::Error::InvalidArgument(
                        "the server is read-only, looking for the primary".to_owned(),
                    ));
                }
                Ok(())
            })
        })
        // One that was used a moment ago is there: asking would cost each request a round.
        .test_before_acquire(false)
        .before_acquire(move |connection, about| {
            let is_tested = about.idle_for > IDLE_CHECK_AFTER || tested.is_suspect();
            Box::pin(async move {
                if is_tested {
                    return with_timeout(IDLE_CHECK_TIMEOUT, can_write(connection)).await;
                }
                Ok(true)
            })
        })
}
