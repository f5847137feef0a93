//! The number of calls to Nango, and their distribution when the rate limit is low.

mod backlog;
mod fairness;
mod slow;
mod webhooks;

use std::fmt::Write as _;
use std::time::Duration;

use chrono::TimeDelta;
use patchbay::service::SweepSchedule;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::eventually::eventually;
use crate::reliability::app_with_accounts;
use crate::reliability::event_streams::StreamReader;
use crate::test_app::{IMMEDIATE_SWEEP, TestApp, User};

const SERVICE_KEY: &str = "pbk_workflow_0123456789abcdef0123456789abcdef";

/// Returns the setting with the workflow's service key.
fn service_keys() -> (&'static str, String) {
    ("SERVICE_API_KEYS", format!("workflow={SERVICE_KEY}"))
}

fn text<'a>(body: &'a Value, field: &str) -> &'a str {
    body[field]
        .as_str()
        .unwrap_or_else(|| panic!("{field} in {body:#}"))
}

/// Returns the number of calls that Nango has received.
async fn calls(app: &TestApp) -> usize {
    let calls = app.control("requests", Method::GET, Value::Null).await;
    calls.as_array().unwrap().len()
}

/// Returns a connection's status from the database, because a request would poll Nango.
async fn status(app: &TestApp, id: &str) -> String {
    sqlx::query_scalar("select status from user_connector_connection where id = $1::uuid")
        .bind(id)
        .fetch_one(&mut app.sql().await)
        .await
        .unwrap()
}

async fn until_status(app: &TestApp, id: &str, expected: &str) {
    eventually(async || status(app, id).await == expected).await;
}

/// Requests a token of a user's connection from this replica, as a workflow.
async fn token(app: &TestApp, url: &str, connection: &Value) -> StatusCode {
    let path = format!(
        "{url}/api/v1/connectors/connections/{}/token",
        text(connection, "id")
    );
    let request = app.client.post(path).bearer_auth(SERVICE_KEY);
    let answer = request.header("patchbay-user", "ada").send().await;
    answer.unwrap().status()
}

