//! Connections that change while their token is fetched or its access recorded.

use chrono::TimeDelta;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::uses::written;
use super::{KEY, app, call, text, token};
use crate::eventually::{eventually, eventually_locked};
use crate::test_app::TestApp;

type Answer = (StatusCode, Value);

/// Sends a workflow's request for Ada's connection in the background.
fn spawn_call(app: &TestApp, method: Method, connection: &Value, what: &str) -> JoinHandle<Answer> {
    let path = format!("/connectors/connections/{}/{what}", text(connection, "id"));
    let url = app.url.clone();
    tokio::spawn(async move { call(&url, KEY, "ada", method, &path, None).await })
}

/// Requests a token, and waits until Nango has processed the call. Nango sends its response when it is released.
async fn start_token_request(app: &TestApp, connection: &Value) -> JoinHandle<Answer> {
    let nango_id = text(connection, "nango_connection_id");
    let only = format!("GET /connections/{nango_id}");
    app.faults(json!({ "only": only, "hold_answers_ms": 60_000 }))
        .await;
    let before = app.nango_calls("GET", nango_id).await;
    let asked = spawn_call(app, Method::POST, connection, "token");
    eventually(async || app.nango_calls("GET", nango_id).await > before).await;
    app.faults(json!({ "consent": "allow" })).await;
    asked
}

/// Releases Nango's response. Returns the service's answer.
async fn finish(app: &TestApp, asked: JoinHandle<Answer>) -> Answer {
    app.control("release", Method::POST, Value::Null).await;
    asked.await.unwrap()
}

#[tokio::test]
async fn token_fetched_during_disconnect_is_not_issued() {
    let app = app().await;
    let ada = app.user("ada").await;
    let gmail = ada.connected("gmail").await;
    let asked = start_token_request(&app, &gmail).await;
    let (_, ended) = ada.disconnect("gmail", "").await;
    assert_eq!(ended["upstream_deleted"], true);
    let (status, refused) = finish(&app, asked).await;
    assert_eq!(
        (status, text(&refused, "code")),
        (StatusCode::NOT_FOUND, "not_connected")
    );
    assert_eq!(written(&app).await, 0);
}

#[tokio::test]
async fn token_fetched_before_new_grant_is_not_issued() {
    let app = app().await;
    let ada = app.user("ada").await;
    let gmail = ada.connected("gmail").await;
    let nango_id = text(&gmail, "nango_connection_id");
    let path = format!("/connections/{nango_id}?provider_config_key=gmail");
    let (_, old) = app.nango(Method::GET, &path).await;
    let asked = start_token_request(&app, &gmail).await;
    ada.disconnect("gmail", "").await;
    let again = ada.connected("gmail").await;
    assert_eq!(again["id"], gmail["id"]);
    let (status, given) = finish(&app, asked).await;
    assert_eq!(status, StatusCode::OK, "{given}");
    assert_ne!(given["access_token"], old["credentials"]["access_token"]);
    let (_, current) = token(&app, "ada", &gmail).await;
    assert_eq!(given["access_token"], current["access_token"]);
    assert_eq!(written(&app).await, 2);
}

#[tokio::test]
async fn token_fetched_during_erasure_is_not_issued() {
    let app = app().await;
    let gmail = app.user("ada").await.connected("gmail").await;
    let asked = start_token_request(&app, &gmail).await;
    let path = "/users/ada/connections";
    let (_, erased) = call(&app.url, KEY, "", Method::DELETE, path, None).await;
    assert_eq!(erased["upstream_deleted"], true);
    let (status, refused) = finish(&app, asked).await;
    assert_eq!(
        (status, text(&refused, "code")),
        (StatusCode::NOT_FOUND, "connection_not_found")
    );
    assert_eq!(written(&app).await, 0);
}

#[tokio::test]
async fn erasure_is_unconfirmed_when_user_connects_meanwhile() {
    let app = app().await;
    let ada = app.user("ada").await;
    ada.connected("gmail").await;
    let lists = async || app.nango_calls("GET", "/connections").await;
    let before = lists().await;
    app.faults(json!({ "only": "end_user_id", "hold_answers_ms": 60_000 }))
        .await;
    let url = app.url.clone();
    let path = "/users/ada/connections";
    let asked = tokio::spawn(async move { call(&url, KEY, "", Method::DELETE, path, None).await });
    eventually(async || lists().await > before).await;
    app.faults(json!({})).await;
    ada.connect("github").await;
    let (status, erased) = finish(&app, asked).await;
    assert_eq!(status, StatusCode::OK, "{erased}");
    assert_eq!(erased["upstream_deleted"], false);
    let (_, again) = call(&app.url, KEY, "", Method::DELETE, path, None).await;
    assert_eq!(again["upstream_deleted"], true);
}

#[tokio::test]
async fn access_during_disconnect_is_refused() {
    let app = app().await;
    let ada = app.user("ada").await;
    let mut sql = app.sql().await;
    for (method, what) in [(Method::POST, "token"), (Method::GET, "proxy/echo")] {
        let gmail = ada.connected("gmail").await;
        // The token is cached from then on.
        assert_eq!(token(&app, "ada", &gmail).await.0, StatusCode::OK);
        let before = written(&app).await;
        let lock = "begin; lock table token_access in exclusive mode";
        sqlx::raw_sql(lock).execute(&mut sql).await.unwrap();
        let asked = spawn_call(&app, method, &gmail, what);
        eventually_locked(&mut sql).await;
        ada.disconnect("gmail", "").await;
        sqlx::raw_sql("rollback").execute(&mut sql).await.unwrap();
        let (status, refused) = asked.await.unwrap();
        assert_eq!(
            (status, text(&refused, "code")),
            (StatusCode::NOT_FOUND, "not_connected"),
            "{what}"
        );
        assert_eq!(written(&app).await, before, "{what}");
    }
    assert_eq!(app.nango_calls("GET", "/proxy/").await, 0);
}

#[tokio::test]
async fn repeated_version_is_not_served_from_cache() {
    let app = app().await;
    let gmail = app.user("ada").await.connected("gmail").await;
    let path = format!(
        "/connectors/connections/{}/token/invalid",
        text(&gmail, "id")
    );
    let refresh = async || {
        let (_, old) = token(&app, "ada", &gmail).await;
        let body = Some(json!({ "token_id": old["token_id"] }));
        let (_, refreshed) = call(&app.url, KEY, "ada", Method::POST, &path, body).await;
        assert_eq!(refreshed["refreshed"], true);
    };
    let version = async || -> i64 {
        let version = sqlx::query_scalar("select version from user_connector_connection");
        version.fetch_one(&mut app.sql().await).await.unwrap()
    };
    refresh().await;
    let (_, old) = token(&app, "ada", &gmail).await;
    let last = version().await;
    // A failover loses the commit of this version.
    sqlx::raw_sql(
        "delete from connection_event e using user_connector_connection c where e.version = c.version; \
         update user_connector_connection set version = version - 1, updated_at = updated_at - interval '1 second'",
    )
    .execute(&mut app.sql().await)
    .await
    .unwrap();
    app.advance(TimeDelta::minutes(2));
    refresh().await;
    assert_eq!(version().await, last);
    let (status, new) = token(&app, "ada", &gmail).await;
    assert_eq!(status, StatusCode::OK, "{new}");
    assert_ne!(new["access_token"], old["access_token"]);
}
