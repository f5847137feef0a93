//! The account of a grant at each provider: its token response, the values that Nango's scripts store, and the
//! provider's account endpoint, in the shape of the provider's documentation.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use axum::Json;
use axum::body::{Bytes, to_bytes};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{Html, IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::credentials::Credentials;
use crate::integrations::StoredIntegration;
use crate::provider::{ACCOUNTS, Account};
use crate::state::{App, State as Stored};

/// The duration of Nango's scripts after a grant.
const SCRIPT_TIME: Duration = Duration::from_millis(200);

/// The maximum body of an account lookup, in bytes.
const BODY_LIMIT: usize = 64 * 1024;

/// A provider's documented responses for one account.
#[derive(Deserialize)]
#[serde(default)]
struct Sample {
    provider: String,
    also: Vec<String>,
    method: String,
    base_url: Option<String>,
    path: String,
    body: Option<Value>,
    scopes: Vec<String>,
    granted_scopes: String,
    granted_scopes_at: Option<String>,
    /// The token response.
    raw: Option<Map<String, Value>>,
    connection_config: Map<String, Value>,
    /// The entries of `connection_config` that Nango writes.
    written: Vec<String>,
    response: Option<Value>,
    /// JSON pointers to values that differ by account, each with its kind: `id`, `name`, `first`, `last` or `email`.
    vary: BTreeMap<String, String>,
}

impl Default for Sample {
    fn default() -> Self {
        Self {
            provider: String::new(),
            also: Vec::new(),
            method: String::new(),
            base_url: None,
            path: String::new(),
            body: None,
            scopes: Vec::new(),
            granted_scopes: String::new(),
            granted_scopes_at: None,
            raw: None,
            connection_config: Map::new(),
            written: Vec::new(),
            response: None,
            vary: BTreeMap::new(),
        }
    }
}

static SAMPLES: LazyLock<BTreeMap<String, Sample>> = LazyLock::new(|| {
    serde_json::from_str(include_str!("accounts.json")).expect("the embedded samples are JSON")
});

fn sample(provider: &str) -> Option<&'static Sample> {
    let is_its = |sample: &&Sample| {
        sample.provider == provider || sample.also.iter().any(|other| other == provider)
    };
    SAMPLES.values().find(is_its)
}

impl Sample {
    /// Returns one of the sample's documents (`raw`, `response`, …) with the values of an account.
    fn of(&self, name: &str, document: &Value, account: &Account) -> Value {
        let mut document = document.clone();
        for (pointer, kind) in &self.vary {
            let inner = pointer
                .strip_prefix('/')
                .and_then(|rest| rest.strip_prefix(name));
            if let Some(value) = inner.and_then(|inner| document.pointer_mut(inner)) {
                *value = varied(value, kind, account);
            }
        }
        document
    }

    /// Returns the fields of the token response besides the tokens.
    fn token_fields(&self, account: &Account, scope: Option<&str>) -> Map<String, Value> {
        let Some(raw) = &self.raw else {
            return Map::new();
        };
        let Value::Object(mut raw) = self.of("raw", &raw.clone().into(), account) else {
            return Map::new();
        };
        for own in [
            "access_token",
            "refresh_token",
            "expires_in",
            "token_type",
            "scope",
        ] {
            raw.remove(own);
        }
        if let Some(token) = raw.get("id_token").and_then(Value::as_str) {
            let varied = self.id_token(token, account);
            raw.insert("id_token".to_owned(), varied.into());
        }
        let scopes: Vec<&str> = scope.unwrap_or_default().split_whitespace().collect();
        let separator = if self.granted_scopes == "comma" {
            ","
        } else {
            " "
        };
        match self.granted_scopes.as_str() {
            "array" => {
                raw.insert("scopes".to_owned(), json!(scopes));
            }
            "comma" | "space" => {
                let at = self.granted_scopes_at.as_deref().unwrap_or("/raw/scope");
                let name = at.rsplit('/').next().unwrap_or("scope");
                raw.insert(name.to_owned(), scopes.join(separator).into());
            }
            _ => {}
        }
        raw
    }

