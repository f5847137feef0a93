//! Telemetry settings: logs and metrics.

use std::str::FromStr;

use secrecy::{ExposeSecret, SecretString};
use tracing::Level;
use tracing_subscriber::filter::{LevelFilter, Targets};
use url::Url;

use crate::environment::Environment;

/// The log filter without `RUST_LOG`.
const DEFAULT_FILTER: &str = "info,sqlx=warn";

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line, for machines.
    Json,
    /// Text for people.
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

/// A filter of log lines, such as `info,sqlx=warn`.
#[derive(Clone, Debug, PartialEq)]
pub struct LogFilter(pub(super) Targets);

impl Default for LogFilter {
    fn default() -> Self {
        Self(DEFAULT_FILTER.parse().expect("it is a filter"))
    }
}

impl FromStr for LogFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let example = format!("write levels such as debug or {DEFAULT_FILTER}");
        let filter: Targets = text
            .parse()
            .map_err(|error| format!("is not a log filter ({error}): {example}"))?;
        // A misspelt level is the name of a target, whose lines alone are then written.
        if filter.would_enable(env!("CARGO_PKG_NAME"), &Level::ERROR) || is_off(text) {
            Ok(Self(filter))
        } else {
            Err(format!("hides all lines of the service: {example}, or off"))
        }
    }
}

fn is_off(text: &str) -> bool {
    text.parse().ok() == Some(LevelFilter::OFF)
}

/// The minimum length: a guessable token would make the metrics public.
const MIN_METRICS_TOKEN: usize = 16;

impl Environment<'_> {
    pub(crate) fn metrics_tokens(&mut self) -> Vec<SecretString> {
        let tokens = self.rotatable_secrets("METRICS_TOKEN");
        let short = |token: &SecretString| token.expose_secret().len() < MIN_METRICS_TOKEN;
        if tokens.iter().any(short) {
            self.problems.push(format!(
                "METRICS_TOKEN must have at least {MIN_METRICS_TOKEN} characters; a comma stands between two tokens"
            ));
        }
        tokens
    }

    pub(crate) fn otlp_endpoint(&mut self) -> Option<Url> {
        self.base_url("OTEL_EXPORTER_OTLP_ENDPOINT")
    }
}
