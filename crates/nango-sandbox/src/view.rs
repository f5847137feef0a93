//! Connections and end users in Nango's responses.

use serde_json::{Value, json};

use crate::schema::Tags;
use crate::state::{Connection, EndUser, State};
use crate::times;

pub(super) fn end_user(end_user: &EndUser) -> Value {
    json!({
        "id": end_user.id,
        "display_name": end_user.display_name,
        "email": end_user.email,
        "tags": end_user.tags,
        "organization": end_user.organization.as_ref().map(|it| json!({
            "id": it.id,
            "display_name": it.display_name,
        })),
    })
}

/// Returns the fields that list entries and whole connections share.
fn base(state: &State, connection: &Connection) -> Value {
    let failure = connection.refresh_failure.as_ref();
    let errors: Vec<_> = failure
        .map(|it| json!({ "type": "auth", "log_id": it.log_id }))
        .into_iter()
        .collect();
    json!({
        "id": connection.id,
        "connection_id": connection.connection_id,
        "provider_config_key": connection.integration,
        "provider": state.integration(&connection.integration).map(|it| &it.provider),
        "errors": errors,
        "end_user": connection.end_user.as_ref().map(end_user),
        "tags": connection.tags,
        "metadata": connection.metadata,
    })
}

/// Returns an entry of `GET /connections`.
pub(super) fn list_entry(state: &State, connection: &Connection) -> Value {
    let mut entry = base(state, connection);
    entry["created"] = times::postgres(connection.created_at).into();
    entry
}

/// Returns the body of `GET /connections/{id}`, with these credentials.
pub(super) fn connection_body(state: &State, connection: &Connection, credentials: Value) -> Value {
    let mut whole = base(state, connection);
    whole["connection_config"] = json!(connection.connection_config);
    whole["webhook_url_override"] = json!(connection.webhook_url_override);
    whole["created_at"] = times::postgres(connection.created_at).into();
    whole["updated_at"] = times::postgres(connection.updated_at).into();
    whole["last_fetched_at"] = times::postgres(connection.last_fetched_at).into();
    whole["credentials"] = credentials;
    whole
}

/// Returns the response to an import, with times in JavaScript's format and all fields.
pub(super) fn imported(state: &State, connection: &Connection) -> Value {
    let mut whole = connection_body(state, connection, connection.credentials.to_json(true));
    whole["created_at"] = times::javascript(connection.created_at).into();
    whole["updated_at"] = times::javascript(connection.updated_at).into();
    whole["last_fetched_at"] = times::javascript(connection.last_fetched_at).into();
    whole
}

/// Returns `true` if the connection has all the wanted tags.
pub(super) fn has_tags(connection: &Connection, wanted: &Tags) -> bool {
    let has = |(name, value): (&String, &String)| connection.tags.get(name) == Some(value);
    wanted.iter().all(has)
}
