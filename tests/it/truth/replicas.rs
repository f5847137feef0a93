//! Several replicas over one database.

use std::pin::pin;
use std::time::Duration;

use chrono::TimeDelta;
use futures::FutureExt;
use patchbay::clock::Clock;
use patchbay::service::Pace;
use reqwest::Method;
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::streams::Reader;
use super::{eventually, text};
use crate::house::{self, AT_ONCE, House, Replica};

/// As many connectors as one batch of deletions has not room for.
const CONNECTORS: [&str; 6] = ["gmail", "github", "asana", "box", "bitbucket", "airtable"];

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
    for connector in CONNECTORS {
        ada.connected(connector).await;
    }
    house.faults(json!({ "refuse_delete": true })).await;
    for connector in CONNECTORS {
        let (_, ended) = ada.disconnect(connector, "").await;
        assert_eq!(ended["upstream_deleted"], false);
    }
    let refused = house.nango_calls("DELETE", "/connections/").await;
    house.faults(json!({})).await;
    house.pass(TimeDelta::hours(1));
    let (one, other) = (house.service().await, house.service().await);
    let (first, second) = tokio::join!(one.delete_due(), other.delete_due());
    // The running replica may have taken its share as well.
    assert!(first.unwrap() + second.unwrap() <= CONNECTORS.len());
    eventually(async || house.nango_connections().await.is_empty()).await;
    let asked = house.nango_calls("DELETE", "/connections/").await - refused;
    assert_eq!(asked, CONNECTORS.len());
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
    let mut sql = house.sql().await;
    let mut count = async |query: &'static str| -> i64 {
        sqlx::query_scalar(query).fetch_one(&mut sql).await.unwrap()
    };
    // The running replica may be at it instead.
    let expired = "select count(*) from connect_attempt where outcome = 'expired'";
    eventually(async || count(expired).await == 4).await;
    let told = "select count(*) from connection_event where kind = 'attempt_failed'";
    assert_eq!(count(told).await, 4);
    // Each was looked for once, though the service's answers are good for a second only.
    assert!(house.nango_calls("GET", "/connections").await <= 4);
}

#[tokio::test]
async fn many_deletions_leave_some_of_nangos_rate_limit_to_those_who_wait() {
    let house = House::build(&[], |nango| nango.rate_limit = 200).await;
    sqlx::query(
        "insert into upstream_deletion (nango_connection_id, integration_key, next_attempt_at, created_at) \
         select gen_random_uuid()::text, 'gmail', $1, $1 from generate_series(1, 500)",
    )
    .bind(house.clock.now())
    .execute(&mut house.sql().await)
    .await
    .unwrap();
    let (one, other) = (house.service().await, house.service().await);
    while one.delete_due().await.unwrap() + other.delete_due().await.unwrap() > 0 {}
    // Each takes two calls, for Nango says that it does not know them. What is reserved is missed by what each
    // replica's last pass did not know of the others.
    let asked = house.nango_calls("DELETE", "/connections/").await;
    assert!((60..=85).contains(&asked), "{asked}");
    house.user("ada").await.connect("gmail").await;
    house.pass(TimeDelta::minutes(1));
    assert!(one.delete_due().await.unwrap() > 0);
}

#[tokio::test]
async fn of_many_deletions_the_next_follow_at_once_where_nangos_rate_limit_leaves_room() {
    let house = House::new().await;
    let service = house.service().await;
    sqlx::query(
        "insert into upstream_deletion (nango_connection_id, integration_key, next_attempt_at, created_at) \
         select gen_random_uuid()::text, 'gmail', $1, $1 from generate_series(1, 500)",
    )
    .bind(house.clock.now())
    .execute(&mut house.sql().await)
    .await
    .unwrap();
    assert_eq!(service.delete_due().await.unwrap(), 5);
    assert!(service.deletion_wanted().now_or_never().is_some());
}

#[tokio::test]
async fn a_sweep_waits_where_little_is_left_of_nangos_rate_limit() {
    let house = House::build(&[], |nango| nango.rate_limit = 100).await;
    let ada = house.user("ada").await;
    for connector in CONNECTORS {
        let nango_id = ada.connected(connector).await["nango_connection_id"].clone();
        let nango_id = nango_id.as_str().unwrap();
        let path = format!("/connections/{nango_id}?provider_config_key={connector}");
        house.nango(Method::DELETE, &path).await;
        house.pass(TimeDelta::minutes(5));
    }
    for _ in 0..67 {
        house.nango_connections().await;
    }
    let asked = async || house.nango_calls("GET", "/connections").await;
    // The listing, and three of the six that it does not have: then fewer than thirty calls are left.
    let most = asked().await + 4;
    let (service, stop) = (house.service().await, CancellationToken::new());
    let mut sweeping = pin!(service.sweep(AT_ONCE, &stop));
    let waiting = async {
        eventually(async || asked().await >= most).await;
        for _ in 0..20 {
            asked().await;
        }
    };
    tokio::select! {
        swept = &mut sweeping => panic!("it did not wait: {swept:?}"),
        () = waiting => {}
    }
    assert_eq!(asked().await, most);
    house.pass(TimeDelta::minutes(1));
    assert_eq!(sweeping.await.unwrap().unwrap().missing, CONNECTORS.len());
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
