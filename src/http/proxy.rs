//! Calls to providers' APIs through Nango, for services that need not see a token.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::Uri;
use axum::response::Response;
use futures::TryStreamExt;
use uuid::Uuid;

use super::AppState;
use super::error::{Problem, ProblemBody};
use super::extract::{Path, Workflow};
use super::tokens::why_not;
use crate::nango::proxy::{ProxyCall, of_provider};

/// The largest body that is passed on, in either direction.
pub(super) const MAX_BODY: usize = 64 * 1024 * 1024;

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
        (status = 404, body = ProblemBody), (status = 409, body = ProblemBody), (status = 503, body = ProblemBody)
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
    let call = ProxyCall {
        method: parts.method,
        path_and_query,
        headers: parts.headers,
        body: reqwest::Body::wrap_stream(body.into_data_stream()),
    };
    let answer = state
        .connections
        .proxy(&workflow.user, id, &workflow.service.name, call)
        .await;
    let answer = answer.map_err(why_not)?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = answer.status();
    *response.headers_mut() = of_provider(answer.headers());
    let mut left = MAX_BODY;
    let bounded = answer
        .bytes_stream()
        .map_err(std::io::Error::other)
        .and_then(move |chunk| {
            let fits = chunk.len() <= left;
            left = left.saturating_sub(chunk.len());
            std::future::ready(if fits {
                Ok(chunk)
            } else {
                Err(std::io::Error::other("the answer is too long"))
            })
        });
    *response.body_mut() = Body::from_stream(bounded);
    response.extensions_mut().insert(super::error::NotOurs);
    Ok(response)
}

/// The provider's path and query as the caller wrote them.
fn provider_path(uri: &Uri) -> Option<&str> {
    uri.path_and_query()?
        .as_str()
        .split_once("/proxy/")
        .map(|(_, path)| path)
}
