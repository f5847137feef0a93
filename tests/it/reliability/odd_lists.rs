//! Unexpected lists of Nango: malformed entries, and pages other than the requested ones.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::text;
use crate::eventually::eventually;
use crate::test_app::{IMMEDIATE_SWEEP, TestApp};

/// Returns entries of another application, or of another version of Nango.
fn oddities() -> Vec<Value> {
    let entry = |change: Value| {
        let mut entry = json!({
            "id": 1, "connection_id": "theirs", "provider_config_key": "gmail",
            "provider": "google-mail", "errors": [], "end_user": null, "tags": {},
            "metadata": null, "created": "2026-11-23T12:46:28.263+00:00",
        });
        let fields = entry.as_object_mut().unwrap();
        fields.extend(change.as_object().unwrap().clone());
        entry
    };
    let mut deep = json!("deep");
    for _ in 0..100 {
        deep = json!([deep]);
    }
    vec![
        // Readable, because the unexpected fields are not needed.
        entry(json!({ "connection_id": "a", "tags": null })),
        entry(json!({ "connection_id": "b", "tags": { "patchbay_attempt": 7 } })),
        entry(json!({ "connection_id": "c", "tags": ["patchbay_attempt"] })),
        entry(json!({ "connection_id": "d", "errors": null })),
        entry(json!({ "connection_id": "e", "errors": ["auth", { "type": 1 }] })),
        entry(json!({ "connection_id": "f", "metadata": deep, "end_user": "x" })),
        // Not readable.
        Value::Null,
        json!({}),
        json!("an entry"),
        json!([1]),
        entry(json!({ "connection_id": null })),
        entry(json!({ "connection_id": "with\u{0}nul" })),
        entry(json!({ "connection_id": "x".repeat(300) })),
        entry(json!({ "connection_id": "g", "created": "yesterday" })),
        entry(json!({ "connection_id": "h", "created": 1_795_437_776 })),
        entry(json!({ "connection_id": "i", "provider_config_key": 5 })),
    ]
}

#[tokio::test]
async fn odd_entries_are_skipped_and_counted() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "allow", "drop_webhooks": true }))
        .await;
    let started = ada.connect("gmail").await;
    app.popup(text(&started, "oauth_url")).await;
    app.faults(json!({ "odd_list_entries": oddities() })).await;
    let report = app.sweep().await;
    assert_eq!((report.found, report.unreadable), (1, 10), "{report:?}");
    assert_eq!((report.missing, report.orphans), (0, 0), "{report:?}");
    let id = text(&started, "connection_id");
    assert_eq!(ada.connection(id).await["status"], "connected");
}

#[tokio::test]
async fn unreadable_entry_is_no_missing_connection() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    let id = text(&connected, "id");
    app.advance(TimeDelta::minutes(5));
    let odd = json!({
        "connection_id": connected["nango_connection_id"], "provider_config_key": "gmail",
        "created": "yesterday",
    });
    app.faults(json!({ "odd_list_entries": [odd] })).await;
    let report = app.sweep().await;
    assert_eq!((report.unreadable, report.missing), (1, 0), "{report:?}");
    assert_eq!(ada.connection(id).await["status"], "connected");
}

#[tokio::test]
async fn ignored_page_number_ends_the_sweep_with_an_error() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    app.advance(TimeDelta::minutes(5));
    app.faults(json!({ "list_ignores_page": true })).await;
    let service = app.service().await;
    let sweep = service
        .sweeper
        .sweep(IMMEDIATE_SWEEP, &CancellationToken::new())
        .await;
    let error = sweep.unwrap_err().to_string();
    assert!(error.contains("page 1"), "{error}");
    let id = text(&connected, "id");
    assert_eq!(ada.connection(id).await["status"], "connected");
    app.faults(json!({})).await;
    assert_eq!(app.sweep().await.listed, 1);
}

#[tokio::test]
async fn smaller_pages_are_read_to_the_end() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    for _ in 0..7 {
        app.import_with(json!({})).await;
    }
    app.advance(TimeDelta::minutes(5));
    app.faults(json!({ "list_page_size": 3 })).await;
    let report = app.sweep().await;
    assert_eq!((report.listed, report.missing), (8, 0), "{report:?}");
    let id = text(&connected, "id");
    assert_eq!(ada.connection(id).await["status"], "connected");
}

#[tokio::test]
async fn last_known_integrations_are_served_while_nango_hangs() {
    let app = TestApp::build(&[("NANGO_TIMEOUT_SECONDS", "14")], |nango| {
        nango.integrations.retain(|one| one.unique_key != "github");
    })
    .await;
    let ada = app.user("ada").await;
    assert_eq!(ada.get("/gmail").await["configured"], true);
    let integrations = "GET /integrations";
    // After a failure, the next query is due soon.
    app.faults(json!({ "status": 500, "only": integrations }))
        .await;
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let refused = ada.call(Method::POST, "/github/connect", None).await;
    assert_eq!(refused.0, StatusCode::CONFLICT);
    app.faults(json!({ "latency_ms": 60_000, "only": integrations }))
        .await;
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let before = app.nango_calls("GET", "/integrations").await;
    let started = Instant::now();
    for _ in 0..3 {
        assert_eq!(ada.get("/gmail").await["configured"], true);
    }
    let (status, opened) = ada.call(Method::POST, "/gmail/connect", None).await;
    assert_eq!(status, StatusCode::OK, "{opened}");
    let took = started.elapsed();
    // The timeout of a call to Nango.
    assert!(took < Duration::from_secs(14), "{took:?}");
    eventually(async || app.nango_calls("GET", "/integrations").await == before + 1).await;
}

#[tokio::test]
async fn list_that_has_lost_all_integrations_is_doubted() {
    let app = TestApp::build(&[], |nango| {
        nango.integrations.retain(|one| one.unique_key == "gmail");
    })
    .await;
    let ada = app.user("ada").await;
    assert_eq!(ada.get("/gmail").await["configured"], true);
    app.nango(Method::DELETE, "/integrations/gmail").await;
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let asked = ada.call(Method::POST, "/github/connect", None).await;
    assert_eq!(asked.0, StatusCode::CONFLICT);
    assert_eq!(ada.get("/gmail").await["configured"], true);
    // Nango's response decides about a connect.
    let (status, refused) = ada.call(Method::POST, "/gmail/connect", None).await;
    assert_eq!(
        (status, text(&refused, "code")),
        (StatusCode::CONFLICT, "connector_not_configured")
    );
}
