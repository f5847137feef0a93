//! The connection pool, which also works behind a transaction-mode pooler.

use std::sync::Arc;
use std::time::Duration;

use futures::future::TryFutureExt;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgQueryResult, PgRow};
use sqlx::{Either, Execute, Executor, PgPool, Postgres, SqlStr};
use tokio::time::Instant;
use tracing::Instrument;

use super::connect::Server;
use super::connection_health::{Listener, with_timeout};
use super::pooled_connection::{PooledConnection, executor_methods};
use super::primary::Primary;
use super::session::{SessionSetup, can_write};
use super::transaction::Transaction;
use super::{DatabaseConfig, DatabaseError};
use crate::telemetry;
use crate::telemetry::metrics;

/// How long a request waits for a free connection before it fails with a retryable error.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an idle connection is reused without a check.
const IDLE_CHECK_AFTER: Duration = Duration::from_secs(1);

/// The timeout of the check of an idle connection. After it, the pool opens another one.
const IDLE_CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// A pool of connections to the primary PostgreSQL server.
///
/// As an [`Executor`], it runs one statement, which PostgreSQL commits with it: `db::find_own(&database, …)`. Several
/// statements need a [`Transaction`]. Behind a transaction-mode pooler, the statement runs in a transaction of its own,
/// because the pooler may switch servers between parse and execute. A failed commit is then the statement's error.
#[derive(Clone)]
pub struct Database {
    pool: PgPool,
    counts: PoolMetrics,
    setup: SessionSetup,
    primary: Arc<Primary>,
    switches_servers: bool,
}

/// The metrics of the pool, which clones share.
#[derive(Clone, Debug)]
struct PoolMetrics {
    waits: Histogram,
    gave_up: Counter,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The options of the pool contain the password.
        f.debug_struct("Database").finish_non_exhaustive()
    }
}

impl Database {
    /// Connects to the server that accepts writes, and detects a transaction-mode pooler in front of it.
    ///
    /// # Errors
    /// An error for which [`may_pass`](DatabaseError::may_pass) returns `true` may disappear on retry; others do not.
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

    /// Returns whether each transaction may run on another server connection, as behind a transaction-mode pooler.
    /// Features of a session do not work then: no `listen`, no session locks.
    pub fn is_transaction_pooled(&self) -> bool {
        self.switches_servers
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// If no connection is free in time, or the server does not answer.
    pub async fn begin(&self) -> sqlx::Result<Transaction> {
        self.begin_with(self.setup.begin()).await
    }

    /// Returns a connection for statements outside of a transaction, which are not safe behind a transaction-mode pooler.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    pub(crate) async fn acquire(&self) -> sqlx::Result<PooledConnection> {
        self.timed_acquire(self.connection()).await
    }

    /// Begins a read-only transaction, whose statements all see the same snapshot.
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
        // Boxed, because this future is large and would be part of each caller's future.
        Box::pin(self.timed_acquire(begin)).await
    }

    async fn connection(&self) -> sqlx::Result<PooledConnection> {
        // Boxed, too: single statements use no `begin_with`.
        let connection = Box::pin(self.pool.acquire()).await?;
        Ok(PooledConnection::new(connection, self.primary.clone()))
    }

    /// Waits for a connection, and records the duration and outcome.
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
    pub fn pool_size(&self) -> (u64, u64) {
        (u64::from(self.pool.size()), self.pool.num_idle() as u64)
    }

    /// Returns the maximum number of connections.
    pub(crate) fn max_connections(&self) -> u32 {
        self.pool.options().get_max_connections()
    }

    /// Registers the pool's metrics.
    pub fn register_metrics(&self, registry: &mut Registry) {
        registry.register(
            "database_begin_seconds",
            "Time until a transaction had a connection and had started",
            self.counts.waits.clone(),
        );
        registry.register(
            "database_pool_timeouts",
            "Transactions that got no connection in time",
            self.counts.gave_up.clone(),
        );
    }

    /// Listens to a channel on its own connection; `None` behind a transaction-mode pooler, which does not forward
    /// notifications.
    ///
    /// # Errors
    /// When the server does not answer.
    pub(crate) async fn listen(&self, channel: &str) -> sqlx::Result<Option<Listener>> {
        if self.switches_servers {
            return Ok(None);
        }
        // The current options of the pool, because the primary may have changed since startup.
        let options = (*self.pool.connect_options()).clone();
        let listener = Listener::new(options, channel).await?;
        Ok(Some(listener))
    }

    /// Closes all connections, after those in use have been returned.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

impl<'c> Executor<'c> for &'c Database {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, sqlx::Result<Either<PgQueryResult, PgRow>>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let rows = async move {
            let mut tx = if self.switches_servers {
                self.begin().await?
            } else {
                Transaction::new(self.acquire().await?, false)
            };
            let rows: Vec<_> = tx.fetch_many(query).try_collect().await?;
            tx.commit().await?;
            Ok(stream::iter(rows).map(Ok))
        };
        Box::pin(rows.try_flatten_stream())
    }

    executor_methods!('c);
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
                    // The pool retries shortly, and may know the primary by then.
                    primary.suspect();
                    return Err(sqlx::Error::InvalidArgument(
                        "the server is read-only, looking for the primary".to_owned(),
                    ));
                }
                Ok(())
            })
        })
        // A recently used connection is assumed to be alive, because a check would cost each request a round trip.
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
