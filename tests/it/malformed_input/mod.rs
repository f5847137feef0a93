//! Unexpected input is either stored and returned unchanged, or rejected with a problem and without effect. Other
//! clients are served.

mod generators;
mod http2;
mod random_requests;
mod raw_http;
mod values;

use reqwest::Response;
use serde_json::Value;

/// The maximum size of a problem, in bytes.
const MAX_RESPONSE_BYTES: usize = 8 * 1024;

/// Checks a response: no 5xx, and an error must be a complete problem. Returns the status and body.
async fn check_response(response: Response) -> Result<(u16, Vec<u8>), String> {
    let status = response.status().as_u16();
    let header = |name: &str| response.headers().get(name).cloned();
    let (kind, id) = (header("content-type"), header("x-request-id"));
    let body = response.bytes().await.map_err(|error| error.to_string())?;
    let body = body.to_vec();
    if status < 400 {
        return Ok((status, body));
    }
    let text = String::from_utf8_lossy(&body);
    if status >= 500 {
        return Err(format!("{status}: {text}"));
    }
    let page = kind
        .as_ref()
        .is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    if page {
        return Ok((status, body));
    }
    if body.len() > MAX_RESPONSE_BYTES {
        return Err(format!("a problem of {} bytes", body.len()));
    }
    let problem: Value =
        serde_json::from_slice(&body).map_err(|error| format!("{status}: {error}: {text}"))?;
    let whole = kind.is_some_and(|kind| kind == "application/problem+json")
        && problem["status"] == status
        && id.is_some_and(|id| {
            problem["request_id"]
                .as_str()
                .is_some_and(|reported| id == reported)
        })
        && ["type", "title", "detail", "code"].iter().all(|field| {
            let text = problem[field].as_str().unwrap_or_default();
            !text.is_empty() && !text.chars().any(char::is_control)
        });
    if whole {
        Ok((status, body))
    } else {
        Err(format!("{status} is no whole problem: {text}"))
    }
}
