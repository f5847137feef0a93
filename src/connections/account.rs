//! Whose account a connection is.

use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::Account;
use crate::catalog::AccountPointers;
use crate::nango::{Connection, Credentials};

/// The longest id or name that is kept, in characters.
const MAX_TEXT: usize = 255;

impl Account {
    /// Reads the account where the connector says that its provider tells it:
    /// pointers (RFC 6901) into `{"connection_config", "metadata", "raw"}`, of
    /// which `raw` is the provider's answer to the token request.
    #[must_use]
    pub fn of(connection: &Connection, pointers: &AccountPointers) -> Option<Self> {
        let raw = match &connection.credentials {
            Credentials::OAuth2 { raw, .. } => {
                serde_json::from_str(raw.expose_secret()).unwrap_or(Value::Null)
            }
            _ => Value::Null,
        };
        let told = json!({
            "connection_config": connection.connection_config,
            "metadata": connection.metadata,
            "raw": raw,
        });
        let id = text(told.pointer(&pointers.id)?)?;
        let name = told.pointer(&pointers.name).and_then(text);
        Some(Self { id, name })
    }
}

fn text(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    let text: String = text
        .chars()
        .filter(|c| !c.is_control())
        .take(MAX_TEXT)
        .collect();
    (!text.is_empty()).then_some(text)
}
