//! The database connection fails during a request, at a specific statement.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use super::{
    check, deliveries, describe_status, event_kinds, expire_leases, popup, read_column, reconnect,
    refused_until_dead, revoked, text, wait_until_settled,
};
use crate::eventually::eventually;
use crate::test_app::TestApp;

/// Makes the server close the connection during a statement.
///
/// `when` is a trigger's time, event and condition.
async fn stop_database(app: &TestApp, table: &str, event: &str, condition: &str) {
    let statement = format!(
        "create function lose() returns trigger language plpgsql as $$ begin \
           perform pg_terminate_backend(pg_backend_pid()); perform pg_sleep(5); return null; end $$; \
         create trigger lose before {event} on {table} for each row when ({condition}) \
           execute function lose()"
    );
    sqlx::raw_sql(AssertSqlSafe(statement))
        .execute(&mut app.sql().await)
        .await
        .unwrap();
}

/// Removes the fault of the database.
async fn restore_database(app: &TestApp) {
    sqlx::raw_sql("drop function lose cascade")
        .execute(&mut app.sql().await)
        .await
        .unwrap();
}

fn is_reported(reported: &(StatusCode, Value)) {
    let (status, body) = reported;
    assert_eq!(
        (*status, text(body, "code")),
        (StatusCode::SERVICE_UNAVAILABLE, "database_unavailable")
    );
}

/// Waits until a webhook was rejected, so that Nango retries it.
async fn webhook_is_rejected(app: &TestApp) {
    eventually(async || {
        let all = deliveries(app).await;
        let mut tries = all
            .iter()
            .flat_map(|delivery| delivery["attempts"].as_array().unwrap());
        tries.any(|attempt| attempt["status"] == 503)
    })
    .await;
}

#[tokio::test]
async fn connect_database_lost() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    // The start of the attempt cannot be stored.
    let begins = "new.kind = 'attempt_started'";
    stop_database(&app, "connection_event", "insert", begins).await;
    is_reported(&ada.call(Method::POST, "/gmail/connect", None).await);
    restore_database(&app).await;
    assert_eq!(ada.get("/connections").await["total_count"], 0);

    // Nango has the grant, but it cannot be stored.
    app.faults(json!({ "consent": "allow" })).await;
    let started = ada.connect("gmail").await;
    let id = text(&started, "connection_id");
    let granted = "new.kind = 'connected'";
    stop_database(&app, "connection_event", "insert", granted).await;
    popup(&app, &started).await;
    webhook_is_rejected(&app).await;
    assert_eq!(read_column(&app, "status").await, "pending");
    restore_database(&app).await;
    ada.wait_until(id, "connected").await;
    assert_eq!(event_kinds(&ada, id).await, "attempt_started connected");
    wait_until_settled(&app).await;
}

#[tokio::test]
async fn reconnect_database_lost() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    let id = text(&connected, "id");
    let started = reconnect(&ada, id).await;
    let granted = "new.kind = 'reauthorized'";
    stop_database(&app, "connection_event", "insert", granted).await;
    popup(&app, &started).await;
    webhook_is_rejected(&app).await;
    assert_eq!(read_column(&app, "status").await, "connected");
    restore_database(&app).await;
    let after = ada.get(&format!("/connections/{id}?wait=25")).await;
    assert_eq!(after["attempt"]["outcome"], "succeeded");
    assert_eq!(
        event_kinds(&ada, id).await,
        "attempt_started connected attempt_started reauthorized"
    );
    wait_until_settled(&app).await;
}

#[tokio::test]
async fn refresh_database_lost() {
    let app = TestApp::new().await;
    let (ada, id) = revoked(&app).await;
    let dead = "new.kind = 'credentials_failing'";
    stop_database(&app, "connection_event", "insert", dead).await;
    is_reported(&check(&ada, &id).await);
    assert_eq!(describe_status(&ada, &id).await, "connected - succeeded");
    restore_database(&app).await;
    let (_, failing) = check(&ada, &id).await;
    assert!(failing["failing_since"].is_string(), "{failing}");
    refused_until_dead(&app).await;
    let dead = ada.connection(&id).await;
    assert_eq!(dead["status_reason"], "needs_reauthorization");
    assert_eq!(
        event_kinds(&ada, &id).await,
        "attempt_started connected credentials_failing needs_reauthorization"
    );
    wait_until_settled(&app).await;
}

#[tokio::test]
async fn disconnect_database_lost() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    let id = text(&connected, "id");
    // The disconnect itself cannot be stored, so nothing changes.
    let ended = "new.kind = 'disconnected'";
    stop_database(&app, "connection_event", "insert", ended).await;
    is_reported(&ada.disconnect("gmail", "").await);
    restore_database(&app).await;
    assert_eq!(describe_status(&ada, id).await, "connected - succeeded");
    assert_eq!(app.nango_connections().await.len(), 1);

    // Nango has deleted its connection, but this cannot be stored.
    stop_database(&app, "upstream_deletion", "delete", "true").await;
    is_reported(&ada.disconnect("gmail", "").await);
    restore_database(&app).await;
    assert_eq!(app.nango_connections().await.len(), 0);
    assert_eq!(
        describe_status(&ada, id).await,
        "disconnected user_disconnected succeeded"
    );
    expire_leases(&app).await;
    wait_until_settled(&app).await;
    let (_, again) = ada.disconnect("gmail", "").await;
    assert_eq!(again["upstream_deleted"], true);
    assert_eq!(
        event_kinds(&ada, id).await,
        "attempt_started connected disconnected"
    );
}
