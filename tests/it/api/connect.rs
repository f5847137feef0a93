//! Connecting: the responses, and the parameters that reach Nango and the provider.

use futures::future::join_all;
use insta::assert_snapshot;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use url::Url;

use super::{events, text};
use crate::test_app::TestApp;

/// Follows the popup's address to the provider's authorization request. Returns its query.
async fn authorize_query(app: &TestApp, oauth_url: &str) -> Vec<(String, String)> {
    let response = app.client.get(oauth_url).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::FOUND);
    let location = response.headers()["location"].to_str().unwrap();
    Url::parse(location)
        .unwrap()
        .query_pairs()
        .into_owned()
        .collect()
}

pub(super) async fn nango_connection_ids(app: &TestApp, id: &str, key: &str) -> Value {
    let path = format!("/connections/{id}?provider_config_key={key}");
    let (status, body) = app.nango(Method::GET, &path).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    body
}

#[tokio::test]
async fn connect_response_matches_snapshot() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let started = ada.send_post("/gmail/connect", json!({})).await;
    assert_snapshot!(started, @r#"
    200 OK
    {
      "already_connected": false,
      "attempt_id": "[id]",
      "connection_id": "[id]",
      "expires_at": "2027-01-15T08:30:00Z",
      "message": "Open oauth_url to connect Gmail",
      "nango_connection_id": null,
      "oauth_url": "http://127.0.0.1/oauth/connect/gmail?connect_session_token=[token]",
      "popup": true,
      "status": "pending"
    }
    "#);
}

#[tokio::test]
async fn list_response_matches_snapshot() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    ada.connect("gmail").await;
    assert_snapshot!(ada.send_get("/connections").await, @r#"
    200 OK
    {
      "connections": [
        {
          "account": null,
          "account_unknown_reason": null,
          "attempt": {
            "created_at": "2027-01-15T08:00:00Z",
            "ended_at": null,
            "error_code": null,
            "error_message": null,
            "expires_at": "2027-01-15T08:30:00Z",
            "id": "[id]",
            "kind": "connect",
            "outcome": null,
            "same_browser": null
          },
          "config": {},
          "connected_at": null,
          "connector_id": "2ca8a1b8-0995-578b-b87c-dc39f677e722",
          "connector_name": "Gmail",
          "connector_slug": "gmail",
          "created_at": "2027-01-15T08:00:00Z",
          "disconnected_at": null,
          "error_count": 0,
          "failing_since": null,
          "id": "[id]",
          "instance_id": "",
          "label": null,
          "last_checked_at": null,
          "last_error": null,
          "last_synced_at": null,
          "missing_scopes": null,
          "nango_connection_id": null,
          "pending_account": null,
          "same_account_as": [],
          "scopes": null,
          "status": "pending",
          "status_reason": "awaiting_authorization",
          "updated_at": "2027-01-15T08:00:00Z",
          "user_id": "ada",
          "version": 1
        }
      ],
      "next_cursor": null,
      "total_count": 1
    }
    "#);
}

