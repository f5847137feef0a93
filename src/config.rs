//! The environment, read once into one typed struct per concern.
//!
//! Every problem is found before anything starts, and all of them are told at
//! once, each with the name of its variable.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use secrecy::SecretString;
use sqlx::postgres::PgConnectOptions;
use url::Url;

use crate::auth;
use crate::keys::GivenKey;
use crate::nango;
use crate::nango::webhook::SigningKeys;

/// What a `DATABASE_URL` looks like.
const DATABASE_URL_FORM: &str = "postgres://user:password@host:5432/database";

/// Everything that `serve` needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where and how HTTP is served.
    pub http: HttpConfig,
    /// The database.
    pub database: DatabaseConfig,
    /// Nango; `None` when `NANGO_ENABLED` is false.
    pub nango: Option<NangoConfig>,
    /// How a user's token is verified.
    pub auth: auth::Config,
    /// `TOKEN_CACHE_SECONDS`: for how long a token may be handed out of memory; 0 keeps none.
    pub token_cache: Duration,
    /// `SERVICE_API_KEYS`: keys of the product's own services, besides those that `patchbay keys` makes.
    pub service_keys: Vec<GivenKey>,
    /// `CATALOG_FILE`: a file that overrides or adds connectors.
    pub catalog_file: Option<PathBuf>,
    /// `LOG_FORMAT`: how logs are written.
    pub log_format: LogFormat,
}

/// Where and how HTTP is served.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// `HOST` and `PORT`: the address to listen on.
    pub listen: SocketAddr,
    /// `PUBLIC_URL`: how browsers and Nango reach this service, without a trailing slash in its path.
    pub public_url: Url,
    /// `CORS_ALLOWED_ORIGINS`: the product's own origins, for CORS and for the popup's messages.
    pub allowed_origins: Vec<String>,
    /// `CONSOLE`: the console, where it is served.
    pub console: Option<ConsoleConfig>,
}

/// The console: pages of this service's own, on which a user manages their connections.
#[derive(Clone, Debug, Default)]
pub struct ConsoleConfig {
    /// Where users to try it as, and faults to try, are found. No variable names it.
    pub controls: Option<Url>,
}

/// The database.
#[derive(Clone, Debug)]
pub struct DatabaseConfig {
    /// `DATABASE_URL`.
    pub url: SecretString,
    /// `DATABASE_POOL_SIZE`: connections a replica opens at the most.
    pub pool_size: u32,
    /// `DATABASE_WAIT_SECONDS`: how long a starting replica waits for the database.
    pub wait: Duration,
}

/// Nango: its API, and what its webhooks are signed with.
#[derive(Clone, Debug)]
pub struct NangoConfig {
    /// `NANGO_BASE_URL`, `NANGO_SECRET_KEY` and `NANGO_TIMEOUT_SECONDS`.
    pub client: nango::Config,
    /// `SWEEP_INTERVAL_SECONDS`: how often all that Nango holds is compared with the table.
    pub sweep_every: Duration,
    /// `NANGO_WEBHOOK_SIGNING_KEY`: one key, or two separated by a comma while it is rotated.
    pub signing_keys: SigningKeys,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line, for machines.
    Json,
    /// For people.
    Pretty,
}

impl FromStr for LogFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "json" => Ok(Self::Json),
            "pretty" => Ok(Self::Pretty),
            _ => Err("must be json or pretty"),
        }
    }
}

/// All that is wrong with the environment, a line each.
#[derive(Debug, thiserror::Error)]
pub struct ConfigError {
    /// One sentence a problem, each beginning with its variable's name.
    pub problems: Vec<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the configuration is missing something, or has it wrong:"
        )?;
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl Config {
    /// Reads the configuration through `lookup`, which answers a variable's value if it is set.
    ///
    /// # Errors
    /// Names every variable that is missing or wrong.
    pub fn read(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mut env = Environment {
            lookup,
            names: Vec::new(),
            problems: Vec::new(),
        };
        let config = env.config();
        match config {
            Some(config) if env.problems.is_empty() => Ok(config),
            _ => Err(ConfigError {
                problems: env.problems,
            }),
        }
    }

    /// Reads only what names the database, for commands that need nothing else.
    ///
    /// # Errors
    /// Names what of it is missing or wrong.
    pub fn read_database(
        lookup: &dyn Fn(&str) -> Option<String>,
    ) -> Result<DatabaseConfig, ConfigError> {
        let mut env = Environment {
            lookup,
            names: Vec::new(),
            problems: Vec::new(),
        };
        match env.database() {
            Some(database) if env.problems.is_empty() => Ok(database),
            _ => Err(ConfigError {
                problems: env.problems,
            }),
        }
    }

    /// The names of all variables, in the order in which they are read.
    #[must_use]
    pub fn variables() -> Vec<&'static str> {
        let mut env = Environment {
            lookup: &|_| None,
            names: Vec::new(),
            problems: Vec::new(),
        };
        env.config();
        env.names
    }
}

