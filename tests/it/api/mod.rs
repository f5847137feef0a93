//! The API: every endpoint over real HTTP, with exact responses where programs read them.

mod attempt_expiry;
mod authentication;
mod callback;
mod cancel;
mod catalog;
mod connect;
mod connect_body;
mod console;
mod disconnect;
mod encodings;
mod grants;
mod history;
mod http_conventions;
mod list;
mod logs;
mod nango_disabled;
mod nango_errors;
pub(crate) mod openapi;
mod original;
mod parameters;
mod update;
mod webhooks;

use std::fmt;
use std::sync::LazyLock;

use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use url::Url;
use uuid::Uuid;

use crate::test_app::{TestApp, User};

/// The OpenAPI document, as JSON.
static DOCUMENT: LazyLock<Value> = LazyLock::new(patchbay::http::openapi);

/// A response. Its debug format omits values that change between runs.
struct TestResponse {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl TestResponse {
    async fn to(request: RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        Self {
            status: response.status(),
            headers: response.headers().clone(),
            text: response.text().await.unwrap(),
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        Some(self.headers.get(name)?.to_str().unwrap())
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// Fails unless this is a problem with the code, in the common format.
    fn is_problem(&self, status: u16, code: &str) -> Value {
        let body = self.json();
        assert_eq!(
            (self.status.as_u16(), &body["code"]),
            (status, &json!(code)),
            "{body:#}"
        );
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json")
        );
        assert_eq!(body["type"], format!("urn:patchbay:problem:{code}"));
        assert_eq!(body["status"], status);
        assert!(!body["title"].as_str().unwrap().is_empty());
        assert!(!body["detail"].as_str().unwrap().is_empty());
        assert_eq!(body["request_id"].as_str(), self.header("x-request-id"));
        assert_eq!(
            body["retry_after"]
                .as_u64()
                .map(|seconds| seconds.to_string()),
            self.header("retry-after").map(str::to_owned)
        );
        body
    }
}

impl fmt::Display for TestResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.status)?;
        for name in ["allow", "location", "retry-after", "www-authenticate"] {
            if let Some(value) = self.header(name) {
                writeln!(f, "{name}: {value}")?;
            }
        }
        match serde_json::from_str(&self.text) {
            Ok(mut body) => {
                redact(&mut body);
                write!(f, "{body:#}")
            }
            Err(_not_json) => write!(f, "{}", self.text),
        }
    }
}

/// Replaces random ids, ports and tokens. Times stay, because the test clock always starts at the same time.
fn redact(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(redact),
        Value::Object(fields) => fields.values_mut().for_each(redact),
        Value::String(text) => {
            // A UUIDv5 is derived from a name and is always the same.
            if Uuid::try_parse(text).is_ok_and(|id| id.get_version_num() != 5) {
                *text = "[id]".to_owned();
            } else if let Ok(url) = Url::parse(text)
                && url.scheme() == "http"
            {
                *text = redacted_url(url);
            }
        }
        _ => {}
    }
}

fn redacted_url(mut url: Url) -> String {
    let query: Vec<String> = url
        .query_pairs()
        .map(|(name, value)| {
            let value = match Url::parse(&value) {
                _ if name.ends_with("session_token") => "[token]".to_owned(),
                Ok(inner) => redacted_url(inner),
                Err(_not_a_url) => value.into_owned(),
            };
            format!("{name}={value}")
        })
        .collect();
    url.set_query(None);
    url.set_port(None).unwrap();
    if query.is_empty() {
        url.into()
    } else {
        format!("{url}?{}", query.join("&"))
    }
}

impl User<'_> {
    /// Sends a request below `/api/v1/connectors`. Fails if the response's status is not documented.
    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> TestResponse {
        let request = self.request(method.clone(), path);
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        let answer = TestResponse::to(request).await;
        let path = format!("/api/v1/connectors{path}");
        let path = path.split('?').next().unwrap();
        let template = template(path).unwrap_or_else(|| panic!("{path} is not documented"));
        let responses = &DOCUMENT["paths"][&template][method.as_str().to_lowercase()]["responses"];
        let response = &responses[answer.status.as_str()];
        let body: Value = serde_json::from_str(&answer.text).unwrap_or_default();
        let code = body["code"].as_str().map(|code| format!("`{code}`: "));
        let is_documented = |code: String| {
            let codes = response["description"].as_str();
            codes.is_some_and(|codes| codes.contains(&code))
        };
        assert!(
            response.is_object() && code.is_none_or(is_documented),
            "{method} {template} does not document {}: {}",
            answer.status,
            answer.text
        );
        answer
    }

    async fn send_get(&self, path: &str) -> TestResponse {
        self.send(Method::GET, path, None).await
    }

    async fn send_post(&self, path: &str, body: Value) -> TestResponse {
        self.send(Method::POST, path, Some(body)).await
    }

    async fn send_patch(&self, id: &str, body: Value) -> TestResponse {
        self.send(Method::PATCH, &format!("/connections/{id}"), Some(body))
            .await
    }

    async fn send_delete(&self, path: &str) -> TestResponse {
        self.send(Method::DELETE, path, None).await
    }

    /// Returns the number of the user's connections.
    async fn count(&self) -> u64 {
        self.get("/connections").await["total_count"]
            .as_u64()
            .unwrap()
    }
}

/// Returns the documented path of a request: of those that match, the one with the fewest placeholders.
fn template(path: &str) -> Option<String> {
    let fits = |template: &&String| {
        let (left, right) = (template.split('/'), path.split('/'));
        left.clone().count() == right.clone().count()
            && left.zip(right).all(|(a, b)| a.starts_with('{') || a == b)
    };
    DOCUMENT["paths"]
        .as_object()
        .unwrap()
        .keys()
        .filter(fits)
        .min_by_key(|template| template.matches('{').count())
        .cloned()
}

/// Returns the kinds of a connection's events, oldest first.
async fn events(app: &TestApp, connection: &str) -> Vec<String> {
    sqlx::query_scalar(
        "select kind from connection_event where connection_id = $1 order by position",
    )
    .bind(connection.parse::<Uuid>().unwrap())
    .fetch_all(&mut app.sql().await)
    .await
    .unwrap()
}

/// Returns a text field of a JSON object.
fn text(value: &Value, field: &str) -> String {
    value[field]
        .as_str()
        .unwrap_or_else(|| panic!("{field} of {value:#}"))
        .to_owned()
}
