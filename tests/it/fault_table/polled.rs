//! The table's first column with a Nango that sends no webhooks, because it rejects the service's address.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::nango::{ANSWER_LOST, DOWN, FAILING, RATE_LIMITED, SLOW, connect_during};
use super::process_killed::replica_process;
use super::user_behaviour::{
    cancel_request, consent_never_given, expire_attempt, hold_response, two_grants, two_tabs,
};
use super::{describe_status, event_kinds, popup, reconnect, text, wait_until_settled};
use crate::eventually::eventually;
use crate::test_app::{TestApp, User};

#[tokio::test]
async fn connect_is_polled_when_nango_is_down() {
    connect_during(TestApp::without_webhooks().await, DOWN).await;
}

#[tokio::test]
async fn connect_is_polled_when_nango_is_slow() {
    connect_during(TestApp::without_webhooks().await, SLOW).await;
}

#[tokio::test]
async fn connect_is_polled_when_nango_limits_its_rate() {
    connect_during(TestApp::without_webhooks().await, RATE_LIMITED).await;
}

#[tokio::test]
async fn connect_is_polled_when_nango_fails() {
    connect_during(TestApp::without_webhooks().await, FAILING).await;
}

#[tokio::test]
async fn connect_is_polled_when_an_answer_is_lost() {
    connect_during(TestApp::without_webhooks().await, ANSWER_LOST).await;
}

#[tokio::test]
async fn connect_is_polled_when_consent_is_never_given() {
    consent_never_given(TestApp::without_webhooks().await).await;
}

#[tokio::test]
async fn connect_is_polled_when_two_tabs_are_open() {
    two_tabs(TestApp::without_webhooks().await).await;
}

#[tokio::test]
async fn connect_is_polled_when_a_session_is_granted_twice() {
    two_grants(TestApp::without_webhooks().await).await;
}

#[tokio::test]
async fn connect_is_found_by_the_sweep_when_the_tab_is_closed() {
    let app = TestApp::without_webhooks().await;
    let ada = app.user("ada").await;
    let connect = || {
        ada.request(Method::POST, "/gmail/connect")
            .header("idempotency-key", "the same")
    };
    hold_response(&app, "POST /connect/sessions").await;
    cancel_request(&app, connect(), ("POST", "/connect/sessions")).await;
    eventually(async || connect().send().await.unwrap().status() == StatusCode::OK).await;
    let started: Value = connect().send().await.unwrap().json().await.unwrap();
    popup(&app, &started).await;
    assert_eq!(app.sweep().await.found, 1);
    let id = text(&started, "connection_id");
    assert_eq!(describe_status(&ada, id).await, "connected - succeeded");
    assert_eq!(event_kinds(&ada, id).await, "attempt_started connected");
    wait_until_settled(&app).await;
}

#[tokio::test]
async fn denied_connect_expires_when_webhooks_are_refused() {
    let app = TestApp::without_webhooks().await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "deny" })).await;
    let started = ada.connect("gmail").await;
    popup(&app, &started).await;
    let id = text(&started, "connection_id");
    assert_eq!(
        describe_status(&ada, id).await,
        "pending awaiting_authorization -"
    );
    expire_attempt(&app).await;
    assert_eq!(
        describe_status(&ada, id).await,
        "error attempt_expired expired"
    );
    wait_until_settled(&app).await;
}

/// Starts a connect in two tabs, of which the first is granted and not reported.
async fn granted_superseded_tab(app: &TestApp, ada: &User<'_>) {
    app.faults(json!({ "consent": "allow" })).await;
    let superseded = ada.connect("gmail").await;
    ada.connect("gmail").await;
    popup(app, &superseded).await;
    assert_eq!(app.nango_connections().await.len(), 1);
}

