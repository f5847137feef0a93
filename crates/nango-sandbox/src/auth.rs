//! Authentication of API calls by the secret key or a session token, each with its own rate limit.

use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::control::ReceivedCall;
use crate::error::Failure;
use crate::faults::{too_many_requests, unknown_account};
use crate::front::NonJsonBody;
use crate::server::DropConnection;
use crate::state::App;

/// The prefix of session tokens, which 64 hexadecimal digits follow.
pub(super) const SESSION_PREFIX: &str = "nango_connect_session_";

/// The number of calls in the current minute.
#[derive(Default)]
pub(super) struct RateBudget {
    used: u32,
    ends_at: Option<DateTime<Utc>>,
}

/// The kind of caller, by which calls are counted. As at Nango, calls of browsers with session tokens do not count
/// towards the secret key's limit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    SecretKey,
    Session,
}

impl App {
    /// Counts a call, and responds 429 if the limit is exceeded. The response has the rest of the budget in
    /// `x-ratelimit-…`.
    pub(super) async fn with_rate_limit(
        &self,
        caller: Caller,
        method: &str,
        path: &str,
        answer: impl Future<Output: IntoResponse>,
    ) -> Response {
        let (now, limit) = (self.now(), self.config.rate_limit);
        let (used, ends_at) = {
            let mut state = self.lock();
            let budget = match caller {
                Caller::SecretKey => &mut state.budget,
                Caller::Session => &mut state.session_budget,
            };
            budget.count(now)
        };
        let mut response = if used > limit {
            // Rounded down as at Nango: 0 in the last second.
            too_many_requests(method, path, (ends_at - now).num_seconds())
        } else {
            answer.await.into_response()
        };
        let headers = response.headers_mut();
        headers.insert("x-ratelimit-limit", limit.into());
        headers.insert("x-ratelimit-remaining", limit.saturating_sub(used).into());
        headers.insert("x-ratelimit-reset", ends_at.timestamp().into());
        let date = now.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
        if let Ok(date) = date.parse() {
            headers.insert(header::DATE, date);
        }
        response
    }
}

impl RateBudget {
    /// Counts a call. Returns the number of calls in this minute and its end.
    fn count(&mut self, now: DateTime<Utc>) -> (u32, DateTime<Utc>) {
        let ends_at = match self.ends_at {
            Some(ends_at) if ends_at > now => ends_at,
            _ => {
                self.used = 0;
                now + TimeDelta::minutes(1)
            }
        };
        self.ends_at = Some(ends_at);
        self.used = self.used.saturating_add(1);
        (self.used, ends_at)
    }
}

/// The session token of a request.
#[derive(Clone)]
pub(super) struct SessionToken(pub(super) String);

/// Admits requests with the secret key.
pub(super) async fn require_secret_key(
    State(app): State<App>,
    request: Request,
    next: Next,
) -> Response {
    let allowed = secret_key(&app, request.headers());
    call(app, request, next, allowed).await
}

/// Admits requests with the secret key or a live session token.
pub(super) async fn require_key_or_session(
    State(app): State<App>,
    mut request: Request,
    next: Next,
) -> Response {
    let allowed = match bearer(request.headers()) {
        Some(token) if token.starts_with(SESSION_PREFIX) => {
            let token = token.to_owned();
            let allowed = live_session(&app, &token);
            request.extensions_mut().insert(SessionToken(token));
            allowed
        }
        _ => secret_key(&app, request.headers()),
    };
    call(app, request, next, allowed).await
}

