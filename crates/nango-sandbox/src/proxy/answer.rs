//! The response to a proxied call, made from the provider's.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde_json::json;

/// The provider's headers that Nango keeps in a buffered response.
const KEPT: [&str; 4] = [
    "content-type",
    "mcp-session-id",
    "x-request-id",
    "x-correlation-id",
];

/// Returns the provider's response: errors and streams with their headers, other successes as 200 without most of them.
pub(super) async fn passed(answer: reqwest::Result<reqwest::Response>) -> Response {
    let Ok(answer) = answer else {
        return no_answer();
    };
    let (status, headers) = (answer.status(), without_transport(answer.headers()));
    let is_chunked = answer
        .headers()
        .get(header::TRANSFER_ENCODING)
        .is_some_and(|it| it == "chunked");
    if status.is_success() && (is_chunked || is_shown_as_file(&headers)) {
        let mut response = Response::new(Body::from_stream(answer.bytes_stream()));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        return response;
    }
    if status == StatusCode::NO_CONTENT {
        return status.into_response();
    }
    let Ok(body) = answer.bytes().await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    if !status.is_success() {
        // Decoded as text, which loses bytes that are not UTF-8.
        let text = String::from_utf8_lossy(&body).into_owned();
        return buffered(status, headers, text.into());
    }
    let kept = headers
        .iter()
        .filter(|(name, _)| KEPT.contains(&name.as_str()));
    let mut kept: HeaderMap = kept
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    kept.entry(header::CONTENT_TYPE)
        .or_insert(HeaderValue::from_static("application/octet-stream"));
    buffered(StatusCode::OK, kept, body.into())
}

/// Returns the error of Nango's HTTP client for a provider that does not respond.
fn no_answer() -> Response {
    let error = json!({ "message": "socket hang up", "code": "ECONNRESET", "method": "get" });
    (StatusCode::INTERNAL_SERVER_ERROR, axum::Json(error)).into_response()
}

fn buffered(status: StatusCode, mut headers: HeaderMap, body: Vec<u8>) -> Response {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, &body);
    let digest = STANDARD_NO_PAD.encode(digest);
    let tag = format!("W/\"{:x}-{digest}\"", body.len());
    if let Ok(tag) = HeaderValue::try_from(tag) {
        headers.entry(header::ETAG).or_insert(tag);
    }
    (status, headers, body).into_response()
}

fn is_shown_as_file(headers: &HeaderMap) -> bool {
    let disposition = headers
        .get(header::CONTENT_DISPOSITION)
        .and_then(|it| it.to_str().ok());
    let kind = disposition.unwrap_or_default().split([';', ' ']).next();
    matches!(kind, Some("attachment" | "inline"))
}

fn without_transport(headers: &HeaderMap) -> HeaderMap {
    let stays = |name: &HeaderName| {
        ![
            header::TRANSFER_ENCODING,
            header::CONNECTION,
            header::CONTENT_LENGTH,
        ]
        .contains(name)
    };
    let stay = headers.iter().filter(|(name, _)| stays(name));
    stay.map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}
