//! Compares parsed responses with the recorded bodies.

use chrono::DateTime;
use patchbay::nango::{Connection, ConnectionSummary, Credentials, Deleted, Integration, Session};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::strings;

#[derive(Debug)]
pub(super) enum Answer {
    Session(Session),
    Connection(Box<Connection>),
    Connections(Vec<ConnectionSummary>),
    Deleted(Deleted),
    Integrations(Vec<Integration>),
}

impl Answer {
    pub(super) fn outcome(&self) -> &'static str {
        match self {
            Self::Deleted(Deleted::AlreadyGone) => "AlreadyGone",
            _ => "Ok",
        }
    }

    /// Compares the parsed value with the recorded body.
    pub(super) fn compare(&self, name: &str, body: &Value) {
        match self {
            Self::Session(session) => {
                let data = &body["data"];
                assert_eq!(session.token.expose_secret(), data["token"], "{name}");
                assert_eq!(
                    session.connect_link.as_str(),
                    data["connect_link"],
                    "{name}"
                );
                let expires_at = data["expires_at"].as_str().unwrap();
                let expires_at = DateTime::parse_from_rfc3339(expires_at).unwrap();
                assert_eq!(session.expires_at, expires_at, "{name}");
            }
            Self::Connection(connection) => compare_connection(name, connection, body),
            Self::Connections(connections) => {
                let recorded = body["connections"].as_array().unwrap();
                assert_eq!(connections.len(), recorded.len(), "{name}");
                for (connection, body) in connections.iter().zip(recorded) {
                    assert_eq!(connection.connection_id, body["connection_id"], "{name}");
                    let key = &body["provider_config_key"];
                    assert_eq!(connection.provider_config_key, *key, "{name}");
                    assert_eq!(connection.tags, strings(&body["tags"]), "{name}");
                    let errors = body["errors"].as_array().unwrap();
                    let read = connection.errors.iter().map(|error| error.kind.as_str());
                    assert!(read.eq(errors.iter().map(|error| &error["type"])), "{name}");
                    let created = body["created"].as_str().unwrap();
                    let created = DateTime::parse_from_rfc3339(created).unwrap();
                    assert_eq!(connection.created_at, created, "{name}");
                }
            }
            Self::Deleted(_) => {}
            Self::Integrations(integrations) => {
                let recorded = body["data"].as_array().unwrap();
                assert_eq!(integrations.len(), recorded.len(), "{name}");
                for (integration, body) in integrations.iter().zip(recorded) {
                    assert_eq!(integration.unique_key, body["unique_key"], "{name}");
                    assert_eq!(integration.provider, body["provider"], "{name}");
                }
            }
        }
    }
}

fn compare_connection(name: &str, connection: &Connection, body: &Value) {
    assert_eq!(connection.metadata, body["metadata"], "{name}");
    assert_eq!(
        connection.connection_config, body["connection_config"],
        "{name}"
    );
    let recorded = &body["credentials"];
    match &connection.credentials {
        Credentials::OAuth2 {
            access_token,
            expires_at,
            raw,
            ..
        } => {
            assert_eq!(recorded["type"], "OAUTH2", "{name}");
            assert_eq!(
                access_token.expose_secret(),
                recorded["access_token"],
                "{name}"
            );
            let expiry = recorded["expires_at"].as_str();
            let expiry = expiry.map(|text| DateTime::parse_from_rfc3339(text).unwrap().to_utc());
            assert_eq!(*expires_at, expiry, "{name}");
            let raw: Value = serde_json::from_str(raw.expose_secret()).unwrap();
            assert_eq!(raw, recorded["raw"], "{name}");
        }
        Credentials::ApiKey { api_key } => {
            assert_eq!(recorded["type"], "API_KEY", "{name}");
            assert_eq!(api_key.expose_secret(), recorded["apiKey"], "{name}");
        }
        Credentials::Basic { username, password } => {
            assert_eq!(recorded["type"], "BASIC", "{name}");
            assert_eq!(username.expose_secret(), recorded["username"], "{name}");
            assert_eq!(password.expose_secret(), recorded["password"], "{name}");
        }
        Credentials::Withheld => assert_eq!(*recorded, json!({}), "{name}"),
        other => panic!("{name}: no recording has {other:?}"),
    }
}
