//! The `orphans` command.

use std::sync::Arc;

use clap::{Args, Subcommand};

use super::print::print_line;
use super::{Failure, variable};
use crate::clock::Clock;
use crate::config::Config;
use crate::db::Database;
use crate::nango::Nango;
use crate::service::orphans::Orphan;
use crate::service::{Core, Orphans};

/// Manages orphans: connections of this installation at Nango that belong to no row. Requires the variables of the
/// service.
#[derive(Subcommand)]
pub(crate) enum OrphansCommand {
    /// List all orphans with user, connector and age.
    List,
    /// Restore the connections of orphans under their original ids.
    Restore(Chosen),
    /// Delete orphans at Nango.
    Delete(Chosen),
}

/// The selected orphans.
#[derive(Args)]
#[group(required = true)]
pub(crate) struct Chosen {
    /// Nango's ids of the orphans. `list` prints them.
    ids: Vec<String>,
    /// All orphans.
    #[arg(long, conflicts_with = "ids")]
    all: bool,
}

pub(crate) async fn run(command: OrphansCommand) -> Result<(), Failure> {
    let service = service().await?;
    let orphans = service.list().await?;
    match command {
        OrphansCommand::List => {
            for orphan in &orphans {
                print_orphan(orphan)?;
            }
        }
        OrphansCommand::Restore(chosen) => {
            let mut failed = 0;
            for orphan in choose(orphans, &chosen)? {
                match service.restore(&orphan).await {
                    Ok(connection) => print_line(format_args!(
                        "{}  restored as {}",
                        orphan.nango.id, connection.id
                    ))?,
                    Err(error) => {
                        failed += 1;
                        print_line(format_args!("{}  not restored: {error}", orphan.nango.id))?;
                    }
                }
            }
            if failed > 0 {
                return Err(format!("{failed} orphans were not restored").into());
            }
        }
        OrphansCommand::Delete(chosen) => {
            for orphan in choose(orphans, &chosen)? {
                service.delete(&orphan).await?;
                print_line(format_args!(
                    "{}  queued for deletion by the service",
                    orphan.nango.id
                ))?;
            }
        }
    }
    Ok(())
}

async fn service() -> Result<Orphans, Failure> {
    let config = Config::read(&variable)?;
    let nango = config
        .nango
        .ok_or("NANGO_ENABLED is false: set it to true")?;
    let database = Database::connect(&config.database).await?;
    database.migrate().await?;
    let nango = Nango::new(nango.client)?;
    let public_url = config.http.public_url;
    let core = Core::new(database, Some(nango), Clock::System, public_url).await?;
    Ok(Orphans::new(Arc::new(core)))
}

fn choose(orphans: Vec<Orphan>, chosen: &Chosen) -> Result<Vec<Orphan>, Failure> {
    if chosen.all {
        return Ok(orphans);
    }
    let is_orphan = |id: &&String| orphans.iter().any(|orphan| orphan.nango.id == **id);
    if let Some(unknown) = chosen.ids.iter().find(|id| !is_orphan(id)) {
        return Err(format!(
            "{unknown:?} is not an orphan. `patchbay orphans list` shows all orphans."
        )
        .into());
    }
    let is_chosen = |orphan: &Orphan| chosen.ids.contains(&orphan.nango.id);
    Ok(orphans.into_iter().filter(is_chosen).collect())
}

fn print_orphan(orphan: &Orphan) -> Result<(), Failure> {
    let user = orphan.user.as_ref().map_or("unknown", |user| user.as_str());
    let connector = orphan.connector.as_deref();
    let connector = connector.unwrap_or(&orphan.nango.integration.key);
    let connection = orphan.connection;
    let connection = connection.map_or("unknown".to_owned(), |id| id.to_string());
    print_line(format_args!(
        "{}  user {}  {}  connection {connection}  {} old",
        orphan.nango.id.escape_debug(),
        user.escape_debug(),
        connector.escape_debug(),
        orphan.age(Clock::System.now())
    ))?;
    Ok(())
}
