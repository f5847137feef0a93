//! Webhooks that are lost, come twice, come late and out of order, or are not Nango's.

use std::time::Duration;

use chrono::TimeDelta;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    answered, chain, deliver, deliveries, nango_refreshes, popup, reconnect, revoked, send,
    settled, stand, text, unasked,
};
use crate::house::{self, House, User};

/// Waits for an attempt as a tab does, and measures how long after the grant the wait ends.
async fn wait_for(house: &House, user: &User<'_>, begun: &Value) -> Duration {
    let path = format!("/connections/{}?wait=25", text(begun, "connection_id"));
    let waiting = async {
        let waited = user.get(&path).await;
        assert_eq!(waited["status"], "connected");
        assert_eq!(waited["attempt"]["outcome"], "succeeded");
        Instant::now()
    };
    let granting = async {
        popup(house, begun).await;
        Instant::now()
    };
    let (told, granted) = tokio::join!(waiting, granting);
    told.saturating_duration_since(granted)
}

#[tokio::test]
async fn connect_webhook_lost() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let faults = json!({ "consent": "allow", "drop_webhooks": true });
    house.faults(faults).await;
    let begun = ada.connect("gmail").await;
    let delay = wait_for(&house, &ada, &begun).await;
    assert!(delay < house::PROMPTLY, "{delay:?}");
    assert_eq!(
        chain(&ada, text(&begun, "connection_id")).await,
        "attempt_started connected"
    );
    settled(&house).await;
}

#[tokio::test]
async fn reconnect_webhook_lost() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let before = ada.connected("gmail").await;
    let id = text(&before, "id");
    let faults = json!({ "consent": "allow", "drop_webhooks": true });
    house.faults(faults).await;
    let begun = reconnect(&ada, id).await;
    let delay = wait_for(&house, &ada, &begun).await;
    assert!(delay < house::PROMPTLY, "{delay:?}");
    let after = ada.connection(id).await;
    assert_eq!(after["nango_connection_id"], before["nango_connection_id"]);
    assert_eq!(
        chain(&ada, id).await,
        "attempt_started connected attempt_started reauthorized"
    );
    settled(&house).await;
}

#[tokio::test]
async fn refresh_webhook_lost() {
    let house = House::new().await;
    let (ada, id) = revoked(&house).await;
    house.faults(json!({ "drop_webhooks": true })).await;
    let status = nango_refreshes(&house, &ada, &id).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(stand(&ada, &id).await, "connected - succeeded");
    assert_eq!(house.sweep().await.checked, 1);
    assert_eq!(
        stand(&ada, &id).await,
        "error needs_reauthorization succeeded"
    );
    settled(&house).await;
}

#[tokio::test]
async fn disconnect_webhook_lost() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let faults = json!({ "consent": "allow", "drop_webhooks": true });
    house.faults(faults).await;
    let begun = ada.connect("gmail").await;
    popup(&house, &begun).await;
    assert_eq!(house.nango_connections().await.len(), 1);
    let (_, ended) = ada.disconnect("gmail", "").await;
    assert_eq!(ended["upstream_deleted"], true, "{ended}");
    assert_eq!(house.nango_connections().await.len(), 0);
    let id = text(&begun, "connection_id");
    assert_eq!(
        stand(&ada, id).await,
        "disconnected user_disconnected superseded"
    );
    assert_eq!(chain(&ada, id).await, "attempt_started disconnected");
    settled(&house).await;
}

#[tokio::test]
async fn connect_webhook_twice() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let faults = json!({ "consent": "allow", "duplicate_webhooks": true });
    house.faults(faults).await;
    let begun = ada.connect("gmail").await;
    popup(&house, &begun).await;
    assert_eq!(answered(&house).await, [204, 204]);
    assert_eq!(unasked(&house, "status").await, "connected");
    assert_eq!(
        chain(&ada, text(&begun, "connection_id")).await,
        "attempt_started connected"
    );
    settled(&house).await;
}

#[tokio::test]
async fn reconnect_webhook_twice() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let before = ada.connected("gmail").await;
    let faults = json!({ "consent": "allow", "duplicate_webhooks": true });
    house.faults(faults).await;
    let begun = reconnect(&ada, text(&before, "id")).await;
    popup(&house, &begun).await;
    assert_eq!(answered(&house).await, [204, 204, 204]);
    assert_eq!(
        chain(&ada, text(&before, "id")).await,
        "attempt_started connected attempt_started reauthorized"
    );
    settled(&house).await;
}

