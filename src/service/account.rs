//! Whose account a connection is.

use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::catalog::AccountPointers;
use crate::domain::Account;
use crate::nango::{Connection, Credentials};
use crate::text::{displayable, displayable_id};

/// The longest id or name that is kept, in characters.
const MAX_TEXT_LENGTH: usize = 255;

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
        let reported = json!({
            "connection_config": connection.connection_config,
            "metadata": connection.metadata,
            "raw": raw,
        });
        let id = displayable_id(&text(reported.pointer(&pointers.id)?)?);
        let name = reported.pointer(&pointers.name).and_then(text);
        let name: Option<String> =
            name.map(|name| displayable(&name).take(MAX_TEXT_LENGTH).collect());
        Some(Self {
            id: id.chars().take(MAX_TEXT_LENGTH).collect(),
            name: name.filter(|name| !name.trim().is_empty()),
        })
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_name_has_no_direction_of_its_own_and_ids_stay_apart() {
        let pointers = AccountPointers {
            id: "/metadata/id".to_owned(),
            name: "/metadata/name".to_owned(),
        };
        let account = |id: &str, name: &str| {
            let connection = json!({
                "metadata": { "id": id, "name": name }, "connection_config": {},
                "credentials": { "type": "API_KEY", "apiKey": "key" },
            });
            let connection = serde_json::from_value(connection).expect("it is a connection");
            Account::of(&connection, &pointers).expect("the account is told")
        };
        let plain = account("ada", "Ada");
        let turned = account("a\u{202e}da", "\u{202e}Ada\u{2069}\n");
        assert_eq!(turned.name.as_deref(), Some("Ada "));
        assert_ne!(turned.id, plain.id);
        assert_eq!(turned.id, "a\\u{202e}da");
        assert_eq!(account("ada", "\u{202e}").name, None);
        assert_eq!(account(&"x".repeat(300), "n").id.len(), 255);
    }
}
