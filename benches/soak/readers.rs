//! Readers, workflows that request tokens, and guests who are erased.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::load::{decide, random};
use crate::setup::{SERVICE_KEY, Setup};

/// The number of requests by outcome, and unexpected responses.
#[derive(Default)]
pub(crate) struct ReadStats {
    pub(crate) requests: AtomicU64,
    answers: Mutex<BTreeMap<(&'static str, u16), u64>>,
    wrong: Mutex<Vec<String>>,
}

impl ReadStats {
    /// Sends a request and records an error unless its status is in `allowed`.
    async fn send(
        &self,
        what: &'static str,
        request: RequestBuilder,
        allowed: &[u16],
    ) -> (u16, Value) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let (status, body) = match request.send().await {
            Ok(answer) => (
                answer.status().as_u16(),
                answer.text().await.unwrap_or_default(),
            ),
            Err(error) => (0, error.to_string()),
        };
        *self
            .answers
            .lock()
            .unwrap()
            .entry((what, status))
            .or_default() += 1;
        if !allowed.contains(&status) {
            self.wrong
                .lock()
                .unwrap()
                .push(format!("{what} was answered {status}: {body}"));
        }
        (status, serde_json::from_str(&body).unwrap_or_default())
    }

    pub(crate) fn print(&self) {
        for ((what, status), count) in self.answers.lock().unwrap().iter() {
            println!("{count:>10} {what} {status}");
        }
    }

    pub(crate) fn wrong(&self) -> Vec<String> {
        self.wrong.lock().unwrap().clone()
    }
}

/// A client that continuously reads a user's connections, at alternating replicas.
pub(crate) struct Reader<'a> {
    client: &'a Client,
    urls: Vec<&'a str>,
    name: String,
    token: String,
    seen: &'a ReadStats,
    ids: Vec<String>,
    last_event: Option<String>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(
        client: &'a Client,
        urls: Vec<&'a str>,
        name: String,
        token: String,
        stats: &'a ReadStats,
    ) -> Self {
        Self {
            client,
            urls,
            name,
            token,
            seen: stats,
            ids: Vec::new(),
            last_event: None,
        }
    }

    pub(crate) async fn run(mut self, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            match random(100) {
                0..40 => self.list().await,
                40..72 => self.get().await,
                72..77 => drop(
                    self.ask("catalog", Method::GET, "?search=mail", &[200])
                        .await,
                ),
                77..88 => self.use_token().await,
                88..92 => self.history().await,
                92..95 => self.follow().await,
                95..98 => self.rename().await,
                98 => self.forge().await,
                _ => drop(
                    self.ask(
                        "nothing",
                        Method::GET,
                        "/connections?cursor=nothing",
                        &[400],
                    )
                    .await,
                ),
            }
        }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = self.urls[random(self.urls.len())];
        self.client
            .request(method, format!("{url}/api/v1/connectors{path}"))
    }

    async fn ask(
        &self,
        what: &'static str,
        method: Method,
        path: &str,
        allowed: &[u16],
    ) -> (u16, Value) {
        let request = self.request(method, path).bearer_auth(&self.token);
        self.seen.send(what, request, allowed).await
    }

    async fn list(&mut self) {
        let path = format!("/connections?limit={}", 1 + random(200));
        let (_, body) = self.ask("list", Method::GET, &path, &[200]).await;
        let found = body["connections"].as_array().into_iter().flatten();
        self.ids = found
            .filter_map(|one| Some(one["id"].as_str()?.to_owned()))
            .collect();
    }

    fn any(&self) -> Option<&str> {
        (!self.ids.is_empty()).then(|| self.ids[random(self.ids.len())].as_str())
    }

    async fn get(&self) {
        if let Some(id) = self.any() {
            self.ask("get", Method::GET, &format!("/connections/{id}"), &[200])
                .await;
        }
    }

    async fn use_token(&self) {
        let Some(id) = self.any() else { return };
        let request = self.request(Method::POST, &format!("/connections/{id}/token"));
        let request = request
            .bearer_auth(SERVICE_KEY)
            .header("patchbay-user", &self.name);
        self.seen
            .send("token", request, &[200, 404, 409, 503])
            .await;
    }

    async fn history(&mut self) {
        let Some(id) = self.any() else { return };
        let (_, body) = self
            .ask(
                "history",
                Method::GET,
                &format!("/connections/{id}/history"),
                &[200],
            )
            .await;
        if let Some(id) = body["events"][0]["id"].as_str() {
            self.last_event = Some(id.to_owned());
        }
    }

    /// Opens a stream, reads its start, and closes it.
    async fn follow(&self) {
        let mut request = self
            .request(Method::GET, "/connections/events")
            .bearer_auth(&self.token);
        if let Some(last) = &self.last_event {
            request = request.header("last-event-id", last);
        }
        self.seen.requests.fetch_add(1, Ordering::Relaxed);
        let started = match request.send().await {
            Ok(mut answer) if answer.status() == StatusCode::OK => {
                answer.chunk().await.ok().flatten().is_some()
            }
            Ok(answer) => answer.status() == StatusCode::TOO_MANY_REQUESTS,
            Err(_) => false,
        };
        *self
            .seen
            .answers
            .lock()
            .unwrap()
            .entry(("stream", u16::from(started) * 200))
            .or_default() += 1;
        if !started {
            self.seen
                .wrong
                .lock()
                .unwrap()
                .push("a stream did not begin".to_owned());
        }
    }

    async fn rename(&self) {
        let Some(id) = self.any() else { return };
        let body =
            json!({ "label": format!("label {}", random(1000)), "config": { "n": random(1000) } });
        let request = self.request(Method::PATCH, &format!("/connections/{id}"));
        self.seen
            .send(
                "rename",
                request.bearer_auth(&self.token).json(&body),
                &[200],
            )
            .await;
    }

    /// Sends a webhook with a forged signature.
    async fn forge(&self) {
        let url = format!(
            "{}/api/v1/webhooks/nango",
            self.urls[random(self.urls.len())]
        );
        let request = self
            .client
            .post(url)
            .header("x-nango-hmac-sha256", "00".repeat(32));
        self.seen
            .send("forged webhook", request.body(r#"{"type":"auth"}"#), &[401])
            .await;
    }
}

/// A guest who repeatedly connects and is erased.
pub(crate) struct Guest<'a> {
    pub(crate) stage: &'a Setup,
    pub(crate) url: String,
    pub(crate) seen: &'a ReadStats,
    pub(crate) name: String,
}

