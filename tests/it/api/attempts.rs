//! Attempts that nobody finishes.

use std::time::Duration;

use chrono::TimeDelta;
use serde_json::json;

use super::{events, text};
use crate::house::House;

#[tokio::test]
async fn an_attempt_that_nobody_finishes_expires() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let connections = house.service().await;
    let begun = ada.connect("gmail").await;
    let id = text(&begun, "connection_id");
    assert_eq!(begun["expires_at"], "2027-01-15T08:30:00Z");
    house.pass(TimeDelta::minutes(29));
    connections.expire_attempts().await.unwrap();
    assert_eq!(ada.connection(&id).await["status"], "pending");
    house.pass(TimeDelta::minutes(1));
    connections.expire_attempts().await.unwrap();
    let row = ada.until(&id, "error").await;
    assert_eq!(
        (&row["status"], &row["status_reason"]),
        (&json!("error"), &json!("attempt_expired"))
    );
    assert_eq!(
        row["last_error"],
        "The authorization was not finished in time"
    );
    assert_eq!(row["attempt"]["outcome"], "expired");
    assert_eq!(row["attempt"]["error_code"], "attempt_expired");
    // Again, and for two at once, there is nothing left to do.
    connections.expire_attempts().await.unwrap();
    assert_eq!(
        events(&house, &id).await,
        ["attempt_started", "attempt_failed"]
    );
    let again = ada.connected("gmail").await;
    assert_eq!(
        (&again["id"], &again["error_count"]),
        (&json!(id), &json!(0))
    );
}

#[tokio::test]
async fn a_grant_that_nobody_told_of_is_found_by_the_last_look() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let connections = house.service().await;
    house
        .faults(json!({ "consent": "allow", "drop_webhooks": true }))
        .await;
    let begun = ada.connect("gmail").await;
    let id = text(&begun, "connection_id");
    house.popup(&text(&begun, "oauth_url")).await;
    house.pass(TimeDelta::minutes(31));
    connections.expire_attempts().await.unwrap();
    // Asked of the database: whoever asks the service makes it look. The running replica may be at it instead.
    for _ in 0..100 {
        if events(&house, &id).await.len() > 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(events(&house, &id).await, ["attempt_started", "connected"]);
}

#[tokio::test]
async fn no_attempt_expires_unseen_while_nango_does_not_answer() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let connections = house.service().await;
    house
        .faults(json!({ "consent": "allow", "drop_webhooks": true }))
        .await;
    let begun = ada.connect("gmail").await;
    let id = text(&begun, "connection_id");
    house.popup(&text(&begun, "oauth_url")).await;
    house.faults(json!({ "status": 500 })).await;
    house.pass(TimeDelta::minutes(31));
    connections.expire_attempts().await.unwrap();
    assert_eq!(events(&house, &id).await, ["attempt_started"]);
    house.faults(json!({})).await;
    // The answer of a moment ago is good for a second.
    for _ in 0..100 {
        connections.expire_attempts().await.unwrap();
        if events(&house, &id).await.len() > 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(events(&house, &id).await, ["attempt_started", "connected"]);
}
