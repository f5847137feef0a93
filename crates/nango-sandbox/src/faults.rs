//! Faults that can be injected into the sandbox.

use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::Failure;

/// How the provider's consent page decides.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Consent {
    /// A person is asked.
    #[default]
    Ask,
    /// Granted at once, for the account that `login_hint` names or the first.
    Allow,
    /// Refused at once.
    Deny,
}

/// How `DELETE` of a connection is answered when nothing is deleted.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FalseDeletion {
    /// 404, as by a proxy that has lost the route.
    NotFound,
    /// The refusal of a connection that does not exist.
    UnknownConnection,
    /// 200 with `success: false`.
    Unsuccessful,
    /// 200 with `success: true`.
    NoEffect,
}

/// The faults in force; the default is none. "API calls" are those made with the secret key.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Faults {
    pub(super) consent: Consent,
    /// Only API calls whose method, path and query, as in `GET /connections?page=1`, contain
    /// this meet the faults of API calls.
    pub(super) only: Option<String>,
    /// API calls wait this long before anything else happens.
    pub(super) latency_ms: u64,
    /// API calls are done at once, but answered this late.
    pub(super) hold_answers_ms: u64,
    /// API calls are answered with this status and nothing is done.
    pub(super) status: Option<u16>,
    /// API calls are answered with a web page, as by a proxy that is in the way.
    pub(super) html: bool,
    /// API calls get no answer and nothing is done.
    pub(super) hang_up: bool,
    /// API calls are done, but get no answer.
    pub(super) lose_answer: bool,
    /// Webhooks are remembered but not sent.
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
    /// Webhooks wait this long before they are sent.
    pub(super) delay_webhooks_ms: u64,
    /// `GET /connections` ignores `page`.
    pub(super) list_ignores_page: bool,
    /// `GET /connections` has at most this many connections on a page.
    pub(super) list_page_size: Option<usize>,
    /// Entries of `GET /connections`, in whatever form: in the place of the connection whose `connection_id` they have,
    /// or before all others.
    pub(super) odd_list_entries: Vec<Value>,
    /// Lists and look-ups do not have these connections, as if they were gone; `*` stands for all.
    pub(super) hide_connections: Vec<String>,
    /// The provider refuses to refresh.
    pub(super) refuse_refresh: bool,
    /// The provider refuses to refresh these connections.
    pub(super) refuse_refresh_of: Vec<String>,
    /// The provider gives access tokens that do not expire, and no refresh token.
    pub(super) no_refresh_token: bool,
    /// The list of connections takes no account of its filters, only of `limit` and `page`.
    pub(super) ignore_filters: bool,
    /// `DELETE` of a connection answers 500.
    pub(super) refuse_delete: bool,
    /// `DELETE` of a connection deletes nothing, and answers so.
    pub(super) false_deletion: Option<FalseDeletion>,
    /// The secret key opens this environment, which has connections of its own. Without a name: the usual one.
    pub(super) environment: Option<String>,
    /// Scopes that a person does not allow, although they are asked for.
    pub(super) withheld_scopes: Vec<String>,
    /// The proxy does not take `base-url-override`, as an operator can set it.
    pub(super) refuse_base_url_override: bool,
    /// The provider answers the question who is signed in with this status.
    pub(super) account_lookup_status: Option<u16>,
    /// The provider answers that question with this body: a text as HTML, another value as JSON.
    pub(super) account_lookup_body: Option<Value>,
    /// How long the provider takes to answer that question, in milliseconds.
    pub(super) account_lookup_delay_ms: u64,
    /// The `id_token` of token responses, in the place of a valid one.
    pub(super) id_token: Option<String>,
    /// The provider refuses to exchange the code.
    pub(super) refuse_code: bool,
    /// Sessions are over as soon as they are made, as for a user who comes back too late.
    pub(super) expired_sessions: bool,
    /// Sessions refuse `webhook_url_override`, as a Nango from before mid-2026 does.
    pub(super) refuse_webhook_url_override: bool,
}

impl Faults {
    /// Whether lists and look-ups do not have a connection.
    pub(super) fn hides(&self, id: &str) -> bool {
        self.hide_connections.iter().any(|it| it == "*" || it == id)
    }

    /// Whether the faults of API calls are meant for this one, written as `GET /connections?page=1`.
    pub(super) fn hit(&self, call: &str) -> bool {
        self.only.as_ref().is_none_or(|only| call.contains(only))
    }

    /// The answer that replaces the real one, when a fault asks for one.
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

/// The response to a well-formed but unknown key.
pub(super) fn unknown_account() -> Failure {
    Failure::unauthorized(
        "unknown_account",
        "The provided authorization header does not match any account.",
    )
}

/// The 429, to be repeated after so many seconds.
pub(super) fn too_many_requests(method: &str, path: &str, retry_after: i64) -> Response {
    let body = json!({
        "error": { "code": "too_many_request", "method": method, "path": path },
    });
    let headers = [("retry-after", retry_after.to_string())];
    (StatusCode::TOO_MANY_REQUESTS, headers, axum::Json(body)).into_response()
}
