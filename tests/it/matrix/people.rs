//! People who close the tab, say no, say nothing, open two tabs, or grant twice.

use chrono::TimeDelta;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use super::{
    answered, chain, check, comes_about, nango_is_called, noticed, popup, reconnect, revoked,
    settled, stand, text, unasked,
};
use crate::house::House;

/// The client goes away while Nango is working on what it asked for.
pub(super) async fn goes_away(
    house: &House,
    request: RequestBuilder,
    (method, call): (&str, &str),
) {
    let asking = tokio::spawn(request.send());
    nango_is_called(house, method, call).await;
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
}

/// Nango does such calls at once, and answers them only after a while.
pub(super) async fn hold(house: &House, call: &str) {
    let faults = json!({ "consent": "allow", "only": call, "hold_answers_ms": 500 });
    house.faults(faults).await;
}

#[tokio::test]
async fn connect_tab_closed() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let connect = || {
        ada.request(Method::POST, "/gmail/connect")
            .header("idempotency-key", "the same")
    };
    hold(&house, "POST /connect/sessions").await;
    let call = ("POST", "/connect/sessions");
    goes_away(&house, connect(), call).await;
    // What was begun goes on, and its answer waits for whoever comes back with the key.
    comes_about("the answer is kept", async || {
        connect().send().await.unwrap().status() == StatusCode::OK
    })
    .await;
    let begun: Value = connect().send().await.unwrap().json().await.unwrap();
    popup(&house, &begun).await;
    // The tab is closed again: the webhook alone tells.
    comes_about("connected", async || {
        unasked(&house, "status").await == "connected"
    })
    .await;
    let id = text(&begun, "connection_id");
    assert_eq!(chain(&ada, id).await, "attempt_started connected");
    settled(&house).await;
}

#[tokio::test]
async fn reconnect_tab_closed() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let connected = ada.connected("gmail").await;
    let id = text(&connected, "id");
    hold(&house, "POST /connect/sessions/reconnect").await;
    let path = format!("/connections/{id}/reconnect");
    let request = ada.request(Method::POST, &path);
    goes_away(&house, request, ("POST", "/connect/sessions/reconnect")).await;
    assert_eq!(stand(&ada, id).await, "connected - -");
    let begun = reconnect(&ada, id).await;
    let version: i32 = unasked(&house, "version").await.parse().unwrap();
    popup(&house, &begun).await;
    comes_about("authorized again", async || {
        unasked(&house, "version").await == (version + 1).to_string()
    })
    .await;
    assert_eq!(
        chain(&ada, id).await,
        "attempt_started connected attempt_started attempt_started reauthorized"
    );
    settled(&house).await;
}

#[tokio::test]
async fn refresh_tab_closed() {
    let house = House::new().await;
    let (ada, id) = revoked(&house).await;
    hold(&house, "force_refresh").await;
    let path = format!("/connections/{id}/check");
    let request = ada.request(Method::POST, &path);
    goes_away(&house, request, ("GET", "force_refresh")).await;
    house.faults(json!({})).await;
    house.pass(TimeDelta::minutes(2));
    house.sweep().await;
    assert_eq!(
        stand(&ada, &id).await,
        "error needs_reauthorization succeeded"
    );
    assert_eq!(
        chain(&ada, &id).await,
        "attempt_started connected needs_reauthorization"
    );
    settled(&house).await;
}

#[tokio::test]
async fn disconnect_tab_closed() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let connected = ada.connected("gmail").await;
    hold(&house, "DELETE").await;
    let request = ada.request(Method::DELETE, "/gmail/disconnect");
    goes_away(&house, request, ("DELETE", "/connections/")).await;
    let id = text(&connected, "id");
    assert_eq!(
        stand(&ada, id).await,
        "disconnected user_disconnected succeeded"
    );
    // Nobody has to come back for Nango's confirmation to be taken.
    comes_about("confirmed", async || {
        let (_, again) = ada.disconnect("gmail", "").await;
        again["upstream_deleted"] == true
    })
    .await;
    assert_eq!(
        chain(&ada, id).await,
        "attempt_started connected disconnected"
    );
    settled(&house).await;
}

#[tokio::test]
async fn connect_consent_denied() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    house.faults(json!({ "consent": "deny" })).await;
    let begun = ada.connect("gmail").await;
    popup(&house, &begun).await;
    let id = text(&begun, "connection_id");
    let denied = ada.get(&format!("/connections/{id}?wait=25")).await;
    assert_eq!(
        denied["attempt"]["error_message"],
        "Access was not granted: The user denied the request"
    );
    assert_eq!(stand(&ada, id).await, "error authorization_denied failed");
    // The popup is still open, and its session still good: the user thinks again.
    house.faults(json!({ "consent": "allow" })).await;
    popup(&house, &begun).await;
    ada.until(id, "connected").await;
    assert_eq!(stand(&ada, id).await, "connected - succeeded");
    assert_eq!(
        chain(&ada, id).await,
        "attempt_started attempt_failed connected"
    );
    settled(&house).await;
}

