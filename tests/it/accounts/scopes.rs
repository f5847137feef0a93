//! Scopes that a user did not grant.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{text, wait_for};
use crate::test_app::{TestApp, WITH_ACCOUNTS, client};

const KEY: &str = "pbk_workflow_0123456789abcdef0123456789abcdef";

async fn token(app: &TestApp, id: &str, body: Value) -> (StatusCode, Value) {
    let url = format!("{}/api/v1/connectors/connections/{id}/token", app.url);
    let request = client()
        .post(url)
        .bearer_auth(KEY)
        .header("patchbay-user", "ada");
    let response = request.json(&body).send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

#[tokio::test]
async fn withheld_scopes_are_missing_until_granted() {
    let keys = format!("workflow={KEY}");
    let app = TestApp::with(&[(WITH_ACCOUNTS, "1"), ("SERVICE_API_KEYS", &keys)]).await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "allow", "withheld_scopes": ["gist"] }))
        .await;
    let asked = json!({ "scopes": ["repo", "gist"] });
    let (_, started) = ada.call(Method::POST, "/github/connect", Some(asked)).await;
    app.popup(text(&started, "oauth_url")).await;
    let id = text(&started, "connection_id");
    let connected = wait_for(&ada, id, |one| one["scopes"].is_array()).await;
    assert_eq!(connected["status"], "connected");
    assert_eq!(connected["scopes"], json!(["repo"]));
    assert_eq!(connected["missing_scopes"], json!(["gist"]));

    assert_eq!(token(&app, id, json!({})).await.0, StatusCode::OK);
    let granted = token(&app, id, json!({ "required_scopes": ["public_repo"] })).await;
    assert_eq!(granted.0, StatusCode::OK);
    let (status, refused) = token(&app, id, json!({ "required_scopes": ["repo", "gist"] })).await;
    assert_eq!(
        (status, text(&refused, "code")),
        (StatusCode::CONFLICT, "insufficient_provider_scope")
    );
    assert_eq!(refused["missing_scopes"], json!(["gist"]));
    assert_eq!(
        refused["connect"],
        format!("/api/v1/connectors/connections/{id}/reconnect")
    );

    app.faults(json!({ "consent": "allow" })).await;
    let path = format!("/connections/{id}/reconnect");
    // A reconnect requests the same scopes again.
    let (_, started) = ada.call(Method::POST, &path, None).await;
    app.popup(text(&started, "oauth_url")).await;
    let again = wait_for(&ada, id, |one| one["missing_scopes"] == json!([])).await;
    assert_eq!(again["scopes"], json!(["repo", "gist"]));
    let granted = token(&app, id, json!({ "required_scopes": ["gist"] })).await;
    assert_eq!(granted.0, StatusCode::OK);
}

#[tokio::test]
async fn integration_scopes_are_asked_for_by_default() {
    let app = TestApp::with(&[(WITH_ACCOUNTS, "1")]).await;
    let ada = app.user("ada").await;
    let url = format!("http://{}/integrations/github", app.sandbox.address());
    let client = json!({
        "credentials": { "type": "OAUTH2", "client_id": "sandbox-github", "client_secret": "s", "scopes": "repo,gist" },
    });
    let set = app
        .client
        .patch(url)
        .bearer_auth(&app.secret_key)
        .json(&client)
        .send()
        .await;
    assert_eq!(set.unwrap().status(), StatusCode::OK);
    app.faults(json!({ "consent": "allow", "withheld_scopes": ["repo"] }))
        .await;
    let started = ada.connect("github").await;
    app.popup(text(&started, "oauth_url")).await;
    let id = text(&started, "connection_id");
    let connected = wait_for(&ada, id, |one| one["missing_scopes"].is_array()).await;
    assert_eq!(connected["missing_scopes"], json!(["repo"]));
}