/// Reads variables, and remembers their names and what was wrong with them.
struct Environment<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    names: Vec<&'static str>,
    problems: Vec<String>,
}

impl Environment<'_> {
    /// Reads every variable, so that every problem is found: `None` only where one was noted.
    fn config(&mut self) -> Option<Config> {
        let http = self.http();
        let database = self.database();
        let nango = self.nango();
        let auth = self.auth();
        let token_cache = self.seconds("TOKEN_CACHE_SECONDS", 60);
        let service_keys = self.service_keys();
        let catalog_file = self.optional("CATALOG_FILE");
        let log_format = self.or("LOG_FORMAT", LogFormat::Json);
        Some(Config {
            http: http?,
            database: database?,
            nango: nango?,
            auth,
            token_cache,
            service_keys,
            catalog_file,
            log_format,
        })
    }

    fn http(&mut self) -> Option<HttpConfig> {
        let host = self.or("HOST", IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let port = self.or("PORT", 8000);
        let problems = self.problems.len();
        let given: Option<Url> = self.optional("PUBLIC_URL");
        // Render names a web service's own address in this variable.
        let own: Option<Url> = self.optional("RENDER_EXTERNAL_URL");
        let public_url = given.or(own);
        if public_url.is_none() && self.problems.len() == problems {
            self.missing(
                "PUBLIC_URL",
                "the address at which browsers and Nango reach this service",
            );
        }
        let origins: Option<String> = self.optional("CORS_ALLOWED_ORIGINS");
        let allowed_origins = self.origins(&origins.unwrap_or_default());
        let console = self.or("CONSOLE", false).then(ConsoleConfig::default);
        Some(HttpConfig {
            listen: SocketAddr::new(host, port),
            public_url: self.web_address("PUBLIC_URL", public_url?)?,
            allowed_origins,
            console,
        })
    }

    fn database(&mut self) -> Option<DatabaseConfig> {
        let url = self.required("DATABASE_URL", DATABASE_URL_FORM);
        let url = url.and_then(|url| self.database_url(url));
        let pool_size = self.or("DATABASE_POOL_SIZE", 10);
        if pool_size == 0 {
            self.problems
                .push("DATABASE_POOL_SIZE must be at least 1".to_owned());
        }
        let wait = self.seconds("DATABASE_WAIT_SECONDS", 60);
        Some(DatabaseConfig {
            url: url?,
            pool_size,
            wait,
        })
    }

    /// The address with its password is in no message: what is wrong with it is told without it.
    fn database_url(&mut self, text: String) -> Option<SecretString> {
        let wrong = match text.parse::<Url>() {
            Err(error) => error.to_string(),
            Ok(url) if !matches!(url.scheme(), "postgres" | "postgresql") => {
                "it is not a PostgreSQL's".to_owned()
            }
            Ok(_) => match text.parse::<PgConnectOptions>() {
                Ok(_) => return Some(text.into()),
                Err(error) => root_cause(&error),
            },
        };
        self.problems.push(format!(
            "DATABASE_URL cannot be read: {wrong}; it looks like {DATABASE_URL_FORM}"
        ));
        None
    }

    /// The outer option is `None` where something is wrong, the inner one where Nango is switched off.
    fn nango(&mut self) -> Option<Option<NangoConfig>> {
        let enabled = self.or("NANGO_ENABLED", true);
        let base_url = self.optional("NANGO_BASE_URL");
        let base_url = match base_url {
            Some(url) => self.web_address("NANGO_BASE_URL", url),
            None => "https://api.nango.dev".parse().ok(),
        };
        let timeout = self.seconds("NANGO_TIMEOUT_SECONDS", 10);
        if timeout.is_zero() {
            self.problems
                .push("NANGO_TIMEOUT_SECONDS must be at least 1".to_owned());
        }
        let sweep_every = self.seconds("SWEEP_INTERVAL_SECONDS", 300);
        if sweep_every.is_zero() {
            self.problems
                .push("SWEEP_INTERVAL_SECONDS must be at least 1".to_owned());
        }
        // Connect sessions have replaced Nango's public key. It is still read so that an
        // environment made for the predecessor starts unchanged.
        let _: Option<String> = self.optional("NANGO_PUBLIC_KEY");
        if !enabled {
            self.names
                .extend(["NANGO_SECRET_KEY", "NANGO_WEBHOOK_SIGNING_KEY"]);
            return Some(None);
        }
        let secret_key = self.required(
            "NANGO_SECRET_KEY",
            "the secret key of your Nango environment",
        );
        let signing_key = self.required(
            "NANGO_WEBHOOK_SIGNING_KEY",
            "the key with which Nango signs webhooks (Environment settings, Webhooks), not the secret key",
        );
        let keys: Vec<SecretString> = signing_key?
            .split(',')
            .map(|key| key.trim().into())
            .collect();
        let signing_keys = SigningKeys::new(&keys)
            .map_err(|error| {
                self.problems
                    .push(format!("NANGO_WEBHOOK_SIGNING_KEY: {error}"));
            })
            .ok()?;
        Some(Some(NangoConfig {
            client: nango::Config {
                base_url: base_url?,
                secret_key: SecretString::from(secret_key?),
                timeout,
            },
            sweep_every,
            signing_keys,
        }))
    }

    fn auth(&mut self) -> auth::Config {
        let problems = self.problems.len();
        let hs256_secret: Option<String> = self.optional("AUTH_JWT_SECRET");
        if hs256_secret
            .as_ref()
            .is_some_and(|secret| secret.len() < 32)
        {
            self.problems
                .push("AUTH_JWT_SECRET must have at least 32 bytes".to_owned());
        }
        let jwks_url = self.optional("AUTH_JWKS_URL");
        let jwks_url = jwks_url.and_then(|url| self.web_address("AUTH_JWKS_URL", url));
        if hs256_secret.is_none() && jwks_url.is_none() && self.problems.len() == problems {
            self.missing(
                "AUTH_JWT_SECRET or AUTH_JWKS_URL",
                "what users' tokens are verified with: a shared secret, or the identity provider's key set",
            );
        }
        auth::Config {
            hs256_secret: hs256_secret.map(SecretString::from),
            jwks_url,
            issuer: self.optional("AUTH_ISSUER"),
            audience: self.optional("AUTH_AUDIENCE"),
            leeway: self.seconds("AUTH_LEEWAY_SECONDS", 30),
            user_claim: self.or("AUTH_USER_CLAIM", "sub".to_owned()),
        }
    }

    fn service_keys(&mut self) -> Vec<GivenKey> {
        let entries: Option<String> = self.optional("SERVICE_API_KEYS");
        let entries = entries.unwrap_or_default();
        let mut keys = Vec::new();
        for entry in entries.split(',').filter(|entry| !entry.trim().is_empty()) {
            match entry.parse() {
                Ok(key) => keys.push(key),
                Err(error) => self.problems.push(format!("SERVICE_API_KEYS: {error}")),
            }
        }
        keys
    }

    /// An empty value counts as none: that is how hosts and compose files hand out unset variables.
    fn optional<T>(&mut self, name: &'static str) -> Option<T>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        self.names.push(name);
        let value = (self.lookup)(name).filter(|value| !value.trim().is_empty())?;
        match value.trim().parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.problems
                    .push(format!("{name} cannot be read: {error}"));
                None
            }
        }
    }

    fn or<T>(&mut self, name: &'static str, default: T) -> T
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        self.optional(name).unwrap_or(default)
    }

    /// Whole seconds; a number that would not fit into any clock is refused.
    fn seconds(&mut self, name: &'static str, default: u32) -> Duration {
        Duration::from_secs(self.or(name, default).into())
    }

    fn required(&mut self, name: &'static str, what: &str) -> Option<String> {
        let value = self.optional(name);
        if value.is_none() {
            self.missing(name, what);
        }
        value
    }

    fn missing(&mut self, name: &str, what: &str) {
        self.problems.push(format!("{name} is missing: {what}"));
    }

    fn web_address(&mut self, name: &str, mut url: Url) -> Option<Url> {
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            self.problems
                .push(format!("{name} must be an http or https address"));
            return None;
        }
        let path = url.path().trim_end_matches('/').to_owned();
        url.set_path(&path);
        Some(url)
    }

    fn origins(&mut self, list: &str) -> Vec<String> {
        let mut origins = Vec::new();
        for text in list
            .split(',')
            .map(str::trim)
            .filter(|text| !text.is_empty())
        {
            match Url::parse(text) {
                Ok(url) if url.origin().is_tuple() => origins.push(url.origin().ascii_serialization()),
                _ => self.problems.push(format!(
                    "CORS_ALLOWED_ORIGINS holds {text:?}, which is not an origin such as https://app.example.com"
                )),
            }
        }
        origins
    }
}

/// What is wrong in the end, without what each layer says about the next.
fn root_cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), root_cause)
}
