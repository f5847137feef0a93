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
use crate::nango::MAX_NANGO_TIMEOUT;
use crate::nango::Nango;
use crate::nango::webhook::SigningKeys;
use crate::server::Shutdown;
use crate::service::Services;
use crate::service::service_keys::ServiceKeys;

/// The header that carries a request's id, in and out.
pub(crate) static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest request id that is taken up, in bytes.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// The headers of every answer that does not say otherwise.
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

/// How long a request may take: longer than Nango may, with its retries.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
const _: () = assert!(
    REQUEST_TIMEOUT.as_secs() > 4 * MAX_NANGO_TIMEOUT.as_secs(),
    "a connect or a check may need four calls to Nango"
);

/// What the documentation's page may do: it styles and draws itself, and asks this service only.
const DOCS_POLICY: &str = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                           frame-ancestors 'none'; base-uri 'none'";

/// What handlers work with. Several clones are made for each request, so it is one pointer.
pub type AppState = Arc<Shared>;

/// What all requests share.
pub struct Shared {
    /// The use cases.
    pub services: Arc<Services>,
    /// Who a token belongs to.
    pub auth: Authenticator,
    /// Where providers that return to our own domain are sent on to; `None` when Nango is switched off.
    pub nango: Option<Nango>,
    /// What Nango's webhooks are signed with.
    pub signing_keys: Option<SigningKeys>,
    /// How browsers are distinguished.
    pub browser_binding: BrowserBinding,
    /// The product's own origins.
    pub allowed_origins: Arc<[String]>,
    /// The headers that the product's frontend adds to its requests.
    pub allowed_headers: Vec<HeaderName>,
    /// Which service a key belongs to.
    pub keys: ServiceKeys,
    /// Whether the database is there.
    pub readiness: Readiness,
    /// How much a caller may ask for.
    pub limits: Arc<Limits>,
    /// How long a client may take to send the next piece of a body.
    pub client_timeout: Duration,
    /// What is counted of requests.
    pub http_metrics: Arc<HttpMetrics>,
    /// What is counted, apart from what the database says.
    pub metrics: Registry,
    /// The tokens that allow access to the metrics.
    pub metrics_tokens: Vec<SecretString>,
    /// How the service comes to its end: streams and waits then end, too.
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
#[must_use]
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
    // Layers that are put around routes together cost a request less than one by one.
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

/// Adds the path at which this service is reached to a redirect within it.
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

/// The id of a request: its caller's, if that is one of visible characters and no longer than
/// `MAX_REQUEST_ID_BYTES`, for it goes into every log line of the request; else a new one.
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

/// Gives every request an id, and its answer what every answer has.
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

/// What every answer goes through, whatever made it.
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

/// What is answered while the service is starting.
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
        // For the cookie of a browser that starts an attempt; the cookie grants no access.
        .allow_credentials(state.browser_binding.is_enabled())
        .allow_methods([Method::GET, Method::POST, Method::PATCH, Method::DELETE])
        .allow_headers([own_headers.as_slice(), &state.allowed_headers].concat())
        .expose_headers([
            REQUEST_ID.clone(),
            // Browsers' clocks may be wrong: the frontend goes by the service's.
            DATE,
            RETRY_AFTER,
            HeaderName::from_static("ratelimit"),
            HeaderName::from_static("ratelimit-policy"),
        ])
        .max_age(Duration::from_secs(3600))
}
