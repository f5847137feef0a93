//! Starts the service's parts, serves requests, and shuts down gracefully.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use backon::{BackoffBuilder, ExponentialBuilder};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::{ServiceExt, service_fn};

use crate::auth::{self, Authenticator};
use crate::catalog::Catalog;
use crate::clock::Clock;
use crate::config::Config;
use crate::db::{Database, DatabaseConfig, DatabaseError, InvalidRows};
use crate::http::{self, BrowserBinding, HttpMetrics, Limits, Readiness};
use crate::nango::{self, MAX_NANGO_TIMEOUT, Nango};
use crate::server::{self, Shutdown};
use crate::service::service_keys::ServiceKeys;
use crate::service::{self, Services};
use crate::telemetry::metrics;
use crate::webhooks::Webhooks;
use crate::worker::{self, Scheduler};

/// How long requests in progress may take after a stop signal.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);

/// How long the connections of clients and of the database may take to close after that.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

const _: () = assert!(
    DRAIN_TIMEOUT.as_secs() > MAX_NANGO_TIMEOUT.as_secs(),
    "a call to Nango comes to its end"
);

/// An error that prevents the start or ends the service.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The service cannot listen on the address.
    #[error("cannot listen on {address}: {error}. {}", listen_remedy(error))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The error of the system.
        error: io::Error,
    },
    /// The configuration of authentication is invalid.
    #[error(transparent)]
    Auth(#[from] auth::ConfigError),
    /// The configuration of Nango is invalid.
    #[error(transparent)]
    Nango(#[from] nango::ConfigError),
    /// The database cannot be used.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The catalog could not be written to the database.
    #[error(transparent)]
    Service(#[from] service::Error),
    /// The HTTP client of webhooks cannot be created.
    #[error("webhooks cannot be sent: {0}")]
    Webhooks(#[from] reqwest::Error),
    /// The server failed.
    #[error("the server failed: {0}")]
    Serve(#[from] io::Error),
}

/// Returns how to fix an error of listening.
fn listen_remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::AddrNotAvailable => {
            "HOST is not an address of this machine: set it to 0.0.0.0 for all addresses, or to one of them"
        }
        ErrorKind::AddrInUse => "Stop the program that uses the port, or set PORT to another one",
        ErrorKind::PermissionDenied => "Set PORT to a port above 1023",
        _ => "Correct HOST or PORT",
    }
}

/// A service that listens on its address, and does not serve yet.
#[derive(Debug)]
pub struct App {
    listener: TcpListener,
    config: Config,
    catalog: Arc<Catalog>,
    clock: Clock,
}

impl App {
    /// Listens on the configured address.
    ///
    /// # Errors
    /// If the address is in use, or not one of this machine.
    pub async fn bind(config: Config, catalog: Catalog, clock: Clock) -> Result<Self, Error> {
        let address = config.http.listen;
        let listener = server::listen(address).map_err(|error| Error::Listen { address, error })?;
        Ok(Self {
            listener,
            config,
            catalog: Arc::new(catalog),
            clock,
        })
    }

    /// Returns the address on which the service listens.
    ///
    /// # Errors
    /// The system's error.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` is cancelled, then drains the requests in progress.
    ///
    /// # Errors
    /// If the database is not reachable in time, or cannot be used.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        let Self {
            listener,
            config,
            catalog,
            clock,
        } = self;
        let ready = Arc::new(OnceLock::new());
        let metrics = Arc::new(HttpMetrics::default());
        let shutdown = Shutdown {
            requested: stop,
            ..Shutdown::default()
        };
        let limits = config.http.server.clone();
        tokio::spawn(shut_down_after(limits.shutdown_delay, shutdown.clone()));
        let server = tokio::spawn(server::serve(
            listener,
            router(ready.clone(), &metrics),
            limits,
            metrics.connections.clone(),
            shutdown.clone(),
        ));
        let startup = Startup {
            config,
            catalog,
            clock,
            metrics,
        };
        let jobs = Scheduler::new(shutdown.draining.clone());
        let started = tokio::select! {
            started = startup.start(&ready, &jobs, &shutdown) => Some(started),
            // An unfinished transaction is rolled back.
            () = shutdown.requested.cancelled() => None,
        };
        let database = match started.transpose() {
            Ok(database) => database,
            Err(error) => {
                server.abort();
                return Err(error);
            }
        };
        let stopped = async {
            let served = server.await;
            jobs.finished().await;
            if let Some(database) = database {
                database.close().await;
            }
            served.map_err(io::Error::other)
        };
        tokio::select! {
            stopped = stopped => stopped?,
            () = aborted(&shutdown) => {
                tracing::error!(
                    jobs = jobs.unfinished().join(", "),
                    "stopped before all work was finished: the next start repeats these jobs, and clients retry their requests"
                );
            }
        }
        Ok(())
    }
}

