//! Nango errors: the response to the caller, the state of the row, and a
//! successful retry.

use insta::assert_snapshot;
use reqwest::Method;
use serde_json::{Value, json};

use super::{TestResponse, events, text};
use crate::eventually::eventually;
use crate::test_app::TestApp;

/// Starts a connection under a fault, then removes the fault and tries again. Returns the failed response and the row.
async fn with_fault(faults: Value) -> (TestResponse, Value) {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    // The integrations are cached before, as in a running service.
    ada.get("/gmail").await;
    app.faults(faults).await;
    let answer = ada.send_post("/gmail/connect", json!({})).await;
    app.faults(json!({})).await;
    let row = ada.get("/connections").await["connections"][0].clone();
    assert_eq!(
        (&row["status"], &row["attempt"]["outcome"]),
        (&json!("error"), &json!("failed"))
    );
    assert_eq!(
        (&row["error_count"], &row["nango_connection_id"]),
        (&json!(1), &json!(null))
    );
    assert_eq!(row["attempt"]["error_code"], row["status_reason"]);
    assert_eq!(row["attempt"]["error_message"], row["last_error"]);
    let id = text(&row, "id");
    assert_eq!(
        events(&app, &id).await,
        ["attempt_started", "attempt_failed"]
    );

    let again = ada.connected("gmail").await;
    assert_eq!(
        (&again["id"], &again["status"]),
        (&json!(id), &json!("connected"))
    );
    assert_eq!(
        (&again["last_error"], &again["error_count"]),
        (&json!(null), &json!(0))
    );
    (answer, row)
}

fn problem(row: &Value) -> (String, String) {
    (text(row, "status_reason"), text(row, "last_error"))
}

fn unavailable() -> (String, String) {
    (
        "nango_unavailable".to_owned(),
        "The authorization service is not available at the moment".to_owned(),
    )
}

fn refused() -> (String, String) {
    (
        "nango_refused".to_owned(),
        "The authorization service rejected the request".to_owned(),
    )
}

