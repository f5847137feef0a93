//! A workflow's step on a user's behalf: picks an account, calls the provider's API with a live token, and reports
//! precisely why if it cannot.
//!
//! Settings: `PATCHBAY_URL`, `PATCHBAY_KEY` (a service key with `tokens:read` and `connections:read`), `PATCHBAY_USER`,
//! `CONNECTOR`, `ACCOUNT` (the label or instance, if there are several) and `PROVIDER_API`. Exits with 0 when done,
//! with 2 if the user has to act, with 75 if it should be retried, and with 78 if an operator has to act, because a
//! retry would fail.

use std::env;
use std::process::ExitCode;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

/// The number of tries, and the longest pause between them, in seconds.
const TRIES: u32 = 4;
const LONGEST_PAUSE: u64 = 10;

/// The reason why the step was not done.
enum Why {
    /// The user has to act first.
    User(String),
    /// A retry may succeed.
    Later(String),
    /// It fails until an operator acts.
    Operator(String),
}

impl From<reqwest::Error> for Why {
    fn from(error: reqwest::Error) -> Self {
        match error.status() {
            Some(status) if status.is_client_error() && status.as_u16() != 429 => {
                Self::Operator(error.to_string())
            }
            _ => Self::Later(error.to_string()),
        }
    }
}

/// Encodes a text like JavaScript's `encodeURIComponent`.
fn percent_encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

struct Patchbay {
    client: Client,
    url: String,
    key: String,
    user: String,
}

impl Patchbay {
    /// Calls Patchbay for the user. Retries after the delay that Patchbay requests, or with backoff.
    async fn call(&self, method: Method, path: &str, body: &Value) -> Result<Value, Why> {
        let mut tried: u32 = 0;
        loop {
            let request = self
                .client
                .request(
                    method.clone(),
                    format!("{}/api/v1/connectors{path}", self.url),
                )
                .bearer_auth(&self.key)
                // Percent-encoded, because a header cannot carry all characters, or white space at its ends.
                .header("patchbay-user", percent_encoded(&self.user));
            let request = if body.is_null() {
                request
            } else {
                request.json(body)
            };
            let response = request.send().await?;
            let status = response.status();
            let answer: Value = response.json().await?;
            if status.is_success() {
                return Ok(answer);
            }
            let asked = answer["retry_after"].as_u64().unwrap_or(1);
            let pause = asked.max(1_u64 << tried);
            tried += 1;
            match why(status, &answer, &self.user) {
                Why::Later(_) if tried < TRIES && pause <= LONGEST_PAUSE => {
                    tokio::time::sleep(Duration::from_secs(pause)).await;
                }
                why => return Err(why),
            }
        }
    }

    /// Returns the connection with the label or instance, or the only one.
    async fn pick(&self, connector: &str, account: Option<&str>) -> Result<String, Why> {
        let page = self
            .call(
                Method::GET,
                &format!("/connections?connector_id={connector}"),
                &Value::Null,
            )
            .await?;
        let all = page["connections"].as_array().cloned().unwrap_or_default();
        let meant = |one: &&Value| {
            one["status"] != "disconnected"
                && account
                    .is_none_or(|account| one["label"] == account || one["instance_id"] == account)
        };
        let found: Vec<&Value> = all.iter().filter(meant).collect();
        match found.as_slice() {
            [] => Err(Why::User(format!(
                "{} has not connected {connector}",
                self.user
            ))),
            [one] => Ok(one["id"].as_str().unwrap_or_default().to_owned()),
            _ => Err(Why::User(format!(
                "{} has several accounts of {connector}: set ACCOUNT to the label or instance of one",
                self.user
            ))),
        }
    }

    /// Runs the step. Reports a token that the provider rejects, and requests another once.
    async fn step(&self, connection: &str, provider_api: &str) -> Result<String, Why> {
        let path = format!("/connections/{connection}/token");
        let mut token = self.call(Method::POST, &path, &Value::Null).await?;
        for last in [false, true] {
            let request = self.client.get(provider_api);
            let answer = authorized(request, &token)?.send().await?;
            if answer.status() != StatusCode::UNAUTHORIZED || last {
                return Ok(answer.error_for_status()?.text().await?);
            }
            let refused = json!({ "token_id": token["token_id"] });
            self.call(Method::POST, &format!("{path}/invalid"), &refused)
                .await?;
            token = self.call(Method::POST, &path, &Value::Null).await?;
        }
        unreachable!("the second try is the last")
    }
}

/// Returns a text field of a response; empty if it is missing.
fn text<'a>(answer: &'a Value, field: &str) -> &'a str {
    answer[field].as_str().unwrap_or_default()
}

/// Adds the credentials of a token to a request, according to their type. API keys go where many providers expect them;
/// others have their own header.
fn authorized(request: RequestBuilder, token: &Value) -> Result<RequestBuilder, Why> {
    match text(token, "type") {
        "oauth2" => Ok(request.bearer_auth(text(token, "access_token"))),
        "api_key" => Ok(request.bearer_auth(text(token, "api_key"))),
        "basic" => Ok(request.basic_auth(text(token, "username"), Some(text(token, "password")))),
        other => Err(Why::Operator(format!(
            "this example knows no credentials of the type {other}"
        ))),
    }
}

fn why(status: StatusCode, problem: &Value, user: &str) -> Why {
    let (code, detail) = (text(problem, "code"), text(problem, "detail"));
    match (code, status.as_u16()) {
        ("needs_reauthorization" | "not_connected", _) => Why::User(format!(
            "{user} has to act: {detail} ({code}); begin at {}",
            text(problem, "connect")
        )),
        ("account_mismatch", _) => Why::User(format!("{user} has to act: {detail} ({code})")),
        ("nango_disabled", _) => Why::Operator(format!("{detail} ({code})")),
        (_, 429 | 503 | 504) => Why::Later(format!("{detail} ({code})")),
        _ => Why::Operator(format!("{detail} ({code})")),
    }
}

async fn run() -> Result<String, Why> {
    let setting =
        |name: &str, default: &str| env::var(name).unwrap_or_else(|_unset| default.to_owned());
    let needed =
        |name: &str| env::var(name).map_err(|_unset| Why::Operator(format!("{name} is not set")));
    let provider_api = needed("PROVIDER_API")?;
    let patchbay = Patchbay {
        client: Client::builder().timeout(Duration::from_secs(30)).build()?,
        url: setting("PATCHBAY_URL", "http://localhost:8000"),
        key: needed("PATCHBAY_KEY")?,
        user: setting("PATCHBAY_USER", "ada"),
    };
    let connector = setting("CONNECTOR", "gmail");
    let account = env::var("ACCOUNT").ok();
    let connection = patchbay.pick(&connector, account.as_deref()).await?;
    let answer = patchbay.step(&connection, &provider_api).await?;
    Ok(format!("{connector} answers {}: {answer}", patchbay.user))
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(answer) => {
            println!("{answer}");
            ExitCode::SUCCESS
        }
        Err(Why::User(text)) => {
            eprintln!("{text}");
            ExitCode::from(2)
        }
        Err(Why::Later(text)) => {
            eprintln!("{text}");
            ExitCode::from(75)
        }
        Err(Why::Operator(text)) => {
            eprintln!("{text}");
            ExitCode::from(78)
        }
    }
}