/// Returns after all connections had time to close.
async fn aborted(shutdown: &Shutdown) {
    shutdown.aborted.cancelled().await;
    tokio::time::sleep(CLOSE_TIMEOUT).await;
}

/// Shuts down after a signal: a delay in which requests are still answered, then the drain timeout for the requests in
/// progress.
async fn shut_down_after(delay: Duration, shutdown: Shutdown) {
    shutdown.requested.cancelled().await;
    tracing::info!(?delay, "stopping: failing readiness, then draining");
    tokio::time::sleep(delay).await;
    shutdown.draining.cancel();
    tokio::time::sleep(DRAIN_TIMEOUT).await;
    shutdown.aborted.cancel();
}

fn settings(config: &Config) -> service::Settings {
    let public_url = &config.http.public_url;
    let nango = config.nango.as_ref();
    let webhook_base_url = nango.map_or(public_url, |nango| &nango.webhook_base_url);
    service::Settings {
        public_url: public_url.clone(),
        catalog_mode: config.catalog_mode,
        webhook_base_url: webhook_base_url.clone(),
        token_cache: config.token_cache_ttl,
        history: config.retention,
        encryption: config.encryption.clone(),
    }
}

/// The inputs of the start.
struct Startup {
    config: Config,
    catalog: Arc<Catalog>,
    clock: Clock,
    metrics: Arc<HttpMetrics>,
}

impl Startup {
    /// Waits for the database, migrates it, and starts to serve requests and to run jobs.
    async fn start(
        self,
        ready: &OnceLock<Router>,
        jobs: &Scheduler,
        shutdown: &Shutdown,
    ) -> Result<Database, Error> {
        let Self {
            config,
            catalog,
            clock,
            metrics: http_metrics,
        } = self;
        let client = config.nango.as_ref().map(|nango| nango.client.clone());
        let nango = client
            .map(|client| Nango::with_clock(client, clock.clone()))
            .transpose()?;
        let settings = settings(&config);
        let auth = authenticator(config.auth, &clock)?;
        let database = wait_for_database(&config.database, &catalog).await?;
        let keys = ServiceKeys::new(database.clone(), config.service_keys, clock.clone());
        let networks = &config.webhook_networks;
        let webhooks = Webhooks::new(database.clone(), clock.clone(), networks, config.encryption)?;
        let services = Services::new(
            database.clone(),
            catalog,
            nango.clone(),
            clock.clone(),
            settings,
        );
        let services = Arc::new(services.await?);
        services.clock_offset.measure().await?;
        services.core.verify_environment_at_start().await;
        let sweep_interval = config.nango.as_ref().map(|nango| nango.sweep_interval);
        start_jobs(&services, webhooks, sweep_interval, jobs);
        let metrics = metrics_registry(&http_metrics, &services);
        let limits = Limits::new(config.limits, clock, http_metrics.clone());
        let state = http::Shared {
            services,
            auth,
            nango,
            signing_keys: config.nango.map(|nango| nango.signing_keys),
            browser_binding: BrowserBinding::new(
                config.http.connect_binding,
                &config.http.public_url,
            ),
            allowed_origins: config.http.allowed_origins.as_slice().into(),
            allowed_headers: config.http.allowed_headers,
            keys,
            readiness: Readiness::default(),
            limits: Arc::new(limits),
            client_timeout: config.http.server.client_timeout,
            http_metrics,
            metrics,
            metrics_tokens: config.metrics_tokens,
            stopping: shutdown.clone(),
        };
        // `set` succeeds, because only this function calls it, once.
        let (public_url, console) = (&config.http.public_url, config.http.console.as_ref());
        let _ = ready.set(http::router(Arc::new(state), public_url, console));
        tracing::info!(%public_url, "ready");
        Ok(database)
    }
}

