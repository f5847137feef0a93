//! The pool, right behind a transaction-mode pooler too, and the schema's migrations.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use secrecy::ExposeSecret;
use sqlx::migrate::{Migration, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgConnection, PgPool, Row};
use tokio::time::Instant;
use tracing::Instrument;
use url::Url;

use super::DatabaseConfig;
use super::connection_health::{Listener, PooledConnection, with_timeout};
use super::legacy_import;
use super::legacy_import::LegacyImport;
use super::transaction::Transaction;
use crate::catalog::Catalog;
use crate::telemetry;
use crate::telemetry::metrics;

/// Every migration, embedded.
pub static MIGRATOR: Migrator = sqlx::migrate!();

/// The key of the advisory lock under which replicas migrate, one after the other.
const MIGRATION_LOCK: i64 = 0x7061_7463_6862_6179;

/// How the description of a migration begins that removes or changes what older programs use. Such
/// a one comes a version later than the last program that needs what it removes; all others only add.
pub(crate) const CONTRACT_PREFIX: &str = "contract";

/// How long a request waits for a free connection before it is told to come again.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// For how long an unused connection is taken to be still there.
const IDLE_CHECK_AFTER: Duration = Duration::from_secs(1);

/// How long an unused connection may take to answer; then another one is made.
const IDLE_CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a server may take to answer at the start before it counts as not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A pool of connections to the one PostgreSQL.
#[derive(Clone, Debug)]
pub struct Database {
    pool: PgPool,
    counts: PoolMetrics,
    options: PgConnectOptions,
    switches_servers: bool,
}

