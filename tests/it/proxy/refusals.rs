//! Nango's own errors: distinguished from the provider's, with the same consequences as for a token.

use chrono::TimeDelta;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use url::form_urlencoded;

use super::Caller;

/// Returns the status of a call, the code of its problem, and the connection's state afterwards.
async fn outcome(caller: &Caller) -> (u16, String, String) {
    let answer = caller.request(Method::GET, "inspect").send().await.unwrap();
    let status = answer.status().as_u16();
    let problem: Value = answer.json().await.unwrap();
    assert!(
        problem["type"]
            .as_str()
            .is_some_and(|it| it.starts_with("urn:patchbay:")),
        "{problem}"
    );
    (
        status,
        problem["code"].as_str().unwrap().to_owned(),
        stand(caller).await,
    )
}

async fn stand(caller: &Caller) -> String {
    let connection = caller.app.user("ada").await.connection(&caller.id).await;
    let word = |field: &str| connection[field].as_str().unwrap_or("-").to_owned();
    format!("{} {}", word("status"), word("status_reason"))
}

fn expected(status: u16, code: &str, stand: &str) -> (u16, String, String) {
    (status, code.to_owned(), stand.to_owned())
}

/// Expires the access token, so that the next call refreshes it.
async fn expire(caller: &Caller) {
    let named = json!({ "connection_id": caller.nango_id });
    caller.app.control("expire", Method::POST, named).await;
}

#[tokio::test]
async fn dead_credentials_need_reauthorization() {
    let caller = Caller::new().await;
    // The provider refreshes another user's credentials, which shows that it works.
    caller.app.user("bob").await.connected("gmail").await;
    let named = json!({ "connection_id": caller.nango_id });
    caller.app.control("revoke", Method::POST, named).await;
    expire(&caller).await;
    let refused = expected(503, "provider_unavailable", "connected -");
    for _ in 0..2 {
        assert_eq!(outcome(&caller).await, refused);
        caller.app.advance(TimeDelta::minutes(3));
    }
    let dead = expected(409, "needs_reauthorization", "error needs_reauthorization");
    assert_eq!(outcome(&caller).await, dead);
    // Nango is not called again.
    let calls = caller.received().await.len();
    assert_eq!(outcome(&caller).await, dead);
    assert_eq!(caller.received().await.len(), calls);
}

#[tokio::test]
async fn connection_deleted_at_nango_needs_reauthorization() {
    let caller = Caller::new().await;
    let path = format!("/connections/{}?provider_config_key=gmail", caller.nango_id);
    let (status, _) = caller.app.nango(Method::DELETE, &path).await;
    assert_eq!(status, StatusCode::OK);
    let absent = expected(503, "provider_unavailable", "connected -");
    for _ in 0..5 {
        assert_eq!(outcome(&caller).await, absent);
        caller.app.advance(TimeDelta::seconds(61));
    }
    let missing = expected(409, "needs_reauthorization", "error missing_upstream");
    assert_eq!(outcome(&caller).await, missing);
}

