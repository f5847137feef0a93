//! Nango's part of an OAuth authorization: the redirect to the provider, and the callback.

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use serde::ser::{Serialize, Serializer};
use serde_json::{Value, json};
use uuid::{Builder, Uuid};

use crate::auth::{Caller, live_session};
use crate::callback_page;
use crate::credentials::{Credentials, is_app, is_oauth};
use crate::error::Failure;
use crate::integrations::StoredIntegration;
use crate::provider::{TokenError, TokenRequest};
use crate::query::Query;
use crate::requirements::Requirements;
use crate::state::{App, Flow, IntegrationDefaults};
use crate::webhooks::{Event, Operation, Outcome};

impl App {
    /// Returns the URL to which the provider redirects the browser.
    pub(super) fn redirect_uri(&self) -> String {
        let custom = self.config.callback_url.clone();
        custom.unwrap_or_else(|| format!("{}/oauth/callback", self.public_url))
    }
}

/// The reason why a browser is not redirected to the provider.
enum ConnectError {
    Json(Failure),
    /// The popup page shows this message.
    Page(String),
}

impl IntoResponse for ConnectError {
    fn into_response(self) -> Response {
        match self {
            Self::Json(failure) => failure.into_response(),
            Self::Page(message) => callback_page::failure(&message),
        }
    }
}

/// `GET /oauth/connect/{integration}`
pub(super) async fn connect(
    State(app): State<App>,
    Path(key): Path<String>,
    query: Query,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let token = authenticate(&app, &query)?;
    let answer = async {
        let (state, location) = start_flow(&app, &token, &key, &query)?;
        Ok::<_, ConnectError>(redirect_to_provider(&headers, state, &location, app.now()))
    };
    let path = format!("/oauth/connect/{key}");
    Ok(app
        .with_rate_limit(Caller::Session, "GET", &path, answer)
        .await)
}

fn authenticate(app: &App, query: &Query) -> Result<String, Failure> {
    let Some(token) = query.get("connect_session_token") else {
        return Err(match query.get("public_key") {
            None => Failure::unauthorized(
                "missing_public_key",
                "The request is missing a valid public key parameter.",
            ),
            Some(_) => Failure::new(StatusCode::UNAUTHORIZED, "deprecated_authentication").message(
                "Public key authentication is deprecated. \
                 Please use connect session authentication instead.",
            ),
        });
    };
    live_session(app, token)?;
    Ok(token.to_owned())
}

/// Starts a flow. Returns its state and the provider's authorization URL.
fn start_flow(
    app: &App,
    token: &str,
    key: &str,
    query: &Query,
) -> Result<(Uuid, String), ConnectError> {
    if query.get("connection_id").is_some() {
        let message = "connection_id is forbidden when using session token";
        let path = ["connection_id"];
        let failure = Failure::issue("invalid_query_params", "custom", message, &path);
        return Err(ConnectError::Json(failure));
    }
    let now = app.now();
    let mut state = app.lock();
    let Some(integration) = state.integration(key).cloned() else {
        let message = format!("Could not find a Provider Config matching the \"{key}\" key.");
        return Err(ConnectError::Page(message));
    };
    let session = state.session(token, now).cloned();
    let Some(session) = session.filter(|it| it.allows(key)) else {
        let failure = Failure::new(StatusCode::BAD_REQUEST, "integration_not_allowed");
        return Err(ConnectError::Json(failure));
    };
    if !is_oauth(&integration.auth_mode) {
        let message = format!("Auth mode {} not supported.", integration.auth_mode);
        return Err(ConnectError::Page(message));
    }
    let config = session.config(key, query.nested("params"));
    if let Some(message) = Requirements::of(&integration.provider).authorization_error(&config) {
        return Err(ConnectError::Page(message));
    }
    let flow_state = time_based_uuid(now);
    let code_verifier = [Uuid::new_v4(), Uuid::new_v4()]
        .map(|it| it.simple().to_string())
        .concat();
    let reconnect = session.reconnect.clone();
    let flow = Flow {
        session,
        integration: key.to_owned(),
        connection_id: reconnect.unwrap_or_else(|| Uuid::new_v4().to_string()),
        connection_config: config,
        redirect_uri: app.redirect_uri(),
        code_verifier,
    };
    let location = authorize_url(app, &integration, &flow, flow_state);
    state.flows.insert(flow_state, flow);
    Ok((flow_state, location))
}

