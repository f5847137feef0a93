//! Nango's proxy in front of the sandbox's provider, with the same lack of checks.
//!
//! Headers name the connection and integration. Every `Nango-Proxy-…` header becomes a header for the provider. Path
//! and query are evaluated as a template with access to the credentials. Bodies and responses are rewritten.

mod answer;
mod body;
mod template;

use std::future::pending;

use axum::body::{Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use percent_encoding::percent_decode_str;
use serde_json::Value;
use url::Url;

use crate::error::Failure;
use crate::proxy::body::Data;
use crate::state::App;
use crate::view;

/// The prefix of headers for the provider.
const PREFIX: &str = "nango-proxy-";

/// The maximum body of a call, in bytes.
const BODY_LIMIT: usize = 75 * 1024 * 1024;

const BACKING_OFF: &str = "A recent refresh attempt failed. Backing off before retrying.";

pub(super) async fn handle(State(app): State<App>, request: Request) -> Response {
    match forward(&app, request).await {
        Ok(answer) => answer,
        Err(refusal) => refusal.into_response(),
    }
}

async fn forward(app: &App, request: Request) -> Result<Response, Failure> {
    let (parts, body) = request.into_parts();
    let bytes = to_bytes(body, BODY_LIMIT)
        .await
        .map_err(|_cut_off| broken())?;
    let data = body::read(&parts.headers, bytes)?;
    // The router decodes the path, if only to check that it can.
    percent_decode_str(parts.uri.path())
        .decode_utf8()
        .map_err(|_not_utf8| broken())?;
    let (authorization, fields) = credentials(app, &parts.headers)?;
    if parts.headers.contains_key("base-url-override") && app.lock().faults.refuse_base_url_override
    {
        let refusal = Failure::new(StatusCode::BAD_REQUEST, "base_url_override_disabled");
        return Err(refusal.message("The base URL override is disabled"));
    }
    let provider = fields["provider"].as_str().unwrap_or_default();
    let url = match app.account_endpoint(provider, &parts.uri, &parts.headers) {
        Some(url) => Url::parse(&url).ok(),
        None => provider_url(app, &parts.uri, &fields),
    };
    let url = url.ok_or_else(broken)?;
    let mut headers = provider_headers(&authorization);
    headers.extend(forwarded(&parts.headers));
    let body = provider_body(data, &parts.method, &mut headers).await;
    if headers.contains_key(header::TRANSFER_ENCODING) {
        // Nango computes a length as well, and servers reject both together.
        return Ok(StatusCode::BAD_REQUEST.into_response());
    }
    let request = app.redirected.request(parts.method, url).headers(headers);
    let request = match body {
        Some(body) => request.body(body),
        None => request,
    };
    Ok(answer::passed(request.send().await).await)
}

/// Returns Nango's response to unexpected input.
fn broken() -> Failure {
    Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "generic_error_support")
        .message("An error occurred. Please contact support with this unique id: \"0\"")
}

fn server_error(status: StatusCode, message: String) -> Failure {
    Failure::new(status, "server_error").message(message)
}

/// Returns the `authorization` of a connection, refreshed if necessary, and the fields that templates may contain.
fn credentials(app: &App, headers: &HeaderMap) -> Result<(String, Value), Failure> {
    let named = |name: &'static str| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        let message = "Invalid input: expected string, received undefined";
        value.ok_or_else(|| Failure::issue("invalid_headers", "invalid_type", message, &[name]))
    };
    let (integration, id) = (named("provider-config-key")?, named("connection-id")?);
    let missing = || {
        server_error(
            StatusCode::BAD_REQUEST,
            "Failed to get connection".to_owned(),
        )
    };
    {
        let state = app.lock();
        if state.integration(integration).is_none() {
            return Err(
                Failure::new(StatusCode::NOT_FOUND, "unknown_provider_config").message(
                    "Provider config not found for the given provider config key. \
                 Please make sure the provider config exists in the Nango dashboard.",
                ),
            );
        }
        state.connection(id, integration).ok_or_else(missing)?;
    }
    app.refresh_if_due(id, integration, false)
        .map_err(|failure| {
            let message = failure.message.unwrap_or_default();
            if message == BACKING_OFF {
                Failure::new(failure.status, "connection_refresh_backoff").message(message)
            } else {
                let message = format!("Failed to get connection credentials: '{message}'");
                server_error(failure.status, message)
            }
        })?;
    let state = app.lock();
    let connection = state.connection(id, integration).ok_or_else(missing)?;
    let shown = connection.credentials.to_json(true);
    let mut fields = view::connection_body(&state, connection, shown.clone());
    if let (Some(fields), Value::Object(own)) = (fields.as_object_mut(), shown) {
        fields.extend(own);
    }
    Ok((connection.credentials.authorization(), fields))
}

/// Returns the URL of a call: the provider's base and the caller's path, evaluated as one template.
fn provider_url(app: &App, uri: &Uri, fields: &Value) -> Option<Url> {
    let base = app.provider_url("");
    let base = base.trim_end_matches('/');
    let endpoint = uri.path_and_query()?.as_str().strip_prefix("/proxy")?;
    let endpoint = endpoint.replacen(base, "", 1);
    let template = format!("{base}/{}", endpoint.trim_start_matches('/'));
    let template = template.replace("connectionConfig", "connection_config");
    Url::parse(&template::evaluate(&template, fields)).ok()
}

/// Returns the headers of the provider's template and of Nango's HTTP client.
fn provider_headers(authorization: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        (header::ACCEPT, "application/json, text/plain, */*"),
        (header::USER_AGENT, "axios/1.18.0"),
        (header::AUTHORIZATION, authorization),
    ] {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
    headers
}

/// Returns the caller's headers for the provider; the last value of each name.
fn forwarded(headers: &HeaderMap) -> HeaderMap {
    let mut forwarded = HeaderMap::new();
    for (name, value) in headers {
        let name = name.as_str().strip_prefix(PREFIX).map(HeaderName::try_from);
        if let Some(Ok(name)) = name {
            forwarded.insert(name, value.clone());
        }
    }
    forwarded
}

/// Returns the body for the provider. A forwarded length overrides the body's own: the provider waits for missing
/// bytes, and does not receive excess ones.
async fn provider_body(data: Data, method: &Method, headers: &mut HeaderMap) -> Option<Bytes> {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    let body = data.into_bytes(method, kind);
    let (body, kind) = body.map_or((None, None), |(body, kind)| (Some(body), Some(kind)));
    if let Some(kind) = kind {
        headers
            .entry(header::CONTENT_TYPE)
            .or_insert(HeaderValue::from_static(kind));
    }
    let declared = headers.remove(header::CONTENT_LENGTH);
    let declared = declared.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    match (declared, body) {
        (Some(declared), body) if declared > body.as_ref().map_or(0, Bytes::len) => pending().await,
        (Some(declared), Some(body)) => Some(body.slice(..declared)),
        (_, body) => body,
    }
}
