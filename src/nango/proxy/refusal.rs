//! Distinguishes Nango's own errors from the provider's: both have a 4xx or 5xx status and JSON.

use reqwest::StatusCode;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::nango::error::{Error, shorten};

/// The maximum size of an error of Nango, in bytes.
pub(crate) const MAX_BODY: usize = 16 * 1024;

/// 400 and 402 codes of Nango's proxy itself that require a change by an operator at Nango.
const OPERATORS: [&str; 12] = [
    "base_url_override_disabled",
    "base_url_override_not_allowed",
    "invalid_certificate_or_key_format",
    "invalid_headers",
    "invalid_query_params",
    "missing_api_url",
    "missing_provider",
    "plan_limit",
    "unknown_error",
    "unknown_provider",
    "unsupported_auth",
    "unsupported_provider",
];

/// `{"error": {…}}` with Nango's fields and no others.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    error: Refusal,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Refusal {
    code: String,
    #[serde(default)]
    message: String,
    /// Only in a 429, with the method.
    #[serde(default)]
    path: String,
    #[serde(rename = "method")]
    _method: Option<IgnoredAny>,
    #[serde(rename = "errors")]
    _errors: Option<IgnoredAny>,
    #[serde(rename = "payload")]
    _payload: Option<IgnoredAny>,
    #[serde(rename = "additional_properties")]
    _additional_properties: Option<IgnoredAny>,
}

/// The error of Nango's HTTP client if a provider did not respond.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoAnswer {
    message: String,
    code: String,
    #[serde(rename = "method")]
    _method: String,
    #[serde(rename = "status")]
    _status: Option<IgnoredAny>,
}

/// Returns whether the body of a response has to be read to decide whether the error is Nango's.
pub(crate) fn may_be_nangos(status: StatusCode, headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let is_json = text(CONTENT_TYPE).is_some_and(|kind| kind.starts_with("application/json"));
    let length = text(CONTENT_LENGTH).and_then(|length| length.parse::<usize>().ok());
    let is_error = status.is_client_error() || status == StatusCode::INTERNAL_SERVER_ERROR;
    is_error && is_json && length.is_some_and(|length| length <= MAX_BODY)
}

/// Returns the error of a response from Nango itself; `None` if it is the provider's.
pub(crate) fn read(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Option<Error> {
    if status == StatusCode::INTERNAL_SERVER_ERROR
        && let Ok(error) = serde_json::from_slice::<NoAnswer>(body)
        && error
            .code
            .bytes()
            .all(|byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_'))
    {
        return Some(Error::ProviderUnreachable {
            detail: shorten(&format!("{}: {}", error.code, error.message)),
        });
    }
    let Envelope { error } = serde_json::from_slice(body).ok()?;
    let message = error.message.as_str();
    let refresh_failed = || Error::refresh_failed(message);
    Some(match (status.as_u16(), error.code.as_str()) {
        (400, "server_error") if message == "Failed to get connection" => Error::NotFound,
        (_, "server_error") if message.starts_with("Failed to get connection credentials") => {
            refresh_failed()
        }
        (400, "failed_to_get_connection") | (424, "connection_refresh_backoff") => refresh_failed(),
        (404, "unknown_provider_config") => Error::UnknownIntegration,
        (429, "too_many_request") if error.path.starts_with("/proxy") => {
            Error::from_response(status, headers, "")
        }
        (403, "forbidden") if is_missing_scope(message) => of_answer(status, headers, body),
        (
            401,
            "missing_auth_header"
            | "malformed_auth_header"
            | "invalid_secret_key_format"
            | "unknown_account",
        )
        | (500, "generic_error_support") => of_answer(status, headers, body),
        (400 | 402, code) if OPERATORS.contains(&code) => of_answer(status, headers, body),
        _ => return None,
    })
}

fn is_missing_scope(message: &str) -> bool {
    ["Insufficient scope", "API key is not authorized"]
        .iter()
        .any(|start| message.starts_with(start))
}

fn of_answer(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Error {
    Error::from_response(status, headers, &String::from_utf8_lossy(body))
}
