//! The endpoints to list, read, update and delete connections.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::error::Failure;
use crate::faults::FalseDeletion;
use crate::front::JsonBody;
use crate::query::Query;
use crate::schema::Reader;
use crate::sessions::{derived_tags, read_end_user};
use crate::state::{App, Connection};
use crate::view;
use crate::webhooks::{Event, Operation, Outcome};

/// The maximum number of listed connections without a `limit`.
const LIST_CAP: usize = 10_000;

/// `GET /connections`, newest first.
pub(super) async fn list(State(app): State<App>, query: Query) -> Result<Response, Failure> {
    const KNOWN: [&str; 8] = [
        "connectionId",
        "endUserId",
        "endUserOrganizationId",
        "integrationId",
        "search",
        "tags",
        "limit",
        "page",
    ];
    let mut reader = Reader::default();
    if query.get("tags").is_some() {
        let message = "Invalid input: expected record, received string";
        reader.issue("invalid_type", message, &["tags"]);
    }
    let limit = query
        .number(&mut reader, "limit", 1, 2000)
        .unwrap_or(LIST_CAP);
    let page = query
        .number(&mut reader, "page", 0, usize::MAX)
        .unwrap_or(0);
    query.only(&mut reader, &KNOWN);
    reader.finish("invalid_query_params")?;

    let filter = Filter::new(&query);
    let state = app.lock();
    let faults = &state.faults;
    let ignored = faults.ignore_filters;
    let page = if faults.list_ignores_page { 0 } else { page };
    let limit = limit.min(faults.list_page_size.unwrap_or(limit));
    let entry = |connection: &Connection| {
        let is_its = |odd: &&Value| odd["connection_id"] == *connection.connection_id;
        let odd = faults.odd_list_entries.iter().find(is_its).cloned();
        odd.unwrap_or_else(|| view::list_entry(&state, connection))
    };
    let is_nobodys = |odd: &&Value| {
        let mut known = state.connections.iter();
        !known.any(|it| odd["connection_id"] == *it.connection_id)
    };
    let odd = faults.odd_list_entries.iter().filter(is_nobodys);
    let matching = state.connections.iter().rev();
    let matching = matching.filter(|connection| {
        !faults.hides(&connection.connection_id) && (ignored || filter.matches(connection))
    });
    let entries = matching.skip(page.saturating_mul(limit)).take(limit);
    let listed: Vec<Value> = odd
        .filter(|_| page == 0 && filter.is_empty())
        .cloned()
        .chain(entries.map(entry))
        .collect();
    Ok(Json(json!({ "connections": listed })).into_response())
}

/// The filters of a list, all of which must match.
struct Filter<'a> {
    query: &'a Query,
    integrations: Option<Vec<&'a str>>,
    tags: crate::schema::Tags,
    search: Option<String>,
}

impl<'a> Filter<'a> {
    fn new(query: &'a Query) -> Self {
        Self {
            query,
            integrations: query.get("integrationId").map(|it| it.split(',').collect()),
            tags: query.nested("tags"),
            search: query.get("search").map(str::to_lowercase),
        }
    }

    /// Returns `true` if there are no filters.
    fn is_empty(&self) -> bool {
        let mut pairs = self.query.pairs().iter();
        pairs.all(|(name, _)| name == "limit" || name == "page")
    }

    fn matches(&self, connection: &Connection) -> bool {
        let end_user = connection.end_user.as_ref();
        let organization = end_user.and_then(|it| it.organization.as_ref());
        let same = |key: &str, value: Option<&str>| {
            self.query
                .get(key)
                .is_none_or(|wanted| value == Some(wanted))
        };
        let integration = connection.integration.as_str();
        same("connectionId", Some(&connection.connection_id))
            && same("endUserId", end_user.map(|it| it.id.as_str()))
            && same(
                "endUserOrganizationId",
                organization.map(|it| it.id.as_str()),
            )
            && self
                .integrations
                .as_ref()
                .is_none_or(|keys| keys.contains(&integration))
            && view::has_tags(connection, &self.tags)
            && self
                .search
                .as_ref()
                .is_none_or(|text| found_in(connection, text))
    }
}

/// Returns `true` if the connection id, or the end user's name or email, contains a text.
fn found_in(connection: &Connection, text: &str) -> bool {
    let end_user = connection.end_user.as_ref();
    let name = end_user.and_then(|it| it.display_name.as_ref());
    let email = end_user.and_then(|it| it.email.as_ref());
    [Some(&connection.connection_id), name, email]
        .into_iter()
        .flatten()
        .any(|field| field.to_lowercase().contains(text))
}

pub(super) fn unknown_integration() -> Failure {
    Failure::new(StatusCode::BAD_REQUEST, "unknown_provider_config")
        .message("Provider does not exists")
}

pub(super) fn not_found() -> Failure {
    Failure::new(StatusCode::NOT_FOUND, "not_found").message("Failed to find connection")
}

