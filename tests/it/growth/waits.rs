//! Many concurrent long polls.

use std::time::Duration;

use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::json;

use super::take_statements;
use crate::isolation::query_parity::with_statement_log;
use crate::test_app::{TestApp, User};
use crate::test_database;

const USERS: usize = 60;

#[tokio::test]
async fn many_waits_leave_permits_and_run_no_statements() {
    let database = test_database::database().await;
    let (url, statements) = with_statement_log(&database).await;
    let settings = [
        ("DATABASE_URL", url.as_str()),
        ("MAX_CONCURRENT_REQUESTS", "20"),
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
        paths.push(format!("/connections/{id}?wait=12"));
    }
    let waits = join_all(
        users
            .iter()
            .zip(&paths)
            .enumerate()
            .map(async |(n, (user, path))| {
                // Each holds a permit until it waits.
                tokio::time::sleep(Duration::from_millis(20) * u32::try_from(n).unwrap()).await;
                let (status, body) = user.call(Method::GET, path, None).await;
                assert_eq!(status, StatusCode::OK, "{body}");
            }),
    );
    let others = async {
        tokio::time::sleep(Duration::from_secs(4)).await;
        let ada = app.user("ada").await;
        take_statements(&statements);
        tokio::time::sleep(Duration::from_secs(5)).await;
        let ran = take_statements(&statements);
        for _ in 0..20 {
            let (status, body) = ada.call(Method::GET, "/connections", None).await;
            assert_eq!(status, StatusCode::OK, "{body}");
        }
        ran
    };
    let (_, ran) = tokio::join!(waits, others);
    // A heartbeat of the notifications wakes each poll every ten seconds, and their reads are batched.
    assert!(ran.len() <= 6, "{} statements: {ran:#?}", ran.len());
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
