//! Errors of calls to Nango, by what a caller can do about them.

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use serde::Deserialize;
use serde_json::Value;
use strum::IntoStaticStr;

use crate::net::http_client::{self, BodyError};
use crate::text::displayable;

/// The maximum length of a text from Nango, in characters.
const MAX_DETAIL: usize = 300;

/// The maximum wait that a response may request: Nango counts calls by the minute.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// The reason for which a call to Nango failed.
///
/// No variant contains a secret key, a session token or a provider's credentials: only the code and message of a
/// response's body are kept, shortened.
#[derive(Clone, Debug, PartialEq, Eq, IntoStaticStr, thiserror::Error)]
#[strum(serialize_all = "snake_case")]
pub enum Error {
    /// Nango rejected our secret key (401), or the key lacks a scope (403).
    #[error(
        "Nango refused the secret key (HTTP {status}, {detail}): check NANGO_SECRET_KEY and the scopes of that key"
    )]
    Unauthorized {
        /// 401 or 403.
        status: u16,
        /// Nango's code and message.
        detail: String,
    },
    /// 404 `not_found`: the connection does not exist, or belongs to another integration.
    #[error("Nango has no such connection of this integration")]
    NotFound,
    /// `invalid_credentials`, mostly with 400 or 424: the provider refused a refresh, now or
    /// in the last 30 seconds. An outage of the provider looks the same.
    #[error("the provider refused to refresh the credentials: {message}")]
    InvalidCredentials {
        /// Nango's message.
        message: String,
    },
    /// The Nango environment has no integration with that key.
    #[error(
        "Nango has no such integration: add it in Nango, or correct the connector's integration key"
    )]
    UnknownIntegration,
    /// A reauthorization or a deletion names a connection that Nango does not have.
    #[error("Nango does not know this connection")]
    UnknownConnection,
    /// Nango's strict schema rejected a field that this client sent.
    #[error("this Nango refuses the field `{0}`: update it to a version that knows the field")]
    UnsupportedField(String),
    /// 429: too many calls with this key in the current minute.
    #[error("Nango's rate limit is used up: try again {}", in_seconds(*retry_after))]
    RateLimited {
        /// The wait that Nango requests; `None` if it does not say.
        retry_after: Option<Duration>,
    },
    /// No response within the timeout of a call, retries included.
    #[error("Nango did not answer in time")]
    Timeout,
    /// No connection, or one that broke before the response was complete.
    #[error("Nango cannot be reached ({detail}): check NANGO_BASE_URL and that it runs")]
    Unreachable {
        /// The transport's error.
        detail: String,
    },
    /// A 5xx response.
    #[error("Nango is failing (HTTP {status})")]
    Unavailable {
        /// 500 to 599.
        status: u16,
    },
    /// Nango's proxy got no response from the provider.
    #[error("Nango cannot reach the provider ({detail})")]
    ProviderUnreachable {
        /// The error of Nango's HTTP client.
        detail: String,
    },
    /// A full page of connections contains some that do not match the filter.
    #[error("Nango's list of connections ignores its filters: update Nango")]
    FilterIgnored,
    /// Any other response: HTML, a redirect, or a rejection that this client should not have caused.
    #[error("Nango gave an unexpected answer (HTTP {status}): {detail}")]
    Unexpected {
        /// The status of the response.
        status: u16,
        /// Nango's code and message, or another problem of the response.
        detail: String,
    },
}

impl Error {
    /// Returns whether the same call may succeed later without any change. A transient error never changes a
    /// connection.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::RateLimited { .. }
                | Self::Timeout
                | Self::Unreachable { .. }
                | Self::Unavailable { .. }
                | Self::ProviderUnreachable { .. }
        )
    }

    /// Returns whether Nango rejected the content of the request.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::UnsupportedField(_) => true,
            Self::Unexpected { status, .. } => (400..500).contains(status),
            _ => false,
        }
    }

    /// Returns a stable name of the variant, for metrics.
    pub fn name(&self) -> &'static str {
        self.into()
    }

    /// Returns the error of a page of the connection list that repeats the previous pages, because Nango ignores its
    /// number.
    pub(crate) fn repeated_page(page: u32) -> Self {
        Self::unexpected(
            200,
            &format!("page {page} of the connection list has no new connection"),
        )
    }

    /// Converts a response whose status is not a success.
    pub(crate) fn from_response(status: StatusCode, headers: &HeaderMap, body: &str) -> Self {
        if status == StatusCode::TOO_MANY_REQUESTS {
            return Self::RateLimited {
                retry_after: retry_after(headers),
            };
        }
        let refusal = serde_json::from_str::<ErrorBody>(body)
            .ok()
            .map(|a| a.error);
        // Nango has no status of its own for some failed refreshes, such as that of an uninstalled app.
        let is_refresh = |refusal: &ErrorDetail| refusal.code == "invalid_credentials";
        if status.is_server_error() && !refusal.as_ref().is_some_and(is_refresh) {
            return Self::Unavailable {
                status: status.as_u16(),
            };
        }
        match (status.as_u16(), refusal) {
            (401, refusal) => Self::Unauthorized {
                status: 401,
                detail: refusal.map_or_else(|| content_type(headers), |r| r.describe()),
            },
            (_, Some(refusal)) => refusal.into_error(status.as_u16()),
            (status @ 300..=399, None) => Self::unexpected(
                status,
                "a redirect, which is not followed: set NANGO_BASE_URL to where Nango itself answers",
            ),
            (status, None) => Self::unexpected(status, &content_type(headers)),
        }
    }

    /// Returns the error of a successful response with an unexpected body. The parser's message may quote the body, so
    /// only the position is kept.
    pub(crate) fn unreadable(
        status: StatusCode,
        headers: &HeaderMap,
        error: &serde_json::Error,
    ) -> Self {
        let (what, line, column) = (content_type(headers), error.line(), error.column());
        Self::unexpected(
            status.as_u16(),
            &format!("{what} that does not parse at line {line} column {column}"),
        )
    }

    pub(crate) fn from_body(status: StatusCode, error: BodyError) -> Self {
        match error {
            BodyError::TooLong { .. } => Self::unexpected(status.as_u16(), &error.to_string()),
            BodyError::Transport(error) if error.is_decode() => {
                Self::unexpected(status.as_u16(), "a body whose compression is broken")
            }
            BodyError::Transport(error) => error.into(),
        }
    }

    /// Returns the error of a failed refresh. Some of Nango's messages contain the whole connection as JSON, whose
    /// settings may be secret, so only the text before it is kept.
    pub(crate) fn refresh_failed(message: &str) -> Self {
        let text = message.split_once('{').map_or(message, |(text, _)| text);
        Self::InvalidCredentials {
            message: shorten(text.trim_end_matches([' ', ':', '\''])),
        }
    }

    fn unexpected(status: u16, detail: &str) -> Self {
        Self::Unexpected {
            status,
            detail: shorten(detail),
        }
    }
}

