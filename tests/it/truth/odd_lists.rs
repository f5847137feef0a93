//! Lists of Nango's that are not as expected: entries in another form, and pages that are not what was asked for.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::text;
use crate::house::{AT_ONCE, House};

/// Entries of another application, or of another version of Nango.
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
        // Readable, whatever is in what is not needed.
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
    let house = House::new().await;
    let ada = house.user("ada").await;
    house
        .faults(json!({ "consent": "allow", "drop_webhooks": true }))
        .await;
    let begun = ada.connect("gmail").await;
    house.popup(text(&begun, "oauth_url")).await;
    house
        .faults(json!({ "odd_list_entries": oddities() }))
        .await;
    let swept = house.sweep().await;
    assert_eq!((swept.found, swept.unreadable), (1, 10), "{swept:?}");
    assert_eq!((swept.missing, swept.orphans), (0, 0), "{swept:?}");
    let id = text(&begun, "connection_id");
    assert_eq!(ada.connection(id).await["status"], "connected");
}

#[tokio::test]
async fn unreadable_entry_is_no_missing_connection() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let connected = ada.connected("gmail").await;
    let id = text(&connected, "id");
    house.pass(TimeDelta::minutes(5));
    let odd = json!({
        "connection_id": connected["nango_connection_id"], "provider_config_key": "gmail",
        "created": "yesterday",
    });
    house.faults(json!({ "odd_list_entries": [odd] })).await;
    let swept = house.sweep().await;
    assert_eq!((swept.unreadable, swept.missing), (1, 0), "{swept:?}");
    assert_eq!(ada.connection(id).await["status"], "connected");
}

#[tokio::test]
async fn ignored_page_number_ends_the_sweep_with_an_error() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let connected = ada.connected("gmail").await;
    house.pass(TimeDelta::minutes(5));
    house.faults(json!({ "list_ignores_page": true })).await;
    let service = house.service().await;
    let sweep = service.sweep(AT_ONCE, &CancellationToken::new()).await;
    let error = sweep.unwrap_err().to_string();
    assert!(error.contains("page 1"), "{error}");
    let id = text(&connected, "id");
    assert_eq!(ada.connection(id).await["status"], "connected");
    house.faults(json!({})).await;
    assert_eq!(house.sweep().await.listed, 1);
}

#[tokio::test]
async fn smaller_pages_are_read_to_the_end() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let connected = ada.connected("gmail").await;
    for _ in 0..7 {
        house.import_with(json!({})).await;
    }
    house.pass(TimeDelta::minutes(5));
    house.faults(json!({ "list_page_size": 3 })).await;
    let swept = house.sweep().await;
    assert_eq!((swept.listed, swept.missing), (8, 0), "{swept:?}");
    let id = text(&connected, "id");
    assert_eq!(ada.connection(id).await["status"], "connected");
}

#[tokio::test]
async fn last_known_integrations_are_served_while_nango_hangs() {
    let house = House::build(&[], |nango| {
        nango.integrations.retain(|one| one.unique_key != "github");
    })
    .await;
    let ada = house.user("ada").await;
    assert_eq!(ada.get("/gmail").await["configured"], true);
    let integrations = "GET /integrations";
    // After a failure, the next query is due soon.
    house
        .faults(json!({ "status": 500, "only": integrations }))
        .await;
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let refused = ada.call(Method::POST, "/github/connect", None).await;
    assert_eq!(refused.0, StatusCode::CONFLICT);
    house
        .faults(json!({ "latency_ms": 60_000, "only": integrations }))
        .await;
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let before = house.nango_calls("GET", "/integrations").await;
    let started = Instant::now();
    for _ in 0..3 {
        assert_eq!(ada.get("/gmail").await["configured"], true);
    }
    let (status, begun) = ada.call(Method::POST, "/gmail/connect", None).await;
    assert_eq!(status, StatusCode::OK, "{begun}");
    let took = started.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    super::eventually(async || house.nango_calls("GET", "/integrations").await == before + 1).await;
}

#[tokio::test]
async fn list_that_has_lost_all_integrations_is_doubted() {
    let house = House::build(&[], |nango| {
        nango.integrations.retain(|one| one.unique_key == "gmail");
    })
    .await;
    let ada = house.user("ada").await;
    assert_eq!(ada.get("/gmail").await["configured"], true);
    house.nango(Method::DELETE, "/integrations/gmail").await;
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let asked = ada.call(Method::POST, "/github/connect", None).await;
    assert_eq!(asked.0, StatusCode::CONFLICT);
    assert_eq!(ada.get("/gmail").await["configured"], true);
    // Nango has the last word where it matters.
    let (status, refused) = ada.call(Method::POST, "/gmail/connect", None).await;
    assert_eq!(
        (status, text(&refused, "code")),
        (StatusCode::CONFLICT, "connector_not_configured")
    );
}
