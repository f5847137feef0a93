use reqwest::Method;
use serde_json::{Value, json};

use super::{code, configured};
use crate::contract::world::World;

async fn list(world: &World) -> reqwest::Result<reqwest::Response> {
    let url = format!("{}/connections", world.sandbox.url());
    world.http.get(url).bearer_auth(World::KEY).send().await
}

#[tokio::test]
async fn api_calls_answer_with_the_status_that_is_asked_for() {
    let world = configured(|_| {}).await;
    for (status, expected) in [
        (401, "unknown_account"),
        (403, "forbidden"),
        (429, "too_many_request"),
        (503, "server_error"),
    ] {
        world.faults(json!({ "status": status })).await;
        let response = list(&world).await.unwrap();
        assert_eq!(response.status(), status);
        assert_eq!(
            response.headers().contains_key("retry-after"),
            status == 429
        );
        assert_eq!(code(&response.json().await.unwrap()), expected);
    }
    world.faults(json!({ "html": true })).await;
    let response = list(&world).await.unwrap();
    assert_eq!(
        response.headers()["content-type"],
        "text/html; charset=utf-8"
    );
    world.faults(json!({})).await;
    assert_eq!(list(&world).await.unwrap().status(), 200);
}

#[tokio::test]
async fn an_answer_may_be_lost_before_or_after_the_work_is_done() {
    let mut world = configured(|_| {}).await;
    let id = world
        .connect("github", "first", json!({ "tags": {} }))
        .await;
    let path = format!("/connections/{id}?provider_config_key=github");
    let url = format!("{}{path}", world.sandbox.url());
    let delete = || world.http.delete(&url).bearer_auth(World::KEY).send();
    let held = || world.call(Method::GET, "/connections", None);
    let count = |list: Value| list["connections"].as_array().unwrap().len();

    world.faults(json!({ "hang_up": true })).await;
    assert!(delete().await.is_err());
    world.faults(json!({})).await;
    assert_eq!(count(held().await), 1, "nothing was done");

    world.faults(json!({ "lose_answer": true })).await;
    assert!(delete().await.is_err());
    world.faults(json!({})).await;
    assert_eq!(count(held().await), 0, "it was deleted, unheard");

    let calls = world.call(Method::GET, "/sandbox/requests", None).await;
    let deletions: Vec<_> = calls
        .as_array()
        .unwrap()
        .iter()
        .filter(|it| it["method"] == "DELETE")
        .collect();
    assert_eq!(deletions.len(), 2);
    for call in deletions {
        assert_eq!(call["path"], format!("/connections/{id}"));
        assert_eq!(call["query"], "provider_config_key=github");
        assert_eq!(call["status"], Value::Null);
    }
}

#[tokio::test]
async fn deletions_and_newer_fields_can_be_refused() {
    let mut world = configured(|_| {}).await;
    let id = world
        .connect("github", "first", json!({ "tags": {} }))
        .await;
    world
        .faults(json!({ "refuse_delete": true, "refuse_webhook_url_override": true }))
        .await;
    let url = format!(
        "{}/connections/{id}?provider_config_key=github",
        world.sandbox.url()
    );
    let response = world
        .http
        .delete(url)
        .bearer_auth(World::KEY)
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 500);
    let body = json!({ "tags": {}, "webhook_url_override": "http://localhost/hook" });
    let url = format!("{}/connect/sessions", world.sandbox.url());
    let request = world.http.post(url).bearer_auth(World::KEY).json(&body);
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 400);
    let body: Value = response.json().await.unwrap();
    let expected = "Unrecognized key: \"webhook_url_override\"";
    assert_eq!(body["error"]["errors"][0]["message"], expected);
}

#[tokio::test]
async fn sessions_can_be_over_at_once() {
    let world = configured(|_| {}).await;
    world.faults(json!({ "expired_sessions": true })).await;
    let body = json!({ "tags": {}, "allowed_integrations": ["github"] });
    let session = world.call(Method::POST, "/connect/sessions", Some(body));
    let token = session.await["data"]["token"].as_str().unwrap().to_owned();
    let url = format!("{}/oauth/connect/github", world.sandbox.url());
    let request = world
        .http
        .get(url)
        .query(&[("connect_session_token", token)]);
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 401);
    let answer: Value = response.json().await.unwrap();
    assert_eq!(code(&answer), "unknown_connect_session_token");
}

#[tokio::test]
async fn faults_that_do_not_exist_are_refused_by_name() {
    let world = configured(|_| {}).await;
    let url = format!("{}/sandbox/faults", world.sandbox.url());
    for (body, told) in [
        (json!({ "refuse_refersh": true }), "refuse_refersh"),
        (json!({ "consent": "maybe" }), "maybe"),
        (json!({ "status": 200 }), "status"),
    ] {
        let response = world.http.put(&url).json(&body).send().await.unwrap();
        assert_eq!(response.status(), 400);
        let answer: Value = response.json().await.unwrap();
        assert!(answer["error"].as_str().unwrap().contains(told), "{answer}");
    }
    world
        .faults(json!({ "consent": "deny", "latency_ms": 5 }))
        .await;
    world.faults(json!({ "html": true })).await;
    let held = world.call(Method::GET, "/sandbox/faults", None).await;
    assert_eq!(
        (&held["consent"], &held["html"]),
        (&json!("ask"), &json!(true))
    );
    assert_eq!(held["latency_ms"], 0, "setting replaces all faults");
}

#[tokio::test]
async fn faults_may_be_meant_for_some_calls_only_and_answers_held_back() {
    let mut world = configured(|_| {}).await;
    let id = world
        .connect("github", "first", json!({ "tags": {} }))
        .await;
    let faults = json!({ "status": 500, "only": "GET /connections?page=1" });
    world.faults(faults).await;
    for (page, status) in [(0, 200), (1, 500)] {
        let url = format!("{}/connections?page={page}", world.sandbox.url());
        let answer = world.http.get(url).bearer_auth(World::KEY).send().await;
        assert_eq!(answer.unwrap().status(), status);
    }
    let faults = json!({ "hold_answers_ms": 60_000, "only": "DELETE" });
    world.faults(faults).await;
    let path = format!("/connections/{id}?provider_config_key=github");
    let url = format!("{}{path}", world.sandbox.url());
    let delete = world.http.delete(url).bearer_auth(World::KEY).send();
    let gone = async {
        loop {
            let held = world.call(Method::GET, "/connections", None).await;
            if held["connections"] == json!([]) {
                return;
            }
        }
    };
    tokio::select! {
        answer = delete => panic!("it was to be held back: {answer:?}"),
        () = gone => {}
    }
}
