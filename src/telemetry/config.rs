//! Telemetry settings: logs and metrics.

use std::str::FromStr;

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::environment::Environment;

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