#[tokio::test]
async fn disconnect_deletes_grant_of_superseded_tab() {
    let app = TestApp::without_webhooks().await;
    let ada = app.user("ada").await;
    granted_superseded_tab(&app, &ada).await;
    let (_, ended) = ada.disconnect("gmail", "").await;
    assert_eq!(ended["upstream_deleted"], true);
    assert_eq!(app.nango_connections().await, [""; 0]);
    wait_until_settled(&app).await;
}

#[tokio::test]
async fn disconnect_deletes_second_grant_of_one_session() {
    let app = TestApp::without_webhooks().await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "allow" })).await;
    let started = ada.connect("gmail").await;
    popup(&app, &started).await;
    ada.wait_until(text(&started, "connection_id"), "connected")
        .await;
    popup(&app, &started).await;
    assert_eq!(app.nango_connections().await.len(), 2);
    let (_, ended) = ada.disconnect("gmail", "").await;
    assert_eq!(ended["upstream_deleted"], true);
    assert_eq!(app.nango_connections().await, [""; 0]);
    wait_until_settled(&app).await;
}

#[tokio::test]
async fn disconnect_is_unconfirmed_until_all_grants_are_listed() {
    let app = TestApp::without_webhooks().await;
    let ada = app.user("ada").await;
    granted_superseded_tab(&app, &ada).await;
    let unreadable = json!({ "connection_id": app.nango_connections().await[0] });
    for faults in [
        json!({ "only": "patchbay_connection", "status": 500 }),
        json!({ "odd_list_entries": [unreadable] }),
    ] {
        app.faults(faults).await;
        let (_, ended) = ada.disconnect("gmail", "").await;
        assert_eq!(ended["status"], "disconnected");
        assert_eq!(ended["upstream_deleted"], false);
    }
    app.faults(json!({})).await;
    let (_, ended) = ada.disconnect("gmail", "").await;
    assert_eq!(ended["upstream_deleted"], true);
    assert_eq!(app.nango_connections().await, [""; 0]);
    wait_until_settled(&app).await;
}

/// An older Nango rejects the session's own address, and still sends webhooks to the environment's.
#[tokio::test]
async fn denied_reconnect_is_matched_by_nangos_connection_id() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let old = |consent: &str| json!({ "consent": consent, "refuse_webhook_url_override": true });
    app.faults(old("allow")).await;
    let started = ada.connect("gmail").await;
    popup(&app, &started).await;
    let id = text(&started, "connection_id");
    ada.wait_until(id, "connected").await;
    app.faults(old("deny")).await;
    popup(&app, &reconnect(&ada, id).await).await;
    let after = ada.get(&format!("/connections/{id}?wait=25")).await;
    assert_eq!(after["attempt"]["error_code"], "authorization_denied");
    assert_eq!(describe_status(&ada, id).await, "connected - failed");
    wait_until_settled(&app).await;
}

#[tokio::test]
async fn refused_webhook_url_costs_one_call_more_at_first_only() {
    let app = TestApp::without_webhooks().await;
    let ada = app.user("ada").await;
    for (connector, calls) in [("gmail", 2), ("github", 3), ("gitlab", 4)] {
        ada.connect(connector).await;
        let made = app.nango_calls("POST", "/connect/sessions").await;
        assert_eq!(made, calls, "{connector}");
    }
}

#[tokio::test]
async fn refused_webhook_url_is_logged_once_with_the_remedy() {
    let mut app = TestApp::with_system_clock().await;
    app.refuse_webhooks().await;
    let (process, url) = replica_process(&app).await;
    let ada = app.user("ada").await.at_url(&url);
    for connector in ["gmail", "github", "gitlab"] {
        ada.connect(connector).await;
    }
    let text = process.output();
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("nango refuses the webhook url"))
        .collect();
    assert_eq!(lines.len(), 1, "{text}");
    for part in [
        "This webhook URL is not allowed.",
        "NANGO_OUTBOUND_URL_POLICY",
    ] {
        assert!(lines[0].contains(part), "{lines:?}");
    }
}
