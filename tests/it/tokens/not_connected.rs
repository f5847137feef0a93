//! The path in `connect` of the problem `not_connected` starts the authorization after which the call succeeds.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{KEY, app, call, text};
use crate::test_app::{TestApp, User};

/// Sends a POST to the path in a problem's `connect`, and completes the popup.
async fn follow(app: &TestApp, user: &User<'_>, problem: &Value) -> Value {
    assert_eq!(problem["code"], "not_connected", "{problem}");
    let connect = text(problem, "connect");
    let path = connect.strip_prefix("/api/v1/connectors").unwrap();
    let (status, started) = user.call(Method::POST, path, None).await;
    assert_eq!(status, StatusCode::OK, "{connect}: {started}");
    app.popup(text(&started, "oauth_url")).await;
    let id = text(&started, "connection_id");
    user.wait_until(id, "connected").await
}

/// Connects an instance of GitHub, and disconnects it.
async fn disconnected(app: &TestApp, user: &User<'_>, instance: &str) -> String {
    app.faults(json!({ "consent": "allow" })).await;
    let path = format!("/github/connect?instance_id={instance}");
    let (_, started) = user.call(Method::POST, &path, None).await;
    app.popup(text(&started, "oauth_url")).await;
    let id = text(&started, "connection_id").to_owned();
    user.wait_until(&id, "connected").await;
    user.disconnect("github", &format!("?connection_id={id}"))
        .await;
    id
}

#[tokio::test]
async fn not_connected_names_remedy_of_disconnected_instance() {
    let app = app().await;
    let ada = app.user("ada").await;
    let id = disconnected(&app, &ada, "work").await;
    for (method, path) in [
        (
            Method::POST,
            "/connectors/github/token?instance_id=work".to_owned(),
        ),
        (Method::POST, format!("/connectors/connections/{id}/token")),
        (
            Method::GET,
            format!("/connectors/connections/{id}/proxy/inspect"),
        ),
    ] {
        let call = async || call(&app.url, KEY, "ada", method.clone(), &path, None).await;
        let (status, problem) = call().await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}: {problem}");
        let connected = follow(&app, &ada, &problem).await;
        assert_eq!(connected["instance_id"], "work");
        let (status, answer) = call().await;
        assert_eq!(status, StatusCode::OK, "{path}: {answer}");
        ada.disconnect("github", &format!("?connection_id={id}"))
            .await;
    }
    assert_eq!(ada.get("/connections").await["total_count"], 1);
}

#[tokio::test]
async fn not_connected_names_remedy_of_new_instance() {
    let app = app().await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "allow" })).await;
    for instance in [
        "",
        "?instance_id=",
        "?instance_id=caf%C3%A9%20%26%20co%3D%2B",
    ] {
        let path = format!("/connectors/gmail/token{instance}");
        let call = async || call(&app.url, KEY, "ada", Method::POST, &path, None).await;
        let connected = follow(&app, &ada, &call().await.1).await;
        let (status, given) = call().await;
        assert_eq!(status, StatusCode::OK, "{path}: {given}");
        assert_eq!(given["connection_id"], connected["id"]);
        ada.disconnect(
            "gmail",
            &format!("?connection_id={}", text(&connected, "id")),
        )
        .await;
        ada.call(
            Method::DELETE,
            &format!("/connections/{}", text(&connected, "id")),
            None,
        )
        .await;
    }
}

#[tokio::test]
async fn not_connected_names_remedy_of_pending_and_failed() {
    let app = app().await;
    let ada = app.user("ada").await;
    for (consent, instance) in [("ask", "pending"), ("deny", "failed")] {
        app.faults(json!({ "consent": consent })).await;
        let path = format!("/github/connect?instance_id={instance}");
        let (_, started) = ada.call(Method::POST, &path, None).await;
        let id = text(&started, "connection_id");
        if consent == "deny" {
            app.popup(text(&started, "oauth_url")).await;
            ada.wait_until(id, "error").await;
        }
        app.faults(json!({ "consent": "allow" })).await;
        for path in [
            format!("/connectors/connections/{id}/token"),
            format!("/connectors/github/token?instance_id={instance}"),
        ] {
            let (_, problem) = call(&app.url, KEY, "ada", Method::POST, &path, None).await;
            let reconnect = format!("/api/v1/connectors/connections/{id}/reconnect");
            assert_eq!(problem["connect"], reconnect, "{problem}");
        }
        let path = format!("/connectors/connections/{id}/token");
        let call = async || call(&app.url, KEY, "ada", Method::POST, &path, None).await;
        follow(&app, &ada, &call().await.1).await;
        assert_eq!(call().await.0, StatusCode::OK);
    }
}

#[tokio::test]
async fn token_of_invalid_instance_is_rejected() {
    let app = app().await;
    app.user("ada").await;
    let longer = "x".repeat(256);
    for instance in ["a%00b", "a%0Ab", &longer] {
        let path = format!("/connectors/gmail/token?instance_id={instance}");
        let (status, problem) = call(&app.url, KEY, "ada", Method::POST, &path, None).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{problem}");
        assert!(
            text(&problem, "detail").contains("instance_id"),
            "{problem}"
        );
    }
}
