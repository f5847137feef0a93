//! A Nango that is down, slow, out of patience or out of order, or whose answer gets lost.

use chrono::TimeDelta;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{chain, check, popup, reconnect, settled, stand, text};
use crate::house::{AT_ONCE, House};

/// What is wrong with Nango, and what a user who needs it is told.
pub(super) struct Trouble {
    fault: fn() -> Value,
    status: StatusCode,
    code: &'static str,
}

pub(super) const DOWN: Trouble = Trouble {
    fault: || json!({ "hang_up": true }),
    status: StatusCode::SERVICE_UNAVAILABLE,
    code: "nango_unavailable",
};

/// Slower than `NANGO_TIMEOUT_SECONDS`.
pub(super) const SLOW: Trouble = Trouble {
    fault: || json!({ "latency_ms": 10_000 }),
    status: StatusCode::GATEWAY_TIMEOUT,
    code: "nango_timeout",
};

pub(super) const RATE_LIMITED: Trouble = Trouble {
    fault: || json!({ "status": 429 }),
    status: StatusCode::SERVICE_UNAVAILABLE,
    code: "nango_rate_limited",
};

pub(super) const FAILING: Trouble = Trouble {
    fault: || json!({ "status": 500 }),
    status: StatusCode::SERVICE_UNAVAILABLE,
    code: "nango_unavailable",
};

/// What was asked for is done, and nobody hears of it.
pub(super) const ANSWER_LOST: Trouble = Trouble {
    fault: || json!({ "lose_answer": true }),
    status: StatusCode::SERVICE_UNAVAILABLE,
    code: "nango_unavailable",
};

impl Trouble {
    async fn begin(&self, house: &House) {
        let mut fault = (self.fault)();
        fault["consent"] = json!("allow");
        house.faults(fault).await;
    }

    fn is_told(&self, (status, body): &(StatusCode, Value)) {
        assert_eq!((*status, text(body, "code")), (self.status, self.code));
    }
}

/// Nango does not begin the session; and later it does not confirm the grant.
pub(super) async fn connect_meets(house: House, trouble: Trouble) {
    let ada = house.user("ada").await;
    trouble.begin(&house).await;
    trouble.is_told(&ada.call(Method::POST, "/gmail/connect", None).await);
    let list = ada.get("/connections").await;
    let id = text(&list["connections"][0], "id");
    assert_eq!(stand(&ada, id).await, "error nango_unavailable failed");

    house.faults(json!({})).await;
    let begun = ada.connect("gmail").await;
    assert_eq!(begun["connection_id"], id);
    trouble.begin(&house).await;
    popup(&house, &begun).await;
    assert_eq!(stand(&ada, id).await, "pending awaiting_authorization -");

    house.faults(json!({})).await;
    ada.until(id, "connected").await;
    assert_eq!(
        chain(&ada, id).await,
        "attempt_started attempt_failed attempt_started connected"
    );
    settled(&house).await;
}

#[tokio::test]
async fn connect_nango_down() {
    connect_meets(House::new().await, DOWN).await;
}

#[tokio::test]
async fn connect_nango_slow() {
    connect_meets(House::new().await, SLOW).await;
}

#[tokio::test]
async fn connect_nango_429() {
    connect_meets(House::new().await, RATE_LIMITED).await;
}

#[tokio::test]
async fn connect_nango_500() {
    connect_meets(House::new().await, FAILING).await;
}

#[tokio::test]
async fn connect_answer_lost() {
    connect_meets(House::new().await, ANSWER_LOST).await;
}

