//! Request metrics, the access log, and the endpoint that Prometheus scrapes.

use crate::telemetry;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::Extension;
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderMap, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;
use tracing::Instrument;

use super::limits::CallerAddress;
use crate::http::AppState;
use crate::http::problem::{Code, Problem};
use crate::http::router::REQUEST_ID;
use crate::telemetry::metrics::{self, Durations, Label};

/// The metrics of HTTP requests.
#[derive(Debug)]
pub struct HttpMetrics {
    requests: Family<ResponseLabels, Counter>,
    durations: Durations<RouteLabels>,
    refused: Family<Label, Counter>,
    /// Requests in progress, until their responses have been sent.
    pub(crate) in_flight: Gauge,
    /// Requests with `wait` that wait for a change.
    pub(crate) waiting: Gauge,
    /// Open event streams.
    pub(crate) streams: Gauge,
    /// Open connections of clients.
    pub(crate) connections: Gauge,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RouteLabels {
    route: String,
    method: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResponseLabels {
    route: String,
    method: &'static str,
    status: u16,
}

/// Marks a response that was delayed at the caller's request. Its duration is not recorded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LongPolled;

impl Default for HttpMetrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(metrics::latency_histogram),
            refused: Family::default(),
            in_flight: Gauge::default(),
            waiting: Gauge::default(),
            streams: Gauge::default(),
            connections: Gauge::default(),
        }
    }
}

impl HttpMetrics {
    /// Registers the metrics.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "http_requests",
            "Answered requests, by route template",
            self.requests.clone(),
        );
        registry.register(
            "http_request_duration_seconds",
            "Time to the first byte of a response, without requests with wait",
            self.durations.clone(),
        );
        registry.register(
            "http_requests_in_flight",
            "Requests in progress, without long polls and event streams",
            self.in_flight.clone(),
        );
        registry.register(
            "http_requests_waiting",
            "Long polls in progress",
            self.waiting.clone(),
        );
        registry.register(
            "http_connections",
            "Open client connections",
            self.connections.clone(),
        );
        registry.register("event_streams", "Open event streams", self.streams.clone());
        registry.register(
            "limit_refusals",
            "Requests that a limit rejected or did not delay",
            self.refused.clone(),
        );
    }

    /// Counts a request that a limit has rejected.
    pub(crate) fn refused(&self, limit: &'static str) {
        self.refused.get_or_create(&[("limit", limit)]).inc();
    }
}

/// Counts a request and writes its log line. The line has the route instead of the path, because paths and queries may
/// contain secrets.
pub(crate) async fn observe(
    State(metrics): State<Arc<HttpMetrics>>,
    request: Request,
    next: Next,
) -> Response {
    let method = method_label(request.method());
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("none", MatchedPath::as_str)
        .to_owned();
    let id = request.headers().get(&REQUEST_ID).cloned();
    let span = telemetry::request_span(method, &route, request.headers());
    let started = Instant::now();
    let response = next.run(request).instrument(span.clone()).await;
    let (elapsed, status) = (started.elapsed(), response.status().as_u16());
    telemetry::record_response(&span, status);
    let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    let request_id = id.as_ref().and_then(|id| id.to_str().ok());
    let code = response.extensions().get::<Code>();
    let code = code.map(|code| code.as_str());
    tracing::info!(method, route, status, code, millis, request_id, "request");
    let answered = ResponseLabels {
        route,
        method,
        status,
    };
    metrics.requests.get_or_create(&answered).inc();
    if response.extensions().get::<LongPolled>().is_none() {
        let endpoint = RouteLabels {
            route: answered.route,
            method,
        };
        metrics
            .durations
            .get_or_create(&endpoint)
            .observe(elapsed.as_secs_f64());
    }
    response
}

/// Returns the label of a known method. Clients can send any text as a method, up to the size limit of a head, so
/// unknown methods share one label.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// Returns the metrics in Prometheus format to callers with `METRICS_TOKEN`; without a configured token the page does
/// not exist.
pub(crate) async fn scrape(
    State(state): State<AppState>,
    Extension(address): Extension<CallerAddress>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    if state.metrics_tokens.is_empty() {
        return Err(Problem::new(Code::NotFound, "no endpoint has this path"));
    }
    let is_right = || matches_token(&headers, &state.metrics_tokens);
    let limits = &state.limits;
    limits.guess(address, is_right, Problem::no_metrics_token)?;
    let database_stats = state.services.statistics.metrics().await;
    let text = metrics::encode_text(&[&state.metrics, &database_stats]).map_err(|error| {
        Problem::internal(format_args!("the metrics cannot be written: {error}"))
    })?;
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

fn matches_token(headers: &HeaderMap, tokens: &[SecretString]) -> bool {
    let given = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    given.is_some_and(|given| {
        let same = |token: &SecretString| {
            verify_slices_are_equal(given, token.expose_secret().as_bytes()).is_ok()
        };
        tokens.iter().any(same)
    })
}
