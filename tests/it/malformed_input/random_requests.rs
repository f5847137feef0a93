//! Random inputs over real HTTP to the program, whose log is checked afterwards.

use std::collections::BTreeMap;

use proptest::test_runner::{Config, TestCaseError, TestRunner};
use reqwest::header::HeaderValue;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use sqlx::PgConnection;
use tokio::runtime::Runtime;

use super::check_response;
use super::generators::{Input, input};
use super::values::{FORGED, encoded};
use crate::process::Process;
use crate::test_app::{TestApp, User, free_port};

/// The default number of inputs.
const CASES: u32 = 320;

const KEY: &str = "pbk_inputs_0123456789abcdef0123456789abcdef";

/// The program, with a test app's database and Nango, and a user with one connection.
struct Environment<'a> {
    app: &'a TestApp,
    url: String,
    mallory: User<'a>,
    connection: String,
    /// The expected label and config of the connection.
    label: Option<String>,
    config: serde_json::Map<String, Value>,
    sql: PgConnection,
    answers: BTreeMap<u16, u32>,
}

/// Converts a text to a header, if possible.
fn header(text: &str) -> Option<HeaderValue> {
    HeaderValue::from_bytes(text.as_bytes()).ok()
}

impl Environment<'_> {
    fn service(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}/api/v1{path}", self.url);
        self.app.client.request(method, url).bearer_auth(KEY)
    }

    /// Creates the request of an input; `None` if HTTP cannot carry it.
    fn request(&self, input: &Input) -> Option<RequestBuilder> {
        let of = |method: Method, path: String| self.mallory.request(method, &path);
        let id = &self.connection;
        Some(match input {
            Input::Connect {
                connector,
                instance,
                body,
                key,
            } => {
                let path = format!(
                    "/{}/connect?instance_id={}",
                    encoded(connector),
                    encoded(instance)
                );
                let request = of(Method::POST, path).header("content-type", "application/json");
                let request = request.body(body.clone());
                match key {
                    Some(key) => request.header("idempotency-key", header(key)?),
                    None => request,
                }
            }
            Input::Update { body } => {
                let request = of(Method::PATCH, format!("/connections/{id}"));
                request
                    .header("content-type", "application/json")
                    .body(body.clone())
            }
            Input::Label { label } => {
                of(Method::PATCH, format!("/connections/{id}")).json(&json!({ "label": label }))
            }
            Input::Get { id, query } => {
                of(Method::GET, format!("/connections/{}?{query}", encoded(id)))
            }
            Input::List { query } => of(Method::GET, format!("/connections?{query}")),
            Input::History { query } => {
                of(Method::GET, format!("/connections/{id}/history?{query}"))
            }
            Input::Stream { last } => {
                let request = of(Method::GET, "/connections/events".to_owned());
                request.header("last-event-id", header(last)?)
            }
            Input::Callback { query, page } => {
                let accept = ["application/json", "text/html"][usize::from(*page)];
                of(Method::GET, format!("/callback?{query}")).header("accept", accept)
            }
            Input::Disconnect {
                connector,
                instance,
            } => {
                let instance = encoded(instance);
                of(
                    Method::DELETE,
                    format!("/{}/disconnect?instance_id={instance}x", encoded(connector)),
                )
            }
            other => return self.other_client_request(other),
        })
    }

    /// Creates the requests that are not the user's own.
    fn other_client_request(&self, input: &Input) -> Option<RequestBuilder> {
        let get = |path: &str| self.app.client.get(format!("{}{path}", self.url));
        Some(match input {
            Input::Authorization { value } => {
                let request = get("/api/v1/connectors");
                request.header("authorization", header(&format!("Bearer {value}"))?)
            }
            Input::Token {
                user,
                connector,
                instance,
            } => {
                let path = format!(
                    "/connectors/{}/token?instance_id={}",
                    encoded(connector),
                    encoded(instance)
                );
                self.service(Method::POST, &path)
                    .header("patchbay-user", encoded(user))
            }
            Input::Erase { user } => self.service(
                Method::DELETE,
                &format!("/users/{}x/connections", encoded(user)),
            ),
            Input::Webhook {
                attempt,
                signature,
                body,
            } => {
                let path = format!("/webhooks/nango/{}", encoded(attempt));
                let request = self.service(Method::POST, &path).body(body.clone());
                request.header("x-nango-hmac-sha256", header(signature)?)
            }
            Input::Anything {
                path,
                header: value,
            } => {
                let request = get(&format!("/{}", encoded(path)));
                request
                    .header("user-agent", header(value)?)
                    .header("x-request-id", header(value)?)
            }
            _ => return None,
        })
    }

    /// Sends an input. Returns an error if the response or its effect is wrong.
    async fn accepts(&mut self, input: &Input) -> Result<(), String> {
        let Some(request) = self.request(input) else {
            return Ok(());
        };
        self.make_room().await;
        let before = self.fingerprint().await;
        let response = request
            .send()
            .await
            .map_err(|error| format!("no answer: {error}"))?;
        if matches!(input, Input::Stream { .. }) && response.status() == StatusCode::OK {
            *self.answers.entry(200).or_default() += 1;
            return Ok(());
        }
        // A head above the size limit is rejected by the server, without a problem.
        let (status, body) = match response.status().as_u16() {
            431 => (431, Vec::new()),
            _ => check_response(response).await?,
        };
        *self.answers.entry(status).or_default() += 1;
        if status >= 400 {
            let after = self.fingerprint().await;
            return if before == after {
                Ok(())
            } else {
                Err(format!("{status} has changed something"))
            };
        }
        if status == 200 {
            self.recovers(input, &body).await?;
        }
        Ok(())
    }

    /// Empties the config before it is full, because then every further change would be rejected.
    async fn make_room(&mut self) {
        if Value::from(self.config.clone()).to_string().len() > 6 * 1024 {
            let nulls: serde_json::Map<_, _> = self
                .config
                .keys()
                .map(|name| (name.clone(), Value::Null))
                .collect();
            let path = format!("/connections/{}", self.connection);
            let (status, body) = self
                .mallory
                .call(Method::PATCH, &path, Some(json!({ "config": nulls })))
                .await;
            assert_eq!((status, &body["config"]), (StatusCode::OK, &json!({})));
            self.config.clear();
        }
    }

    /// Checks that an accepted value is returned, also by the next read.
    async fn recovers(&mut self, input: &Input, body: &[u8]) -> Result<(), String> {
        match input {
            Input::Update { body: sent } => {
                let sent: Value = serde_json::from_str(sent)
                    .map_err(|error| format!("it was no JSON: {error}"))?;
                if let Some(label) = sent.get("label") {
                    self.label = label.as_str().map(shown);
                }
                for (name, value) in sent["config"].as_object().into_iter().flatten() {
                    if value.is_null() {
                        self.config.remove(name);
                    } else {
                        self.config.insert(name.clone(), value.clone());
                    }
                }
            }
            Input::Label { label } => self.label = Some(shown(label)),
            Input::Connect { instance, .. } => {
                let started: Value =
                    serde_json::from_slice(body).map_err(|error| error.to_string())?;
                let id = started["connection_id"]
                    .as_str()
                    .ok_or("no connection_id")?;
                let kept = self.read(&format!("/connections/{id}")).await?;
                if kept["instance_id"] != *instance {
                    return Err(format!(
                        "instance_id {instance:?} has become {}",
                        kept["instance_id"]
                    ));
                }
                return Ok(());
            }
            _ => return Ok(()),
        }
        let problem = parsed(body)?;
        let read = self
            .read(&format!("/connections/{}", self.connection))
            .await?;
        let list = self.read("/connections?limit=500").await?;
        let mut listed = list["connections"].as_array().into_iter().flatten();
        let listed = listed
            .find(|one| one["id"] == self.connection.as_str())
            .ok_or("it is not listed")?;
        // Continues with the stored values, so that one wrong input does not fail the next.
        let config = std::mem::replace(
            &mut self.config,
            read["config"].as_object().cloned().unwrap_or_default(),
        );
        let label = std::mem::replace(&mut self.label, read["label"].as_str().map(str::to_owned));
        let config = Value::from(config);
        for kept in [&problem, &read, listed] {
            if kept["config"] != config {
                return Err(format!("config is {}, not {config}", kept["config"]));
            }
            if kept["label"].as_str() != label.as_deref() {
                return Err(format!("label is {}, not {label:?}", kept["label"]));
            }
        }
        Ok(())
    }

    async fn read(&self, path: &str) -> Result<Value, String> {
        let answer = self.mallory.request(Method::GET, path).send().await;
        let (status, body) = check_response(answer.map_err(|error| error.to_string())?).await?;
        if status == 200 {
            parsed(&body)
        } else {
            Err(format!("{path} answers {status}"))
        }
    }

    /// Returns a fingerprint of all data that requests may change.
    async fn fingerprint(&mut self) -> String {
        let rows = "select concat( \
              (select count(*) || md5(string_agg(c::text, ',' order by id)) from user_connector_connection c), \
              (select count(*) || md5(string_agg(a::text, ',' order by id)) from connect_attempt a), \
              (select count(*) from connection_event), (select count(*) from idempotency_key), \
              (select count(*) from upstream_deletion), (select count(*) from token_access), (select count(*) from connector))";
        sqlx::query_scalar(rows)
            .fetch_one(&mut self.sql)
            .await
            .unwrap()
    }
}

