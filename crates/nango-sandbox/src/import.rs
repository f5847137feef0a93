//! `POST /connections`: imports credentials that were obtained elsewhere.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::credentials::Credentials;
use crate::error::Failure;
use crate::front::JsonBody;
use crate::query::Query;
use crate::schema::{Reader, Tags};
use crate::sessions::{derived_tags, read_end_user};
use crate::state::{App, Connection, EndUser, State as Stored};
use crate::webhooks::{Event, Operation, Outcome};
use crate::{NewConnection, times, view};

/// The body of an import.
struct Import {
    integration: String,
    connection_id: Option<String>,
    credentials: Map<String, Value>,
    metadata: Option<Map<String, Value>>,
    connection_config: Option<Map<String, Value>>,
    end_user: Option<EndUser>,
    tags: Tags,
}

/// `POST /connections`. If the connection exists, replaces the given fields.
pub(super) async fn import(
    State(app): State<App>,
    query: Query,
    JsonBody(body): JsonBody,
) -> Result<Response, Failure> {
    query.none()?;
    let import = read(body.as_ref())?;
    let now = app.now();
    let mut state = app.lock();
    let integration = state
        .integration(&import.integration)
        .cloned()
        .ok_or_else(|| {
            Failure::new(StatusCode::NOT_FOUND, "not_found").message("Integration does not exist")
        })?;
    let kind = import
        .credentials
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if kind != integration.auth_mode {
        let mode = &integration.auth_mode;
        let message = format!("Provider {mode} does not support {kind} auth");
        return Err(Failure::invalid_body(message));
    }
    let credentials = credentials(&import.credentials);
    if integration.tests_credentials() && credentials.are_invalid() {
        return Err(test_failed());
    }
    let (connection_id, operation) = state.store(import, credentials, now);
    let unique_key = &integration.unique_key;
    let Some(connection) = state.connection(&connection_id, unique_key) else {
        return Err(crate::connections::not_found());
    };
    let shown = view::imported(&state, connection);
    let event = Event {
        connection_id,
        operation,
        outcome: Outcome::Succeeded,
        end_user: None,
        tags: Some(connection.tags.clone()),
        url_override: connection.webhook_url_override.clone(),
        integration,
    };
    drop(state);
    app.send_webhook(&event);
    Ok((StatusCode::CREATED, Json(shown)).into_response())
}

/// Returns the error of credentials that the provider rejected.
pub(super) fn test_failed() -> Failure {
    Failure::new(StatusCode::BAD_REQUEST, "connection_test_failed").message(
        "The given credentials were found to be invalid. \
         Please check the credentials and try again.",
    )
}

fn read(body: Option<&Value>) -> Result<Import, Failure> {
    let (mut reader, object) = Reader::open(body)?;
    let integration = reader.string(&object, "provider_config_key");
    let connection_id = reader.optional_string(&object, "connection_id");
    let credentials = reader.record(&object, "credentials");
    let metadata = reader.optional_record(&object, "metadata");
    let connection_config = reader.optional_record(&object, "connection_config");
    let end_user = read_end_user(&mut reader, &object);
    let own_tags = reader.tags(&object, "tags");
    let known = [
        "provider_config_key",
        "connection_id",
        "credentials",
        "metadata",
        "connection_config",
        "end_user",
        "tags",
    ];
    reader.only(&object, &known);
    reader.finish("invalid_body")?;
    let mut tags = end_user.as_ref().map(derived_tags).unwrap_or_default();
    tags.extend(own_tags.unwrap_or_default());
    Ok(Import {
        integration: integration.unwrap_or_default(),
        connection_id,
        credentials: credentials.unwrap_or_default(),
        metadata,
        connection_config,
        end_user,
        tags,
    })
}

/// Returns the credentials to store. Those of OAuth 2 are their own raw token response.
fn credentials(sent: &Map<String, Value>) -> Credentials {
    let text = |key: &str| sent.get(key).and_then(Value::as_str);
    let (Some("OAUTH2"), Some(access_token)) = (text("type"), text("access_token")) else {
        return Credentials::Other(sent.clone());
    };
    let expires_at = text("expires_at").and_then(|it| DateTime::parse_from_rfc3339(it).ok());
    let expires_at = expires_at.map(|it| it.to_utc());
    let mut raw = sent.clone();
    if let Some(expires_at) = expires_at {
        raw.insert("expires_at".into(), times::javascript(expires_at).into());
    }
    Credentials::OAuth2 {
        kind: "OAUTH2",
        access_token: access_token.to_owned(),
        refresh_token: text("refresh_token").map(str::to_owned),
        expires_at,
        raw,
    }
}

impl Stored {
    /// Stores a connection with a new id.
    pub(super) fn store_new(&mut self, new: NewConnection) {
        let (number, created_at) = self.next_connection(new.created_at);
        self.connections.push(Connection {
            id: number,
            connection_id: new.connection_id,
            integration: new.integration,
            end_user: None,
            tags: new.tags,
            metadata: None,
            connection_config: Map::new(),
            webhook_url_override: None,
            credentials: Credentials::Other(Map::new()),
            refresh_failure: None,
            refresh_exhausted: false,
            created_at,
            updated_at: created_at,
            last_fetched_at: created_at,
        });
    }

    /// Creates or replaces a connection. Returns its id and the operation.
    fn store(
        &mut self,
        import: Import,
        credentials: Credentials,
        now: DateTime<Utc>,
    ) -> (String, Operation) {
        let id = import
            .connection_id
            .unwrap_or_else(|| Uuid::new_v4().to_string());
        if let Some(connection) = self.connection_mut(&id, &import.integration) {
            connection.credentials = credentials;
            connection.refresh_failure = None;
            connection.refresh_exhausted = false;
            connection.tags = import.tags;
            connection.end_user = import.end_user.or(connection.end_user.take());
            connection.metadata = import.metadata.or(connection.metadata.take());
            if let Some(config) = import.connection_config {
                connection.connection_config = config;
            }
            return (id, Operation::Override);
        }
        let (number, now) = self.next_connection(now);
        self.connections.push(Connection {
            id: number,
            connection_id: id.clone(),
            integration: import.integration,
            end_user: import.end_user,
            tags: import.tags,
            metadata: Some(import.metadata.unwrap_or_default()),
            connection_config: import.connection_config.unwrap_or_default(),
            webhook_url_override: None,
            credentials,
            refresh_failure: None,
            refresh_exhausted: false,
            created_at: now,
            updated_at: now,
            last_fetched_at: now,
        });
        (id, Operation::Creation)
    }
}
