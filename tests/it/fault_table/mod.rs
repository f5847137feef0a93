//! The table of docs/RELIABILITY.md: each failure against each operation, one test per cell.
//!
//! A test is named after its cell: the row's name, then the column's. Each ends with [`wait_until_settled`], which
//! removes the fault, advances the clock, and checks that nothing unexpected is left.

mod database;
mod nango;
mod polled;
pub(crate) mod process_killed;
mod table;
mod user_behaviour;
mod webhooks;

use std::collections::HashSet;
use std::time::Duration;

use chrono::TimeDelta;
use patchbay::nango as api;
use patchbay::nango::Nango;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::eventually::{eventually, eventually_value};
use crate::invariants::violations;
use crate::test_app::{TestApp, User, client};

fn text<'a>(body: &'a Value, field: &str) -> &'a str {
    body[field]
        .as_str()
        .unwrap_or_else(|| panic!("{field} in {body:#}"))
}

/// Describes a connection's state: status, reason, and the outcome of the newest attempt.
async fn describe_status(user: &User<'_>, id: &str) -> String {
    let connection = user.connection(id).await;
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    [
        &connection["status"],
        &connection["status_reason"],
        &connection["attempt"]["outcome"],
    ]
    .map(word)
    .join(" ")
}

/// Returns the kinds of all events of a connection, oldest first. Asserts that versions have no gaps.
async fn event_kinds(user: &User<'_>, id: &str) -> String {
    let history = user
        .get(&format!("/connections/{id}/history?limit=200"))
        .await;
    let mut events = history["events"].as_array().unwrap().clone();
    events.reverse();
    let versions: Vec<_> = events
        .iter()
        .map(|event| event["version"].as_u64().unwrap())
        .collect();
    let expected: Vec<_> = (1..).take(versions.len()).collect();
    assert_eq!(versions, expected, "{history:#}");
    let connection = user.connection(id).await;
    let last = events.last().unwrap();
    assert_eq!(
        (&last["status"], &last["status_reason"]),
        (&connection["status"], &connection["status_reason"])
    );
    let kinds: Vec<&str> = events.iter().map(|event| text(event, "kind")).collect();
    kinds.join(" ")
}

/// Starts a reauthorization.
async fn reconnect(user: &User<'_>, id: &str) -> Value {
    let path = format!("/connections/{id}/reconnect");
    let (status, body) = user.call(Method::POST, &path, None).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    body
}

/// Requests a check. Returns its status and JSON.
async fn check(user: &User<'_>, id: &str) -> (StatusCode, Value) {
    let path = format!("/connections/{id}/check");
    user.call(Method::POST, &path, None).await
}

/// Completes the popup of an attempt. The faults decide on consent.
async fn popup(app: &TestApp, started: &Value) {
    app.popup(text(started, "oauth_url")).await;
}

/// Connects Ada and Bob, and revokes Ada's grant at the provider. Returns Ada and her connection's id.
///
/// Bob's connection shows that the provider works. Time has passed, so that a check is not too soon.
async fn revoked(app: &TestApp) -> (User<'_>, String) {
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    let hers = ada.connected("gmail").await;
    bob.connected("gmail").await;
    app.advance(TimeDelta::minutes(2));
    let body = json!({ "connection_id": hers["nango_connection_id"] });
    app.control("revoke", Method::POST, body).await;
    (ada, text(&hers, "id").to_owned())
}

/// Runs two more sweeps over more than five minutes, in which the provider keeps rejecting.
async fn refused_until_dead(app: &TestApp) {
    for _ in 0..2 {
        app.advance(TimeDelta::minutes(3));
        app.sweep().await;
    }
}

/// Makes Nango refresh a connection. It sends a webhook if that fails. Returns the response's status.
async fn nango_refreshes(app: &TestApp, user: &User<'_>, id: &str) -> StatusCode {
    let connection = user.connection(id).await;
    let nango_id = text(&connection, "nango_connection_id");
    let path = format!("/connections/{nango_id}?provider_config_key=gmail&force_refresh=true");
    app.nango(Method::GET, &path).await.0
}

