//! The table's first column with a Nango that sends no webhook: it refuses the service's address.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::killed::replica_process;
use super::nango::{ANSWER_LOST, DOWN, FAILING, RATE_LIMITED, SLOW, connect_meets};
use super::people::{consent_never_given, goes_away, hold, time_runs_out, two_grants, two_tabs};
use super::{chain, comes_about, popup, reconnect, settled, stand, text};
use crate::house::House;

#[tokio::test]
async fn connect_is_polled_when_nango_is_down() {
    connect_meets(House::without_webhooks().await, DOWN).await;
}

#[tokio::test]
async fn connect_is_polled_when_nango_is_slow() {
    connect_meets(House::without_webhooks().await, SLOW).await;
}

#[tokio::test]
async fn connect_is_polled_when_nango_limits_its_rate() {
    connect_meets(House::without_webhooks().await, RATE_LIMITED).await;
}

#[tokio::test]
async fn connect_is_polled_when_nango_fails() {
    connect_meets(House::without_webhooks().await, FAILING).await;
}

#[tokio::test]
async fn connect_is_polled_when_an_answer_is_lost() {
    connect_meets(House::without_webhooks().await, ANSWER_LOST).await;
}

#[tokio::test]
async fn connect_is_polled_when_consent_is_never_given() {
    consent_never_given(House::without_webhooks().await).await;
}

#[tokio::test]
async fn connect_is_polled_when_two_tabs_are_open() {
    two_tabs(House::without_webhooks().await).await;
}

#[tokio::test]
async fn connect_is_polled_when_a_session_is_granted_twice() {
    two_grants(House::without_webhooks().await).await;
}

#[tokio::test]
async fn connect_is_found_by_the_sweep_when_the_tab_is_closed() {
    let house = House::without_webhooks().await;
    let ada = house.user("ada").await;
    let connect = || {
        ada.request(Method::POST, "/gmail/connect")
            .header("idempotency-key", "the same")
    };
    hold(&house, "POST /connect/sessions").await;
    goes_away(&house, connect(), ("POST", "/connect/sessions")).await;
    comes_about("the answer is kept", async || {
        connect().send().await.unwrap().status() == StatusCode::OK
    })
    .await;
    let begun: Value = connect().send().await.unwrap().json().await.unwrap();
    popup(&house, &begun).await;
    assert_eq!(house.sweep().await.found, 1);
    let id = text(&begun, "connection_id");
    assert_eq!(stand(&ada, id).await, "connected - succeeded");
    assert_eq!(chain(&ada, id).await, "attempt_started connected");
    settled(&house).await;
}

#[tokio::test]
async fn denied_connect_expires_when_webhooks_are_refused() {
    let house = House::without_webhooks().await;
    let ada = house.user("ada").await;
    house.faults(json!({ "consent": "deny" })).await;
    let begun = ada.connect("gmail").await;
    popup(&house, &begun).await;
    let id = text(&begun, "connection_id");
    assert_eq!(stand(&ada, id).await, "pending awaiting_authorization -");
    time_runs_out(&house).await;
    assert_eq!(stand(&ada, id).await, "error attempt_expired expired");
    settled(&house).await;
}

/// An older Nango refuses the session's own address, and still sends webhooks to the environment's.
#[tokio::test]
async fn denied_reconnect_is_matched_by_nangos_connection_id() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let old = |consent: &str| json!({ "consent": consent, "refuse_webhook_url_override": true });
    house.faults(old("allow")).await;
    let begun = ada.connect("gmail").await;
    popup(&house, &begun).await;
    let id = text(&begun, "connection_id");
    ada.until(id, "connected").await;
    house.faults(old("deny")).await;
    popup(&house, &reconnect(&ada, id).await).await;
    let after = ada.get(&format!("/connections/{id}?wait=25")).await;
    assert_eq!(after["attempt"]["error_code"], "authorization_denied");
    assert_eq!(stand(&ada, id).await, "connected - failed");
    settled(&house).await;
}

#[tokio::test]
async fn refused_webhook_url_costs_one_call_more_at_first_only() {
    let house = House::without_webhooks().await;
    let ada = house.user("ada").await;
    for (connector, calls) in [("gmail", 2), ("github", 3), ("gitlab", 4)] {
        ada.connect(connector).await;
        let made = house.nango_calls("POST", "/connect/sessions").await;
        assert_eq!(made, calls, "{connector}");
    }
}

#[tokio::test]
async fn refused_webhook_url_is_logged_once_with_the_remedy() {
    let mut house = House::now().await;
    house.refuse_webhooks().await;
    let (process, url) = replica_process(&house).await;
    let ada = house.user("ada").await.at_url(&url);
    for connector in ["gmail", "github", "gitlab"] {
        ada.connect(connector).await;
    }
    let said = process.said();
    let lines: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("nango refuses the webhook url"))
        .collect();
    assert_eq!(lines.len(), 1, "{said}");
    for part in [
        "This webhook URL is not allowed.",
        "NANGO_OUTBOUND_URL_POLICY",
    ] {
        assert!(lines[0].contains(part), "{lines:?}");
    }
}