impl From<reqwest::Error> for Error {
    fn from(error: reqwest::Error) -> Self {
        if error.is_timeout() && !error.is_connect() {
            return Self::Timeout;
        }
        Self::Unreachable {
            detail: shorten(&http_client::describe(error)),
        }
    }
}

/// `{"error": {…}}`, the body of every error response of Nango.
#[derive(Deserialize)]
struct ErrorBody {
    error: ErrorDetail,
}

#[derive(Deserialize)]
struct ErrorDetail {
    code: String,
    message: Option<String>,
    #[serde(default)]
    errors: Vec<Issue>,
}

/// One error of Nango's schema validation.
#[derive(Deserialize)]
struct Issue {
    code: String,
    message: String,
    #[serde(default)]
    path: Vec<Value>,
}

impl ErrorDetail {
    fn into_error(self, status: u16) -> Error {
        match (status, self.code.as_str()) {
            (403, "forbidden") => Error::Unauthorized {
                status,
                detail: self.describe(),
            },
            (404, "not_found") => Error::NotFound,
            (_, "invalid_credentials") => {
                Error::refresh_failed(self.message.as_deref().unwrap_or("no reason given"))
            }
            (400, "unknown_provider_config") => Error::UnknownIntegration,
            (400, "unknown_connection") => Error::UnknownConnection,
            (400, "invalid_body")
                if self.message.as_deref()
                    == Some("ConnectionID or IntegrationId does not exists") =>
            {
                Error::UnknownConnection
            }
            (400, "invalid_body")
                if (self.errors.iter()).any(|e| e.message == "Integration does not exist") =>
            {
                Error::UnknownIntegration
            }
            _ => match self.errors.iter().find_map(Issue::unsupported_field) {
                Some(field) => Error::UnsupportedField(field),
                None => Error::Unexpected {
                    status,
                    detail: self.describe(),
                },
            },
        }
    }

    fn describe(&self) -> String {
        let mut text = self.code.clone();
        if let Some(message) = &self.message {
            text.push_str(": ");
            text.push_str(message);
        }
        for issue in &self.errors {
            text.push_str("; ");
            text.push_str(&issue.path());
            text.push_str(": ");
            text.push_str(&issue.message);
        }
        shorten(&text)
    }
}

impl Issue {
    /// Returns the field that a strict schema rejected. Its name is only in the message: `Unrecognized key: "a"` in
    /// current versions, `Unrecognized key(s) in object: 'a'` in older ones.
    fn unsupported_field(&self) -> Option<String> {
        if self.code != "unrecognized_keys" {
            return None;
        }
        let name = self.message.split(['"', '\'']).nth(1)?;
        let path = self.path();
        let field = if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}.{name}")
        };
        Some(shorten(&field))
    }

    fn path(&self) -> String {
        let parts = self.path.iter().map(|part| match part {
            Value::String(name) => name.clone(),
            other => other.to_string(),
        });
        parts.collect::<Vec<_>>().join(".")
    }
}

/// Returns the seconds of a `retry-after`, at most [`MAX_RETRY_AFTER`]. A date is treated as absent: Nango sends none.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let asked = seconds.parse().ok().map(Duration::from_secs);
    asked.map(|asked| asked.min(MAX_RETRY_AFTER))
}

fn content_type(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
    format!("a body of type {}", value.unwrap_or("unknown"))
}

fn in_seconds(wait: Option<Duration>) -> String {
    wait.map_or_else(
        || "later".to_owned(),
        |wait| format!("in {} s", wait.as_secs()),
    )
}

/// Returns a text from another system as one line of bounded length.
pub(crate) fn shorten(text: &str) -> String {
    displayable(text).take(MAX_DETAIL).collect()
}
