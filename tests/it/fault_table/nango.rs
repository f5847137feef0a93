//! Nango is down, slow, rate limiting or failing, or its response is lost.

use chrono::TimeDelta;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{check, describe_status, event_kinds, popup, reconnect, text, wait_until_settled};
use crate::test_app::{IMMEDIATE_SWEEP, TestApp};

/// A fault of Nango, and the status and code of the response to the user.
pub(super) struct FaultCase {
    fault: fn() -> Value,
    status: StatusCode,
    code: &'static str,
}

pub(super) const DOWN: FaultCase = FaultCase {
    fault: || json!({ "hang_up": true }),
    status: StatusCode::SERVICE_UNAVAILABLE,
    code: "nango_unavailable",
};

/// Slower than `NANGO_TIMEOUT_SECONDS`.
pub(super) const SLOW: FaultCase = FaultCase {
    fault: || json!({ "latency_ms": 10_000 }),
    status: StatusCode::GATEWAY_TIMEOUT,
    code: "nango_timeout",
};

/// Without `retry-after`, for which calls would wait.
pub(super) const RATE_LIMITED: FaultCase = FaultCase {
    fault: || json!({ "status": 429, "html": true }),
    status: StatusCode::SERVICE_UNAVAILABLE,
    code: "nango_rate_limited",
};

pub(super) const FAILING: FaultCase = FaultCase {
    fault: || json!({ "status": 500 }),
    status: StatusCode::SERVICE_UNAVAILABLE,
    code: "nango_unavailable",
};

/// Nango performs the request, but its response is lost.
pub(super) const ANSWER_LOST: FaultCase = FaultCase {
    fault: || json!({ "lose_answer": true }),
    status: StatusCode::SERVICE_UNAVAILABLE,
    code: "nango_unavailable",
};

impl FaultCase {
    async fn begin(&self, app: &TestApp) {
        let mut fault = (self.fault)();
        fault["consent"] = json!("allow");
        app.faults(fault).await;
    }

    fn is_reported(&self, (status, body): &(StatusCode, Value)) {
        assert_eq!((*status, text(body, "code")), (self.status, self.code));
    }
}

/// Checks a connect: Nango does not create the session, and later does not confirm the grant.
pub(super) async fn connect_during(app: TestApp, trouble: FaultCase) {
    let ada = app.user("ada").await;
    trouble.begin(&app).await;
    trouble.is_reported(&ada.call(Method::POST, "/gmail/connect", None).await);
    let list = ada.get("/connections").await;
    let id = text(&list["connections"][0], "id");
    assert_eq!(
        describe_status(&ada, id).await,
        "error nango_unavailable failed"
    );

    app.faults(json!({})).await;
    let started = ada.connect("gmail").await;
    assert_eq!(started["connection_id"], id);
    trouble.begin(&app).await;
    popup(&app, &started).await;
    assert_eq!(
        describe_status(&ada, id).await,
        "pending awaiting_authorization -"
    );

    app.faults(json!({})).await;
    ada.wait_until(id, "connected").await;
    assert_eq!(
        event_kinds(&ada, id).await,
        "attempt_started attempt_failed attempt_started connected"
    );
    wait_until_settled(&app).await;
}

#[tokio::test]
async fn connect_nango_down() {
    connect_during(TestApp::new().await, DOWN).await;
}

#[tokio::test]
async fn connect_nango_slow() {
    connect_during(TestApp::new().await, SLOW).await;
}

#[tokio::test]
async fn connect_nango_429() {
    connect_during(TestApp::new().await, RATE_LIMITED).await;
}

#[tokio::test]
async fn connect_nango_500() {
    connect_during(TestApp::new().await, FAILING).await;
}

#[tokio::test]
async fn connect_answer_lost() {
    connect_during(TestApp::new().await, ANSWER_LOST).await;
}