#[tokio::test]
async fn refresh_webhook_twice() {
    let house = House::new().await;
    let (ada, id) = revoked(&house).await;
    house.faults(json!({ "duplicate_webhooks": true })).await;
    nango_refreshes(&house, &ada, &id).await;
    let dead = ada.until(&id, "error").await;
    assert_eq!(dead["status_reason"], "needs_reauthorization");
    answered(&house).await;
    assert_eq!(
        chain(&ada, &id).await,
        "attempt_started connected needs_reauthorization"
    );
    settled(&house).await;
}

#[tokio::test]
async fn disconnect_webhook_twice() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let connected = ada.connected("gmail").await;
    ada.disconnect("gmail", "").await;
    for delivery in deliveries(&house).await {
        deliver(&house, &delivery).await;
        deliver(&house, &delivery).await;
    }
    assert_eq!(
        chain(&ada, text(&connected, "id")).await,
        "attempt_started connected disconnected"
    );
    assert_eq!(house.nango_connections().await.len(), 0);
    settled(&house).await;
}

#[tokio::test]
async fn connect_webhook_late() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let begun = ada.connect("gmail").await;
    for consent in ["deny", "allow"] {
        let faults = json!({ "consent": consent, "drop_webhooks": true });
        house.faults(faults).await;
        popup(&house, &begun).await;
    }
    let told = deliveries(&house).await;
    assert_eq!(told[0]["body"]["success"], false);
    // The grant is told of before the denial that it followed.
    deliver(&house, &told[1]).await;
    deliver(&house, &told[0]).await;
    let id = text(&begun, "connection_id");
    assert_eq!(stand(&ada, id).await, "connected - succeeded");
    assert_eq!(chain(&ada, id).await, "attempt_started connected");
    settled(&house).await;
}

#[tokio::test]
async fn reconnect_webhook_late() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let connected = ada.connected("gmail").await;
    let id = text(&connected, "id");
    for consent in ["deny", "allow"] {
        let faults = json!({ "consent": consent, "drop_webhooks": true });
        house.faults(faults).await;
        let begun = reconnect(&ada, id).await;
        popup(&house, &begun).await;
    }
    let told = deliveries(&house).await;
    for late in [2, 1, 0] {
        deliver(&house, &told[late]).await;
    }
    assert_eq!(stand(&ada, id).await, "connected - succeeded");
    assert_eq!(
        chain(&ada, id).await,
        "attempt_started connected attempt_started attempt_started reauthorized"
    );
    settled(&house).await;
}

#[tokio::test]
async fn refresh_webhook_late() {
    let house = House::new().await;
    let (ada, id) = revoked(&house).await;
    let faults = json!({ "consent": "allow", "drop_webhooks": true });
    house.faults(faults).await;
    nango_refreshes(&house, &ada, &id).await;
    let late = deliveries(&house).await.pop().unwrap();
    assert_eq!(late["body"]["operation"], "refresh");
    house.faults(json!({ "consent": "allow" })).await;
    popup(&house, &reconnect(&ada, &id).await).await;
    answered_by_reconnect(&ada, &id).await;
    // By now the failure that it tells of is repaired, and nothing else says so.
    house.pass(TimeDelta::minutes(2));
    deliver(&house, &late).await;
    assert_eq!(stand(&ada, &id).await, "connected - succeeded");
    assert_eq!(
        chain(&ada, &id).await,
        "attempt_started connected attempt_started reauthorized"
    );
    settled(&house).await;
}

/// Waits until the newest attempt has succeeded.
async fn answered_by_reconnect(user: &User<'_>, id: &str) {
    let path = format!("/connections/{id}?wait=25");
    assert_eq!(user.get(&path).await["attempt"]["outcome"], "succeeded");
}

