//! Metadata of connections: POST replaces it, PATCH merges its top-level keys.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value};

use crate::error::Failure;
use crate::front::JsonBody;
use crate::query::Query;
use crate::schema::Reader;
use crate::state::App;

/// The way in which existing metadata changes.
#[derive(Clone, Copy)]
enum Change {
    Replace,
    Merge,
}

/// `POST /connections/metadata`. The response is the request's body.
pub(super) async fn set(
    State(app): State<App>,
    query: Query,
    JsonBody(body): JsonBody,
) -> Result<Response, Failure> {
    change_named(&app, &query, body, Change::Replace)
}

/// `PATCH /connections/metadata`. The response is the request's body, not the result.
pub(super) async fn merge(
    State(app): State<App>,
    query: Query,
    JsonBody(body): JsonBody,
) -> Result<Response, Failure> {
    change_named(&app, &query, body, Change::Merge)
}

/// `POST /connection/{id}/metadata`, with the integration in a header and the metadata as the body.
pub(super) async fn legacy_set(
    State(app): State<App>,
    Path(id): Path<String>,
    headers: HeaderMap,
    JsonBody(body): JsonBody,
) -> Result<Response, Failure> {
    change_legacy(&app, id, &headers, body, Change::Replace)
}

/// `PATCH /connection/{id}/metadata`
pub(super) async fn legacy_merge(
    State(app): State<App>,
    Path(id): Path<String>,
    headers: HeaderMap,
    JsonBody(body): JsonBody,
) -> Result<Response, Failure> {
    change_legacy(&app, id, &headers, body, Change::Merge)
}

fn change_named(
    app: &App,
    query: &Query,
    body: Option<Value>,
    change: Change,
) -> Result<Response, Failure> {
    query.none()?;
    let (mut reader, object) = Reader::open(body.as_ref())?;
    let mut ids: Vec<String> = Vec::new();
    match object.get("connection_id") {
        Some(Value::String(id)) => ids.push(id.clone()),
        Some(Value::Array(list)) if list.iter().all(Value::is_string) => {
            ids.extend(list.iter().filter_map(Value::as_str).map(str::to_owned));
        }
        _ => reader.issue("invalid_union", "Invalid input", &["connection_id"]),
    }
    let integration = reader
        .string(&object, "provider_config_key")
        .unwrap_or_default();
    let metadata = reader.record(&object, "metadata").unwrap_or_default();
    reader.only(
        &object,
        &["connection_id", "provider_config_key", "metadata"],
    );
    reader.finish("invalid_body")?;
    change_all(app, &ids, &integration, &metadata, change)?;
    Ok(answer(change, body))
}

fn change_legacy(
    app: &App,
    id: String,
    headers: &HeaderMap,
    body: Option<Value>,
    change: Change,
) -> Result<Response, Failure> {
    let integration = headers
        .get("provider-config-key")
        .and_then(|it| it.to_str().ok());
    let Some(Value::Object(metadata)) = &body else {
        return Err(Failure::invalid_body("The body is not an object"));
    };
    change_all(
        app,
        &[id],
        integration.unwrap_or_default(),
        metadata,
        change,
    )?;
    Ok(answer(change, body))
}

fn change_all(
    app: &App,
    ids: &[String],
    integration: &str,
    metadata: &Map<String, Value>,
    change: Change,
) -> Result<(), Failure> {
    let mut state = app.lock();
    for id in ids {
        if state.connection(id, integration).is_none() {
            let message = format!(
                "Connection with connection id {id} and provider config key {integration} not \
                 found. Please make sure the connection exists in the Nango dashboard"
            );
            return Err(Failure::new(StatusCode::NOT_FOUND, "unknown_connection").message(message));
        }
    }
    for id in ids {
        if let Some(connection) = state.connection_mut(id, integration) {
            let stored = connection.metadata.get_or_insert_default();
            if matches!(change, Change::Replace) {
                stored.clear();
            }
            stored.extend(metadata.clone());
        }
    }
    Ok(())
}

fn answer(change: Change, body: Option<Value>) -> Response {
    let status = match change {
        Change::Replace => StatusCode::CREATED,
        Change::Merge => StatusCode::OK,
    };
    (status, Json(body)).into_response()
}
