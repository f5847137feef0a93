//! Integrations: the providers that the environment can connect to, with their OAuth clients.

use axum::Json;
use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::Integration;
use crate::auth::SessionToken;
use crate::credentials::is_oauth;
use crate::error::Failure;
use crate::front::JsonBody;
use crate::query::Query;
use crate::schema::{Object, Reader};
use crate::state::App;
use crate::times;

/// Providers that an integration can be created for, in addition to those of the configuration: name, display name,
/// auth mode.
const PROVIDERS: [(&str, &str, &str); 8] = [
    (
        "airtable-pat",
        "Airtable (Personal Access Token)",
        "API_KEY",
    ),
    ("chargebee", "Chargebee", "BASIC"),
    ("customer-io", "Customer.io", "BASIC"),
    ("github-app-oauth", "GitHub (App OAuth)", "CUSTOM"),
    ("mock-oauth2", "Mock OAuth2", "OAUTH2"),
    ("openai", "OpenAI", "API_KEY"),
    ("twilio", "Twilio", "BASIC"),
    ("unauthenticated", "Unauthenticated", "NONE"),
];

/// Providers for which Nango cannot test credentials.
const PROVIDERS_WITHOUT_TEST: [&str; 2] = ["airtable-pat", "customer-io"];

/// An integration of the environment.
#[derive(Clone)]
pub(super) struct StoredIntegration {
    pub(super) unique_key: String,
    pub(super) provider: String,
    pub(super) display_name: String,
    pub(super) auth_mode: String,
    pub(super) credentials: Client,
    forward_webhooks: bool,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

/// The OAuth client of an integration; empty for other auth modes.
#[derive(Clone, Default)]
pub(super) struct Client {
    pub(super) client_id: String,
    pub(super) client_secret: String,
    /// Separated by commas.
    pub(super) scopes: String,
}

impl StoredIntegration {
    pub(super) fn from_config(configured: &[Integration], now: DateTime<Utc>) -> Vec<Self> {
        let stored = configured.iter().map(|it| Self {
            unique_key: it.unique_key.clone(),
            provider: it.provider.clone(),
            display_name: it.display_name.clone(),
            auth_mode: it.auth_mode.clone(),
            credentials: Client {
                client_id: format!("sandbox-{}", it.unique_key),
                client_secret: Uuid::new_v4().to_string(),
                scopes: String::new(),
            },
            forward_webhooks: true,
            created_at: now,
            updated_at: now,
        });
        stored.collect()
    }

    /// The integration with the same key in another environment, where it was created at another time.
    pub(super) fn recreated(&self) -> Self {
        let earlier = TimeDelta::hours(1);
        Self {
            created_at: self.created_at - earlier,
            updated_at: self.updated_at - earlier,
            ..self.clone()
        }
    }

    /// Returns `true` if Nango tests credentials at the provider before it stores them.
    pub(super) fn tests_credentials(&self) -> bool {
        !PROVIDERS_WITHOUT_TEST.contains(&self.provider.as_str())
    }

