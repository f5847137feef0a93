use reqwest::Method;
use serde_json::{Value, json};

use super::{code, configured};
use crate::eventually::eventually;
use crate::nango_contract::scenario::Scenario;

async fn list(scenario: &Scenario) -> reqwest::Result<reqwest::Response> {
    let url = format!("{}/connections", scenario.sandbox.url());
    scenario
        .http
        .get(url)
        .bearer_auth(Scenario::KEY)
        .send()
        .await
}

#[tokio::test]
async fn status_fault_sets_response_status() {
    let scenario = configured(|_| {}).await;
    for (status, expected) in [
        (401, "unknown_account"),
        (403, "forbidden"),
        (429, "too_many_request"),
        (503, "server_error"),
    ] {
        scenario.faults(json!({ "status": status })).await;
        let response = list(&scenario).await.unwrap();
        assert_eq!(response.status(), status);
        assert_eq!(
            response.headers().contains_key("retry-after"),
            status == 429
        );
        assert_eq!(code(&response.json().await.unwrap()), expected);
    }
    scenario.faults(json!({ "html": true })).await;
    let response = list(&scenario).await.unwrap();
    assert_eq!(
        response.headers()["content-type"],
        "text/html; charset=utf-8"
    );
    scenario.faults(json!({})).await;
    assert_eq!(list(&scenario).await.unwrap().status(), 200);
}

#[tokio::test]
async fn connection_faults_apply_before_or_after_processing() {
    let mut scenario = configured(|_| {}).await;
    let id = scenario
        .connect("github", "first", json!({ "tags": {} }))
        .await;
    let path = format!("/connections/{id}?provider_config_key=github");
    let url = format!("{}{path}", scenario.sandbox.url());
    let delete = || scenario.http.delete(&url).bearer_auth(Scenario::KEY).send();
    let stored = || scenario.call(Method::GET, "/connections", None);
    let count = |list: Value| list["connections"].as_array().unwrap().len();

    scenario.faults(json!({ "hang_up": true })).await;
    assert!(delete().await.is_err());
    scenario.faults(json!({})).await;
    assert_eq!(count(stored().await), 1, "nothing was done");

    scenario.faults(json!({ "lose_answer": true })).await;
    assert!(delete().await.is_err());
    scenario.faults(json!({})).await;
    assert_eq!(count(stored().await), 0, "it was deleted, unheard");

    let calls = scenario.call(Method::GET, "/sandbox/requests", None).await;
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
async fn refuse_faults_reject_deletions_and_new_fields() {
    let mut scenario = configured(|_| {}).await;
    let id = scenario
        .connect("github", "first", json!({ "tags": {} }))
        .await;
    scenario
        .faults(json!({ "refuse_delete": true, "refuse_webhook_url_override": true }))
        .await;
    let url = format!(
        "{}/connections/{id}?provider_config_key=github",
        scenario.sandbox.url()
    );
    let response = scenario
        .http
        .delete(url)
        .bearer_auth(Scenario::KEY)
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 500);
    let body = json!({ "tags": {}, "webhook_url_override": "http://localhost/hook" });
    let url = format!("{}/connect/sessions", scenario.sandbox.url());
    let request = scenario
        .http
        .post(url)
        .bearer_auth(Scenario::KEY)
        .json(&body);
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 400);
    let body: Value = response.json().await.unwrap();
    let expected = "Unrecognized key: \"webhook_url_override\"";
    assert_eq!(body["error"]["errors"][0]["message"], expected);
}

#[tokio::test]
async fn expired_sessions_fault_expires_sessions() {
    let scenario = configured(|_| {}).await;
    scenario.faults(json!({ "expired_sessions": true })).await;
    let body = json!({ "tags": {}, "allowed_integrations": ["github"] });
    let session = scenario.call(Method::POST, "/connect/sessions", Some(body));
    let token = session.await["data"]["token"].as_str().unwrap().to_owned();
    let url = format!("{}/oauth/connect/github", scenario.sandbox.url());
    let request = scenario
        .http
        .get(url)
        .query(&[("connect_session_token", token)]);
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 401);
    let answer: Value = response.json().await.unwrap();
    assert_eq!(code(&answer), "unknown_connect_session_token");
}

#[tokio::test]
async fn unknown_faults_are_rejected_by_name() {
    let scenario = configured(|_| {}).await;
    let url = format!("{}/sandbox/faults", scenario.sandbox.url());
    for (body, reported) in [
        (json!({ "refuse_refersh": true }), "refuse_refersh"),
        (json!({ "consent": "maybe" }), "maybe"),
        (json!({ "status": 200 }), "status"),
    ] {
        let response = scenario.http.put(&url).json(&body).send().await.unwrap();
        assert_eq!(response.status(), 400);
        let answer: Value = response.json().await.unwrap();
        assert!(
            answer["error"].as_str().unwrap().contains(reported),
            "{answer}"
        );
    }
    scenario
        .faults(json!({ "consent": "deny", "latency_ms": 5 }))
        .await;
    scenario.faults(json!({ "html": true })).await;
    let stored = scenario.call(Method::GET, "/sandbox/faults", None).await;
    assert_eq!(
        (&stored["consent"], &stored["html"]),
        (&json!("ask"), &json!(true))
    );
    assert_eq!(stored["latency_ms"], 0, "setting replaces all faults");
}

#[tokio::test]
async fn faults_can_target_calls_and_hold_responses() {
    let mut scenario = configured(|_| {}).await;
    let id = scenario
        .connect("github", "first", json!({ "tags": {} }))
        .await;
    let faults = json!({ "status": 500, "only": "GET /connections?page=1" });
    scenario.faults(faults).await;
    for (page, status) in [(0, 200), (1, 500)] {
        let url = format!("{}/connections?page={page}", scenario.sandbox.url());
        let answer = scenario
            .http
            .get(url)
            .bearer_auth(Scenario::KEY)
            .send()
            .await;
        assert_eq!(answer.unwrap().status(), status);
    }
    let faults = json!({ "hold_answers_ms": 60_000, "only": "DELETE" });
    scenario.faults(faults).await;
    let path = format!("/connections/{id}?provider_config_key=github");
    let url = format!("{}{path}", scenario.sandbox.url());
    let delete = scenario.http.delete(url).bearer_auth(Scenario::KEY).send();
    let gone = eventually(async || {
        let stored = scenario.call(Method::GET, "/connections", None).await;
        stored["connections"] == json!([])
    });
    tokio::select! {
        answer = delete => panic!("it was to be held back: {answer:?}"),
        () = gone => {}
    }
}