/// What is counted of the pool. Clones count together.
#[derive(Clone, Debug)]
struct PoolMetrics {
    waits: Histogram,
    gave_up: Counter,
}

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// `DATABASE_URL` is not one.
    #[error("DATABASE_URL cannot be read: {0}")]
    Url(#[source] sqlx::Error),
    /// The server refuses this user, password or database: waiting does not help.
    #[error("the database refuses the user, password or database of DATABASE_URL: {0}")]
    AccessDenied(#[source] sqlx::Error),
    /// The server is not the one that `sslmode` asks for, or has no TLS: waiting does not help.
    #[error(
        "no TLS connection as DATABASE_URL asks for it: {0}. With sslmode=verify-full, sslrootcert has to name the file of the certificate that signed the server's, unless a public authority did"
    )]
    Tls(#[source] sqlx::Error),
    /// The server cannot be reached.
    #[error("the database of DATABASE_URL cannot be reached: {0}")]
    Unreachable(#[source] sqlx::Error),
    /// A migration failed; nothing has changed.
    #[error("migration {version} of the database failed: {source}")]
    Migration {
        /// The migration's number.
        version: i64,
        /// What the server said.
        source: sqlx::Error,
    },
    /// A newer version's migration has removed what this program needs.
    #[error(
        "a newer Patchbay has removed from the database what this version needs (migration {0}): run that version, or a newer one"
    )]
    SchemaTooNew(i64),
    /// A migration was changed after it had been applied.
    #[error(
        "migration {0} is not what it was when the database was migrated: this program and the database do not fit together"
    )]
    MigrationChanged(i64),
    /// The tables of the service that Patchbay succeeds cannot be taken over; nothing has changed.
    #[error(
        "the database has the predecessor's tables, which cannot be taken over; nothing was changed:\n  {}",
        .0.join("\n  ")
    )]
    LegacyTables(Vec<String>),
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
        let options = options
            .application_name("patchbay")
            // No column is a float, and poolers refuse parameters that they do not know.
            .extra_float_digits(None);
        let probed = with_timeout(CONNECT_TIMEOUT, detect_transaction_pooling(&options))
            .await
            .map_err(|error| connect_error(error, &options))?;
        let switches_servers = probed || declares_pooler(url);
        let options = if switches_servers {
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
            // One that was used a moment ago is there: asking would cost each request a round.
            .test_before_acquire(false)
            .before_acquire(|connection, about| {
                Box::pin(async move {
                    if about.idle_for > IDLE_CHECK_AFTER {
                        with_timeout(IDLE_CHECK_TIMEOUT, connection.ping()).await?;
                    }
                    Ok(true)
                })
            })
            .connect_lazy_with(options.clone());
        Ok(Self {
            pool,
            counts: PoolMetrics {
                waits: metrics::latency_histogram(),
                gave_up: Counter::default(),
            },
            options,
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
        self.begin_with("begin").await
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
        Ok(PooledConnection::new(
            self.timed_acquire(self.pool.acquire()).await?,
        ))
    }

    /// Begins a transaction that reads only, and sees one moment however many statements it has.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    pub async fn begin_snapshot(&self) -> sqlx::Result<Transaction> {
        self.begin_with("begin isolation level repeatable read, read only")
            .await
    }

    async fn begin_with(&self, statement: &'static str) -> sqlx::Result<Transaction> {
        let pool = self.pool.clone();
        // A task of its own, for whoever asked may go away at any moment, and sqlx then forgets a `begin` that is under
        // way: the connection would go back into the pool in the middle of this transaction.
        let transaction = tokio::spawn(async move { pool.begin_with(statement).await });
        let transaction = async {
            transaction
                .await
                .map_err(|_stopped| sqlx::Error::WorkerCrashed)?
        };
        let inner = self.timed_acquire(transaction).await?;
        Ok(Transaction::new(inner, self.switches_servers))
    }

    /// Counts how long the pool lets one wait.
    async fn timed_acquire<T>(
        &self,
        waits: impl Future<Output = sqlx::Result<T>>,
    ) -> sqlx::Result<T> {
        let started = Instant::now();
        let got = waits.instrument(telemetry::begin_span()).await;
        self.counts.waits.observe(started.elapsed().as_secs_f64());
        if matches!(got, Err(sqlx::Error::PoolTimedOut)) {
            self.counts.gave_up.inc();
        }
        got
    }

    /// How many connections are open, and how many of them nobody uses.
    #[must_use]
    pub fn pool_size(&self) -> (u64, u64) {
        (u64::from(self.pool.size()), self.pool.num_idle() as u64)
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
        let listener = Listener::new(self.options.clone(), channel).await?;
        Ok(Some(listener))
    }

    /// Brings the schema up to date, one replica at a time, in one transaction.
    ///
    /// What a newer version has added stays: while replicas are replaced one by one, old ones go on
    /// over the new schema, and may start again. What has removed something is refused.
    ///
    /// # Errors
    /// When a migration fails, or this program and the database do not fit together; then nothing has changed.
    /// A database that the predecessor has left is [`import_legacy`](Self::import_legacy)'s to migrate.
    pub async fn migrate(&self) -> Result<(), DatabaseError> {
        let mut tx = self.begin_migration().await?;
        if legacy_import::exists(&mut tx).await? {
            return Err(DatabaseError::LegacyTables(vec![
                "`patchbay migrate` takes them over, as does the service when it starts".to_owned(),
            ]));
        }
        apply_migrations(&mut tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Brings the schema up to date as [`migrate`](Self::migrate) does, and takes over the predecessor's tables if
    /// they are there. Their connectors have to be in the catalog.
    ///
    /// # Errors
    /// As [`migrate`](Self::migrate), and with all that speaks against taking them over.
    pub async fn import_legacy(
        &self,
        catalog: &Catalog,
    ) -> Result<Option<LegacyImport>, DatabaseError> {
        let mut tx = self.begin_migration().await?;
        let predecessor = if legacy_import::exists(&mut tx).await? {
            Some(legacy_import::move_to_backup_schema(&mut tx, catalog).await?)
        } else {
            None
        };
        apply_migrations(&mut tx).await?;
        let adopted = match predecessor {
            Some(predecessor) => Some(predecessor.import(&mut tx, catalog).await?),
            None => None,
        };
        tx.commit().await?;
        Ok(adopted)
    }

    /// Waits for other replicas that migrate. What has been applied is noted as sqlx's own tools do.
    async fn begin_migration(&self) -> sqlx::Result<Transaction> {
        let mut tx = self.begin().await?;
        // Held until the transaction's end, so it works through poolers that switch servers between transactions.
        sqlx::query("select pg_advisory_xact_lock($1)")
            .bind(MIGRATION_LOCK)
            .execute(&mut tx)
            .await?;
        sqlx::raw_sql(
            "create table if not exists _sqlx_migrations (
                 version bigint primary key,
                 description text not null,
                 installed_on timestamptz not null default now(),
                 success boolean not null,
                 checksum bytea not null,
                 execution_time bigint not null
             )",
        )
        .execute(&mut tx)
        .await?;
        Ok(tx)
    }

    /// Answers if the server does.
    ///
    /// # Errors
    /// As for any statement.
    pub async fn ping(&self) -> sqlx::Result<()> {
        let mut tx = self.begin_single().await?;
        sqlx::query("select 1").execute(&mut tx).await?;
        tx.commit().await
    }

    /// Closes every connection, once those in use are back.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// Applies what is missing.
///
/// sqlx's runner is not used: it takes a session's lock, which behind a pooler would stay with a
/// server that another client gets, and its statements have names.
async fn apply_migrations(tx: &mut Transaction) -> Result<(), DatabaseError> {
    let applied: Vec<(i64, String, Vec<u8>)> =
        sqlx::query_as("select version, description, checksum from _sqlx_migrations")
            .fetch_all(&mut *tx)
            .await?;
    let mut applied: BTreeMap<i64, (String, Vec<u8>)> = applied
        .into_iter()
        .map(|(version, description, checksum)| (version, (description, checksum)))
        .collect();
    for migration in MIGRATOR.iter() {
        let version = migration.version;
        match applied.remove(&version) {
            Some((_, checksum)) if *checksum == *migration.checksum => {}
            Some(_) => return Err(DatabaseError::MigrationChanged(version)),
            None => apply(tx, migration)
                .await
                .map_err(|source| DatabaseError::Migration { version, source })?,
        }
    }
    for (version, (description, _)) in applied {
        if description.starts_with(CONTRACT_PREFIX) {
            return Err(DatabaseError::SchemaTooNew(version));
        }
        tracing::info!(
            version,
            description,
            "a newer Patchbay has migrated the database"
        );
    }
    Ok(())
}

async fn apply(tx: &mut Transaction, migration: &Migration) -> sqlx::Result<()> {
    sqlx::raw_sql(migration.sql.clone())
        .execute(&mut *tx)
        .await?;
    sqlx::query(
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time) \
         values ($1, $2, true, $3, -1)",
    )
    .bind(migration.version)
    .bind(&*migration.description)
    .bind(&*migration.checksum)
    .execute(&mut *tx)
    .await?;
    Ok(())
}

fn connect_error(error: sqlx::Error, options: &PgConnectOptions) -> DatabaseError {
    match &error {
        sqlx::Error::Configuration(_) => DatabaseError::Url(error),
        sqlx::Error::Tls(_) => DatabaseError::Tls(error),
        sqlx::Error::Io(io) => match io.kind() {
            // How a handshake fails.
            io::ErrorKind::InvalidData => DatabaseError::Tls(error),
            // Over TCP, the only files are certificates and keys.
            io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
                if options.get_socket().is_none() =>
            {
                DatabaseError::Tls(error)
            }
            _ => DatabaseError::Unreachable(error),
        },
        sqlx::Error::Database(database) => match database.code().as_deref() {
            // Class 28 is a refused authorization, 3D000 a database that does not exist.
            Some(code) if code.starts_with("28") || code == "3D000" => {
                DatabaseError::AccessDenied(error)
            }
            _ => DatabaseError::Unreachable(error),
        },
        _ => DatabaseError::Unreachable(error),
    }
}

/// Whether the address itself says that it is a transaction-mode pooler's, as Supabase's do.
fn declares_pooler(url: &str) -> bool {
    let url = Url::parse(url).ok();
    url.is_some_and(|url| {
        url.query_pairs()
            .any(|(name, value)| name == "pgbouncer" && value == "true")
    })
}

/// Whether connections change their server between transactions.
///
/// Two connections, open together, ask again and again which server process
/// answers. Straight to PostgreSQL, or through a session-mode pooler, each has
/// one of its own and keeps it. A transaction-mode pooler that hands out the
/// server it got back last gives both the same; one that takes turns gives a
/// connection that asks twice in a row two servers, however many it has, or
/// both the same. Other clients may disturb that by chance, but not sixteen
/// times. The simple protocol asks, which no pooler can get wrong.
async fn detect_transaction_pooling(options: &PgConnectOptions) -> sqlx::Result<bool> {
    const ROUNDS: usize = 4;
    let mut one = PgConnection::connect_with(options).await?;
    let mut other = PgConnection::connect_with(options).await?;
    let (first, second) = (
        server_process(&mut one).await?,
        server_process(&mut other).await?,
    );
    let mut switches = first == second;
    for _ in 0..ROUNDS {
        if switches {
            break;
        }
        switches = server_process(&mut other).await? != second
            || server_process(&mut one).await? != first
            || server_process(&mut one).await? != first
            || server_process(&mut other).await? != second;
    }
    one.close().await?;
    other.close().await?;
    Ok(switches)
}

async fn server_process(connection: &mut PgConnection) -> sqlx::Result<i32> {
    sqlx::raw_sql("select pg_backend_pid()")
        .fetch_one(connection)
        .await?
        .try_get(0)
}
