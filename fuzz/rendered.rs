//! Invariants of every problem response.

use std::cell::LazyCell;

use axum::body::to_bytes;
use axum::response::{IntoResponse, Response};
use patchbay::http::Problem;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};

/// The maximum size of a problem's body, in bytes.
const MOST: usize = 8 * 1024;

thread_local! {
    static RUNTIME: LazyCell<Runtime> = LazyCell::new(|| Builder::new_current_thread().enable_all().build().unwrap());
}

/// Runs a future to completion.
pub fn runtime<T>(future: impl Future<Output = T>) -> T {
    RUNTIME.with(|runtime| runtime.block_on(future))
}

/// Renders a problem, and checks that every client and log can process it.
pub fn check_problem(problem: Problem) {
    check_response(problem.into_response());
}

/// Checks a problem response. Returns its parsed body.
pub fn check_response(response: Response) -> Value {
    let status = response.status();
    assert!(status.is_client_error() || status.is_server_error());
    assert_eq!(
        response.headers()["content-type"],
        "application/problem+json"
    );
    let body = runtime(to_bytes(response.into_body(), MOST)).expect("it has a bound");
    let body: Value = serde_json::from_slice(&body).expect("it is JSON");
    assert_eq!(body["status"], status.as_u16());
    for field in ["type", "title", "detail", "code"] {
        let text = body[field].as_str().expect("it is a text");
        assert!(!text.chars().any(char::is_control), "{field}: {text:?}");
    }
    assert!(!body["detail"].as_str().unwrap_or_default().is_empty());
    body
}
