//! The fake Nango as a process of its own.
//!
//! Its only argument is a JSON object. The process runs until its standard input is closed.

use std::io::{self, Read};
use std::net::SocketAddr;

use nango_sandbox::{Config, Integration, Sandbox};
use secrecy::SecretString;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    listen: SocketAddr,
    secret_key: String,
    webhook_signing_key: String,
    webhook_url: String,
    jwt_secret: SecretString,
    /// The rate limit: calls per minute.
    rate_limit: u32,
    /// Pairs of an integration's key and its provider.
    integrations: Vec<(String, String)>,
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let json = std::env::args().nth(1).unwrap_or_default();
    let arguments: Arguments = serde_json::from_str(&json)?;
    let integration = |(unique_key, provider): (String, String)| Integration {
        display_name: unique_key.clone(),
        auth_mode: "OAUTH2".to_owned(),
        unique_key,
        provider,
    };
    let _sandbox = Sandbox::start(Config {
        listen: arguments.listen,
        secret_key: arguments.secret_key,
        webhook_signing_key: arguments.webhook_signing_key,
        webhook_url: Some(arguments.webhook_url),
        jwt_secret: arguments.jwt_secret,
        rate_limit: arguments.rate_limit,
        integrations: arguments
            .integrations
            .into_iter()
            .map(integration)
            .collect(),
        ..Config::default()
    })
    .await?;
    let closed = tokio::task::spawn_blocking(|| io::stdin().read_to_end(&mut Vec::new()));
    closed.await??;
    Ok(())
}
