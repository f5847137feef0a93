//! Connect, reconnect and disconnect.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tracing::Instrument;
use utoipa::openapi::schema::{Array, ArrayBuilder, ObjectBuilder, Type};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::auth::BrowserToken;
use crate::domain::Status;
use crate::domain::UserId;
use crate::http::AppState;
use crate::http::extract::{
    ActingAs, ConnectionsWriter, IdempotencyKey, OptionalJson, Path, Query, RateLimitedWriter,
};
use crate::http::openapi::errors;
use crate::http::problem::{Code, Problem};
use crate::service::{Answer, ConnectOutcome, ConnectRequest, DisconnectTarget, Disconnected};
use crate::text::displayable;
use crate::views::{Config, ConnectionBody, ConnectionView};

/// The longest label, instance id, scope or hint, in characters.
const MAX_NAME_LENGTH: usize = 255;

/// How many scopes may be asked for.
const MAX_SCOPES: usize = 100;

/// The account of a connector to connect.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ConnectQuery {
    /// Distinguishes several accounts of one connector. Omit it for the first account.
    #[serde(default)]
    #[param(max_length = 255, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$")]
    instance_id: String,
}

/// The details of a new connection or attempt.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = ConnectRequest)]
pub struct ConnectBody {
    /// The user's name for the connection. Characters that change the direction of text are removed, and so are combining
    /// marks beyond four in a row.
    #[schema(
        min_length = 1,
        max_length = 255,
        pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*[^\\s\\u0000-\\u001f\\u007f-\\u009f][^\\u0000-\\u001f\\u007f-\\u009f]*$"
    )]
    label: Option<String>,
    /// Merged into the stored config by key; null removes a key. The whole config has at most 4 KiB of JSON.
    #[serde(default)]
    #[schema(value_type = Config)]
    config: Map<String, Value>,
    /// The scopes to request instead of those of the integration. A reconnect requests the same ones by default.
    #[serde(default)]
    #[schema(schema_with = scopes)]
    scopes: Vec<String>,
    /// The account that the provider preselects, such as an email address.
    #[schema(max_length = 255, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$")]
    login_hint: Option<String>,
    /// The values of the connector's `parameters`, by name. A reconnect uses the stored values by default. If a required
    /// value is missing, `oauth_url` is a page on which the user enters it.
    #[serde(default)]
    #[schema(value_type = ParameterValues)]
    parameters: BTreeMap<String, String>,
}

/// Values of a connector's parameters, by name.
#[derive(ToSchema)]
#[expect(dead_code, reason = "names the schema in the OpenAPI document")]
struct ParameterValues(BTreeMap<String, String>);

/// Returns the schema of the scopes. No attribute can express the bounds of each item.
fn scopes() -> Array {
    let scope = ObjectBuilder::new()
        .schema_type(Type::String)
        .max_length(Some(MAX_NAME_LENGTH))
        .pattern(Some(r"^[^\u0000-\u001f\u007f-\u009f]*$"));
    ArrayBuilder::new()
        .items(scope)
        .max_items(Some(MAX_SCOPES))
        .description(Some(
            "The scopes to request instead of those of the integration. A reconnect requests the same ones by default.",
        ))
        .build()
}

impl ConnectBody {
    fn request(self, instance_id: String, sender: ActingAs) -> Result<ConnectRequest, Problem> {
        validate_name("instance_id", &instance_id)?;
        let label = self.label.map(|label| validate_label(&label)).transpose()?;
        if let Some(hint) = &self.login_hint {
            validate_name("login_hint", hint)?;
        }
        if self.scopes.len() > MAX_SCOPES {
            return Err(Problem::invalid(format!("at most {MAX_SCOPES} scopes")));
        }
        for scope in &self.scopes {
            validate_name("a scope", scope)?;
        }
        Ok(ConnectRequest {
            instance_id,
            label,
            config: self.config,
            scopes: self.scopes,
            login_hint: self.login_hint,
            parameters: self.parameters,
            actor: Some(sender.into()),
        })
    }
}

/// The outcome of a connect or reconnect.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ConnectResponse)]
pub(crate) struct ConnectAnswer {
    /// The URL to open in the popup; null if the account is already connected.
    oauth_url: Option<String>,
    connection_id: Uuid,
    /// Nango's id of the connection; null if Nango stores none.
    nango_connection_id: Option<String>,
    /// `true` if there is an `oauth_url` to open in a popup.
    popup: bool,
    /// `true` if the account was already connected; then `oauth_url` is null.
    already_connected: bool,
    /// A human-readable summary.
    message: String,
    status: Status,
    /// The id of the started attempt; null if none was started.
    attempt_id: Option<Uuid>,
    /// When the authorization link expires; null if there is none.
    expires_at: Option<DateTime<Utc>>,
}

