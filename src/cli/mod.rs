//! The program: parses the command line, reads the environment, and dispatches.
//!
//! It is part of the library, because each crate compiles its own copy of generic code. A program that called the parts
//! directly would contain a second copy of their dependencies.

// The print macros panic if the output is closed. The functions of `print` do not.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod brake;
pub mod doctor;
mod health;
mod keys;
mod orphans;
mod print;
#[cfg(feature = "sandbox")]
mod sandbox;
mod webhooks;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Duration;

use crate::app::App;
use crate::catalog::Catalog;
use crate::clock::Clock;
use crate::config::{Config, ConfigError};
use crate::db::{Database, InvalidRows};
use crate::environment::{EnvFile, Environment, Variable, is_disguised};
use crate::http;
use crate::telemetry::{self, LogFormat};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use self::print::{print_line, print_note};

/// A backend through which a product's users connect their third-party accounts.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the service with the configuration from the environment (the default).
    Serve,
    /// Try Patchbay without configuration, with a private PostgreSQL and a fake Nango.
    #[cfg(feature = "sandbox")]
    Sandbox,
    /// Migrate the database schema and exit.
    Migrate {
        /// Skip rows of the FastAPI service that cannot be imported. They stay in the schema `before_patchbay`.
        #[arg(long)]
        skip_invalid_rows: bool,
    },
    /// Create, list, rotate, narrow and revoke the API keys of your own services.
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Check everything that a service with this environment requires, and print how to fix problems. Changes nothing.
    Doctor {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// A user's token to check claim by claim.
        #[arg(long)]
        token: Option<String>,
    },
    /// Manage the endpoints that receive your product's webhooks, and inspect deliveries.
    #[command(subcommand)]
    Webhooks(webhooks::WebhooksCommand),
    /// List and release the brakes, which stop operations that could harm many users by mistake.
    Brake(brake::BrakeArguments),
    /// List, restore and delete connections of this installation at Nango that belong to no row.
    #[command(subcommand)]
    Orphans(orphans::OrphansCommand),
    /// Check that the service on this machine runs, for a container's health check.
    Health,
    /// Print the OpenAPI document.
    Openapi,
}

impl Command {
    /// Reads the file named `.env`, if it exists, and adds its assignments to the environment. The sandbox does not
    /// read it, because the file belongs to a real installation.
    fn read_env_file(&self) -> Result<(), Failure> {
        #[cfg(feature = "sandbox")]
        if matches!(self, Self::Sandbox) {
            return Ok(());
        }
        let mut file = EnvFile::load()?;
        file.export()?;
        ENV_FILE.get_or_init(|| file);
        Ok(())
    }
}

/// The maximum time that unfinished threads delay the exit.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);

/// The assignments of `.env` that are in effect.
static ENV_FILE: OnceLock<EnvFile> = OnceLock::new();

type Failure = Box<dyn std::error::Error>;

