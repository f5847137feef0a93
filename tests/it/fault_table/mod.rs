//! The table of docs/RELIABILITY.md: each failure against each operation, one test per cell.
//!
//! A test is named after its cell, the row's name after the column's. Each ends with
//! [`wait_until_settled`]: the fault is gone, time has passed, and nothing is left that should not be.

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

use crate::invariants::violations;
use crate::test_app::{TestApp, User, client};

fn text<'a>(body: &'a Value, field: &str) -> &'a str {
    body[field]
        .as_str()
        .unwrap_or_else(|| panic!("{field} in {body:#}"))
}

/// How a connection stands for its user: status, reason, and how the newest attempt ended.
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

/// All that has happened to a connection, oldest first. Its versions have no gap, and the last is where it stands.
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

/// Begins to authorize a connection again.
async fn reconnect(user: &User<'_>, id: &str) -> Value {
    let path = format!("/connections/{id}/reconnect");
    let (status, body) = user.call(Method::POST, &path, None).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    body
}

/// Asks for a check, and answers its status and JSON.
async fn check(user: &User<'_>, id: &str) -> (StatusCode, Value) {
    let path = format!("/connections/{id}/check");
    user.call(Method::POST, &path, None).await
}

/// Goes through the popup of an attempt: the faults decide on consent.
async fn popup(app: &TestApp, started: &Value) {
    app.popup(text(started, "oauth_url")).await;
}

/// Two connections, Ada's and Bob's, of which the provider then takes back Ada's grant.
///
/// Bob's tells that the provider is in order. A while has passed, so that a check is not too soon.
async fn revoked(app: &TestApp) -> (User<'_>, String) {
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    let hers = ada.connected("gmail").await;
    bob.connected("gmail").await;
    app.advance(TimeDelta::minutes(2));
    let body = json!({ "connection_id": hers["nango_connection_id"] });
    app.control("revoke", Method::POST, body).await;
    (ada, text(&hers, "id").to_owned())
}

/// The provider goes on to refuse: two more sweeps see it, over more than five minutes.
async fn refused_until_dead(app: &TestApp) {
    for _ in 0..2 {
        app.advance(TimeDelta::minutes(3));
        app.sweep().await;
    }
}

/// Lets Nango try to refresh a connection by itself, which it tells of when it fails.
async fn nango_refreshes(app: &TestApp, user: &User<'_>, id: &str) -> StatusCode {
    let connection = user.connection(id).await;
    let nango_id = text(&connection, "nango_connection_id");
    let path = format!("/connections/{nango_id}?provider_config_key=gmail&force_refresh=true");
    app.nango(Method::GET, &path).await.0
}

/// Every webhook that was due, whether or not it was sent: its address and body.
async fn deliveries(app: &TestApp) -> Vec<Value> {
    let all = app.control("webhooks", Method::GET, Value::Null).await;
    all.as_array().unwrap().clone()
}

/// Waits until each webhook that was sent has been answered for good, and says how.
async fn assert_status(app: &TestApp) -> Vec<u64> {
    for _ in 0..250 {
        let last: Option<Vec<u64>> = deliveries(app)
            .await
            .iter()
            .map(|delivery| delivery["attempts"].as_array()?.last()?["status"].as_u64())
            .collect();
        if let Some(last) = last {
            return last;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("a webhook was not answered");
}

/// Waits until the service has learned what happened at Nango: by webhooks, or by a sweep where none arrive.
async fn noticed(app: &TestApp) {
    if app.has_webhooks() {
        assert_status(app).await;
    } else {
        app.sweep().await;
    }
}

/// Sends a webhook by hand, signed with this key.
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

/// Sends a webhook that was dropped, or sends it again.
async fn deliver(app: &TestApp, delivery: &Value) {
    let status = send(text(delivery, "url"), &delivery["body"], &app.signing_key);
    assert_eq!(status.await, StatusCode::NO_CONTENT, "{delivery:#}");
}

/// A column of the only connection there is, read past the API: asking the API would look at Nango.
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

/// Waits until background work has met the condition.
async fn wait_for(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    for _ in 0..250 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not within five seconds: {what}");
}

/// Waits until a call of Nango waits for its answer.
async fn wait_for_nango_call(app: &TestApp, method: &str, part: &str) {
    wait_for(&format!("{method} {part} at Nango"), async || {
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

/// Lifts all faults, lets what runs by itself run, and looks at what must then hold.
async fn wait_until_settled(app: &TestApp) {
    app.faults(json!({})).await;
    app.sweep().await;
    // Longer than any pause between two tries to delete something at Nango.
    app.advance(TimeDelta::minutes(11));
    app.service().await.deletions.delete_due().await.unwrap();
    let mut sql = app.sql().await;
    wait_for("nothing is left to be deleted at Nango", async || {
        let pending: i64 = sqlx::query_scalar("select count(*) from upstream_deletion")
            .fetch_one(&mut sql)
            .await
            .unwrap();
        pending == 0
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
