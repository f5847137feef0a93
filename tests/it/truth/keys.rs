//! Requests that are sent again with their Idempotency-Key.

use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::text;
use crate::house::{House, User};

async fn connect(user: &User<'_>, key: &str) -> (StatusCode, Value) {
    let request = user
        .request(Method::POST, "/gmail/connect")
        .header("idempotency-key", key);
    let response = request.send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

async fn attempts(house: &House) -> i64 {
    sqlx::query_scalar("select count(*) from connect_attempt")
        .fetch_one(&mut house.sql().await)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_key_that_is_sent_by_many_at_once_begins_one_attempt() {
    let house = House::new().await;
    let other = house.replica(&[]).await;
    let ada = house.user("ada").await;
    let there = ada.at(&other);
    let sent = join_all((0..8).map(|n| connect(if n % 2 == 0 { &ada } else { &there }, "k"))).await;
    let (_, answer) = connect(&ada, "k").await;
    for (status, body) in &sent {
        match *status {
            StatusCode::OK => assert_eq!(body, &answer),
            StatusCode::CONFLICT => assert_eq!(text(body, "code"), "idempotency_key_under_way"),
            other => panic!("{other}: {body}"),
        }
    }
    assert!(sent.iter().any(|(status, _)| *status == StatusCode::OK));
    assert_eq!(attempts(&house).await, 1);
    assert_eq!(house.nango_calls("POST", "/connect/sessions").await, 1);
}

#[tokio::test]
async fn a_request_that_failed_may_be_tried_again_with_its_key() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    house.faults(json!({ "status": 500 })).await;
    let (status, _) = connect(&ada, "k").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    house.faults(json!({})).await;
    let (status, begun) = connect(&ada, "k").await;
    assert_eq!(status, StatusCode::OK, "{begun}");
    assert_eq!(attempts(&house).await, 2);
}

#[tokio::test]
async fn a_key_is_visible_text() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    for key in ["", "a\tb", &"k".repeat(256)] {
        let (status, problem) = connect(&ada, key).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{key:?}");
        assert_eq!(text(&problem, "code"), "invalid_request");
    }
    assert_eq!(attempts(&house).await, 0);
    let (status, _) = connect(&ada, "two words").await;
    assert_eq!(status, StatusCode::OK);
}
