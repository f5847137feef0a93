//! Many concurrent long polls.

use std::time::Duration;

use chrono::TimeDelta;
use futures::future::join_all;
use patchbay::service::SweepSchedule;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::text;
use crate::test_app::{self, TestApp};

/// Returns the number of list calls that Nango has received.
async fn lists(app: &TestApp) -> usize {
    let one = app.nango_calls("GET", "/connections/").await;
    app.nango_calls("GET", "/connections").await - one
}

#[tokio::test]
async fn concurrent_long_polls_share_nango_calls_and_see_grants() {
    const USERS: usize = 50;
    const SECONDS: usize = 5;
    let app = TestApp::new().await;
    let names: Vec<String> = (0..USERS).map(|n| format!("user-{n}")).collect();
    let users = join_all(names.iter().map(|name| app.user(name))).await;
    let faults = json!({ "consent": "allow", "drop_webhooks": true });
    app.faults(faults).await;
    let opened = join_all(users.iter().map(|user| user.connect("gmail"))).await;
    let path = |n: usize, wait: usize| {
        let id = text(&opened[n], "connection_id");
        format!("/connections/{id}?wait={wait}")
    };

    let (before, started) = (lists(&app).await, Instant::now());
    let waited = join_all((0..USERS).map(async |n| users[n].get(&path(n, SECONDS)).await)).await;
    assert!(waited.iter().all(|one| one["status"] == "pending"));
    let (calls, took) = (lists(&app).await - before, started.elapsed());
    // Two a second, and a few concurrent ones after a pause.
    let allowed = 2 * (took.as_secs_f64().ceil() as usize) + 4;
    assert!(calls <= allowed, "{calls} calls in {took:?}");

    let last = USERS - 1;
    let everybody = join_all((0..USERS).map(async |n| {
        let waited = users[n].get(&path(n, if n == last { 25 } else { 4 })).await;
        (waited, Instant::now())
    }));
    let granting = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        app.popup(text(&opened[last], "oauth_url")).await;
        Instant::now()
    };
    let (waited, granted) = tokio::join!(everybody, granting);
    let (connection, reported) = &waited[last];
    assert_eq!(connection["status"], "connected");
    let delay = reported.saturating_duration_since(granted);
    assert!(delay < test_app::PROMPT_TIMEOUT, "{delay:?}");
}

#[tokio::test]
async fn newest_attempts_are_polled_and_others_found_by_sweep() {
    const ATTEMPTS: usize = 25;
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let faults = json!({ "consent": "allow", "drop_webhooks": true });
    app.faults(faults).await;
    let mut started = Vec::new();
    for n in 0..ATTEMPTS {
        let path = format!("/gmail/connect?instance_id={n}");
        let (status, body) = ada.call(Method::POST, &path, None).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        started.push(body);
        app.advance(TimeDelta::seconds(1));
    }
    let (oldest, newest) = (&started[0], &started[ATTEMPTS - 1]);
    for one in [oldest, newest] {
        app.popup(text(one, "oauth_url")).await;
    }
    let status = |list: &Value, started: &Value| {
        let all = list["connections"].as_array().unwrap();
        let same = all.iter().find(|one| one["id"] == started["connection_id"]);
        text(same.unwrap(), "status").to_owned()
    };
    let list = ada.get("/connections").await;
    assert_eq!(list["total_count"], ATTEMPTS);
    assert_eq!(status(&list, newest), "connected");
    assert_eq!(status(&list, oldest), "pending");
    assert_eq!(app.sweep().await.found, 1);
    let list = ada.get("/connections").await;
    assert_eq!(status(&list, oldest), "connected");
}

#[tokio::test]
async fn sweep_finds_lost_grants_without_pausing() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let faults = json!({ "consent": "allow", "drop_webhooks": true });
    app.faults(faults).await;
    for connector in ["gmail", "github", "asana"] {
        let started = ada.connect(connector).await;
        app.popup(text(&started, "oauth_url")).await;
    }
    let slow = SweepSchedule {
        every: Duration::ZERO,
        pause: Duration::from_secs(3600),
    };
    let (service, stop) = (app.service().await, CancellationToken::new());
    let sweep = tokio::time::timeout(Duration::from_secs(60), service.sweeper.sweep(slow, &stop));
    let report = sweep.await.expect("it waits for nothing").unwrap().unwrap();
    assert_eq!(report.found, 3);
}
