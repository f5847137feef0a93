//! The `brake` command.

use clap::{Args, Subcommand, ValueEnum};
use strum::VariantArray;

use super::print::{print_line, print_note};
use super::{Failure, variable};
use crate::clock::Clock;
use crate::config::Config;
use crate::db::Database;
use crate::domain::Brake;
use crate::nango::Nango;
use crate::service::brakes::Brakes;

/// Manages brakes, which stop operations that could harm many users by mistake. Requires the variables of the service.
#[derive(Args)]
pub(crate) struct BrakeArguments {
    #[command(subcommand)]
    command: Option<BrakeCommand>,
}

#[derive(Subcommand)]
enum BrakeCommand {
    /// List all brakes and why they are engaged (the default).
    List,
    /// Release a brake, so that the stopped operations continue.
    Release {
        /// The brake.
        brake: BrakeName,
        /// With `database`: this database is a copy, and becomes a separate installation. It deletes nothing of the
        /// original at Nango, and its webhook endpoints are removed.
        #[arg(long)]
        copy: bool,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum BrakeName {
    /// Confirms that this database is the installation's own, moved or restored.
    Database,
    /// Confirms that NANGO_SECRET_KEY belongs to the right environment, although that has none of the connections that
    /// were connected last.
    Nango,
    /// Confirms that the connections were deleted at Nango. Their users have to connect again.
    Missing,
    /// Confirms that providers reject the credentials. Their users have to reauthorize.
    Dead,
    /// Confirms the deletion of connections at Nango that were replaced, or granted after a disconnect.
    Deletions,
}

impl From<BrakeName> for Brake {
    fn from(name: BrakeName) -> Self {
        match name {
            BrakeName::Database => Self::Database,
            BrakeName::Nango => Self::Nango,
            BrakeName::Missing => Self::Missing,
            BrakeName::Dead => Self::Dead,
            BrakeName::Deletions => Self::Deletions,
        }
    }
}

pub(crate) async fn run(arguments: BrakeArguments) -> Result<(), Failure> {
    let config = Config::read(&variable)?;
    let database = Database::connect(&config.database).await?;
    database.migrate().await?;
    let nango = config.nango.map(|nango| nango.client);
    let nango = nango.map(Nango::new).transpose()?;
    let public_url = config.http.public_url;
    let brakes = Brakes::new(database, nango, public_url, Clock::System);
    if let Err(error) = brakes.probe().await {
        print_note(format_args!("Nango could not be queried: {error}"));
    }
    match arguments.command.unwrap_or(BrakeCommand::List) {
        BrakeCommand::List => list(&brakes).await,
        BrakeCommand::Release { brake, copy } => release(&brakes, brake.into(), copy).await,
    }
}

async fn list(brakes: &Brakes) -> Result<(), Failure> {
    let engaged = brakes.engaged().await?;
    let released = brakes.released().await?;
    for brake in Brake::VARIANTS {
        match engaged.iter().find(|engaged| engaged.brake == *brake) {
            Some(engaged) => {
                let since = engaged.since;
                let since = since.map(|at| format!(" since {}", at.format("%F %T")));
                print_line(format_args!(
                    "{brake}  engaged{}: {}",
                    since.unwrap_or_default(),
                    engaged.reason
                ))?;
            }
            None => {
                let until = released.iter().find(|(released, _)| released == brake);
                let until =
                    until.map(|(_, at)| format!(", unlimited until {}", at.format("%F %T")));
                print_line(format_args!(
                    "{brake}  not engaged{}",
                    until.unwrap_or_default()
                ))?;
            }
        }
    }
    Ok(())
}

async fn release(brakes: &Brakes, brake: Brake, copy: bool) -> Result<(), Failure> {
    match (brake, copy) {
        (Brake::Database, true) if brakes.release_copy().await? => {
            print_line(
                "this database is a separate installation now, without webhook endpoints: restart its replicas",
            )?;
        }
        (Brake::Database, true) => {
            return Err(
                "the brake database is not engaged, so this is the installation's own database: nothing was changed. \
                 To make a copy a separate installation, set the copy's own PUBLIC_URL first"
                    .into(),
            );
        }
        (_, true) => return Err("--copy applies to the brake database only".into()),
        (brake, false) if brakes.release(brake).await? => {
            print_line(format_args!("the brake {brake} is released"))?;
        }
        (brake, false) => {
            print_line(format_args!(
                "the brake {brake} is not engaged: nothing was changed"
            ))?;
        }
    }
    Ok(())
}