#[tokio::test]
async fn reconnect_consent_denied() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let connected = ada.connected("gmail").await;
    let id = text(&connected, "id");
    house.faults(json!({ "consent": "deny" })).await;
    popup(&house, &reconnect(&ada, id).await).await;
    let after = ada.get(&format!("/connections/{id}?wait=25")).await;
    assert_eq!(after["attempt"]["error_code"], "authorization_denied");
    assert_eq!(stand(&ada, id).await, "connected - failed");
    assert_eq!(
        after["nango_connection_id"],
        connected["nango_connection_id"]
    );
    let (status, works) = check(&ada, id).await;
    assert_eq!(
        (status, &works["status"]),
        (StatusCode::OK, &json!("connected"))
    );
    assert_eq!(
        chain(&ada, id).await,
        "attempt_started connected attempt_started attempt_failed"
    );
    settled(&house).await;
}

#[tokio::test]
async fn disconnect_consent_denied() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    house.faults(json!({ "consent": "deny" })).await;
    let begun = ada.connect("gmail").await;
    ada.disconnect("gmail", "").await;
    popup(&house, &begun).await;
    assert_eq!(answered(&house).await, [204]);
    let id = text(&begun, "connection_id");
    assert_eq!(
        stand(&ada, id).await,
        "disconnected user_disconnected superseded"
    );
    assert_eq!(chain(&ada, id).await, "attempt_started disconnected");
    settled(&house).await;
}

/// The time for which Nango lets a user begin is over.
pub(super) async fn time_runs_out(house: &House) {
    house.pass(TimeDelta::minutes(31));
    house.service().await.expire_attempts().await.unwrap();
    let mut sql = house.sql().await;
    // The running replica may be at it instead.
    comes_about("no attempt is open", async || {
        let open = "select count(*) from connect_attempt where outcome is null";
        let open: i64 = sqlx::query_scalar(open).fetch_one(&mut sql).await.unwrap();
        open == 0
    })
    .await;
}

#[tokio::test]
async fn connect_consent_never_given() {
    consent_never_given(House::new().await).await;
}

pub(super) async fn consent_never_given(house: House) {
    let ada = house.user("ada").await;
    let begun = ada.connect("gmail").await;
    let id = text(&begun, "connection_id");
    popup(&house, &begun).await;
    house.pass(TimeDelta::minutes(29));
    assert_eq!(house.service().await.expire_attempts().await.unwrap(), 0);
    assert_eq!(stand(&ada, id).await, "pending awaiting_authorization -");
    time_runs_out(&house).await;
    assert_eq!(stand(&ada, id).await, "error attempt_expired expired");
    ada.connected("gmail").await;
    assert_eq!(
        chain(&ada, id).await,
        "attempt_started attempt_failed attempt_started connected"
    );
    settled(&house).await;
}

#[tokio::test]
async fn reconnect_consent_never_given() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let connected = ada.connected("gmail").await;
    let id = text(&connected, "id");
    house.faults(json!({})).await;
    popup(&house, &reconnect(&ada, id).await).await;
    time_runs_out(&house).await;
    assert_eq!(stand(&ada, id).await, "connected - expired");
    let (_, works) = check(&ada, id).await;
    assert_eq!(works["status"], "connected");
    assert_eq!(
        chain(&ada, id).await,
        "attempt_started connected attempt_started attempt_failed"
    );
    settled(&house).await;
}

#[tokio::test]
async fn disconnect_consent_never_given() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let begun = ada.connect("gmail").await;
    let (_, ended) = ada.disconnect("gmail", "").await;
    assert_eq!(ended["upstream_deleted"], true);
    time_runs_out(&house).await;
    let id = text(&begun, "connection_id");
    assert_eq!(
        stand(&ada, id).await,
        "disconnected user_disconnected superseded"
    );
    assert_eq!(chain(&ada, id).await, "attempt_started disconnected");
    settled(&house).await;
}

#[tokio::test]
async fn connect_two_tabs() {
    two_tabs(House::new().await).await;
}

pub(super) async fn two_tabs(house: House) {
    let ada = house.user("ada").await;
    house.faults(json!({ "consent": "allow" })).await;
    let (one, other) = tokio::join!(ada.connect("gmail"), ada.connect("gmail"));
    assert_eq!(one["connection_id"], other["connection_id"]);
    let id = text(&one, "connection_id").to_owned();
    let id = id.as_str();
    let newest = ada.connection(id).await;
    let (superseded, open) = if newest["attempt"]["id"] == other["attempt_id"] {
        (one, other)
    } else {
        (other, one)
    };
    // The tab that was overtaken is granted first: that counts, and ends the other's wait.
    let path = format!("/connections/{id}?wait=25");
    let waited = if house.has_webhooks() {
        tokio::join!(ada.get(&path), popup(&house, &superseded)).0
    } else {
        // A poll looks for the newest attempt only.
        popup(&house, &superseded).await;
        house.sweep().await;
        ada.connection(id).await
    };
    assert_eq!(waited["status"], "connected");
    house.pass(TimeDelta::seconds(1));
    popup(&house, &open).await;
    noticed(&house).await;
    comes_about("the newest is kept alone", async || {
        let held = house.nango_connections().await;
        held.len() == 1 && held[0] != text(&waited, "nango_connection_id")
    })
    .await;
    assert_eq!(stand(&ada, id).await, "connected - succeeded");
    assert_eq!(
        chain(&ada, id).await,
        "attempt_started attempt_started connected reauthorized"
    );
    settled(&house).await;
}

