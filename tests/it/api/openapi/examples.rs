//! Examples of requests and responses, recorded from a running service with stable ids and addresses.
//! `UPDATE_EXAMPLES=1 cargo test --test it -- examples_of` rewrites the files.

use std::fs;
use std::path::Path;

use reqwest::{Method, RequestBuilder};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::super::webhooks::{send, success};
use crate::reliability::app_with_accounts;
use crate::test_app::{TestApp, User};

/// The service key of the recording.
const KEY: &str = "pbk_example_0123456789abcdef0123456789abcdef";

/// Replaces values that change between runs: ids, addresses and secrets.
pub(crate) struct Normalizer {
    /// What a text contains, and its replacement.
    replacements: Vec<(String, String)>,
    ids: usize,
}

impl Normalizer {
    pub(crate) fn new(app: &TestApp) -> Self {
        let nango = format!("http://{}", app.sandbox.address());
        Self {
            replacements: vec![
                (app.url.clone(), "https://patchbay.example".to_owned()),
                (nango, "https://nango.example".to_owned()),
            ],
            ids: 0,
        }
    }

    pub(crate) fn normalize(&mut self, value: &mut Value) {
        match value {
            Value::Array(items) => items.iter_mut().for_each(|item| self.normalize(item)),
            Value::Object(fields) => {
                for (name, field) in fields {
                    match name.as_str() {
                        "access_token" => *field = json!("an-access-token"),
                        "token_id" => *field = json!("a-token-id"),
                        // The database's own time, which is not the test clock's.
                        "created_at" => *field = json!("2027-01-15T08:00:00Z"),
                        _ => self.normalize(field),
                    }
                }
            }
            Value::String(text) => *text = self.normalized(text),
            _ => {}
        }
    }

    fn normalized(&mut self, text: &str) -> String {
        // A UUIDv5 is derived from a name and is always the same.
        if Uuid::try_parse(text).is_ok_and(|id| id.get_version_num() != 5)
            && self.replacements.iter().all(|(known, _)| known != text)
        {
            self.ids += 1;
            let id = format!("019b2d3e-4f50-7a61-8b72-{:012x}", self.ids);
            self.replacements.push((text.to_owned(), id));
        }
        let mut text = text.to_owned();
        for (known, replacement) in &self.replacements {
            text = text.replace(known, replacement);
        }
        match text.split_once("session_token=") {
            Some((before, after)) => {
                let rest = after.split_once('&').map_or("", |(_, rest)| rest);
                let rest = if rest.is_empty() {
                    String::new()
                } else {
                    format!("&{rest}")
                };
                format!("{before}session_token=a-session-token{rest}")
            }
            None => text,
        }
    }
}

/// Compares examples with their file, or writes it.
pub(crate) fn compare(file: &str, examples: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/http/openapi")
        .join(file);
    let text = serde_json::to_string_pretty(examples).unwrap() + "\n";
    if std::env::var_os("UPDATE_EXAMPLES").is_some() {
        fs::write(&path, text).unwrap();
        return;
    }
    let stored = fs::read_to_string(&path).unwrap();
    assert!(
        stored == text,
        "{file} is stale: UPDATE_EXAMPLES=1 cargo test --test it -- examples_of\n{text}"
    );
}

struct Recorder<'a> {
    app: &'a TestApp,
    normalizer: Normalizer,
    examples: Map<String, Value>,
}

