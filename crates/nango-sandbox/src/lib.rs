//! A fake Nango and OAuth provider in one process, for development and tests.
//!
//! It behaves like the recordings of a real Nango server, which `tests/it/nango_contract` replays. It depends on
//! nothing else in Patchbay and is used over HTTP only. Three parts share one port: Nango's API and popup pages, the
//! provider under `/provider`, and the controls under `/sandbox`: tokens for the application, faults, and records of
//! calls and webhooks. All state is in memory.

mod accounts;
mod auth;
mod callback_page;
mod connect_ui;
mod connections;
mod control;
mod credentials;
mod error;
mod faults;
mod front;
mod grants;
mod import;
mod integrations;
mod metadata;
mod oauth;
mod outbound;
mod provider;
mod provider_pages;
mod proxy;
mod query;
mod refresh;
mod requirements;
mod schema;
mod server;
mod sessions;
mod state;
mod times;
mod view;
mod webhooks;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

/// Returns the current time.
pub type Clock = Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>;

/// The configuration of a sandbox.
pub struct Config {
    /// The address to listen on. Port 0 takes any free port.
    pub listen: SocketAddr,
    /// The address that browsers and `connect_link` use, without a trailing slash;
    /// `http://localhost:<port>` when `None`.
    pub public_url: Option<String>,
    /// The environment's API key, a UUID v4.
    pub secret_key: String,
    /// The key that signs webhooks; not the API key.
    pub webhook_signing_key: String,
    /// The environment's webhook URL; sessions may override it.
    pub webhook_url: Option<String>,
    /// The environment's callback URL. If set, it is the provider's `redirect_uri` and must redirect the browser to
    /// `/oauth/callback` with an unchanged query.
    pub callback_url: Option<String>,
    /// The origins whose pages may use the controls under `/sandbox`, besides its own.
    pub allowed_origins: Vec<String>,
    /// The HS256 secret with which `POST /sandbox/token` signs application tokens.
    pub jwt_secret: SecretString,
    /// The initial integrations. More can be created through the API.
    pub integrations: Vec<Integration>,
    /// The clock, on which expiry depends.
    pub clock: Clock,
    /// The rate limit: calls per minute.
    pub rate_limit: u32,
    /// When a webhook is retried after a 5xx or a failed connection, counted from the first try.
    pub webhook_retries: Vec<Duration>,
}

/// One integration of the environment.
#[derive(Clone, Debug)]
pub struct Integration {
    /// The `provider_config_key`.
    pub unique_key: String,
    /// The provider template, such as `github`.
    pub provider: String,
    /// The display name.
    pub display_name: String,
    /// Nango's name of its auth mode, such as `OAUTH2` or `API_KEY`.
    pub auth_mode: String,
}

impl Default for Config {
    /// Returns a configuration with a free port on loopback, new random keys, no integrations, and Nango's own limits.
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            public_url: None,
            secret_key: Uuid::new_v4().to_string(),
            webhook_signing_key: Uuid::new_v4().to_string(),
            webhook_url: None,
            callback_url: None,
            allowed_origins: Vec::new(),
            jwt_secret: Uuid::new_v4().to_string().into(),
            integrations: Vec::new(),
            clock: Arc::new(system_time),
            rate_limit: 200,
            webhook_retries: vec![Duration::from_secs(3), Duration::from_secs(9)],
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the default clock is the system's"
)]
fn system_time() -> DateTime<Utc> {
    Utc::now()
}

/// A connection to store without a call.
pub struct NewConnection {
    /// Its id.
    pub connection_id: String,
    /// Its `provider_config_key`.
    pub integration: String,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Its time of creation, later than that of every stored connection.
    pub created_at: DateTime<Utc>,
}

/// A running sandbox. Dropping it stops it.
pub struct Sandbox {
    app: state::App,
    url: String,
    address: SocketAddr,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Sandbox {
    /// Listens and serves in the background.
    ///
    /// # Errors
    /// If the address cannot be bound, or no HTTP client for webhooks can be built.
    pub async fn start(config: Config) -> io::Result<Self> {
        let listener = TcpListener::bind(config.listen).await?;
        let address = listener.local_addr()?;
        let url = config
            .public_url
            .clone()
            .unwrap_or_else(|| format!("http://localhost:{}", address.port()));
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let app = state::App::new(config, url.clone(), tasks.clone(), stop.clone())?;
        tasks.spawn(server::serve(
            listener,
            server::router(app.clone()),
            tasks.clone(),
            stop.clone(),
        ));
        Ok(Self {
            app,
            url,
            address,
            stop,
            tasks,
        })
    }

    /// Returns the public URL, without a trailing slash.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the address that the sandbox listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stores connections whose ids are new, oldest first and without webhooks: a million take seconds.
    pub fn store_connections(&self, connections: impl IntoIterator<Item = NewConnection>) {
        let mut state = self.app.lock();
        for connection in connections {
            state.store_new(connection);
        }
    }

    /// Returns how many calls with the secret key have been received.
    pub fn received_calls(&self) -> u64 {
        self.app.lock().last_call
    }

    /// Closes all connections, discards unsent webhooks, and waits for all tasks.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
