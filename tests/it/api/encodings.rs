//! Bytes that are not UTF-8, and bodies with a `Content-Encoding`, are rejected and change nothing.

use insta::assert_snapshot;
use reqwest::Method;
use serde_json::json;

use super::{TestResponse, text};
use crate::test_app::TestApp;

/// A lone byte, an é in Latin-1, and a surrogate in UTF-8.
const NOT_UTF8: [&str; 3] = ["%ff", "caf%e9", "%ED%A0%80"];

#[tokio::test]
async fn query_that_is_not_utf8_is_rejected() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    for value in NOT_UTF8 {
        for (method, path, name) in [
            (Method::POST, "/gmail/connect", "instance_id"),
            (Method::DELETE, "/gmail/disconnect", "instance_id"),
            (Method::GET, "/connections", "connector_id"),
            (Method::GET, "/connections", "status"),
            (Method::GET, "", "search"),
            (Method::GET, "", "category"),
            (Method::GET, "", "cursor"),
            (Method::GET, "/list", "category"),
            (Method::GET, "/list", "status_filter"),
            (Method::GET, "/callback", "connection_id"),
        ] {
            let path = format!("{path}?{name}={value}");
            let request = ada.request(method, &path);
            let refused = TestResponse::to(request).await;
            let problem = refused.is_problem(400, "invalid_request");
            assert!(text(&problem, "detail").contains(name), "{path}: {problem}");
        }
        let named = format!("/gmail/connect?{value}=work");
        let refused = TestResponse::to(ada.request(Method::POST, &named)).await;
        refused.is_problem(400, "invalid_request");
        // A path, too.
        let path = format!("/{value}/connect");
        let refused = TestResponse::to(ada.request(Method::POST, &path)).await;
        refused.is_problem(400, "invalid_request");
    }
    assert_eq!(ada.count().await, 0);
    let refused = ada
        .send(Method::POST, "/gmail/connect?instance_id=caf%e9", None)
        .await;
    assert_snapshot!(refused.json()["detail"], @r#""The value of the query parameter `instance_id` is not UTF-8. Percent-encode it as UTF-8.""#);
}

#[tokio::test]
async fn query_of_utf8_is_accepted() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    for (query, expected) in [
        ("caf%C3%A9", "caf\u{e9}"),
        ("caf%EF%BF%BD", "caf\u{fffd}"),
        ("a+b%2B", "a b+"),
    ] {
        let path = format!("/gmail/connect?instance_id={query}");
        let started = ada.send(Method::POST, &path, None).await.json();
        let connection = ada.connection(&text(&started, "connection_id")).await;
        assert_eq!(connection["instance_id"], expected);
    }
}

#[tokio::test]
async fn callback_forwards_provider_error_in_any_encoding() {
    let app = TestApp::new().await;
    let query = "state=x&error=access_denied&error_description=refus%e9";
    let url = format!("{}/api/v1/connectors/callback?{query}", app.url);
    let answer = TestResponse::to(app.client.get(url)).await;
    assert_eq!(answer.status, 308, "{answer}");
    assert!(answer.header("location").unwrap().ends_with(query));
}

#[tokio::test]
async fn body_with_content_encoding_is_rejected() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let id = text(&ada.connected("gmail").await, "id");
    let post = |method: Method, path: &str, encoding: &str| {
        let request = ada.request(method, path);
        let request = request.header("content-encoding", encoding);
        TestResponse::to(request.json(&json!({ "label": "Work" })))
    };
    let patched = format!("/connections/{id}");
    for encoding in ["gzip", "GZIP", "identity, br", "zstd"] {
        for (method, path) in [
            (Method::POST, "/notion/connect"),
            (Method::PATCH, patched.as_str()),
        ] {
            let refused = post(method, path, encoding).await;
            refused.is_problem(415, "unsupported_media_type");
            let detail = "Bodies with a Content-Encoding are not supported. Send the JSON without compression.";
            assert_eq!(refused.json()["detail"], detail);
        }
    }
    assert_eq!(ada.count().await, 1);
    assert_eq!(
        post(Method::PATCH, &patched, "identity").await.json()["label"],
        "Work"
    );
}
