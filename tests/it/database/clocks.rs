//! Machines whose clocks differ from the database's, and a database whose clock was set back.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use patchbay::app::App;
use patchbay::catalog::Catalog;
use patchbay::clock::Clock;
use patchbay::service::SweepSchedule;
use reqwest::StatusCode;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::eventually::eventually_value;
use crate::test_app::{TestApp, client, read};

#[tokio::test]
async fn times_are_those_of_the_database_when_a_clock_is_wrong() {
    let wrong = TimeDelta::seconds(-30);
    let app = TestApp::build(&[], |setup| {
        setup.clock = Clock::database_with_system_error(wrong);
    })
    .await;
    let ada = app.user("ada").await;
    let started = ada.connect("gmail").await;
    let (created, now): (DateTime<Utc>, DateTime<Utc>) =
        sqlx::query_as("select created_at, clock_timestamp() from user_connector_connection")
            .fetch_one(&mut app.sql().await)
            .await
            .unwrap();
    assert!(
        (now - created).abs() < TimeDelta::seconds(10),
        "{created} {now} {started}"
    );
}

#[tokio::test]
async fn replica_is_not_ready_when_its_clock_is_minutes_off() {
    let app = TestApp::with_system_clock().await;
    for minutes in [-10, 10] {
        let clock = Clock::database_with_system_error(TimeDelta::minutes(minutes));
        let config = read(&app.settings(&[("PORT", "0")]));
        let replica = App::bind(config, Catalog::builtin(), clock).await.unwrap();
        let url = format!("http://{}/readyz", replica.local_addr().unwrap());
        let stop = CancellationToken::new();
        let running = tokio::spawn(replica.run(stop.clone()));
        let readiness = async || {
            let answer = client().get(&url).send().await.unwrap();
            assert!(answer.headers().contains_key("retry-after"));
            (answer.status(), answer.json::<Value>().await.unwrap())
        };
        let (status, unready) =
            eventually_value(readiness, |(_, body)| body["code"] != "starting").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{unready}");
        assert!(
            unready["detail"].as_str().unwrap().contains("clock"),
            "{unready}"
        );
        stop.cancel();
        running.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn leases_and_finishes_in_the_future_are_over() {
    let app = TestApp::new().await;
    let service = app.service().await;
    let hourly = SweepSchedule {
        every: Duration::from_secs(3600),
        pause: Duration::ZERO,
    };
    for (change, is_due) in [
        (
            "leased_until = now() + interval '20 seconds', finished_at = null",
            false,
        ),
        (
            "leased_until = now() + interval '10 minutes', finished_at = null",
            true,
        ),
        (
            "leased_until = null, finished_at = now() + interval '10 minutes'",
            true,
        ),
        (
            "leased_until = null, finished_at = now() - interval '10 minutes'",
            false,
        ),
    ] {
        let update = sqlx::AssertSqlSafe(format!("update job set {change} where name = 'sweep'"));
        sqlx::raw_sql(update)
            .execute(&mut app.sql().await)
            .await
            .unwrap();
        let swept = service
            .sweeper
            .sweep(hourly, &CancellationToken::new())
            .await
            .unwrap();
        assert_eq!(swept.is_some(), is_due, "{change}");
    }
}
