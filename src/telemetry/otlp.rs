//! Exports traces by OTLP over HTTP, and reads and writes W3C trace context headers.

use std::io::{self, Write};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderMap, Request, Response};
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::TracerProvider;
use opentelemetry_http::{HeaderExtractor, HeaderInjector, HttpClient, HttpError};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::runtime::Handle;
use tracing::{Level, Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::registry::LookupSpan;
use url::Url;

use super::TRACES;
use crate::net::http_client;

/// The timeout of a request to the collector.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The maximum size of the collector's response, in bytes.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// The timeout of sending the last traces.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// A trace exporter. Dropping it sends the last traces.
#[derive(Debug)]
pub(crate) struct TraceExporter(SdkTracerProvider);

impl Drop for TraceExporter {
    fn drop(&mut self) {
        let provider = self.0.clone();
        // The exporter's thread sends the last request on the runtime, so this must not block the runtime.
        let shut_down = move || provider.shutdown_with_timeout(FLUSH_TIMEOUT);
        let ended = match Handle::try_current() {
            Ok(_) => tokio::task::block_in_place(shut_down),
            Err(_no_runtime) => shut_down(),
        };
        if let Err(error) = ended {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}

/// Returns the layer that exports spans as traces; `None` without a collector.
pub(crate) fn layer<S>(collector: Option<&Url>) -> Option<(impl Layer<S> + use<S>, TraceExporter)>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let endpoint = format!("{}/v1/traces", collector?.as_str().trim_end_matches('/'));
    let client = Client {
        runtime: Handle::current(),
        client: http_client::client(TIMEOUT).ok()?,
    };
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_endpoint(endpoint)
        .build();
    let exporter = match exporter {
        Ok(exporter) => exporter,
        Err(error) => {
            // Logging is not set up yet. A failed write is ignored.
            let _ = writeln!(io::stderr(), "patchbay: no traces are sent: {error}");
            return None;
        }
    };
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource())
        .build();
    let layer = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("patchbay"))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_filter(Targets::new().with_target(TRACES, Level::INFO));
    Some((layer, TraceExporter(provider)))
}

/// Returns the resource with the service's name, unless `OTEL_SERVICE_NAME` or `OTEL_RESOURCE_ATTRIBUTES` set another.
fn resource() -> Resource {
    let version = opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let named = ["OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"]
        .iter()
        .any(|name| {
            std::env::var(name)
                .is_ok_and(|value| value.contains("service.name") || *name == "OTEL_SERVICE_NAME")
        });
    let builder = Resource::builder().with_attribute(version);
    if named {
        builder.build()
    } else {
        builder.with_service_name("patchbay").build()
    }
}

/// An HTTP client that sends the exporter's requests on the service's runtime, because the exporter's thread has none.
#[derive(Clone, Debug)]
struct Client {
    runtime: Handle,
    client: reqwest::Client,
}

#[async_trait::async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let sent = self.runtime.spawn(async move {
            let answer = client.execute(request.try_into()?).await?;
            let mut response = Response::builder().status(answer.status());
            if let Some(headers) = response.headers_mut() {
                headers.clone_from(answer.headers());
            }
            let body = http_client::read_body(answer, MAX_BODY_BYTES).await?;
            Ok::<_, HttpError>(response.body(Bytes::from(body))?)
        });
        sent.await?
    }
}

/// Makes a span part of the trace in the headers of a request.
pub(crate) fn continue_trace(span: &Span, headers: &HeaderMap) {
    if span.is_disabled() || !headers.contains_key("traceparent") {
        return;
    }
    let context = TraceContextPropagator::new().extract(&HeaderExtractor(headers));
    // It fails for a span that is not traced, which needs no parent.
    let _ = span.set_parent(context);
}

/// Adds the current span to the headers of an outgoing request.
pub(crate) fn inject_context(headers: &mut HeaderMap) {
    let span = Span::current();
    if !span.is_disabled() {
        TraceContextPropagator::new().inject_context(&span.context(), &mut HeaderInjector(headers));
    }
}