impl Recorder<'_> {
    /// Sends a request, and records its body and that of the response under the operation's id. Returns the response.
    async fn record(&mut self, id: &str, request: RequestBuilder, body: Option<Value>) -> Value {
        let request = match &body {
            Some(body) => request.json(body),
            None => request,
        };
        let response = request.send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        assert!(
            status.is_success() || id == "problem",
            "{id}: {status} {text}"
        );
        let response = serde_json::from_str(&text).unwrap_or(Value::String(text));
        self.add(id, body, &response);
        response
    }

    fn add(&mut self, id: &str, body: Option<Value>, response: &Value) {
        let mut example = if id == "problem" {
            response.clone()
        } else {
            json!({ "response": response })
        };
        if let Some(body) = body {
            example["request"] = body;
        }
        if response == "" {
            example.as_object_mut().unwrap().remove("response");
        }
        self.normalizer.normalize(&mut example);
        self.examples.insert(id.to_owned(), example);
    }

    /// Creates a request of the example's service for a user, below `/api/v1`.
    fn service(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}/api/v1{path}", self.app.url);
        let request = self.app.client.request(method, url).bearer_auth(KEY);
        request.header("patchbay-user", "ada")
    }

    async fn catalog(&mut self, user: &User<'_>) {
        let search = user.request(Method::GET, "?search=zendesk&limit=1");
        self.record("listConnectors", search, None).await;
        let get = user.request(Method::GET, "/gmail");
        self.record("getConnector", get, None).await;
        let list = user.request(Method::GET, "/list?category=Marketing");
        self.record("listAllConnectors", list, None).await;
        let logo = user.request(Method::GET, "/gmail/logo");
        self.record("getConnectorLogo", logo, None).await;
    }

    /// Records the cancellation of an attempt.
    async fn cancel(&mut self, user: &User<'_>) {
        let started = user.connect("notion").await;
        let id = started["connection_id"].as_str().unwrap();
        let cancel = user.request(Method::POST, &format!("/connections/{id}/cancel"));
        let body = json!({ "attempt_id": started["attempt_id"] });
        self.record("cancelAttempt", cancel, Some(body)).await;
    }

    /// Records a connect, its outcome, and a reconnect. Returns the connection's id.
    async fn connections(&mut self, user: &User<'_>) -> String {
        let body = json!({ "label": "Work mail", "config": { "folder": "inbox" }, "login_hint": "ada@example.com" });
        self.app.faults(json!({ "consent": "allow" })).await;
        let connect = user.request(Method::POST, "/gmail/connect");
        let started = self.record("connect", connect, Some(body)).await;
        let id = started["connection_id"].as_str().unwrap().to_owned();
        self.app.popup(started["oauth_url"].as_str().unwrap()).await;
        user.wait_until(&id, "connected").await;
        let callback = user.request(Method::GET, &format!("/callback?connection_id={id}"));
        self.record("handleCallback", callback, None).await;
        let get = user.request(Method::GET, &format!("/connections/{id}?wait=30"));
        self.record("getConnection", get, None).await;
        let list = user.request(Method::GET, "/connections");
        self.record("listConnections", list, None).await;
        let check = user.request(Method::POST, &format!("/connections/{id}/check"));
        self.record("checkConnection", check, None).await;
        self.record_event(user, &id).await;
        let history = user.request(Method::GET, &format!("/connections/{id}/history?limit=2"));
        self.record("listHistory", history, None).await;
        id
    }

    /// Records an update, and the event of it in the stream.
    async fn record_event(&mut self, user: &User<'_>, id: &str) {
        let stream = user.request(Method::GET, "/connections/events");
        let mut stream = stream.send().await.unwrap();
        let body = json!({ "label": "Support mail", "config": { "folder": null } });
        let update = user.request(Method::PATCH, &format!("/connections/{id}"));
        self.record("updateConnection", update, Some(body)).await;
        let mut text = String::new();
        let data = loop {
            let chunk = stream.chunk().await.unwrap().unwrap();
            text += std::str::from_utf8(&chunk).unwrap();
            let event = text
                .split("\n\n")
                .find(|event| event.contains("event: connection"));
            let data =
                event.and_then(|event| event.lines().find_map(|line| line.strip_prefix("data: ")));
            if let Some(data) = data.and_then(|data| serde_json::from_str::<Value>(data).ok()) {
                break data;
            }
        };
        self.add("streamEvents", None, &data);
    }

    async fn tokens(&mut self, user: &User<'_>, id: &str) {
        let path = format!("/connectors/connections/{id}/token");
        let body = json!({ "required_scopes": ["https://www.googleapis.com/auth/gmail.readonly"] });
        let by_id = self.service(Method::POST, &path);
        let token = self.record("getToken", by_id, Some(body.clone())).await;
        let by_connector = self.service(Method::POST, "/connectors/gmail/token");
        self.record("getConnectorToken", by_connector, Some(body))
            .await;
        let report = self.service(Method::POST, &format!("{path}/invalid"));
        let body = json!({ "token_id": token["token_id"] });
        self.record("reportInvalidToken", report, Some(body)).await;
        let accesses = user.request(Method::GET, &format!("/connections/{id}/accesses?limit=1"));
        self.record("listTokenAccesses", accesses, None).await;
    }

    /// Records a reconnect that returns another account, and its acceptance.
    async fn reconnect(&mut self, user: &User<'_>, id: &str) {
        let body = json!({ "login_hint": "grace" });
        let reconnect = user.request(Method::POST, &format!("/connections/{id}/reconnect"));
        let started = self.record("reconnect", reconnect, Some(body)).await;
        self.app.popup(started["oauth_url"].as_str().unwrap()).await;
        user.wait_until(id, "error").await;
        let accept = user.request(Method::POST, &format!("/connections/{id}/account"));
        self.record(
            "acceptAccount",
            accept,
            Some(json!({ "account_id": "grace" })),
        )
        .await;
    }

    async fn nango_webhooks(&mut self) {
        let body = success(
            &Uuid::new_v4().to_string(),
            "gmail",
            &json!({ "end_user_id": "ada" }),
        );
        for (id, attempt) in [
            ("receiveWebhook", String::new()),
            ("receiveAttemptWebhook", Uuid::now_v7().to_string()),
        ] {
            let answer = send(self.app, &attempt, &body).await;
            assert_eq!(answer.status, 204, "{answer}");
            self.add(id, Some(body.clone()), &json!(""));
        }
    }
}

#[tokio::test]
async fn examples_of_operations_are_real_answers() {
    let (app, _file) = app_with_accounts(&[("SERVICE_API_KEYS", &format!("example={KEY}"))]).await;
    let ada = app.user("ada").await;
    let mut recorder = Recorder {
        app: &app,
        normalizer: Normalizer::new(&app),
        examples: Map::new(),
    };
    for (id, path) in [("getHealth", "/healthz"), ("getReadiness", "/readyz")] {
        let request = app.client.get(format!("{}{path}", app.url));
        recorder.record(id, request, None).await;
    }
    recorder.catalog(&ada).await;
    let id = recorder.connections(&ada).await;
    recorder.tokens(&ada, &id).await;
    recorder.reconnect(&ada, &id).await;
    recorder.nango_webhooks().await;
    let disconnect = ada.request(
        Method::DELETE,
        &format!("/gmail/disconnect?connection_id={id}"),
    );
    recorder.record("disconnect", disconnect, None).await;
    let remove = ada.request(Method::DELETE, &format!("/connections/{id}"));
    recorder.record("removeConnection", remove, None).await;
    recorder.cancel(&ada).await;
    let unconnected = recorder.service(Method::POST, "/connectors/gmail/token");
    recorder.record("problem", unconnected, None).await;
    let erase = recorder.service(Method::DELETE, "/users/ada/connections");
    recorder.record("eraseUser", erase, None).await;
    compare("examples.json", &Value::Object(recorder.examples));
}