/// Checks a reconnect: a working connection stays usable, and the reconnect completes after Nango has recovered.
async fn reconnect_during(trouble: FaultCase) {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    let id = text(&connected, "id");
    trouble.begin(&app).await;
    let path = format!("/connections/{id}/reconnect");
    trouble.is_reported(&ada.call(Method::POST, &path, None).await);
    assert_eq!(describe_status(&ada, id).await, "connected - failed");

    app.faults(json!({})).await;
    let started = reconnect(&ada, id).await;
    trouble.begin(&app).await;
    popup(&app, &started).await;
    assert_eq!(describe_status(&ada, id).await, "connected - -");

    app.faults(json!({})).await;
    let after = ada.get(&format!("/connections/{id}?wait=25")).await;
    assert_eq!(after["attempt"]["outcome"], "succeeded");
    assert_eq!(
        after["nango_connection_id"],
        connected["nango_connection_id"]
    );
    assert_eq!(
        event_kinds(&ada, id).await,
        "attempt_started connected attempt_started attempt_failed attempt_started reauthorized"
    );
    wait_until_settled(&app).await;
}

#[tokio::test]
async fn reconnect_nango_down() {
    reconnect_during(DOWN).await;
}

#[tokio::test]
async fn reconnect_nango_slow() {
    reconnect_during(SLOW).await;
}

#[tokio::test]
async fn reconnect_nango_429() {
    reconnect_during(RATE_LIMITED).await;
}

#[tokio::test]
async fn reconnect_nango_500() {
    reconnect_during(FAILING).await;
}

#[tokio::test]
async fn reconnect_answer_lost() {
    reconnect_during(ANSWER_LOST).await;
}

/// Checks refreshes: neither a check nor a sweep changes anything while Nango does not respond.
async fn refresh_during(trouble: FaultCase) {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    let id = text(&connected, "id");
    app.advance(TimeDelta::minutes(5));
    trouble.begin(&app).await;
    trouble.is_reported(&check(&ada, id).await);
    let service = app.service().await;
    let stop = CancellationToken::new();
    assert!(service.sweeper.sweep(IMMEDIATE_SWEEP, &stop).await.is_err());
    let during = ada.connection(id).await;
    assert_eq!(
        (&during["status"], &during["failing_since"]),
        (&json!("connected"), &json!(null))
    );

    app.faults(json!({})).await;
    let (status, after) = check(&ada, id).await;
    assert_eq!(
        (status, &after["status"]),
        (StatusCode::OK, &json!("connected"))
    );
    assert_eq!(event_kinds(&ada, id).await, "attempt_started connected");
    wait_until_settled(&app).await;
}

#[tokio::test]
async fn refresh_nango_down() {
    refresh_during(DOWN).await;
}

#[tokio::test]
async fn refresh_nango_slow() {
    refresh_during(SLOW).await;
}

#[tokio::test]
async fn refresh_nango_429() {
    refresh_during(RATE_LIMITED).await;
}

#[tokio::test]
async fn refresh_nango_500() {
    refresh_during(FAILING).await;
}

#[tokio::test]
async fn refresh_answer_lost() {
    refresh_during(ANSWER_LOST).await;
}

/// Checks a disconnect: it takes effect immediately, and Nango's connection is deleted when Nango confirms it.
async fn disconnect_during(trouble: FaultCase) {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    let id = text(&connected, "id");
    trouble.begin(&app).await;
    let (status, ended) = ada.disconnect("gmail", "").await;
    assert_eq!(
        (status, &ended["status"], &ended["upstream_deleted"]),
        (StatusCode::OK, &json!("disconnected"), &json!(false))
    );
    assert_eq!(
        describe_status(&ada, id).await,
        "disconnected user_disconnected succeeded"
    );

    wait_until_settled(&app).await;
    assert_eq!(app.nango_connections().await.len(), 0);
    let (_, again) = ada.disconnect("gmail", "").await;
    assert_eq!(again["upstream_deleted"], true);
    assert_eq!(
        event_kinds(&ada, id).await,
        "attempt_started connected disconnected"
    );
}

#[tokio::test]
async fn disconnect_nango_down() {
    disconnect_during(DOWN).await;
}

#[tokio::test]
async fn disconnect_nango_slow() {
    disconnect_during(SLOW).await;
}

#[tokio::test]
async fn disconnect_nango_429() {
    disconnect_during(RATE_LIMITED).await;
}

#[tokio::test]
async fn disconnect_nango_500() {
    disconnect_during(FAILING).await;
}

#[tokio::test]
async fn disconnect_answer_lost() {
    disconnect_during(ANSWER_LOST).await;
}
