//! A user's connections.

use std::time::Duration;

use axum::extract::State;
use axum::{Extension, Json};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::connect::validate_label;

use crate::domain::Status;
use crate::http::AppState;
use crate::http::extract::{
    ConnectionsReader, ConnectionsWriter, Json as Body, Path, Query, RateLimitedWriter, Updater,
    page_limit,
};
use crate::http::middleware::limits::RequestPermit;
use crate::http::middleware::metrics::LongPolled;
use crate::http::problem::{Problem, ProblemBody};

use crate::service;
use crate::service::{Health, Page, Update};
use crate::views::{ConnectionBody, ConnectionView};

/// How many connections a page has at the most, and if nothing is said.
const MAX_LIMIT: i64 = 500;
const DEFAULT_LIMIT: i64 = 100;

/// How long a request may wait for an attempt to end, in seconds.
const MAX_WAIT_SECONDS: u64 = 30;

/// The most bytes of connections on a page, unless a single one has more.
const MAX_PAGE: usize = 512 * 1024;

/// A page of connections, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ConnectionsBody {
    #[schema(value_type = Vec<ConnectionBody>)]
    connections: Vec<Box<RawValue>>,
    /// How many there are on all pages.
    total_count: i64,
    /// The cursor of the next page; null on the last. A page of large connections stops before `limit`, at 512 KiB.
    next_cursor: Option<Uuid>,
}

impl ConnectionsBody {
    /// Renders as much of a page as fits into [`MAX_PAGE`].
    fn of(page: &Page) -> Result<Self, Problem> {
        let mut connections = Vec::with_capacity(page.connections.len());
        let mut left = MAX_PAGE;
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

/// Which of the caller's connections are asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Only those of this connector, by id or slug.
    connector_id: Option<String>,
    /// Only those with this status.
    status: Option<Status>,
    /// How many at the most: 1 to 500, 100 by default. A page of large connections has fewer; `next_cursor` continues.
    #[param(minimum = 1, maximum = 500)]
    limit: Option<i64>,
    /// The last page's `next_cursor`.
    cursor: Option<Uuid>,
}

/// The caller's connections, newest first.
#[utoipa::path(get, path = "/api/v1/connectors/connections", operation_id = "list_connections", tag = "connections", params(ListQuery), responses(
    (status = 200, body = ConnectionsBody), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody)
))]
pub(crate) async fn list(
    State(state): State<AppState>,
    ConnectionsReader(user): ConnectionsReader,
    Query(query): Query<ListQuery>,
) -> Result<Json<ConnectionsBody>, Problem> {
    let limit = page_limit(query.limit, DEFAULT_LIMIT, MAX_LIMIT)?;
    let query = service::Query {
        connector: query.connector_id,
        status: query.status,
        limit,
        after: query.cursor,
    };
    let page = state.connections.list(&user, &query).await?;
    Ok(Json(ConnectionsBody::of(&page)?))
}

/// How long the answer may wait.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct GetQuery {
    /// For how many seconds to wait for an attempt that is under way to end: 0 to 30. Where as many requests of the user
    /// wait as may (`MAX_STREAMS_PER_USER`), one more is answered at once.
    #[serde(default)]
    #[param(maximum = 30)]
    wait: u64,
}

