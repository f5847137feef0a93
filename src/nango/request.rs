//! Requests to Nango's API: admission by the rate limit, timeouts and retries.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use reqwest::Method;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap};
use secrecy::ExposeSecret;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};
use tracing::Instrument;
use url::Url;

use super::priority::Scope;
use super::{Error, Nango};
use crate::net::http_client;
use crate::telemetry;

/// The maximum size of a response, in bytes.
pub(super) const MAX_BODY_BYTES: usize = 8 * 1024 * 1024;

/// The number of retries.
const MAX_RETRIES: usize = 2;

/// The pause before the first retry. It doubles before the next one, and jitter at most doubles it.
const INITIAL_BACKOFF: Duration = Duration::from_millis(100);

/// A request that may be sent more than once.
pub(super) struct Call {
    /// The operation, as named in metrics.
    pub(super) operation: &'static str,
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) body: Option<Vec<u8>>,
    /// The maximum size of the response, in bytes.
    pub(super) max_answer: usize,
}

impl Nango {
    /// Sends a request when the rate limit admits it. Retries one that the rate limit rejected, for as long as its
    /// scope may wait, and at most for the maximum wait of one call.
    pub(super) async fn call<T: DeserializeOwned>(&self, call: Call) -> Result<T, Error> {
        let scope = Scope::current();
        let started = Instant::now();
        loop {
            let slot = self.0.budget.admit(&scope).await?;
            let answer = self.call_within(&call, &scope).await;
            let wait = match &answer {
                Err(Error::RateLimited { retry_after }) => self.0.budget.note_refusal(*retry_after),
                _ => None,
            };
            match &answer {
                Err(Error::Timeout | Error::Unreachable { .. }) => drop(slot),
                _ => slot.answered(),
            }
            let is_too_long = |wait| {
                wait > scope.wait_left() || started.elapsed() + wait > scope.priority.max_wait()
            };
            if wait.is_none_or(is_too_long) {
                return answer;
            }
        }
    }

    /// Sends a request within the timeout of one call, and retries transient errors.
    async fn call_within<T: DeserializeOwned>(
        &self,
        call: &Call,
        scope: &Scope,
    ) -> Result<T, Error> {
        let deadline = Instant::now() + self.0.timeout;
        let deadline = scope.deadline.map_or(deadline, |end| end.min(deadline));
        let backoff = ExponentialBuilder::default()
            .with_min_delay(INITIAL_BACKOFF)
            .with_max_times(MAX_RETRIES)
            .with_jitter();
        let tries = (|| self.call_with_metrics(call))
            .retry(backoff)
            .when(|error| error.is_transient() && !matches!(error, Error::RateLimited { .. }))
            .adjust(|_, pause| pause.filter(|pause| Instant::now() + *pause < deadline))
            .notify(|error, pause| {
                let (method, path) = (&call.method, call.url.path());
                tracing::warn!(%method, path, %error, ?pause, "nango request failed, will retry");
            });
        timeout_at(deadline, tries)
            .await
            .unwrap_or(Err(Error::Timeout))
    }

    async fn call_with_metrics<T: DeserializeOwned>(&self, call: &Call) -> Result<T, Error> {
        let timer = self.0.calls.begin(call.operation);
        let span = telemetry::nango_span(call.operation);
        let answer = self.send(call).instrument(span.clone()).await;
        if let Err(error) = &answer {
            telemetry::record_error(&span, error.name());
        }
        timer.end(answer.as_ref().err());
        answer
    }

    async fn send<T: DeserializeOwned>(&self, call: &Call) -> Result<T, Error> {
        let mut request = self
            .0
            .client
            .request(call.method.clone(), call.url.clone())
            .header(AUTHORIZATION, &self.0.authorization)
            .header(ACCEPT, "application/json");
        if let Some(body) = &call.body {
            request = request
                .header(CONTENT_TYPE, "application/json")
                .body(body.clone());
        }
        let mut trace = HeaderMap::new();
        telemetry::inject_context(&mut trace);
        let response = request.headers(trace).send().await?;
        let (status, headers) = (response.status(), response.headers().clone());
        self.0.budget.update(&headers);
        let body = http_client::read_body(response, call.max_answer)
            .await
            .map_err(|error| Error::from_body(status, error))?;
        if !status.is_success() {
            let secret_key = self.0.secret_key.expose_secret();
            let body = String::from_utf8_lossy(&body).replace(secret_key, "[redacted]");
            return Err(Error::from_response(status, &headers, &body));
        }
        serde_json::from_slice(&body).map_err(|error| Error::unreadable(status, &headers, &error))
    }
}

impl Call {
    pub(super) fn new(operation: &'static str, method: Method, url: Url) -> Self {
        Self {
            operation,
            method,
            url,
            body: None,
            max_answer: MAX_BODY_BYTES,
        }
    }
}
