//! Cancellation of attempts and removal of their connections from the list.

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{events, text};
use crate::test_app::{TestApp, User};

async fn cancel(user: &User<'_>, id: &str, body: Value) -> Value {
    let answer = user
        .send_post(&format!("/connections/{id}/cancel"), body)
        .await;
    assert_eq!(answer.status, 200, "{answer}");
    answer.json()
}

async fn remove(user: &User<'_>, id: &str) -> super::TestResponse {
    user.send_delete(&format!("/connections/{id}")).await
}

/// Returns the ids on the user's list.
async fn listed(user: &User<'_>) -> Vec<String> {
    let page = user.get("/connections").await;
    let connections = page["connections"].as_array().unwrap();
    assert_eq!(page["total_count"], connections.len());
    connections.iter().map(|one| text(one, "id")).collect()
}

#[tokio::test]
async fn cancel_ends_first_attempt_and_deletes_late_grant() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "allow" })).await;
    let started = ada.connect("gmail").await;
    let id = text(&started, "connection_id");
    let canceled = cancel(&ada, &id, json!({ "attempt_id": started["attempt_id"] })).await;
    assert_eq!(canceled["attempt"]["outcome"], "canceled");
    assert_eq!(
        (&canceled["status"], &canceled["status_reason"]),
        (&json!("disconnected"), &json!("removed"))
    );
    assert_eq!(listed(&ada).await, [""; 0]);

    app.popup(&text(&started, "oauth_url")).await;
    app.wait_for_nango_connections(&[]).await;
    assert_eq!(ada.connection(&id).await["status"], "disconnected");
    assert_eq!(
        events(&app, &id).await,
        ["attempt_started", "attempt_canceled"]
    );

    // The same connection can be started again and is then listed.
    let again = ada.connected("gmail").await;
    assert_eq!(text(&again, "id"), id);
    assert_eq!(listed(&ada).await, [id]);
}

#[tokio::test]
async fn cancel_deletes_grant_that_was_not_seen() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "allow", "drop_webhooks": true }))
        .await;
    let started = ada.connect("gmail").await;
    app.popup(&text(&started, "oauth_url")).await;
    assert_eq!(app.nango_connections().await.len(), 1);
    let canceled = cancel(&ada, &text(&started, "connection_id"), json!({})).await;
    assert_eq!(canceled["attempt"]["outcome"], "canceled");
    assert_eq!(app.nango_connections().await, [""; 0]);
}

#[tokio::test]
async fn canceled_reconnect_keeps_working_connection() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    let (id, stored) = (
        text(&connected, "id"),
        text(&connected, "nango_connection_id"),
    );
    let started = ada
        .send_post(&format!("/connections/{id}/reconnect"), json!({}))
        .await
        .json();
    let canceled = cancel(&ada, &id, json!({})).await;
    assert_eq!(
        (&canceled["status"], &canceled["attempt"]["outcome"]),
        (&json!("connected"), &json!("canceled"))
    );
    // Nango renews its connection in place, and the grant of the canceled attempt does not delete it.
    app.popup(&text(&started, "oauth_url")).await;
    let renewed = ada.wait_until(&id, "connected").await;
    assert_eq!(renewed["nango_connection_id"], stored);
    assert_eq!(app.nango_connections().await, [stored]);
}

#[tokio::test]
async fn cancel_after_the_end_changes_nothing() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let first = ada.connect("gmail").await;
    let second = ada.connect("gmail").await;
    let id = text(&first, "connection_id");
    // The first attempt was superseded: the second one stays open.
    let kept = cancel(&ada, &id, json!({ "attempt_id": first["attempt_id"] })).await;
    assert_eq!(
        (&kept["status"], &kept["attempt"]["id"]),
        (&json!("pending"), &second["attempt_id"])
    );
    let ended = cancel(&ada, &id, json!({})).await;
    assert_eq!(cancel(&ada, &id, json!({})).await, ended);

    let connected = ada.connected("github").await;
    let id = text(&connected, "id");
    assert_eq!(cancel(&ada, &id, json!({})).await["status"], "connected");
    let path = format!("/connections/{}/cancel", Uuid::now_v7());
    let unknown = ada.send_post(&path, json!({})).await;
    unknown.is_problem(404, "connection_not_found");
    let path = format!("/connections/{id}/cancel");
    let wrong = ada.send_post(&path, json!({ "attempt_id": "x" })).await;
    wrong.is_problem(400, "invalid_request");
}

#[tokio::test]
async fn cancel_after_disconnect_shows_disconnected_again() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    let id = text(&connected, "id");
    ada.disconnect("gmail", "").await;
    ada.connect("gmail").await;
    let canceled = cancel(&ada, &id, json!({})).await;
    assert_eq!(
        (&canceled["status"], &canceled["status_reason"]),
        (&json!("disconnected"), &json!("user_disconnected"))
    );
    assert_eq!(listed(&ada).await, [id]);
}