/// The rows of the table: an operation, and its number of calls.
type Rows = Vec<(&'static str, usize)>;

/// Adds a row with the number of calls of an operation.
async fn measure<T>(
    (app, rows): (&TestApp, &mut Rows),
    what: &'static str,
    costs: impl Future<Output = T>,
) -> T {
    let before = calls(app).await;
    let outcome = costs.await;
    rows.push((what, calls(app).await - before));
    outcome
}

/// Connects through the popup, and waits until the webhook was applied.
async fn connect(app: &TestApp, ada: &User<'_>, connector: &str) -> String {
    app.faults(json!({ "consent": "allow" })).await;
    let started = ada.connect(connector).await;
    app.popup(text(&started, "oauth_url")).await;
    let id = text(&started, "connection_id").to_owned();
    until_status(app, &id, "connected").await;
    id
}

async fn reconnect(app: &TestApp, ada: &User<'_>, id: &str) {
    let path = format!("/connections/{id}/reconnect");
    let (status, started) = ada.call(Method::POST, &path, None).await;
    assert_eq!(status, StatusCode::OK, "{started}");
    app.popup(text(&started, "oauth_url")).await;
    let attempt = text(&started, "attempt_id");
    let outcome = "select outcome is not null from connect_attempt where id = $1::uuid";
    let mut sql = app.sql().await;
    eventually(async || {
        let ended = sqlx::query_scalar(outcome).bind(attempt);
        ended.fetch_one(&mut sql).await.unwrap()
    })
    .await;
}

/// Measures the operations of a connect. Returns a connection.
async fn measure_connects(app: &TestApp, rows: &mut Rows) -> Value {
    let ada = app.user("ada").await;
    // The integrations are cached from then on.
    ada.get("/gmail").await;
    let costs = connect(app, &ada, "gmail");
    let id = measure((app, rows), "connect, reported by a webhook", costs).await;
    measure(
        (app, rows),
        "connect, reported by a webhook while the user waits",
        async {
            let started = ada.connect("linear").await;
            let path = format!("/connections/{}?wait=25", text(&started, "connection_id"));
            let popup = app.popup(text(&started, "oauth_url"));
            let (waited, _) = futures::join!(ada.get(&path), popup);
            assert_eq!(waited["status"], "connected");
        },
    )
    .await;
    measure(
        (app, rows),
        "connect, its webhook lost, the user waits",
        async {
            app.faults(json!({ "consent": "allow", "drop_webhooks": true }))
                .await;
            let started = ada.connect("github").await;
            app.popup(text(&started, "oauth_url")).await;
            let path = format!("/connections/{}?wait=25", text(&started, "connection_id"));
            assert_eq!(ada.get(&path).await["status"], "connected");
        },
    )
    .await;
    app.faults(json!({ "consent": "allow" })).await;
    let costs = reconnect(app, &ada, &id);
    measure((app, rows), "reconnect, reported by a webhook", costs).await;
    app.faults(json!({ "consent": "deny" })).await;
    measure((app, rows), "denial, reported by a webhook", async {
        let started = ada.connect("asana").await;
        app.popup(text(&started, "oauth_url")).await;
        until_status(app, text(&started, "connection_id"), "error").await;
    })
    .await;
    ada.connection(&id).await
}

/// Measures the operations on a connection, up to its disconnect.
async fn measure_uses(app: &TestApp, rows: &mut Rows, gmail: &Value) {
    for what in ["token, not cached", "token, cached"] {
        let given = measure((app, rows), what, token(app, &app.url, gmail)).await;
        assert_eq!(given, StatusCode::OK);
    }
    let other = app.replica(&[]).await;
    let costs = token(app, &other.url, gmail);
    let given = measure((app, rows), "token, cached by another replica only", costs).await;
    assert_eq!(given, StatusCode::OK);
    let ada = app.user("ada").await;
    measure((app, rows), "credential check", async {
        let path = format!("/connections/{}/check", text(gmail, "id"));
        let (status, _) = ada.call(Method::POST, &path, None).await;
        assert_eq!(status, StatusCode::OK);
    })
    .await;
    measure((app, rows), "list", ada.get("/connections")).await;
    let what = "event stream for 3 seconds, no attempt open";
    measure((app, rows), what, async {
        let stream = StreamReader::open(&ada, None).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        drop(stream);
    })
    .await;
    let what = "disconnect within an hour of the connect";
    let (_, ended) = measure((app, rows), what, ada.disconnect("linear", "")).await;
    assert_eq!(ended["upstream_deleted"], true);
    app.advance(TimeDelta::minutes(61));
    let costs = ada.disconnect("gmail", "");
    let (_, ended) = measure((app, rows), "disconnect", costs).await;
    assert_eq!(ended["upstream_deleted"], true);
}

/// Measures the background operations.
async fn measure_background(app: &TestApp, rows: &mut Rows) {
    let (service, stop) = (app.service().await, CancellationToken::new());
    app.advance(TimeDelta::minutes(1));
    measure((app, rows), "idle minute", async {
        assert_eq!(service.deletions.delete_due().await.unwrap(), 0);
        assert_eq!(service.expiry.run().await.unwrap(), 0);
        let schedule = SweepSchedule::every(Duration::from_secs(300));
        assert_eq!(service.sweeper.sweep(schedule, &stop).await.unwrap(), None);
    })
    .await;
    let replica = app.replica(&[]).await;
    let ada = app.user("ada").await;
    let at_replica = ada.at(&replica);
    let costs = at_replica.get("/gmail");
    let gmail = measure((app, rows), "catalog, its integrations not cached", costs).await;
    assert_eq!(gmail["configured"], true);
    for _ in app.nango_connections().await.len()..1001 {
        let tags = json!({ "patchbay_installation": uuid::Uuid::nil() });
        app.import_with(tags).await;
    }
    let costs = service.sweeper.sweep(IMMEDIATE_SWEEP, &stop);
    let report = measure((app, rows), "sweep of 1,001 connections", costs).await;
    assert_eq!(report.unwrap().unwrap().listed, 1001);
}

/// A change of a number requires a change of the table in the documentation.
#[tokio::test]
async fn documented_numbers_of_calls_are_kept() {
    const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/PERFORMANCE.md");
    const MARKS: (&str, &str) = ("<!-- calls to Nango -->\n", "<!-- end of calls -->");
    let (name, keys) = service_keys();
    let app = TestApp::with(&[(name, keys.as_str())]).await;
    let mut rows = Vec::new();
    let gmail = measure_connects(&app, &mut rows).await;
    measure_uses(&app, &mut rows, &gmail).await;
    measure_background(&app, &mut rows).await;
    let (app, _file) = app_with_accounts(&[]).await;
    let ada = app.user("ada").await;
    ada.get("/gmail").await;
    let costs = connect(&app, &ada, "gmail");
    measure(
        (&app, &mut rows),
        "connect that looks up the account",
        costs,
    )
    .await;
    let mut measured = "| | calls |\n|---|--:|\n".to_owned();
    for (what, calls) in &rows {
        writeln!(measured, "| {what} | {calls} |").unwrap();
    }
    let document = std::fs::read_to_string(DOCUMENT).unwrap();
    let (head, rest) = document.split_once(MARKS.0).expect("the table's beginning");
    let (documented, tail) = rest.split_once(MARKS.1).expect("the table's end");
    if std::env::var_os("UPDATE_CALL_TABLE").is_some() {
        let updated = format!("{head}{}\n{measured}\n{}{tail}", MARKS.0, MARKS.1);
        std::fs::write(DOCUMENT, updated).unwrap();
        return;
    }
    assert_eq!(
        documented.trim(),
        measured.trim(),
        "run this test with UPDATE_CALL_TABLE=1 if the change is right"
    );
}
