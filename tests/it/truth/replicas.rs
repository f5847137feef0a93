//! Several replicas over one database.

use std::time::Duration;

use chrono::TimeDelta;
use patchbay::clock::Clock;
use patchbay::connections::service::Pace;
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::streams::Reader;
use super::text;
use crate::house::{self, House, Replica};

#[tokio::test]
async fn a_webhook_at_one_replica_ends_a_wait_and_reaches_a_stream_at_the_other() {
    let house = House::new().await;
    let other = house.replica(&[]).await;
    let ada = house.user("ada").await;
    house.faults(json!({ "consent": "allow" })).await;
    let begun = ada.connect("gmail").await;
    let there = ada.at(&other);
    let mut stream = Reader::open(&there, None).await;
    // Whether the other replica looks at Nango by itself must not matter here.
    let faults = json!({ "consent": "allow", "only": "tags", "status": 500 });
    house.faults(faults).await;
    let path = format!("/connections/{}?wait=25", text(&begun, "connection_id"));
    let waiting = async {
        let waited = there.get(&path).await;
        assert_eq!(waited["status"], "connected");
        Instant::now()
    };
    let reading = async {
        let event = stream.next().await.expect("the stream goes on");
        assert_eq!(event["kind"], "connected");
        Instant::now()
    };
    let granting = async {
        house.popup(text(&begun, "oauth_url")).await;
        Instant::now()
    };
    let (waited, read, granted) = tokio::join!(waiting, reading, granting);
    for (what, when) in [("the wait", waited), ("the stream", read)] {
        let delay = when.saturating_duration_since(granted);
        assert!(delay < house::PROMPTLY, "{what}: {delay:?}");
    }
}

#[tokio::test]
async fn of_two_sweeps_at_once_one_is_done() {
    let house = House::new().await;
    let (one, other) = (house.service().await, house.service().await);
    // Due for these two, which sweep every hour, and not for the running replica.
    sqlx::query("update job set finished_at = now() - interval '2 hours'")
        .execute(&mut house.sql().await)
        .await
        .unwrap();
    house.faults(json!({ "latency_ms": 300 })).await;
    let stop = CancellationToken::new();
    let hourly = Pace::every(Duration::from_secs(3600));
    let swept = tokio::join!(one.sweep(hourly, &stop), other.sweep(hourly, &stop));
    let done = [swept.0.unwrap(), swept.1.unwrap()];
    assert_eq!(done.iter().flatten().count(), 1);
    assert_eq!(house.nango_calls("GET", "/connections").await, 1);
    // It is not due again for an hour.
    assert_eq!(one.sweep(hourly, &stop).await.unwrap(), None);
}

#[tokio::test]
async fn each_deletion_is_asked_for_once_however_many_replicas_are_at_it() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let connectors = ["gmail", "github", "asana", "box", "bitbucket", "airtable"];
    for connector in connectors {
        ada.connected(connector).await;
    }
    house.faults(json!({ "refuse_delete": true })).await;
    for connector in connectors {
        let (_, ended) = ada.disconnect(connector, "").await;
        assert_eq!(ended["upstream_deleted"], false);
    }
    let refused = house.nango_calls("DELETE", "/connections/").await;
    house.faults(json!({})).await;
    house.pass(TimeDelta::hours(1));
    let (one, other) = (house.service().await, house.service().await);
    let (first, second) = tokio::join!(one.delete_due(), other.delete_due());
    // The running replica may have taken its share as well.
    assert!(first.unwrap() + second.unwrap() <= connectors.len());
    super::eventually(async || house.nango_connections().await.is_empty()).await;
    let asked = house.nango_calls("DELETE", "/connections/").await - refused;
    assert_eq!(asked, connectors.len());
}

#[tokio::test]
async fn each_attempt_expires_once_however_many_replicas_are_at_it() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    for connector in ["gmail", "github", "asana", "box"] {
        ada.connect(connector).await;
    }
    house.pass(TimeDelta::minutes(31));
    let (one, other) = (house.service().await, house.service().await);
    let (first, second) = tokio::join!(one.expire_attempts(), other.expire_attempts());
    assert!(first.unwrap() + second.unwrap() <= 4);
    let (expired, told): (i64, i64) = sqlx::query_as(
        "select (select count(*) from connect_attempt where outcome = 'expired'), \
           (select count(*) from connection_event where kind = 'attempt_failed')",
    )
    .fetch_one(&mut house.sql().await)
    .await
    .unwrap();
    assert_eq!((expired, told), (4, 4));
}

#[tokio::test]
async fn of_two_attempts_the_later_is_shown_though_its_replicas_clock_is_behind() {
    let house = House::new().await;
    let behind = Clock::manual(house.clock.now() - TimeDelta::milliseconds(300));
    let other = Replica::start(&house.settings(&[("PORT", "0")]), behind).await;
    let ada = house.user("ada").await;
    ada.connect("gmail").await;
    let second = ada.at(&other).connect("gmail").await;
    let shown = ada.connection(text(&second, "connection_id")).await["attempt"].clone();
    assert_eq!(shown["id"], second["attempt_id"]);
    assert_eq!(shown["outcome"], json!(null));
}