/// What worked goes on working, and the reconnect is done when Nango is back.
async fn reconnect_meets(trouble: Trouble) {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let connected = ada.connected("gmail").await;
    let id = text(&connected, "id");
    trouble.begin(&house).await;
    let path = format!("/connections/{id}/reconnect");
    trouble.is_told(&ada.call(Method::POST, &path, None).await);
    assert_eq!(stand(&ada, id).await, "connected - failed");

    house.faults(json!({})).await;
    let begun = reconnect(&ada, id).await;
    trouble.begin(&house).await;
    popup(&house, &begun).await;
    assert_eq!(stand(&ada, id).await, "connected - -");

    house.faults(json!({})).await;
    let after = ada.get(&format!("/connections/{id}?wait=25")).await;
    assert_eq!(after["attempt"]["outcome"], "succeeded");
    assert_eq!(
        after["nango_connection_id"],
        connected["nango_connection_id"]
    );
    assert_eq!(
        chain(&ada, id).await,
        "attempt_started connected attempt_started attempt_failed attempt_started reauthorized"
    );
    settled(&house).await;
}

#[tokio::test]
async fn reconnect_nango_down() {
    reconnect_meets(DOWN).await;
}

#[tokio::test]
async fn reconnect_nango_slow() {
    reconnect_meets(SLOW).await;
}

#[tokio::test]
async fn reconnect_nango_429() {
    reconnect_meets(RATE_LIMITED).await;
}

#[tokio::test]
async fn reconnect_nango_500() {
    reconnect_meets(FAILING).await;
}

#[tokio::test]
async fn reconnect_answer_lost() {
    reconnect_meets(ANSWER_LOST).await;
}

/// Neither a check nor a sweep makes anything of Nango's silence.
async fn refresh_meets(trouble: Trouble) {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let connected = ada.connected("gmail").await;
    let id = text(&connected, "id");
    house.pass(TimeDelta::minutes(5));
    trouble.begin(&house).await;
    trouble.is_told(&check(&ada, id).await);
    let service = house.service().await;
    let stop = CancellationToken::new();
    assert!(service.sweep(AT_ONCE, &stop).await.is_err());
    let during = ada.connection(id).await;
    assert_eq!(
        (&during["status"], &during["failing_since"]),
        (&json!("connected"), &json!(null))
    );

    house.faults(json!({})).await;
    let (status, after) = check(&ada, id).await;
    assert_eq!(
        (status, &after["status"]),
        (StatusCode::OK, &json!("connected"))
    );
    assert_eq!(chain(&ada, id).await, "attempt_started connected");
    settled(&house).await;
}

#[tokio::test]
async fn refresh_nango_down() {
    refresh_meets(DOWN).await;
}

#[tokio::test]
async fn refresh_nango_slow() {
    refresh_meets(SLOW).await;
}

#[tokio::test]
async fn refresh_nango_429() {
    refresh_meets(RATE_LIMITED).await;
}

#[tokio::test]
async fn refresh_nango_500() {
    refresh_meets(FAILING).await;
}

#[tokio::test]
async fn refresh_answer_lost() {
    refresh_meets(ANSWER_LOST).await;
}

/// The user has disconnected at once; Nango's part goes when Nango says so.
async fn disconnect_meets(trouble: Trouble) {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let connected = ada.connected("gmail").await;
    let id = text(&connected, "id");
    trouble.begin(&house).await;
    let (status, ended) = ada.disconnect("gmail", "").await;
    assert_eq!(
        (status, &ended["status"], &ended["upstream_deleted"]),
        (StatusCode::OK, &json!("disconnected"), &json!(false))
    );
    assert_eq!(
        stand(&ada, id).await,
        "disconnected user_disconnected succeeded"
    );

    settled(&house).await;
    assert_eq!(house.nango_connections().await.len(), 0);
    let (_, again) = ada.disconnect("gmail", "").await;
    assert_eq!(again["upstream_deleted"], true);
    assert_eq!(
        chain(&ada, id).await,
        "attempt_started connected disconnected"
    );
}

#[tokio::test]
async fn disconnect_nango_down() {
    disconnect_meets(DOWN).await;
}

#[tokio::test]
async fn disconnect_nango_slow() {
    disconnect_meets(SLOW).await;
}

#[tokio::test]
async fn disconnect_nango_429() {
    disconnect_meets(RATE_LIMITED).await;
}

#[tokio::test]
async fn disconnect_nango_500() {
    disconnect_meets(FAILING).await;
}

#[tokio::test]
async fn disconnect_answer_lost() {
    disconnect_meets(ANSWER_LOST).await;
}
