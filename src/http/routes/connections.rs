//! The routes of a user's connections.

use std::time::Duration;

use axum::extract::State;
use axum::{Extension, Json};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};

use super::validation::validate_label;

use crate::domain::{ConnectionId, Status};
use crate::http::AppState;
use crate::http::extract::{
    ConnectionsReader, ConnectionsWriter, Json as Body, Path, Query, RateLimitedWriter, Updater,
    page_limit,
};
use crate::http::middleware::limits::RequestPermit;
use crate::http::middleware::metrics::LongPolled;
use crate::http::openapi::errors;
use crate::http::problem::{Code, Problem};

use crate::service::{self, Health, Page, Update};
use crate::views::{Config, ConnectionBody, ConnectionView};

/// The maximum and default size of a page.
const MAX_LIMIT: i64 = 500;
const DEFAULT_LIMIT: i64 = 100;

/// The maximum time that a request may wait for an attempt to end, in seconds.
const MAX_WAIT_SECONDS: u64 = 30;

/// The maximum size of a page, in bytes. A page with a single connection may exceed it.
const MAX_PAGE: usize = 512 * 1024;

/// A page of connections, newest first.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ConnectionList)]
pub(crate) struct ConnectionsBody {
    #[schema(value_type = Vec<ConnectionBody>)]
    connections: Vec<Box<RawValue>>,
    /// The number of matching connections on all pages.
    total_count: i64,
    /// The cursor of the next page; null on the last page. A page ends at 512 KiB, even before `limit`.
    #[schema(value_type = Option<Uuid>)]
    next_cursor: Option<ConnectionId>,
}

impl ConnectionsBody {
    /// Renders the connections of a page that fit into `bytes`.
    fn of(page: &Page, bytes: usize) -> Result<Self, Problem> {
        let mut connections = Vec::with_capacity(page.connections.len());
        let mut left = bytes;
        let mut last = None;
        for details in &page.connections {
            let connection = to_raw_value(details).map_err(Problem::internal)?;
            let size = connection.get().len();
            if size > left && last.is_some() {
                return Ok(Self {
                    connections,
                    total_count: page.total,
                    next_cursor: last,
                });
            }
            left = left.saturating_sub(size);
            last = Some(details.connection.id);
            connections.push(connection);
        }
        Ok(Self {
            connections,
            total_count: page.total,
            next_cursor: page.next,
        })
    }
}

/// The filters and the page of a listing of connections.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Only connections of this connector, by id or slug.
    connector_id: Option<String>,
    /// Only connections with this status.
    status: Option<Status>,
    /// The maximum number of connections: 1 to 500. The default is 100 with a `cursor`, and no maximum without one. A page of
    /// large connections has fewer; `next_cursor` continues.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<i64>,
    /// The `next_cursor` of the previous page.
    #[param(value_type = Option<Uuid>)]
    cursor: Option<ConnectionId>,
}

/// List the connections of the user.
///
/// Returns a page of connections, newest first, without those that the user has removed. Without `limit` and `cursor` the page has
/// all connections.
#[utoipa::path(get, path = "/api/v1/connectors/connections", operation_id = "listConnections", tag = "connections", params(ListQuery),
    responses((status = 200, body = ConnectionsBody, description = "A page of connections."))
)]
pub(crate) async fn list(
    State(state): State<AppState>,
    ConnectionsReader(user): ConnectionsReader,
    Query(query): Query<ListQuery>,
) -> Result<Json<ConnectionsBody>, Problem> {
    let is_paged = query.limit.is_some() || query.cursor.is_some();
    let limit = page_limit(query.limit, DEFAULT_LIMIT, MAX_LIMIT)?;
    let limit = is_paged.then_some(limit);
    let query = service::Query {
        connector: query.connector_id,
        status: query.status,
        limit,
        after: query.cursor,
    };
    let page = state.services.connections.list(&user, &query).await?;
    let bytes = if is_paged { MAX_PAGE } else { usize::MAX };
    Ok(Json(ConnectionsBody::of(&page, bytes)?))
}

/// How long a response may be delayed.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct GetQuery {
    /// The maximum delay in seconds, until no attempt is in progress: 0 to 30. If the user already has
    /// `MAX_STREAMS_PER_USER` waiting requests, the response is immediate.
    #[serde(default)]
    #[param(maximum = 30)]
    wait: u64,
}

/// Get a connection.
///
/// With `wait`, the response is delayed until no attempt is in progress. An attempt may still be in progress in the response:
/// if the wait has timed out, or if the user has too many waiting requests. Pause for a second before the next request.
#[utoipa::path(get, path = "/api/v1/connectors/connections/{id}", operation_id = "getConnection", tag = "connections",
    params(("id" = Uuid, Path, description = "The id of a connection."), GetQuery),
    responses((status = 200, body = ConnectionBody, description = "The connection.")),
    extensions(("x-error-codes" = json!([Code::ConnectionNotFound])))
)]
pub(crate) async fn get(
    State(state): State<AppState>,
    ConnectionsReader(user): ConnectionsReader,
    Extension(permit): Extension<RequestPermit>,
    Path(id): Path<ConnectionId>,
    Query(query): Query<GetQuery>,
) -> Result<(Option<Extension<LongPolled>>, Json<ConnectionView>), Problem> {
    if query.wait > MAX_WAIT_SECONDS {
        return Err(Problem::invalid(format!(
            "wait must be 0 to {MAX_WAIT_SECONDS}"
        )));
    }
    let slot = (query.wait > 0).then(|| state.limits.wait(&user)).flatten();
    if slot.is_some() {
        permit.release();
    }
    let timeout = Duration::from_secs(if slot.is_some() { query.wait } else { 0 });
    let waiting = state.services.connections.wait(&user, id, timeout);
    let details = tokio::select! {
        details = waiting => details?,
        // During a shutdown the wait ends early with the current state.
        () = state.stopping.draining.cancelled() => state.services.connections.get(&user, id).await?,
    };
    let waited = slot.is_some().then_some(Extension(LongPolled));
    Ok((waited, Json(details)))
}