fn authorize_url(app: &App, integration: &StoredIntegration, flow: &Flow, state: Uuid) -> String {
    let preset = flow.session.defaults.get(&flow.integration).cloned();
    let IntegrationDefaults {
        user_scopes,
        authorization_params,
        connection_config,
    } = preset.unwrap_or_default();
    let scopes = connection_config
        .get("oauth_scopes_override")
        .and_then(Value::as_str)
        .unwrap_or(&integration.credentials.scopes)
        .replace(',', " ");
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("response_type", "code");
    query.append_pair("client_id", &integration.credentials.client_id);
    query.append_pair("redirect_uri", &flow.redirect_uri);
    if !scopes.is_empty() {
        query.append_pair("scope", &scopes);
    }
    query.append_pair("state", &state.to_string());
    query.append_pair("code_challenge", &challenge_of(&flow.code_verifier));
    query.append_pair("code_challenge_method", "S256");
    if let Some(scopes) = user_scopes {
        query.append_pair("user_scope", &scopes.replace(',', " "));
    }
    for (name, value) in &authorization_params {
        query.append_pair(name, value.as_str().unwrap_or(&value.to_string()));
    }
    format!("{}?{}", app.provider_url("authorize"), query.finish())
}

/// Returns the S256 challenge of a PKCE verifier (RFC 7636).
pub(super) fn challenge_of(verifier: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, verifier.as_bytes());
    URL_SAFE_NO_PAD.encode(digest)
}

/// Returns a UUID v1, like those of Nango's states. The clock sequence and node are random.
fn time_based_uuid(now: DateTime<Utc>) -> Uuid {
    /// The seconds from the Gregorian reform to the Unix epoch.
    const GREGORIAN_OFFSET: u64 = 12_219_292_800;
    let micros = u64::try_from(now.timestamp_micros()).unwrap_or_default();
    let ticks = micros * 10 + GREGORIAN_OFFSET * 10_000_000;
    let [a, b, node @ ..] = *Uuid::new_v4().as_bytes();
    let node = [node[0], node[1], node[2], node[3], node[8], node[9]];
    Builder::from_gregorian_timestamp(ticks, u16::from_be_bytes([a, b]), &node).into_uuid()
}

fn redirect_to_provider(
    headers: &HeaderMap,
    state: Uuid,
    to: &str,
    now: DateTime<Utc>,
) -> Response {
    let expires = (now + TimeDelta::hours(1)).format("%a, %d %b %Y %H:%M:%S GMT");
    let cookie = format!(
        "oauth2-{state}=1; Max-Age=3600; Path=/; Expires={expires}; HttpOnly; SameSite=Lax"
    );
    let accepts_html = headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.contains("text/html"));
    let (content_type, body) = if accepts_html {
        let escaped = to.replace('&', "&amp;");
        (
            "text/html; charset=utf-8",
            format!("<p>Found. Redirecting to {escaped}</p>"),
        )
    } else {
        (
            "text/plain; charset=utf-8",
            format!("Found. Redirecting to {to}"),
        )
    };
    let headers = [
        (header::LOCATION, to.to_string()),
        (header::SET_COOKIE, cookie),
        (header::CONTENT_TYPE, content_type.to_owned()),
    ];
    (StatusCode::FOUND, headers, body).into_response()
}

/// `GET /oauth/callback`. Ignores the cookie, like Nango today.
pub(super) async fn callback(State(app): State<App>, query: Query) -> Response {
    let Some(state) = query.get("state") else {
        return callback_page::failure("No state found in callback");
    };
    let Ok(id) = Uuid::try_parse(state) else {
        return callback_page::failure("invalid_oauth_state");
    };
    let Some(flow) = app.lock().flows.remove(&id) else {
        return callback_page::failure(&format!("No session found for state: \"{state}\""));
    };
    let Some(code) = query.get("code") else {
        return refused(&app, &flow, &query);
    };
    match exchange(&app, &flow, code) {
        Ok(()) => callback_page::success(),
        Err(error) => exchange_failed(&app, &flow, &error),
    }
}

