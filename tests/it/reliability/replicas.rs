//! Several replicas with one database.

use std::pin::pin;
use std::time::Duration;

use chrono::TimeDelta;
use futures::FutureExt;
use patchbay::clock::Clock;
use patchbay::domain::Brake;
use patchbay::service::SweepSchedule;
use reqwest::Method;
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::event_streams::StreamReader;
use super::text;
use crate::eventually::{eventually, eventually_locked};
use crate::test_app::{self, IMMEDIATE_SWEEP, Replica, TestApp};

/// More connectors than fit into one batch of deletions.
const CONNECTORS: [&str; 6] = ["gmail", "github", "asana", "box", "bitbucket", "airtable"];

#[tokio::test]
async fn job_claimed_after_a_claim_began_is_not_claimed_twice() {
    let app = TestApp::new().await;
    let mut other = app.sql().await;
    sqlx::raw_sql(
        "insert into job (name) values ('pruning') on conflict do nothing; \
         begin; select name from job where name = 'pruning' for update",
    )
    .execute(&mut other)
    .await
    .unwrap();
    let service = app.service().await;
    let claims = tokio::spawn(async move { service.retention.prune(Duration::from_secs(1)).await });
    eventually_locked(&mut other).await;
    // Another replica's lease, which starts later than the waiting transaction.
    sqlx::raw_sql(
        "update job set leased_until = clock_timestamp() + interval '1 hour' where name = 'pruning'; commit",
    )
    .execute(&mut other)
    .await
    .unwrap();
    assert_eq!(claims.await.unwrap().unwrap(), None);
}

#[tokio::test]
async fn webhook_at_one_replica_notifies_the_other() {
    let app = TestApp::new().await;
    let other = app.replica(&[]).await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "allow" })).await;
    let started = ada.connect("gmail").await;
    let ada_on_replica = ada.at(&other);
    let mut stream = StreamReader::open(&ada_on_replica, None).await;
    // The other replica cannot find the change by polling Nango.
    let faults = json!({ "consent": "allow", "only": "tags", "status": 500 });
    app.faults(faults).await;
    let path = format!("/connections/{}?wait=25", text(&started, "connection_id"));
    let waiting = async {
        let waited = ada_on_replica.get(&path).await;
        assert_eq!(waited["status"], "connected");
        Instant::now()
    };
    let reading = async {
        let event = stream.next().await.expect("the stream goes on");
        assert_eq!(event["kind"], "connected");
        Instant::now()
    };
    let granting = async {
        app.popup(text(&started, "oauth_url")).await;
        Instant::now()
    };
    let (waited, read, granted) = tokio::join!(waiting, reading, granting);
    for (what, when) in [("the wait", waited), ("the stream", read)] {
        let delay = when.saturating_duration_since(granted);
        assert!(delay < test_app::PROMPT_TIMEOUT, "{what}: {delay:?}");
    }
}

#[tokio::test]
async fn concurrent_sweeps_run_once() {
    let app = TestApp::new().await;
    let (one, other) = (app.service().await, app.service().await);
    // The sweep is due for these two, which sweep every hour, and not for the running replica.
    sqlx::query("update job set finished_at = now() - interval '2 hours'")
        .execute(&mut app.sql().await)
        .await
        .unwrap();
    app.faults(json!({ "latency_ms": 300 })).await;
    let stop = CancellationToken::new();
    let hourly = SweepSchedule::every(Duration::from_secs(3600));
    let report = tokio::join!(
        one.sweeper.sweep(hourly, &stop),
        other.sweeper.sweep(hourly, &stop)
    );
    let done = [report.0.unwrap(), report.1.unwrap()];
    assert_eq!(done.iter().flatten().count(), 1);
    let calls = app.nango_calls("GET", "/connections").await;
    assert_eq!(calls, 1, "{done:?}");
    // It is not due again for an hour.
    assert_eq!(one.sweeper.sweep(hourly, &stop).await.unwrap(), None);
}

#[tokio::test]
async fn deletions_are_requested_once_across_replicas() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    for connector in CONNECTORS {
        ada.connected(connector).await;
    }
    app.faults(json!({ "refuse_delete": true })).await;
    for connector in CONNECTORS {
        let (_, ended) = ada.disconnect(connector, "").await;
        assert_eq!(ended["upstream_deleted"], false);
    }
    let refused = app.nango_calls("DELETE", "/connections/").await;
    app.faults(json!({})).await;
    app.advance(TimeDelta::hours(1));
    let (one, other) = (app.service().await, app.service().await);
    let (first, second) = tokio::join!(one.deletions.delete_due(), other.deletions.delete_due());
    // The running replica may have deleted some as well.
    assert!(first.unwrap() + second.unwrap() <= CONNECTORS.len());
    app.wait_for_nango_connections(&[]).await;
    let calls = app.nango_calls("DELETE", "/connections/").await - refused;
    assert_eq!(calls, CONNECTORS.len());
}