impl From<ConnectOutcome> for ConnectAnswer {
    fn from(authorization: ConnectOutcome) -> Self {
        let (connection, started, message) = match authorization {
            ConnectOutcome::AlreadyConnected(connection) => {
                let message = format!("{} is already connected", connection.connector.name);
                (connection, None, message)
            }
            ConnectOutcome::Started {
                connection,
                attempt,
                url,
            } => {
                let message = format!("Open oauth_url to connect {}", connection.connector.name);
                (connection, Some((attempt, url)), message)
            }
        };
        Self {
            connection_id: connection.id,
            nango_connection_id: connection
                .state
                .upstream()
                .map(|upstream| upstream.id.clone()),
            popup: started.is_some(),
            already_connected: started.is_none(),
            message,
            status: connection.state.status(),
            attempt_id: started.as_ref().map(|(attempt, _)| attempt.id),
            expires_at: started.as_ref().map(|(attempt, _)| attempt.expires_at),
            oauth_url: started.map(|(_, url)| url.into()),
        }
    }
}

fn response_body(authorization: ConnectOutcome) -> Result<Answer, Problem> {
    let answer = ConnectAnswer::from(authorization);
    let until = answer.expires_at;
    let answer = serde_json::to_value(answer).map_err(Problem::internal)?;
    Ok((answer, until))
}

/// The part of a response that identifies the started attempt.
#[derive(Deserialize)]
struct StartedAttempt {
    connection_id: Uuid,
    attempt_id: Option<Uuid>,
}

/// The browser that the attempt is bound to; `None` for a service, whose answer goes to no browser.
fn browser(
    state: &AppState,
    sender: ActingAs,
    headers: &HeaderMap,
) -> Result<Option<BrowserToken>, Problem> {
    match sender {
        ActingAs::User => state.browser_binding.starting(headers),
        ActingAs::Service => Ok(None),
    }
}

/// The answer, also where it is an earlier one; its browser is known again where that is configured.
async fn respond_and_bind(
    state: &AppState,
    user: &UserId,
    browser: Option<BrowserToken>,
    answer: Value,
) -> Result<Response, Problem> {
    let started = StartedAttempt::deserialize(&answer).map_err(|error| {
        Problem::internal(format_args!("the answer that was kept is none: {error}"))
    })?;
    match (started.attempt_id, browser) {
        (Some(attempt), Some(browser)) => {
            let attempt = (started.connection_id, attempt);
            let browsers = state.browser_binding;
            let cookie = browsers
                .bind_attempt(&state.connections, user, attempt, &browser)
                .await?;
            Ok(([cookie], Json(answer)).into_response())
        }
        _ => Ok(Json(answer).into_response()),
    }
}

/// Start to connect an account.
///
/// Creates an attempt and returns the URL to open in a popup. If the account is already connected, nothing is started and
/// `already_connected` is `true`. Poll `getConnection` with `wait`, or follow `streamEvents`, for the outcome.
#[utoipa::path(post, path = "/api/v1/connectors/{connector}/connect", operation_id = "connect", tag = "connections",
    params(("connector" = String, Path, description = "The id or slug of a connector.", example = "gmail"), ConnectQuery,
        ("Idempotency-Key" = Option<String>, Header, description = "A repeated request with the same key returns the first response, until its authorization link expires. Without a link, the response is stored for 24 hours.",
            min_length = 1, max_length = 255, pattern = "^[!-~]([ -~]*[!-~])?$")),
    request_body(content = Option<ConnectBody>),
    responses((status = 200, body = ConnectAnswer, description = "The started attempt, or the existing connection.")),
    extensions(("x-error-codes" = json!([Code::ConnectorNotConfigured, Code::ConnectorNotFound, Code::ConnectorUnavailable, errors::IDEMPOTENCY, errors::NANGO])))
)]
pub(crate) async fn connect(
    State(state): State<AppState>,
    RateLimitedWriter(user, sender): RateLimitedWriter,
    Path(connector): Path<String>,
    Query(query): Query<ConnectQuery>,
    key: IdempotencyKey,
    headers: HeaderMap,
    OptionalJson(body): OptionalJson<ConnectBody>,
) -> Result<Response, Problem> {
    let request = body.request(query.instance_id, sender)?;
    let browser = browser(&state, sender, &headers)?;
    let idempotency = key.of(&("connect", &connector, &request));
    spawn_uncancellable(async move {
        let connections = &state.connections;
        let work = async { response_body(connections.connect(&user, &connector, &request).await?) };
        let answer = connections
            .with_idempotency_key(&user, idempotency.as_ref(), work)
            .await?;
        respond_and_bind(&state, &user, browser, answer).await
    })
    .await
}

