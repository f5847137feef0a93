//! Faults that can be injected into the sandbox.

use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::Failure;

/// The decision of the provider's consent page.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Consent {
    /// The page asks the user.
    #[default]
    Ask,
    /// Granted immediately, for the account in `login_hint` or the first one.
    Allow,
    /// Denied immediately.
    Deny,
}

/// The response to a `DELETE` of a connection that deletes nothing.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FalseDeletion {
    /// 404, as by a proxy that has lost the route.
    NotFound,
    /// The error for a connection that does not exist.
    UnknownConnection,
    /// 200 with `success: false`.
    Unsuccessful,
    /// 200 with `success: true`.
    NoEffect,
}

/// The active faults, by default none. "API calls" are those with the secret key.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Faults {
    pub(super) consent: Consent,
    /// Limits the faults of API calls to calls whose method, path and query, as in `GET /connections?page=1`, contain
    /// this text.
    pub(super) only: Option<String>,
    /// API calls are delayed by this time before they are processed.
    pub(super) latency_ms: u64,
    /// API calls are processed immediately, and their responses delayed by this time, or until
    /// `POST /sandbox/release`.
    pub(super) hold_answers_ms: u64,
    /// API calls respond with this status and have no effect.
    pub(super) status: Option<u16>,
    /// API calls respond with a web page, like a proxy in front.
    pub(super) html: bool,
    /// API calls get no response and have no effect.
    pub(super) hang_up: bool,
    /// API calls take effect, but get no response.
    pub(super) lose_answer: bool,
    /// Webhooks are recorded but not sent.
    pub(super) drop_webhooks: bool,
    /// The environment sends no webhook of a creation or a refresh, as a self-hosted Nango's first environments do.
    pub(super) webhook_events_off: bool,
    /// `webhook_url_override` is refused for loopback, private, link-local and metadata addresses, and no webhook is
    /// sent to a host that resolves to one: the default policy of a Nango server.
    pub(super) refuse_private_webhook_urls: bool,
    /// The environment sends a webhook when a connection is deleted: a switch of Nango 0.72.
    pub(super) deletion_webhooks: bool,
    /// A refresh that succeeds after one that failed sends a webhook, as from Nango 0.72 on.
    pub(super) recovery_webhooks: bool,
    /// Each webhook is sent twice.
    pub(super) duplicate_webhooks: bool,
    /// Webhooks are delayed by this time.
    pub(super) delay_webhooks_ms: u64,
    /// `GET /connections` ignores `page`.
    pub(super) list_ignores_page: bool,
    /// `GET /connections` has at most this many connections on a page.
    pub(super) list_page_size: Option<usize>,
    /// Entries of `GET /connections`, in any form. Each replaces the connection with its `connection_id`, or is put
    /// before all others.
    pub(super) odd_list_entries: Vec<Value>,
    /// Lists and lookups omit these connections, as if they did not exist; `*` omits all.
    pub(super) hide_connections: Vec<String>,
    /// The provider rejects refreshes.
    pub(super) refuse_refresh: bool,
    /// The provider rejects refreshes of these connections.
    pub(super) refuse_refresh_of: Vec<String>,
    /// The provider issues access tokens that do not expire, and no refresh token.
    pub(super) no_refresh_token: bool,
    /// The list of connections ignores its filters, but not `limit` and `page`.
    pub(super) ignore_filters: bool,
    /// `DELETE` of a connection answers 500.
    pub(super) refuse_delete: bool,
    /// `DELETE` of a connection deletes nothing, and responds like this.
    pub(super) false_deletion: Option<FalseDeletion>,
    /// The secret key opens this environment, which has connections of its own; `None` for the default one.
    pub(super) environment: Option<String>,
    /// Requested scopes that the user does not grant.
    pub(super) withheld_scopes: Vec<String>,
    /// The proxy rejects `base-url-override`, as an operator can configure it.
    pub(super) refuse_base_url_override: bool,
    /// The provider's account endpoint responds with this status.
    pub(super) account_lookup_status: Option<u16>,
    /// The provider's account endpoint responds with this body: a string as HTML, another value as JSON.
    pub(super) account_lookup_body: Option<Value>,
    /// The delay of the provider's account endpoint, in milliseconds.
    pub(super) account_lookup_delay_ms: u64,
    /// The `id_token` of token responses, instead of a valid one.
    pub(super) id_token: Option<String>,
    /// The provider rejects the code.
    pub(super) refuse_code: bool,
    /// Sessions expire as soon as they are created, as for a user who returns too late.
    pub(super) expired_sessions: bool,
    /// Sessions reject `webhook_url_override`, like a Nango from before mid-2026.
    pub(super) refuse_webhook_url_override: bool,
}

impl Faults {
    /// Returns `true` if lists and lookups omit a connection.
    pub(super) fn hides(&self, id: &str) -> bool {
        self.hide_connections.iter().any(|it| it == "*" || it == id)
    }

    /// Returns `true` if the faults of API calls apply to this call, written as `GET /connections?page=1`.
    pub(super) fn hit(&self, call: &str) -> bool {
        self.only.as_ref().is_none_or(|only| call.contains(only))
    }

    /// Returns the response that a fault substitutes; `None` without such a fault.
    pub(super) fn answer(&self, method: &str, path: &str) -> Option<Response> {
        if self.html {
            let page = "<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head>\
                        <body><h1>502 Bad Gateway</h1></body></html>";
            let status = self.status.and_then(|code| StatusCode::from_u16(code).ok());
            return Some((status.unwrap_or(StatusCode::OK), Html(page)).into_response());
        }
        let status = StatusCode::from_u16(self.status?).ok()?;
        Some(match status {
            StatusCode::UNAUTHORIZED => unknown_account().into_response(),
            StatusCode::TOO_MANY_REQUESTS => too_many_requests(method, path, 1),
            StatusCode::FORBIDDEN => Failure::new(status, "forbidden")
                .message("Insufficient scope.")
                .into_response(),
            _ => Failure::new(status, "server_error")
                .message("Injected fault.")
                .into_response(),
        })
    }
}

/// Returns the response to a well-formed but unknown key.
pub(super) fn unknown_account() -> Failure {
    Failure::unauthorized(
        "unknown_account",
        "The provided authorization header does not match any account.",
    )
}

/// Returns the 429 with a `Retry-After` in seconds.
pub(super) fn too_many_requests(method: &str, path: &str, retry_after: i64) -> Response {
    let body = json!({
        "error": { "code": "too_many_request", "method": method, "path": path },
    });
    let headers = [("retry-after", retry_after.to_string())];
    (StatusCode::TOO_MANY_REQUESTS, headers, axum::Json(body)).into_response()
}
