//! Attempts that are overtaken, and sessions that are granted again.

use serde_json::json;
use uuid::Uuid;

use super::{house_that_knows_accounts, text};
use crate::house::House;

/// How an attempt ended, superseded ones too, which the API no longer shows.
async fn outcome(house: &House, attempt: &str) -> Option<String> {
    let attempt: Uuid = attempt.parse().unwrap();
    sqlx::query_scalar("select outcome from connect_attempt where id = $1")
        .bind(attempt)
        .fetch_one(&mut house.sql().await)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_late_success_of_a_superseded_attempt_connects_and_ends_the_wait_for_the_newer() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    house.faults(json!({ "consent": "allow" })).await;
    let (old, new) = (ada.connect("gmail").await, ada.connect("gmail").await);
    let (old_id, new_id) = (text(&old, "attempt_id"), text(&new, "attempt_id"));
    let superseded = outcome(&house, old_id).await;
    assert_eq!(superseded.as_deref(), Some("superseded"));
    assert_eq!(outcome(&house, new_id).await, None);

    let path = format!("/connections/{}?wait=25", text(&new, "connection_id"));
    let (waited, _) = tokio::join!(ada.get(&path), house.popup(text(&old, "oauth_url")));
    assert_eq!(waited["status"], "connected");
    let late = outcome(&house, old_id).await;
    assert_eq!(late.as_deref(), Some("succeeded"));
    let ended = outcome(&house, new_id).await;
    assert_eq!(ended.as_deref(), Some("superseded"));
}

#[tokio::test]
async fn a_session_that_is_granted_again_as_another_account_is_noticed() {
    let (house, _file) = house_that_knows_accounts().await;
    let ada = house.user("ada").await;
    house.faults(json!({ "consent": "allow" })).await;
    let work = ada.connected("gmail").await;
    let id = text(&work, "id");
    let path = format!("/connections/{id}/reconnect");
    let (_, begun) = ada.call(reqwest::Method::POST, &path, None).await;
    house.popup(text(&begun, "oauth_url")).await;
    let waited = ada.get(&format!("/connections/{id}?wait=25")).await;
    assert_eq!(waited["attempt"]["outcome"], "succeeded");

    // The user goes through the popup once more, and picks another account there.
    let first = crate::house::client()
        .get(text(&begun, "oauth_url"))
        .send()
        .await
        .unwrap();
    let provider = first.headers()["location"].to_str().unwrap();
    house.popup(&format!("{provider}&login_hint=grace")).await;
    let refused = ada.until(id, "error").await;
    assert_eq!(refused["status_reason"], "account_mismatch");
    assert_eq!(refused["found_account"]["id"], "grace");
}