/// Returns the label without characters that would reorder or cover text.
fn shown(label: &str) -> String {
    let is_bidi_control = |c: char| {
        "\u{61c}\u{200e}\u{200f}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}".contains(c)
    };
    let is_line = |c: char| matches!(c, '\u{2028}' | '\u{2029}');
    let shown: String = label
        .trim()
        .chars()
        .filter(|c| !is_bidi_control(*c))
        .map(|c| if is_line(c) { ' ' } else { c })
        .collect();
    shown.trim().to_owned()
}

fn parsed(body: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(body)
        .map_err(|error| format!("{error}: {}", String::from_utf8_lossy(body)))
}

#[test]
fn random_inputs_are_rejected_or_round_trip() {
    let runtime = Runtime::new().unwrap();
    let _inside = runtime.enter();
    let app = runtime.block_on(TestApp::with_system_clock());
    let port = free_port().to_string();
    let url = format!("http://127.0.0.1:{port}");
    let settings = app.settings(&[
        ("PORT", &port),
        ("RUST_LOG", "debug"),
        ("SERVICE_API_KEYS", &format!("inputs={KEY}")),
    ]);
    let settings: Vec<(&str, &str)> = settings
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let mut process = Process::start(&["serve"], &settings);
    let environment = runtime.block_on(async {
        process.until_ready_is(&url, StatusCode::OK).await;
        let mallory = app.user("mallory").await.at_url(&url);
        let started = mallory.connect("github").await;
        Environment {
            app: &app,
            url: url.clone(),
            connection: started["connection_id"].as_str().unwrap().to_owned(),
            mallory,
            label: None,
            config: serde_json::Map::new(),
            sql: app.sql().await,
            answers: BTreeMap::new(),
        }
    });
    let environment = std::cell::RefCell::new(environment);
    let cases = std::env::var("INPUTS").map_or(CASES, |cases| cases.parse().unwrap());
    let mut runner = TestRunner::new(Config {
        cases,
        failure_persistence: None,
        max_shrink_time: 20_000,
        ..Config::default()
    });
    let tried = runner.run(&input(), |input| {
        let mut environment = environment.borrow_mut();
        runtime
            .block_on(environment.accepts(&input))
            .map_err(TestCaseError::fail)
    });
    println!(
        "{cases} inputs, answered: {:?}",
        environment.borrow().answers
    );
    tried.unwrap_or_else(|error| panic!("{error}"));

    drop(environment);
    let lines = every_line_is_an_object(&process.output());
    println!("{lines} lines of log, each one JSON object");
}

