//! Erasure of a user's data, and the token accesses of a connection.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::db::token_accesses::RecordedAccess;
use crate::domain::{ConnectionId, UserId};
use crate::http::AppState;
use crate::http::extract::{ConnectionsReader, Path, Query, UserAdmin, page_limit};
use crate::http::problem::{Code, Problem};
use crate::service::Erased;

/// The maximum number of token accesses on a page.
const MAX_LIMIT: i64 = 200;

/// Erase the connections of a user.
///
/// Deletes all connections of the user with their history, here and at Nango. A repeated request has no further effect.
#[utoipa::path(delete, path = "/api/v1/users/{user}/connections", operation_id = "eraseUser", tag = "connections",
    params(("user" = String, Path, description = "The id of the user, as in tokens.", min_length = 1, max_length = 255, example = "ada",
        pattern = "^[^\\s\\ufeff\\u0000-\\u001f\\u007f-\\u009f]([^\\u0000-\\u001f\\u007f-\\u009f]*[^\\s\\ufeff\\u0000-\\u001f\\u007f-\\u009f])?$")),
    responses((status = 200, body = Erased, description = "The connections are deleted here."))
)]
pub(crate) async fn erase(
    State(state): State<AppState>,
    _: UserAdmin,
    Path(user): Path<String>,
) -> Result<Json<Erased>, Problem> {
    let user = UserId::try_from(user).map_err(|error| Problem::invalid(error.to_string()))?;
    Ok(Json(state.services.erasure.erase(&user).await?))
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

/// A page of token accesses, newest first.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TokenAccessList)]
pub(crate) struct UsesBody {
    accesses: Vec<RecordedAccess>,
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
    let connections = &state.services.connections;
    let accesses = connections
        .token_accesses(&user, id, query.cursor, limit)
        .await?;
    let full = i64::try_from(accesses.len()).is_ok_and(|found| found == limit);
    let next_cursor = accesses.last().filter(|_| full).map(|row| row.id);
    Ok(Json(UsesBody {
        accesses,
        next_cursor,
    }))
}
