//! Failures at Nango or the provider, with messages for users.

use serde_json::Value;

use crate::domain::{Failure, Reason};
use crate::nango;
use crate::nango::webhook::AuthError;

impl Failure {
    /// Reads the error of a failed authorization from Nango's webhook.
    ///
    /// Nango reports a provider's error as `error: …; error_description: …` within a sentence, and a failed code
    /// exchange as JSON text.
    pub fn from_authorization_error(error: Option<&AuthError>) -> Self {
        let description = error
            .map(|error| error.description.as_str())
            .unwrap_or_default();
        let (code, text) = match serde_json::from_str::<Value>(description) {
            _ if is_statement(description) => (None, None),
            Ok(json) => parse_exchange_error(&json),
            Err(_not_json) => parse_redirect_error(description),
        };
        let text = text.filter(|text| !is_statement(text));
        let denied = code.as_deref() == Some("access_denied");
        let reason = if denied {
            Reason::AuthorizationDenied
        } else {
            Reason::AuthorizationFailed
        };
        let summary = if denied {
            "Access was not granted"
        } else {
            "The authorization could not be completed"
        };
        let detail = match (text, code) {
            (Some(text), Some(code)) if !denied => format!(": {text} ({code})"),
            (Some(text), _) => format!(": {text}"),
            (None, Some(code)) => format!(": {code}"),
            (None, None) => String::new(),
        };
        Self {
            reason,
            message: nango::shorten(&format!("{summary}{detail}")),
        }
    }

    /// Returns the failure of an authorization that was not completed in time.
    pub fn expired() -> Self {
        Self {
            reason: Reason::AttemptExpired,
            message: "The authorization was not finished in time".to_owned(),
        }
    }

    /// Returns the failure of an authorization of an account that another connection of the user has.
    #[must_use]
    pub fn already_connected() -> Self {
        Self {
            reason: Reason::AuthorizationFailed,
            message: "This account is connected already, as another connection".to_owned(),
        }
    }

    /// Returns the failure of an authorization for which Nango created no session.
    pub fn from_session_error(error: &nango::Error) -> Self {
        let reason = if error.is_transient() {
            Reason::NangoUnavailable
        } else {
            Reason::NangoRefused
        };
        let message = match reason {
            Reason::NangoUnavailable => "The authorization service is not available at the moment",
            _ => "The authorization service rejected the request",
        };
        Self {
            reason,
            message: message.to_owned(),
        }
    }
}

/// Returns whether a description is a failed SQL statement of Nango, for example because a provider's `expires_in` is
/// not a number.
fn is_statement(description: &str) -> bool {
    [
        "insert into \"",
        "update \"",
        "select \"",
        "select * ",
        "delete from \"",
    ]
    .iter()
    .any(|start| description.trim_start().starts_with(start))
}

/// Returns the code and text of `{"provider_error_payload": {"error", "error_description"}}`.
fn parse_exchange_error(json: &Value) -> (Option<String>, Option<String>) {
    let text = |pointer: &str| {
        json.pointer(pointer)
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    let description =
        text("/provider_error_payload/error_description").or_else(|| text("/message"));
    (text("/provider_error_payload/error"), description)
}

/// Returns the code and text of `… error: access_denied; error_description: The user denied the request`.
fn parse_redirect_error(description: &str) -> (Option<String>, Option<String>) {
    let text = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
    let (head, detail) = match description.split_once("; error_description: ") {
        Some((head, detail)) => (head, text(detail)),
        None => (description, None),
    };
    match head.rsplit_once("error: ") {
        Some((_, code)) => (text(code), detail),
        None => (None, text(description)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(description: &str) -> Failure {
        Failure::from_authorization_error(Some(&AuthError {
            kind: "unknown".to_owned(),
            description: description.to_owned(),
        }))
    }

    #[test]
    fn denial_keeps_provider_message() {
        let denied = failure(
            "Did not get authorization code in the callback. Provider error: error: access_denied; \
             error_description: The user denied the request",
        );
        assert_eq!(denied.reason, Reason::AuthorizationDenied);
        assert_eq!(
            denied.message,
            "Access was not granted: The user denied the request"
        );
    }

    #[test]
    fn provider_text_has_no_direction_of_its_own() {
        let denied = failure(
            "Provider error: error: access_denied; error_description: \u{202e}ton saw\u{202c}\u{2066}\u{200f} e\u{301}\u{301}\u{301}\u{301}\u{301}\u{301}",
        );
        assert_eq!(
            denied.message,
            "Access was not granted: ton saw e\u{301}\u{301}\u{301}\u{301}"
        );
    }

    #[test]
    fn statement_of_nango_is_not_shown() {
        let failed = failure(
            "insert into \"_nango_connections\" (\"expires_at\") values ($1) - invalid input syntax for type timestamp",
        );
        assert_eq!(failed.message, "The authorization could not be completed");
        let message = "insert into \"_nango_connections\" (\"expires_at\") values ($1)";
        let within_json = failure(&serde_json::json!({ "message": message }).to_string());
        assert_eq!(within_json, failed);
    }

    #[test]
    fn failed_exchange_is_parsed_from_json() {
        let failed = failure(
            "{\n  \"name\": \"Error\",\n  \"message\": \"Response Error: 400 Bad Request\",\n  \
             \"provider_error_payload\": {\n    \"error\": \"invalid_grant\",\n    \
             \"error_description\": \"The code is invalid\"\n  }\n}",
        );
        assert_eq!(failed.reason, Reason::AuthorizationFailed);
        assert_eq!(
            failed.message,
            "The authorization could not be completed: The code is invalid (invalid_grant)"
        );
    }

    #[test]
    fn unknown_error_text_is_shortened_to_one_line() {
        let failed = failure(&format!("first\nsecond{}", "x".repeat(1000)));
        assert_eq!(failed.reason, Reason::AuthorizationFailed);
        assert!(
            failed
                .message
                .starts_with("The authorization could not be completed: first second")
        );
        assert_eq!(failed.message.chars().count(), 300);
        let silent = Failure::from_authorization_error(None);
        assert_eq!(silent.message, "The authorization could not be completed");
    }
}
