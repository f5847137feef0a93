//! Responses: the provider's status, body and headers, and none of Nango's.

use std::time::{Duration, Instant};

use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use url::form_urlencoded;

use super::Caller;
use crate::test_app::TestApp;

/// Headers of a provider that would change how a client treats this service's origin, or impersonate it.
const HOSTILE: [&str; 10] = [
    "cache-control: public, max-age=3600",
    "content-security-policy: default-src *",
    "x-frame-options: ALLOWALL",
    "x-content-type-options: none",
    "referrer-policy: unsafe-url",
    "strict-transport-security: max-age=0",
    "set-cookie: a=b",
    "access-control-allow-origin: *",
    "x-request-id: forged",
    "ratelimit: forged",
];

/// Headers that belong to the response itself.
const SCHEMA_MARKER: [&str; 8] = [
    "link: <https://api.example.com/?page=2>; rel=\"next\"",
    "location: https://api.example.com/items/1",
    "retry-after: 7",
    "etag: \"the-providers\"",
    "last-modified: Thu, 01 Jan 2026 00:00:00 GMT",
    "content-language: en",
    "content-type: text/plain",
    "content-disposition: attachment; filename=\"a.txt\"",
];

/// Returns the path of a response with this status and these headers.
fn answer(status: u16, headers: &[&str], more: &str) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query
        .append_pair("status", &status.to_string())
        .append_pair("body", "text");
    query.extend_pairs(headers.iter().map(|header| ("header", header)));
    format!("answer?{}{more}", query.finish())
}

async fn sent(caller: &Caller, path: &str) -> (StatusCode, HeaderMap, String) {
    let answer = caller.request(Method::GET, path).send().await.unwrap();
    let (status, headers) = (answer.status(), answer.headers().clone());
    (status, headers, answer.text().await.unwrap())
}

fn is_ours(headers: &HeaderMap) {
    for (name, value) in [
        ("cache-control", "private, no-store"),
        (
            "content-security-policy",
            "default-src 'none'; frame-ancestors 'none'",
        ),
        ("x-frame-options", "DENY"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
    ] {
        let values: Vec<_> = headers.get_all(name).iter().collect();
        assert_eq!(values, [value], "{name}");
    }
    assert_ne!(headers["x-request-id"], "forged");
    for name in [
        "strict-transport-security",
        "content-security-policy-report-only",
        "x-ratelimit-limit",
        "x-ratelimit-remaining",
        "x-ratelimit-reset",
        "access-control-allow-origin",
        "set-cookie",
        "ratelimit",
    ] {
        assert!(!headers.contains_key(name), "{name}: {headers:?}");
    }
}

#[tokio::test]
async fn provider_headers_never_replace_ours() {
    let caller = Caller::new().await;
    for status in [200, 201, 204, 400, 404, 429, 500] {
        for more in ["", "&chunked=1"] {
            let (answered, headers, _) = sent(&caller, &answer(status, &HOSTILE, more)).await;
            assert_eq!(answered.is_success(), status < 300, "{status}{more}");
            is_ours(&headers);
        }
    }
}

#[tokio::test]
async fn headers_of_the_answer_pass_where_nango_keeps_them() {
    let caller = Caller::new().await;
    // Of a buffered success, Nango keeps only the type. The ETag is Nango's own.
    let (status, headers, body) = sent(&caller, &answer(201, &SCHEMA_MARKER[..7], "")).await;
    assert_eq!((status, body.as_str()), (StatusCode::OK, "text"));
    assert_eq!(headers["content-type"], "text/plain");
    for name in ["link", "location", "retry-after", "etag"] {
        assert!(!headers.contains_key(name), "{name}");
    }
    for path in [
        answer(201, &SCHEMA_MARKER, ""),
        answer(503, &SCHEMA_MARKER, ""),
        answer(202, &SCHEMA_MARKER[..7], "&chunked=1"),
    ] {
        let (status, headers, body) = sent(&caller, &path).await;
        assert!(
            path.contains(&format!("status={}", status.as_u16())),
            "{path}: {status}"
        );
        assert_eq!(body, "text");
        for line in &SCHEMA_MARKER[..7] {
            let (name, value) = line.split_once(": ").unwrap();
            assert_eq!(headers[name], value, "{path}");
        }
    }
    let (status, _, body) = sent(&caller, &answer(204, &[], "")).await;
    assert_eq!((status, body.as_str()), (StatusCode::NO_CONTENT, ""));
}

#[tokio::test]
async fn slow_provider_is_504() {
    let caller = Caller::with(&[("NANGO_TIMEOUT_SECONDS", "1")]).await;
    let started = Instant::now();
    for method in [Method::GET, Method::POST] {
        let request = caller.request(method, "answer?delay_ms=60000").body("x");
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(
            answer.json::<Value>().await.unwrap()["code"],
            "nango_timeout"
        );
    }
    let took = started.elapsed();
    assert!(took > Duration::from_secs(7), "{took:?}");
    // A provider may take longer than the timeout of a call to Nango.
    let (status, _, _) = sent(&caller, "answer?delay_ms=1500").await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn api_key_connection_can_be_called() {
    let key = super::KEY;
    let app = TestApp::with(&[("SERVICE_API_KEYS", &format!("workflow={key}"))]).await;
    let ada = app.user("ada").await;
    let started = ada.connect("openai").await;
    let link: url::Url = started["oauth_url"].as_str().unwrap().parse().unwrap();
    let (_, token) = link
        .query_pairs()
        .find(|(name, _)| name == "session_token")
        .unwrap();
    let form = [
        ("session_token", &*token),
        ("integration", "openai"),
        ("apiKey", "sk-of-ada"),
    ];
    let page = app
        .client
        .post(link.join("/connect-ui/").unwrap())
        .form(&form)
        .send();
    assert_eq!(page.await.unwrap().status(), StatusCode::OK);
    let id = started["connection_id"].as_str().unwrap();
    ada.wait_until(id, "connected").await;
    let url = format!(
        "{}/api/v1/connectors/connections/{id}/proxy/inspect",
        app.url
    );
    let request = app
        .client
        .get(url)
        .bearer_auth(key)
        .header("patchbay-user", "ada");
    let seen: Value = request.send().await.unwrap().json().await.unwrap();
    assert_eq!(seen["caller"], "key");
}
