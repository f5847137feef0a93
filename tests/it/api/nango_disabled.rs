//! `NANGO_ENABLED=false`: stored data can be read, but no connection can be started or disconnected.

use insta::assert_snapshot;
use patchbay::auth::service_keys::Scope;
use reqwest::Method;
use secrecy::ExposeSecret;
use serde_json::json;

use super::{TestResponse, text};
use crate::test_app::TestApp;

#[tokio::test]
async fn api_is_read_only_when_nango_is_disabled() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    let pending = ada.connect("github").await;
    let replica = app.replica(&[("NANGO_ENABLED", "false")]).await;
    let ada = ada.at(&replica);
    let id = text(&connected, "id");
    let before = ada.get("/connections").await;
    assert_eq!(before["total_count"], 2);
    assert_eq!(ada.connection(&id).await, connected);
    let waiting = ada.connection(&text(&pending, "connection_id")).await;
    assert_eq!(waiting["status"], "pending");
    assert_eq!(ada.get("/gmail").await["configured"], json!(null));
    assert_eq!(ada.get("").await["total_count"], 99);

    assert_snapshot!(ada.send_post("/notion/connect", json!({})).await, @r#"
    503 Service Unavailable
    {
      "code": "nango_disabled",
      "detail": "Nango is disabled (NANGO_ENABLED=false), so this operation is not available. Set NANGO_ENABLED=true to enable it",
      "request_id": "[id]",
      "status": 503,
      "title": "Nango is disabled",
      "type": "urn:patchbay:problem:nango_disabled"
    }
    "#);
    let nango_id = text(&connected, "nango_connection_id");
    let waiting_id = text(&waiting, "id");
    for (method, path) in [
        (Method::POST, format!("/connections/{id}/reconnect")),
        (Method::DELETE, "/gmail/disconnect".to_owned()),
        (Method::POST, format!("/connections/{id}/check")),
        (Method::POST, format!("/connections/{waiting_id}/cancel")),
        (Method::DELETE, format!("/connections/{waiting_id}")),
        (Method::GET, format!("/callback?connection_id={id}")),
        (Method::GET, format!("/callback?connection_id={nango_id}")),
        (Method::GET, "/callback?state=x&code=y".to_owned()),
    ] {
        let answer = ada.send(method, &path, None).await;
        answer.is_problem(503, "nango_disabled");
        let detail = answer.json()["detail"].to_string();
        assert!(detail.contains("this operation is not available"));
    }
    for path in ["", &format!("/{}", text(&pending, "attempt_id"))] {
        let url = format!("{}/api/v1/webhooks/nango{path}", replica.url);
        let body = json!({ "type": "auth" }).to_string();
        let answer = TestResponse::to(app.client.post(url).body(body)).await;
        answer.is_problem(503, "nango_disabled");
    }
    assert_eq!(ada.get("/connections").await, before);
    let ready = TestResponse::to(app.client.get(format!("{}/readyz", replica.url))).await;
    assert_snapshot!(ready, @r#"
    200 OK
    {
      "nango": false,
      "status": "ready"
    }
    "#);
    // A label can change without Nango.
    let labelled = ada.send_patch(&id, json!({ "label": "Work" })).await.json();
    assert_eq!(labelled["label"], "Work");
}

#[tokio::test]
async fn tokens_and_erasure_fail_when_nango_is_disabled() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let id = text(&ada.connected("gmail").await, "id");
    let replica = app.replica(&[("NANGO_ENABLED", "false")]).await;
    let key = app.keys().await;
    let key = key.create("backend", &Scope::ALL.into()).await.unwrap();
    for (method, path) in [
        (Method::POST, "connectors/gmail/token"),
        (Method::DELETE, "users/ada/connections"),
    ] {
        let url = format!("{}/api/v1/{path}", replica.url);
        let request = app.client.request(method, url);
        let request = request.bearer_auth(key.expose_secret());
        let answer = TestResponse::to(request.header("patchbay-user", "ada")).await;
        answer.is_problem(503, "nango_disabled");
    }
    let ada = ada.at(&replica);
    for path in ["history", "accesses"] {
        ada.get(&format!("/connections/{id}/{path}")).await;
    }
}

#[tokio::test]
async fn nango_settings_are_optional_when_nango_is_disabled() {
    let app = TestApp::with(&[
        ("NANGO_ENABLED", "false"),
        ("NANGO_SECRET_KEY", ""),
        ("NANGO_WEBHOOK_SIGNING_KEY", ""),
    ])
    .await;
    let ada = app.user("ada").await;
    assert_eq!(ada.count().await, 0);
}
