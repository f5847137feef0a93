//! A complete service for one test: with its own database and the fake Nango, over real HTTP.

mod nango;
mod user;

use std::net::{Ipv4Addr, TcpListener};
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta};
use nango_sandbox::{Integration, Sandbox};
use patchbay::app::App;
use patchbay::catalog::{AccountRule, Catalog};
use patchbay::clock::Clock;
use patchbay::config::Config;
use patchbay::db::Database;
use patchbay::nango::Nango;
use patchbay::service::service_keys::ServiceKeys;
use patchbay::service::{Services, Settings, SweepReport, SweepSchedule};
use reqwest::{Client, Method, StatusCode};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::eventually::eventually;
use crate::pooler::Pooler;
use crate::test_database::{self, TestDatabase};

pub(crate) use user::{User, popup};

/// The secret that signs the tokens of the tests' users.
pub(crate) const JWT_SECRET: &str = "a secret of the tests that has more than 32 bytes";

/// The key that encrypts the secrets in the tests' databases.
pub(crate) const ENCRYPTION_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// The product's origin.
pub(crate) const ORIGIN: &str = "https://app.example.com";

/// Well below a 25-second long poll, but long enough for a busy machine: a response within
/// this time was triggered by a notification, not by the poll's timeout.
pub(crate) const PROMPT_TIMEOUT: Duration = Duration::from_secs(15);

/// If set, every test app uses a PgBouncer, which assigns each transaction to another server connection:
/// `TEST_THROUGH_POOLER=1 cargo test --test it -- api:: isolation::`.
const THROUGH_POOLER: &str = "TEST_THROUGH_POOLER";

/// If set for a test app, its accounts are looked up. Lookups call Nango and create events at any time, which most
/// tests count, so they are disabled by default.
pub(crate) const WITH_ACCOUNTS: &str = "TEST_WITH_ACCOUNTS";

/// Fewer servers than the service has connections.
pub(crate) const POOLER_SETTINGS: &str = "pool_mode = transaction\ndefault_pool_size = 4";

/// A sweep that is due, and ignores Nango's rate limit.
pub(crate) const IMMEDIATE_SWEEP: SweepSchedule = SweepSchedule {
    every: Duration::ZERO,
    pause: Duration::ZERO,
};

/// A running replica, its Nango, and its database.
pub(crate) struct TestApp {
    pub(crate) url: String,
    pub(crate) clock: Clock,
    pub(crate) sandbox: Sandbox,
    pub(crate) signing_key: String,
    pub(crate) secret_key: String,
    pub(crate) client: Client,
    /// Faults that are added to all later ones.
    lasting_faults: Value,
    settings: Vec<(&'static str, String)>,
    replica: Replica,
    _pooler: Option<Pooler>,
    database: TestDatabase,
}

/// A running service. Dropping it stops it.
pub(crate) struct Replica {
    pub(crate) url: String,
    stop: CancellationToken,
    running: Option<JoinHandle<Result<(), patchbay::app::Error>>>,
}

impl Replica {
    pub(crate) async fn start(settings: &[(&str, String)], clock: Clock) -> Self {
        // With port 0, the listener's actual port must be in the public URL.
        let config = read(settings);
        let catalog = catalog(settings, config.catalog_file.as_deref());
        let app = App::bind(config, catalog, clock).await.unwrap();
        let url = format!("http://{}", app.local_addr().unwrap());
        let stop = CancellationToken::new();
        let running = tokio::spawn(app.run(stop.clone()));
        let mut replica = Self {
            url,
            stop,
            running: Some(running),
        };
        replica.ready().await;
        replica
    }

    async fn ready(&mut self) {
        let client = client();
        eventually(async || {
            if self.running.as_ref().is_some_and(JoinHandle::is_finished) {
                panic!("the service has ended: {:?}", self.stop().await);
            }
            let answer = client.get(format!("{}/readyz", self.url)).send().await;
            answer.is_ok_and(|answer| answer.status() == StatusCode::OK)
        })
        .await;
    }

