//! Signs, sends, retries and records webhooks.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use reqwest::StatusCode;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use crate::error::Failure;
use crate::faults::Faults;
use crate::integrations::StoredIntegration;
use crate::outbound;
use crate::query::Query;
use crate::schema::Tags;
use crate::state::App;
use crate::times;

/// An event that a webhook reports to the application.
pub(super) struct Event {
    pub(super) integration: StoredIntegration,
    pub(super) connection_id: String,
    pub(super) operation: Operation,
    pub(super) outcome: Outcome,
    pub(super) end_user: Option<Value>,
    pub(super) tags: Option<Tags>,
    /// The URL that replaces the environment's.
    pub(super) url_override: Option<String>,
}

/// The operation on a connection.
#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Operation {
    Creation,
    Override,
    Refresh,
    Deletion,
}

/// The outcome of the operation.
pub(super) enum Outcome {
    Succeeded,
    Failed {
        kind: &'static str,
        description: String,
    },
}

/// The body, with its fields in Nango's alphabetical order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    auth_mode: &'a str,
    connection_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_user: Option<&'a Value>,
    environment: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Value>,
    from: &'a str,
    operation: Operation,
    provider: &'a str,
    provider_config_key: &'a str,
    success: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<&'a Tags>,
    r#type: &'a str,
}

/// A webhook that was due, with its attempts.
#[derive(Serialize)]
pub(super) struct Delivery {
    url: String,
    body: Value,
    /// Empty if a fault dropped the webhook.
    attempts: Vec<Attempt>,
    #[serde(skip)]
    pub(super) due_at: DateTime<Utc>,
}

/// One attempt to deliver: the status, or the error.
#[derive(Serialize)]
struct Attempt {
    at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Event {
    fn body(&self) -> String {
        let error = match &self.outcome {
            Outcome::Succeeded => None,
            Outcome::Failed { kind, description } => {
                Some(json!({ "description": description, "type": kind }))
            }
        };
        let body = Body {
            auth_mode: &self.integration.auth_mode,
            connection_id: &self.connection_id,
            end_user: self.end_user.as_ref(),
            environment: "dev",
            success: error.is_none(),
            error,
            from: "nango",
            operation: self.operation,
            provider: &self.integration.provider,
            provider_config_key: &self.integration.unique_key,
            tags: self.tags.as_ref(),
            r#type: "auth",
        };
        serde_json::to_string(&body).unwrap_or_default()
    }
}

impl App {
    /// Sends the webhook of an event in the background, if its kind is enabled and there is a URL for it.
    pub(super) fn send_webhook(&self, event: &Event) {
        let faults = self.lock().faults.clone();
        if !is_on(event.operation, &faults) {
            return;
        }
        let Some(url) = event
            .url_override
            .clone()
            .or(self.config.webhook_url.clone())
        else {
            return;
        };
        let body = event.body();
        let copies = if faults.duplicate_webhooks { 2 } else { 1 };
        for _ in 0..copies {
            let delivery = self.record_delivery(&url, &body);
            if faults.drop_webhooks {
                continue;
            }
            let (app, url, body) = (self.clone(), url.clone(), body.clone());
            let delay = Duration::from_millis(faults.delay_webhooks_ms);
            self.tasks.spawn(async move {
                let sending = app.deliver(delivery, &url, body, delay);
                app.stop.run_until_cancelled(sending).await;
            });
        }
    }

    /// Records a delivery. Returns its index.
    fn record_delivery(&self, url: &str, body: &str) -> usize {
        let due_at = self.now();
        let mut state = self.lock();
        state.deliveries.push(Delivery {
            url: url.to_owned(),
            body: serde_json::from_str(body).unwrap_or_default(),
            attempts: Vec::new(),
            due_at,
        });
        state.deliveries.len() - 1
    }

    /// Sends a webhook until the response is not a 5xx, or the retries are used up.
    async fn deliver(&self, delivery: usize, url: &str, body: String, delay: Duration) {
        tokio::time::sleep(delay).await;
        let refuse_private = self.lock().faults.refuse_private_webhook_urls;
        if refuse_private && outbound::resolves_to_blocked(url).await {
            let error = "its host is not allowed, or resolves to an address that is not";
            self.note(delivery, Err(error.to_owned()));
            return;
        }
        let first = Instant::now();
        let mut retries = self.config.webhook_retries.iter();
        loop {
            let answer = self.post(url, body.clone()).await;
            let done = matches!(&answer, Ok(status) if !status.is_server_error());
            self.note(delivery, answer.map_err(|error| error.to_string()));
            match retries.next() {
                Some(after) if !done => tokio::time::sleep_until(first + *after).await,
                _ => return,
            }
        }
    }

    /// Adds an attempt to a delivery.
    fn note(&self, delivery: usize, answer: Result<StatusCode, String>) {
        let attempt = Attempt {
            at: times::javascript(self.now()),
            status: answer.as_ref().ok().map(StatusCode::as_u16),
            error: answer.err(),
        };
        if let Some(delivery) = self.lock().deliveries.get_mut(delivery) {
            delivery.attempts.push(attempt);
        }
    }

    async fn post(&self, url: &str, body: String) -> reqwest::Result<StatusCode> {
        let key = self.lock().webhook_signing_key.clone();
        let digest = aws_lc_rs::digest::digest(
            &aws_lc_rs::digest::SHA256,
            format!("{key}{body}").as_bytes(),
        );
        let hmac_key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, key.as_bytes());
        let hmac = aws_lc_rs::hmac::sign(&hmac_key, body.as_bytes());
        let request = self
            .http
            .post(url)
            .header("accept", "application/json, text/plain, */*")
            .header("content-type", "application/json")
            .header("x-nango-signature", hex::encode(digest))
            .header("x-nango-hmac-sha256", hex::encode(hmac))
            .header("user-agent", "nango/0.71.4 (sandbox)")
            .body(body);
        Ok(request.send().await?.status())
    }
}

/// Returns `true` if the environment sends webhooks of this operation. Those of reauthorizations cannot be disabled.
fn is_on(operation: Operation, faults: &Faults) -> bool {
    match operation {
        Operation::Creation | Operation::Refresh => !faults.webhook_events_off,
        Operation::Override => true,
        Operation::Deletion => faults.deletion_webhooks,
    }
}

/// `POST /environment/webhook-signing-key/rotate`
pub(super) async fn rotate_signing_key(
    State(app): State<App>,
    query: Query,
) -> Result<Response, Failure> {
    query.none()?;
    let key = Uuid::new_v4().to_string();
    app.lock().webhook_signing_key.clone_from(&key);
    Ok(Json(json!({ "data": { "webhook_signing_key": key } })).into_response())
}
