//! The baseline: a service that only authenticates its caller.

use std::error::Error;
use std::net::Ipv4Addr;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use patchbay::service::service_keys::ServiceKeys;

struct Baseline {
    keys: ServiceKeys,
    answer: Vec<u8>,
}

/// Serves `answer` to requests with one of the service keys until the process ends. Returns its URL.
///
/// # Errors
/// If no port is available.
pub(crate) async fn start(keys: ServiceKeys, answer: Vec<u8>) -> Result<String, Box<dyn Error>> {
    let router = axum::Router::new()
        .route("/token", post(token))
        .with_state(Arc::new(Baseline { keys, answer }));
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(url)
}

async fn token(State(floor): State<Arc<Baseline>>, headers: HeaderMap) -> Response {
    let key = headers
        .get("authorization")
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    match floor.keys.authenticate(key.unwrap_or_default()).await {
        Ok(Some(_)) => ([(CONTENT_TYPE, "application/json")], floor.answer.clone()).into_response(),
        _ => StatusCode::UNAUTHORIZED.into_response(),
    }
}
