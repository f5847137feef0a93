use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::configured;
use crate::eventually::eventually_value;
use crate::nango_contract::scenario::Scenario;

/// Starts a server that responds to every webhook with this status.
async fn answering(status: StatusCode) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let router = Router::new().fallback(move || async move { status });
    tokio::spawn(async { axum::serve(listener, router).await });
    format!("http://localhost:{port}/hook")
}

/// Waits until the deliveries satisfy `ready`, and returns them.
async fn deliveries(scenario: &Scenario, ready: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let list = async || -> Vec<Value> {
        let list = scenario.call(Method::GET, "/sandbox/webhooks", None).await;
        list.as_array().unwrap().clone()
    };
    eventually_value(list, |list| ready(list)).await
}

fn statuses(delivery: &Value) -> Vec<u64> {
    let attempts = delivery["attempts"].as_array().unwrap();
    attempts
        .iter()
        .filter_map(|it| it["status"].as_u64())
        .collect()
}

#[tokio::test]
async fn webhooks_are_retried_only_after_server_errors() {
    let soon = [Duration::from_millis(1), Duration::from_millis(2)];
    for (status, expected) in [
        (StatusCode::BAD_GATEWAY, vec![502, 502, 502]),
        (StatusCode::NOT_FOUND, vec![404]),
        (StatusCode::FOUND, vec![302]),
    ] {
        let url = answering(status).await;
        let mut scenario = configured(|config| {
            config.webhook_url = Some(url.clone());
            config.webhook_retries = soon.to_vec();
        })
        .await;
        scenario
            .connect("github", "first", json!({ "tags": {} }))
            .await;
        let done = |list: &[Value]| statuses(&list[0]).len() == expected.len();
        let list = deliveries(&scenario, done).await;
        assert_eq!((list.len(), &statuses(&list[0])), (1, &expected));
        assert_eq!(list[0]["url"], url);
        assert_eq!(list[0]["body"]["success"], true);
    }
}

#[tokio::test]
async fn unreachable_receiver_is_listed_as_error() {
    let mut scenario = configured(|config| {
        config.webhook_url = Some("http://127.0.0.1:1/hook".into());
        config.webhook_retries = Vec::new();
    })
    .await;
    scenario
        .connect("github", "first", json!({ "tags": {} }))
        .await;
    let tried = |list: &[Value]| !list[0]["attempts"].as_array().unwrap().is_empty();
    let list = deliveries(&scenario, tried).await;
    assert!(list[0]["attempts"][0]["error"].is_string(), "{list:?}");
}

#[tokio::test]
async fn webhook_faults_drop_and_duplicate() {
    let mut scenario = configured(|_| {}).await;
    let connect = async |scenario: &Scenario, faults: Value| {
        scenario.faults(faults).await;
        let token = scenario.session(json!({ "tags": {} })).await;
        let query = scenario.authorize(&token, "github").await;
        assert_eq!(scenario.callback(&query).await.status(), 200);
    };
    connect(
        &scenario,
        json!({ "consent": "allow", "drop_webhooks": true }),
    )
    .await;
    connect(
        &scenario,
        json!({ "consent": "allow", "duplicate_webhooks": true }),
    )
    .await;
    let sent = |list: &[Value]| list[1..].iter().all(|it| statuses(it) == [200]);
    let list = deliveries(&scenario, |list| list.len() == 3 && sent(list)).await;
    assert!(statuses(&list[0]).is_empty());
    assert_eq!(list[1]["body"], list[2]["body"]);
    let (first, second) = (scenario.next_hook().await, scenario.next_hook().await);
    assert_eq!(
        first.body, second.body,
        "the doubled one, and nothing of the dropped one"
    );
}
