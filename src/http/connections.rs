//! A user's connections.

use std::time::Duration;

use axum::extract::State;
use axum::{Extension, Json};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::AppState;
use super::connect::checked_label;
use super::error::{Problem, ProblemBody};
use super::extract::{Connecter, Json as Body, Path, Query, Reader, Writer};
use super::metrics::Waited;
use crate::connections::service::{self, Details, Update};
use crate::connections::{Account, Attempt, AttemptKind, Outcome, Reason, Status};

/// How many connections a page has at the most, and if nothing is said.
const MAX_LIMIT: i64 = 500;
const DEFAULT_LIMIT: i64 = 100;

/// How long a request may wait for an attempt to end, in seconds.
const MAX_WAIT: u64 = 30;

/// A connection.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ConnectionBody {
    id: Uuid,
    user_id: String,
    connector_id: Uuid,
    connector_slug: String,
    connector_name: String,
    /// Tells several accounts of one connector apart; empty for the first.
    instance_id: String,
    /// What the user calls it.
    label: Option<String>,
    /// Nango's connection, while it holds one.
    nango_connection_id: Option<String>,
    status: Status,
    /// Why it is not connected; null while it is.
    status_reason: Option<Reason>,
    connected_at: Option<DateTime<Utc>>,
    disconnected_at: Option<DateTime<Utc>>,
    /// When a workflow last used it.
    last_synced_at: Option<DateTime<Utc>>,
    /// When Nango was last asked about it.
    last_checked_at: Option<DateTime<Utc>>,
    /// What the product keeps with it.
    #[schema(value_type = Object)]
    config: Map<String, Value>,
    /// Whose account it is, where the provider tells.
    account: Option<Account>,
    /// With `account_mismatch`: the account that it came back as.
    found_account: Option<Account>,
    /// The user's other connections to the same account.
    same_account_as: Vec<Uuid>,
    /// Since when its credentials cannot be refreshed, while that may pass.
    failing_since: Option<DateTime<Utc>>,
    /// What last went wrong, for a person to read.
    last_error: Option<String>,
    /// How many times in a row it went wrong.
    error_count: i32,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    /// The newest attempt to authorize it.
    attempt: Option<AttemptBody>,
}

/// An attempt to authorize a connection.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AttemptBody {
    id: Uuid,
    kind: AttemptKind,
    /// How it ended; null while it is under way.
    outcome: Option<Outcome>,
    /// Why it did not succeed.
    error_code: Option<Reason>,
    /// The same for a person to read.
    error_message: Option<String>,
    /// Until when the user may begin.
    expires_at: DateTime<Utc>,
    created_at: DateTime<Utc>,
    ended_at: Option<DateTime<Utc>>,
}

impl From<Attempt> for AttemptBody {
    fn from(attempt: Attempt) -> Self {
        let (error_code, error_message) = match attempt.error {
            Some(failure) => (Some(failure.reason), Some(failure.message)),
            None => (None, None),
        };
        Self {
            id: attempt.id,
            kind: attempt.kind,
            outcome: attempt.outcome,
            error_code,
            error_message,
            expires_at: attempt.expires_at,
            created_at: attempt.created_at,
            ended_at: attempt.ended_at,
        }
    }
}

impl From<Details> for ConnectionBody {
    fn from(details: Details) -> Self {
        let Details {
            connection,
            attempt,
            same_account_as,
        } = details;
        let mut config = connection.config;
        if !connection.instance_id.is_empty() {
            // Where the predecessor's clients look for it.
            config.insert(
                "instance_id".to_owned(),
                connection.instance_id.clone().into(),
            );
        }
        Self {
            id: connection.id,
            user_id: connection.user_id.as_str().to_owned(),
            connector_id: connection.connector.id,
            connector_slug: connection.connector.slug,
            connector_name: connection.connector.name,
            instance_id: connection.instance_id,
            label: connection.label,
            nango_connection_id: connection
                .state
                .upstream()
                .map(|upstream| upstream.id.clone()),
            status: connection.state.status(),
            status_reason: connection.state.reason(),
            connected_at: connection.connected_at,
            disconnected_at: connection.disconnected_at,
            last_synced_at: connection.last_synced_at,
            last_checked_at: connection.last_checked_at,
            config,
            account: connection.account,
            found_account: connection.found_account,
            same_account_as,
            failing_since: connection.failing_since,
            last_error: connection.last_error,
            error_count: connection.error_count,
            created_at: connection.created_at,
            updated_at: connection.updated_at,
            attempt: attempt.map(AttemptBody::from),
        }
    }
}

/// A page of connections, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ConnectionsBody {
    connections: Vec<ConnectionBody>,
    /// How many there are on all pages.
    total_count: i64,
    /// The cursor of the next page; null on the last.
    next_cursor: Option<Uuid>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Only those of this connector, by id or slug.
    connector_id: Option<String>,
    /// Only those with this status.
    status: Option<Status>,
    /// How many at the most: 1 to 500, 100 by default.
    limit: Option<i64>,
    /// The last page's `next_cursor`.
    cursor: Option<Uuid>,
}

