//! Connectors whose provider requires parameters.

use std::collections::BTreeMap;

use insta::assert_snapshot;
use patchbay::catalog::{AuthMode, Catalog};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{events, text};
use crate::test_app::{TestApp, User};

/// Returns Nango's configuration of the newest connection.
async fn nangos_config(app: &TestApp) -> Value {
    let id = app.nango_connections().await.remove(0);
    let path = format!("/connections/{id}?provider_config_key=zendesk");
    app.nango(Method::GET, &path).await.1["connection_config"].clone()
}

async fn connect(user: &User<'_>, parameters: Value) -> Value {
    let body = json!({ "parameters": parameters });
    let answer = user.send_post("/zendesk/connect", body).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer}");
    answer.json()
}

fn is_popup(started: &Value) -> bool {
    text(started, "oauth_url").contains("/oauth/connect/zendesk?")
}

#[tokio::test]
async fn connector_lists_its_parameters() {
    let app = TestApp::new().await;
    let zendesk = app.user("ada").await.get("/zendesk").await;
    assert_snapshot!(format!("{:#}", zendesk["parameters"]), @r#"
    [
      {
        "description": "The first part of your help center's address.",
        "example": "acme",
        "name": "subdomain",
        "pattern": "^[a-z0-9_\\-]+$",
        "prefix": "https://",
        "required": true,
        "suffix": ".zendesk.com",
        "title": "Zendesk subdomain"
      }
    ]
    "#);
}

#[tokio::test]
async fn parameters_are_passed_to_nango_and_reused_by_reconnect() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "allow" })).await;
    let started = connect(&ada, json!({ "subdomain": "acme" })).await;
    assert!(is_popup(&started), "{started}");
    app.popup(&text(&started, "oauth_url")).await;
    let id = text(&started, "connection_id");
    ada.wait_until(&id, "connected").await;
    assert_eq!(nangos_config(&app).await, json!({ "subdomain": "acme" }));

    let path = format!("/connections/{id}/reconnect");
    let again = ada.send(Method::POST, &path, None).await.json();
    assert!(is_popup(&again), "{again}");
    app.popup(&text(&again, "oauth_url")).await;
    let waited = ada.get(&format!("/connections/{id}?wait=25")).await;
    assert_eq!(waited["attempt"]["outcome"], "succeeded");

    let body = json!({ "parameters": { "subdomain": "other" } });
    let moved = ada.send_post(&path, body).await.json();
    app.popup(&text(&moved, "oauth_url")).await;
    ada.get(&format!("/connections/{id}?wait=25")).await;
    assert_eq!(nangos_config(&app).await["subdomain"], "other");
}

#[tokio::test]
async fn missing_parameter_is_asked_for_on_nangos_page() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "allow" })).await;
    let started = ada.connect("zendesk").await;
    let url = text(&started, "oauth_url");
    assert!(url.contains("/connect-ui/?session_token="), "{url}");
    let page = app.popup(&url).await.text().await.unwrap();
    assert!(page.contains("params[subdomain]"), "{page}");
    let token = url.split(['=', '&']).nth(1).unwrap();
    let form = format!(
        "http://{}/oauth/connect/zendesk?connect_session_token={token}&params[subdomain]=typed",
        app.sandbox.address()
    );
    assert_eq!(app.popup(&form).await.status(), StatusCode::OK);
    ada.wait_until(&text(&started, "connection_id"), "connected")
        .await;
    assert_eq!(nangos_config(&app).await["subdomain"], "typed");
}

#[tokio::test]
async fn parameters_outlive_a_failure_and_not_a_disconnect() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "deny" })).await;
    let started = connect(&ada, json!({ "subdomain": "acme" })).await;
    app.popup(&text(&started, "oauth_url")).await;
    let id = text(&started, "connection_id");
    ada.wait_until(&id, "error").await;
    assert!(is_popup(&ada.connect("zendesk").await));
    ada.disconnect("zendesk", "").await;
    let restarted = ada.connect("zendesk").await;
    assert_eq!(text(&restarted, "connection_id"), id);
    assert!(!is_popup(&restarted), "{restarted}");
}

#[tokio::test]
async fn invalid_parameter_is_refused_and_changes_nothing() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    for (connector, parameters, detail) in [
        (
            "zendesk",
            json!({ "subdomain": "acme.evil.example/?" }),
            "`parameters.subdomain` must match `^[a-z0-9_\\-]+$`, as \"acme\" does.",
        ),
        (
            "zendesk",
            json!({ "subdomain": "" }),
            "`parameters.subdomain` must match `^[a-z0-9_\\-]+$`, as \"acme\" does.",
        ),
        (
            "zendesk",
            json!({ "subdomain": "acme", "host": "x" }),
            "`parameters.host` is not a parameter of Zendesk. It has: subdomain.",
        ),
        (
            "gmail",
            json!({ "subdomain": "acme" }),
            "`parameters.subdomain` is not a parameter of Gmail. It has: none.",
        ),
    ] {
        let body = json!({ "parameters": parameters });
        let path = format!("/{connector}/connect");
        let refused = ada.send_post(&path, body).await;
        let refused = refused.is_problem(400, "invalid_request");
        assert_eq!(refused["detail"], detail);
    }
    for odd in [json!({ "subdomain": 1 }), json!(["acme"]), json!("acme")] {
        let body = json!({ "parameters": odd });
        let refused = ada.send_post("/zendesk/connect", body).await;
        refused.is_problem(400, "invalid_request");
    }
    assert_eq!(ada.count().await, 0);
    assert_eq!(app.nango_calls("POST", "/connect/sessions").await, 0);

    app.faults(json!({ "consent": "allow" })).await;
    let started = connect(&ada, json!({ "subdomain": "acme" })).await;
    let id = text(&started, "connection_id");
    let path = format!("/connections/{id}/reconnect");
    let body = json!({ "parameters": { "subdomain": "A!" } });
    let refused = ada.send_post(&path, body).await;
    refused.is_problem(400, "invalid_request");
    assert_eq!(events(&app, &id).await, ["attempt_started"]);
}

#[tokio::test]
async fn given_parameters_are_not_asked_for_again() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    for (parameters, asked) in [(json!({}), true), (json!({ "subdomain": "acme" }), false)] {
        let body = json!({ "parameters": parameters });
        let started = ada.send_post("/freshdesk/connect", body).await.json();
        let url = text(&started, "oauth_url");
        let page = app.popup(&url).await.text().await.unwrap();
        assert!(page.contains(r#"name="password""#), "{page}");
        assert_eq!(page.contains("params[subdomain]"), asked, "{page}");
    }
}

/// The fake Nango has its own list of required parameters.
#[tokio::test]
async fn oauth_connectors_connect_with_their_required_parameters() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "allow" })).await;
    let catalog = Catalog::builtin();
    let oauth = catalog.iter().filter(|it| {
        it.unavailable.is_none()
            && matches!(it.auth_mode, Some(AuthMode::Oauth2 | AuthMode::Oauth1))
    });
    for connector in oauth {
        let required = connector.parameters.iter().filter(|it| it.required);
        let given: BTreeMap<_, _> = required
            .map(|it| (it.name.clone(), it.example.clone().unwrap()))
            .collect();
        let path = format!("/{}/connect", connector.slug);
        let started = ada.send_post(&path, json!({ "parameters": given })).await;
        let url = text(&started.json(), "oauth_url");
        assert!(url.contains("/oauth/connect/"), "{url}");
        let page = app.popup(&url).await;
        assert_eq!(page.status(), StatusCode::OK, "{}", connector.slug);
    }
}