    fn to_json(&self, app: &App, include: &[&str]) -> Value {
        let mut shown = json!({
            "unique_key": self.unique_key,
            "provider": self.provider,
            "display_name": self.display_name,
            "logo": format!("{}/images/template-logos/{}.svg", app.public_url, self.provider),
            "forward_webhooks": self.forward_webhooks,
            "created_at": times::javascript(self.created_at),
            "updated_at": times::javascript(self.updated_at),
        });
        if include.contains(&"webhook") {
            shown["webhook_url"] = Value::Null;
        }
        if include.contains(&"credentials") {
            shown["credentials"] = is_oauth(&self.auth_mode)
                .then(|| {
                    json!({
                        "type": self.auth_mode,
                        "client_id": self.credentials.client_id,
                        "client_secret": self.credentials.client_secret,
                        "scopes": self.credentials.scopes,
                        "webhook_secret": null,
                    })
                })
                .into();
        }
        shown
    }
}

/// `GET /integrations`: all of them, or those that the session allows.
pub(super) async fn list(
    State(app): State<App>,
    session: Option<Extension<SessionToken>>,
    query: Query,
) -> Result<Response, Failure> {
    query.none()?;
    let state = app.lock();
    let session = session.and_then(|it| state.session(&it.0.0, app.now()));
    let mut shown: Vec<_> = state
        .integrations
        .iter()
        .filter(|it| session.is_none_or(|session| session.allows(&it.unique_key)))
        .collect();
    shown.sort_by(|a, b| a.provider.cmp(&b.provider));
    let data: Vec<_> = shown.into_iter().map(|it| it.to_json(&app, &[])).collect();
    Ok(Json(json!({ "data": data })).into_response())
}

fn unknown(key: &str) -> Failure {
    Failure::new(StatusCode::NOT_FOUND, "not_found")
        .message(format!("Integration \"{key}\" does not exist"))
}

/// `GET /integrations/{key}`
pub(super) async fn get(
    State(app): State<App>,
    Path(key): Path<String>,
    query: Query,
) -> Result<Response, Failure> {
    let mut reader = Reader::default();
    query.only(&mut reader, &["include"]);
    reader.finish("invalid_query_params")?;
    let include: Vec<_> = query.all("include").collect();
    let state = app.lock();
    let integration = state.integration(&key).ok_or_else(|| unknown(&key))?;
    Ok(Json(json!({ "data": integration.to_json(&app, &include) })).into_response())
}

/// `GET /config/{key}`, the legacy endpoint.
pub(super) async fn legacy_get(
    State(app): State<App>,
    Path(key): Path<String>,
) -> Result<Response, Failure> {
    let state = app.lock();
    let integration = state.integration(&key).ok_or_else(|| unknown(&key))?;
    let config = json!({
        "unique_key": integration.unique_key,
        "provider": integration.provider,
        "syncs": [],
        "actions": [],
    });
    Ok(Json(json!({ "config": config })).into_response())
}

/// `POST /integrations`
pub(super) async fn create(
    State(app): State<App>,
    query: Query,
    JsonBody(body): JsonBody,
) -> Result<Response, Failure> {
    query.none()?;
    let (mut reader, object) = Reader::open(body.as_ref())?;
    let provider = reader.string(&object, "provider").unwrap_or_default();
    let unique_key = reader.string(&object, "unique_key").unwrap_or_default();
    let display_name = reader.optional_string(&object, "display_name");
    let credentials = read_client(&mut reader, &object);
    let known = ["provider", "unique_key", "display_name", "credentials"];
    reader.only(&object, &known);
    reader.finish("invalid_body")?;

    let mut state = app.lock();
    let configured = app.config.integrations.iter();
    let (_, template_name, auth_mode) = PROVIDERS
        .into_iter()
        .chain(configured.map(|it| (&*it.provider, &*it.display_name, &*it.auth_mode)))
        .find(|(name, ..)| *name == provider)
        .ok_or_else(|| {
            let path = ["provider"];
            Failure::issue("invalid_body", "invalid_string", "Invalid provider", &path)
        })?;
    if state.integration(&unique_key).is_some() {
        let (message, path) = ("Unique key already exists", ["uniqueKey"]);
        return Err(Failure::issue(
            "invalid_body",
            "invalid_string",
            message,
            &path,
        ));
    }
    if is_oauth(auth_mode) && credentials.is_none() {
        return Err(Failure::invalid_body("Missing credentials"));
    }
    let now = app.now();
    let integration = StoredIntegration {
        unique_key,
        provider,
        display_name: display_name.unwrap_or_else(|| template_name.to_owned()),
        auth_mode: auth_mode.to_owned(),
        credentials: credentials.unwrap_or_default(),
        forward_webhooks: true,
        created_at: now,
        updated_at: now,
    };
    let shown = integration.to_json(&app, &[]);
    state.integrations.push(integration);
    Ok(Json(json!({ "data": shown })).into_response())
}

/// `PATCH /integrations/{key}`
pub(super) async fn update(
    State(app): State<App>,
    Path(key): Path<String>,
    query: Query,
    JsonBody(body): JsonBody,
) -> Result<Response, Failure> {
    query.none()?;
    let (mut reader, object) = Reader::open(body.as_ref())?;
    let display_name = reader.optional_string(&object, "display_name");
    let credentials = read_client(&mut reader, &object);
    reader.only(&object, &["display_name", "credentials"]);
    reader.finish("invalid_body")?;

    let mut state = app.lock();
    let found = state
        .integrations
        .iter_mut()
        .find(|it| it.unique_key == key);
    let integration = found.ok_or_else(|| unknown(&key))?;
    if let Some(display_name) = display_name {
        integration.display_name = display_name;
    }
    if let Some(credentials) = credentials {
        integration.credentials = credentials;
    }
    integration.updated_at = app.now();
    Ok(Json(json!({ "data": integration.to_json(&app, &[]) })).into_response())
}

/// `DELETE /integrations/{key}`. Deletes its connections, too, and sends no webhook for them.
pub(super) async fn delete(
    State(app): State<App>,
    Path(key): Path<String>,
    query: Query,
) -> Result<Response, Failure> {
    query.none()?;
    let mut state = app.lock();
    if state.integration(&key).is_none() {
        return Err(unknown(&key));
    }
    state.integrations.retain(|it| it.unique_key != key);
    state.connections.retain(|it| it.integration != key);
    Ok(Json(json!({ "success": true })).into_response())
}

fn read_client(reader: &mut Reader, object: &Object<'_>) -> Option<Client> {
    let found = reader.optional_object(object, "credentials")?;
    reader.string(&found, "type");
    let client = Client {
        client_id: reader.string(&found, "client_id").unwrap_or_default(),
        client_secret: reader.string(&found, "client_secret").unwrap_or_default(),
        scopes: reader.optional_string(&found, "scopes").unwrap_or_default(),
    };
    if client.scopes.contains(char::is_whitespace) {
        reader.issue("invalid_union", "Invalid input", &["credentials", "scopes"]);
    }
    reader.only(&found, &["type", "client_id", "client_secret", "scopes"]);
    Some(client)
}