#[tokio::test]
async fn disconnect_webhook_late() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let before = ada.connected("gmail").await;
    let id = text(&before, "id");
    let faults = json!({ "consent": "allow", "drop_webhooks": true });
    house.faults(faults.clone()).await;
    let begun = reconnect(&ada, id).await;
    ada.disconnect("gmail", "").await;
    // The popup was still open: Nango makes the connection again that was just deleted.
    popup(&house, &begun).await;
    assert_eq!(house.nango_connections().await.len(), 1);
    let late = deliveries(&house).await.pop().unwrap();
    deliver(&house, &late).await;
    assert_eq!(
        stand(&ada, id).await,
        "disconnected user_disconnected superseded"
    );
    super::comes_about("it is deleted again", async || {
        house.nango_connections().await.is_empty()
    })
    .await;
    assert_eq!(
        chain(&ada, id).await,
        "attempt_started connected attempt_started disconnected"
    );
    settled(&house).await;
}

/// A webhook that says that this connection of Nango's was made or refreshed, well or not.
fn lie(operation: &str, success: bool, nango_id: &str) -> Value {
    json!({
        "type": "auth", "operation": operation, "success": success, "connectionId": nango_id,
        "providerConfigKey": "gmail", "provider": "google-mail", "authMode": "OAUTH2",
        "environment": "dev", "from": "nango", "tags": {},
        "error": { "type": "unknown", "description": "made up" },
    })
}

/// Sends a lie to an attempt's address, and answers with which status it is met.
async fn tell(house: &House, attempt: &str, lie: &Value, key: &str) -> StatusCode {
    let url = format!("{}/api/v1/webhooks/nango/{attempt}", house.url);
    send(&url, lie, key).await
}

#[tokio::test]
async fn connect_webhook_forged() {
    let house = House::new().await;
    let (ada, bob) = (house.user("ada").await, house.user("bob").await);
    let his = bob.connected("gmail").await;
    let begun = ada.connect("gmail").await;
    let (id, attempt) = (text(&begun, "connection_id"), text(&begun, "attempt_id"));
    let failed = lie("creation", false, &Uuid::new_v4().to_string());
    let status = tell(&house, attempt, &failed, "not the key").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    // Even who has the key can only make us look at Nango.
    for nango_id in [
        &Uuid::new_v4().to_string(),
        text(&his, "nango_connection_id"),
    ] {
        let made_up = lie("creation", true, nango_id);
        let status = tell(&house, attempt, &made_up, &house.signing_key).await;
        assert_eq!(status, StatusCode::NO_CONTENT);
    }
    assert_eq!(stand(&ada, id).await, "pending awaiting_authorization -");
    assert_eq!(chain(&ada, id).await, "attempt_started");
    assert_eq!(stand(&bob, text(&his, "id")).await, "connected - succeeded");
    settled(&house).await;
}

#[tokio::test]
async fn reconnect_webhook_forged() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let connected = ada.connected("gmail").await;
    let id = text(&connected, "id");
    let begun = reconnect(&ada, id).await;
    let attempt = text(&begun, "attempt_id");
    let nango_id = text(&connected, "nango_connection_id");
    let failed = lie("creation", false, nango_id);
    let status = tell(&house, attempt, &failed, "not the key").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let granted = lie("override", true, nango_id);
    let status = tell(&house, attempt, &granted, &house.signing_key).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    assert_eq!(stand(&ada, id).await, "connected - -");
    assert_eq!(
        chain(&ada, id).await,
        "attempt_started connected attempt_started"
    );
    settled(&house).await;
}

#[tokio::test]
async fn refresh_webhook_forged() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let connected = ada.connected("gmail").await;
    let id = text(&connected, "id");
    house.pass(TimeDelta::minutes(2));
    let failed = lie("refresh", false, text(&connected, "nango_connection_id"));
    let attempt = text(&connected["attempt"], "id");
    let status = tell(&house, attempt, &failed, "not the key").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let status = tell(&house, attempt, &failed, &house.signing_key).await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    let after = ada.connection(id).await;
    assert_eq!(
        (&after["status"], &after["failing_since"]),
        (&json!("connected"), &json!(null))
    );
    assert_eq!(chain(&ada, id).await, "attempt_started connected");
    settled(&house).await;
}

#[tokio::test]
async fn disconnect_webhook_forged() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let connected = ada.connected("gmail").await;
    ada.disconnect("gmail", "").await;
    let attempt = text(&connected["attempt"], "id");
    for operation in ["creation", "override", "refresh"] {
        let again = lie(operation, true, text(&connected, "nango_connection_id"));
        let status = tell(&house, attempt, &again, &house.signing_key).await;
        assert_eq!(status, StatusCode::NO_CONTENT);
    }
    let id = text(&connected, "id");
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
