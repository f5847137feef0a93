//! A user of the product, who calls the API and completes popups.

use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};

use super::{Replica, TestApp};
use crate::eventually::eventually_value;

/// A user, whose token authenticates calls to the API.
pub(crate) struct User<'a> {
    pub(crate) app: &'a TestApp,
    pub(crate) token: String,
    pub(super) url: String,
}

impl<'a> User<'a> {
    /// Creates the user of this token.
    pub(crate) fn with_token(app: &'a TestApp, token: String) -> Self {
        Self {
            url: app.url.clone(),
            app,
            token,
        }
    }
}

impl User<'_> {
    /// Returns the same user at another replica.
    pub(crate) fn at(&self, replica: &Replica) -> Self {
        self.at_url(&replica.url)
    }

    /// Returns the same user at another address of the service.
    pub(crate) fn at_url(&self, url: &str) -> Self {
        Self {
            app: self.app,
            token: self.token.clone(),
            url: url.to_owned(),
        }
    }

    /// Creates a request below `/api/v1/connectors`, with the user's token.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.app
            .client
            .request(method, format!("{}/api/v1/connectors{path}", self.url))
            .bearer_auth(&self.token)
    }

    /// Sends a request below `/api/v1/connectors`. Returns its status and JSON.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        let request = self.request(method, path);
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        let response = request.send().await.unwrap();
        let status = response.status();
        (status, response.json().await.unwrap_or(Value::Null))
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, body) = self.call(Method::GET, path, None).await;
        assert_eq!(status, StatusCode::OK, "GET {path}: {body}");
        body
    }

    /// Starts a connection. Returns the response of `POST /{connector}/connect`.
    pub(crate) async fn connect(&self, connector: &str) -> Value {
        let (status, body) = self
            .call(Method::POST, &format!("/{connector}/connect"), None)
            .await;
        assert_eq!(status, StatusCode::OK, "connect {connector}: {body}");
        body
    }

    /// Connects through the popup, and waits until the service has applied the grant.
    pub(crate) async fn connected(&self, connector: &str) -> Value {
        self.app.faults(json!({ "consent": "allow" })).await;
        let started = self.connect(connector).await;
        self.app.popup(started["oauth_url"].as_str().unwrap()).await;
        self.wait_until(started["connection_id"].as_str().unwrap(), "connected")
            .await
    }

    pub(crate) async fn connection(&self, id: &str) -> Value {
        self.get(&format!("/connections/{id}")).await
    }

    /// Waits until a connection has this status.
    pub(crate) async fn wait_until(&self, id: &str, status: &str) -> Value {
        eventually_value(
            async || self.connection(id).await,
            |last| last["status"] == status,
        )
        .await
    }

    pub(crate) async fn disconnect(&self, connector: &str, query: &str) -> (StatusCode, Value) {
        self.call(
            Method::DELETE,
            &format!("/{connector}/disconnect{query}"),
            None,
        )
        .await
    }
}

/// Follows the popup like a browser. Returns the last page.
pub(crate) async fn popup(client: &Client, oauth_url: &str) -> Response {
    let mut next = oauth_url.to_owned();
    let mut cookies: Vec<String> = Vec::new();
    for _ in 0..10 {
        let response = client
            .get(&next)
            .header("cookie", cookies.join("; "))
            .send()
            .await
            .unwrap();
        let set = response.headers().get_all("set-cookie").iter();
        cookies.extend(set.map(|cookie| {
            cookie
                .to_str()
                .unwrap()
                .split(';')
                .next()
                .unwrap_or_default()
                .to_owned()
        }));
        let Some(location) = response.headers().get("location") else {
            return response;
        };
        next = response
            .url()
            .join(location.to_str().unwrap())
            .unwrap()
            .into();
    }
    panic!("the popup goes round in circles");
}