/// A connection and what a check found.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CheckedConnection)]
pub(crate) struct CheckBody {
    #[serde(flatten)]
    #[schema(value_type = ConnectionBody)]
    connection: ConnectionView,
    /// What the check found at this moment. Null while the connection waits for its user.
    health: Option<Health>,
}

/// Check the credentials of a connection.
///
/// Makes Nango refresh the credentials, and updates the state of the connection with the result.
#[utoipa::path(post, path = "/api/v1/connectors/connections/{id}/check", operation_id = "checkConnection", tag = "connections",
    params(("id" = Uuid, Path, description = "The id of a connection.")),
    responses((status = 200, body = CheckBody, description = "The connection after the check, and what the check found.")),
    extensions(("x-error-codes" = json!([Code::ConnectionNotFound, Code::ConnectorNotConfigured, Code::ProviderUnavailable, errors::NANGO])))
)]
pub(crate) async fn check(
    State(state): State<AppState>,
    RateLimitedWriter(user, _): RateLimitedWriter,
    Path(id): Path<ConnectionId>,
) -> Result<Json<CheckBody>, Problem> {
    let (connection, health) = state.services.connections.check(&user, id).await?;
    Ok(Json(CheckBody { connection, health }))
}

/// The account to accept for a connection.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = AcceptAccountRequest)]
#[serde(deny_unknown_fields)]
pub(crate) struct AccountChoice {
    /// The id of the connection's `pending_account`.
    account_id: String,
}

/// Accept the account of a reconnect.
///
/// A reconnect can return another account than the connection had. This operation accepts that account: the connection
/// belongs to it from then on.
#[utoipa::path(post, path = "/api/v1/connectors/connections/{id}/account", operation_id = "acceptAccount", tag = "connections",
    params(("id" = Uuid, Path, description = "The id of a connection.")),
    request_body = AccountChoice,
    responses((status = 200, body = ConnectionBody, description = "The connection with the accepted account.")),
    extensions(("x-error-codes" = json!([Code::ConnectionNotFound, Code::UnsupportedMediaType])))
)]
pub(crate) async fn accept_account(
    State(state): State<AppState>,
    ConnectionsWriter(user, sender): ConnectionsWriter,
    Path(id): Path<ConnectionId>,
    Body(choice): Body<AccountChoice>,
) -> Result<Json<ConnectionView>, Problem> {
    let connections = &state.services.connections;
    let details = connections
        .accept_account(&user, id, &choice.account_id, sender.into())
        .await?;
    Ok(Json(details))
}

/// Changes of a connection. Omitted fields stay unchanged.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = UpdateConnectionRequest)]
#[serde(deny_unknown_fields)]
pub struct UpdateBody {
    /// The user's name for the connection; null removes it. Characters that change the direction of text are removed, and so are
    /// combining marks beyond four in a row.
    #[serde(default, deserialize_with = "double_option")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 255, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*[^\\s\\u0000-\\u001f\\u007f-\\u009f\\u00ad\\u034f\\u061c\\u115f\\u1160\\u17b4\\u17b5\\u180b-\\u180f\\u200b-\\u200f\\u202a-\\u202e\\u2060-\\u206f\\u3164\\ufe00-\\ufe0f\\ufeff\\uffa0\\ufff0-\\ufff8][^\\u0000-\\u001f\\u007f-\\u009f]*$")]
    label: Option<Option<String>>,
    /// Merged into the stored config by key; null removes a key. The whole config has at most 4 KiB of JSON.
    #[schema(value_type = Option<Config>)]
    config: Option<Map<String, Value>>,
}

/// Distinguishes a null, which is `Some(None)`, from an omitted field.
fn double_option<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// Update the label or config of a connection.
///
/// Omitted fields stay unchanged. Changes within a minute are one event.
#[utoipa::path(patch, path = "/api/v1/connectors/connections/{id}", operation_id = "updateConnection", tag = "connections",
    params(("id" = Uuid, Path, description = "The id of a connection.")),
    request_body = UpdateBody,
    responses((status = 200, body = ConnectionBody, description = "The updated connection.")),
    extensions(("x-error-codes" = json!([Code::ConnectionNotFound, Code::UnsupportedMediaType])))
)]
pub(crate) async fn update(
    State(state): State<AppState>,
    Updater(user, sender): Updater,
    Path(id): Path<ConnectionId>,
    Body(body): Body<UpdateBody>,
) -> Result<Json<ConnectionView>, Problem> {
    let label = body
        .label
        .map(|label| label.map(|label| validate_label(&label)).transpose())
        .transpose()?;
    let update = Update {
        label,
        config: body.config,
    };
    let connections = &state.services.connections;
    let details = connections
        .update(&user, id, &update, sender.into())
        .await?;
    Ok(Json(details))
}