#[tokio::test]
async fn connected_response_matches_snapshot() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let id = text(&ada.connected("gmail").await, "id");
    assert_snapshot!(ada.send_post("/gmail/connect", json!({})).await, @r#"
    200 OK
    {
      "already_connected": true,
      "attempt_id": null,
      "connection_id": "[id]",
      "expires_at": null,
      "message": "Gmail is already connected",
      "nango_connection_id": "[id]",
      "oauth_url": null,
      "popup": false,
      "status": "connected"
    }
    "#);
    assert_snapshot!(ada.send_get(&format!("/connections/{id}")).await, @r#"
    200 OK
    {
      "account": null,
      "account_unknown_reason": "not_offered",
      "attempt": {
        "created_at": "2027-01-15T08:00:00Z",
        "ended_at": "2027-01-15T08:00:00Z",
        "error_code": null,
        "error_message": null,
        "expires_at": "2027-01-15T08:30:00Z",
        "id": "[id]",
        "kind": "connect",
        "outcome": "succeeded",
        "same_browser": null
      },
      "config": {},
      "connected_at": "2027-01-15T08:00:00Z",
      "connector_id": "2ca8a1b8-0995-578b-b87c-dc39f677e722",
      "connector_name": "Gmail",
      "connector_slug": "gmail",
      "created_at": "2027-01-15T08:00:00Z",
      "disconnected_at": null,
      "error_count": 0,
      "failing_since": null,
      "id": "[id]",
      "instance_id": "",
      "label": null,
      "last_checked_at": "2027-01-15T08:00:00Z",
      "last_error": null,
      "last_synced_at": "2027-01-15T08:00:00Z",
      "missing_scopes": null,
      "nango_connection_id": "[id]",
      "pending_account": null,
      "same_account_as": [],
      "scopes": null,
      "status": "connected",
      "status_reason": null,
      "updated_at": "2027-01-15T08:00:00Z",
      "user_id": "ada",
      "version": 2
    }
    "#);
}

#[tokio::test]
async fn disconnected_response_matches_snapshot() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let id = text(&ada.connected("gmail").await, "id");
    assert_snapshot!(ada.send_delete("/gmail/disconnect").await, @r#"
    200 OK
    {
      "connection_id": "[id]",
      "message": "Gmail is disconnected",
      "status": "disconnected",
      "success": true,
      "upstream_deleted": true
    }
    "#);
    assert_snapshot!(ada.send_get(&format!("/connections/{id}")).await, @r#"
    200 OK
    {
      "account": null,
      "account_unknown_reason": null,
      "attempt": {
        "created_at": "2027-01-15T08:00:00Z",
        "ended_at": "2027-01-15T08:00:00Z",
        "error_code": null,
        "error_message": null,
        "expires_at": "2027-01-15T08:30:00Z",
        "id": "[id]",
        "kind": "connect",
        "outcome": "succeeded",
        "same_browser": null
      },
      "config": {},
      "connected_at": "2027-01-15T08:00:00Z",
      "connector_id": "2ca8a1b8-0995-578b-b87c-dc39f677e722",
      "connector_name": "Gmail",
      "connector_slug": "gmail",
      "created_at": "2027-01-15T08:00:00Z",
      "disconnected_at": "2027-01-15T08:00:00Z",
      "error_count": 0,
      "failing_since": null,
      "id": "[id]",
      "instance_id": "",
      "label": null,
      "last_checked_at": "2027-01-15T08:00:00Z",
      "last_error": null,
      "last_synced_at": "2027-01-15T08:00:00Z",
      "missing_scopes": null,
      "nango_connection_id": null,
      "pending_account": null,
      "same_account_as": [],
      "scopes": null,
      "status": "disconnected",
      "status_reason": "user_disconnected",
      "updated_at": "2027-01-15T08:00:00Z",
      "user_id": "ada",
      "version": 3
    }
    "#);
    assert_eq!(
        events(&app, &id).await,
        ["attempt_started", "connected", "disconnected"]
    );
}

#[tokio::test]
async fn instance_id_creates_separate_connection() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let first = ada.connected("notion").await;
    let started = ada
        .send_post("/notion/connect?instance_id=work", json!({}))
        .await
        .json();
    assert_eq!(started["already_connected"], false);
    app.popup(&text(&started, "oauth_url")).await;
    let second = ada
        .wait_until(&text(&started, "connection_id"), "connected")
        .await;
    assert_ne!(first["id"], second["id"]);
    assert_eq!(
        (&first["instance_id"], &first["config"]),
        (&json!(""), &json!({}))
    );
    assert_eq!(
        (&second["instance_id"], &second["config"]),
        (&json!("work"), &json!({ "instance_id": "work" }))
    );
    let list = ada.get("/connections").await;
    assert_eq!(list["connections"], json!([second, first]));
    assert_eq!(app.nango_connections().await.len(), 2);
    let again = ada
        .send_post("/notion/connect?instance_id=work", json!({}))
        .await
        .json();
    assert_eq!(again["connection_id"], second["id"]);
    assert_eq!(again["already_connected"], true);
}

#[tokio::test]
async fn connect_options_reach_provider_and_nango() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "allow" })).await;
    let body = json!({
        "label": "  Ada's work mail ",
        "config": { "workspace": "engine", "depth": { "n": [1, null] } },
        "scopes": ["mail.read", "mail.send"],
        "login_hint": "ada@lovelace.example",
    });
    let started = ada.send_post("/gmail/connect", body).await.json();
    let (id, url) = (text(&started, "connection_id"), text(&started, "oauth_url"));
    let query = authorize_query(&app, &url).await;
    let find = |name: &str| {
        let found = query.iter().find(|(one, _)| one == name);
        found.map(|(_, value)| value.as_str())
    };
    assert_eq!(find("scope"), Some("mail.read mail.send"));
    assert_eq!(find("login_hint"), Some("ada@lovelace.example"));

    app.popup(&url).await;
    let connected = ada.wait_until(&id, "connected").await;
    assert_eq!(connected["label"], "Ada's work mail");
    assert_eq!(
        connected["config"],
        json!({ "workspace": "engine", "depth": { "n": [1, null] } })
    );
    let stored =
        nango_connection_ids(&app, &text(&connected, "nango_connection_id"), "gmail").await;
    assert_eq!(
        stored["connection_config"],
        json!({ "oauth_scopes_override": "mail.read,mail.send" })
    );
    assert_eq!(stored["tags"]["end_user_id"], "ada");
    assert_eq!(stored["tags"]["patchbay_connection"], id);
    assert_eq!(stored["tags"]["patchbay_attempt"], started["attempt_id"]);
}