impl Guest<'_> {
    pub(crate) async fn run(self, stop: &CancellationToken) {
        let mut number = 0;
        while !stop.is_cancelled() {
            number += 1;
            let user = format!("{}-{number}", self.name);
            let token = self.stage.token(&user).await;
            for connector in ["gmail", "github", "notion"] {
                self.connect(connector, &token).await;
            }
            self.erase(&user).await;
            let list = self
                .stage
                .client
                .get(format!("{}/api/v1/connectors/connections", self.url));
            let (_, left) = self
                .seen
                .send("list of erased user", list.bearer_auth(&token), &[200])
                .await;
            if left["total_count"] != 0 {
                self.seen
                    .wrong
                    .lock()
                    .unwrap()
                    .push(format!("of {user} is left {left}"));
            }
        }
    }

    async fn connect(&self, connector: &str, token: &str) {
        let client = &self.stage.client;
        let connect = client.post(format!(
            "{}/api/v1/connectors/{connector}/connect",
            self.url
        ));
        let (status, started) = self
            .seen
            .send("connect", connect.bearer_auth(token), &[200, 502, 503, 504])
            .await;
        if status == 200 && random(3) > 0 {
            decide(
                client,
                started["oauth_url"].as_str().unwrap(),
                random(4) > 0,
            )
            .await;
        }
    }

    async fn erase(&self, user: &str) {
        let url = format!("{}/api/v1/users/{user}/connections", self.url);
        for _ in 0..20 {
            let erase = self.stage.client.delete(&url).bearer_auth(SERVICE_KEY);
            if self.seen.send("erase", erase, &[200, 503]).await.0 == 200 {
                return;
            }
        }
        self.seen
            .wrong
            .lock()
            .unwrap()
            .push(format!("{user} could not be erased"));
    }
}
