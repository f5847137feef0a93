//! Requests that are retried with their Idempotency-Key.

use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::text;
use crate::eventually::eventually;
use crate::test_app::{TestApp, User};

async fn connect(user: &User<'_>, key: &str) -> (StatusCode, Value) {
    let request = user
        .request(Method::POST, "/gmail/connect")
        .header("idempotency-key", key);
    let response = request.send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

async fn attempts(app: &TestApp) -> i64 {
    sqlx::query_scalar("select count(*) from connect_attempt")
        .fetch_one(&mut app.sql().await)
        .await
        .unwrap()
}

#[tokio::test]
async fn concurrent_requests_with_one_key_start_one_attempt() {
    let app = TestApp::new().await;
    let other = app.replica(&[]).await;
    let ada = app.user("ada").await;
    let ada_on_replica = ada.at(&other);
    let sent =
        join_all((0..8).map(|n| connect(if n % 2 == 0 { &ada } else { &ada_on_replica }, "k")))
            .await;
    let (_, answer) = connect(&ada, "k").await;
    for (status, body) in &sent {
        match *status {
            StatusCode::OK => assert_eq!(body, &answer),
            StatusCode::CONFLICT => assert_eq!(text(body, "code"), "idempotency_key_in_progress"),
            other => panic!("{other}: {body}"),
        }
    }
    assert!(sent.iter().any(|(status, _)| *status == StatusCode::OK));
    assert_eq!(attempts(&app).await, 1);
    assert_eq!(app.nango_calls("POST", "/connect/sessions").await, 1);
}

#[tokio::test]
async fn request_without_lease_keeps_its_successors_answer() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    app.faults(json!({ "only": "POST /connect/sessions", "hold_answers_ms": 60_000 }))
        .await;
    let request = ada.request(Method::POST, "/gmail/connect");
    let frozen = tokio::spawn(request.header("idempotency-key", "k").send());
    eventually(async || app.nango_calls("POST", "/connect/sessions").await == 1).await;
    app.faults(json!({})).await;
    sqlx::query("update idempotency_key set created_at = now() - interval '91 seconds'")
        .execute(&mut app.sql().await)
        .await
        .unwrap();
    let (status, successor) = connect(&ada, "k").await;
    assert_eq!(status, StatusCode::OK, "{successor}");
    app.control("release", Method::POST, Value::Null).await;
    let late: Value = frozen.await.unwrap().unwrap().json().await.unwrap();
    assert_ne!(late["attempt_id"], successor["attempt_id"]);
    assert_eq!(connect(&ada, "k").await, (StatusCode::OK, successor));
}

#[tokio::test]
async fn failed_request_can_be_retried_with_same_key() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    app.faults(json!({ "status": 500 })).await;
    let (status, _) = connect(&ada, "k").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    app.faults(json!({})).await;
    let (status, started) = connect(&ada, "k").await;
    assert_eq!(status, StatusCode::OK, "{started}");
    assert_eq!(attempts(&app).await, 2);
}

#[tokio::test]
async fn idempotency_key_must_be_printable() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    for key in ["", "a\tb", &"k".repeat(256)] {
        let (status, problem) = connect(&ada, key).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{key:?}");
        assert_eq!(text(&problem, "code"), "invalid_request");
    }
    assert_eq!(attempts(&app).await, 0);
    let (status, _) = connect(&ada, "two words").await;
    assert_eq!(status, StatusCode::OK);
}
