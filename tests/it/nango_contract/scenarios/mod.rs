//! The scenarios, with the recordings that each replays.

mod access;
mod connections;
mod credentials;
mod popups;

use serde_json::{Value, json};

use super::scenario::recording;

/// The recordings of every scenario.
pub(super) const SCENARIOS: &[&[&str]] = &[
    access::KEYS,
    access::SESSIONS,
    access::INTEGRATIONS,
    popups::OBSTACLES,
    popups::FLOWS,
    popups::MIDWAY,
    popups::CALLBACK_URL,
    popups::OVERRIDES,
    connections::LISTS,
    connections::ONE,
    connections::CHANGES,
    popups::RECONNECT,
    credentials::REFRESH,
    credentials::NO_REFRESH,
    credentials::IMPORTS,
    access::REST,
    access::RATE_LIMIT,
];

fn ada() -> Value {
    recording("connect-session-create")["request"]["body"].clone()
}

fn user(id: &str) -> Value {
    json!({ "end_user": { "id": id } })
}

fn user_with_email(id: &str, email: &str) -> Value {
    json!({ "end_user": { "id": id, "email": email } })
}
