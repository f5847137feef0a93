//! The pool, right behind a transaction-mode pooler too.

use std::time::Duration;

use secrecy::ExposeSecret;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{Connection, PgConnection, PgPool, Postgres, Row, Transaction};

use crate::config::DatabaseConfig;

/// Every migration, embedded.
pub static MIGRATOR: Migrator = sqlx::migrate!();

/// The key of the advisory lock under which replicas migrate, one after the other.
const MIGRATION_LOCK: i64 = 0x7061_7463_6862_6179;

/// How long a request waits for a free connection before it is told to come again.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// A pool of connections to the one PostgreSQL.
///
/// Every statement runs inside an explicit transaction: behind a pooler in
/// transaction mode that is what keeps a statement and its answer on one server.
#[derive(Clone, Debug)]
pub struct Database {
    pool: PgPool,
    options: PgConnectOptions,
    pooled: bool,
}

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// `DATABASE_URL` is not one.
    #[error("DATABASE_URL cannot be read: {0}")]
    Url(#[source] sqlx::Error),
    /// The server refuses this user, password or database: waiting does not help.
    #[error("the database refuses DATABASE_URL: {0}")]
    Refused(#[source] sqlx::Error),
    /// The server cannot be reached.
    #[error("the database cannot be reached: {0}")]
    Unreachable(#[source] sqlx::Error),
    /// The schema could not be brought up to date.
    #[error("the database could not be migrated: {0}")]
    Migrate(#[from] MigrateError),
    /// A statement failed.
    #[error("the database failed: {0}")]
    Statement(#[from] sqlx::Error),
}

impl Database {
    /// Connects, and finds out whether a transaction-mode pooler stands between.
    ///
    /// # Errors
    /// [`DatabaseError::Unreachable`] may pass if tried again; the others do not.
    pub async fn connect(config: &DatabaseConfig) -> Result<Self, DatabaseError> {
        let url = config.url.expose_secret();
        let options: PgConnectOptions = url.parse().map_err(DatabaseError::Url)?;
        let options = options.application_name("patchbay");
        let pooled = switches_servers(&options).await.map_err(classify)?;
        let options = if pooled {
            tracing::info!(
                "a transaction-mode pooler is in front of the database: prepared statements are off"
            );
            options.statement_cache_capacity(0)
        } else {
            options
        };
        let pool = PgPoolOptions::new()
            .max_connections(config.pool_size)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_lazy_with(options.clone());
        Ok(Self {
            pool,
            options,
            pooled,
        })
    }

    /// Begins a transaction: the only way to run a statement.
    ///
    /// # Errors
    /// When no connection is free in time, or the server does not answer.
    pub async fn begin(&self) -> sqlx::Result<Transaction<'static, Postgres>> {
        self.pool.begin().await
    }

    /// Listens to a channel on a connection of its own; `None` behind a pooler that passes no announcements on.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn listen(&self, channel: &str) -> sqlx::Result<Option<PgListener>> {
        if self.pooled {
            return Ok(None);
        }
        let own = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(ACQUIRE_TIMEOUT);
        let mut listener =
            PgListener::connect_with(&own.connect_lazy_with(self.options.clone())).await?;
        listener.listen(channel).await?;
        Ok(Some(listener))
    }

    /// Brings the schema up to date, one replica at a time.
    ///
    /// # Errors
    /// When a migration fails; then nothing has changed.
    pub async fn migrate(&self) -> Result<(), DatabaseError> {
        let mut tx = self.begin().await?;
        // Held until the transaction's end, so it works through poolers that switch servers between transactions.
        sqlx::query("select pg_advisory_xact_lock($1)")
            .bind(MIGRATION_LOCK)
            .execute(&mut *tx)
            .await?;
        MIGRATOR.run_direct(None, &mut *tx, false).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Answers if the server does.
    ///
    /// # Errors
    /// As for any statement.
    pub async fn ping(&self) -> sqlx::Result<()> {
        let mut tx = self.begin().await?;
        sqlx::query("select 1").execute(&mut *tx).await?;
        tx.commit().await
    }

    /// Closes every connection, once those in use are back.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

fn classify(error: sqlx::Error) -> DatabaseError {
    match &error {
        sqlx::Error::Configuration(_) => DatabaseError::Url(error),
        sqlx::Error::Database(database) => match database.code().as_deref() {
            // Class 28 is a refused authorization, 3D000 a database that does not exist.
            Some(code) if code.starts_with("28") || code == "3D000" => {
                DatabaseError::Refused(error)
            }
            _ => DatabaseError::Unreachable(error),
        },
        _ => DatabaseError::Unreachable(error),
    }
}

/// Whether connections change their server between transactions.
///
/// Several connections, open together, each ask twice which server process
/// answers. Straight to PostgreSQL, or through a session-mode pooler, each has
/// one of its own and keeps it; a transaction-mode pooler serves two of them by
/// one process, or one of them by two. The simple protocol asks, which no
/// pooler can get wrong.
async fn switches_servers(options: &PgConnectOptions) -> sqlx::Result<bool> {
    const CONNECTIONS: usize = 3;
    let mut connections = Vec::with_capacity(CONNECTIONS);
    let mut first = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        let mut connection = PgConnection::connect_with(options).await?;
        first.push(server_process(&mut connection).await?);
        connections.push(connection);
    }
    let mut second = Vec::with_capacity(CONNECTIONS);
    for connection in connections.iter_mut().rev() {
        second.push(server_process(connection).await?);
    }
    second.reverse();
    for connection in connections {
        connection.close().await?;
    }
    let mut distinct = first.clone();
    distinct.sort_unstable();
    distinct.dedup();
    Ok(first != second || distinct.len() < CONNECTIONS)
}

async fn server_process(connection: &mut PgConnection) -> sqlx::Result<i32> {
    sqlx::raw_sql("select pg_backend_pid()")
        .fetch_one(connection)
        .await?
        .try_get(0)
}
