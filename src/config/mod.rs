//! The configuration: the environment, parsed into one struct for each part of the service.
//!
//! All configuration errors are found before the start and reported together, each with the name of its variable.

use crate::http::{HttpConfig, LimitsConfig};
use crate::nango::NangoConfig;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use chrono::TimeDelta;
use secrecy::SecretString;
use url::Url;

use crate::auth::service_keys::EnvironmentKey;
use crate::catalog::{Catalog, CatalogMode};
use crate::db::DatabaseConfig;
use crate::encryption::Encryption;
use crate::environment::{Environment, Variable};
use crate::net::address_guard::Networks;

use crate::telemetry::{LogFilter, LogFormat};

/// The configuration of `serve`.
#[derive(Clone, Debug)]
pub struct Config {
    /// The configuration of the HTTP API.
    pub http: HttpConfig,
    /// The rate and concurrency limits.
    pub limits: LimitsConfig,
    /// The database.
    pub database: DatabaseConfig,
    /// Nango; `None` if `NANGO_ENABLED` is false.
    pub nango: Option<NangoConfig>,
    /// The verification of users' tokens.
    pub auth: crate::auth::Config,
    /// `ENCRYPTION_KEY`: the key that encrypts secrets in the database; two keys during a rotation.
    pub encryption: Encryption,
    /// `TOKEN_CACHE_TTL_SECONDS`: the TTL of the token cache; 0 disables it.
    pub token_cache_ttl: Duration,
    /// `RETENTION_DAYS`: how long events, attempts and token accesses are retained.
    pub retention: TimeDelta,
    /// `SERVICE_API_KEYS`: keys of the product's own services, in addition to those that `patchbay keys` creates.
    pub service_keys: Vec<EnvironmentKey>,
    /// `WEBHOOK_ALLOWED_NETWORKS`: private networks that may receive webhooks.
    pub webhook_networks: Networks,
    /// `CATALOG_FILE`: a file that overrides or adds connectors.
    pub catalog_file: Option<PathBuf>,
    /// `CATALOG`: which connectors are offered to users.
    pub catalog_mode: CatalogMode,
    /// `LOG_FORMAT`: the format of log lines.
    pub log_format: LogFormat,
    /// `RUST_LOG`: which log lines are written.
    pub log_filter: LogFilter,
    /// `METRICS_TOKEN`: the tokens that allow access to `/metrics`: one, or two during a rotation. Without one, access
    /// is denied.
    pub metrics_tokens: Vec<SecretString>,
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`: the collector that traces are sent to.
    pub otlp_endpoint: Option<Url>,
}

/// All errors in the environment, one per line.
#[derive(Debug, thiserror::Error)]
pub struct ConfigError {
    /// One sentence for each problem, which starts with the variable's name.
    pub problems: Vec<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the configuration is incomplete or invalid:")?;
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl Config {
    /// Reads the configuration through `lookup`, which returns a variable's value if it is set.
    ///
    /// # Errors
    /// Lists every missing or invalid variable.
    pub fn read<V: Into<Variable>>(
        lookup: &dyn Fn(&str) -> Option<V>,
    ) -> Result<Self, ConfigError> {
        #[expect(
            clippy::redundant_closure_for_method_calls,
            reason = "the method is not general over lifetimes"
        )]
        read_with(lookup, |env| env.config())
    }

    /// Reads only the configuration of the database.
    ///
    /// # Errors
    /// Lists every missing or invalid variable.
    pub fn read_database<V: Into<Variable>>(
        lookup: &dyn Fn(&str) -> Option<V>,
    ) -> Result<DatabaseConfig, ConfigError> {
        #[expect(
            clippy::redundant_closure_for_method_calls,
            reason = "the method is not general over lifetimes"
        )]
        read_with(lookup, |env| env.database())
    }

    /// Reads only the configuration of `patchbay webhooks`: the database, the allowed networks, and the encryption
    /// keys.
    ///
    /// # Errors
    /// Lists every missing or invalid variable.
    pub fn read_webhooks<V: Into<Variable>>(
        lookup: &dyn Fn(&str) -> Option<V>,
    ) -> Result<(DatabaseConfig, Networks, Encryption), ConfigError> {
        read_with(lookup, |env| {
            let networks = env.webhook_networks();
            let encryption = env.encryption();
            Some((env.database()?, networks, encryption?))
        })
    }

    /// Reads only the address that `serve` listens on, for a client on the same machine.
    ///
    /// # Errors
    /// Lists every invalid variable.
    pub fn read_listen<V: Into<Variable>>(
        lookup: &dyn Fn(&str) -> Option<V>,
    ) -> Result<SocketAddr, ConfigError> {
        read_with(lookup, |env| Some(env.listen(Ipv4Addr::LOCALHOST.into())))
    }

    /// Returns the names of all variables, in the order in which they are read.
    pub fn variables() -> Vec<&'static str> {
        let mut env = Environment::new(&|_| None);
        env.config();
        env.names
    }
}

/// Returns the result of `read`, or the problems that it has reported. `read` returns `None` only with a problem.
fn read_with<V: Into<Variable>, T>(
    lookup: &dyn Fn(&str) -> Option<V>,
    read: impl FnOnce(&mut Environment<'_>) -> Option<T>,
) -> Result<T, ConfigError> {
    let lookup = |name: &str| lookup(name).map(Into::into);
    let mut env = Environment::new(&lookup);
    match read(&mut env) {
        Some(read) if env.problems.is_empty() => Ok(read),
        _ => Err(ConfigError {
            problems: env.problems,
        }),
    }
}

impl Environment<'_> {
    /// Reads every variable, so that every problem is reported. Returns `None` only with a problem.
    fn config(&mut self) -> Option<Config> {
        let limits = self.limits();
        let http = self.http(limits.trusted_proxy_hops);
        let database = self.database();
        let encryption = self.encryption();
        let nango = self.nango(http.as_ref().map(|http| &http.public_url));
        let auth = self.auth();
        let token_cache = self.seconds("TOKEN_CACHE_TTL_SECONDS", 60);
        let history = self.retention();
        let service_keys = self.service_keys();
        let webhook_networks = self.webhook_networks();
        let catalog_file = self.catalog_file();
        let catalog_mode = self.with_default("CATALOG", CatalogMode::default());
        let log_format = self.with_default("LOG_FORMAT", LogFormat::Json);
        let log_filter = self.optional("RUST_LOG").unwrap_or_default();
        let metrics_tokens = self.metrics_tokens();
        let otlp_endpoint = self.otlp_endpoint();
        Some(Config {
            http: http?,
            limits,
            database: database?,
            encryption: encryption?,
            nango: nango?,
            auth,
            token_cache_ttl: token_cache,
            retention: history,
            service_keys,
            webhook_networks,
            catalog_file,
            catalog_mode,
            log_format,
            log_filter,
            metrics_tokens,
            otlp_endpoint,
        })
    }

    fn retention(&mut self) -> TimeDelta {
        let days: u16 = self.positive("RETENTION_DAYS", 400);
        TimeDelta::days(days.into())
    }

    fn catalog_file(&mut self) -> Option<PathBuf> {
        let file: PathBuf = self.optional("CATALOG_FILE")?;
        if let Err(error) = Catalog::check_readable(&file) {
            self.problems.push(error.to_string());
        }
        Some(file)
    }

    fn webhook_networks(&mut self) -> Networks {
        self.with_default("WEBHOOK_ALLOWED_NETWORKS", Networks::default())
    }
}
