//! Builds the parts, serves, and drains on a signal.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::Response;
use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::{ServiceExt, service_fn};

use crate::auth::{self, Authenticator};
use crate::catalog::Catalog;
use crate::clock::Clock;
use crate::config::{Config, DatabaseConfig};
use crate::connections::service::{self, Connections};
use crate::connections::{Database, DatabaseError};
use crate::http::{self, AppState};
use crate::keys::ServiceKeys;
use crate::nango::{self, Nango};
use crate::worker;

/// How long requests that are under way may take after a signal to stop.
const DRAIN: Duration = Duration::from_secs(20);

/// Why the service did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {error}; PORT names another port")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        error: std::io::Error,
    },
    /// The way to verify tokens is not right.
    #[error(transparent)]
    Auth(#[from] auth::ConfigError),
    /// The way to Nango is not right.
    #[error(transparent)]
    Nango(#[from] nango::ConfigError),
    /// The database cannot be used.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The catalog could not be written to the database.
    #[error(transparent)]
    Service(#[from] service::Error),
    /// The server broke.
    #[error("the server broke: {0}")]
    Serve(#[from] std::io::Error),
}

/// A service that has its address, and is not yet serving.
#[derive(Debug)]
pub struct App {
    listener: TcpListener,
    config: Config,
    catalog: Arc<Catalog>,
    clock: Clock,
}

impl App {
    /// Takes the address.
    ///
    /// # Errors
    /// When the address is taken.
    pub async fn bind(config: Config, catalog: Catalog, clock: Clock) -> Result<Self, Error> {
        let address = config.http.listen;
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| Error::Listen { address, error })?;
        Ok(Self {
            listener,
            config,
            catalog: Arc::new(catalog),
            clock,
        })
    }

    /// The address that is listened on.
    ///
    /// # Errors
    /// As the system.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` is cancelled, then lets what is under way finish.
    ///
    /// # Errors
    /// When the database is not there in time, or cannot be used.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        let Self {
            listener,
            config,
            catalog,
            clock,
        } = self;
        let ready = Arc::new(OnceLock::new());
        let tasks = TaskTracker::new();
        let server = tokio::spawn(serve(listener, ready.clone(), stop.clone()));
        let started = start(&config, catalog, clock, &ready, &tasks, &stop).await;
        let parts = match started {
            Ok(parts) => parts,
            Err(error) => {
                stop.cancel();
                server.abort();
                return Err(error);
            }
        };
        // Without parts, it was told to stop before there was one.
        let served = server.await.map_err(std::io::Error::other)?;
        tasks.close();
        if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
            tracing::warn!(
                "some work was not done in time: it is taken up again by the next start"
            );
        }
        if let Some((database, connections)) = parts {
            // The last answers have been given: what they used is written down.
            connections.write_uses().await?;
            database.close().await;
        }
        Ok(served?)
    }
}

/// Waits for the database, brings it up to date, and opens the doors; `None` when told to stop before.
async fn start(
    config: &Config,
    catalog: Arc<Catalog>,
    clock: Clock,
    ready: &OnceLock<Router>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<Option<(Database, Arc<Connections>)>, Error> {
    let nango = config
        .nango
        .as_ref()
        .map(|nango| Nango::new(nango.client.clone()))
        .transpose()?;
    let auth = Arc::new(Authenticator::new(config.auth.clone(), clock.clone())?);
    let database = tokio::select! {
        database = wait_for_database(&config.database) => database?,
        () = stop.cancelled() => return Ok(None),
    };
    database.migrate().await?;
    let settings = service::Settings {
        public_url: config.http.public_url.clone(),
        token_cache: config.token_cache,
    };
    let keys = ServiceKeys::new(database.clone(), config.service_keys.clone(), clock.clone());
    let connections =
        Connections::new(database.clone(), catalog, nango.clone(), clock, settings).await?;
    let connections = Arc::new(connections);
    worker::start(&connections, tasks, stop);
    if let Some(nango) = &config.nango {
        worker::start_upstream(&connections, nango.sweep_every, tasks, stop);
    }
    let state = AppState {
        connections: connections.clone(),
        auth,
        nango,
        signing_keys: config
            .nango
            .as_ref()
            .map(|nango| Arc::new(nango.signing_keys.clone())),
        allowed_origins: Arc::new(config.http.allowed_origins.clone()),
        keys: Arc::new(keys),
        stop: stop.clone(),
    };
    // Only this function sets it, once.
    let _ = ready.set(http::router(state, config.http.console.as_ref()));
    tracing::info!(public_url = %config.http.public_url, "ready");
    Ok(Some((database, connections)))
}

/// Connects, with growing pauses, until the configured time is over or waiting makes no sense.
async fn wait_for_database(config: &DatabaseConfig) -> Result<Database, DatabaseError> {
    let started = Instant::now();
    let mut pauses = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(5))
        .without_max_times()
        .with_jitter()
        .build();
    loop {
        let error = match Database::connect(config).await {
            Err(error @ DatabaseError::Unreachable(_)) => error,
            connected => return connected,
        };
        match pauses.next() {
            Some(pause) if started.elapsed() + pause < config.wait => {
                tracing::warn!(%error, ?pause, "waiting for the database");
                tokio::time::sleep(pause).await;
            }
            _ => return Err(error),
        }
    }
}

/// Serves what there is: until the service is ready, only that it is starting.
async fn serve(
    listener: TcpListener,
    ready: Arc<OnceLock<Router>>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let starting = http::starting();
    let current = service_fn(move |request: Request| {
        let router = ready.get().unwrap_or(&starting).clone();
        async move { router.oneshot(request).await as Result<Response, std::convert::Infallible> }
    });
    let router = http::layered(Router::new().fallback_service(current));
    let graceful =
        axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
    let drained = async {
        stop.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        served = graceful.into_future() => served,
        () = drained => {
            tracing::warn!("some requests did not finish in time");
            Ok(())
        }
    }
}
