//! The router: every route, the middleware around it, and the state that handlers share.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, DATE, LOCATION,
    REFERRER_POLICY, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Redirect, Response};
use prometheus_client::registry::Registry;
use secrecy::SecretString;
use serde_json::Value;
use tower::{Service, ServiceBuilder};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::timeout::TimeoutLayer;
use url::Url;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::SwaggerUi;
use uuid::Uuid;

use super::ConsoleConfig;
use super::browser_binding::BrowserBinding;
use super::middleware::limits::{self, Limits};
use super::middleware::metrics::{self, HttpMetrics};
use super::openapi::{PLACEHOLDER_SERVER, base_document, complete};
use super::problem::{self, Problem};
use super::routes::health::{self, Readiness};
use super::routes::{
    callback, connect, connections, connectors, console, events, logos, nango_webhooks, proxy,
    tokens, users,
};
use crate::auth::Authenticator;
use crate::nango::webhook::SigningKeys;
use crate::nango::{MAX_NANGO_TIMEOUT, Nango};
use crate::server::Shutdown;
use crate::service::Services;
use crate::service::service_keys::ServiceKeys;

/// The header of the request id, in requests and responses.
pub(crate) static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest request id that is accepted from a caller, in bytes.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// The default headers of every response.
const STANDARD_HEADERS: [(HeaderName, &str); 5] = [
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
    (REFERRER_POLICY, "no-referrer"),
    (CACHE_CONTROL, "no-store"),
    (
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; frame-ancestors 'none'",
    ),
];

/// How long a request may take: longer than a call to Nango with its retries.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
const _: () = assert!(
    REQUEST_TIMEOUT.as_secs() > 4 * MAX_NANGO_TIMEOUT.as_secs(),
    "a connect or a check may need four calls to Nango"
);

/// The content security policy of the documentation page: inline styles, and connections to this service only.
const DOCS_POLICY: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                           frame-ancestors 'none'; base-uri 'none'";

/// The state of all handlers. axum clones it several times per request, so it is a single pointer.
pub type AppState = Arc<Shared>;

/// The state that all requests share.
pub struct Shared {
    /// The use cases.
    pub services: Arc<Services>,
    /// The authenticator of users' tokens.
    pub auth: Authenticator,
    /// The Nango client, to which returning providers are forwarded; `None` if Nango is disabled.
    pub nango: Option<Nango>,
    /// The keys that verify the signatures of Nango's webhooks.
    pub signing_keys: Option<SigningKeys>,
    /// How browsers are distinguished.
    pub browser_binding: BrowserBinding,
    /// The product's own origins.
    pub allowed_origins: Arc<[String]>,
    /// The headers that the product's frontend adds to its requests.
    pub allowed_headers: Vec<HeaderName>,
    /// The service keys.
    pub keys: ServiceKeys,
    /// The cached result of the readiness check.
    pub readiness: Readiness,
    /// The rate and concurrency limits.
    pub limits: Arc<Limits>,
    /// How long a client may take to send the next piece of a body.
    pub client_timeout: Duration,
    /// The metrics of HTTP requests.
    pub http_metrics: Arc<HttpMetrics>,
    /// The metrics of this process, without those that are read from the database.
    pub metrics: Registry,
    /// The tokens that allow access to the metrics.
    pub metrics_tokens: Vec<SecretString>,
    /// The shutdown signals, which also end streams and waiting requests.
    pub stopping: Shutdown,
}

fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(base_document())
        .routes(routes!(connectors::list))
        .routes(routes!(connectors::list_all))
        .routes(routes!(connectors::get))
        .routes(routes!(logos::get))
        .routes(routes!(connect::connect))
        .routes(routes!(connect::disconnect))
        .routes(routes!(connect::reconnect))
        .routes(routes!(callback::callback))
        .routes(routes!(connections::list))
        .routes(routes!(
            connections::get,
            connections::update,
            connect::remove
        ))
        .routes(routes!(connect::cancel))
        .routes(routes!(connections::check))
        .routes(routes!(connections::accept_account))
        .routes(routes!(events::stream))
        .routes(routes!(events::history))
        .routes(routes!(tokens::of_connection))
        .routes(routes!(proxy::proxy))
        .routes(routes!(tokens::of_connector))
        .routes(routes!(tokens::refused))
        .routes(routes!(users::uses))
        .routes(routes!(users::erase))
        .routes(routes!(nango_webhooks::of_environment))
        .routes(routes!(nango_webhooks::of_attempt))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
}

/// Returns the OpenAPI 3.1 document of every endpoint, with a placeholder as its server.
pub fn openapi() -> Value {
    complete(routes().into_openapi(), PLACEHOLDER_SERVER)
}

