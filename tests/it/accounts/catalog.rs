//! Integrations that are not in the catalog.

use nango_sandbox::Integration;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{text, wait_for};
use crate::eventually::eventually;
use crate::test_app::{TestApp, WITH_ACCOUNTS};

fn integration(key: &str, provider: &str, name: &str) -> Integration {
    Integration {
        unique_key: key.to_owned(),
        provider: provider.to_owned(),
        display_name: name.to_owned(),
        auth_mode: "OAUTH2".to_owned(),
    }
}

fn slugs(body: &Value) -> Vec<&str> {
    let connectors = body["connectors"].as_array().unwrap();
    connectors.iter().map(|one| text(one, "slug")).collect()
}

async fn app(mode: &'static str) -> TestApp {
    TestApp::build(&[("CATALOG", mode), (WITH_ACCOUNTS, "1")], |nango| {
        nango.integrations.retain(|one| one.unique_key == "gmail");
        nango
            .integrations
            .push(integration("slack", "slack", "Slack"));
        nango
            .integrations
            .push(integration("slack-eu", "slack", "Slack Europe"));
    })
    .await
}

#[tokio::test]
async fn catalog_modes_decide_what_is_offered() {
    for (mode, expected) in [("configured", 3), ("all", 101), ("listed", 99)] {
        let app = app(mode).await;
        let ada = app.user("ada").await;
        let list = ada.get("?limit=200").await;
        assert_eq!(list["total_count"], expected, "{mode}");
        let counts = list["categories"].as_array().unwrap().iter();
        let counts: i64 = counts.map(|one| one["count"].as_i64().unwrap()).sum();
        assert_eq!(counts, expected, "{mode}");
        assert!(slugs(&list).contains(&"gmail"), "{mode}");
        let (status, _) = ada.call(Method::GET, "/slack", None).await;
        let is_offered = mode != "listed";
        assert_eq!(status == StatusCode::OK, is_offered, "{mode}");
    }
}

#[tokio::test]
async fn configured_integration_can_be_connected() {
    let app = app("configured").await;
    let ada = app.user("ada").await;
    let slack = ada.get("/slack-eu").await;
    assert_eq!(
        (text(&slack, "name"), text(&slack, "provider")),
        ("Slack Europe", "slack")
    );
    assert_eq!(
        (&slack["listed"], &slack["configured"]),
        (&json!(false), &json!(true))
    );
    let connected = ada.connected("slack-eu").await;
    assert_eq!(text(&connected, "connector_slug"), "slack-eu");
    let known = wait_for(&ada, text(&connected, "id"), |one| {
        one["account"].is_object()
    })
    .await;
    assert!(known["account"]["workspace_name"].is_string());
    assert_eq!(
        slugs(&ada.get("?search=slack").await),
        ["slack", "slack-eu"]
    );
    // Another replica knows it, too.
    let replica = app.replica(&[]).await;
    let there = ada.at(&replica);
    assert_eq!(
        there.connection(text(&connected, "id")).await["connector_name"],
        "Slack Europe"
    );
}

#[tokio::test]
async fn added_integration_is_offered_without_restart() {
    let app = app("configured").await;
    let ada = app.user("ada").await;
    assert_eq!(ada.get("").await["total_count"], 3);
    let added = app
        .client
        .post(format!("http://{}/integrations", app.sandbox.address()))
        .bearer_auth(&app.secret_key)
        .json(&json!({
            "provider": "slack", "unique_key": "slack-new",
            "credentials": { "type": "OAUTH2", "client_id": "id", "client_secret": "secret" },
        }))
        .send()
        .await
        .unwrap();
    assert_eq!(added.status(), StatusCode::OK);
    let shows = async || slugs(&ada.get("").await).contains(&"slack-new");
    eventually(shows).await;
}