/// The caller's connections, newest first.
#[utoipa::path(get, path = "/api/v1/connectors/connections", operation_id = "list_connections", tag = "connections", params(ListQuery), responses(
    (status = 200, body = ConnectionsBody), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody)
))]
pub(super) async fn list(
    State(state): State<AppState>,
    Reader(user): Reader,
    Query(query): Query<ListQuery>,
) -> Result<Json<ConnectionsBody>, Problem> {
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(Problem::invalid(format!(
            "limit has to be 1 to {MAX_LIMIT}"
        )));
    }
    let query = service::Query {
        connector: query.connector_id,
        status: query.status,
        limit,
        after: query.cursor,
    };
    let page = state.connections.list(&user, &query).await?;
    Ok(Json(ConnectionsBody {
        connections: page
            .connections
            .into_iter()
            .map(ConnectionBody::from)
            .collect(),
        total_count: page.total,
        next_cursor: page.next,
    }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct GetQuery {
    /// For how many seconds to wait for an attempt that is under way to end: 0 to 30.
    #[serde(default)]
    wait: u64,
}

/// One connection.
///
/// With `wait`, the answer comes as soon as no attempt is under way.
#[utoipa::path(get, path = "/api/v1/connectors/connections/{id}", operation_id = "get_connection", tag = "connections",
    params(("id" = Uuid, Path, description = "A connection's id"), GetQuery),
    responses(
        (status = 200, body = ConnectionBody), (status = 400, body = ProblemBody),
        (status = 401, body = ProblemBody), (status = 404, body = ProblemBody)
    )
)]
pub(super) async fn get(
    State(state): State<AppState>,
    Reader(user): Reader,
    Path(id): Path<Uuid>,
    Query(query): Query<GetQuery>,
) -> Result<(Option<Extension<Waited>>, Json<ConnectionBody>), Problem> {
    if query.wait > MAX_WAIT {
        return Err(Problem::invalid(format!("wait has to be 0 to {MAX_WAIT}")));
    }
    let patience = Duration::from_secs(query.wait);
    let waiting = state.connections.wait(&user, id, patience);
    let details = tokio::select! {
        details = waiting => details?,
        // The service stops: the answer is how it stands.
        () = state.stopping.closing.cancelled() => state.connections.get(&user, id).await?,
    };
    let waited = (query.wait > 0).then_some(Extension(Waited));
    Ok((waited, Json(details.into())))
}

/// Asks Nango now how a connection is, by refreshing its credentials.
#[utoipa::path(post, path = "/api/v1/connectors/connections/{id}/check", operation_id = "check_connection", tag = "connections",
    params(("id" = Uuid, Path, description = "A connection's id")),
    responses(
        (status = 200, body = ConnectionBody), (status = 400, body = ProblemBody),
        (status = 401, body = ProblemBody), (status = 404, body = ProblemBody), (status = 502, body = ProblemBody),
        (status = 503, body = ProblemBody), (status = 504, body = ProblemBody)
    )
)]
pub(super) async fn check(
    State(state): State<AppState>,
    Connecter(user): Connecter,
    Path(id): Path<Uuid>,
) -> Result<Json<ConnectionBody>, Problem> {
    let details = state.connections.check(&user, id).await?;
    Ok(Json(details.into()))
}

/// The account that a user takes for a connection's.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct AccountChoice {
    /// The `found_account`'s id.
    account_id: String,
}

/// Takes the other account that a reconnect came back as: from now on the connection is that account's.
#[utoipa::path(post, path = "/api/v1/connectors/connections/{id}/account", tag = "connections",
    params(("id" = Uuid, Path, description = "A connection's id")),
    request_body = AccountChoice,
    responses(
        (status = 200, body = ConnectionBody), (status = 400, body = ProblemBody),
        (status = 401, body = ProblemBody), (status = 404, body = ProblemBody),
        (status = 413, body = ProblemBody), (status = 415, body = ProblemBody)
    )
)]
pub(super) async fn accept_account(
    State(state): State<AppState>,
    Writer(user): Writer,
    Path(id): Path<Uuid>,
    Body(choice): Body<AccountChoice>,
) -> Result<Json<ConnectionBody>, Problem> {
    let details = state
        .connections
        .accept_account(&user, id, &choice.account_id)
        .await?;
    Ok(Json(details.into()))
}

/// What may be changed of a connection; what is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct UpdateBody {
    /// What the user calls it; null removes it.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    label: Option<Option<String>>,
    /// Merged into the config by key; null removes a key.
    #[schema(value_type = Option<Object>)]
    config: Option<Map<String, Value>>,
}

/// Tells a null, which is `Some(None)`, from a field that is left out.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// Changes a connection's label or config.
#[utoipa::path(patch, path = "/api/v1/connectors/connections/{id}", operation_id = "update_connection", tag = "connections",
    params(("id" = Uuid, Path, description = "A connection's id")),
    request_body = UpdateBody,
    responses(
        (status = 200, body = ConnectionBody), (status = 400, body = ProblemBody),
        (status = 401, body = ProblemBody), (status = 404, body = ProblemBody),
        (status = 413, body = ProblemBody), (status = 415, body = ProblemBody)
    )
)]
pub(super) async fn update(
    State(state): State<AppState>,
    Writer(user): Writer,
    Path(id): Path<Uuid>,
    Body(body): Body<UpdateBody>,
) -> Result<Json<ConnectionBody>, Problem> {
    let label = body
        .label
        .map(|label| label.map(|label| checked_label(&label)).transpose())
        .transpose()?;
    let update = Update {
        label,
        config: body.config,
    };
    let details = state.connections.update(&user, id, &update).await?;
    Ok(Json(details.into()))
}
