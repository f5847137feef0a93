//! What services do with a user's data, and who has used it.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::db::token_accesses::RecordedAccess;
use crate::domain::UserId;
use crate::http::AppState;
use crate::http::extract::{ConnectionsReader, Path, Query, UserAdmin, page_limit};
use crate::http::problem::{Problem, ProblemBody};

/// How many uses a page has at the most.
const MAX_LIMIT: i64 = 200;

/// What came of deleting a user's data.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ErasedBody {
    /// How many connections were removed.
    connections: usize,
    /// Whether Nango has confirmed that it holds nothing of them; if not, it is asked until it has.
    upstream_deleted: bool,
}

/// Removes all of a user's connections with their history, here and at Nango. May be repeated.
#[utoipa::path(delete, path = "/api/v1/users/{user}/connections", operation_id = "erase_user", tag = "connections",
    params(("user" = String, Path, description = "The user, as tokens name them", min_length = 1, max_length = 255,
        pattern = "^[^\\s\\ufeff\\u0000-\\u001f\\u007f-\\u009f]([^\\u0000-\\u001f\\u007f-\\u009f]*[^\\s\\ufeff\\u0000-\\u001f\\u007f-\\u009f])?$")),
    responses(
        (status = 200, body = ErasedBody), (status = 400, body = ProblemBody), (status = 401, body = ProblemBody),
        (status = 403, body = ProblemBody), (status = 503, body = ProblemBody)
    )
)]
pub(crate) async fn erase(
    State(state): State<AppState>,
    _: UserAdmin,
    Path(user): Path<String>,
) -> Result<Json<ErasedBody>, Problem> {
    let user = UserId::try_from(user).map_err(|error| Problem::invalid(error.to_string()))?;
    let erased = state.connections.erase(&user).await?;
    Ok(Json(ErasedBody {
        connections: erased.connections,
        upstream_deleted: erased.confirmed,
    }))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct UsesQuery {
    /// How many at the most: 1 to 200, 50 by default.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<i64>,
    /// The last page's `next_cursor`.
    cursor: Option<i64>,
}

/// One use of a connection's credentials.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UseBody {
    /// The name of the service's key.
    service: String,
    /// `token` when it was handed out, `proxy` when a call was made with it.
    purpose: String,
    /// How often the same was done within that second: its uses are one entry.
    count: i32,
    /// When, the last time.
    used_at: DateTime<Utc>,
}

/// A page of uses, the newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct UsesBody {
    accesses: Vec<UseBody>,
    /// The cursor of the next page; null when this one was not full.
    next_cursor: Option<i64>,
}

/// Who has used a connection's credentials, the newest first.
#[utoipa::path(get, path = "/api/v1/connectors/connections/{id}/accesses", operation_id = "list_accesses", tag = "connections",
    params(("id" = Uuid, Path, description = "A connection's id"), UsesQuery),
    responses(
        (status = 200, body = UsesBody), (status = 400, body = ProblemBody),
        (status = 401, body = ProblemBody), (status = 404, body = ProblemBody)
    )
)]
pub(crate) async fn uses(
    State(state): State<AppState>,
    ConnectionsReader(user): ConnectionsReader,
    Path(id): Path<Uuid>,
    Query(query): Query<UsesQuery>,
) -> Result<Json<UsesBody>, Problem> {
    let limit = page_limit(query.limit, 50, MAX_LIMIT)?;
    let rows = state
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