/// Returns the router of every endpoint, with the document for a service at `public_url`. If there is a console, `/` redirects to it.
///
/// A proxy in front may have removed the path of `public_url`; redirects and pages have it.
pub fn router(state: AppState, public_url: &Url, console: Option<&ConsoleConfig>) -> Router {
    let prefix: Arc<str> = public_url.path().trim_end_matches('/').into();
    let server = public_url.as_str().trim_end_matches('/');
    let cors = cors(&state);
    let console = console.map(|console| console::routes(console, &state.allowed_origins, &prefix));
    let front = if console.is_some() {
        "/console/"
    } else {
        "/docs"
    };
    // One stack around all routes costs a request less than several layers.
    let around_all = ServiceBuilder::new()
        .layer(from_fn_with_state(
            state.http_metrics.clone(),
            metrics::observe,
        ))
        .layer(cors)
        .layer(from_fn_with_state(state.clone(), limits::limit_requests));
    let around_api = TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, REQUEST_TIMEOUT);
    let (router, document) = routes().split_for_parts();
    let api = router
        .route("/metrics", axum::routing::get(metrics::scrape))
        .layer(around_api)
        .with_state(state);
    let shown_at = format!("{prefix}/api/v1/openapi.json");
    let docs = SwaggerUi::new("/docs")
        .config(utoipa_swagger_ui::Config::from(shown_at))
        .external_url_unchecked("/api/v1/openapi.json", complete(document, server));
    let docs = Router::new()
        .merge(docs)
        .route_layer(header(CONTENT_SECURITY_POLICY, DOCS_POLICY));
    let pages = docs
        .merge(console.unwrap_or_default())
        .route(
            "/",
            axum::routing::get(async move || Redirect::temporary(front)),
        )
        .layer(map_response(move |page| add_prefix(page, prefix.clone())));
    api.merge(pages).layer(around_all)
}

/// Adds the path prefix of this service to a redirect within it.
async fn add_prefix(mut page: Response, prefix: Arc<str>) -> Response {
    let location = page.headers().get(LOCATION);
    let location = location.and_then(|location| location.to_str().ok());
    if let Some(path) = location.filter(|path| path.starts_with('/')) {
        let whole = HeaderValue::from_str(&format!("{prefix}{path}"));
        page.headers_mut()
            .insert(LOCATION, whole.expect("a URL's path is a header's text"));
    }
    page
}

/// Returns the caller's request id if it has only visible characters and at most `MAX_REQUEST_ID_BYTES`, because every
/// log line of the request contains it. Otherwise returns a new id.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let mut ids = headers.get_all(&REQUEST_ID).iter();
    let plain = |id: &HeaderValue| {
        (1..=MAX_REQUEST_ID_BYTES).contains(&id.len())
            && id.as_bytes().iter().all(u8::is_ascii_graphic)
    };
    match (ids.next(), ids.next()) {
        (Some(id), None) if plain(id) => id.clone(),
        _ => HeaderValue::from_str(
            Uuid::new_v4()
                .as_hyphenated()
                .encode_lower(&mut Uuid::encode_buffer()),
        )
        .expect("a UUID is visible text"),
    }
}

/// Adds the request id and the standard headers to a response.
async fn add_standard_headers(mut request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    request.headers_mut().insert(&REQUEST_ID, id.clone());
    let answer = next.run(request).await;
    let mut answer = problem::render_problem(answer, id.to_str().ok());
    let headers = answer.headers_mut();
    headers.insert(&REQUEST_ID, id);
    for (name, value) in STANDARD_HEADERS {
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
    answer
}

/// Adds the middleware of all responses.
pub fn with_middleware<S>(answering: S) -> Router
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    let layers = ServiceBuilder::new()
        .layer(CompressionLayer::new())
        .layer(from_fn(add_standard_headers))
        .layer(CatchPanicLayer::new());
    Router::new().fallback_service(answering).layer(layers)
}

/// Returns the router of a service that is starting.
pub fn starting(metrics: &Arc<HttpMetrics>) -> Router {
    async fn starting() -> Response {
        Problem::starting().into_response()
    }
    Router::new()
        .route("/healthz", axum::routing::get(health::healthz))
        .fallback(starting)
        .layer(from_fn_with_state(metrics.clone(), metrics::observe))
}

fn header(name: HeaderName, value: &'static str) -> SetResponseHeaderLayer<HeaderValue> {
    SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value))
}

fn cors(state: &Shared) -> CorsLayer {
    let origins = state.allowed_origins.clone();
    let allowed =
        move |origin: &HeaderValue, _: &Parts| origins.iter().any(|allowed| allowed == origin);
    let own_headers = [
        AUTHORIZATION,
        CONTENT_TYPE,
        REQUEST_ID.clone(),
        HeaderName::from_static("idempotency-key"),
        HeaderName::from_static("last-event-id"),
    ];
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(allowed))
        // The cookie identifies the browser that starts an attempt. It grants no access.
        .allow_credentials(state.browser_binding.is_enabled())
        .allow_methods([Method::GET, Method::POST, Method::PATCH, Method::DELETE])
        .allow_headers([own_headers.as_slice(), &state.allowed_headers].concat())
        .expose_headers([
            REQUEST_ID.clone(),
            // The frontend uses the service's time, because a browser's clock may be wrong.
            DATE,
            RETRY_AFTER,
            HeaderName::from_static("ratelimit"),
            HeaderName::from_static("ratelimit-policy"),
        ])
        .max_age(Duration::from_secs(3600))
}
