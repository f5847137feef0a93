//! Connect, reconnect and disconnect.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tracing::Instrument;
use utoipa::openapi::schema::{Array, ArrayBuilder};
use utoipa::{IntoParams, ToSchema};

use super::validation::{
    scope_schema, validate_instance_id, validate_label, validate_name, validate_scope,
};
use crate::domain::{AttemptId, ConnectionId, Status};
use crate::http::AppState;
use crate::http::extract::{
    ActingAs, ConnectionsWriter, IdempotencyKey, OptionalJson, Path, Query, RateLimitedWriter,
};
use crate::http::openapi::errors;
use crate::http::problem::{Code, Problem};
use crate::service::{ConnectRequest, DisconnectTarget, Disconnected};
use crate::views::{Config, ConnectAnswer, ConnectionBody, ConnectionView};

/// How many scopes may be asked for.
const MAX_SCOPES: usize = 100;

/// The account of a connector to connect.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ConnectQuery {
    /// Distinguishes several accounts of one connector. Omit it for the first account. Characters above U+FFFF, such as
    /// emoji, count twice.
    #[serde(default)]
    #[param(max_length = 255, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$")]
    instance_id: String,
}

/// The details of a new connection or attempt.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = ConnectRequest)]
#[serde(deny_unknown_fields)]
pub struct ConnectBody {
    /// The user's name for the connection. Characters that change the direction of text are removed, and so are combining
    /// marks beyond four in a row.
    #[schema(
        min_length = 1,
        max_length = 255,
        pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*[^\\s\\u0000-\\u001f\\u007f-\\u009f\\u00ad\\u034f\\u061c\\u115f\\u1160\\u17b4\\u17b5\\u180b-\\u180f\\u200b-\\u200f\\u202a-\\u202e\\u2060-\\u206f\\u3164\\ufe00-\\ufe0f\\ufeff\\uffa0\\ufff0-\\ufff8][^\\u0000-\\u001f\\u007f-\\u009f]*$"
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
    ArrayBuilder::new()
        .items(scope_schema())
        .max_items(Some(MAX_SCOPES))
        .description(Some(
            "The scopes to request instead of those of the integration. A reconnect requests the same ones by default.",
        ))
        .build()
}

impl ConnectBody {
    /// Validates the details of a request for this instance.
    fn request(
        self,
        instance_id: String,
        state: &AppState,
        sender: ActingAs,
        IdempotencyKey(idempotency_key): IdempotencyKey,
        headers: &HeaderMap,
    ) -> Result<ConnectRequest, Problem> {
        validate_instance_id(&instance_id)?;
        let label = self.label.map(|label| validate_label(&label)).transpose()?;
        if let Some(hint) = &self.login_hint {
            validate_name("login_hint", hint)?;
        }
        if self.scopes.len() > MAX_SCOPES {
            return Err(Problem::invalid(format!(
                "`scopes` must have at most {MAX_SCOPES} items."
            )));
        }
        for scope in &self.scopes {
            validate_scope("scopes", scope)?;
        }
        Ok(ConnectRequest {
            instance_id,
            label,
            config: self.config,
            scopes: self.scopes,
            login_hint: self.login_hint,
            parameters: self.parameters,
            actor: Some(sender.into()),
            browser: match sender {
                ActingAs::User => state.browser_binding.starting(headers)?,
                // A service's answer goes to no browser.
                ActingAs::Service => None,
            },
            idempotency_key,
        })
    }
}

/// A started attempt, with the cookie of the browser that it is bound to.
type Started = (Option<[(HeaderName, HeaderValue); 1]>, Json<ConnectAnswer>);

fn started(
    state: &AppState,
    request: &ConnectRequest,
    answer: ConnectAnswer,
) -> Result<Started, Problem> {
    let browser = request
        .browser
        .as_ref()
        .filter(|_| answer.attempt_id.is_some());
    let cookie = browser.map(|browser| state.browser_binding.cookie_header(browser));
    Ok((cookie.transpose()?.map(|cookie| [cookie]), Json(answer)))
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
    extensions(("x-error-codes" = json!([Code::ConnectorNotConfigured, Code::ConnectorNotFound, Code::ConnectorUnavailable, errors::IDEMPOTENCY, errors::NANGO, Code::UnsupportedMediaType])))
)]
pub(crate) async fn connect(
    State(state): State<AppState>,
    RateLimitedWriter(user, sender): RateLimitedWriter,
    Path(connector): Path<String>,
    Query(query): Query<ConnectQuery>,
    key: IdempotencyKey,
    headers: HeaderMap,
    OptionalJson(body): OptionalJson<ConnectBody>,
) -> Result<Started, Problem> {
    let request = body.request(query.instance_id, &state, sender, key, &headers)?;
    spawn_uncancellable(async move {
        let connect = &state.services.connect;
        let answer = connect.connect(&user, &connector, &request).await?;
        started(&state, &request, answer)
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
    extensions(("x-error-codes" = json!([Code::ConnectionNotFound, Code::ConnectorNotConfigured, Code::ConnectorNotFound, Code::ConnectorUnavailable, errors::IDEMPOTENCY, errors::NANGO, Code::UnsupportedMediaType])))
)]
pub(crate) async fn reconnect(
    State(state): State<AppState>,
    RateLimitedWriter(user, sender): RateLimitedWriter,
    Path(id): Path<ConnectionId>,
    key: IdempotencyKey,
    headers: HeaderMap,
    OptionalJson(body): OptionalJson<ConnectBody>,
) -> Result<Started, Problem> {
    let request = body.request(String::new(), &state, sender, key, &headers)?;
    spawn_uncancellable(async move {
        let connect = &state.services.connect;
        let answer = connect.reconnect(&user, id, &request).await?;
        started(&state, &request, answer)
    })
    .await
}

/// The connection of a connector to end.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DisconnectQuery {
    /// The id of the connection. Omit it if the connector has only one connection.
    #[param(value_type = Option<Uuid>)]
    connection_id: Option<ConnectionId>,
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
    #[schema(value_type = Uuid)]
    connection_id: ConnectionId,
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
            validate_instance_id(&instance_id)?;
            DisconnectTarget::Instance(instance_id)
        }
        (None, None) => DisconnectTarget::Only,
    };
    let ended = spawn_uncancellable(async move {
        let services = &state.services;
        Ok(services
            .disconnect
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
    Path(id): Path<ConnectionId>,
) -> Result<Json<DisconnectAnswer>, Problem> {
    let removed = spawn_uncancellable(async move {
        Ok(state
            .services
            .disconnect
            .remove(&user, id, sender.into())
            .await?)
    })
    .await?;
    Ok(Json(DisconnectAnswer::of(&removed, "removed")))
}

/// The attempt to cancel.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[schema(as = CancelRequest)]
#[serde(deny_unknown_fields)]
pub(crate) struct CancelBody {
    /// The attempt. If it has ended or a newer one exists, nothing changes. Without it, the open attempt is canceled.
    #[schema(value_type = Option<Uuid>)]
    attempt_id: Option<AttemptId>,
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
    extensions(("x-error-codes" = json!([Code::ConnectionNotFound, Code::NangoDisabled, Code::UnsupportedMediaType])))
)]
pub(crate) async fn cancel(
    State(state): State<AppState>,
    ConnectionsWriter(user, sender): ConnectionsWriter,
    Path(id): Path<ConnectionId>,
    OptionalJson(body): OptionalJson<CancelBody>,
) -> Result<Json<ConnectionView>, Problem> {
    let canceled = spawn_uncancellable(async move {
        let services = &state.services;
        Ok(services
            .disconnect
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