/// Start to reauthorize a connection.
///
/// Creates an attempt and returns the URL to open in a popup. The connection keeps its id, and remains usable until the
/// attempt completes.
#[utoipa::path(post, path = "/api/v1/connectors/connections/{id}/reconnect", operation_id = "reconnect", tag = "connections",
    params(("id" = Uuid, Path, description = "The id of a connection."),
        ("Idempotency-Key" = Option<String>, Header, description = "A repeated request with the same key returns the first response, until its authorization link expires. Without a link, the response is stored for 24 hours.",
            min_length = 1, max_length = 255, pattern = "^[!-~]([ -~]*[!-~])?$")),
    request_body(content = Option<ConnectBody>),
    responses((status = 200, body = ConnectAnswer, description = "The started attempt.")),
    extensions(("x-error-codes" = json!([Code::ConnectionNotFound, Code::ConnectorNotConfigured, Code::ConnectorNotFound, Code::ConnectorUnavailable, errors::IDEMPOTENCY, errors::NANGO])))
)]
pub(crate) async fn reconnect(
    State(state): State<AppState>,
    RateLimitedWriter(user, sender): RateLimitedWriter,
    Path(id): Path<Uuid>,
    key: IdempotencyKey,
    headers: HeaderMap,
    OptionalJson(body): OptionalJson<ConnectBody>,
) -> Result<Response, Problem> {
    let request = body.request(String::new(), sender)?;
    let browser = browser(&state, sender, &headers)?;
    let idempotency = key.of(&("reconnect", id, &request));
    spawn_uncancellable(async move {
        let connections = &state.connections;
        let work = async { response_body(connections.reconnect(&user, id, &request).await?) };
        let answer = connections
            .with_idempotency_key(&user, idempotency.as_ref(), work)
            .await?;
        respond_and_bind(&state, &user, browser, answer).await
    })
    .await
}

/// The connection of a connector to end.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DisconnectQuery {
    /// The id of the connection. Omit it if the connector has only one connection.
    connection_id: Option<Uuid>,
    /// The `instance_id` of the connection, as an alternative to its id.
    #[param(max_length = 255, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$")]
    instance_id: Option<String>,
}

/// The outcome of a disconnect or a removal.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DisconnectResponse)]
pub(crate) struct DisconnectAnswer {
    /// Always `true`.
    success: bool,
    connection_id: Uuid,
    status: Status,
    /// `true` if Nango has confirmed the deletion. Otherwise the deletion is retried until Nango confirms it.
    upstream_deleted: bool,
    /// A human-readable summary.
    message: String,
}

/// Disconnect an account.
///
/// Ends a connection and deletes its credentials at Nango. The deletion is retried until Nango confirms it. A repeated
/// request has no further effect.
#[utoipa::path(delete, path = "/api/v1/connectors/{connector}/disconnect", operation_id = "disconnect", tag = "connections",
    params(("connector" = String, Path, description = "The id or slug of a connector.", example = "gmail"), DisconnectQuery),
    responses((status = 200, body = DisconnectAnswer, description = "The connection is disconnected.")),
    extensions(("x-error-codes" = json!([Code::AmbiguousConnection, Code::ConnectionNotFound, Code::ConnectorNotFound, Code::NangoDisabled])))
)]
pub(crate) async fn disconnect(
    State(state): State<AppState>,
    ConnectionsWriter(user, sender): ConnectionsWriter,
    Path(connector): Path<String>,
    Query(query): Query<DisconnectQuery>,
) -> Result<Json<DisconnectAnswer>, Problem> {
    let target = match (query.connection_id, query.instance_id) {
        (Some(id), _) => DisconnectTarget::Connection(id),
        (None, Some(instance_id)) => {
            validate_name("instance_id", &instance_id)?;
            DisconnectTarget::Instance(instance_id)
        }
        (None, None) => DisconnectTarget::Only,
    };
    let ended = spawn_uncancellable(async move {
        let connections = &state.connections;
        Ok(connections
            .disconnect(&user, &connector, &target, sender.into())
            .await?)
    })
    .await?;
    Ok(Json(DisconnectAnswer::of(&ended, "disconnected")))
}

