//! The number of statements of each request, and of the jobs of an idle replica. An increase fails the test.

use std::time::Duration;

use patchbay::auth::service_keys::Scope;
use reqwest::{Method, RequestBuilder, StatusCode};
use secrecy::ExposeSecret;

use super::take_statements;
use crate::isolation::query_parity::{Statements, with_statement_log};
use crate::test_app::TestApp;
use crate::test_database;

/// How often each request is measured, because statements of background jobs add to some of the measurements.
const ROUNDS: usize = 4;

/// The maximum number of statements of an idle replica in ten seconds, including those that begin and commit
/// transactions, and one run of each job that runs once a minute.
const IDLE: f64 = 140.0;

async fn recorded_app() -> (TestApp, Statements) {
    let database = test_database::database().await;
    let (url, statements) = with_statement_log(&database).await;
    let app = TestApp::build_on(database, None, &[("DATABASE_URL", &url)], |_| {}).await;
    (app, statements)
}

/// Returns the lowest number of statements of a request in several rounds.
async fn fewest(
    statements: &Statements,
    mut request: impl AsyncFnMut() -> RequestBuilder,
) -> usize {
    let mut fewest = usize::MAX;
    for _ in 0..ROUNDS {
        let request = request().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        take_statements(statements);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{:?}", answer.text().await);
        fewest = fewest.min(take_statements(statements).len());
    }
    fewest
}

#[tokio::test]
async fn requests_run_bounded_statements() {
    let (app, statements) = recorded_app().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    let one = format!("/connections/{}", connected["id"].as_str().unwrap());
    let get = async |path: &str| fewest(&statements, async || ada.request(Method::GET, path)).await;
    let mut counts = vec![
        ("list", get("/connections").await),
        ("get", get(&one).await),
        ("history", get(&format!("{one}/history")).await),
        ("accesses", get(&format!("{one}/accesses")).await),
        ("catalog", get("").await),
    ];
    let label = async || {
        let body = serde_json::json!({ "label": uuid::Uuid::new_v4().to_string() });
        ada.request(Method::PATCH, &one).json(&body)
    };
    counts.push(("update", fewest(&statements, label).await));
    let mut number = 0;
    let connect = async || {
        number += 1;
        ada.request(
            Method::POST,
            &format!("/github/connect?instance_id={number}"),
        )
    };
    counts.push(("connect", fewest(&statements, connect).await));
    let disconnect = async || {
        ada.connected("notion").await;
        ada.request(Method::DELETE, "/notion/disconnect")
    };
    counts.push(("disconnect", fewest(&statements, disconnect).await));
    let key = app
        .keys()
        .await
        .create("engine", &[Scope::TokensRead].into())
        .await
        .unwrap();
    let token = async || {
        let url = format!("{}/api/v1/connectors/gmail/token", app.url);
        let request = app.client.post(url).bearer_auth(key.expose_secret());
        request.header("patchbay-user", "ada")
    };
    counts.push(("token", fewest(&statements, token).await));
    let counted: Vec<String> = counts
        .iter()
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    insta::assert_snapshot!(
        counted.join(", "),
        @"list 1, get 1, history 2, accesses 2, catalog 0, update 3, connect 2, disconnect 13, token 2"
    );
}

#[tokio::test]
async fn idle_replica_runs_bounded_statements() {
    let (app, statements) = recorded_app().await;
    app.user("ada").await.connected("gmail").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    statements.lock().unwrap().clear();
    // A busy machine may sleep longer.
    let started = std::time::Instant::now();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let ran = std::mem::take(&mut *statements.lock().unwrap());
    let limit = IDLE * started.elapsed().as_secs_f64() / 10.0;
    assert!(
        f64::from(u32::try_from(ran.len()).unwrap()) <= limit,
        "{} statements: {ran:#?}",
        ran.len()
    );
}
