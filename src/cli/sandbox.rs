//! The `sandbox` command: runs the service with a private database and a fake Nango.

use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use crate::app::App;
use crate::auth::service_keys::{EnvironmentKey, SANDBOX_KEY};
use crate::catalog::Catalog;
use crate::clock::Clock;
use crate::config::Config;
use crate::db::sandbox_schema;
use crate::environment::Variable;
use crate::http::ConsoleConfig;
use crate::telemetry::{self, LogFormat};
use dev_postgres::{DevPostgres, Durability};
use nango_sandbox::{Integration, Sandbox};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::print::print_line;
use super::{Failure, parsed_variable as variable, read_variables, variable as lookup};

/// The data directory of the private PostgreSQL, below the current directory.
const DATA_DIR: &str = ".patchbay/postgres";

/// The variables that the sandbox reads in the same way as `serve`.
const FORWARDED_VARIABLES: [&str; 12] = [
    "CATALOG",
    "CONNECT_BINDING",
    "CORS_ALLOWED_ORIGINS",
    "DATABASE_POOL_SIZE",
    "ENCRYPTION_KEY",
    "RATE_LIMIT_ADDRESS_PER_MINUTE",
    "RATE_LIMIT_CONNECT_PER_MINUTE",
    "MAX_STREAMS_PER_USER",
    "RATE_LIMIT_USER_PER_MINUTE",
    "MAX_CONCURRENT_REQUESTS",
    "METRICS_TOKEN",
    "SERVICE_API_KEYS",
];

/// Serves until `stop`: the service on `PORT`, and the fake Nango on `SANDBOX_PORT`, by default the next port.
pub(crate) async fn run(stop: CancellationToken) -> Result<(), Failure> {
    let (format, filter, port, nango_port, database_url) = read_variables(|env| {
        let format = env.with_default("LOG_FORMAT", LogFormat::Pretty);
        let filter = env.optional("RUST_LOG").unwrap_or_default();
        // The URLs of both are printed before they listen, so the system cannot choose them.
        let port: u16 = env.positive("PORT", 8000);
        let nango_port = env.optional_number("SANDBOX_PORT", &8001);
        (format, filter, port, nango_port, env.secret("DATABASE_URL"))
    })?;
    let _telemetry = telemetry::init(format, filter, None);
    let nango_port: u16 = match nango_port {
        Some(port) => port,
        None => port
            .checked_add(1)
            .ok_or("PORT=65535 has no next port for the fake Nango: set SANDBOX_PORT")?,
    };
    let postgres = match &database_url {
        Some(_) => None,
        None => Some(DevPostgres::start(Path::new(DATA_DIR), Durability::Durable).await?),
    };
    // The fake Nango starts empty, so the database must be empty, too.
    let database = match (database_url, &postgres) {
        (Some(url), _) => {
            sandbox_schema::empty_own_database(&url).await?;
            url
        }
        (None, Some(postgres)) => {
            sandbox_schema::empty_schema(postgres.url()).await?;
            postgres.url().to_owned()
        }
        (None, None) => {
            unreachable!("a private database was started, because DATABASE_URL is unset")
        }
    };
    let served = serve(port, nango_port, database, stop).await;
    if let Some(postgres) = postgres {
        postgres.stop().await;
    }
    served
}