    /// Stops like after a signal. Returns the result of the run.
    pub(crate) async fn stop(&mut self) -> Result<(), patchbay::app::Error> {
        self.stop.cancel();
        match self.running.take() {
            Some(running) => running.await.unwrap(),
            None => Ok(()),
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Returns a client for plain HTTP that follows no redirect and stores no cookies.
pub(crate) fn client() -> Client {
    Client::builder()
        // Reading the system's root certificates takes longer than most requests.
        .tls_certs_only([])
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_secs(90))
        .build()
        .unwrap()
}

/// Returns a manual clock, which starts at the same time in every test.
pub(crate) fn test_clock() -> Clock {
    Clock::manual(DateTime::from_timestamp(1_800_000_000, 0).unwrap())
}

/// Returns the sandbox's view of a clock.
pub(crate) fn sandbox_clock(clock: &Clock) -> nango_sandbox::Clock {
    let clock = clock.clone();
    Arc::new(move || clock.now())
}

/// Returns the configuration of the fake Nango of a service at `url`.
fn sandbox_config(url: &str, secret_key: &str, signing_key: &str) -> nango_sandbox::Config {
    nango_sandbox::Config {
        secret_key: secret_key.to_owned(),
        webhook_signing_key: signing_key.to_owned(),
        webhook_url: Some(format!("{url}/api/v1/webhooks/nango")),
        jwt_secret: JWT_SECRET.into(),
        integrations: integrations(),
        rate_limit: 1_000_000,
        webhook_retries: vec![Duration::from_millis(100), Duration::from_millis(300)],
        ..nango_sandbox::Config::default()
    }
}

/// The settings that a test may change before the start: the clock of the service and its Nango, and the sandbox's
/// configuration.
pub(crate) struct Setup {
    pub(crate) clock: Clock,
    nango: nango_sandbox::Config,
}

impl Deref for Setup {
    type Target = nango_sandbox::Config;

    fn deref(&self) -> &nango_sandbox::Config {
        &self.nango
    }
}

impl DerefMut for Setup {
    fn deref_mut(&mut self) -> &mut nango_sandbox::Config {
        &mut self.nango
    }
}

impl TestApp {
    /// Starts a test app with the default settings.
    pub(crate) async fn new() -> Self {
        Self::with(&[]).await
    }

    /// Starts a test app with these variables added or replaced.
    pub(crate) async fn with(settings: &[(&'static str, &str)]) -> Self {
        Self::build(settings, |_| {}).await
    }

    /// Starts a test app with the system's clock until it is advanced, for tests with separate processes.
    pub(crate) async fn with_system_clock() -> Self {
        Self::build(&[], |nango| {
            nango.clock = Clock::manual(Clock::System.now());
        })
        .await
    }

    /// Starts a test app with a changed Nango, which shares the service's clock. The service's own address is the
    /// origin of the default `webhook_url`.
    pub(crate) async fn build(
        settings: &[(&'static str, &str)],
        change: impl FnOnce(&mut Setup),
    ) -> Self {
        let database = Box::pin(test_database::migrated()).await;
        let pooler = match std::env::var_os(THROUGH_POOLER) {
            Some(_) => {
                let pooler = Pooler::start(&database, POOLER_SETTINGS).await;
                Some(pooler.expect("PgBouncer is installed: without it nothing is tested"))
            }
            None => None,
        };
        Self::build_on(database, pooler, settings, change).await
    }

    /// Starts a test app with this database, through this pooler if there is one.
    pub(crate) async fn build_on(
        database: TestDatabase,
        pooler: Option<Pooler>,
        settings: &[(&'static str, &str)],
        change: impl FnOnce(&mut Setup),
    ) -> Self {
        let database_url = match &pooler {
            Some(pooler) => pooler.url(&database),
            None => database.url().to_owned(),
        };
        let (secret_key, signing_key) = (Uuid::new_v4().to_string(), Uuid::new_v4().to_string());
        // The calls to Nango contain the service's address, so its port is needed before.
        let port = free_port();
        let url = format!("http://127.0.0.1:{port}");
        let nango = sandbox_config(&url, &secret_key, &signing_key);
        let mut setup = Setup {
            clock: test_clock(),
            nango,
        };
        change(&mut setup);
        let Setup { clock, mut nango } = setup;
        nango.clock = sandbox_clock(&clock);
        let sandbox = Sandbox::start(nango).await.unwrap();
        let mut all = vec![
            ("HOST", Ipv4Addr::LOCALHOST.to_string()),
            ("PORT", port.to_string()),
            ("PUBLIC_URL", url.clone()),
            ("DATABASE_URL", database_url),
            ("DATABASE_POOL_SIZE", "5".to_owned()),
            ("NANGO_BASE_URL", format!("http://{}", sandbox.address())),
            // Some tests have a PUBLIC_URL that is not local.
            ("NANGO_PUBLIC_URL", format!("http://{}", sandbox.address())),
            ("NANGO_SECRET_KEY", secret_key.clone()),
            ("NANGO_WEBHOOK_SIGNING_KEY", signing_key.clone()),
            // Long enough for a busy machine, and shorter than any simulated latency.
            ("NANGO_TIMEOUT_SECONDS", "8".to_owned()),
            ("AUTH_JWT_SECRET", JWT_SECRET.to_owned()),
            ("ENCRYPTION_KEY", ENCRYPTION_KEY.to_owned()),
            // Tests expect specific connectors.
            ("CATALOG", "all".to_owned()),
            // Tests start sweeps themselves.
            ("SWEEP_INTERVAL_SECONDS", "86400".to_owned()),
            ("CORS_ALLOWED_ORIGINS", ORIGIN.to_owned()),
            // The clock stands still in most tests, so quotas would not refill.
            ("RATE_LIMIT_USER_PER_MINUTE", "0".to_owned()),
            ("RATE_LIMIT_CONNECT_PER_MINUTE", "0".to_owned()),
            ("RATE_LIMIT_ADDRESS_PER_MINUTE", "0".to_owned()),
            ("SHUTDOWN_DELAY_SECONDS", "0".to_owned()),
        ];
        extend(&mut all, settings);
        let replica = Replica::start(&all, clock.clone()).await;
        suppress_initial_sweep(read(&all).database.url.expose_secret()).await;
        Self {
            url,
            clock,
            sandbox,
            signing_key,
            secret_key,
            client: client(),
            lasting_faults: json!({}),
            settings: all,
            replica,
            _pooler: pooler,
            database,
        }
    }

    /// Returns the variables of the service. Later ones of the same name override earlier ones.
    pub(crate) fn settings(&self, others: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
        let mut all = self.settings.clone();
        extend(&mut all, others);
        all
    }

    /// Starts another replica with the same database and Nango, on its own port.
    pub(crate) async fn replica(&self, settings: &[(&'static str, &str)]) -> Replica {
        let mut all = self.settings(&[("PORT", "0")]);
        extend(&mut all, settings);
        Replica::start(&all, self.clock.clone()).await
    }

    /// Stops the service like after a signal.
    pub(crate) async fn stop(&mut self) -> Result<(), patchbay::app::Error> {
        self.replica.stop().await
    }

    /// Returns the use cases with the same database and Nango, for operations without a route.
    pub(crate) async fn service(&self) -> Arc<Services> {
        self.service_with(&[]).await
    }

    /// Returns the use cases with other settings.
    pub(crate) async fn service_with(&self, others: &[(&'static str, &str)]) -> Arc<Services> {
        let all = self.settings(others);
        let config = read(&all);
        let nango = config.nango.unwrap();
        let settings = Settings {
            public_url: config.http.public_url,
            catalog_mode: config.catalog_mode,
            webhook_base_url: nango.webhook_base_url,
            token_cache: config.token_cache_ttl,
            history: config.retention,
            encryption: config.encryption,
        };
        let connections = Services::new(
            Database::connect(&config.database).await.unwrap(),
            Arc::new(catalog(&all, config.catalog_file.as_deref())),
            Some(Nango::with_clock(nango.client, self.clock.clone()).unwrap()),
            self.clock.clone(),
            settings,
        );
        Arc::new(connections.await.unwrap())
    }

    /// Returns the service keys of the same database.
    pub(crate) async fn keys(&self) -> ServiceKeys {
        let database = test_database::pool(self.database.url(), 1).await.unwrap();
        ServiceKeys::new(database, Vec::new(), self.clock.clone())
    }

    /// Runs one sweep over all of Nango's connections.
    pub(crate) async fn sweep(&self) -> SweepReport {
        let service = self.service().await;
        let report = service
            .sweeper
            .sweep(IMMEDIATE_SWEEP, &CancellationToken::new())
            .await;
        report.unwrap().expect("no other sweep is in progress")
    }

    /// Sweeps every minute, six times: then absences are confirmed. Returns how many connections became
    /// missing.
    pub(crate) async fn sweep_until_missing(&self) -> usize {
        let mut missing = 0;
        for _ in 0..6 {
            self.advance(TimeDelta::minutes(1));
            missing += self.sweep().await.missing;
        }
        missing
    }

    /// Opens a connection to the test app's database.
    pub(crate) async fn sql(&self) -> PgConnection {
        PgConnection::connect(self.database.url()).await.unwrap()
    }

    /// Returns a user of the product.
    pub(crate) async fn user(&self, name: &str) -> User<'_> {
        let token = self
            .control("token", Method::POST, json!({ "user": name }))
            .await["token"]
            .clone();
        User {
            app: self,
            token: token.as_str().unwrap().to_owned(),
            url: self.url.clone(),
        }
    }

    /// Advances the clock of the service and Nango.
    pub(crate) fn advance(&self, time: TimeDelta) {
        self.clock.advance(time);
    }
}

/// Returns an integration for every connector that supports one.
pub(crate) fn integrations() -> Vec<Integration> {
    let catalog = Catalog::builtin();
    let of = |connector: &patchbay::catalog::Connector| {
        Some(Integration {
            unique_key: connector.integration_key.clone(),
            provider: connector.provider.clone()?,
            display_name: connector.name.clone(),
            auth_mode: connector.auth_mode?.to_string(),
        })
    };
    catalog.iter().filter_map(of).collect()
}

/// Marks the sweep as finished, because a first sweep is due immediately, and tests start sweeps themselves.
async fn suppress_initial_sweep(database: &str) {
    // A pooler may be in front of the database, so session settings and prepared statements are avoided.
    let options: PgConnectOptions = database.parse().unwrap();
    let mut sql = options.extra_float_digits(None).connect().await.unwrap();
    let done = "insert into job (name, finished_at) values ('sweep', now()) on conflict do nothing";
    sqlx::raw_sql(done).execute(&mut sql).await.unwrap();
}

/// Returns a free port below the system's ephemeral ports, so that no socket with an automatic port takes it.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Concurrent test processes start at different ports.
    let start = std::process::id() * 131;
    loop {
        let offset = start + u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 20_000 + u16::try_from(offset % 12_000).unwrap();
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// Returns the catalog with only the operator's account rules, unless a test sets [`WITH_ACCOUNTS`].
fn catalog(settings: &[(&str, String)], file: Option<&Path>) -> Catalog {
    let catalog = Catalog::load(file).unwrap();
    if settings.iter().any(|(name, _)| *name == WITH_ACCOUNTS) {
        return catalog;
    }
    catalog.with_default_account_rule(&AccountRule::default())
}

/// Reads variables like the program reads its environment. Later ones of the same name override earlier ones.
pub(crate) fn read(settings: &[(&str, String)]) -> Config {
    let lookup = |name: &str| {
        let found = settings.iter().rev().find(|(key, _)| *key == name);
        found.map(|(_, value)| value.clone())
    };
    Config::read(&lookup).unwrap()
}

fn extend(all: &mut Vec<(&'static str, String)>, settings: &[(&'static str, &str)]) {
    all.extend(
        settings
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned())),
    );
}
