//! The console: serves the build output of `frontend/console` and the page's configuration.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use axum::extract::{Path, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH,
};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use axum::{Json, Router};
use rust_embed::RustEmbed;
use serde_json::{Value, json};

use crate::http::ConsoleConfig;

/// The build output of `frontend/console`. File names below `assets` contain a hash of the content.
#[derive(RustEmbed)]
#[folder = "frontend/console/dist"]
struct Files;

/// The state that all requests share.
#[derive(Debug)]
struct Console {
    /// The page. The addresses of its assets include the path of `PUBLIC_URL`.
    page: String,
    policy: HeaderValue,
    /// The page's initial configuration.
    configuration: Value,
}

/// Returns the routes of the console below `/console/`, which browsers reach below `prefix`. All of its paths return
/// the same page, which renders by the address.
pub(crate) fn routes(config: &ConsoleConfig, allowed_origins: &[String], prefix: &str) -> Router {
    let controls = config.controls.as_ref();
    let controls = controls.map(|url| url.origin().ascii_serialization());
    let console = Console {
        page: page_below(prefix),
        policy: content_security_policy(controls.as_deref()),
        configuration: json!({ "controls": controls, "origins": allowed_origins }),
    };
    Router::new()
        .route("/console", get(async || Redirect::temporary("/console/")))
        .route("/console/", get(page))
        .route("/console/{*path}", get(page))
        .route("/console/config.json", get(client_config))
        .route("/console/assets/{name}", get(asset))
        .with_state(Arc::new(console))
}

/// Returns a policy that allows the page its own scripts and styles, and connections to this service and its controls.
fn content_security_policy(controls: Option<&str>) -> HeaderValue {
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
         connect-src 'self' {}; form-action 'none'; frame-ancestors 'none'; base-uri 'none'",
        controls.unwrap_or_default()
    );
    HeaderValue::from_str(&policy).expect("an origin has only characters that a header may hold")
}

/// Returns the page of a console that browsers reach below `prefix`.
fn page_below(prefix: &str) -> String {
    let page = Files::get("index.html").unwrap_or_else(|| unreachable!("the console is built in"));
    let html = String::from_utf8_lossy(&page.data);
    html.replace("\"/console/", &format!("\"{prefix}/console/"))
}

async fn page(State(console): State<Arc<Console>>, headers: HeaderMap) -> Response {
    let hash = digest(&SHA256, console.page.as_bytes());
    let page = console.page.clone();
    let mut response = file(page, hash.as_ref(), "text/html", "no-cache", &headers);
    let policy = console.policy.clone();
    response
        .headers_mut()
        .insert(CONTENT_SECURITY_POLICY, policy);
    response
}

/// Returns the address of the sandbox's controls, and the origins that may pass a user's token.
async fn client_config(State(console): State<Arc<Console>>) -> Json<Value> {
    Json(console.configuration.clone())
}

async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Response {
    let Some(asset) = Files::get(&format!("assets/{name}")) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    // The file name contains a hash of the content, so it never changes.
    let forever = "public, max-age=31536000, immutable";
    let (hash, mime) = (asset.metadata.sha256_hash(), asset.metadata.mimetype());
    file(asset.data, &hash, mime, forever, &headers)
}

fn file(
    data: impl IntoResponse,
    hash: &[u8],
    mime: &str,
    caching: &'static str,
    headers: &HeaderMap,
) -> Response {
    // A weak tag, because a proxy may compress the file.
    let tag = format!("W/\"{}\"", hex::encode(&hash[..16]));
    let has_it = |seen: &str| seen.split(',').any(|one| one.trim() == tag);
    let unchanged = headers
        .get(IF_NONE_MATCH)
        .and_then(|seen| seen.to_str().ok());
    let about = [(ETAG, tag.clone()), (CACHE_CONTROL, caching.to_owned())];
    if unchanged.is_some_and(has_it) {
        return (StatusCode::NOT_MODIFIED, about).into_response();
    }
    let kind = [(CONTENT_TYPE, mime.to_owned())];
    (about, kind, data).into_response()
}
