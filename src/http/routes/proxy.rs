//! Proxied calls to providers' APIs through Nango. The calling service never sees a token.

use crate::domain::ConnectionId;
use crate::http::openapi::errors;
use crate::http::problem::{Code, Problem};
use std::future::ready;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH};
use axum::http::{HeaderMap, HeaderValue, Uri};
use axum::response::Response;
use futures::stream::{self, Stream, StreamExt, TryStreamExt};
use tower::BoxError;

use crate::http::AppState;
use crate::http::extract::{Path, TokenService};
use crate::nango;
use crate::nango::proxy::{ProxyAnswer, ProxyCall};
use crate::service;

/// The largest request or response body that is forwarded, in bytes.
const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;

/// The progress of a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upload {
    /// The body has not ended.
    Open,
    /// The whole body was forwarded, or the request has none.
    Complete,
    /// It is larger than `MAX_BODY_BYTES`.
    TooLarge,
    /// The caller's connection failed, or the next piece did not arrive in time.
    Failed,
}

/// The state of an upload, shared with the stream that forwards it.
#[derive(Clone)]
struct SharedUpload(Arc<Mutex<Upload>>);

impl SharedUpload {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Upload::Open)))
    }

    fn set(&self, upload: Upload) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = upload;
    }

    /// Returns the problem of a request that did not arrive completely; `None` if the caller is not the cause.
    fn problem(&self, error: Option<&service::Error>) -> Option<Problem> {
        let upload = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let timed_out = matches!(error, Some(service::Error::Nango(nango::Error::Timeout)));
        match upload {
            Upload::TooLarge => Some(too_large()),
            Upload::Failed => Some(too_slow()),
            Upload::Open if timed_out => Some(too_slow()),
            Upload::Open | Upload::Complete => None,
        }
    }
}

/// Call the API of the provider.
///
/// Nango adds the credentials of the connection and the base URL of the provider. Method, path, query, headers and body reach
/// the provider with the same meaning; a body arrives byte for byte, with at most 64 MiB. GET has no body at the provider. A
/// path must be relative, UTF-8, and without dot segments, backslashes, control characters, `${` and `||`, in any encoding.
///
/// The response is that of the provider, with at most 64 MiB. Nango turns 201 and most other successes into 200, follows
/// redirects, and removes most headers of a success. An error is Patchbay's if its `content-type` is
/// `application/problem+json` and its `type` starts with `urn:patchbay:problem:`. Then the provider has not responded. After
/// `nango_timeout`, the provider may have received the call.
#[utoipa::path(method(get, post, put, patch, delete), path = "/api/v1/connectors/connections/{id}/proxy/{*path}", operation_id = "proxy",
    tag = "tokens",
    params(("id" = Uuid, Path, description = "The id of a connection."),
        ("path" = String, Path, description = "The path of the provider's API. It may contain slashes.", min_length = 1,
            pattern = r"^(?!/|[Hh][Tt][Tt][Pp][Ss]?:)(?!(?:.*/)?\.{1,2}(?:[/;]|$))(?!.*(?:\$\{|\|\|))[^\x00-\x1f\x7f-\x9f\\]*$")),
    responses((status = 200, description = "The response of the provider. It has the status of the provider, which may be any.")),
    extensions(("x-error-codes" = json!([Code::AccountMismatch, Code::ConnectionNotFound, Code::ConnectorNotConfigured, Code::NeedsReauthorization,
        Code::NotConnected, Code::PayloadTooLarge, Code::ProviderUnavailable, errors::NANGO])))
)]
pub(crate) async fn proxy(
    State(state): State<AppState>,
    workflow: TokenService,
    path: Path<(ConnectionId, String)>,
    request: Request,
) -> Result<Response, Problem> {
    let Path((id, _)) = path;
    let (parts, body) = request.into_parts();
    if content_length(&parts.headers).is_some_and(|length| length > MAX_BODY_BYTES) {
        return Err(too_large());
    }
    let target = (provider_path(&parts.uri), parts.uri.query());
    let mut call = ProxyCall::new(parts.method, target, &parts.headers)
        .map_err(|error| Problem::invalid(error.to_string()))?;
    let upload = SharedUpload::new();
    if !call.may_have_body() {
        upload.set(Upload::Complete);
    } else if let Some(body) = started(body, &upload).await? {
        call = call.with_body(body);
    }
    let tokens = &state.services.tokens;
    let answer = tokens
        .proxy(&workflow.user, id, &workflow.service.name, call)
        .await;
    let answer =
        answer.map_err(|error| upload.problem(Some(&error)).unwrap_or_else(|| error.into()))?;
    Ok(passed_on(answer))
}

/// Builds the caller's response from the provider's. Caches must not store it.
fn passed_on(answer: ProxyAnswer) -> Response {
    let body = Body::new(answer.body).into_data_stream();
    let mut response = Response::new(Body::from_stream(bounded(body, || {})));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
    response
        .extensions_mut()
        .insert(crate::http::problem::PassthroughResponse);
    response
}

/// Returns a request's body after its first piece has arrived; `None` if it has none.
async fn started(body: Body, upload: &SharedUpload) -> Result<Option<reqwest::Body>, Problem> {
    let (large, failed, complete) = (upload.clone(), upload.clone(), upload.clone());
    let body = body
        .into_data_stream()
        .inspect_err(move |_| failed.set(Upload::Failed));
    let end = stream::poll_fn(move |_| {
        complete.set(Upload::Complete);
        Poll::Ready(None)
    });
    let mut body = Box::pin(bounded(body, move || large.set(Upload::TooLarge)).chain(end));
    match body.next().await {
        None => Ok(None),
        Some(Err(error)) => Err(upload
            .problem(None)
            .unwrap_or_else(|| Problem::internal(error))),
        Some(Ok(first)) => {
            let first = stream::once(ready(Ok(first)));
            Ok(Some(reqwest::Body::wrap_stream(first.chain(body))))
        }
    }
}

/// Limits a body: it ends with an error after `MAX_BODY_BYTES`.
fn bounded<E: Into<BoxError>>(
    body: impl Stream<Item = Result<Bytes, E>>,
    is_too_large: impl Fn(),
) -> impl Stream<Item = io::Result<Bytes>> {
    let mut remaining = MAX_BODY_BYTES;
    body.map_err(io::Error::other).and_then(move |piece| {
        if piece.len() > remaining {
            is_too_large();
            return ready(Err(io::Error::other("the body is too large")));
        }
        remaining -= piece.len();
        ready(Ok(piece))
    })
}

/// Returns the `Content-Length` of a request.
fn content_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_large() -> Problem {
    Problem::new(Code::PayloadTooLarge, "a body may have at most 64 MiB")
}

fn too_slow() -> Problem {
    Problem::new(Code::RequestTimeout, "the body did not arrive in time")
}

/// Returns the provider's path exactly as the caller sent it.
fn provider_path(uri: &Uri) -> &str {
    let path = uri.path().split_once("/proxy/");
    path.map_or("", |(_, path)| path)
}