#[tokio::test]
async fn calls_that_fail_at_once_cost_one_check() {
    let caller = Caller::new().await;
    let path = format!("/connections/{}?provider_config_key=gmail", caller.nango_id);
    caller.app.nango(Method::DELETE, &path).await;
    let stored = json!({ "only": "/proxy/", "hold_answers_ms": 1_000 });
    caller.app.faults(stored).await;
    let looked = caller.app.nango_calls("GET", "/connections/").await;
    let calls = (0..20).map(|_| caller.request(Method::GET, "inspect").send());
    for answer in futures::future::join_all(calls).await {
        assert_eq!(answer.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    }
    let looked = caller.app.nango_calls("GET", "/connections/").await - looked;
    // A late request may arrive after the first check has ended.
    assert!((1..=12).contains(&looked), "{looked} calls");
}

#[tokio::test]
async fn outage_of_refreshes_is_temporary() {
    let caller = Caller::new().await;
    expire(&caller).await;
    caller.app.faults(json!({ "refuse_refresh": true })).await;
    let outage = expected(503, "provider_unavailable", "connected -");
    assert_eq!(outcome(&caller).await, outage);
    // Nango backs off from refreshing.
    assert_eq!(outcome(&caller).await, outage);
}

#[tokio::test]
async fn credentials_that_recover_are_called_with_again() {
    let caller = Caller::new().await;
    expire(&caller).await;
    // The provider rejects only the automatic refresh; the check's refresh succeeds.
    caller.app.faults(json!({ "refuse_refresh": true })).await;
    let path = format!("/connections/{}?provider_config_key=gmail", caller.nango_id);
    let (status, _) = caller.app.nango(Method::GET, &path).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    caller.app.faults(json!({})).await;
    let recovered = expected(503, "provider_unavailable", "connected -");
    assert_eq!(outcome(&caller).await, recovered);
    let request = caller.request(Method::GET, "inspect");
    assert_eq!(caller.inspected(request).await["caller"], "ada-work");
}

#[tokio::test]
async fn nangos_own_errors_become_problems() {
    let caller = Caller::new().await;
    for (status, code, expected_status) in [
        (429, "nango_rate_limited", 503),
        (403, "nango_misconfigured", 502),
        (401, "nango_misconfigured", 502),
    ] {
        caller
            .app
            .faults(json!({ "only": "/proxy/", "status": status }))
            .await;
        let answered = outcome(&caller).await;
        assert_eq!(
            answered,
            expected(expected_status, code, "connected -"),
            "{status}"
        );
    }
    caller
        .app
        .faults(json!({ "only": "/proxy/", "hang_up": true }))
        .await;
    assert_eq!(
        outcome(&caller).await,
        expected(503, "nango_unavailable", "connected -")
    );
    caller
        .app
        .faults(json!({ "only": "/proxy/", "status": 429 }))
        .await;
    let limited = caller.request(Method::GET, "inspect").send().await.unwrap();
    assert_eq!(limited.headers()["retry-after"], "1");
}

#[tokio::test]
async fn provider_that_does_not_answer_is_503() {
    let caller = Caller::new().await;
    let answer = caller
        .request(Method::GET, "answer?hang_up=1")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        answer.json::<Value>().await.unwrap()["code"],
        "provider_unavailable"
    );
}

#[tokio::test]
async fn providers_errors_pass_though_they_look_like_nangos() {
    let caller = Caller::new().await;
    for (status, body) in [
        (
            400,
            r#"{"error":{"code":"server_error","message":"out of order"}}"#,
        ),
        (
            401,
            r#"{"error":{"code":"invalid_api_key","message":"no","type":"x","param":null}}"#,
        ),
        (
            403,
            r#"{"error":{"code":"forbidden","message":"not yours"}}"#,
        ),
        (404, r#"{"error":{"code":"not_found","message":"no item"}}"#),
        (429, r#"{"error":{"code":"too_many_request"}}"#),
        (
            500,
            r#"{"message":"oops","code":"internal","method":"get"}"#,
        ),
        (500, r#"{"error":"x"}"#),
        (400, "not JSON"),
    ] {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query
            .append_pair("status", &status.to_string())
            .append_pair("body", body);
        query.append_pair("header", "content-type: application/json");
        let path = format!("answer?{}", query.finish());
        let answer = caller.request(Method::GET, &path).send().await.unwrap();
        assert_eq!(answer.status(), status);
        assert_eq!(answer.text().await.unwrap(), body);
    }
    // A response that imitates Nango's error does not change the connection: Nango is queried.
    let forged = r#"{"error":{"code":"server_error","message":"Failed to get connection"}}"#;
    let forged: String = form_urlencoded::byte_serialize(forged.as_bytes()).collect();
    let path = format!("answer?status=400&header=content-type:+application/json&body={forged}");
    let answer = caller.request(Method::GET, &path).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(stand(&caller).await, "connected -");
}
