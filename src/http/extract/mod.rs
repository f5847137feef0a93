//! Extractors: axum's with this service's errors, and those of the authenticated caller.

mod body;
mod query;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, AUTHORIZATION};
use axum::http::request::Parts;
use percent_encoding::percent_decode;
use secrecy::SecretString;

pub(crate) use self::body::{Json, OptionalJson};
pub(crate) use self::query::{Query, check_encoding};
use super::AppState;
use super::problem::{Code, Problem};
use crate::auth::Caller;
use crate::auth::service_keys::{KEY_PREFIX, Scope, Service};
use crate::domain::{Actor, UserId};
use crate::nango::webhook::SIGNATURE_HEADER;

/// A path's parameters.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(Problem))]
pub(crate) struct Path<T>(pub(crate) T);

/// Returns a list's requested page size, or `default`. Rejects 0 and numbers above `maximum`.
pub(crate) fn page_limit<N>(requested: Option<N>, default: N, maximum: N) -> Result<N, Problem>
where
    N: Copy + PartialOrd + From<u8> + fmt::Display,
{
    let limit = requested.unwrap_or(default);
    if N::from(1) <= limit && limit <= maximum {
        Ok(limit)
    } else {
        Err(Problem::invalid(format!("limit must be 1 to {maximum}")))
    }
}

/// The header in which a service names the user that it acts for, percent-encoded.
const USER_HEADER: &str = "patchbay-user";

/// The header that makes a repeated request return the first response.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The headers that identify the caller or change the operation. Of two values, a proxy in front may have read the
/// other one.
const SINGLETONS: [&str; 6] = [
    "authorization",
    "content-type",
    IDEMPOTENCY_KEY,
    "last-event-id",
    SIGNATURE_HEADER,
    USER_HEADER,
];

/// Rejects a request that repeats one of [`SINGLETONS`].
pub(crate) fn check_singletons(headers: &HeaderMap) -> Result<(), Problem> {
    let repeated = |name: &&&str| headers.get_all(**name).iter().nth(1).is_some();
    match SINGLETONS.iter().find(repeated) {
        None => Ok(()),
        Some(name) => Err(Problem::invalid(format!(
            "the header {name} is repeated: send it once"
        ))),
    }
}

/// An authenticated caller.
#[derive(Clone, Debug)]
pub(crate) enum Identity {
    User(Caller),
    Service(Arc<Service>),
}

/// The caller of a request, or why it is not authenticated. Stored in the request's extensions.
pub(crate) type AuthenticationResult = Result<Identity, Problem>;

/// Returns the bearer token of a request.
fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let header = headers.get(AUTHORIZATION).ok_or_else(Problem::no_token)?;
    // RFC 9110: the scheme's name is not case-sensitive.
    header
        .to_str()
        .ok()
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .filter(|token| !token.is_empty())
        .ok_or_else(Problem::no_token)
}

/// Authenticates the caller of a request.
pub(crate) async fn authenticate_request(
    headers: &HeaderMap,
    state: &AppState,
) -> AuthenticationResult {
    let token = bearer(headers)?;
    if !token.starts_with(KEY_PREFIX) {
        let caller = state.auth.authenticate(token).await?;
        return Ok(Identity::User(caller));
    }
    match state.keys.authenticate(token).await {
        Ok(Some(service)) => Ok(Identity::Service(service)),
        Ok(None) => Err(Problem::unknown_key()),
        Err(error) => Err(Problem::from_database(&error)),
    }
}

/// Returns the stored authentication result of a request.
fn authentication_result(parts: &Parts) -> AuthenticationResult {
    let sent = parts.extensions.get::<AuthenticationResult>().cloned();
    sent.unwrap_or_else(|| Err(Problem::no_token()))
}

/// How a caller acts for a user: as that user, or as a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ActingAs {
    User,
    Service,
}

impl From<ActingAs> for Actor {
    fn from(sender: ActingAs) -> Self {
        match sender {
            ActingAs::User => Self::User,
            ActingAs::Service => Self::Service,
        }
    }
}

/// Returns the user that a request is for: its caller, or the user that a service with this scope names.
fn authorize_user(parts: &Parts, scope: Scope) -> Result<(UserId, ActingAs), Problem> {
    match authentication_result(parts)? {
        Identity::User(caller) => Ok((caller.user_id, ActingAs::User)),
        Identity::Service(service) => {
            check_scope(&service, scope)?;
            Ok((user_from_header(parts)?, ActingAs::Service))
        }
    }
}

fn check_scope(service: &Service, scope: Scope) -> Result<(), Problem> {
    if service.scopes.contains(&scope) {
        Ok(())
    } else {
        Err(Problem::insufficient_scope(scope))
    }
}

fn user_from_header(parts: &Parts) -> Result<UserId, Problem> {
    let refused = |detail: &str| Problem::new(Code::UserRequired, detail);
    let value = parts.headers.get(USER_HEADER);
    let value = value.ok_or_else(|| refused("send the user's id in the header Patchbay-User"))?;
    let name = percent_decoded(value.as_bytes()).ok_or_else(|| {
        refused("Patchbay-User must be the user's id in UTF-8, percent-encoded as by encodeURIComponent")
    })?;
    UserId::try_from(name).map_err(|error| refused(&error.to_string()))
}