#[tokio::test]
async fn reconnect_two_tabs() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let connected = ada.connected("gmail").await;
    let id = text(&connected, "id");
    let one = reconnect(&ada, id).await;
    let other = reconnect(&ada, id).await;
    popup(&house, &one).await;
    popup(&house, &other).await;
    answered(&house).await;
    let after = ada.connection(id).await;
    assert_eq!(
        after["nango_connection_id"],
        connected["nango_connection_id"]
    );
    assert_eq!(stand(&ada, id).await, "connected - succeeded");
    let chain = chain(&ada, id).await;
    let begun = "attempt_started connected attempt_started attempt_started reauthorized";
    assert!(chain.starts_with(begun), "{chain}");
    settled(&house).await;
}

#[tokio::test]
async fn refresh_two_tabs() {
    let house = House::new().await;
    let (ada, id) = revoked(&house).await;
    let (one, other) = tokio::join!(check(&ada, &id), check(&ada, &id));
    for (status, body) in [one, other] {
        assert_eq!(status, StatusCode::OK, "{body}");
        assert_eq!(body["status_reason"], "needs_reauthorization");
    }
    assert_eq!(
        chain(&ada, &id).await,
        "attempt_started connected needs_reauthorization"
    );
    settled(&house).await;
}

#[tokio::test]
async fn disconnect_two_tabs() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let connected = ada.connected("gmail").await;
    let (one, other) = tokio::join!(ada.disconnect("gmail", ""), ada.disconnect("gmail", ""));
    for (status, body) in [one, other] {
        assert_eq!(
            (status, &body["status"]),
            (StatusCode::OK, &json!("disconnected"))
        );
    }
    assert_eq!(house.nango_connections().await.len(), 0);
    let (_, again) = ada.disconnect("gmail", "").await;
    assert_eq!(again["upstream_deleted"], true);
    assert_eq!(
        chain(&ada, text(&connected, "id")).await,
        "attempt_started connected disconnected"
    );
    settled(&house).await;
}

#[tokio::test]
async fn connect_two_grants() {
    two_grants(House::new().await).await;
}

pub(super) async fn two_grants(house: House) {
    let ada = house.user("ada").await;
    // Both in the same instant, and each told of twice.
    let faults = json!({ "consent": "allow", "duplicate_webhooks": true });
    house.faults(faults).await;
    let begun = ada.connect("gmail").await;
    tokio::join!(popup(&house, &begun), popup(&house, &begun));
    noticed(&house).await;
    comes_about("one of the two is kept", async || {
        house.nango_connections().await.len() == 1
    })
    .await;
    let id = text(&begun, "connection_id");
    assert_eq!(stand(&ada, id).await, "connected - succeeded");
    let kept = ada.connection(id).await;
    assert_eq!(
        house.nango_connections().await,
        [text(&kept, "nango_connection_id")]
    );
    settled(&house).await;
}

#[tokio::test]
async fn reconnect_two_grants() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let connected = ada.connected("gmail").await;
    let id = text(&connected, "id");
    let begun = reconnect(&ada, id).await;
    popup(&house, &begun).await;
    popup(&house, &begun).await;
    answered(&house).await;
    assert_eq!(
        house.nango_connections().await,
        [text(&connected, "nango_connection_id")]
    );
    assert_eq!(stand(&ada, id).await, "connected - succeeded");
    assert_eq!(
        chain(&ada, id).await,
        "attempt_started connected attempt_started reauthorized"
    );
    settled(&house).await;
}

#[tokio::test]
async fn disconnect_two_grants() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    house.faults(json!({ "consent": "allow" })).await;
    let begun = ada.connect("gmail").await;
    let id = text(&begun, "connection_id");
    popup(&house, &begun).await;
    ada.until(id, "connected").await;
    ada.disconnect("gmail", "").await;
    // Nango's session outlives the disconnect, and so may the popup.
    popup(&house, &begun).await;
    answered(&house).await;
    comes_about("the late grant is deleted", async || {
        house.nango_connections().await.is_empty()
    })
    .await;
    assert_eq!(
        stand(&ada, id).await,
        "disconnected user_disconnected succeeded"
    );
    assert_eq!(
        chain(&ada, id).await,
        "attempt_started connected disconnected"
    );
    settled(&house).await;
}
