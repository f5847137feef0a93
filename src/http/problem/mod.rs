//! Error responses: RFC 9457 problems with a fixed set of codes.

mod callers;
mod causes;
mod rejections;

use std::fmt;

use axum::Json;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::ConnectionId;
use crate::text::is_bidi_control;

/// The longest detail, in characters.
const MAX_DETAIL: usize = 500;

/// Defines the codes: for each one its cause, status and title.
macro_rules! codes {
    ($($(#[doc = $cause:literal])+ $variant:ident = $text:literal, $status:ident, $title:literal;)+) => {
        /// The kind of an error, stable for programs.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
        #[serde(rename_all = "snake_case")]
        #[schema(as = ProblemCode)]
        pub enum Code { $($(#[doc = $cause])+ $variant,)+ }

        impl Code {
            /// Every code.
            pub(crate) const ALL: &[Self] = &[$(Self::$variant,)+];

            fn parts(self) -> (&'static str, StatusCode, &'static str) {
                match self { $(Self::$variant => ($text, StatusCode::$status, $title),)+ }
            }

            /// Returns why an operation answers with this code, and what its caller can do.
            pub(crate) fn cause(self) -> &'static str {
                match self { $(Self::$variant => concat!($($cause),+).trim_ascii(),)+ }
            }
        }
    };
}

codes! {
    /// A parameter, a header or the body does not match this document. `detail` names it.
    InvalidRequest = "invalid_request", BAD_REQUEST, "The request is not valid";
    /// The bearer token is missing, expired or not accepted.
    Unauthenticated = "unauthenticated", UNAUTHORIZED, "A valid bearer token is needed";
    /// The signature of the webhook is missing or wrong.
    InvalidSignature = "invalid_signature", UNAUTHORIZED, "The signature is not valid";
    /// No endpoint has this path.
    NotFound = "not_found", NOT_FOUND, "Unknown path";
    /// No connector has this id or slug.
    ConnectorNotFound = "connector_not_found", NOT_FOUND, "There is no such connector";
    /// The user has no such connection.
    ConnectionNotFound = "connection_not_found", NOT_FOUND, "There is no such connection";
    /// The endpoint does not support this method. The `Allow` header lists the methods that it supports.
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, "The method is not allowed here";
    /// The user has no usable connection of this connector. Send a POST to the path in `connect` to start one.
    NotConnected = "not_connected", NOT_FOUND, "The account is not connected";
    /// The operation requires a service key. It does not accept the token of a user.
    ServiceKeyRequired = "service_key_required", FORBIDDEN, "A service key is needed";
    /// The service key lacks the scope that the operation requires.
    InsufficientScope = "insufficient_scope", FORBIDDEN, "The key lacks a scope";
    /// The `Patchbay-User` header is missing or malformed.
    UserRequired = "user_required", BAD_REQUEST, "A user is required";
    /// The stored credentials no longer work. Send a POST to the path in `connect` to start a reauthorization.
    NeedsReauthorization = "needs_reauthorization", CONFLICT, "The user has to authorize again";
    /// The user did not grant the scopes that the request requires. Send a POST to the path in `connect` to request `missing_scopes` again.
    InsufficientProviderScope = "insufficient_provider_scope", CONFLICT, "The user has not granted the required scopes";
    /// A reconnect returned a different account. The user has to accept that account or to reconnect.
    AccountMismatch = "account_mismatch", CONFLICT, "The account does not match";
    /// The provider is unreachable or does not refresh credentials. Retry after `retry_after` seconds.
    ProviderUnavailable = "provider_unavailable", SERVICE_UNAVAILABLE, "The provider is not available";
    /// The request or its body did not arrive or complete in time.
    RequestTimeout = "request_timeout", REQUEST_TIMEOUT, "The request took too long";
    /// The connector is disabled or cannot be connected.
    ConnectorUnavailable = "connector_unavailable", CONFLICT, "The connector cannot be connected";
    /// Nango has no integration for this connector. An operator has to add it.
    ConnectorNotConfigured = "connector_not_configured", CONFLICT, "The connector is not set up";
    /// Several connections match. Repeat the request with one of `candidates`.
    AmbiguousConnection = "ambiguous_connection", CONFLICT, "Several connections match";
    /// The connection is connected and cannot be removed. Disconnect it first.
    StillConnected = "still_connected", CONFLICT, "The account is connected";
    /// A request with the same `Idempotency-Key` is in progress. Retry after `retry_after` seconds.
    IdempotencyKeyInProgress = "idempotency_key_in_progress", CONFLICT, "A request with this Idempotency-Key is in progress";
    /// The `Idempotency-Key` belongs to an earlier, different request. Use a new key.
    IdempotencyKeyReused = "idempotency_key_reused", UNPROCESSABLE_ENTITY, "The key was used for another request";
    /// The body exceeds the size limit.
    PayloadTooLarge = "payload_too_large", PAYLOAD_TOO_LARGE, "The body is too large";
    /// The `Content-Type` of the body is not `application/json`, or the body has a `Content-Encoding`.
    UnsupportedMediaType = "unsupported_media_type", UNSUPPORTED_MEDIA_TYPE, "The body must be JSON";
    /// An internal error. The log has its details under `request_id`.
    Internal = "internal", INTERNAL_SERVER_ERROR, "Internal error";
    /// Nango rejects the key of this service. An operator has to correct the key or its scopes.
    NangoMisconfigured = "nango_misconfigured", BAD_GATEWAY, "Nango rejects the key of this service";
    /// Nango returned an unexpected response.
    NangoError = "nango_error", BAD_GATEWAY, "Nango returned an unexpected response";
    /// Nango is disabled in this deployment.
    NangoDisabled = "nango_disabled", SERVICE_UNAVAILABLE, "Nango is disabled";
    /// Nango is unreachable or failing. Retry after `retry_after` seconds.
    NangoUnavailable = "nango_unavailable", SERVICE_UNAVAILABLE, "Nango is not available";
    /// The rate limit of Nango is exhausted. Retry after `retry_after` seconds.
    NangoRateLimited = "nango_rate_limited", SERVICE_UNAVAILABLE, "Nango's rate limit is exceeded";
    /// Nango did not respond in time. Retry after `retry_after` seconds.
    NangoTimeout = "nango_timeout", GATEWAY_TIMEOUT, "Nango did not answer in time";
    /// The signing keys of the identity provider cannot be fetched. Retry after `retry_after` seconds.
    KeysUnavailable = "keys_unavailable", SERVICE_UNAVAILABLE, "Tokens cannot be verified now";
    /// The database is unreachable. Retry after `retry_after` seconds.
    DatabaseUnavailable = "database_unavailable", SERVICE_UNAVAILABLE, "The database is not available";
    /// The caller exceeded a rate limit. Retry after `retry_after` seconds.
    RateLimited = "rate_limited", TOO_MANY_REQUESTS, "Too many requests";
    /// The replica has no capacity for this request. Retry after `retry_after` seconds.
    Overloaded = "overloaded", SERVICE_UNAVAILABLE, "Service overloaded";
    /// The replica is shutting down. Send the request to another replica.
    Stopping = "stopping", SERVICE_UNAVAILABLE, "The service is shutting down";
    /// The replica is starting. Retry after `retry_after` seconds.
    Starting = "starting", SERVICE_UNAVAILABLE, "The service is starting";
}

/// An error response.
#[derive(Clone, Debug)]
pub struct Problem {
    code: Code,
    detail: Box<str>,
    candidates: Option<Box<[ConnectionId]>>,
    connect: Option<Box<str>>,
    missing_scopes: Option<Box<[String]>>,
    retry_after: Option<u64>,
    challenge: Option<Box<str>>,
    cause: Option<Box<str>>,
}

/// An error (RFC 9457), sent as `application/problem+json`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemBody<'a> {
    /// A URN of the code.
    #[serde(rename = "type")]
    kind: String,
    /// A short text for the code, the same each time.
    title: &'a str,
    /// The HTTP status code.
    status: u16,
    /// A human-readable explanation of this occurrence.
    detail: &'a str,
    code: Code,
    /// The request id, under which the log has more details.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    /// With `ambiguous_connection`: the ids of the connections that match.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Uuid>>)]
    candidates: Option<&'a [ConnectionId]>,
    /// The path of the operation that fixes the problem, with its query. Send it a POST.
    #[serde(skip_serializing_if = "Option::is_none")]
    connect: Option<&'a str>,
    /// With `insufficient_provider_scope`: the required scopes that the user has not granted.
    #[serde(skip_serializing_if = "Option::is_none")]
    missing_scopes: Option<&'a [String]>,
    /// The number of seconds after which to retry, as in the `Retry-After` header.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
}

impl Problem {
    /// Creates a problem. The detail may contain text of the caller: characters that cannot be displayed are replaced,
    /// and a long text is truncated.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: sanitize(detail.into()).into(),
            candidates: None,
            connect: None,
            missing_scopes: None,
            retry_after: None,
            challenge: None,
            cause: None,
        }
    }

    /// Creates an internal error. Its cause is logged, and not returned to the caller.
    pub(crate) fn internal(broken: impl fmt::Display) -> Self {
        Self::new(Code::Internal, broken.to_string())
    }

    /// Creates the problem of a service that waits for its database.
    pub(crate) fn starting() -> Self {
        Self::new(Code::Starting, "the service is waiting for its database").retry_after(2)
    }

    /// Creates the problem of an invalid request.
    pub(crate) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(Code::InvalidRequest, detail)
    }

    /// Sets the cause, which is logged with the request's id and not returned to the caller.
    #[must_use]
    fn caused_by(mut self, cause: impl fmt::Display) -> Self {
        self.cause = Some(cause.to_string().into());
        self
    }

    /// Sets the number of seconds after which the caller may retry.
    #[must_use]
    pub(crate) fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }
}