#[tokio::test]
async fn connect_rejects_invalid_input_without_side_effects() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let long = "x".repeat(256);
    let large = json!({ "config": { "key": "x".repeat(4 * 1024) } });
    let refused = [
        ("/gmail/connect".to_owned(), json!({ "label": " " })),
        ("/gmail/connect".to_owned(), json!({ "label": "a\nb" })),
        ("/gmail/connect".to_owned(), json!({ "label": long })),
        ("/gmail/connect".to_owned(), json!({ "label": 7 })),
        ("/gmail/connect".to_owned(), json!({ "config": [1] })),
        (
            "/gmail/connect".to_owned(),
            json!({ "config": { "a": "\u{0}" } }),
        ),
        (
            "/gmail/connect".to_owned(),
            json!({ "config": { "\u{0}": 1 } }),
        ),
        ("/gmail/connect".to_owned(), large),
        ("/gmail/connect".to_owned(), json!({ "scopes": "mail" })),
        ("/gmail/connect".to_owned(), json!([])),
        (format!("/gmail/connect?instance_id={long}"), json!({})),
        ("/gmail/connect?instance_id=a%00b".to_owned(), json!({})),
    ];
    for (path, body) in refused {
        let answer = ada.send_post(&path, body).await;
        answer.is_problem(400, "invalid_request");
    }
    let answer = ada.send_post("/nothing/connect", json!({})).await;
    answer.is_problem(404, "connector_not_found");
    assert_eq!(ada.count().await, 0);
    assert_eq!(
        app.control("requests", Method::GET, json!(null))
            .await
            .as_array()
            .unwrap()
            .iter()
            .filter(|call| call["path"] == "/connect/sessions")
            .count(),
        0
    );
}

/// Stores this many disconnected connections of a user who has one.
async fn store_old_connections(app: &TestApp, number: i32) {
    sqlx::query(
        "insert into user_connector_connection \
           (id, user_id, connector_id, instance_id, status, status_reason, disconnected_at, created_at, updated_at) \
         select gen_random_uuid(), user_id, connector_id, 'old ' || n, 'disconnected', 'user_disconnected', now(), now(), now() \
         from user_connector_connection, generate_series(1, $1) n",
    )
    .bind(number)
    .execute(&mut app.sql().await)
    .await
    .unwrap();
}

#[tokio::test]
async fn connection_limit_allows_reconnecting_existing_ones() {
    let app = TestApp::new().await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    let first = ada.connect("gmail").await;
    store_old_connections(&app, 498).await;
    ada.connect("github").await;
    let refused = ada
        .send_post("/gmail/connect?instance_id=new", json!({}))
        .await;
    refused.is_problem(400, "invalid_request");
    assert_eq!(ada.count().await, 500);
    let again = ada.connect("gmail").await;
    assert_eq!(again["connection_id"], first["connection_id"]);
    let ended = ada
        .send_post("/gmail/connect?instance_id=old%207", json!({}))
        .await;
    assert_eq!(ended.json()["status"], "pending");
    bob.connect("gmail").await;
}

