//! The webhooks that Patchbay sends, with the payload of each type.

use serde_json::{Map, Value, json};
use strum::VariantNames;

use super::schemas::reference;
use crate::domain::MessageType;

/// The schema of the connection in a webhook: the fields of the API and the change. `config` is optional.
const DATA: &str = "WebhookConnection";

/// The type of the message that `patchbay webhooks test` sends, and the schema of its data.
const TEST: (&str, &str) = ("patchbay.test", "WebhookTest");

/// Adds the schemas of the payloads, and returns the section `webhooks`.
pub(super) fn complete(schemas: &mut Value) -> Value {
    schemas[DATA] = data(&schemas["Connection"]);
    schemas[TEST.1] = json!({
        "type": "object",
        "description": "The endpoint under test.",
        "required": ["endpoint"],
        "properties": { "endpoint": { "type": "string", "description": "The id of the endpoint." } },
    });
    let types = MessageType::VARIANTS.iter().copied().chain([TEST.0]);
    let items = types.map(|name| {
        let title = title(name);
        let payload = format!("{title}Message");
        schemas[&payload] = json!({
            "type": "object",
            "description": description(name),
            "required": ["type", "timestamp", "data"],
            "properties": {
                "type": { "type": "string", "const": name },
                "timestamp": {
                    "type": "string", "format": "date-time",
                    "description": "When the change happened. A delayed or repeated delivery keeps it.",
                },
                "data": reference(if name == TEST.0 { TEST.1 } else { DATA }),
            },
        });
        (name.to_owned(), json!({ "post": operation(name, &title, &payload) }))
    });
    Value::Object(items.collect::<Map<_, _>>())
}

/// Returns the title of a message type: `ConnectionAttemptFailed` for `connection.attempt_failed`.
fn title(name: &str) -> String {
    let capitalized = |word: &str| {
        let (first, rest) = word.split_at(1);
        format!("{}{rest}", first.to_uppercase())
    };
    name.split(['.', '_']).map(capitalized).collect()
}

/// Returns the description of a message type.
fn description(name: &str) -> &'static str {
    match name.parse() {
        Ok(MessageType::Connected) => {
            "The connection became connected, was reauthorized, or its user accepted another account."
        }
        Ok(MessageType::Disconnected) => "The user disconnected the connection.",
        Ok(MessageType::NeedsReauthorization) => {
            "The connection stopped working until its user acts. `reason` says why."
        }
        Ok(MessageType::Recovered) => "The connection works again.",
        Ok(MessageType::AttemptFailed) => {
            "An attempt to authorize the connection failed. A connection that worked before still works."
        }
        Err(_no_event) => "A test of the endpoint, sent by `patchbay webhooks test`.",
    }
}

/// Returns the operation that a receiver implements.
fn operation(name: &str, title: &str, payload: &str) -> Value {
    let description = description(name);
    let header = |name: &str, kind: &str, description: &str| {
        json!({
            "name": name, "in": "header", "required": true, "description": description, "schema": { "type": kind },
        })
    };
    json!({
        "tags": ["webhooks"],
        "operationId": format!("on{title}"),
        "summary": format!("Receive a `{name}` message"),
        "description": format!(
            "{description}\n\nThe message follows the Standard Webhooks specification. Deliveries may repeat: deduplicate by \
             `webhook-id`. Messages of one connection arrive in order. Any status from 200 to 299 accepts the message."
        ),
        "security": [],
        "parameters": [
            header("webhook-id", "string", "The id of the message. Each delivery of the message has the same id."),
            header("webhook-timestamp", "integer", "When this delivery was sent, in seconds since 1970."),
            header("webhook-signature", "string", "One signature for each secret, separated by spaces."),
        ],
        "requestBody": {
            "required": true,
            "content": { "application/json": { "schema": reference(payload) } },
        },
        "responses": {
            "204": { "description": "The message is accepted." },
            "410": { "description": "The endpoint is gone. Patchbay disables it." },
            "429": { "description": "Too many messages. Patchbay retries after `Retry-After`, at most a day later." },
            "503": { "description": "Temporarily unavailable. Patchbay retries after `Retry-After`, at most a day later." },
        },
    })
}

/// Returns the schema of a connection in a message.
fn data(connection: &Value) -> Value {
    let mut data = connection.clone();
    data["description"] = "The connection after the change, and the change itself.".into();
    if let Some(required) = data["required"].as_array_mut() {
        // Only endpoints with `with_config` get the config.
        required.retain(|field| field != "config");
        required.push("change".into());
    }
    data["properties"]["change"] = reference("EventKind");
    data["properties"]["reason"] = json!({
        "description": "Why the connection does not work, or why the attempt failed.",
        "oneOf": [{ "type": "null" }, reference("Reason")],
    });
    data
}
