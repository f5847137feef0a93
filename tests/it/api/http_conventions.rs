//! Conventions of all responses.

use insta::assert_snapshot;
use reqwest::{Method, RequestBuilder};
use serde_json::json;
use uuid::Uuid;

use super::{TestResponse, text};
use crate::test_app::{ORIGIN, TestApp};

fn request(app: &TestApp, method: Method, path: &str) -> RequestBuilder {
    app.client.request(method, format!("{}{path}", app.url))
}

#[tokio::test]
async fn request_id_is_echoed_or_generated() {
    let app = TestApp::new().await;
    for path in ["/healthz", "/nope", "/api/v1/connectors"] {
        let given = request(&app, Method::GET, path).header("x-request-id", "from-the-edge/7");
        let answer = TestResponse::to(given).await;
        assert_eq!(answer.header("x-request-id"), Some("from-the-edge/7"));
        if answer.status != 200 {
            assert_eq!(answer.json()["request_id"], "from-the-edge/7");
        }
        let made = TestResponse::to(request(&app, Method::GET, path)).await;
        Uuid::parse_str(made.header("x-request-id").unwrap()).unwrap();
    }
}

#[tokio::test]
async fn invalid_request_ids_are_replaced() {
    let app = TestApp::new().await;
    let absurd: [&[u8]; 5] = [
        b"",
        b"two words\tand a tab",
        "umlaut-\u{e4}".as_bytes(),
        &[0xff, 0xfe],
        &[b'x'; 10_000],
    ];
    for id in absurd {
        let answer =
            TestResponse::to(request(&app, Method::GET, "/nope").header("x-request-id", id)).await;
        let body = answer.is_problem(404, "not_found");
        Uuid::parse_str(&text(&body, "request_id")).unwrap();
    }
    let twice = request(&app, Method::GET, "/nope")
        .header("x-request-id", "one")
        .header("x-request-id", "two");
    let answer = TestResponse::to(twice).await;
    assert_eq!(answer.headers.get_all("x-request-id").iter().count(), 1);
}

#[tokio::test]
async fn unknown_paths_return_not_found() {
    let app = TestApp::new().await;
    assert_snapshot!(TestResponse::to(request(&app, Method::GET, "/nope")).await, @r#"
    404 Not Found
    {
      "code": "not_found",
      "detail": "no endpoint has this path",
      "request_id": "[id]",
      "status": 404,
      "title": "Unknown path",
      "type": "urn:patchbay:problem:not_found"
    }
    "#);
    for path in [
        "/api/v1",
        "/api/v1/connectors/",
        "/api/v1/connectors/a/b/c",
        "/docs/nope.js",
        "//",
        "/healthz/",
    ] {
        let answer = TestResponse::to(request(&app, Method::GET, path)).await;
        answer.is_problem(404, "not_found");
    }
}

#[tokio::test]
async fn wrong_method_returns_allow_header() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let answer =
        TestResponse::to(request(&app, Method::PUT, "/api/v1/connectors/connections")).await;
    answer.is_problem(405, "method_not_allowed");
    assert_snapshot!(answer, @r#"
    405 Method Not Allowed
    allow: GET,HEAD
    {
      "code": "method_not_allowed",
      "detail": "the Allow header names the methods",
      "request_id": "[id]",
      "status": 405,
      "title": "The method is not allowed here",
      "type": "urn:patchbay:problem:method_not_allowed"
    }
    "#);
    let id = Uuid::now_v7();
    for (method, path, allow) in [
        (
            Method::PUT,
            format!("/api/v1/connectors/connections/{id}"),
            "GET,HEAD,PATCH,DELETE",
        ),
        (
            Method::GET,
            "/api/v1/connectors/gmail/connect".to_owned(),
            "POST",
        ),
        (
            Method::POST,
            "/api/v1/connectors/gmail/disconnect".to_owned(),
            "DELETE",
        ),
        (Method::GET, "/api/v1/webhooks/nango".to_owned(), "POST"),
        (Method::POST, "/healthz".to_owned(), "GET,HEAD"),
    ] {
        let answer = TestResponse::to(request(&app, method, &path)).await;
        answer.is_problem(405, "method_not_allowed");
        assert_eq!(answer.header("allow"), Some(allow), "{path}");
    }
    let broken = ada.request(Method::POST, "/gmail/connect").body("{");
    let answer = TestResponse::to(broken).await;
    answer.is_problem(400, "invalid_request");
}

#[tokio::test]
async fn request_body_size_is_limited() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let started = ada.connect("gmail").await;
    let large = json!({ "label": "x".repeat(256 * 1024) }).to_string();
    for (method, path) in [
        (
            Method::PATCH,
            format!("/connections/{}", text(&started, "connection_id")),
        ),
        (Method::POST, "/gmail/connect".to_owned()),
    ] {
        let request = ada
            .request(method, &path)
            .header("content-type", "application/json");
        let answer = TestResponse::to(request.body(large.clone())).await;
        answer.is_problem(413, "payload_too_large");
    }
    let hook = request(&app, Method::POST, "/api/v1/webhooks/nango").body(large.clone());
    let answer = TestResponse::to(hook).await;
    answer.is_problem(413, "payload_too_large");
    assert_snapshot!(answer, @r#"
    413 Payload Too Large
    {
      "code": "payload_too_large",
      "detail": "The body must have at most 64 KiB. Send a smaller one.",
      "request_id": "[id]",
      "status": 413,
      "title": "The body is too large",
      "type": "urn:patchbay:problem:payload_too_large"
    }
    "#);
    // Also without a `Content-Length`.
    let chunks =
        futures::stream::iter((0..16).map(|_| Ok::<_, std::io::Error>("x".repeat(32 * 1024))));
    let hook = request(&app, Method::POST, "/api/v1/webhooks/nango")
        .body(reqwest::Body::wrap_stream(chunks));
    TestResponse::to(hook)
        .await
        .is_problem(413, "payload_too_large");
}

#[tokio::test]
async fn head_matches_get_without_body() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    for path in ["", "/gmail", "/connections", "/nope"] {
        let get = TestResponse::to(ada.request(Method::GET, path)).await;
        let head = TestResponse::to(ada.request(Method::HEAD, path)).await;
        assert_eq!(head.status, get.status, "{path}");
        assert_eq!(head.header("content-type"), get.header("content-type"));
        assert_eq!(head.text, "");
    }
}

