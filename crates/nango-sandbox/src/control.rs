//! The controls: tokens for the application, faults, and records of calls and webhooks.

use askama::Template;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use chrono::{DateTime, TimeDelta, Utc};
use jsonwebtoken::{EncodingKey, Header};
use secrecy::ExposeSecret;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::callback_page::render_page;
use crate::credentials::Credentials;
use crate::faults::Faults;
use crate::front::JsonBody;
use crate::state::{App, State as Stored};
use crate::{times, view};

/// The maximum number of recorded calls.
const MAX_CALLS: usize = 10_000;

/// The maximum number of lines in the log.
const LOG_LINES: usize = 100;

/// Returns the routes under `/sandbox`, and the page that documents them.
pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/", get(home))
        .route("/sandbox/token", post(token))
        .route("/sandbox/faults", get(faults).put(set_faults))
        .route("/sandbox/release", post(release))
        .route("/sandbox/webhooks", get(webhooks))
        .route("/sandbox/requests", get(requests))
        .route("/sandbox/connections", get(connections))
        .route("/sandbox/log", get(log))
        .route("/sandbox/{action}", post(age))
}

/// A call to the API, authenticated or not.
#[derive(Serialize)]
pub(super) struct ReceivedCall {
    method: String,
    path: String,
    /// The raw query, without its question mark.
    query: String,
    /// `null` while the call is in progress, and if it got no response.
    status: Option<u16>,
    #[serde(skip)]
    number: u64,
    #[serde(skip)]
    at: DateTime<Utc>,
}

impl ReceivedCall {
    pub(super) fn new(method: &str, path: &str, query: String, at: DateTime<Utc>) -> Self {
        Self {
            method: method.to_owned(),
            path: path.to_owned(),
            query,
            status: None,
            number: 0,
            at,
        }
    }
}

impl Stored {
    /// Records a call. Returns the number with which to record its response.
    pub(super) fn record_call(&mut self, mut call: ReceivedCall) -> u64 {
        self.last_call += 1;
        call.number = self.last_call;
        self.calls.push_back(call);
        if self.calls.len() > MAX_CALLS {
            self.calls.pop_front();
        }
        self.last_call
    }

    pub(super) fn finish_call(&mut self, number: u64, status: Option<u16>) {
        let found = self.calls.iter_mut().rev().find(|it| it.number == number);
        if let Some(call) = found {
            call.status = status;
        }
    }
}

/// The reason why a control rejects a request.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

fn refuse(status: StatusCode, message: impl Into<String>) -> Refusal {
    Refusal(status, message.into())
}

fn parse<T: DeserializeOwned>(body: Option<Value>) -> Result<T, Refusal> {
    let body = body.ok_or_else(|| refuse(StatusCode::BAD_REQUEST, "Send a JSON body."))?;
    serde_json::from_value(body).map_err(|error| refuse(StatusCode::BAD_REQUEST, error.to_string()))
}

#[derive(Template)]
#[template(path = "home.html")]
struct HomePage<'a> {
    url: &'a str,
}