/// Returns every webhook that was due, whether or not it was sent: its address and body.
async fn deliveries(app: &TestApp) -> Vec<Value> {
    let all = app.control("webhooks", Method::GET, Value::Null).await;
    all.as_array().unwrap().clone()
}

/// Waits until each sent webhook has its final response. Returns the statuses.
async fn assert_status(app: &TestApp) -> Vec<u64> {
    let statuses = async || -> Option<Vec<u64>> {
        let all = deliveries(app).await;
        let last = |delivery: &Value| delivery["attempts"].as_array()?.last()?["status"].as_u64();
        all.iter().map(last).collect()
    };
    eventually_value(statuses, Option::is_some).await.unwrap()
}

/// Waits until the service has processed the changes at Nango: by webhooks, or by a sweep if none arrive.
async fn noticed(app: &TestApp) {
    if app.has_webhooks() {
        assert_status(app).await;
    } else {
        app.sweep().await;
    }
}

/// Sends a webhook, signed with this key.
async fn send(url: &str, body: &Value, key: &str) -> StatusCode {
    let body = body.to_string();
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, key.as_bytes());
    let signature = hex::encode(aws_lc_rs::hmac::sign(&key, body.as_bytes()));
    let request = client()
        .post(url)
        .header("content-type", "application/json")
        .header("x-nango-hmac-sha256", signature)
        .body(body);
    request.send().await.unwrap().status()
}

/// Sends a recorded webhook, whether or not it was sent before.
async fn deliver(app: &TestApp, delivery: &Value) {
    let status = send(text(delivery, "url"), &delivery["body"], &app.signing_key);
    assert_eq!(status.await, StatusCode::NO_CONTENT, "{delivery:#}");
}

/// Returns a column of the only connection, read from the database: the API would query Nango.
async fn read_column(app: &TestApp, column: &'static str) -> String {
    let query = match column {
        "status" => "select status from user_connector_connection",
        "version" => "select version::text from user_connector_connection",
        other => panic!("no query for {other}"),
    };
    sqlx::query_scalar(query)
        .fetch_one(&mut app.sql().await)
        .await
        .unwrap()
}

/// Waits until a call to Nango is pending.
async fn wait_for_nango_call(app: &TestApp, method: &str, part: &str) {
    eventually(async || {
        let calls = app.control("requests", Method::GET, Value::Null).await;
        calls.as_array().unwrap().iter().any(|call| {
            let target = format!("{}?{}", text(call, "path"), text(call, "query"));
            call["method"] == method && call["status"].is_null() && target.contains(part)
        })
    })
    .await;
}

/// Expires the leases of all claimed jobs, as if their owners had crashed.
async fn expire_leases(app: &TestApp) {
    let mut sql = app.sql().await;
    for statement in [
        "update upstream_deletion set leased_until = now() - interval '1 second'",
        "update job set leased_until = now() - interval '1 second'",
        "update idempotency_key set created_at = now() - interval '91 seconds' where answer is null",
    ] {
        sqlx::query(statement).execute(&mut sql).await.unwrap();
    }
}

/// Removes all faults, runs all background work, and checks the invariants.
async fn wait_until_settled(app: &TestApp) {
    app.faults(json!({})).await;
    app.sweep().await;
    // Longer than any delay between retries of a deletion.
    app.advance(TimeDelta::minutes(11));
    app.service().await.deletions.delete_due().await.unwrap();
    let mut sql = app.sql().await;
    let is_done = "select not exists (select from upstream_deletion)";
    eventually(async || {
        sqlx::query_scalar(is_done)
            .fetch_one(&mut sql)
            .await
            .unwrap()
    })
    .await;
    let address = format!("http://{}", app.sandbox.address());
    let nango = Nango::new(api::Config {
        base_url: address.parse().unwrap(),
        public_url: address.parse().unwrap(),
        secret_key: app.secret_key.clone().into(),
        timeout: Duration::from_secs(10),
    });
    let failures = violations(&mut sql, &nango.unwrap(), &HashSet::new()).await;
    assert_eq!(failures, [""; 0]);
}
