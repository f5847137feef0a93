//! Processes every request before routing: reads the body, handles CORS, and protects the controls from foreign pages.

use std::convert::Infallible;
use std::net::IpAddr;

use axum::Json;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use url::Url;

use crate::error::Failure;
use crate::state::App;

/// The JSON body of a request; `None` if it has none.
#[derive(Clone)]
pub(super) struct JsonBody(pub(super) Option<Value>);

impl<S: Sync> FromRequestParts<S> for JsonBody {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.remove().unwrap_or(Self(None)))
    }
}

/// Marks a request whose body is not JSON, in its extensions.
#[derive(Clone)]
pub(super) struct NonJsonBody;

const EXPOSED_HEADERS: &str = "Authorization, Etag, Content-Type, Content-Length, X-Nango-Signature, \
     X-RateLimit-Limit, X-RateLimit-Remaining, X-RateLimit-Reset";
const ALLOWED_HEADERS: &str = "Authorization, Content-Type, Accept, Origin, X-Requested-With, \
     Nango-Activity-Log-Id, Nango-Is-Dry-Run, Nango-Is-Sync, Provider-Config-Key, Connection-Id, \
     Sentry-Trace, Baggage";
/// The security headers of every response, unless a provider's response overrides them.
const SECURITY: [(HeaderName, &str); 4] = [
    (
        header::STRICT_TRANSPORT_SECURITY,
        "max-age=5184000; includeSubDomains",
    ),
    (
        header::CONTENT_SECURITY_POLICY_REPORT_ONLY,
        "default-src 'self'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "strict-origin"),
];
const BODY_LIMIT: usize = 1 << 20;

pub(super) async fn health() -> Json<Value> {
    Json(json!({ "result": "ok" }))
}

/// Reads the body and sets the headers that all responses share.
///
/// As at Nango, a body that is not JSON is rejected before anything else, CORS included. The controls sign tokens for
/// any user, so only pages of the allowed origins may call them.
pub(super) async fn receive(State(app): State<App>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let controls = path.starts_with("/sandbox");
    let origin = request.headers().get(header::ORIGIN).cloned();
    if controls && let Err(refusal) = admit_to_controls(&app, request.headers()) {
        return refusal;
    }
    let mut response = match read_body(request).await {
        Err(failure) => failure.into_response(),
        Ok(request) => {
            let preflight = *request.method() == Method::OPTIONS
                && request
                    .headers()
                    .contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
            let mut response = if preflight {
                preflight_answer()
            } else {
                next.run(request).await
            };
            if controls {
                allow_origin(response.headers_mut(), origin);
            } else if path != "/health" && path != "/ready" {
                set(
                    response.headers_mut(),
                    header::ACCESS_CONTROL_ALLOW_ORIGIN,
                    "*",
                );
                set(
                    response.headers_mut(),
                    header::ACCESS_CONTROL_EXPOSE_HEADERS,
                    EXPOSED_HEADERS,
                );
            }
            response
        }
    };
    let headers = response.headers_mut();
    set(headers, header::X_FRAME_OPTIONS, "SAMEORIGIN");
    for (name, value) in SECURITY {
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
    if headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|it| it == "application/json")
    {
        set(
            headers,
            header::CONTENT_TYPE,
            "application/json; charset=utf-8",
        );
    }
    response
}

fn allow_origin(headers: &mut HeaderMap, origin: Option<HeaderValue>) {
    headers.insert(header::VARY, HeaderValue::from_name(header::ORIGIN));
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    }
}

/// Rejects a request for the controls from a foreign page, or under a host name that an attacker's DNS may resolve to
/// this machine.
#[expect(clippy::result_large_err, reason = "the response is sent as it is")]
fn admit_to_controls(app: &App, headers: &HeaderMap) -> Result<(), Response> {
    let text = |name| {
        headers
            .get(name)
            .map(|value: &HeaderValue| value.to_str().unwrap_or_default())
    };
    let refuse = |message: &str| {
        let body = Json(json!({ "error": message }));
        Err((StatusCode::FORBIDDEN, body).into_response())
    };
    let host = text(header::HOST).unwrap_or_default();
    let address = Url::parse(&format!("http://{host}/")).ok();
    if !address.is_some_and(|address| is_own_host(app, &address)) {
        return refuse("The controls answer under a loopback name only: use localhost.");
    }
    let Some(origin) = text(header::ORIGIN) else {
        return Ok(());
    };
    let same_origin = origin.split_once("://").is_some_and(|(_, of)| of == host);
    if same_origin || app.config.allowed_origins.iter().any(|one| one == origin) {
        Ok(())
    } else {
        refuse("The controls do not answer pages of this origin. Name it in CORS_ALLOWED_ORIGINS.")
    }
}

/// Returns `true` if a request's `Host` is a loopback name, or that of the public URL.
fn is_own_host(app: &App, address: &Url) -> bool {
    let host = address.host_str().unwrap_or_default();
    let is_loopback = |ip: IpAddr| ip.is_loopback();
    if !address.username().is_empty() {
        return false;
    }
    host == "localhost"
        || host.trim_matches(['[', ']']).parse().is_ok_and(is_loopback)
        || Url::parse(&app.public_url).is_ok_and(|own| own.host_str() == Some(host))
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &'static str) {
    headers.insert(name, HeaderValue::from_static(value));
}

fn preflight_answer() -> Response {
    let headers = [
        (
            header::ACCESS_CONTROL_ALLOW_METHODS,
            "GET,HEAD,PUT,PATCH,POST,DELETE",
        ),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS),
        (header::ACCESS_CONTROL_MAX_AGE, "600"),
        (header::CONTENT_LENGTH, "0"),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

async fn read_body(request: Request) -> Result<Request, Failure> {
    // These handlers read the bodies of proxied calls themselves.
    let path = request.uri().path();
    if path.starts_with("/proxy")
        || ["/provider/echo", "/provider/inspect", "/provider/answer"]
            .iter()
            .any(|api| path.starts_with(api))
    {
        return Ok(request);
    }
    let (mut parts, body) = request.into_parts();
    let bytes: Bytes = to_bytes(body, BODY_LIMIT).await.map_err(|error| {
        Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large").message(error.to_string())
    })?;
    let is_json = parts
        .headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.contains("application/json"));
    if is_json && !bytes.is_empty() {
        let value = serde_json::from_slice(&bytes).map_err(|error| {
            let message = if error.is_eof() {
                "Unexpected end of JSON input".to_owned()
            } else {
                error.to_string()
            };
            Failure::new(StatusCode::BAD_REQUEST, "invalid_json").message(message)
        })?;
        parts.extensions.insert(JsonBody(Some(value)));
    } else if !bytes.is_empty() {
        parts.extensions.insert(NonJsonBody);
    }
    Ok(Request::from_parts(parts, Body::from(bytes)))
}
