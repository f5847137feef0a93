//! Logs: one line per request, never a token, a key or a personal address. And traces, if enabled.

mod config;
pub mod metrics;
#[cfg(feature = "otlp")]
mod otlp;

pub use config::LogFormat;
use std::io::{self, IsTerminal};

use axum::http::HeaderMap;
use tracing::Span;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use url::Url;

/// What is logged unless `RUST_LOG` says otherwise.
const DEFAULT_FILTER: &str = "info,sqlx=warn";

/// The target of all spans. The logs leave them out: a line of the log stands by itself.
pub(crate) const TRACES: &str = "traces";

/// Logs and traces for as long as it lives; the last traces are sent when it is dropped.
#[must_use]
#[derive(Debug, Default)]
pub struct Telemetry {
    #[cfg(feature = "otlp")]
    _traces: Option<otlp::TraceExporter>,
}

/// Writes logs to standard error, filtered by `RUST_LOG`, and sends traces to a collector if there is one.
///
/// Only the first call in a process has an effect. With a collector it has to be in a tokio runtime.
pub fn init(format: LogFormat, collector: Option<&Url>) -> Telemetry {
    let given = std::env::var("RUST_LOG").ok();
    let given = given.and_then(|filter| filter.parse::<Targets>().ok());
    let filter = given
        .unwrap_or_else(|| DEFAULT_FILTER.parse().expect("it is a filter"))
        .with_target(TRACES, LevelFilter::OFF);
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let lines = match format {
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        LogFormat::Pretty => lines
            .with_target(false)
            .with_ansi(io::stderr().is_terminal())
            .boxed(),
    };
    let registry = tracing_subscriber::registry();
    #[cfg(feature = "otlp")]
    if let Some((layer, traces)) = otlp::layer(collector) {
        install(registry.with(lines.with_filter(filter)).with(layer));
        return Telemetry {
            _traces: Some(traces),
        };
    }
    // A filter over everything, rather than over the lines alone: spans then cost nothing.
    install(registry.with(lines).with(filter));
    if cfg!(not(feature = "otlp")) && collector.is_some() {
        tracing::warn!(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, but this program was built without traces"
        );
    }
    Telemetry::default()
}

fn install(subscriber: impl SubscriberInitExt) {
    if let Err(error) = subscriber.try_init() {
        tracing::debug!(%error, "logging was set up before");
    }
}

/// A request that is answered, as part of the caller's trace if its headers name one.
pub(crate) fn request_span(method: &str, route: &str, headers: &HeaderMap) -> Span {
    let span = tracing::info_span!(
        target: TRACES, "request",
        otel.name = %format_args!("{method} {route}"), otel.kind = "server", otel.status_code = tracing::field::Empty,
        http.request.method = method, http.route = route, http.response.status_code = tracing::field::Empty,
    );
    #[cfg(feature = "otlp")]
    if !span.is_disabled() {
        otlp::continue_trace(&span, headers);
    }
    #[cfg(not(feature = "otlp"))]
    let _ = headers;
    span
}

/// Notes how a request was answered.
pub(crate) fn record_response(span: &Span, status: u16) {
    span.record("http.response.status_code", status);
    if status >= 500 {
        span.record("otel.status_code", "ERROR");
    }
}

/// A try of a call to Nango.
pub(crate) fn nango_span(operation: &'static str) -> Span {
    tracing::info_span!(
        target: TRACES, "nango",
        otel.name = %format_args!("nango {operation}"), otel.kind = "client", otel.status_code = tracing::field::Empty,
        peer.service = "nango", error.r#type = tracing::field::Empty,
    )
}

/// Notes that a call to Nango failed.
pub(crate) fn record_error(span: &Span, error: &'static str) {
    span.record("otel.status_code", "ERROR");
    span.record("error.type", error);
}

/// The wait of a transaction for its connection, and its beginning.
pub(crate) fn begin_span() -> Span {
    tracing::info_span!(target: TRACES, "begin", otel.kind = "client", db.system.name = "postgresql")
}

/// A statement; its text, in which there are no values, is recorded when it is run.
pub(crate) fn statement_span() -> Span {
    tracing::info_span!(
        target: TRACES, "sql",
        otel.kind = "client", db.system.name = "postgresql", db.query.text = tracing::field::Empty,
    )
}

/// Notes a statement's text.
pub(crate) fn record_statement(span: &Span, text: &str) {
    span.record("db.query.text", text);
}

/// Names the current trace to who is called.
pub(crate) fn inject_context(headers: &mut HeaderMap) {
    #[cfg(feature = "otlp")]
    otlp::inject_context(headers);
    #[cfg(not(feature = "otlp"))]
    let _ = headers;
}