/// Asserts that each log line is a JSON object without the callers' texts. Returns the number of lines.
fn every_line_is_an_object(log: &str) -> usize {
    for line in log.lines() {
        let line: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        assert!(
            line["timestamp"].is_string() && line["level"].is_string(),
            "{line}"
        );
        assert_ne!(line["message"], "forged", "{line}");
    }
    log.lines().count()
}

#[tokio::test]
async fn config_nesting_depth_is_limited() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let started = ada.connect("gmail").await;
    let path = format!(
        "/connections/{}",
        started["connection_id"].as_str().unwrap()
    );
    let nested = |levels: usize| {
        (1..levels).fold(json!(1), |inner, level| match level % 2 {
            0 => json!([inner]),
            _ => json!({ "b": inner }),
        })
    };
    for (levels, status) in [(32, StatusCode::OK), (33, StatusCode::BAD_REQUEST)] {
        let body = json!({ "config": { "a": nested(levels) } });
        let (answered, body) = ada.call(Method::PATCH, &path, Some(body)).await;
        assert_eq!(answered, status, "{levels}: {body}");
    }
    assert_eq!(ada.get(&path).await["config"]["a"], nested(32));
}

#[tokio::test]
async fn config_value_count_is_limited() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let started = ada.connect("gmail").await;
    let path = format!(
        "/connections/{}",
        started["connection_id"].as_str().unwrap()
    );
    // Including the array itself, and the stored values.
    let many = |zeros: usize| json!({ "config": { "a": vec![0; zeros] } });
    let steps = [
        (json!({ "config": { "b": { "c": [1] } } }), StatusCode::OK),
        (many(496), StatusCode::OK),
        (many(497), StatusCode::BAD_REQUEST),
        (many(8_000), StatusCode::BAD_REQUEST),
    ];
    for (body, status) in steps {
        let (answered, problem) = ada.call(Method::PATCH, &path, Some(body)).await;
        assert_eq!(answered, status, "{problem}");
    }
    let kept = ada.get(&path).await;
    assert_eq!(kept["config"]["a"].as_array().unwrap().len(), 496);
    let connect = "/gmail/connect?instance_id=other";
    let (status, problem) = ada.call(Method::POST, connect, Some(many(500))).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{problem}");
}

#[test]
fn log_check_detects_injected_line() {
    let log = format!("{{\"timestamp\":\"now\",\"level\":\"INFO\"}}{FORGED}");
    let found = std::panic::catch_unwind(|| every_line_is_an_object(&log));
    assert!(found.is_err());
}
