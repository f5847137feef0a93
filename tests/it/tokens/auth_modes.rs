//! Tokens of providers without OAuth 2: with a name and no password, without credentials, and of installed apps.

use chrono::TimeDelta;
use nango_sandbox::Integration;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use url::Url;

use super::{KEY, call, text, token};
use crate::test_app::{TestApp, User};

/// Starts a test app with an integration of this provider.
async fn app_with(provider: &str, auth_mode: &str) -> TestApp {
    let settings = [("SERVICE_API_KEYS", &*format!("workflow={KEY}"))];
    let app = TestApp::build(&settings, |nango| {
        nango.integrations.push(Integration {
            unique_key: provider.to_owned(),
            provider: provider.to_owned(),
            display_name: provider.to_owned(),
            auth_mode: auth_mode.to_owned(),
        });
    });
    let app = app.await;
    app.faults(json!({ "consent": "allow" })).await;
    app
}

/// Submits the form of Nango's page.
async fn submit(app: &TestApp, started: &Value, fields: &[(&str, &str)]) {
    let link: Url = text(started, "oauth_url").parse().unwrap();
    let (_, session) = link.query_pairs().next().unwrap();
    let mut form = vec![("session_token", &*session)];
    form.extend(fields);
    let request = app.client.post(link.join("/connect-ui/").unwrap());
    let page = request.form(&form).send().await.unwrap();
    assert_eq!(page.status(), StatusCode::OK);
}

/// Installs the app of Nango's page in a popup.
async fn install(app: &TestApp, started: &Value) {
    let link: Url = text(started, "oauth_url").parse().unwrap();
    let (_, session) = link.query_pairs().next().unwrap();
    let mut popup = link.join("/oauth/connect/github-app-oauth").unwrap();
    let query = format!("connect_session_token={session}");
    popup.set_query(Some(&query));
    app.popup(popup.as_str()).await;
}

async fn connect_installed(app: &TestApp, ada: &User<'_>) -> Value {
    let started = ada.connect("github-app-oauth").await;
    install(app, &started).await;
    ada.wait_until(text(&started, "connection_id"), "connected")
        .await
}

#[tokio::test]
async fn provider_without_credentials_has_an_empty_token() {
    let app = app_with("unauthenticated", "NONE").await;
    let ada = app.user("ada").await;
    let started = ada.connect("unauthenticated").await;
    submit(&app, &started, &[("integration", "unauthenticated")]).await;
    let id = text(&started, "connection_id");
    let connected = ada.wait_until(id, "connected").await;
    let (status, given) = token(&app, "ada", &connected).await;
    assert_eq!(status, StatusCode::OK, "{given}");
    let expected = (&json!("other"), &json!("NONE"), &json!({}));
    let read = (&given["type"], &given["kind"], &given["credentials"]);
    assert_eq!(read, expected);
}

#[tokio::test]
async fn late_report_does_not_harm_a_new_name_without_password() {
    let app = app_with("ashby", "BASIC").await;
    let ada = app.user("ada").await;
    let fields = |name| {
        [
            ("integration", "ashby"),
            ("username", name),
            ("password", ""),
        ]
    };
    let started = ada.connect("ashby").await;
    submit(&app, &started, &fields("first")).await;
    let id = text(&started, "connection_id");
    let connected = ada.wait_until(id, "connected").await;
    let (_, old) = token(&app, "ada", &connected).await;
    assert_eq!(old["username"], "first");

    let path = format!("/connections/{id}/reconnect");
    let (_, again) = ada.call(Method::POST, &path, None).await;
    submit(&app, &again, &fields("second")).await;
    let succeeded = |one: &Value| one["attempt"]["outcome"] == "succeeded";
    let current = async || ada.connection(id).await;
    crate::eventually::eventually_value(current, |one| {
        succeeded(one) && one["attempt"]["kind"] == "reconnect"
    })
    .await;
    let path = format!("/connectors/connections/{id}/token/invalid");
    let report = Some(json!({ "token_id": old["token_id"] }));
    let (status, answer) = call(&app.url, KEY, "ada", Method::POST, &path, report).await;
    assert_eq!(
        (status, &answer["refreshed"]),
        (StatusCode::OK, &json!(false))
    );
    let (_, new) = token(&app, "ada", &connected).await;
    assert_eq!(new["username"], "second");
}

#[tokio::test]
async fn same_installation_cannot_be_connected_twice() {
    let app = app_with("github-app-oauth", "CUSTOM").await;
    let ada = app.user("ada").await;
    let first = connect_installed(&app, &ada).await;
    let path = "/github-app-oauth/connect?instance_id=work";
    let (_, started) = ada.call(Method::POST, path, None).await;
    install(&app, &started).await;
    let failed = ada
        .wait_until(text(&started, "connection_id"), "error")
        .await;
    assert_eq!(failed["status_reason"], "authorization_failed");
    let message = "This account is connected already, as another connection";
    assert_eq!(failed["last_error"], message);
    // Nango has renewed the connection that the first row uses.
    let (status, given) = token(&app, "ada", &first).await;
    assert_eq!((status, &given["kind"]), (StatusCode::OK, &json!("APP")));
    assert_eq!(app.nango_connections().await.len(), 1);
}

#[tokio::test]
async fn failed_refresh_of_an_app_is_not_an_outage_of_nango() {
    let app = app_with("github-app-oauth", "CUSTOM").await;
    let ada = app.user("ada").await;
    let connected = connect_installed(&app, &ada).await;
    app.advance(TimeDelta::minutes(50));
    app.faults(json!({ "refuse_refresh": true })).await;
    let (status, problem) = token(&app, "ada", &connected).await;
    let expected = (StatusCode::SERVICE_UNAVAILABLE, "provider_unavailable");
    assert_eq!((status, text(&problem, "code")), expected);
    let current = ada.connection(text(&connected, "id")).await;
    assert!(current["failing_since"].is_string(), "{current}");
    app.faults(json!({})).await;
    app.advance(TimeDelta::minutes(2));
    let (status, given) = token(&app, "ada", &connected).await;
    assert_eq!(status, StatusCode::OK, "{given}");
    let current = ada.connection(text(&connected, "id")).await;
    assert_eq!(current["failing_since"], Value::Null);
}