fn check_id(id: &str) -> Result<(), Failure> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || ",.;:=+~[]|@${}\"'\\/_ -".contains(c);
    if id.chars().all(allowed) {
        return Ok(());
    }
    let message = r#"Invalid string: must match pattern /^[a-zA-Z0-9,.;:=+~[\]|@${}"'\\/_ -]+$/"#;
    let path = ["connectionId"];
    Err(Failure::issue(
        "invalid_uri_params",
        "invalid_format",
        message,
        &path,
    ))
}

/// `GET /connections/{id}`. Refreshes the credentials first if they expire soon or if the request forces it.
pub(super) async fn get(
    State(app): State<App>,
    Path(id): Path<String>,
    query: Query,
) -> Result<Response, Failure> {
    let mut reader = Reader::default();
    let integration = query.integration(&mut reader);
    let with_refresh_token = query.flag(&mut reader, "refresh_token");
    let force = query.flag(&mut reader, "force_refresh");
    query.only(
        &mut reader,
        &["provider_config_key", "refresh_token", "force_refresh"],
    );
    reader.finish("invalid_query_params")?;
    check_id(&id)?;
    if app.lock().integration(&integration).is_none() {
        return Err(unknown_integration());
    }
    if app.lock().faults.hides(&id) {
        return Err(not_found());
    }
    app.refresh_if_due(&id, &integration, force)?;
    let now = app.now();
    let mut state = app.lock();
    let connection = state
        .connection_mut(&id, &integration)
        .ok_or_else(not_found)?;
    connection.last_fetched_at = now;
    let credentials = connection.credentials.to_json(with_refresh_token);
    let connection = state.connection(&id, &integration).ok_or_else(not_found)?;
    Ok(Json(view::connection_body(&state, connection, credentials)).into_response())
}

/// `PATCH /connections/{id}`. New tags replace all previous ones, and so does a new end user.
pub(super) async fn update(
    State(app): State<App>,
    Path(id): Path<String>,
    query: Query,
    JsonBody(body): JsonBody,
) -> Result<Response, Failure> {
    let mut reader = Reader::default();
    let integration = query.integration(&mut reader);
    query.only(&mut reader, &["provider_config_key"]);
    reader.finish("invalid_query_params")?;
    check_id(&id)?;
    let (mut reader, object) = Reader::open(body.as_ref())?;
    let end_user = read_end_user(&mut reader, &object);
    let tags = reader.tags(&object, "tags");
    let clears_url = object.get("webhook_url_override") == Some(&Value::Null);
    let url = if clears_url {
        None
    } else {
        let refuse_private = app.lock().faults.refuse_private_webhook_urls;
        reader.webhook_url(&object, "webhook_url_override", refuse_private)
    };
    reader.only(&object, &["end_user", "tags", "webhook_url_override"]);
    reader.finish("invalid_body")?;

    let mut state = app.lock();
    if state.integration(&integration).is_none() {
        return Err(unknown_integration());
    }
    let connection = state
        .connection_mut(&id, &integration)
        .ok_or_else(not_found)?;
    if let Some(end_user) = end_user {
        connection.tags = derived_tags(&end_user);
        connection.end_user = Some(end_user);
    }
    if let Some(tags) = tags {
        connection.tags = tags;
    }
    if clears_url || url.is_some() {
        connection.webhook_url_override = url;
    }
    Ok(Json(json!({ "success": true })).into_response())
}

/// `DELETE /connections/{id}`. Responds 400 if it does not exist. Newer Nangos have a setting for its webhook.
pub(super) async fn delete(
    State(app): State<App>,
    Path(id): Path<String>,
    query: Query,
) -> Result<Response, Failure> {
    let mut reader = Reader::default();
    let integration = query.integration(&mut reader);
    query.only(&mut reader, &["provider_config_key"]);
    reader.finish("invalid_query_params")?;
    check_id(&id)?;
    let mut state = app.lock();
    if state.faults.refuse_delete {
        return Err(
            Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error")
                .message("Injected fault: deletions are refused."),
        );
    }
    let unknown = || Failure::new(StatusCode::BAD_REQUEST, "unknown_connection");
    match state.faults.false_deletion {
        Some(FalseDeletion::NotFound) => return Err(not_found()),
        Some(FalseDeletion::UnknownConnection) => return Err(unknown()),
        Some(answer) => {
            let success = answer == FalseDeletion::NoEffect;
            return Ok(Json(json!({ "success": success })).into_response());
        }
        None => {}
    }
    let connection = state.connection(&id, &integration).ok_or_else(unknown)?;
    let event = state.integration(&integration).map(|it| Event {
        integration: it.clone(),
        connection_id: id.clone(),
        operation: Operation::Deletion,
        outcome: Outcome::Succeeded,
        end_user: None,
        tags: Some(connection.tags.clone()),
        url_override: connection.webhook_url_override.clone(),
    });
    state
        .connections
        .retain(|it| it.connection_id != id || it.integration != integration);
    drop(state);
    if let Some(event) = event {
        app.send_webhook(&event);
    }
    Ok(Json(json!({ "success": true })).into_response())
}
