//! Grants in every order in which they may come.

use futures::future::join_all;
use reqwest::StatusCode;
use serde_json::json;

use super::connect::held_by_nango;
use super::text;
use crate::house::House;

#[tokio::test]
async fn several_connects_at_once_make_one_connection() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    house.faults(json!({ "consent": "allow" })).await;
    let begun = join_all((0..8).map(|_| ada.connect("gmail"))).await;
    let id = text(&begun[0], "connection_id");
    assert!(begun.iter().all(|one| one["connection_id"] == id));
    assert_eq!(ada.count().await, 1);
    let open: i64 =
        sqlx::query_scalar("select count(*) from connect_attempt where outcome is null")
            .fetch_one(&mut house.sql().await)
            .await
            .unwrap();
    assert_eq!(open, 1);
    // Whichever popup the user finishes in, it counts.
    house.popup(&text(&begun[0], "oauth_url")).await;
    ada.until(&id, "connected").await;
}

#[tokio::test]
async fn of_two_grants_of_one_session_the_newest_wins() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    house.faults(json!({ "consent": "allow" })).await;
    let begun = ada.connect("gmail").await;
    let (id, url) = (text(&begun, "connection_id"), text(&begun, "oauth_url"));
    house.popup(&url).await;
    let first = ada.until(&id, "connected").await;
    house.pass(chrono::TimeDelta::seconds(1));
    house.popup(&url).await;
    let newest = house.nango_connections().await.remove(0);
    assert_ne!(first["nango_connection_id"], newest);
    house.until_nango_holds(&[&newest]).await;
    let second = ada.connection(&id).await;
    assert_eq!(
        (&second["status"], &second["nango_connection_id"]),
        (&json!("connected"), &json!(newest))
    );
    assert_eq!(ada.count().await, 1);
}

#[tokio::test]
async fn two_grants_of_the_same_moment_do_not_take_turns() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    // Nango keeps both, so that each look finds both.
    house
        .faults(json!({ "consent": "allow", "drop_webhooks": true, "refuse_delete": true }))
        .await;
    let begun = ada.connect("gmail").await;
    let (id, url) = (text(&begun, "connection_id"), text(&begun, "oauth_url"));
    house.popup(&url).await;
    house.popup(&url).await;
    let connected = ada.until(&id, "connected").await;
    let chosen = text(&connected, "nango_connection_id");
    let both = house.nango_connections().await;
    for held in both.iter().chain(&both) {
        let tags = held_by_nango(&house, held, "gmail").await["tags"].clone();
        let event = super::webhooks::success(held, "gmail", &tags);
        super::webhooks::send(&house, "", &event).await;
    }
    assert_eq!(ada.connection(&id).await["nango_connection_id"], chosen);
    house.faults(json!({})).await;
    house.pass(chrono::TimeDelta::minutes(1));
    house.until_nango_holds(&[&chosen]).await;
}

#[tokio::test]
async fn a_late_grant_of_a_superseded_attempt_connects() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    house.faults(json!({ "consent": "allow" })).await;
    let first = ada.connect("gmail").await;
    let second = ada.connect("gmail").await;
    assert_ne!(first["attempt_id"], second["attempt_id"]);
    house.popup(&text(&first, "oauth_url")).await;
    let connected = ada.until(&text(&first, "connection_id"), "connected").await;
    assert_eq!(
        [connected["nango_connection_id"].as_str().unwrap()],
        house.nango_connections().await[..]
    );
}

#[tokio::test]
async fn a_grant_after_a_disconnect_is_deleted() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    house.faults(json!({ "consent": "allow" })).await;
    let begun = ada.connect("gmail").await;
    let (status, ended) = ada.disconnect("gmail", "").await;
    assert_eq!(
        (status, &ended["upstream_deleted"]),
        (StatusCode::OK, &json!(true))
    );
    house.popup(&text(&begun, "oauth_url")).await;
    house.until_nango_holds(&[]).await;
    let row = ada.connection(&text(&begun, "connection_id")).await;
    assert_eq!(
        (&row["status"], &row["status_reason"]),
        (&json!("disconnected"), &json!("user_disconnected"))
    );
    assert_eq!(row["nango_connection_id"], json!(null));
}

#[tokio::test]
async fn a_grant_that_nobody_has_seen_goes_with_the_disconnect() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    house
        .faults(json!({ "consent": "allow", "drop_webhooks": true }))
        .await;
    let begun = ada.connect("gmail").await;
    house.popup(&text(&begun, "oauth_url")).await;
    assert_eq!(house.nango_connections().await.len(), 1);
    let (status, ended) = ada.disconnect("gmail", "").await;
    assert_eq!(
        (status, &ended["upstream_deleted"]),
        (StatusCode::OK, &json!(true))
    );
    assert_eq!(house.nango_connections().await, [""; 0]);
}
