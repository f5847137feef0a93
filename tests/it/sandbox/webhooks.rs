use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::configured;
use crate::contract::world::World;

/// A server that answers every webhook so.
async fn answering(status: StatusCode) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let router = Router::new().fallback(move || async move { status });
    tokio::spawn(async { axum::serve(listener, router).await });
    format!("http://localhost:{port}/hook")
}

/// The deliveries, as soon as they look as expected.
async fn deliveries(world: &World, ready: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let look = async {
        loop {
            let list = world.call(Method::GET, "/sandbox/webhooks", None).await;
            let list = list.as_array().unwrap().clone();
            if ready(&list) {
                return list;
            }
        }
    };
    timeout(Duration::from_secs(20), look)
        .await
        .expect("the webhooks are sent")
}

fn statuses(delivery: &Value) -> Vec<u64> {
    let attempts = delivery["attempts"].as_array().unwrap();
    attempts
        .iter()
        .filter_map(|it| it["status"].as_u64())
        .collect()
}

#[tokio::test]
async fn a_server_error_is_tried_again_twice_and_a_refusal_never() {
    let soon = [Duration::from_millis(1), Duration::from_millis(2)];
    for (status, expected) in [
        (StatusCode::BAD_GATEWAY, vec![502, 502, 502]),
        (StatusCode::NOT_FOUND, vec![404]),
        (StatusCode::FOUND, vec![302]),
    ] {
        let url = answering(status).await;
        let mut world = configured(|config| {
            config.webhook_url = Some(url.clone());
            config.webhook_retries = soon.to_vec();
        })
        .await;
        world
            .connect("github", "first", json!({ "tags": {} }))
            .await;
        let done = |list: &[Value]| statuses(&list[0]).len() == expected.len();
        let list = deliveries(&world, done).await;
        assert_eq!((list.len(), &statuses(&list[0])), (1, &expected));
        assert_eq!(list[0]["url"], url);
        assert_eq!(list[0]["body"]["success"], true);
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_error_in_the_list() {
    let mut world = configured(|config| {
        config.webhook_url = Some("http://127.0.0.1:1/hook".into());
        config.webhook_retries = Vec::new();
    })
    .await;
    world
        .connect("github", "first", json!({ "tags": {} }))
        .await;
    let tried = |list: &[Value]| !list[0]["attempts"].as_array().unwrap().is_empty();
    let list = deliveries(&world, tried).await;
    assert!(list[0]["attempts"][0]["error"].is_string(), "{list:?}");
}

#[tokio::test]
async fn webhooks_can_be_dropped_and_doubled() {
    let mut world = configured(|_| {}).await;
    let connect = async |world: &World, faults: Value| {
        world.faults(faults).await;
        let token = world.session(json!({ "tags": {} })).await;
        let query = world.authorize(&token, "github").await;
        assert_eq!(world.callback(&query).await.status(), 200);
    };
    connect(&world, json!({ "consent": "allow", "drop_webhooks": true })).await;
    connect(
        &world,
        json!({ "consent": "allow", "duplicate_webhooks": true }),
    )
    .await;
    let sent = |list: &[Value]| list[1..].iter().all(|it| statuses(it) == [200]);
    let list = deliveries(&world, |list| list.len() == 3 && sent(list)).await;
    assert!(statuses(&list[0]).is_empty());
    assert_eq!(list[1]["body"], list[2]["body"]);
    let (first, second) = (world.next_hook().await, world.next_hook().await);
    assert_eq!(
        first.body, second.body,
        "the doubled one, and nothing of the dropped one"
    );
}