async fn home(State(app): State<App>) -> Response {
    render_page(
        StatusCode::OK,
        &HomePage {
            url: &app.public_url,
        },
    )
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenFor {
    user: String,
    audience: Option<String>,
    issuer: Option<String>,
}

#[derive(Serialize)]
struct Claims {
    sub: String,
    iat: i64,
    exp: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    aud: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<String>,
}

/// `POST /sandbox/token`: an application token for any user, valid for twelve hours.
async fn token(State(app): State<App>, JsonBody(body): JsonBody) -> Result<Json<Value>, Refusal> {
    let request: TokenFor = parse(body)?;
    let now = app.now();
    let claims = Claims {
        sub: request.user,
        iat: now.timestamp(),
        exp: (now + TimeDelta::hours(12)).timestamp(),
        aud: request.audience,
        iss: request.issuer,
    };
    let secret = app.config.jwt_secret.expose_secret().as_bytes();
    let key = EncodingKey::from_secret(secret);
    let token = jsonwebtoken::encode(&Header::default(), &claims, &key)
        .map_err(|error| refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(Json(json!({ "token": token })))
}

async fn faults(State(app): State<App>) -> Json<Faults> {
    Json(app.lock().faults.clone())
}

/// `PUT /sandbox/faults` replaces all faults. Omitted faults are disabled.
async fn set_faults(
    State(app): State<App>,
    JsonBody(body): JsonBody,
) -> Result<Json<Faults>, Refusal> {
    let faults: Faults = parse(body)?;
    if faults
        .status
        .is_some_and(|status| !(400..600).contains(&status))
    {
        let message = "status has to be an error, from 400 to 599, or null";
        return Err(refuse(StatusCode::BAD_REQUEST, message));
    }
    let mut state = app.lock();
    state.open_environment(faults.environment.as_ref());
    state.faults = faults.clone();
    drop(state);
    Ok(Json(faults))
}

/// `POST /sandbox/release` sends the responses that `hold_answers_ms` holds.
async fn release(State(app): State<App>) -> StatusCode {
    app.releases.notify_waiters();
    StatusCode::NO_CONTENT
}

/// `GET /sandbox/webhooks`: every webhook that was due, including dropped ones, oldest first.
async fn webhooks(State(app): State<App>) -> Json<Value> {
    Json(json!(app.lock().deliveries))
}

/// `GET /sandbox/requests`: the calls to the API, oldest first.
async fn requests(State(app): State<App>) -> Json<Value> {
    Json(json!(app.lock().calls))
}

/// `GET /sandbox/connections`: the stored connections, newest first, without credentials.
async fn connections(State(app): State<App>) -> Json<Value> {
    let state = app.lock();
    let newest_first = state.connections.iter().rev();
    let entries = newest_first.map(|connection| view::list_entry(&state, connection));
    Json(Value::Array(entries.collect()))
}

/// `GET /sandbox/log`: the latest calls and webhooks, newest first.
async fn log(State(app): State<App>) -> Json<Value> {
    let state = app.lock();
    let calls = state.calls.iter().rev().take(LOG_LINES).map(|call| {
        let line = json!({ "at": times::javascript(call.at), "kind": "received", "call": call });
        (call.at, line)
    });
    let hooks = state.deliveries.iter().rev().take(LOG_LINES).map(|hook| {
        let line = json!({ "at": times::javascript(hook.due_at), "kind": "sent", "webhook": hook });
        (hook.due_at, line)
    });
    let mut lines: Vec<_> = calls.chain(hooks).collect();
    lines.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
    let lines = lines.into_iter().map(|(_, line)| line).take(LOG_LINES);
    Json(lines.collect())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConnectionNamed {
    connection_id: String,
}

/// `POST /sandbox/expire|revoke|exhaust`: expires an access token, revokes the grant at the provider, or ends Nango's
/// automatic refreshes of one connection.
async fn age(
    State(app): State<App>,
    Path(action): Path<String>,
    JsonBody(body): JsonBody,
) -> Result<StatusCode, Refusal> {
    let request: ConnectionNamed = parse(body)?;
    let now = app.now();
    let mut state = app.lock();
    let Stored {
        connections,
        provider,
        ..
    } = &mut *state;
    let connection = connections
        .iter_mut()
        .find(|it| it.connection_id == request.connection_id)
        .ok_or_else(|| refuse(StatusCode::NOT_FOUND, "No such connection."))?;
    let Credentials::OAuth2 {
        access_token,
        expires_at,
        raw,
        ..
    } = &mut connection.credentials
    else {
        return Err(refuse(
            StatusCode::BAD_REQUEST,
            "It holds no OAuth 2 tokens.",
        ));
    };
    match action.as_str() {
        "expire" => {
            *expires_at = Some(now);
            raw.insert("expires_at".into(), times::javascript(now).into());
            provider.expire(access_token, now);
        }
        "revoke" => provider.revoke(access_token),
        "exhaust" => connection.refresh_exhausted = true,
        _ => {
            let message = "Use expire, revoke or exhaust.";
            return Err(refuse(StatusCode::NOT_FOUND, message));
        }
    }
    Ok(StatusCode::NO_CONTENT)
}
