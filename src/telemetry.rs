//! Logs: one line a request, never a token, a key or an address of a person.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// What is logged unless `RUST_LOG` says otherwise.
const DEFAULT_FILTER: &str = "info,sqlx=warn";

/// Writes logs to standard error, filtered by `RUST_LOG`.
///
/// Only the first call in a process has an effect.
pub fn init(format: LogFormat) {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_unset| EnvFilter::new(DEFAULT_FILTER));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    let done = match format {
        LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
        LogFormat::Pretty => subscriber
            .with_target(false)
            .with_ansi(io::stderr().is_terminal())
            .try_init(),
    };
    if let Err(error) = done {
        tracing::debug!(%error, "logging was set up before");
    }
}