/// One connection.
///
/// With `wait`, the answer comes as soon as no attempt is under way. An attempt may be under way in it all the same:
/// when the time is over, or when it could not wait. Who asks again then makes a pause of a second.
#[utoipa::path(get, path = "/api/v1/connectors/connections/{id}", operation_id = "get_connection", tag = "connections",
    params(("id" = Uuid, Path, description = "A connection's id"), GetQuery),
    responses(
        (status = 200, body = ConnectionBody), (status = 400, body = ProblemBody),
        (status = 401, body = ProblemBody), (status = 404, body = ProblemBody)
    )
)]
pub(crate) async fn get(
    State(state): State<AppState>,
    ConnectionsReader(user): ConnectionsReader,
    Extension(permit): Extension<RequestPermit>,
    Path(id): Path<Uuid>,
    Query(query): Query<GetQuery>,
) -> Result<(Option<Extension<LongPolled>>, Json<ConnectionView>), Problem> {
    if query.wait > MAX_WAIT_SECONDS {
        return Err(Problem::invalid(format!(
            "wait has to be 0 to {MAX_WAIT_SECONDS}"
        )));
    }
    let place = (query.wait > 0).then(|| state.limits.wait(&user)).flatten();
    if place.is_some() {
        permit.release();
    }
    let timeout = Duration::from_secs(if place.is_some() { query.wait } else { 0 });
    let waiting = state.connections.wait(&user, id, timeout);
    let details = tokio::select! {
        details = waiting => details?,
        // The service stops: the answer is how it stands.
        () = state.stopping.draining.cancelled() => state.connections.get(&user, id).await?,
    };
    let waited = place.is_some().then_some(Extension(LongPolled));
    Ok((waited, Json(details)))
}

/// A connection and what a check found.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CheckBody {
    #[serde(flatten)]
    #[schema(value_type = ConnectionBody)]
    connection: ConnectionView,
    /// What the check found at this moment. Null while the connection waits for its user.
    health: Option<Health>,
}

/// Asks Nango now how a connection is, by refreshing its credentials.
#[utoipa::path(post, path = "/api/v1/connectors/connections/{id}/check", operation_id = "check_connection", tag = "connections",
    params(("id" = Uuid, Path, description = "A connection's id")),
    responses(
        (status = 200, body = CheckBody), (status = 400, body = ProblemBody),
        (status = 401, body = ProblemBody), (status = 404, body = ProblemBody), (status = 502, body = ProblemBody),
        (status = 503, body = ProblemBody), (status = 504, body = ProblemBody)
    )
)]
pub(crate) async fn check(
    State(state): State<AppState>,
    RateLimitedWriter(user, _): RateLimitedWriter,
    Path(id): Path<Uuid>,
) -> Result<Json<CheckBody>, Problem> {
    let (connection, health) = state.connections.check(&user, id).await?;
    Ok(Json(CheckBody { connection, health }))
}

/// The account that a user takes for a connection's.
#[derive(Debug, Deserialize, ToSchema)]
pub(crate) struct AccountChoice {
    /// The `pending_account`'s id.
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
pub(crate) async fn accept_account(
    State(state): State<AppState>,
    ConnectionsWriter(user): ConnectionsWriter,
    Path(id): Path<Uuid>,
    Body(choice): Body<AccountChoice>,
) -> Result<Json<ConnectionView>, Problem> {
    let details = state
        .connections
        .accept_account(&user, id, &choice.account_id)
        .await?;
    Ok(Json(details))
}

/// What may be changed of a connection; what is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateBody {
    /// What the user calls it; null removes it. Characters that change the direction of text are removed, and so are
    /// combining marks beyond four in a row.
    #[serde(default, deserialize_with = "double_option")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 255, pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*[^\\s\\u0000-\\u001f\\u007f-\\u009f][^\\u0000-\\u001f\\u007f-\\u009f]*$")]
    label: Option<Option<String>>,
    /// Merged into the config by key; null removes a key. At most 4 KiB of JSON in all.
    #[schema(value_type = Option<Object>)]
    config: Option<Map<String, Value>>,
}

/// Tells a null, which is `Some(None)`, from a field that is left out.
fn double_option<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// Changes a connection's label or config. Changes within a minute are one event.
#[utoipa::path(patch, path = "/api/v1/connectors/connections/{id}", operation_id = "update_connection", tag = "connections",
    params(("id" = Uuid, Path, description = "A connection's id")),
    request_body = UpdateBody,
    responses(
        (status = 200, body = ConnectionBody), (status = 400, body = ProblemBody),
        (status = 401, body = ProblemBody), (status = 404, body = ProblemBody),
        (status = 413, body = ProblemBody), (status = 415, body = ProblemBody)
    )
)]
pub(crate) async fn update(
    State(state): State<AppState>,
    Updater(user): Updater,
    Path(id): Path<Uuid>,
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
    let details = state.connections.update(&user, id, &update).await?;
    Ok(Json(details))
}
