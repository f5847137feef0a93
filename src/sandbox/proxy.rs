//! Nango's proxy, in front of the sandbox's provider.
//!
//! As Nango documents it: the connection is named by two headers, and of the
//! caller's headers those that begin with `Nango-Proxy-` are passed on.

use axum::body::Body;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::{HeaderMap, HeaderName, header};
use axum::response::Response;

use super::connections::not_found;
use super::credentials::Credentials;
use super::error::Failure;
use super::state::App;

/// The prefix of headers that are for the provider.
const PREFIX: &str = "nango-proxy-";

pub(super) async fn pass(
    State(app): State<App>,
    Path(path): Path<String>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<Response, Failure> {
    let (parts, body) = request.into_parts();
    let id = named(&parts.headers, "connection-id");
    let integration = named(&parts.headers, "provider-config-key");
    app.refresh_if_due(&id, &integration, false)?;
    let token = {
        let state = app.lock();
        let connection = state.connection(&id, &integration).ok_or_else(not_found)?;
        match &connection.credentials {
            Credentials::OAuth2 { access_token, .. } => access_token.clone(),
            _ => return Err(not_found()),
        }
    };
    let mut url = format!("{}/provider/{path}", app.public_url);
    if let Some(query) = query {
        url = format!("{url}?{query}");
    }
    let answer = app
        .http
        .request(parts.method, url)
        .headers(for_provider(&parts.headers))
        .bearer_auth(token)
        .body(reqwest::Body::wrap_stream(body.into_data_stream()))
        .send()
        .await
        .map_err(|error| Failure::invalid_body(error.to_string()))?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = answer.status();
    for (name, value) in answer.headers() {
        if name != header::TRANSFER_ENCODING && name != header::CONNECTION {
            response.headers_mut().append(name, value.clone());
        }
    }
    *response.body_mut() = Body::from_stream(answer.bytes_stream());
    Ok(response)
}

fn named(headers: &HeaderMap, name: &str) -> String {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default().to_owned()
}

fn for_provider(headers: &HeaderMap) -> HeaderMap {
    let passed = headers.iter().filter_map(|(name, value)| {
        let name = name.as_str().strip_prefix(PREFIX)?;
        if name == "content-length" {
            return None;
        }
        Some((HeaderName::try_from(name).ok()?, value.clone()))
    });
    passed.collect()
}