/// Returns the text as one line of displayable characters.
fn sanitize(text: String) -> String {
    let is_hidden = |c: char| c.is_control() || is_bidi_control(c);
    if text.len() <= MAX_DETAIL && !text.chars().any(is_hidden) {
        return text;
    }
    let shown = |c: char| {
        if is_hidden(c) {
            char::REPLACEMENT_CHARACTER
        } else {
            c
        }
    };
    let mut line: String = text.chars().take(MAX_DETAIL).map(shown).collect();
    if text.chars().nth(MAX_DETAIL).is_some() {
        line.push('…');
    }
    line
}

impl Code {
    /// Returns the code's name in JSON.
    pub(crate) fn as_str(self) -> &'static str {
        self.parts().0
    }

    /// Returns the HTTP status of the code.
    pub(crate) fn status(self) -> StatusCode {
        self.parts().1
    }
}

impl Problem {
    fn response(&self, request_id: Option<&str>) -> Response {
        let (text, status, title) = self.code.parts();
        let detail = match self.code {
            Code::Internal => "the log has the details under this request id",
            _ => &self.detail,
        };
        let body = ProblemBody {
            kind: format!("urn:patchbay:problem:{text}"),
            title,
            status: status.as_u16(),
            detail,
            code: self.code,
            request_id,
            candidates: self.candidates.as_deref(),
            connect: self.connect.as_deref(),
            missing_scopes: self.missing_scopes.as_deref(),
            retry_after: self.retry_after,
        };
        let mut response = (status, Json(body)).into_response();
        response.extensions_mut().insert(self.code);
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if let Some(challenge) = self
            .challenge
            .as_ref()
            .and_then(|text| HeaderValue::from_str(text).ok())
        {
            headers.insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.response(None);
        // `render_problem` renders it again with the request's id.
        response.extensions_mut().insert(Box::new(self));
        response
    }
}

/// Marks a response that is passed through, whose errors are not replaced by problems.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PassthroughResponse;

/// Renders the errors of handlers and middleware as problems with the request's id.
pub(crate) fn render_problem(mut response: Response, request_id: Option<&str>) -> Response {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return response;
    }
    if response.extensions().get::<PassthroughResponse>().is_some() {
        return response;
    }
    let page = response
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    let problem = match response.extensions_mut().remove::<Box<Problem>>() {
        Some(problem) => Some(*problem),
        None if page => None,
        None => problem_for_status(status),
    };
    let Some(problem) = problem else {
        return response;
    };
    // Only this layer knows the request's id.
    if problem.code == Code::Internal {
        tracing::error!(request_id, error = problem.detail, "internal error");
    } else if let Some(error) = &problem.cause {
        let code = problem.code.as_str();
        tracing::warn!(request_id, code, %error, "request failed");
    }
    let mut rendered = problem.response(request_id);
    // Keeps headers of other layers, such as those of CORS or `allow`.
    for (name, value) in response.headers() {
        if !rendered.headers().contains_key(name) && name != "content-length" {
            rendered.headers_mut().append(name, value.clone());
        }
    }
    rendered
}

/// Returns the problem for an error of axum or a tower layer.
fn problem_for_status(status: StatusCode) -> Option<Problem> {
    let (code, detail) = match status {
        StatusCode::NOT_FOUND => (Code::NotFound, "no endpoint has this path"),
        StatusCode::METHOD_NOT_ALLOWED => {
            (Code::MethodNotAllowed, "the Allow header names the methods")
        }
        StatusCode::REQUEST_TIMEOUT => (Code::RequestTimeout, "the request timed out"),
        StatusCode::PAYLOAD_TOO_LARGE => return Some(Problem::body_too_large()),
        StatusCode::INTERNAL_SERVER_ERROR => {
            return Some(Problem::internal(
                "a panic, which has written its own lines",
            ));
        }
        _ => return None,
    };
    Some(Problem::new(code, detail))
}
