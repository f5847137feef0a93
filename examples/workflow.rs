//! A workflow's step on a user's behalf: pick an account, call the provider's
//! API with a live token, and say precisely why not where there is none.
//!
//! `PATCHBAY_URL`, `PATCHBAY_KEY` (a service key with `tokens:read` and
//! `connections:read`), `PATCHBAY_USER`, `CONNECTOR`, `ACCOUNT` (the label or
//! instance, where there are several) and `PROVIDER_API` say what to do. It ends
//! with 0 when done, 2 when the user has to act, 75 when it should be tried again.

use std::env;
use std::process::ExitCode;
use std::time::Duration;

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};

/// Why the step was not done.
enum Why {
    /// The user has to do something first.
    User(String),
    /// It may work later.
    Later(String),
}

impl From<reqwest::Error> for Why {
    fn from(error: reqwest::Error) -> Self {
        Self::Later(error.to_string())
    }
}

struct Patchbay {
    client: Client,
    url: String,
    key: String,
    user: String,
}

impl Patchbay {
    /// Calls Patchbay for the user, and comes again when it asks for patience.
    async fn call(&self, method: Method, path: &str, body: &Value) -> Result<Value, Why> {
        let mut left = 3;
        loop {
            let request = self
                .client
                .request(
                    method.clone(),
                    format!("{}/api/v1/connectors{path}", self.url),
                )
                .bearer_auth(&self.key)
                .header("patchbay-user", &self.user);
            let request = if body.is_null() {
                request
            } else {
                request.json(body)
            };
            let response = request.send().await?;
            let status = response.status();
            let pause = response
                .headers()
                .get("retry-after")
                .and_then(|value| value.to_str().ok()?.parse().ok());
            let answer: Value = response.json().await?;
            left -= 1;
            match status {
                status if status.is_success() => return Ok(answer),
                StatusCode::SERVICE_UNAVAILABLE if left > 0 => {
                    tokio::time::sleep(Duration::from_secs(pause.unwrap_or(1).min(5))).await;
                }
                _ => return Err(why(&answer, &self.user)),
            }
        }
    }

    /// The connection that is meant: by its label or instance, or the only one.
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

    /// The step itself. A token that the provider refuses is reported, and asked for once more.
    async fn step(&self, connection: &str, provider_api: &str) -> Result<String, Why> {
        let path = format!("/connections/{connection}/token");
        let mut token = self.call(Method::POST, &path, &Value::Null).await?;
        for last in [false, true] {
            let access_token = token["access_token"].as_str().unwrap_or_default();
            let answer = self
                .client
                .get(provider_api)
                .bearer_auth(access_token)
                .send()
                .await?;
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

fn why(problem: &Value, user: &str) -> Why {
    let text = |field: &str| problem[field].as_str().unwrap_or_default().to_owned();
    let (code, detail) = (text("code"), text("detail"));
    match code.as_str() {
        "needs_reauthorization" | "account_mismatch" | "not_connected" => Why::User(format!(
            "{user} has to act: {detail} ({code}; begin at {})",
            text("connect")
        )),
        _ => Why::Later(format!("not now: {detail} ({code})")),
    }
}

async fn run() -> Result<String, Why> {
    let setting =
        |name: &str, default: &str| env::var(name).unwrap_or_else(|_unset| default.to_owned());
    let patchbay = Patchbay {
        client: Client::builder().timeout(Duration::from_secs(30)).build()?,
        url: setting("PATCHBAY_URL", "http://localhost:8000"),
        key: setting("PATCHBAY_KEY", ""),
        user: setting("PATCHBAY_USER", "ada"),
    };
    let connector = setting("CONNECTOR", "gmail");
    let account = env::var("ACCOUNT").ok();
    let connection = patchbay.pick(&connector, account.as_deref()).await?;
    let answer = patchbay
        .step(&connection, &setting("PROVIDER_API", ""))
        .await?;
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
    }
}
