//! The access log: an access is stored before the token is returned.

use chrono::TimeDelta;
use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::Value;

use super::{KEY, app, call, text, token};
use crate::test_app::{PROMPT_TIMEOUT, TestApp};

/// Returns the number of stored token accesses.
pub(super) async fn written(app: &TestApp) -> i64 {
    sqlx::query_scalar("select coalesce(sum(count), 0) from token_access")
        .fetch_one(&mut app.sql().await)
        .await
        .unwrap()
}

#[tokio::test]
async fn token_use_is_written_before_the_answer() {
    let app = app().await;
    let gmail = app.user("ada").await.connected("gmail").await;
    for round in 1..=3 {
        let answers = join_all((0..20).map(|_| token(&app, "ada", &gmail))).await;
        assert!(answers.iter().all(|(status, _)| *status == StatusCode::OK));
        assert_eq!(written(&app).await, round * 20);
        app.advance(TimeDelta::milliseconds(700));
    }
    // Accesses within a second share one row.
    let rows: Vec<i32> = sqlx::query_scalar("select count from token_access order by id")
        .fetch_all(&mut app.sql().await)
        .await
        .unwrap();
    assert_eq!(rows, [40, 20]);
}

#[tokio::test]
async fn token_is_not_issued_when_its_use_cannot_be_written() {
    let app = app().await;
    let gmail = app.user("ada").await.connected("gmail").await;
    assert_eq!(token(&app, "ada", &gmail).await.0, StatusCode::OK);
    let mut sql = app.sql().await;
    let rename = "alter table token_access rename to hidden";
    sqlx::raw_sql(rename).execute(&mut sql).await.unwrap();
    let (status, refused) = token(&app, "ada", &gmail).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused["access_token"], Value::Null);
    let path = format!("/connectors/connections/{}/proxy/echo", text(&gmail, "id"));
    let (status, _) = call(&app.url, KEY, "ada", Method::GET, &path, None).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(app.nango_calls("GET", "/proxy/").await, 0);
}

#[tokio::test]
async fn token_use_waits_for_no_change_of_the_connection() {
    let app = app().await;
    let gmail = app.user("ada").await.connected("gmail").await;
    let mut sql = app.sql().await;
    // The lock of a change, which a hanging replica may hold for long.
    let lock = "begin; select from user_connector_connection for no key update";
    sqlx::raw_sql(lock).execute(&mut sql).await.unwrap();
    let answered = tokio::time::timeout(PROMPT_TIMEOUT, token(&app, "ada", &gmail));
    assert_eq!(answered.await.unwrap().0, StatusCode::OK);
    sqlx::raw_sql("rollback").execute(&mut sql).await.unwrap();
    assert_eq!(written(&app).await, 1);
}
