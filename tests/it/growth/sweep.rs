//! The sweep of more connections than fit into one segment.

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::Method;
use serde_json::{Value, json};

use crate::test_app::TestApp;

/// With pages of three, a segment has 150 connections.
const PAGE: usize = 3;
const OTHERS: usize = 190;

/// The connections of this application: two before the others, and two after them.
const OURS: usize = 4;

/// Starts an app whose Nango has another application's connections, a second apart. Those of ada and cleo are older, and
/// those of dan and ben are newer.
async fn app_with_many_pages() -> TestApp {
    let app = TestApp::new().await;
    for user in ["ada", "cleo"] {
        app.user(user).await.connected("gmail").await;
        app.advance(TimeDelta::seconds(1));
    }
    for _ in 0..OTHERS {
        app.advance(TimeDelta::seconds(1));
        app.import_with(json!({})).await;
    }
    for user in ["dan", "ben"] {
        app.advance(TimeDelta::seconds(1));
        app.user(user).await.connected("gmail").await;
    }
    app.advance(TimeDelta::minutes(5));
    app
}

async fn faults(app: &TestApp) {
    app.faults(json!({ "list_page_size": PAGE, "consent": "allow", "drop_webhooks": true }))
        .await;
}

/// Returns the creation time of the connection at this index of Nango's list.
async fn created(app: &TestApp, place: usize) -> DateTime<Utc> {
    let (_, body) = app.nango(Method::GET, "/connections?limit=1000").await;
    let text = body["connections"][place]["created"].as_str().unwrap();
    DateTime::parse_from_rfc3339(text).unwrap().to_utc()
}

async fn passes(app: &TestApp) -> i64 {
    sqlx::query_scalar("select count(*) from sweep_pass")
        .fetch_one(&mut app.sql().await)
        .await
        .unwrap()
}

#[tokio::test]
async fn sweep_finds_missing_connections_in_each_segment() {
    let app = app_with_many_pages().await;
    faults(&app).await;
    let report = app.sweep().await;
    assert_eq!(
        (report.listed, report.missing),
        (OTHERS + OURS, 0),
        "{report:?}"
    );
    // Ben's connection is in the first segment, ada's in the second.
    for user in ["ben", "ada"] {
        let id =
            app.user(user).await.get("/connections").await["connections"][0]["nango_connection_id"]
                .clone();
        let path = format!(
            "/connections/{}?provider_config_key=gmail",
            id.as_str().unwrap()
        );
        app.nango(Method::DELETE, &path).await;
    }
    assert_eq!(app.sweep_until_missing().await, 2);
    let report = app.sweep().await;
    assert_eq!(report.listed, OTHERS + OURS - 2, "{report:?}");
    assert_eq!(passes(&app).await, 0);
}

#[tokio::test]
async fn interrupted_sweep_continues_and_looks_for_new_grants_first() {
    const READ: usize = 150;
    let app = app_with_many_pages().await;
    let before = created(&app, READ - 1).await;
    faults(&app).await;
    sqlx::query(
        "insert into sweep_pass (started_at, page, before, orphans) values ($1, $2, $3, 0)",
    )
    .bind(app.clock.now())
    .bind(i32::try_from(READ / PAGE).unwrap())
    .bind(before)
    .execute(&mut app.sql().await)
    .await
    .unwrap();
    let cleo = app.user("cleo").await;
    let started = cleo.connect("github").await;
    app.popup(started["oauth_url"].as_str().unwrap()).await;
    let report = app.sweep().await;
    assert_eq!(report.found, 1, "{report:?}");
    let rest = OTHERS + OURS + 1 - READ;
    assert_eq!((report.listed, report.missing), (rest, 0), "{report:?}");
    assert_eq!(passes(&app).await, 0);
    let connected: Value = cleo
        .connection(started["connection_id"].as_str().unwrap())
        .await;
    assert_eq!(connected["status"], "connected");
}

#[tokio::test]
async fn sweep_steps_back_when_its_page_has_moved() {
    let app = app_with_many_pages().await;
    let last = OTHERS + OURS - 1;
    let before = created(&app, last - 1).await;
    faults(&app).await;
    // The cursor is far beyond the end, because many connections were deleted.
    sqlx::query(
        "insert into sweep_pass (started_at, page, before, orphans) values ($1, 75, $2, 0)",
    )
    .bind(app.clock.now())
    .bind(before)
    .execute(&mut app.sql().await)
    .await
    .unwrap();
    let report = app.sweep().await;
    assert!((1..=2 * PAGE).contains(&report.listed), "{report:?}");
    assert_eq!(report.missing, 0);
    assert_eq!(passes(&app).await, 0);
}

#[tokio::test]
async fn sweep_corrects_creation_times_of_imported_connections() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    ada.connected("gmail").await;
    let time = "select nango_created_at from user_connector_connection";
    let mut sql = app.sql().await;
    let known: DateTime<Utc> = sqlx::query_scalar(time).fetch_one(&mut sql).await.unwrap();
    sqlx::raw_sql("update user_connector_connection set nango_created_at = '2020-01-01'")
        .execute(&mut sql)
        .await
        .unwrap();
    app.advance(TimeDelta::minutes(5));
    assert_eq!(app.sweep().await.missing, 0);
    let corrected: DateTime<Utc> = sqlx::query_scalar(time).fetch_one(&mut sql).await.unwrap();
    assert_eq!(corrected, known);
}