    /// Returns a token with the claims of an account, and an invalid signature.
    fn id_token(&self, token: &str, account: &Account) -> String {
        let claims = token
            .split('.')
            .nth(1)
            .and_then(|claims| URL_SAFE_NO_PAD.decode(claims).ok());
        let claims = claims.and_then(|claims| serde_json::from_slice(&claims).ok());
        let claims = self.of("id_token", &claims.unwrap_or(Value::Null), account);
        let encoded = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let header = encoded(r#"{"alg":"RS256","typ":"JWT","kid":"sandbox"}"#);
        format!(
            "{header}.{}.{}",
            encoded(&claims.to_string()),
            encoded("signature")
        )
    }

    fn has_path(&self, path_and_query: &str) -> bool {
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let (path, query) = split(path_and_query);
        let (own_path, own_query) = split(&self.path);
        let (segments, own) = (path.split('/'), own_path.split('/'));
        let matches = segments.clone().count() == own.clone().count()
            && segments
                .zip(own)
                .all(|(segment, own)| is_segment(&decoded(segment), &decoded(own)));
        !self.path.is_empty() && matches && decoded(query) == decoded(own_query)
    }
}

/// Returns `true` if a segment matches that of a sample, in which `{}` matches any text.
fn is_segment(segment: &str, own: &str) -> bool {
    let Some((before, after)) = own.split_once("{}") else {
        return segment == own;
    };
    let rest = segment.strip_prefix(before);
    rest.is_some_and(|rest| rest.len() > after.len() && rest.ends_with(after))
}

fn split(path_and_query: &str) -> (String, &str) {
    let (path, query) = path_and_query
        .split_once('?')
        .unwrap_or((path_and_query, ""));
    // A pointer in braces matches any text in one segment.
    let mut plain = String::new();
    let mut rest = path;
    while let Some((before, after)) = rest.split_once("{/") {
        plain.push_str(before);
        plain.push_str("{}");
        rest = after.split_once('}').map_or("", |(_, rest)| rest);
    }
    plain.push_str(rest);
    (plain.trim_start_matches('/').to_owned(), query)
}

/// Returns a value of the sample for an account. The first account has the sample's own ids.
fn varied(value: &Value, kind: &str, account: &Account) -> Value {
    let index = ACCOUNTS
        .iter()
        .position(|it| it.id == account.id)
        .unwrap_or_default();
    let (first, last) = account.name.split_once(' ').unwrap_or((account.name, ""));
    let text = match (kind, value) {
        ("name", Value::String(_)) => account.name,
        ("first", Value::String(_)) => first,
        ("last", Value::String(_)) => last,
        ("email", Value::String(_)) => account.email,
        ("id", Value::Number(number)) => {
            let number = number.as_u64().unwrap_or_default();
            return (number + index as u64).into();
        }
        ("id", Value::String(text)) if index > 0 => {
            let number: Option<u64> = text.parse().ok();
            return match number {
                Some(number) => (number + index as u64).to_string().into(),
                None => format!("{text}-{}", account.id).into(),
            };
        }
        _ => return value.clone(),
    };
    text.into()
}

impl Stored {
    /// Returns the fields of a provider's token response for an account, besides the tokens.
    pub(super) fn account_fields(
        &self,
        client_id: &str,
        account: &Account,
        scope: Option<&str>,
    ) -> Map<String, Value> {
        let mut integrations = self.integrations.iter();
        let integration = integrations.find(|it| it.credentials.client_id == client_id);
        let sample = integration.and_then(|it| sample(&it.provider));
        let mut fields = sample
            .map(|it| it.token_fields(account, scope))
            .unwrap_or_default();
        if let (Some(broken), true) = (&self.faults.id_token, fields.contains_key("id_token")) {
            fields.insert("id_token".to_owned(), broken.as_str().into());
        }
        fields
    }

    /// Returns the account of credentials. An API key belongs to the account whose id it contains, or to the first one.
    fn account_of(&self, credentials: &Credentials, now: DateTime<Utc>) -> Account {
        let fields = match credentials {
            Credentials::OAuth2 { access_token, .. } => {
                let found = self.provider.account_of(access_token, now);
                return found.unwrap_or(ACCOUNTS[0]);
            }
            Credentials::Other(fields) => fields,
        };
        let texts: Vec<&str> = fields.values().filter_map(Value::as_str).collect();
        let granted = texts
            .iter()
            .find_map(|text| self.provider.account_of(text, now));
        let named = || {
            let mut accounts = ACCOUNTS.into_iter();
            accounts.find(|it| texts.iter().any(|text| text.contains(it.id)))
        };
        granted.or_else(named).unwrap_or(ACCOUNTS[0])
    }
}

impl App {
    /// Simulates Nango's post-connection scripts, which write account data to the connection's configuration a moment
    /// after a grant.
    pub(super) fn run_script(&self, connection_id: &str, integration: &StoredIntegration) {
        let Some(sample) = sample(&integration.provider) else {
            return;
        };
        let (app, key) = (self.clone(), integration.unique_key.clone());
        let id = connection_id.to_owned();
        self.tasks.spawn(async move {
            tokio::time::sleep(SCRIPT_TIME).await;
            let mut state = app.lock();
            let now = app.now();
            let Some(connection) = state.connection(&id, &key) else {
                return;
            };
            let account = state.account_of(&connection.credentials, now);
            let config = sample.connection_config.clone();
            let config = sample.of("connection_config", &config.into(), &account);
            let written = sample.written.iter();
            let written =
                written.filter_map(|name| Some((name.clone(), config.get(name)?.clone())));
            if let Some(connection) = state.connection_mut(&id, &key) {
                connection.connection_config.extend(written);
            }
        });
    }