/// Handles a return of the browser without a code.
fn refused(app: &App, flow: &Flow, query: &Query) -> Response {
    let ordered: Vec<_> = query
        .pairs()
        .iter()
        .filter(|(name, _)| name != "state")
        .collect();
    let listed: Vec<_> = ordered
        .iter()
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    let description = format!(
        "Did not get authorization code in the callback. Provider error: {}",
        listed.join("; ")
    );
    announce_failure(app, flow, "invalid_callback", description);
    let shown = serde_json::to_string(&SortedQuery(&ordered)).unwrap_or_default();
    callback_page::failure(&shown)
}

/// The query as a JSON object whose keys keep their order.
struct SortedQuery<'a>(&'a [&'a (String, String)]);

impl Serialize for SortedQuery<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

fn exchange(app: &App, flow: &Flow, code: &str) -> Result<(), TokenError> {
    let now = app.now();
    let mut state = app.lock();
    let Some(integration) = state.integration(&flow.integration).cloned() else {
        return Err(TokenError::new("invalid_client", "The integration is gone"));
    };
    if Requirements::of(&integration.provider).lacks_token_url(&flow.connection_config) {
        return Err(TokenError::new(
            "invalid_request",
            "The token address lacks a parameter",
        ));
    }
    let request = TokenRequest {
        grant_type: "authorization_code".into(),
        code: Some(code.to_owned()),
        redirect_uri: Some(flow.redirect_uri.clone()),
        code_verifier: Some(flow.code_verifier.clone()),
        refresh_token: None,
        client_id: integration.credentials.client_id.clone(),
        client_secret: integration.credentials.client_secret.clone(),
    };
    let answer = state.provider_token(&request, now)?;
    let credentials = Credentials::granted(&answer, &integration.auth_mode, now);
    let mut config = flow.connection_config.clone();
    let mut connection_id = flow.connection_id.clone();
    if is_app(&integration.auth_mode) {
        let installation = json!(answer.raw["account"]["id"]);
        // An app's installation has one connection: a later grant replaces its tags, whichever session it is of.
        if let Some(existing) = state.with_installation(&flow.integration, &installation) {
            connection_id.clone_from(&existing.connection_id);
        }
        config.insert("installation_id".into(), installation);
    }
    let granted = (config, credentials);
    let event = state.grant(&flow.session, &connection_id, &integration, granted, now);
    drop(state);
    app.run_script(&connection_id, &integration);
    app.send_webhook(&event);
    Ok(())
}

fn exchange_failed(app: &App, flow: &Flow, error: &TokenError) -> Response {
    // The order of the fields is Nango's.
    #[derive(serde::Serialize)]
    struct RenderedError<'a> {
        name: &'a str,
        message: &'a str,
        provider_error_payload: &'a TokenError,
    }
    let shown = RenderedError {
        name: "Error",
        message: "Response Error: 400 Bad Request",
        provider_error_payload: error,
    };
    let description = serde_json::to_string_pretty(&shown).unwrap_or_default();
    announce_failure(app, flow, "unknown", description.clone());
    callback_page::failure(&description)
}

/// Sends the webhook of a failure. As at Nango, its operation is always a creation, without tags and end user.
fn announce_failure(app: &App, flow: &Flow, kind: &'static str, description: String) {
    let state = app.lock();
    let Some(integration) = state.integration(&flow.integration) else {
        return;
    };
    let connection = state.connection(&flow.connection_id, &flow.integration);
    let event = Event {
        integration: integration.clone(),
        connection_id: flow.connection_id.clone(),
        operation: Operation::Creation,
        outcome: Outcome::Failed { kind, description },
        end_user: None,
        tags: None,
        url_override: flow
            .session
            .webhook_url_override
            .clone()
            .or_else(|| connection.and_then(|it| it.webhook_url_override.clone())),
    };
    drop(state);
    app.send_webhook(&event);
}