#[tokio::test]
async fn connection_limit_holds_for_concurrent_connects() {
    let app = TestApp::new().await;
    let other = app.replica(&[]).await;
    let ada = app.user("ada").await;
    let there = ada.at(&other);
    ada.connect("gmail").await;
    store_old_connections(&app, 494).await;
    let connects = (0..20).map(async |n| {
        let user = if n % 2 == 0 { &ada } else { &there };
        let path = format!("/gmail/connect?instance_id=new{n}");
        user.send_post(&path, json!({})).await.status
    });
    let answers = join_all(connects).await;
    let started = answers.iter().filter(|status| **status == StatusCode::OK);
    assert_eq!(started.count(), 5, "{answers:?}");
    assert_eq!(ada.count().await, 500);
}

#[tokio::test]
async fn connect_merges_config_and_keeps_label() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let first = json!({ "label": "Mail", "config": { "a": 1, "b": 2 } });
    let started = ada.send_post("/gmail/connect", first).await.json();
    let second = json!({ "config": { "b": null, "c": 3 } });
    ada.send_post("/gmail/connect", second).await;
    let row = ada.connection(&text(&started, "connection_id")).await;
    assert_eq!(row["label"], "Mail");
    assert_eq!(row["config"], json!({ "a": 1, "c": 3 }));
}

#[tokio::test]
async fn connection_id_is_stable_across_disconnect_and_failure() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let first = ada.connected("gmail").await;
    ada.disconnect("gmail", "").await;
    app.faults(json!({ "consent": "deny" })).await;
    let started = ada.connect("gmail").await;
    assert_eq!(started["connection_id"], first["id"]);
    app.popup(&text(&started, "oauth_url")).await;
    let failed = ada.wait_until(&text(&first, "id"), "error").await;
    assert_eq!(
        (&failed["id"], &failed["error_count"]),
        (&first["id"], &json!(1))
    );
    let again = ada.connected("gmail").await;
    assert_eq!(again["id"], first["id"]);
    assert_eq!(again["disconnected_at"], first["connected_at"]);
    assert_ne!(again["nango_connection_id"], first["nango_connection_id"]);
    assert_eq!(ada.count().await, 1);
}

#[tokio::test]
async fn api_key_connector_uses_nango_connect_page() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let started = ada.send_post("/openai/connect", json!({})).await;
    assert_snapshot!(started, @r#"
    200 OK
    {
      "already_connected": false,
      "attempt_id": "[id]",
      "connection_id": "[id]",
      "expires_at": "2027-01-15T08:30:00Z",
      "message": "Open oauth_url to connect OpenAI",
      "nango_connection_id": null,
      "oauth_url": "http://localhost/connect-ui/?session_token=[token]&apiURL=http://127.0.0.1/",
      "popup": true,
      "status": "pending"
    }
    "#);
    let url: Url = text(&started.json(), "oauth_url").parse().unwrap();
    let page = app.client.get(url.clone()).send().await.unwrap();
    assert_eq!(page.status(), StatusCode::OK);
    let token = url
        .query_pairs()
        .find(|(name, _)| name == "session_token")
        .unwrap()
        .1;
    let form = [
        ("session_token", &*token),
        ("integration", "openai"),
        ("apiKey", "sk-of-ada"),
    ];
    let page = app
        .client
        .post(url.join("/connect-ui/").unwrap())
        .form(&form)
        .send()
        .await
        .unwrap();
    assert_eq!(page.status(), StatusCode::OK);
    let connected = ada
        .wait_until(&text(&started.json(), "connection_id"), "connected")
        .await;
    let stored =
        nango_connection_ids(&app, &text(&connected, "nango_connection_id"), "openai").await;
    assert_eq!(
        stored["credentials"],
        json!({ "type": "API_KEY", "apiKey": "sk-of-ada" })
    );
}