#[tokio::test]
async fn cancel_of_repair_keeps_connection_that_did_not_work() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    let id = text(&connected, "id");
    let path = format!(
        "/connections/{}?provider_config_key=gmail",
        text(&connected, "nango_connection_id")
    );
    app.nango(Method::DELETE, &path).await;
    app.sweep_until_missing().await;
    assert_eq!(ada.connection(&id).await["status"], "error");
    ada.send_post(&format!("/connections/{id}/reconnect"), json!({}))
        .await;
    let canceled = cancel(&ada, &id, json!({})).await;
    assert_eq!(
        (&canceled["status"], &canceled["status_reason"]),
        (&json!("error"), &json!("authorization_canceled"))
    );
    assert_eq!(listed(&ada).await, [id]);
}

#[tokio::test]
async fn failed_first_connection_can_be_removed_twice() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "deny" })).await;
    let body = json!({ "label": "Work", "config": { "a": 1 } });
    let started = ada.send_post("/gmail/connect", body).await.json();
    app.popup(&text(&started, "oauth_url")).await;
    let id = text(&started, "connection_id");
    ada.wait_until(&id, "error").await;
    assert_eq!(listed(&ada).await, std::slice::from_ref(&id));
    let bob = app.user("bob").await;
    remove(&bob, &id)
        .await
        .is_problem(404, "connection_not_found");

    let first = remove(&ada, &id).await;
    assert_eq!(first.status, 200, "{first}");
    assert_eq!(first.json()["success"], true);
    let before = (ada.connection(&id).await, events(&app, &id).await);
    assert_eq!(remove(&ada, &id).await.json(), first.json());
    assert_eq!((ada.connection(&id).await, events(&app, &id).await), before);
    assert_eq!(listed(&ada).await, [""; 0]);
    assert_eq!(
        ada.get("/connections?status=disconnected").await["total_count"],
        0
    );
    // The history stays, and a later grant of the removed connection is deleted.
    let history = ada.get(&format!("/connections/{id}/history")).await;
    assert_eq!(history["events"][0]["kind"], "removed");
    app.faults(json!({ "consent": "allow" })).await;
    app.popup(&text(&started, "oauth_url")).await;
    app.wait_for_nango_connections(&[]).await;

    // The next connection of the connector has a new id.
    let again = ada.connected("gmail").await;
    assert_eq!(
        (&again["id"], &again["label"], &again["config"]),
        (&json!(id), &json!(null), &json!({}))
    );
}

#[tokio::test]
async fn removal_deletes_a_replaced_grant_without_its_delay() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "deny" })).await;
    let started = ada.connect("gmail").await;
    app.popup(&text(&started, "oauth_url")).await;
    let id = text(&started, "connection_id");
    ada.wait_until(&id, "error").await;
    app.import_with(json!({})).await;
    let replaced = app.nango_connections().await.remove(0);
    sqlx::query(
        "insert into upstream_deletion \
           (nango_connection_id, integration_key, connection_id, reason, next_attempt_at, created_at) \
         values ($1, 'gmail', $2, 'replaced', '2099-01-01', now())",
    )
    .bind(replaced)
    .bind(id.parse::<Uuid>().unwrap())
    .execute(&mut app.sql().await)
    .await
    .unwrap();
    assert_eq!(remove(&ada, &id).await.status, 200);
    app.wait_for_nango_connections(&[]).await;
}

#[tokio::test]
async fn connected_account_is_not_removed() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    let id = text(&connected, "id");
    let refused = remove(&ada, &id).await;
    refused.is_problem(409, "still_connected");
    assert_eq!(ada.connection(&id).await, connected);
    ada.disconnect("gmail", "").await;
    assert_eq!(remove(&ada, &id).await.status, 200);
    assert_eq!(listed(&ada).await, [""; 0]);
    // A disconnect without an id does not select it.
    let none = ada.send_delete("/gmail/disconnect").await;
    none.is_problem(404, "connection_not_found");
}

#[tokio::test]
async fn removed_connections_are_not_listed_among_many() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let id = text(&ada.connect("gmail").await, "connection_id");
    sqlx::query(
        "insert into user_connector_connection \
           (id, user_id, connector_id, instance_id, status, status_reason, disconnected_at, created_at, updated_at) \
         select gen_random_uuid(), user_id, connector_id, 'old ' || n, 'disconnected', 'user_disconnected', now(), now(), now() \
         from user_connector_connection, generate_series(1, 200) n where id::text = $1",
    )
    .bind(&id)
    .execute(&mut app.sql().await)
    .await
    .unwrap();
    assert_eq!(listed(&ada).await.len(), 201);
    assert_eq!(remove(&ada, &id).await.status, 200);
    let left = listed(&ada).await;
    assert_eq!(left.len(), 200);
    assert!(!left.contains(&id));
}
