//! A user connects an account, and disconnects it.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::test_app::TestApp;

#[tokio::test]
async fn account_can_be_connected_listed_and_disconnected() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "allow" })).await;

    let started = ada.connect("gmail").await;
    assert_eq!(started["already_connected"], false);
    assert_eq!(started["status"], "pending");
    let page = app.popup(started["oauth_url"].as_str().unwrap()).await;
    assert_eq!(page.status(), StatusCode::OK);

    let id = started["connection_id"].as_str().unwrap();
    let connected = ada.wait_until(id, "connected").await;
    assert_eq!(
        app.nango_connections().await,
        [connected["nango_connection_id"].as_str().unwrap()]
    );

    let again = ada.connect("gmail").await;
    assert_eq!(again["already_connected"], true);
    assert_eq!(again["connection_id"], id);
    assert_eq!(again["oauth_url"], json!(null));

    let (status, ended) = ada.disconnect("gmail", "").await;
    assert_eq!(
        (status, &ended["upstream_deleted"]),
        (StatusCode::OK, &json!(true)),
        "{ended}"
    );
    assert_eq!(app.nango_connections().await, [""; 0]);
    let list = ada.get("/connections").await;
    assert_eq!(list["connections"][0]["status"], "disconnected");
    assert_eq!(list["connections"][0]["nango_connection_id"], json!(null));

    let (status, repeated) = ada.disconnect("gmail", "").await;
    assert_eq!(
        (status, &repeated["upstream_deleted"]),
        (StatusCode::OK, &json!(true))
    );
}

#[tokio::test]
async fn denial_is_recorded_when_webhook_has_no_tags() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "deny" })).await;
    let started = ada.connect("github").await;
    app.popup(started["oauth_url"].as_str().unwrap()).await;
    let failed = ada
        .wait_until(started["connection_id"].as_str().unwrap(), "error")
        .await;
    assert_eq!(failed["status_reason"], "authorization_denied");
    assert_eq!(
        failed["last_error"],
        "Access was not granted: The user denied the request"
    );
    assert_eq!(failed["attempt"]["outcome"], "failed");

    let retried = ada.connected("github").await;
    assert_eq!(retried["id"], failed["id"]);
    assert_eq!(retried["error_count"], 0);
    assert_eq!(
        ada.call(Method::GET, "/connections/nope", None).await.0,
        StatusCode::BAD_REQUEST
    );
}
