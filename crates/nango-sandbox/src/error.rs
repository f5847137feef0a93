//! Nango's error responses: `{"error": {"code", "message"?, "errors"?, "payload"?}}`.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// One issue of a strict schema, with the text of Nango's validator.
#[derive(Debug, Serialize)]
pub(super) struct Issue {
    pub(super) code: &'static str,
    pub(super) message: String,
    pub(super) path: Vec<String>,
}

/// An error response. Parts that are `None` are omitted from the body.
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

    /// Returns a 400 with the issues of a strict schema.
    pub(super) fn issues(code: &'static str, errors: Vec<Issue>) -> Self {
        Self {
            errors,
            ..Self::new(StatusCode::BAD_REQUEST, code)
        }
    }

    /// Returns a 400 with a single issue.
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

    /// Returns a 400 `invalid_body` about the body as a whole.
    pub(super) fn invalid_body(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_body").message(message)
    }

    /// Returns a 401. Only these have an empty payload.
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