#[tokio::test]
async fn attempts_expire_once_across_replicas() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    for connector in ["gmail", "github", "asana", "box"] {
        ada.connect(connector).await;
    }
    app.advance(TimeDelta::minutes(31));
    let (one, other) = (app.service().await, app.service().await);
    let (first, second) = tokio::join!(one.expiry.run(), other.expiry.run());
    assert!(first.unwrap() + second.unwrap() <= 4);
    let mut sql = app.sql().await;
    let mut count = async |query: &'static str| -> i64 {
        sqlx::query_scalar(query).fetch_one(&mut sql).await.unwrap()
    };
    // The running replica may process the expiry instead.
    let expired = "select count(*) from connect_attempt where outcome = 'expired'";
    eventually(async || count(expired).await == 4).await;
    let reported = "select count(*) from connection_event where kind = 'attempt_failed'";
    assert_eq!(count(reported).await, 4);
    // Each attempt was polled once, although the service caches results for a second only.
    assert!(app.nango_calls("GET", "/connections").await <= 4);
}

#[tokio::test]
async fn deletions_reserve_rate_budget_for_interactive_requests() {
    let app = TestApp::build(&[], |nango| nango.rate_limit = 200).await;
    sqlx::query(
        "insert into upstream_deletion (nango_connection_id, integration_key, reason, next_attempt_at, created_at) \
         select gen_random_uuid()::text, 'gmail', 'disconnected', $1, $1 from generate_series(1, 500)",
    )
    .bind(app.clock.now())
    .execute(&mut app.sql().await)
    .await
    .unwrap();
    let (one, other) = (app.service().await, app.service().await);
    while one.deletions.delete_due().await.unwrap() + other.deletions.delete_due().await.unwrap()
        > 0
    {}
    // In its last run, each replica may exceed the budget by the calls of the other that it has not counted yet.
    let calls = app.nango_calls("GET", "/connections").await
        + app.nango_calls("DELETE", "/connections").await;
    assert!((40..=100).contains(&calls), "{calls}");
    app.user("ada").await.connect("gmail").await;
    app.advance(TimeDelta::seconds(62));
    assert!(one.deletions.delete_due().await.unwrap() > 0);
}

#[tokio::test]
async fn deletion_batches_continue_while_rate_budget_allows() {
    let app = TestApp::new().await;
    let service = app.service().await;
    sqlx::query(
        "insert into upstream_deletion (nango_connection_id, integration_key, reason, next_attempt_at, created_at) \
         select gen_random_uuid()::text, 'gmail', 'disconnected', $1, $1 from generate_series(1, 500)",
    )
    .bind(app.clock.now())
    .execute(&mut app.sql().await)
    .await
    .unwrap();
    assert_eq!(service.deletions.delete_due().await.unwrap(), 10);
    assert!(service.deletions.wait().now_or_never().is_some());
}

#[tokio::test]
async fn sweep_pauses_when_rate_budget_is_low() {
    let app = TestApp::build(&[], |nango| nango.rate_limit = 100).await;
    let ada = app.user("ada").await;
    for connector in CONNECTORS {
        let nango_id = ada.connected(connector).await["nango_connection_id"].clone();
        let nango_id = nango_id.as_str().unwrap();
        let path = format!("/connections/{nango_id}?provider_config_key={connector}");
        app.nango(Method::DELETE, &path).await;
        app.advance(TimeDelta::minutes(5));
    }
    for _ in 0..15 {
        app.nango_connections().await;
    }
    let calls = async || app.nango_calls("GET", "/connections").await;
    // The list, and some of the missing connections: then less than four fifths of the calls are left.
    let most = calls().await + 6;
    let (service, stop) = (app.service().await, CancellationToken::new());
    // The operator releases the brake, because the environment is right although it is empty.
    service.core.brakes.release(Brake::Nango).await.unwrap();
    let mut sweeping = pin!(service.sweeper.sweep(IMMEDIATE_SWEEP, &stop));
    let waiting = async {
        eventually(async || calls().await >= most).await;
        // A connection's lookups are completed, and no more follow.
        loop {
            let before = calls().await;
            for _ in 0..20 {
                calls().await;
            }
            if calls().await == before {
                break;
            }
        }
    };
    tokio::select! {
        swept = &mut sweeping => panic!("it did not wait: {swept:?}"),
        () = waiting => {}
    }
    // The sweep continues in each of the next minutes.
    let minutes = async {
        loop {
            app.advance(TimeDelta::seconds(62));
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::select! {
        swept = sweeping => assert!(swept.unwrap().is_some()),
        () = minutes => {}
    }
    let absent: i64 =
        sqlx::query_scalar("select count(*) from user_connector_connection where absences <> '{}'")
            .fetch_one(&mut app.sql().await)
            .await
            .unwrap();
    assert_eq!(usize::try_from(absent).unwrap(), CONNECTORS.len());
}

#[tokio::test]
async fn newest_attempt_is_shown_despite_clock_skew() {
    let app = TestApp::new().await;
    let behind = Clock::manual(app.clock.now() - TimeDelta::milliseconds(300));
    let other = Replica::start(&app.settings(&[("PORT", "0")]), behind).await;
    let ada = app.user("ada").await;
    ada.connect("gmail").await;
    let second = ada.at(&other).connect("gmail").await;
    let shown = ada.connection(text(&second, "connection_id")).await["attempt"].clone();
    assert_eq!(shown["id"], second["attempt_id"]);
    assert_eq!(shown["outcome"], json!(null));
}