/// Parses the command line and runs its command. Returns the exit code.
pub fn main() -> ExitCode {
    let command = Arguments::parse().command.unwrap_or(Command::Serve);
    if let Err(error) = command.read_env_file() {
        print_note(format_args!("patchbay: {error}"));
        return ExitCode::FAILURE;
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            print_note(format_args!("patchbay: cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(run(command));
    // A blocking DNS lookup may hang.
    runtime.shutdown_timeout(EXIT_TIMEOUT);
    match result {
        Ok(code) => code,
        Err(error) => {
            print_note(format_args!("patchbay: {error}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Serve => {
            let config = load_config()?;
            let filter = config.log_filter.clone();
            let telemetry =
                telemetry::init(config.log_format, filter, config.otlp_endpoint.as_ref());
            let catalog = Catalog::load(config.catalog_file.as_deref())?;
            let app = App::bind(config, catalog, Clock::database()).await?;
            tracing::info!(address = %app.local_addr()?, "listening");
            app.run(stop_on_signal()?).await?;
            drop(telemetry);
        }
        #[cfg(feature = "sandbox")]
        Command::Sandbox => sandbox::run(stop_on_signal()?).await?,
        Command::Migrate { skip_invalid_rows } => migrate(skip_invalid_rows).await?,
        Command::Keys(command) => keys::run(command).await?,
        Command::Webhooks(command) => webhooks::run(command).await?,
        Command::Brake(arguments) => brake::run(arguments).await?,
        Command::Orphans(command) => orphans::run(command).await?,
        Command::Health => health::run()?,
        Command::Doctor { json, token } => return run_doctor(json, token.as_deref()).await,
        Command::Openapi => {
            print_line(serde_json::to_string_pretty(&http::openapi())?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Migrates the schema, and imports the legacy tables if they exist.
async fn migrate(skip_invalid_rows: bool) -> Result<(), Failure> {
    let config = Config::read_database(&variable)?;
    let filter = match parsed_variable("RUST_LOG")? {
        Some(filter) => filter,
        // An import is slow, and the warnings of sqlx contain its statements.
        None => "info,sqlx=error".parse()?,
    };
    let _telemetry = telemetry::init(LogFormat::Pretty, filter, None);
    let catalog_file: Option<PathBuf> = parsed_variable("CATALOG_FILE")?;
    let catalog = Catalog::load(catalog_file.as_deref())?;
    let database = Database::connect(&config).await?;
    let invalid = if skip_invalid_rows {
        InvalidRows::Skip
    } else {
        InvalidRows::Refuse
    };
    if let Some(imported) = database.import_legacy(&catalog, invalid).await? {
        print_line(format_args!(
            "imported {} connections of the FastAPI service, whose tables were locked for {:.1} s and are kept in the schema before_patchbay",
            imported.connections,
            imported.locked.as_secs_f64()
        ))?;
        for row in &imported.skipped {
            print_line(format_args!("skipped, and kept in before_patchbay: {row}"))?;
        }
    }
    print_line("the database's schema is up to date")?;
    Ok(())
}

/// Runs the checks of `doctor` and prints their findings. The exit code is a failure if a check fails.
async fn run_doctor(json: bool, token: Option<&str>) -> Result<ExitCode, Failure> {
    let report = doctor::run(&variable, token, &Clock::System).await;
    if json {
        print_line(serde_json::to_string_pretty(&report)?)?;
    } else {
        print_line(report.to_string().trim_end())?;
    }
    Ok(if report.passes() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Reads the configuration from the environment. An error includes a hint to the sandbox, which needs no configuration.
fn load_config() -> Result<Config, Failure> {
    Config::read(&variable).map_err(|error| {
        let hint = if cfg!(feature = "sandbox") {
            "\nTo try Patchbay without configuration: patchbay sandbox"
        } else {
            ""
        };
        format!("{error}{hint}").into()
    })
}

/// Returns a variable from `.env` or the process. If it is unset, returns a variable whose name differs in surrounding
/// characters only, so that the mistake is reported.
fn variable(name: &str) -> Option<Variable> {
    if let Some(assignment) = ENV_FILE.get().and_then(|file| file.get(name)) {
        return Some(Variable::File {
            text: assignment.text.clone(),
            line: assignment.line,
            is_quoted: assignment.is_quoted,
        });
    }
    if let Some(value) = std::env::var_os(name) {
        return Some(Variable::Process(value.to_string_lossy().into_owned()));
    }
    let names = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    let mut names = names.filter(|found| is_disguised(found, name));
    names.next().map(Variable::Misnamed)
}

/// Reads variables.
///
/// # Errors
/// Reports all invalid variables.
fn read_variables<T>(read: impl FnOnce(&mut Environment<'_>) -> T) -> Result<T, Failure> {
    let mut env = Environment::new(&variable);
    let value = read(&mut env);
    let problems = env.problems;
    if problems.is_empty() {
        Ok(value)
    } else {
        Err(ConfigError { problems }.into())
    }
}

/// Returns a variable that is set and not empty.
fn parsed_variable<T>(name: &'static str) -> Result<Option<T>, Failure>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    read_variables(|env| env.optional(name))
}

/// Returns a token that the first SIGINT or SIGTERM cancels.
fn stop_on_signal() -> Result<CancellationToken, Failure> {
    let stop = CancellationToken::new();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let cancelled = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        cancelled.cancel();
    });
    Ok(stop)
}