impl DisconnectAnswer {
    /// Renders an end of a connection, which `verb` names.
    fn of(ended: &Disconnected, verb: &str) -> Self {
        let name = &ended.connection.connector.name;
        let message = if ended.confirmed {
            format!("{name} is {verb}")
        } else {
            format!("{name} is {verb} here; Nango is asked to delete its part until it confirms")
        };
        Self {
            success: true,
            connection_id: ended.connection.id,
            status: ended.connection.state.status(),
            upstream_deleted: ended.confirmed,
            message,
        }
    }
}

/// Remove a connection from the list.
///
/// Removes a connection that is not connected from the user's list. Its history stays. A connect of the same instance starts a
/// new connection without label and config. The operation is idempotent.
#[utoipa::path(delete, path = "/api/v1/connectors/connections/{id}", operation_id = "removeConnection", tag = "connections",
    params(("id" = Uuid, Path, description = "The id of a connection.")),
    responses((status = 200, body = DisconnectAnswer, description = "The connection is removed.")),
    extensions(("x-error-codes" = json!([Code::ConnectionNotFound, Code::StillConnected, Code::NangoDisabled])))
)]
pub(crate) async fn remove(
    State(state): State<AppState>,
    ConnectionsWriter(user, sender): ConnectionsWriter,
    Path(id): Path<Uuid>,
) -> Result<Json<DisconnectAnswer>, Problem> {
    let removed = spawn_uncancellable(async move {
        Ok(state.connections.remove(&user, id, sender.into()).await?)
    })
    .await?;
    Ok(Json(DisconnectAnswer::of(&removed, "removed")))
}

/// The attempt to cancel.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = CancelRequest)]
pub(crate) struct CancelBody {
    /// The attempt. If it has ended or a newer one exists, nothing changes. Without it, the open attempt is canceled.
    attempt_id: Option<Uuid>,
}

/// Cancel the open attempt of a connection.
///
/// A connection that never was connected is removed with the attempt; a connected one stays connected. If the user still
/// finishes in the popup, the new connection is deleted at Nango. Only a reauthorization that still completes takes effect,
/// because Nango renews its connection in place. The operation is idempotent.
#[utoipa::path(post, path = "/api/v1/connectors/connections/{id}/cancel", operation_id = "cancelAttempt", tag = "connections",
    params(("id" = Uuid, Path, description = "The id of a connection.")),
    request_body(content = Option<CancelBody>),
    responses((status = 200, body = ConnectionBody, description = "The connection after the cancellation.")),
    extensions(("x-error-codes" = json!([Code::ConnectionNotFound, Code::NangoDisabled])))
)]
pub(crate) async fn cancel(
    State(state): State<AppState>,
    ConnectionsWriter(user, sender): ConnectionsWriter,
    Path(id): Path<Uuid>,
    OptionalJson(body): OptionalJson<CancelBody>,
) -> Result<Json<ConnectionView>, Problem> {
    let canceled = spawn_uncancellable(async move {
        let connections = &state.connections;
        Ok(connections
            .cancel(&user, id, body.attempt_id, sender.into())
            .await?)
    });
    Ok(Json(canceled.await?))
}

/// Does work to its end, whether or not its client is still there: what Nango has done is then
/// written down at once, and the answer kept for a client that comes back with its key.
async fn spawn_uncancellable<T: Send + 'static>(
    work: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::spawn(work.in_current_span()).await {
        Ok(done) => done,
        Err(broken) => match broken.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_cancelled) => Err(Problem::internal("the service stops")),
        },
    }
}

/// A label as it may be shown, without the white space around it; an empty one is refused.
pub(crate) fn validate_label(label: &str) -> Result<String, Problem> {
    let label = label.trim();
    validate_name("label", label)?;
    let shown: String = displayable(label).collect();
    let shown = shown.trim();
    if shown.is_empty() {
        return Err(Problem::invalid(
            "label may not be empty; leave it out, or null to remove it",
        ));
    }
    Ok(shown.to_owned())
}

fn validate_name(field: &str, value: &str) -> Result<(), Problem> {
    if value.chars().count() > MAX_NAME_LENGTH {
        return Err(Problem::invalid(format!(
            "{field}: at most {MAX_NAME_LENGTH} characters"
        )));
    }
    if value.chars().any(char::is_control) {
        return Err(Problem::invalid(format!(
            "{field} may not have control characters"
        )));
    }
    Ok(())
}
