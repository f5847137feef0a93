//! A sandbox, the recordings to replay against it, and a receiver of its webhooks.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, TimeDelta};
use nango_sandbox::{Config, Integration, Sandbox};
use patchbay::clock::Clock;
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::compare::{Comparison, Substitutions};
use super::webhook_receiver::{self, ReceivedWebhook};

pub(crate) const SIGNING_KEY: &str = "b9bdba8e-4c0b-4e79-b47d-e6579a475d7d";

/// A scenario in progress.
pub(crate) struct Scenario {
    pub(crate) sandbox: Sandbox,
    pub(crate) http: Client,
    pub(in crate::nango_contract) substitutions: Substitutions,
    clock: Clock,
    pub(crate) hooks: mpsc::UnboundedReceiver<ReceivedWebhook>,
    to_replay: BTreeSet<&'static str>,
}

pub(crate) fn data_directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/nango")
}

pub(crate) fn recording(name: &str) -> Value {
    let path = data_directory().join(format!("{name}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
    serde_json::from_str(&text).unwrap()
}

pub(in crate::nango_contract) fn integration(
    key: &str,
    provider: &str,
    name: &str,
    auth_mode: &str,
) -> Integration {
    Integration {
        unique_key: key.into(),
        provider: provider.into(),
        display_name: name.into(),
        auth_mode: auth_mode.into(),
    }
}

impl Scenario {
    /// The API key of all these sandboxes.
    pub(crate) const KEY: &str = "3d9f0c52-6a2e-4c0e-9a53-6d3a0b1f7c11";

    /// Creates a sandbox with the integrations of the recordings.
    pub(crate) async fn new(to_replay: &[&'static str]) -> Self {
        let scenario = Self::without_integrations(to_replay, |_| {}).await;
        for (key, name) in [("github", "GitHub"), ("gmail", "Gmail"), ("slack", "Slack")] {
            scenario.create_integration(key, name).await;
        }
        scenario
    }

    /// Creates a sandbox without integrations that need an OAuth client.
    pub(crate) async fn without_integrations(
        to_replay: &[&'static str],
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let (receiver, hooks) = webhook_receiver::receiver().await;
        let clock = Clock::manual(DateTime::from_timestamp(1_795_437_776, 637_000_000).unwrap());
        let mut config = Config {
            secret_key: Self::KEY.into(),
            webhook_signing_key: SIGNING_KEY.into(),
            webhook_url: Some(format!("{receiver}/nango-webhook")),
            clock: crate::test_app::sandbox_clock(&clock),
            rate_limit: 10_000,
            ..Config::default()
        };
        change(&mut config);
        let sandbox = Sandbox::start(config).await.unwrap();
        let mut substitutions = Substitutions::default();
        substitutions.learn("http://localhost:3003", sandbox.url());
        let encoded = |url: &str| url.replace(':', "%3A").replace('/', "%2F");
        substitutions.learn(&encoded("http://localhost:3003"), &encoded(sandbox.url()));
        substitutions.learn(
            "http://localhost:3009/",
            &format!("{}/connect-ui/", sandbox.url()),
        );
        let authorize = format!("{}/provider/authorize", sandbox.url());
        substitutions.learn("http://127.0.0.1:4100/authorize", &authorize);
        substitutions.learn("http://localhost:4101", &receiver);
        substitutions.learn("<NANGO_SECRET_KEY>", Self::KEY);
        let http = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs(20))
            .build()
            .unwrap();
        Self {
            sandbox,
            http,
            substitutions,
            clock,
            hooks,
            to_replay: to_replay.iter().copied().collect(),
        }
    }

    /// Returns the recorded integrations with other auth modes.
    pub(crate) fn other_integrations() -> Vec<Integration> {
        vec![
            integration("openai", "openai", "OpenAI", "API_KEY"),
            integration("twilio", "twilio", "Twilio", "BASIC"),
            integration("chargebee", "chargebee", "Chargebee", "BASIC"),
        ]
    }

    pub(crate) async fn create_integration(&self, key: &str, name: &str) {
        let mut body = recording("integration-create")["request"]["body"].clone();
        body["unique_key"] = key.into();
        body["display_name"] = name.into();
        self.call(Method::POST, "/integrations", Some(body)).await;
    }

    pub(crate) fn advance(&self, by: TimeDelta) {
        self.clock.advance(by);
    }

    /// Asserts that all recordings of this scenario were replayed.
    pub(crate) fn finish(self) {
        assert!(
            self.to_replay.is_empty(),
            "not replayed: {:?}",
            self.to_replay
        );
    }

    pub(crate) fn take(&mut self, name: &str) -> Value {
        assert!(
            self.to_replay.remove(name),
            "{name} is not in this scenario's list"
        );
        recording(name)
    }

    /// Sends a request with the secret key that must succeed. Returns its JSON response.
    pub(crate) async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let url = format!("{}{path}", self.sandbox.url());
        let mut request = self.http.request(method, url).bearer_auth(Self::KEY);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap_or_default()
    }

    pub(crate) async fn faults(&self, faults: Value) {
        self.call(Method::PUT, "/sandbox/faults", Some(faults))
            .await;
    }

    /// Sends a request with the secret key. Returns any response.
    pub(crate) async fn get(&self, url: &str) -> Response {
        self.http
            .get(url)
            .bearer_auth(Self::KEY)
            .send()
            .await
            .unwrap()
    }

    /// Creates a session. Returns its token.
    pub(crate) async fn session(&self, body: Value) -> String {
        let body = serde_json::from_str(&self.substitutions.apply(&body.to_string())).unwrap();
        let answer = self
            .call(Method::POST, "/connect/sessions", Some(body))
            .await;
        answer["data"]["token"].as_str().unwrap().to_owned()
    }

    /// Replaces the token in a recording's first request by `token`.
    pub(crate) fn use_token(&mut self, name: &str, token: &str) {
        let recording = recording(name);
        let exchange = recording["exchanges"].get(0).unwrap_or(&recording);
        let text = exchange["request"].to_string();
        let start = text.find("nango_connect_session_").unwrap();
        let recorded = &text[start..start + "nango_connect_session_".len() + 64];
        self.substitutions.learn(recorded, token);
    }

    /// Creates a session whose token replaces the one in these recordings.
    pub(crate) async fn session_for(&mut self, names: &[&str], body: Value) -> String {
        let token = self.session(body).await;
        for name in names {
            self.use_token(name, &token);
        }
        token
    }

    /// Follows a session to the provider and back. Returns the query of the callback.
    pub(crate) async fn authorize(&self, token: &str, integration: &str) -> String {
        let url = format!("{}/oauth/connect/{integration}", self.sandbox.url());
        let request = self
            .http
            .get(url)
            .query(&[("connect_session_token", token)]);
        let provider = location(&request.send().await.unwrap());
        let back = location(&self.http.get(provider).send().await.unwrap());
        back.split_once('?').unwrap().1.to_owned()
    }

    pub(crate) async fn callback(&self, query: &str) -> Response {
        let url = format!("{}/oauth/callback?{query}", self.sandbox.url());
        self.http.get(url).send().await.unwrap()
    }

    /// Connects with consent through the whole flow. Its id replaces `recorded`.
    pub(crate) async fn connect(
        &mut self,
        integration: &str,
        recorded: &str,
        body: Value,
    ) -> String {
        self.faults(json!({ "consent": "allow" })).await;
        let token = self.session(body).await;
        let query = self.authorize(&token, integration).await;
        assert_eq!(self.callback(&query).await.status(), 200);
        self.learn_newest(recorded).await
    }

    /// Replaces `recorded` by the newest connection's id.
    pub(crate) async fn learn_newest(&mut self, recorded: &str) -> String {
        let list = self.call(Method::GET, "/connections?limit=1", None).await;
        let id = list["connections"][0]["connection_id"]
            .as_str()
            .unwrap()
            .to_owned();
        self.substitutions.learn(recorded, &id);
        id
    }

    /// Replays recordings of one exchange each.
    pub(crate) async fn replay_all(&mut self, names: &[&str]) {
        for name in names {
            self.replay(name).await;
        }
    }

    /// Sends a recorded request and compares the response.
    pub(crate) async fn replay(&mut self, name: &str) {
        let recording = self.take(name);
        self.exchange(name, &recording).await;
    }

    async fn exchange(&mut self, name: &str, exchange: &Value) {
        let request = &exchange["request"];
        let path = self.substitutions.apply(request["path"].as_str().unwrap());
        let query = request["query_raw"]
            .as_str()
            .map(|raw| self.substitutions.apply(raw));
        let query = query.map(|raw| format!("?{raw}")).unwrap_or_default();
        let url = format!("{}{path}{query}", self.sandbox.url());
        let method: Method = request["method"].as_str().unwrap().parse().unwrap();
        let mut sent = self.http.request(method, url);
        for (header, value) in request["headers"].as_object().into_iter().flatten() {
            sent = sent.header(header, self.substitutions.apply(value.as_str().unwrap()));
        }
        match &request["body"] {
            Value::Null => {}
            Value::String(text) => sent = sent.body(text.clone()),
            body => sent = sent.body(self.substitutions.apply(&body.to_string())),
        }
        let response = sent.send().await.unwrap();
        self.compare(name, &exchange["response"], response).await;
    }

    async fn compare(&mut self, name: &str, recorded: &Value, response: Response) {
        let mut comparison = Comparison {
            substitutions: &mut self.substitutions,
            differences: Vec::new(),
        };
        comparison.status(&recorded["status"], response.status().as_u16());
        comparison.headers(&recorded["headers"], response.headers());
        let text = response.text().await.unwrap();
        if let Some(shape) = recorded.get("body_html_shape") {
            comparison.page(shape, &text);
        } else if let Some(was) = recorded["body_text"].as_str() {
            // The `location` header already covers the target of a redirect.
            let (was, is) = match was.split_once("Redirecting to ") {
                Some((was, _)) => (was, text.split_once("Redirecting to ").unwrap().0),
                None => (was, text.as_str()),
            };
            comparison.equal("text", was, is);
        } else if !recorded["body"].is_null() {
            let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
            comparison.json("body", &recorded["body"], &body);
        } else {
            comparison.equal("body", "", &text);
        }
        let differences = comparison.differences;
        assert!(
            differences.is_empty(),
            "{name}:\n{}",
            differences.join("\n")
        );
    }

    /// Replays a chain of redirects: each request goes to the location in the previous response.
    pub(crate) async fn replay_flow(&mut self, name: &str) {
        let recording = self.take(name);
        let mut next: Option<(String, String)> = None;
        for exchange in recording["exchanges"].as_array().unwrap() {
            let request = &exchange["request"];
            let sends_cookie = request["headers"].get("Cookie").is_some();
            let Some((to, cookie)) = next.take() else {
                let sent = self.substitutions.apply(&request.to_string());
                let sent: Value = serde_json::from_str(&sent).unwrap();
                let path = sent["path"].as_str().unwrap();
                let query = sent["query_raw"].as_str().unwrap();
                let to = format!("{}{path}?{query}", self.sandbox.url());
                next = self.step(name, exchange, &to, None).await;
                continue;
            };
            let cookie = sends_cookie.then_some(cookie.as_str());
            let to = match request["path"].as_str().unwrap() {
                // The browser may be redirected by the application's own callback.
                "/oauth/callback" => {
                    let query = to.split_once('?').unwrap().1;
                    format!("{}/oauth/callback?{query}", self.sandbox.url())
                }
                _ => to,
            };
            let kept = cookie.map(str::to_owned).unwrap_or_default();
            next = self.step(name, exchange, &to, cookie).await;
            if let Some((_, cookie)) = &mut next
                && cookie.is_empty()
            {
                *cookie = kept;
            }
        }
    }

    /// Replays one step of a chain. Returns its location and the cookie that it set.
    async fn step(
        &mut self,
        name: &str,
        exchange: &Value,
        to: &str,
        cookie: Option<&str>,
    ) -> Option<(String, String)> {
        let mut request = self.http.get(to).header("accept", "text/html");
        if exchange["request"]["headers"]["Accept"] != "text/html" {
            request = self.http.get(to);
        }
        if let Some(cookie) = cookie {
            request = request.header("cookie", cookie);
        }
        let response = request.send().await.unwrap();
        let led = response.headers().contains_key("location").then(|| {
            let cookie = response.headers().get("set-cookie");
            let cookie = cookie.map(|it| it.to_str().unwrap().split(';').next().unwrap());
            (location(&response), cookie.unwrap_or_default().to_owned())
        });
        let mut recorded = exchange["response"].clone();
        if exchange["request"]["path"] == "/authorize" {
            // The provider is the sandbox's own, so only its redirect back is part of the contract.
            let headers = json!({ "location": recorded["headers"]["location"] });
            recorded = json!({ "status": 302, "headers": headers });
            let location = led.as_ref().map(|(to, _)| to.clone());
            let mut comparison = Comparison {
                substitutions: &mut self.substitutions,
                differences: Vec::new(),
            };
            let mut only_location = reqwest::header::HeaderMap::new();
            only_location.insert("location", location.unwrap().parse().unwrap());
            comparison.headers(&recorded["headers"], &only_location);
            assert!(
                comparison.differences.is_empty(),
                "{name}: {:?}",
                comparison.differences
            );
        } else {
            self.compare(name, &recorded, response).await;
        }
        led
    }

    /// Sends a callback for each exchange of a recording that contains only callbacks.
    pub(crate) async fn replay_callback(&mut self, name: &str, exchange: &Value, query: &str) {
        let state = query
            .split('&')
            .find_map(|pair| pair.strip_prefix("state="))
            .unwrap();
        let recorded = exchange["request"]["query"].as_array().unwrap();
        let recorded = recorded.iter().find(|pair| pair[0] == "state").unwrap();
        self.substitutions
            .learn(recorded[1].as_str().unwrap(), state);
        let response = self.callback(query).await;
        self.compare(name, &exchange["response"], response).await;
    }

    /// Marks a recording as replayed, for a scenario that replays its parts itself.
    pub(crate) fn open(&mut self, name: &str) -> Value {
        self.take(name)
    }
}

pub(crate) fn location(response: &Response) -> String {
    let location = response.headers().get("location");
    let location = location.unwrap_or_else(|| panic!("a redirect, not {response:?}"));
    location.to_str().unwrap().to_owned()
}
