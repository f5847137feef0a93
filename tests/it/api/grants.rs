//! Grants in every possible order.

use futures::future::join_all;
use reqwest::StatusCode;
use serde_json::json;

use super::connect::nango_connection_ids;
use super::text;
use crate::eventually::eventually;
use crate::test_app::TestApp;

#[tokio::test]
async fn concurrent_connects_create_one_connection() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "allow" })).await;
    let started = join_all((0..8).map(|_| ada.connect("gmail"))).await;
    let id = text(&started[0], "connection_id");
    assert!(started.iter().all(|one| one["connection_id"] == id));
    assert_eq!(ada.count().await, 1);
    let open: i64 =
        sqlx::query_scalar("select count(*) from connect_attempt where outcome is null")
            .fetch_one(&mut app.sql().await)
            .await
            .unwrap();
    assert_eq!(open, 1);
    // The grant counts in whichever popup the user completes.
    app.popup(&text(&started[0], "oauth_url")).await;
    ada.wait_until(&id, "connected").await;
}

#[tokio::test]
async fn newest_grant_of_session_wins() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "allow" })).await;
    let started = ada.connect("gmail").await;
    let (id, url) = (text(&started, "connection_id"), text(&started, "oauth_url"));
    app.popup(&url).await;
    let first = ada.wait_until(&id, "connected").await;
    app.advance(chrono::TimeDelta::seconds(1));
    app.popup(&url).await;
    let newest = app.nango_connections().await.remove(0);
    assert_ne!(first["nango_connection_id"], newest);
    eventually(async || ada.connection(&id).await["nango_connection_id"] == newest).await;
    assert_eq!(ada.connection(&id).await["status"], "connected");
    // A replaced grant is kept until the new one has worked for ten minutes.
    app.advance(chrono::TimeDelta::minutes(11));
    app.wait_for_nango_connections(&[&newest]).await;
    assert_eq!(ada.count().await, 1);
}

#[tokio::test]
async fn simultaneous_grants_resolve_to_one_connection() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    // Nango keeps both connections, so that each poll finds both.
    app.faults(json!({ "consent": "allow", "drop_webhooks": true, "refuse_delete": true }))
        .await;
    let started = ada.connect("gmail").await;
    let (id, url) = (text(&started, "connection_id"), text(&started, "oauth_url"));
    app.popup(&url).await;
    app.popup(&url).await;
    let connected = ada.wait_until(&id, "connected").await;
    let chosen = text(&connected, "nango_connection_id");
    let both = app.nango_connections().await;
    for stored in both.iter().chain(&both) {
        let tags = nango_connection_ids(&app, stored, "gmail").await["tags"].clone();
        let event = super::webhooks::success(stored, "gmail", &tags);
        super::webhooks::send(&app, "", &event).await;
    }
    assert_eq!(ada.connection(&id).await["nango_connection_id"], chosen);
    app.faults(json!({})).await;
    app.advance(chrono::TimeDelta::minutes(11));
    app.wait_for_nango_connections(&[&chosen]).await;
}

#[tokio::test]
async fn late_grant_of_superseded_attempt_connects() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "allow" })).await;
    let first = ada.connect("gmail").await;
    let second = ada.connect("gmail").await;
    assert_ne!(first["attempt_id"], second["attempt_id"]);
    app.popup(&text(&first, "oauth_url")).await;
    let connected = ada
        .wait_until(&text(&first, "connection_id"), "connected")
        .await;
    assert_eq!(
        [connected["nango_connection_id"].as_str().unwrap()],
        app.nango_connections().await[..]
    );
}

#[tokio::test]
async fn grant_after_disconnect_is_deleted() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "allow" })).await;
    let started = ada.connect("gmail").await;
    let (status, ended) = ada.disconnect("gmail", "").await;
    assert_eq!(
        (status, &ended["upstream_deleted"]),
        (StatusCode::OK, &json!(true))
    );
    app.popup(&text(&started, "oauth_url")).await;
    app.wait_for_nango_connections(&[]).await;
    let row = ada.connection(&text(&started, "connection_id")).await;
    assert_eq!(
        (&row["status"], &row["status_reason"]),
        (&json!("disconnected"), &json!("user_disconnected"))
    );
    assert_eq!(row["nango_connection_id"], json!(null));
}

#[tokio::test]
async fn disconnect_deletes_undetected_grant() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "allow", "drop_webhooks": true }))
        .await;
    let started = ada.connect("gmail").await;
    app.popup(&text(&started, "oauth_url")).await;
    assert_eq!(app.nango_connections().await.len(), 1);
    let (status, ended) = ada.disconnect("gmail", "").await;
    assert_eq!(
        (status, &ended["upstream_deleted"]),
        (StatusCode::OK, &json!(true))
    );
    assert_eq!(app.nango_connections().await, [""; 0]);
}
