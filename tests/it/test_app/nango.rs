//! Calls of the fake Nango: its API as the service calls it, and its controls.

use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::{TestApp, popup};
use crate::eventually::eventually_value;

impl TestApp {
    /// Starts a test app whose Nango rejects the service's webhook address, and so sends no webhooks.
    pub(crate) async fn without_webhooks() -> Self {
        let mut app = Self::new().await;
        app.refuse_webhooks().await;
        app
    }

    /// Makes Nango reject the service's webhook address from now on, so that it sends no webhooks.
    pub(crate) async fn refuse_webhooks(&mut self) {
        self.lasting_faults = json!({ "refuse_private_webhook_urls": true });
        self.faults(json!({})).await;
    }

    /// Returns `true` if Nango sends webhooks.
    pub(crate) fn has_webhooks(&self) -> bool {
        self.lasting_faults == json!({})
    }

    /// Sets these faults of Nango, in addition to the lasting ones.
    pub(crate) async fn faults(&self, mut faults: Value) {
        let lasting = self.lasting_faults.as_object().unwrap().clone();
        faults.as_object_mut().unwrap().extend(lasting);
        self.control("faults", Method::PUT, faults).await;
    }

    /// Calls the sandbox's controls.
    pub(crate) async fn control(&self, what: &str, method: Method, body: Value) -> Value {
        let url = format!("http://{}/sandbox/{what}", self.sandbox.address());
        let request = self.client.request(method.clone(), url);
        let request = if method == Method::GET {
            request
        } else {
            request.json(&body)
        };
        let response = request.send().await.unwrap();
        let (status, text) = (response.status(), response.text().await.unwrap());
        assert!(status.is_success(), "{what}: {status} {text}");
        if text.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text).unwrap()
        }
    }

    /// Calls Nango's API with the service's key.
    pub(crate) async fn nango(&self, method: Method, path: &str) -> (StatusCode, Value) {
        let url = format!("http://{}{path}", self.sandbox.address());
        let request = self
            .client
            .request(method, url)
            .bearer_auth(&self.secret_key);
        let response = request.send().await.unwrap();
        (
            response.status(),
            response.json().await.unwrap_or(Value::Null),
        )
    }

    /// Imports a connection with these tags into Nango, bypassing the service.
    pub(crate) async fn import_with(&self, tags: Value) {
        self.import(json!({
            "provider_config_key": "gmail",
            "credentials": { "type": "OAUTH2", "access_token": "imported" },
            "tags": tags,
        }))
        .await;
    }

    /// Imports a connection into Nango, or replaces an existing one, bypassing the service.
    pub(crate) async fn import(&self, body: Value) {
        let url = format!("http://{}/connections", self.sandbox.address());
        let request = self.client.post(url).bearer_auth(&self.secret_key);
        let response = request.json(&body).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::CREATED);
    }

    /// Returns the number of calls to Nango's API with this method and a path that contains `part`.
    pub(crate) async fn nango_calls(&self, method: &str, part: &str) -> usize {
        let calls = self.control("requests", Method::GET, Value::Null).await;
        let fits = |call: &&Value| {
            call["method"] == method && call["path"].as_str().unwrap().contains(part)
        };
        calls.as_array().unwrap().iter().filter(fits).count()
    }

    /// Returns the ids of all of Nango's connections, newest first.
    pub(crate) async fn nango_connections(&self) -> Vec<String> {
        let (status, body) = self.nango(Method::GET, "/connections").await;
        assert_eq!(status, StatusCode::OK, "{body}");
        let connections = body["connections"].as_array().unwrap();
        connections
            .iter()
            .map(|one| one["connection_id"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Waits until Nango has exactly these connections, newest first.
    pub(crate) async fn wait_for_nango_connections(&self, ids: &[&str]) {
        eventually_value(async || self.nango_connections().await, |last| last == ids).await;
    }

    /// Follows the popup like a browser. Returns the last page.
    ///
    /// With the fault `consent` set to `allow` or `deny`, the consent page needs no click.
    pub(crate) async fn popup(&self, oauth_url: &str) -> Response {
        popup(&self.client, oauth_url).await
    }
}
