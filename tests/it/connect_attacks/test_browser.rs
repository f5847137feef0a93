//! A browser, which stores cookies by host and follows redirects.

use std::collections::BTreeMap;

use reqwest::header::HeaderMap;
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use url::Url;

use crate::test_app::{ORIGIN, User, client};

/// The browser of one person.
pub(crate) struct TestBrowser {
    client: Client,
    /// The cookies by host with port, and by name.
    cookies: BTreeMap<(String, String), String>,
}

/// The page on which a navigation ends.
#[derive(Debug)]
pub(crate) struct PageResponse {
    pub(crate) url: Url,
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl PageResponse {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }
}

impl TestBrowser {
    pub(crate) fn new() -> Self {
        Self {
            client: client(),
            cookies: BTreeMap::new(),
        }
    }

    /// Returns the cookie of this name from any host.
    pub(crate) fn cookie(&self, name: &str) -> Option<&str> {
        let mut cookies = self.cookies.iter();
        cookies.find_map(|((_, own), value)| (own == name).then_some(value.as_str()))
    }

    /// Sends a request with the cookies of its host, and stores those in the response.
    async fn send(&mut self, url: &Url, request: RequestBuilder) -> PageResponse {
        let host = format!(
            "{}:{}",
            url.host_str().unwrap(),
            url.port_or_known_default().unwrap()
        );
        let own = self.cookies.iter().filter(|((of, _), _)| *of == host);
        let own: Vec<String> = own
            .map(|((_, name), value)| format!("{name}={value}"))
            .collect();
        let request = if own.is_empty() {
            request
        } else {
            request.header("cookie", own.join("; "))
        };
        let response = request.send().await.unwrap();
        for cookie in response.headers().get_all("set-cookie") {
            let pair = cookie.to_str().unwrap().split(';').next().unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            self.cookies
                .insert((host.clone(), name.to_owned()), value.to_owned());
        }
        PageResponse {
            url: url.clone(),
            status: response.status(),
            headers: response.headers().clone(),
            text: response.text().await.unwrap(),
        }
    }

    /// Navigates to an address, and follows redirects to the last page.
    pub(crate) async fn open(&mut self, url: &str) -> PageResponse {
        let mut url: Url = url.parse().unwrap();
        for _ in 0..10 {
            let request = self
                .client
                .get(url.clone())
                .header("accept", "text/html,*/*;q=0.8");
            let shown = self.send(&url, request).await;
            match shown.headers.get("location") {
                Some(location) => url = url.join(location.to_str().unwrap()).unwrap(),
                None => return shown,
            }
        }
        panic!("it is sent round in circles");
    }

    /// Sends a request like the product's page does for its user, with cookies.
    pub(crate) async fn post(
        &mut self,
        user: &User<'_>,
        path: &str,
        key: Option<&str>,
    ) -> PageResponse {
        let url = user.request(Method::POST, path).build().unwrap();
        let url = url.url().clone();
        let request = user.request(Method::POST, path).header("origin", ORIGIN);
        let request = match key {
            Some(key) => request.header("idempotency-key", key),
            None => request,
        };
        self.send(&url, request).await
    }

    /// Starts a connection; from now on the provider consents. Returns the response.
    pub(crate) async fn connect(&mut self, user: &User<'_>, connector: &str) -> Value {
        user.app.faults(json!({ "consent": "allow" })).await;
        let answer = self
            .post(user, &format!("/{connector}/connect"), None)
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        answer.json()
    }
}