async fn serve(
    port: u16,
    nango_port: u16,
    database: String,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let secret_key = Uuid::new_v4().to_string();
    // A fixed key lets scripts sign webhooks.
    let signing_key = read_variables(|env| env.secret("NANGO_WEBHOOK_SIGNING_KEY"))?;
    let signing_key: String = signing_key.unwrap_or_else(|| Uuid::new_v4().to_string());
    let jwt_secret = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    let public_url = format!("http://localhost:{port}");
    let catalog = Catalog::load(catalog_file()?.as_deref())?;
    // The binding checks the browser at the callback, so Nango's callback URL must be this service's.
    let binding: Option<String> = variable("CONNECT_BINDING")?;
    let callback_url = binding.map(|_| format!("{public_url}/api/v1/connectors/callback"));
    let sandbox = Sandbox::start(nango_sandbox::Config {
        callback_url,
        allowed_origins: pages_of(port)?,
        listen: (Ipv4Addr::LOCALHOST, nango_port).into(),
        secret_key: secret_key.clone(),
        webhook_signing_key: signing_key.clone(),
        webhook_url: Some(format!("{public_url}/api/v1/webhooks/nango")),
        jwt_secret: jwt_secret.clone().into(),
        integrations: integrations(&catalog),
        // Nango's rate limit on paid plans, because several people and tests may share a sandbox.
        rate_limit: 2_000,
        ..nango_sandbox::Config::default()
    })
    .await
    .map_err(|error| format!("the fake Nango cannot listen on port {nango_port}: {error}. Set SANDBOX_PORT to a free port"))?;
    let settings: HashMap<&str, String> = [
        ("HOST", Ipv4Addr::LOCALHOST.to_string()),
        ("PORT", port.to_string()),
        ("PUBLIC_URL", public_url),
        ("DATABASE_URL", database),
        ("NANGO_BASE_URL", sandbox.url().to_owned()),
        ("NANGO_SECRET_KEY", secret_key),
        ("NANGO_WEBHOOK_SIGNING_KEY", signing_key),
        ("AUTH_JWT_SECRET", jwt_secret),
        // In a sandbox, webhook receivers run on this machine.
        ("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8,::1/128".to_owned()),
        ("SHUTDOWN_DELAY_SECONDS", "0".to_owned()),
    ]
    .into();
    let mut config = Config::read(&|name| match settings.get(name) {
        Some(value) => Some(Variable::Process(value.clone())),
        None if FORWARDED_VARIABLES.contains(&name) => lookup(name),
        None => None,
    })?;
    if config.service_keys.is_empty() {
        config.service_keys.push(EnvironmentKey::sandbox());
    }
    config.http.console = Some(ConsoleConfig {
        controls: Some(sandbox.url().parse()?),
    });
    let app = App::bind(config, catalog, Clock::System).await?;
    print_welcome(port, sandbox.url())?;
    let served = app.run(stop).await;
    sandbox.stop().await;
    Ok(served?)
}

fn print_welcome(port: u16, nango: &str) -> io::Result<()> {
    print_line(format_args!(
        "Patchbay's sandbox: everything except the accounts is real, and no data leaves this machine.

  Patchbay     http://localhost:{port}            the console; the API's documentation: /docs
  Nango        {nango}            fake, in this process; the console can set its faults

  A token for a user of yours:
    curl -s -X POST {nango}/sandbox/token -H 'content-type: application/json' -d '{{\"user\":\"ada\"}}'

  A key for a workflow of yours:
    {SANDBOX_KEY}

Ctrl-C stops it."
    ))
}

/// Returns the origins whose pages may use the fake Nango's controls: the console's and those in
/// `CORS_ALLOWED_ORIGINS`.
fn pages_of(port: u16) -> Result<Vec<String>, Failure> {
    let product: Option<String> = variable("CORS_ALLOWED_ORIGINS")?;
    let product = product.unwrap_or_default();
    let product = product
        .split(',')
        .map(|origin| origin.trim().trim_end_matches('/').to_owned());
    let console = ["localhost", "127.0.0.1"].map(|host| format!("http://{host}:{port}"));
    Ok(console.into_iter().chain(product).collect())
}

/// Returns an integration of the fake Nango for each connector with a provider and an auth mode.
fn integrations(catalog: &Catalog) -> Vec<Integration> {
    catalog
        .iter()
        .filter_map(|connector| {
            Some(Integration {
                unique_key: connector.integration_key.clone(),
                provider: connector.provider.clone()?,
                display_name: connector.name.clone(),
                auth_mode: connector.auth_mode?.to_string(),
            })
        })
        .collect()
}

fn catalog_file() -> Result<Option<std::path::PathBuf>, Failure> {
    variable("CATALOG_FILE")
}
