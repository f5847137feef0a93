//! Logs, with one line per request and without tokens, keys or personal addresses; and traces if enabled.

mod config;
pub mod metrics;
#[cfg(feature = "otlp")]
mod otlp;

pub use config::{LogFilter, LogFormat};
use std::io::{self, IsTerminal};

use axum::http::HeaderMap;
use tracing::Span;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use url::Url;

/// The target of all spans. Log lines do not include spans.
pub(crate) const TRACES: &str = "traces";

/// A guard of the logs and traces. Dropping it sends the last traces.
#[must_use]
#[derive(Debug, Default)]
pub struct Telemetry {
    #[cfg(feature = "otlp")]
    _traces: Option<otlp::TraceExporter>,
}

/// Writes logs to standard error, and sends traces to a collector if there is one.
///
/// Only the first call in a process has an effect. With a collector, it requires a tokio runtime.
pub fn init(format: LogFormat, filter: LogFilter, collector: Option<&Url>) -> Telemetry {
    let filter = filter.0.with_target(TRACES, LevelFilter::OFF);
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
    // The filter applies to all layers, so that disabled spans cost nothing.
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
        tracing::debug!(%error, "logging is already set up");
    }
}

/// Returns the span of a request, as part of the caller's trace if the headers contain one.
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

/// Records the status of a response.
pub(crate) fn record_response(span: &Span, status: u16) {
    span.record("http.response.status_code", status);
    if status >= 500 {
        span.record("otel.status_code", "ERROR");
    }
}

/// Returns the span of one try of a call to Nango.
pub(crate) fn nango_span(operation: &'static str) -> Span {
    tracing::info_span!(
        target: TRACES, "nango",
        otel.name = %format_args!("nango {operation}"), otel.kind = "client", otel.status_code = tracing::field::Empty,
        peer.service = "nango", error.r#type = tracing::field::Empty,
    )
}

/// Records that a call to Nango failed.
pub(crate) fn record_error(span: &Span, error: &'static str) {
    span.record("otel.status_code", "ERROR");
    span.record("error.type", error);
}

/// Returns the span of starting a transaction, with the wait for its connection.
pub(crate) fn begin_span() -> Span {
    tracing::info_span!(target: TRACES, "begin", otel.kind = "client", db.system.name = "postgresql")
}

/// Returns the span of a statement. Its text, which contains no values, is recorded when it runs.
pub(crate) fn statement_span() -> Span {
    tracing::info_span!(
        target: TRACES, "sql",
        otel.kind = "client", db.system.name = "postgresql", db.query.text = tracing::field::Empty,
    )
}

/// Records the text of a statement.
pub(crate) fn record_statement(span: &Span, text: &str) {
    span.record("db.query.text", text);
}

/// Adds the current trace to the headers of an outgoing request.
pub(crate) fn inject_context(headers: &mut HeaderMap) {
    #[cfg(feature = "otlp")]
    otlp::inject_context(headers);
    #[cfg(not(feature = "otlp"))]
    let _ = headers;
}