    /// Returns the account endpoint that a call to a provider addresses; `None` for any other call.
    pub(super) fn account_endpoint(
        &self,
        provider: &str,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Option<String> {
        let sample = sample(provider)?;
        let path = uri.path_and_query()?.as_str().strip_prefix("/proxy")?;
        let host = headers
            .get("base-url-override")
            .and_then(|it| it.to_str().ok());
        (sample.base_url.as_deref() == host && sample.has_path(path))
            .then(|| self.provider_url(&format!("account/{provider}")))
    }
}

/// Adds the token that Nango fetches with typed credentials, and the token response.
pub(super) fn add_token_response(provider: &str, credentials: &mut Map<String, Value>) {
    let fetches = matches!(
        credentials.get("type").and_then(Value::as_str),
        Some("OAUTH2_CC" | "TWO_STEP")
    );
    if !fetches {
        return;
    }
    let token = format!("sandbox-{}", Uuid::new_v4().simple());
    credentials.insert("token".to_owned(), token.into());
    let Some(sample) = sample(provider) else {
        return;
    };
    let texts: Vec<&str> = credentials.values().filter_map(Value::as_str).collect();
    let mut accounts = ACCOUNTS.into_iter();
    let named = accounts.find(|it| texts.iter().any(|text| text.contains(it.id)));
    let raw = sample.token_fields(&named.unwrap_or(ACCOUNTS[0]), None);
    credentials.insert("raw".to_owned(), raw.into());
}

/// Handles a provider's account endpoint. Requires the method, the body and the scopes of the documentation.
pub(super) async fn who(
    State(app): State<App>,
    Path(provider): Path<String>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let authorization = parts.headers.get(header::AUTHORIZATION);
    let authorization = authorization
        .and_then(|it| it.to_str().ok())
        .unwrap_or_default();
    let Some((account, scope)) = signed_in(&app, authorization) else {
        let error = Json(json!({ "error": "invalid_token" }));
        return (StatusCode::UNAUTHORIZED, error).into_response();
    };
    let Some(sample) = sample(&provider) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    if let Some(answer) = faulty_answer(&app).await {
        return answer;
    }
    if parts.method.as_str() != sample.method {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    let body = to_bytes(body, BODY_LIMIT).await.unwrap_or_default();
    if !is_expected(&body, sample.body.as_ref()) {
        return (
            StatusCode::BAD_REQUEST,
            Json(json!({ "error": "invalid_body" })),
        )
            .into_response();
    }
    let scope = scope.unwrap_or_default();
    let granted: Vec<&str> = scope.split_whitespace().collect();
    let has = |needed: &String| needed.split('|').any(|one| granted.contains(&one));
    if !granted.is_empty() && !sample.scopes.iter().all(has) {
        let error = Json(json!({ "error": "insufficient_scope" }));
        return (StatusCode::FORBIDDEN, error).into_response();
    }
    let answer = sample.response.clone().unwrap_or_default();
    Json(sample.of("response", &answer, &account)).into_response()
}

/// Returns the response that a fault sets for the account endpoint; `None` without such a fault.
async fn faulty_answer(app: &App) -> Option<Response> {
    let (delay, status, body) = {
        let faults = &app.lock().faults;
        let delay = Duration::from_millis(faults.account_lookup_delay_ms);
        let body = faults.account_lookup_body.clone();
        (delay, faults.account_lookup_status, body)
    };
    tokio::time::sleep(delay).await;
    if status.is_none() && body.is_none() {
        return None;
    }
    let status = status.and_then(|status| StatusCode::from_u16(status).ok());
    let status = status.unwrap_or(StatusCode::OK);
    let answer = match body {
        Some(Value::String(page)) => (status, Html(page)).into_response(),
        Some(body) => (status, Json(body)).into_response(),
        None => (status, Json(json!({ "error": "sandbox" }))).into_response(),
    };
    Some(answer)
}

fn is_expected(body: &Bytes, expected: Option<&Value>) -> bool {
    match expected {
        None => true,
        Some(Value::String(text)) => body == text.as_bytes(),
        Some(value) => serde_json::from_slice::<Value>(body).is_ok_and(|sent| sent == *value),
    }
}

/// Returns the account of credentials, and the scopes of an OAuth token.
fn signed_in(app: &App, authorization: &str) -> Option<(Account, Option<String>)> {
    let now = app.now();
    let state = app.lock();
    let token = authorization.strip_prefix("Bearer ").unwrap_or_default();
    if let Some(account) = state.provider.account_of(token, now) {
        return Some((account, state.provider.scope_of(token)));
    }
    let mut connections = state.connections.iter();
    let has_key = |credentials: &Credentials| {
        matches!(credentials, Credentials::Other(_)) && credentials.authorization() == authorization
    };
    let connection = connections.find(|it| has_key(&it.credentials))?;
    Some((state.account_of(&connection.credentials, now), None))
}
