//! Many concurrent long polls.

use std::time::{Duration, Instant};

use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::json;

use super::take_statements;
use crate::eventually::eventually_value;
use crate::isolation::query_parity::with_statement_log;
use crate::limits::{METRICS_TOKEN, until_metrics_say};
use crate::test_app::{TestApp, User};
use crate::test_database;

/// The number of concurrent waits: more than there are permits.
const USERS: usize = 40;

#[tokio::test]
async fn many_waits_leave_permits_and_run_no_statements() {
    let database = test_database::database().await;
    let (url, statements) = with_statement_log(&database).await;
    let settings = [
        ("DATABASE_URL", url.as_str()),
        ("MAX_CONCURRENT_REQUESTS", "20"),
        ("METRICS_TOKEN", METRICS_TOKEN),
    ];
    let app = TestApp::build_on(database, None, &settings, |_| {}).await;
    app.faults(json!({ "drop_webhooks": true })).await;
    let names: Vec<String> = (0..USERS).map(|n| format!("user-{n}")).collect();
    let users: Vec<User<'_>> = join_all(names.iter().map(|name| app.user(name))).await;
    let mut paths = Vec::new();
    for (n, user) in users.iter().enumerate() {
        // Half of them reauthorize a known account.
        let id = if n % 2 == 0 {
            let connected = user.connected("gmail").await;
            let id = connected["id"].as_str().unwrap().to_owned();
            let path = format!("/connections/{id}/reconnect");
            let (status, body) = user.call(Method::POST, &path, None).await;
            assert_eq!(status, StatusCode::OK, "{body}");
            id
        } else {
            let started = user.connect("gmail").await;
            started["connection_id"].as_str().unwrap().to_owned()
        };
        paths.push(format!("/connections/{id}?wait=25"));
    }
    let mut waiting = 0;
    for (users, paths) in users.chunks(10).zip(paths.chunks(10)) {
        // Each holds a permit until it waits.
        for (user, path) in users.iter().zip(paths) {
            tokio::spawn(user.request(Method::GET, path).send());
            waiting += 1;
        }
        until_metrics_say(&app, &format!("patchbay_http_requests_waiting {waiting}")).await;
    }
    let ada = app.user("ada").await;
    let ran_within = async |seconds| {
        take_statements(&statements);
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        take_statements(&statements)
    };
    // Until the first polls have ended.
    eventually_value(async || ran_within(1).await, Vec::is_empty).await;
    let started = Instant::now();
    let ran = ran_within(5).await;
    for _ in 0..20 {
        let (status, body) = ada.call(Method::GET, "/connections", None).await;
        assert_eq!(status, StatusCode::OK, "{body}");
    }
    // A heartbeat of the notifications wakes each poll every ten seconds, and their reads are batched.
    let heartbeats = started.elapsed().as_secs() / 10 + 1;
    assert!(ran.len() as u64 <= 6 * heartbeats, "{ran:#?}");
}

#[tokio::test]
async fn reported_grant_is_compared_once_while_a_client_waits() {
    let database = test_database::database().await;
    let (url, statements) = with_statement_log(&database).await;
    let app = TestApp::build_on(database, None, &[("DATABASE_URL", &url)], |_| {}).await;
    app.faults(json!({ "drop_webhooks": true })).await;
    let ada = app.user("ada").await;
    let started = ada.connect("gmail").await;
    let id = started["connection_id"].as_str().unwrap().to_owned();
    // Nango has a connection with the attempt's tag and another user's, so it is not the attempt's grant.
    let attempt: String =
        sqlx::query_scalar("select attempt_id::text from user_connector_connection")
            .fetch_one(&mut app.sql().await)
            .await
            .unwrap();
    app.import_with(json!({ "patchbay_attempt": attempt, "end_user_id": "ada" }))
        .await;
    ada.get(&format!("/connections/{id}?wait=2")).await;
    take_statements(&statements);
    ada.get(&format!("/connections/{id}?wait=4")).await;
    let ran = take_statements(&statements);
    let compared = ran.iter().filter(|text| text.contains("connect_attempt a"));
    assert_eq!(compared.count(), 0, "{ran:#?}");
}
