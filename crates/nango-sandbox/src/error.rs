//! Nango's error answers: `{"error": {"code", "message"?, "errors"?, "payload"?}}`.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// One complaint of a strict schema, in the words of Nango's validator.
#[derive(Debug, Serialize)]
pub(super) struct Issue {
    pub(super) code: &'static str,
    pub(super) message: String,
    pub(super) path: Vec<String>,
}

/// An answer that is not a success; the parts that are `None` are left out of the body.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) status: StatusCode,
    code: &'static str,
    pub(super) message: Option<String>,
    errors: Vec<Issue>,
    payload: Option<Value>,
}

impl Failure {
    pub(super) fn new(status: StatusCode, code: &'static str) -> Self {
        Self {
            status,
            code,
            message: None,
            errors: Vec::new(),
            payload: None,
        }
    }

    pub(super) fn message(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into());
        self
    }

    pub(super) fn payload(mut self, payload: Value) -> Self {
        self.payload = Some(payload);
        self
    }

    /// A 400 that lists what a strict schema found.
    pub(super) fn issues(code: &'static str, errors: Vec<Issue>) -> Self {
        Self {
            errors,
            ..Self::new(StatusCode::BAD_REQUEST, code)
        }
    }

    /// A 400 with a single complaint.
    pub(super) fn issue(
        code: &'static str,
        issue: &'static str,
        message: impl Into<String>,
        path: &[&str],
    ) -> Self {
        let issue = Issue {
            code: issue,
            message: message.into(),
            path: path.iter().map(|&part| part.to_owned()).collect(),
        };
        Self::issues(code, vec![issue])
    }

    /// A 400 `invalid_body` about the body as a whole.
    pub(super) fn invalid_body(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_body").message(message)
    }

    /// A 401: these alone carry an empty payload.
    pub(super) fn unauthorized(code: &'static str, reason: &str) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, code)
            .message(format!("Authentication failed. {reason}"))
            .payload(json!({}))
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut error = Map::new();
        error.insert("code".into(), self.code.into());
        if let Some(message) = self.message {
            error.insert("message".into(), message.into());
        }
        if !self.errors.is_empty() {
            error.insert("errors".into(), json!(self.errors));
        }
        if let Some(payload) = self.payload {
            error.insert("payload".into(), payload);
        }
        (self.status, Json(json!({ "error": error }))).into_response()
    }
}
