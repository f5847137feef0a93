//! Calls to providers' APIs through Nango, for services that need not see a token.

use std::future::ready;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header::CONTENT_LENGTH;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use futures::{Stream, TryStreamExt};
use tower::BoxError;
use uuid::Uuid;

use super::AppState;
use super::error::{Code, Problem, ProblemBody};
use super::extract::{Path, Workflow};
use crate::nango::proxy::{ProxyCall, of_provider};

/// The largest body that is passed on, in either direction.
const MAX_BODY: usize = 64 * 1024 * 1024;

/// Calls the provider's API with a connection's credentials.
///
/// Method, path, query, headers and body are passed on as they are, and so is
/// the answer. Both bodies are streamed, and have 64 MiB at the most.
#[utoipa::path(method(get, post, put, patch, delete), path = "/api/v1/connectors/connections/{id}/proxy/{*path}",
    tag = "tokens",
    params(("id" = Uuid, Path, description = "A connection's id"),
        ("path" = String, Path, description = "The path of the provider's API, with as many slashes as it has"),
        ("Patchbay-User" = String, Header, description = "The user that the service acts for", min_length = 1, max_length = 255)),
    responses(
        (status = 200, description = "Whatever the provider answers, with its status"),
        (status = 400, body = ProblemBody), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
        (status = 404, body = ProblemBody), (status = 409, body = ProblemBody), (status = 413, body = ProblemBody),
        (status = 503, body = ProblemBody)
    )
)]
pub(super) async fn proxy(
    State(state): State<AppState>,
    workflow: Workflow,
    path: Path<(Uuid, String)>,
    request: Request,
) -> Result<Response, Problem> {
    let Path((id, _)) = path;
    let path_and_query = provider_path(request.uri())
        .ok_or_else(|| Problem::invalid("the provider's path is missing"))?
        .to_owned();
    let path = path_and_query.split('?').next().unwrap_or_default();
    ProxyCall::check_path(path).map_err(|error| Problem::invalid(error.to_string()))?;
    let (parts, body) = request.into_parts();
    if length(&parts.headers).is_some_and(|length| length > MAX_BODY) {
        return Err(too_long());
    }
    let is_too_long = Arc::new(AtomicBool::new(false));
    let noted = is_too_long.clone();
    let body = bounded(body.into_data_stream(), move || {
        noted.store(true, Ordering::Relaxed);
    });
    let call = ProxyCall {
        method: parts.method,
        path_and_query,
        headers: parts.headers,
        body: reqwest::Body::wrap_stream(body),
    };
    let answer = state
        .connections
        .proxy(&workflow.user, id, &workflow.service.name, call)
        .await;
    let answer = answer.map_err(|error| {
        if is_too_long.load(Ordering::Relaxed) {
            too_long()
        } else {
            error.into()
        }
    })?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = answer.status();
    *response.headers_mut() = of_provider(answer.headers());
    *response.body_mut() = Body::from_stream(bounded(answer.bytes_stream(), || {}));
    response.extensions_mut().insert(super::error::NotOurs);
    Ok(response)
}

/// A body that breaks off, and says so, where it is longer than any may be.
fn bounded<E: Into<BoxError>>(
    body: impl Stream<Item = Result<Bytes, E>>,
    is_too_long: impl Fn(),
) -> impl Stream<Item = io::Result<Bytes>> {
    let mut left = MAX_BODY;
    body.map_err(io::Error::other).and_then(move |piece| {
        if piece.len() > left {
            is_too_long();
            return ready(Err(io::Error::other("the body is too long")));
        }
        left -= piece.len();
        ready(Ok(piece))
    })
}

/// How long a body is said to be.
fn length(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_long() -> Problem {
    Problem::new(Code::PayloadTooLarge, "a body may have 64 MiB at the most")
}

/// The provider's path and query as the caller wrote them.
fn provider_path(uri: &Uri) -> Option<&str> {
    uri.path_and_query()?
        .as_str()
        .split_once("/proxy/")
        .map(|(_, path)| path)
}