/// Starts the scheduled jobs. Those that call Nango require a sweep interval, which is part of Nango's configuration.
fn start_jobs(
    services: &Arc<Services>,
    webhooks: Webhooks,
    sweep_interval: Option<Duration>,
    jobs: &Scheduler,
) {
    worker::start(services, jobs);
    worker::start_webhooks(&Arc::new(webhooks), services, jobs);
    if let Some(interval) = sweep_interval {
        worker::start_nango_jobs(services, interval, jobs);
    } else {
        tracing::warn!(
            "nango is disabled (NANGO_ENABLED=false): users cannot connect or disconnect, no tokens are issued, and nango's \
             webhooks are rejected"
        );
    }
}

/// Creates the authenticator of users' tokens.
fn authenticator(config: auth::Config, clock: &Clock) -> Result<Authenticator, auth::ConfigError> {
    if config.is_unbound() {
        tracing::warn!(
            "AUTH_ISSUER and AUTH_AUDIENCE are not set: every token is accepted that a key of AUTH_JWKS_URL has signed, \
             also one for another product. Set both, or at least one of them"
        );
    }
    Authenticator::new(config, clock.clone())
}

/// Migrates the schema, and logs an import of the original service's tables.
async fn migrate_schema(database: &Database, catalog: &Catalog) -> Result<(), DatabaseError> {
    if let Some(imported) = database.import_legacy(catalog, InvalidRows::Refuse).await? {
        tracing::info!(
            ?imported,
            "imported the original service's connections; its tables are kept in the schema before_patchbay"
        );
    }
    Ok(())
}

/// Registers all metrics of the service.
fn metrics_registry(http: &HttpMetrics, services: &Services) -> Registry {
    let mut registry = metrics::registry();
    metrics::register_build(&mut registry);
    metrics::register_runtime(&mut registry);
    http.register(&mut registry);
    services.statistics.register(&mut registry);
    registry
}

/// Connects and migrates with backoff, until the configured timeout or a permanent error.
async fn wait_for_database(
    config: &DatabaseConfig,
    catalog: &Catalog,
) -> Result<Database, DatabaseError> {
    let started = Instant::now();
    let mut pauses = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(5))
        .without_max_times()
        .with_jitter()
        .build();
    let prepare = async || {
        let database = Database::connect(config).await?;
        migrate_schema(&database, catalog).await?;
        Ok(database)
    };
    loop {
        let error = match prepare().await {
            Err(error) if DatabaseError::may_pass(&error) => error,
            prepared => return prepared,
        };
        match pauses.next() {
            Some(pause) if started.elapsed() + pause < config.startup_timeout => {
                tracing::warn!(%error, ?pause, "waiting for the database");
                tokio::time::sleep(pause).await;
            }
            _ => return Err(error),
        }
    }
}

/// Returns a router that responds `starting` until the service is ready.
fn router(ready: Arc<OnceLock<Router>>, metrics: &Arc<HttpMetrics>) -> Router {
    let starting = http::starting(metrics);
    let current = service_fn(move |request: Request| {
        let router = ready.get().unwrap_or(&starting).clone();
        async move { router.oneshot(request).await as Result<Response, std::convert::Infallible> }
    });
    http::with_middleware(current)
}