#[tokio::test]
async fn connect_fails_when_nango_drops_connection() {
    let (answer, row) = with_fault(json!({ "hang_up": true })).await;
    answer.is_problem(503, "nango_unavailable");
    assert_snapshot!(answer, @r#"
    503 Service Unavailable
    retry-after: 5
    {
      "code": "nango_unavailable",
      "detail": "Nango cannot be reached",
      "request_id": "[id]",
      "retry_after": 5,
      "status": 503,
      "title": "Nango is not available",
      "type": "urn:patchbay:problem:nango_unavailable"
    }
    "#);
    assert_eq!(problem(&row), unavailable());
}

#[tokio::test]
async fn connect_fails_when_nango_times_out() {
    let (answer, row) = with_fault(json!({ "latency_ms": 60_000 })).await;
    answer.is_problem(504, "nango_timeout");
    assert_snapshot!(answer, @r#"
    504 Gateway Timeout
    retry-after: 5
    {
      "code": "nango_timeout",
      "detail": "Nango did not answer in time",
      "request_id": "[id]",
      "retry_after": 5,
      "status": 504,
      "title": "Nango did not answer in time",
      "type": "urn:patchbay:problem:nango_timeout"
    }
    "#);
    assert_eq!(problem(&row), unavailable());
}

#[tokio::test]
async fn connect_fails_when_nango_rejects_key() {
    let (answer, row) = with_fault(json!({ "status": 401 })).await;
    answer.is_problem(502, "nango_misconfigured");
    assert_snapshot!(answer, @r#"
    502 Bad Gateway
    {
      "code": "nango_misconfigured",
      "detail": "Nango refused this service's key; its operator must check it",
      "request_id": "[id]",
      "status": 502,
      "title": "Nango rejects the key of this service",
      "type": "urn:patchbay:problem:nango_misconfigured"
    }
    "#);
    assert_eq!(problem(&row), refused());
}

#[tokio::test]
async fn connect_fails_when_nango_forbids_request() {
    let (answer, row) = with_fault(json!({ "status": 403 })).await;
    answer.is_problem(502, "nango_misconfigured");
    assert_eq!(problem(&row), refused());
}

#[tokio::test]
async fn connect_fails_when_nango_rate_limit_is_exhausted() {
    let (answer, row) = with_fault(json!({ "status": 429 })).await;
    answer.is_problem(503, "nango_rate_limited");
    assert_snapshot!(answer, @r#"
    503 Service Unavailable
    retry-after: 1
    {
      "code": "nango_rate_limited",
      "detail": "Nango's rate limit for this minute is used up",
      "request_id": "[id]",
      "retry_after": 1,
      "status": 503,
      "title": "Nango's rate limit is exceeded",
      "type": "urn:patchbay:problem:nango_rate_limited"
    }
    "#);
    assert_eq!(problem(&row), unavailable());
}

#[tokio::test]
async fn connect_fails_when_nango_returns_5xx() {
    for status in [500, 503] {
        let (answer, row) = with_fault(json!({ "status": status })).await;
        answer.is_problem(503, "nango_unavailable");
        assert_eq!(problem(&row), unavailable());
    }
}

#[tokio::test]
async fn connect_fails_when_proxy_answers_for_nango() {
    let (answer, row) = with_fault(json!({ "html": true })).await;
    answer.is_problem(502, "nango_error");
    assert_snapshot!(answer, @r#"
    502 Bad Gateway
    {
      "code": "nango_error",
      "detail": "Nango sent an unexpected response; details are in the log",
      "request_id": "[id]",
      "status": 502,
      "title": "Nango returned an unexpected response",
      "type": "urn:patchbay:problem:nango_error"
    }
    "#);
    assert_eq!(problem(&row), refused());
    let (answer, row) = with_fault(json!({ "html": true, "status": 502 })).await;
    answer.is_problem(503, "nango_unavailable");
    assert_eq!(problem(&row), unavailable());
}

#[tokio::test]
async fn connect_can_be_retried_when_response_is_lost() {
    let (answer, row) = with_fault(json!({ "lose_answer": true })).await;
    answer.is_problem(503, "nango_unavailable");
    assert_eq!(problem(&row), unavailable());
}

#[tokio::test]
async fn connect_fails_when_nango_is_unreachable() {
    let app = TestApp::with(&[("NANGO_BASE_URL", "http://127.0.0.1:1")]).await;
    let ada = app.user("ada").await;
    assert_eq!(ada.get("/gmail").await["configured"], json!(null));
    let answer = ada.send_post("/gmail/connect", json!({})).await;
    answer.is_problem(503, "nango_unavailable");
    let list = ada.send_get("/connections").await;
    assert_eq!(problem(&list.json()["connections"][0]), unavailable());
    // Disconnected in Patchbay, but not reported as deleted at Nango yet.
    let ended = ada.send_delete("/gmail/disconnect").await;
    assert_eq!(ended.json()["status"], "disconnected");
    let ready = TestResponse::to(app.client.get(format!("{}/readyz", app.url))).await;
    assert_eq!(ready.status, 200);
}

#[tokio::test]
async fn connection_stays_usable_when_reconnect_fails_to_start() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let before = ada.connected("gmail").await;
    let path = format!("/connections/{}/reconnect", text(&before, "id"));
    for (faults, status, code) in [
        (json!({ "status": 500 }), 503, "nango_unavailable"),
        (json!({ "status": 401 }), 502, "nango_misconfigured"),
    ] {
        app.faults(faults).await;
        ada.send(Method::POST, &path, None)
            .await
            .is_problem(status, code);
        app.faults(json!({})).await;
        let row = ada.connection(&text(&before, "id")).await;
        assert_eq!(row["status"], "connected");
        assert_eq!(row["nango_connection_id"], before["nango_connection_id"]);
    }
    // An unfinished session does not change it either.
    let started = ada.send(Method::POST, &path, None).await;
    assert_snapshot!(started, @r#"
    200 OK
    {
      "already_connected": false,
      "attempt_id": "[id]",
      "connection_id": "[id]",
      "expires_at": "2027-01-15T08:30:00Z",
      "message": "Open oauth_url to connect Gmail",
      "nango_connection_id": "[id]",
      "oauth_url": "http://127.0.0.1/oauth/connect/gmail?connect_session_token=[token]",
      "popup": true,
      "status": "connected"
    }
    "#);
    assert_eq!(ada.connect("gmail").await["already_connected"], true);
}

#[tokio::test]
async fn reads_succeed_while_nango_fails() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let started = ada.connect("gmail").await;
    let id = text(&started, "connection_id");
    for faults in [
        json!({ "status": 500 }),
        json!({ "html": true }),
        json!({ "status": 401 }),
        json!({ "latency_ms": 60_000 }),
    ] {
        app.faults(faults).await;
        assert_eq!(ada.connection(&id).await["status"], "pending");
        assert_eq!(
            ada.get("/connections").await["connections"][0]["status"],
            "pending"
        );
        let returned = ada.send_get(&format!("/callback?connection_id={id}")).await;
        assert_eq!(returned.json()["status"], "pending");
    }
}

#[tokio::test]
async fn connect_works_when_nango_rejects_webhook_override() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let old =
        json!({ "consent": "allow", "refuse_webhook_url_override": true, "drop_webhooks": true });
    app.faults(old).await;
    let started = ada.send_post("/gmail/connect", json!({})).await;
    assert_eq!(started.status, 200);
    app.popup(&text(&started.json(), "oauth_url")).await;
    let id = text(&started.json(), "connection_id");
    ada.wait_until(&id, "connected").await;
    let path = format!("/connections/{id}/reconnect");
    let again = ada.send(Method::POST, &path, None).await.json();
    app.advance(chrono::TimeDelta::seconds(1));
    app.popup(&text(&again, "oauth_url")).await;
    eventually(async || ada.connection(&id).await["attempt"]["outcome"] == "succeeded").await;
    assert_eq!(
        events(&app, &id).await,
        [
            "attempt_started",
            "connected",
            "attempt_started",
            "reauthorized"
        ]
    );
}
