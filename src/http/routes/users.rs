//! Erasure of a user's data, and the token accesses of a connection.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::db::token_accesses::RecordedAccess;
use crate::domain::{ConnectionId, UserId};
use crate::http::AppState;
use crate::http::extract::{ConnectionsReader, Path, Query, UserAdmin, page_limit};
use crate::http::problem::{Code, Problem};

/// The maximum number of token accesses on a page.
const MAX_LIMIT: i64 = 200;

/// The outcome of erasing a user.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EraseUserResponse)]
pub(crate) struct ErasedBody {
    /// The number of deleted connections.
    connections: usize,
    /// The number of connections at Nango that wait to be deleted. They are deleted in the background.
    upstream_pending: usize,
    /// `true` if Nango has confirmed the deletions. Otherwise they are retried until Nango confirms them.
    upstream_deleted: bool,
}

/// Erase the connections of a user.
///
/// Deletes all connections of the user with their history, here and at Nango. A repeated request has no further effect.
#[utoipa::path(delete, path = "/api/v1/users/{user}/connections", operation_id = "eraseUser", tag = "connections",
    params(("user" = String, Path, description = "The id of the user, as in tokens.", min_length = 1, max_length = 255, example = "ada",
        pattern = "^[^\\s\\ufeff\\u0000-\\u001f\\u007f-\\u009f]([^\\u0000-\\u001f\\u007f-\\u009f]*[^\\s\\ufeff\\u0000-\\u001f\\u007f-\\u009f])?$")),
    responses((status = 200, body = ErasedBody, description = "The connections are deleted here."))
)]
pub(crate) async fn erase(
    State(state): State<AppState>,
    _: UserAdmin,
    Path(user): Path<String>,
) -> Result<Json<ErasedBody>, Problem> {
    let user = UserId::try_from(user).map_err(|error| Problem::invalid(error.to_string()))?;
    let erased = state.services.erasure.erase(&user).await?;
    Ok(Json(ErasedBody {
        connections: erased.connections,
        upstream_pending: erased.pending,
        upstream_deleted: erased.confirmed,
    }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct UsesQuery {
    /// The maximum number of accesses: 1 to 200. The default is 50.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<i64>,
    /// The `next_cursor` of the previous page.
    cursor: Option<i64>,
}

/// An access to the credentials of a connection.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TokenAccess)]
pub(crate) struct UseBody {
    /// The name of the service's key.
    service: String,
    /// `token` if the service received a token, `proxy` if it called the provider. More values may be added.
    purpose: String,
    /// The number of accesses of this service and purpose within the same second.
    count: i32,
    /// When the last of these accesses happened.
    used_at: DateTime<Utc>,
}

/// A page of token accesses, newest first.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TokenAccessList)]
pub(crate) struct UsesBody {
    accesses: Vec<UseBody>,
    /// The cursor of the next page; null on the last page.
    next_cursor: Option<i64>,
}

/// List the token accesses of a connection.
///
/// Returns a page of the services that used the credentials, newest first.
#[utoipa::path(get, path = "/api/v1/connectors/connections/{id}/accesses", operation_id = "listTokenAccesses", tag = "connections",
    params(("id" = Uuid, Path, description = "The id of a connection."), UsesQuery),
    responses((status = 200, body = UsesBody, description = "A page of token accesses.")),
    extensions(("x-error-codes" = json!([Code::ConnectionNotFound])))
)]
pub(crate) async fn uses(
    State(state): State<AppState>,
    ConnectionsReader(user): ConnectionsReader,
    Path(id): Path<ConnectionId>,
    Query(query): Query<UsesQuery>,
) -> Result<Json<UsesBody>, Problem> {
    let limit = page_limit(query.limit, 50, MAX_LIMIT)?;
    let rows = state
        .services
        .connections
        .token_accesses(&user, id, query.cursor, limit)
        .await?;
    let full = i64::try_from(rows.len()).is_ok_and(|found| found == limit);
    let next_cursor = rows.last().filter(|_| full).map(|row| row.id);
    let body = |row: RecordedAccess| UseBody {
        service: row.service,
        purpose: row.purpose,
        count: row.count,
        used_at: row.used_at,
    };
    Ok(Json(UsesBody {
        accesses: rows.into_iter().map(body).collect(),
        next_cursor,
    }))
}
