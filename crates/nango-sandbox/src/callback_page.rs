//! The last page of a popup, which reports the outcome to its opener.

use askama::Template;
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use serde_json::{Value, json};

#[derive(Template)]
#[template(path = "callback.html")]
struct CallbackPage<'a> {
    error: Option<&'a str>,
    /// JSON without characters that could end a script element.
    message: String,
}

/// Returns the page of a success. The popup closes as soon as its opener has acknowledged, or after half a second.
pub(super) fn success() -> Response {
    let page = CallbackPage {
        error: None,
        message: script_safe(&json!({ "type": "nango_oauth_callback_success" })),
    };
    render_page(StatusCode::OK, &page)
}

/// Returns the page of a failure. The popup stays open until its opener has acknowledged.
pub(super) fn failure(message: &str) -> Response {
    let payload = json!({ "message": message, "errorType": "connection_validation_failed" });
    let page = CallbackPage {
        error: Some(message),
        message: script_safe(&json!({
            "type": "nango_oauth_callback_error",
            "payload": payload,
        })),
    };
    render_page(StatusCode::BAD_REQUEST, &page)
}

/// Returns JSON with `<` escaped, which could end a script element.
fn script_safe(value: &Value) -> String {
    value.to_string().replace('<', "\\u003c")
}

/// Renders a page with a status.
pub(super) fn render_page(status: StatusCode, page: &impl Template) -> Response {
    match page.render() {
        Ok(html) => (status, Html(html)).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Returns the letter that replaces a logo.
pub(super) fn initial(name: &str) -> String {
    name.chars().take(1).flat_map(char::to_uppercase).collect()
}