#[tokio::test]
async fn cors_allows_configured_origins_only() {
    let app = TestApp::new().await;
    let path = "/api/v1/connectors/connections";
    let preflight = |origin: &str, method: &str| {
        let request = request(&app, Method::OPTIONS, path)
            .header("origin", origin)
            .header("access-control-request-method", method)
            .header(
                "access-control-request-headers",
                "authorization,content-type,x-request-id",
            );
        TestResponse::to(request)
    };
    let allowed = preflight(ORIGIN, "PATCH").await;
    assert_eq!(allowed.status, 200);
    assert_eq!(allowed.header("access-control-allow-origin"), Some(ORIGIN));
    assert_eq!(
        allowed.header("access-control-allow-methods"),
        Some("GET,POST,PATCH,DELETE")
    );
    assert_eq!(
        allowed.header("access-control-allow-headers"),
        Some(
            "authorization,content-type,x-request-id,idempotency-key,last-event-id,\
             x-csrf-token,x-requested-with,sentry-trace,baggage,traceparent,tracestate"
        )
    );
    assert_eq!(allowed.header("access-control-allow-credentials"), None);
    for origin in [
        "https://evil.example",
        "https://app.example.com.evil.example",
        "http://app.example.com",
        "null",
    ] {
        let other = preflight(origin, "GET").await;
        assert_eq!(
            other.header("access-control-allow-origin"),
            None,
            "{origin}"
        );
        let get = TestResponse::to(request(&app, Method::GET, path).header("origin", origin)).await;
        assert_eq!(get.header("access-control-allow-origin"), None, "{origin}");
        assert!(get.header("vary").unwrap().contains("origin"));
    }
    // Browsers can read the error and its request id.
    for path in [path, "/nope", "/api/v1/connectors/connections/nope"] {
        let get = TestResponse::to(request(&app, Method::GET, path).header("origin", ORIGIN)).await;
        assert!(get.status.is_client_error());
        assert_eq!(
            get.header("access-control-allow-origin"),
            Some(ORIGIN),
            "{path}"
        );
        assert_eq!(
            get.header("access-control-expose-headers"),
            Some("x-request-id,date,retry-after,ratelimit,ratelimit-policy")
        );
    }
}

#[tokio::test]
async fn responses_have_security_headers() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let started = ada.connect("gmail").await;
    let callback = format!(
        "/callback?connection_id={}",
        text(&started, "connection_id")
    );
    let answers = [
        TestResponse::to(request(&app, Method::GET, "/healthz")).await,
        TestResponse::to(request(&app, Method::GET, "/")).await,
        TestResponse::to(request(&app, Method::GET, "/docs/")).await,
        TestResponse::to(request(&app, Method::GET, "/nope")).await,
        TestResponse::to(request(&app, Method::PUT, "/healthz")).await,
        TestResponse::to(request(&app, Method::OPTIONS, "/api/v1/connectors")).await,
        TestResponse::to(request(&app, Method::GET, "/api/v1/connectors")).await,
        TestResponse::to(request(
            &app,
            Method::GET,
            "/api/v1/connectors/callback?state=1",
        ))
        .await,
        TestResponse::to(
            ada.request(Method::GET, &callback)
                .header("accept", "text/html"),
        )
        .await,
        TestResponse::to(ada.request(Method::GET, "/connections")).await,
        TestResponse::to(ada.request(Method::GET, "/connections?limit=0")).await,
    ];
    for answer in answers {
        let header = |name: &str| answer.header(name).map(str::to_owned);
        assert_eq!(
            header("x-content-type-options").as_deref(),
            Some("nosniff"),
            "{answer}"
        );
        assert_eq!(header("x-frame-options").as_deref(), Some("DENY"));
        assert_eq!(header("referrer-policy").as_deref(), Some("no-referrer"));
        assert_eq!(header("cache-control").as_deref(), Some("no-store"));
        let policy = header("content-security-policy").unwrap();
        assert!(
            policy.starts_with("default-src 'none'") || policy.starts_with("default-src 'self'")
        );
        assert!(policy.contains("frame-ancestors 'none'"));
        assert!(header("x-request-id").is_some());
        assert!(header("server").is_none());
    }
}

#[tokio::test]
async fn health_and_readiness_endpoints_respond() {
    let app = TestApp::new().await;
    assert_snapshot!(TestResponse::to(request(&app, Method::GET, "/healthz")).await, @r#"
    200 OK
    ok
    "#);
    assert_snapshot!(TestResponse::to(request(&app, Method::GET, "/readyz")).await, @r#"
    200 OK
    {
      "nango": true,
      "status": "ready"
    }
    "#);
}

#[tokio::test]
async fn service_stops_gracefully() {
    let mut app = TestApp::new().await;
    let ada = app.user("ada").await;
    ada.connect("gmail").await;
    app.stop().await.unwrap();
    assert!(request(&app, Method::GET, "/healthz").send().await.is_err());
}