/// Returns the text of a percent-encoded header value. Returns `None` for unencoded bytes that may not arrive
/// unchanged: clients encode non-ASCII differently, HTTP trims white space, and a comma may join two headers.
fn percent_decoded(value: &[u8]) -> Option<String> {
    let plain = |byte: &u8| byte.is_ascii_graphic() && *byte != b',';
    let mut escapes = value.split(|byte| *byte == b'%').skip(1);
    let is_escape = |rest: &[u8]| {
        let digits = rest.get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    if !(value.iter().all(plain) && escapes.all(is_escape)) {
        return None;
    }
    let text = percent_decode(value).decode_utf8().ok()?;
    Some(text.into_owned())
}

/// Any authenticated caller.
pub(crate) struct AnyCaller;

impl FromRequestParts<AppState> for AnyCaller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, Problem> {
        authentication_result(parts).map(|_| Self)
    }
}

/// The user whose connections are read.
pub(crate) struct ConnectionsReader(pub(crate) UserId);

impl FromRequestParts<AppState> for ConnectionsReader {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, Problem> {
        let (user, _) = authorize_user(parts, Scope::ConnectionsRead)?;
        Ok(Self(user))
    }
}

/// The user whose connections are streamed, and the duration of the access.
pub(crate) struct StreamReader {
    pub(crate) user: UserId,
    pub(crate) access: StreamAccess,
}

/// How long a caller may read a stream.
pub(crate) enum StreamAccess {
    /// A user, until the token expires.
    UntilExpiry(Duration),
    /// A service, until its key expires or is revoked.
    WithKey(SecretString),
}

impl FromRequestParts<AppState> for StreamReader {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, Problem> {
        match authentication_result(parts)? {
            Identity::User(caller) => Ok(Self {
                user: caller.user_id,
                access: StreamAccess::UntilExpiry(caller.valid_for),
            }),
            Identity::Service(service) => {
                check_scope(&service, Scope::ConnectionsRead)?;
                Ok(Self {
                    user: user_from_header(parts)?,
                    access: StreamAccess::WithKey(bearer(&parts.headers)?.into()),
                })
            }
        }
    }
}

/// The user whose connections are changed.
pub(crate) struct ConnectionsWriter(pub(crate) UserId, pub(crate) ActingAs);

impl FromRequestParts<AppState> for ConnectionsWriter {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, Problem> {
        let (user, sender) = authorize_user(parts, Scope::ConnectionsWrite)?;
        Ok(Self(user, sender))
    }
}

/// The user whose label or config is changed: a [`ConnectionsWriter`] with its own rate limit.
pub(crate) struct Updater(pub(crate) UserId, pub(crate) ActingAs);

impl FromRequestParts<AppState> for Updater {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let (user, sender) = authorize_user(parts, Scope::ConnectionsWrite)?;
        state.limits.of_update(&user, parts)?;
        Ok(Self(user, sender))
    }
}

/// The user for whom Nango is called: a [`ConnectionsWriter`] with its own rate limit.
pub(crate) struct RateLimitedWriter(pub(crate) UserId, pub(crate) ActingAs);

impl FromRequestParts<AppState> for RateLimitedWriter {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let (user, sender) = authorize_user(parts, Scope::ConnectionsWrite)?;
        state.limits.check_connect(&user, parts)?;
        Ok(Self(user, sender))
    }
}

/// A service with the scope to read users' tokens. A user never has it.
pub(crate) struct TokenService {
    pub(crate) user: UserId,
    pub(crate) service: Arc<Service>,
}

impl FromRequestParts<AppState> for TokenService {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, Problem> {
        let service = service(parts, Scope::TokensRead)?;
        Ok(Self {
            user: user_from_header(parts)?,
            service,
        })
    }
}

/// A service with the scope to delete users' data.
pub(crate) struct UserAdmin;

impl FromRequestParts<AppState> for UserAdmin {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, Problem> {
        service(parts, Scope::ConnectionsWrite).map(|_| Self)
    }
}

fn service(parts: &Parts, scope: Scope) -> Result<Arc<Service>, Problem> {
    match authentication_result(parts)? {
        Identity::Service(service) => {
            check_scope(&service, scope)?;
            Ok(service)
        }
        Identity::User(_) => Err(Problem::new(
            Code::ServiceKeyRequired,
            "this operation requires a service key",
        )),
    }
}

/// `true` if the client prefers HTML: a person's browser rather than a program.
pub(crate) struct AcceptsHtml(pub(crate) bool);

impl FromRequestParts<AppState> for AcceptsHtml {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, Self::Rejection> {
        let accept = parts
            .headers
            .get(ACCEPT)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        Ok(Self(accept.contains("text/html")))
    }
}

/// The `Idempotency-Key` header; `None` if it is missing.
pub(crate) struct IdempotencyKey(pub(crate) Option<String>);

impl FromRequestParts<AppState> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, Problem> {
        let Some(key) = parts.headers.get(IDEMPOTENCY_KEY) else {
            return Ok(Self(None));
        };
        let visible = |key: &&str| key.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        let key = key.to_str().ok().filter(visible).unwrap_or_default();
        if !(1..=255).contains(&key.len()) {
            return Err(Problem::invalid(
                "Idempotency-Key must have 1 to 255 visible ASCII characters",
            ));
        }
        Ok(Self(Some(key.to_owned())))
    }
}
