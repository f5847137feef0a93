//! The logos of connectors as images.

use axum::extract::State;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH,
};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};

use crate::http::AppState;
use crate::http::extract::Path;
use crate::http::problem::{Code, Problem};
use crate::service;

/// Allows pages of other origins to show the image.
const RESOURCE_POLICY: (HeaderName, &str) = (
    HeaderName::from_static("cross-origin-resource-policy"),
    "cross-origin",
);

/// The policy of an SVG image that is opened as a page: it runs and loads nothing.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; sandbox";

/// The TTL of a final image in caches. An image that Nango's may still replace is cached for five minutes.
const FINAL: &str = "public, max-age=86400";
const PROVISIONAL: &str = "public, max-age=300";

/// Get the logo of a connector.
///
/// Returns an image, as SVG or in another format. The operation requires no token, so that an `<img>` can show it.
#[utoipa::path(get, path = "/api/v1/connectors/{connector}/logo", operation_id = "getConnectorLogo", tag = "catalog",
    params(("connector" = String, Path, description = "The id or slug of a connector.", example = "gmail")),
    responses((status = 200, description = "The image.", content_type = "image/svg+xml", body = String)),
    extensions(("x-error-codes" = json!([Code::ConnectorNotFound])))
)]
pub(crate) async fn get(
    State(state): State<AppState>,
    Path(reference): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let found = state.services.logos.get(&reference).await;
    let (logo, is_final) = found.ok_or(service::Error::ConnectorNotFound(reference))?;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &logo.bytes);
    // A weak tag, because a proxy may compress the image.
    let tag = format!("W/\"{}\"", hex::encode(&digest.as_ref()[..16]));
    let caching = if is_final { FINAL } else { PROVISIONAL };
    let seen = headers
        .get(IF_NONE_MATCH)
        .and_then(|seen| seen.to_str().ok());
    let is_unchanged = seen.is_some_and(|seen| seen.split(',').any(|one| one.trim() == tag));
    let about = [(ETAG, tag), (CACHE_CONTROL, caching.to_owned())];
    if is_unchanged {
        return Ok((StatusCode::NOT_MODIFIED, about).into_response());
    }
    let kind = [
        (CONTENT_TYPE, logo.content_type),
        (CONTENT_SECURITY_POLICY, POLICY),
        RESOURCE_POLICY,
    ];
    Ok((about, kind, logo.bytes).into_response())
}
