//! The `keys` command.

use std::collections::BTreeSet;

use crate::auth::service_keys::{Scope, check_name};
use crate::config::Config;
use crate::db::Database;
use crate::service::service_keys::ServiceKeys;
use chrono::{DateTime, TimeDelta, Utc};
use clap::Subcommand;
use secrecy::ExposeSecret;

use super::print::{print_line, print_note};
use super::{Failure, variable};

/// Manages service keys. Requires only `DATABASE_URL`.
#[derive(Subcommand)]
pub(crate) enum KeysCommand {
    /// Create a key and print it. It is not shown again.
    Create {
        /// The name of the service, which the access log shows.
        name: String,
        /// A scope: tokens:read, connections:read or connections:write. May be repeated.
        #[arg(long = "scope", required = true)]
        scopes: Vec<Scope>,
    },
    /// List all keys, newest first.
    List,
    /// Create a new key with the same name and scopes. The old key expires after the grace period.
    Rotate {
        /// The key's prefix or name.
        key: String,
        /// The grace period of the old key, in hours.
        #[arg(long, default_value_t = 24)]
        grace_hours: u32,
    },
    /// Replace the scopes of a key. The change affects new requests and open event streams within two seconds.
    SetScopes {
        /// The key's prefix or name.
        key: String,
        /// A new scope: tokens:read, connections:read or connections:write. May be repeated.
        #[arg(required = true)]
        scopes: Vec<Scope>,
    },
    /// Revoke a key. This takes effect within two seconds.
    Revoke {
        /// The key's prefix or name.
        key: String,
    },
}

pub(crate) async fn run(command: KeysCommand) -> Result<(), Failure> {
    if let KeysCommand::Create { name, .. } = &command {
        // An invalid name is reported without a connection to the database.
        check_name(name)?;
    }
    let config = Config::read_database(&variable)?;
    let database = Database::connect(&config).await?;
    database.migrate().await?;
    let clock = database.clock().await?;
    let keys = ServiceKeys::new(database, Vec::new(), clock);
    match command {
        KeysCommand::Create { name, scopes } => {
            let key = keys.create(&name, &BTreeSet::from_iter(scopes)).await?;
            print_line(key.expose_secret())?;
            print_note("The key is not shown again.");
        }
        KeysCommand::List => {
            for key in keys.list().await? {
                let state = state(key.revoked_at, key.expires_at);
                print_line(format_args!(
                    "{}  {}  {}  {state}",
                    key.prefix,
                    key.name.escape_debug(),
                    names(&key.scopes)
                ))?;
            }
        }
        KeysCommand::Rotate { key, grace_hours } => {
            let new = keys
                .rotate(&key, TimeDelta::hours(grace_hours.into()))
                .await?;
            print_line(new.expose_secret())?;
            print_note(format_args!(
                "The key is not shown again. The old one expires in {grace_hours} hours."
            ));
        }
        KeysCommand::SetScopes { key, scopes } => {
            let scopes = BTreeSet::from_iter(scopes);
            let old = keys.set_scopes(&key, &scopes).await?;
            print_line(format_args!(
                "{} ({}) allows {}; before, it allowed {}",
                old.prefix,
                old.name,
                names(&scopes),
                names(&old.scopes)
            ))?;
        }
        KeysCommand::Revoke { key } => {
            let revoked = keys.revoke(&key).await?;
            print_line(format_args!(
                "{} ({}) is revoked",
                revoked.prefix,
                revoked.name.escape_debug()
            ))?;
        }
    }
    Ok(())
}

fn names(scopes: &BTreeSet<Scope>) -> String {
    let names: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
    names.join(" ")
}

fn state(revoked_at: Option<DateTime<Utc>>, expires_at: Option<DateTime<Utc>>) -> String {
    match (revoked_at, expires_at) {
        (Some(at), _) => format!("revoked {}", at.format("%F %T")),
        (None, Some(at)) => format!("until {}", at.format("%F %T")),
        (None, None) => "in use".to_owned(),
    }
}