/// Handles one API call: authenticates, counts and records it, and applies faults.
async fn call(app: App, request: Request, next: Next, allowed: Result<(), Failure>) -> Response {
    let (method, path) = (
        request.method().to_string(),
        request.uri().path().to_owned(),
    );
    let query = request.uri().query().unwrap_or_default().to_owned();
    let caller = match request.extensions().get::<SessionToken>() {
        Some(_) => Caller::Session,
        None => Caller::SecretKey,
    };
    let call = ReceivedCall::new(&method, &path, query, app.now());
    let call = app.lock().record_call(call);
    let response = match admit(&request, allowed) {
        Err(failure) => failure.into_response(),
        Ok(()) => {
            let answer = with_faults(&app, request, next, &method, &path);
            app.with_rate_limit(caller, &method, &path, answer).await
        }
    };
    let hung_up = response.extensions().get::<DropConnection>().is_some();
    let status = (!hung_up).then(|| response.status().as_u16());
    app.lock().finish_call(call, status);
    response
}

fn admit(request: &Request, allowed: Result<(), Failure>) -> Result<(), Failure> {
    if request.extensions().get::<NonJsonBody>().is_some() {
        return Err(
            Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_content_type")
                .message("Content-Type header must be application/json"),
        );
    }
    allowed
}

async fn with_faults(
    app: &App,
    request: Request,
    next: Next,
    method: &str,
    path: &str,
) -> Response {
    let faults = app.lock().faults.clone();
    let query = request.uri().query().unwrap_or_default();
    if !faults.hit(&format!("{method} {path}?{query}")) {
        return next.run(request).await;
    }
    // Created before the call is processed, so that a release during it counts.
    let released = app.releases.notified();
    if faults.latency_ms > 0 {
        tokio::time::sleep(Duration::from_millis(faults.latency_ms)).await;
    }
    let mut response = match faults.answer(method, path) {
        _ if faults.hang_up => StatusCode::NO_CONTENT.into_response(),
        Some(answer) => answer,
        None => next.run(request).await,
    };
    if faults.hold_answers_ms > 0 {
        let held = Duration::from_millis(faults.hold_answers_ms);
        // Elapsed or released: the response is sent in both cases.
        let _ = tokio::time::timeout(held, released).await;
    }
    if faults.hang_up || faults.lose_answer {
        response.extensions_mut().insert(DropConnection);
    }
    response
}

/// Returns the credential of a request. As at Nango, `Bearer ` may be omitted, but not lowercased.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers
        .get(header::AUTHORIZATION)
        .map(HeaderValue::to_str)?;
    let value = value.unwrap_or_default();
    Some(value.strip_prefix("Bearer ").unwrap_or(value))
}

fn missing_header() -> Failure {
    Failure::unauthorized(
        "missing_auth_header",
        "The request is missing the Authorization header.",
    )
}

fn secret_key(app: &App, headers: &HeaderMap) -> Result<(), Failure> {
    let key = bearer(headers).ok_or_else(missing_header)?;
    let is_uuid_v4 = Uuid::try_parse(key)
        .is_ok_and(|uuid| uuid.get_version_num() == 4 && uuid.hyphenated().to_string() == key);
    if !is_uuid_v4 {
        return Err(Failure::unauthorized(
            "invalid_secret_key_format",
            "The provided secret key is not a UUID v4.",
        ));
    }
    if key == app.config.secret_key {
        Ok(())
    } else {
        Err(unknown_account())
    }
}

/// Returns the session token in a request's header if it is live.
pub(super) fn session_token(app: &App, headers: &HeaderMap) -> Result<String, Failure> {
    let token = bearer(headers).ok_or_else(missing_header)?;
    live_session(app, token)?;
    Ok(token.to_owned())
}

/// Checks that a session token is well-formed, not expired and not deleted.
pub(super) fn live_session(app: &App, token: &str) -> Result<(), Failure> {
    let is_hex = |digits: &str| {
        digits.len() == 64 && digits.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'))
    };
    if !token.strip_prefix(SESSION_PREFIX).is_some_and(is_hex) {
        return Err(Failure::unauthorized(
            "invalid_connect_session_token_format",
            "The provided connect session token is not following correct format: \
             nango_connect_session_RANDOM)",
        ));
    }
    if app.lock().session(token, app.now()).is_none() {
        return Err(Failure::unauthorized(
            "unknown_connect_session_token",
            "The provided connect session token does not match any account.",
        ));
    }
    Ok(())
}
