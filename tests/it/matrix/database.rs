//! The connection to the database breaks in the middle of a request, at a statement that is named.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;

use super::{
    chain, check, comes_about, deliveries, leases_run_out, popup, reconnect, revoked, settled,
    stand, text, unasked,
};
use crate::house::House;

/// Lets the server end the connection on which this happens, before the statement is done.
///
/// `when` is a trigger's time, event and condition.
async fn lose_the_database(house: &House, table: &str, event: &str, condition: &str) {
    let statement = format!(
        "create function lose() returns trigger language plpgsql as $$ begin \
           perform pg_terminate_backend(pg_backend_pid()); perform pg_sleep(5); return null; end $$; \
         create trigger lose before {event} on {table} for each row when ({condition}) \
           execute function lose()"
    );
    sqlx::raw_sql(AssertSqlSafe(statement))
        .execute(&mut house.sql().await)
        .await
        .unwrap();
}

/// The database is all right again.
async fn mend_the_database(house: &House) {
    sqlx::raw_sql("drop function lose cascade")
        .execute(&mut house.sql().await)
        .await
        .unwrap();
}

fn is_told(told: &(StatusCode, Value)) {
    let (status, body) = told;
    assert_eq!(
        (*status, text(body, "code")),
        (StatusCode::SERVICE_UNAVAILABLE, "database_unavailable")
    );
}

/// Waits until a webhook has been refused, for Nango to send it again.
async fn a_webhook_is_refused(house: &House) {
    comes_about("a webhook meets no database", async || {
        let all = deliveries(house).await;
        let mut tries = all
            .iter()
            .flat_map(|delivery| delivery["attempts"].as_array().unwrap());
        tries.any(|attempt| attempt["status"] == 503)
    })
    .await;
}

#[tokio::test]
async fn connect_database_lost() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    // That the attempt begins cannot be written down.
    let begins = "new.kind = 'attempt_started'";
    lose_the_database(&house, "connection_event", "insert", begins).await;
    is_told(&ada.call(Method::POST, "/gmail/connect", None).await);
    mend_the_database(&house).await;
    assert_eq!(ada.get("/connections").await["total_count"], 0);

    // Nango holds the grant, and that it does cannot be written down.
    house.faults(json!({ "consent": "allow" })).await;
    let begun = ada.connect("gmail").await;
    let id = text(&begun, "connection_id");
    let granted = "new.kind = 'connected'";
    lose_the_database(&house, "connection_event", "insert", granted).await;
    popup(&house, &begun).await;
    a_webhook_is_refused(&house).await;
    assert_eq!(unasked(&house, "status").await, "pending");
    mend_the_database(&house).await;
    ada.until(id, "connected").await;
    assert_eq!(chain(&ada, id).await, "attempt_started connected");
    settled(&house).await;
}

#[tokio::test]
async fn reconnect_database_lost() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let connected = ada.connected("gmail").await;
    let id = text(&connected, "id");
    let begun = reconnect(&ada, id).await;
    let granted = "new.kind = 'reauthorized'";
    lose_the_database(&house, "connection_event", "insert", granted).await;
    popup(&house, &begun).await;
    a_webhook_is_refused(&house).await;
    assert_eq!(unasked(&house, "status").await, "connected");
    mend_the_database(&house).await;
    let after = ada.get(&format!("/connections/{id}?wait=25")).await;
    assert_eq!(after["attempt"]["outcome"], "succeeded");
    assert_eq!(
        chain(&ada, id).await,
        "attempt_started connected attempt_started reauthorized"
    );
    settled(&house).await;
}

#[tokio::test]
async fn refresh_database_lost() {
    let house = House::new().await;
    let (ada, id) = revoked(&house).await;
    let dead = "new.kind = 'needs_reauthorization'";
    lose_the_database(&house, "connection_event", "insert", dead).await;
    is_told(&check(&ada, &id).await);
    assert_eq!(stand(&ada, &id).await, "connected - succeeded");
    mend_the_database(&house).await;
    let (_, dead) = check(&ada, &id).await;
    assert_eq!(dead["status_reason"], "needs_reauthorization");
    assert_eq!(
        chain(&ada, &id).await,
        "attempt_started connected needs_reauthorization"
    );
    settled(&house).await;
}

#[tokio::test]
async fn disconnect_database_lost() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let connected = ada.connected("gmail").await;
    let id = text(&connected, "id");
    // Nothing has happened: the disconnect itself is not written down.
    let ended = "new.kind = 'disconnected'";
    lose_the_database(&house, "connection_event", "insert", ended).await;
    is_told(&ada.disconnect("gmail", "").await);
    mend_the_database(&house).await;
    assert_eq!(stand(&ada, id).await, "connected - succeeded");
    assert_eq!(house.nango_connections().await.len(), 1);

    // Nango has deleted its part, and that it has cannot be written down.
    lose_the_database(&house, "upstream_deletion", "delete", "true").await;
    is_told(&ada.disconnect("gmail", "").await);
    mend_the_database(&house).await;
    assert_eq!(house.nango_connections().await.len(), 0);
    assert_eq!(
        stand(&ada, id).await,
        "disconnected user_disconnected succeeded"
    );
    leases_run_out(&house).await;
    settled(&house).await;
    let (_, again) = ada.disconnect("gmail", "").await;
    assert_eq!(again["upstream_deleted"], true);
    assert_eq!(
        chain(&ada, id).await,
        "attempt_started connected disconnected"
    );
}
