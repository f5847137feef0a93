//! Delivers queued messages: claims them, sends them without an open transaction, and records the outcome.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::rand;
use chrono::{DateTime, TimeDelta, Utc};
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Result, Webhooks, row, signing};

use crate::db::Transaction;
use crate::db::webhook_deliveries::{self, AttemptResult, Capacity, ClaimedDelivery};
use crate::db::webhook_endpoints::{self, Target};
use crate::encryption;
use crate::net::http_client;

/// The lease of a claimed queue, in seconds: longer than the timeout of an endpoint.
const LEASE_SECONDS: f64 = 60.0;

/// The maximum number of concurrent messages to an endpoint, from all replicas together: to a working endpoint, and to
/// one without a delivery since its last failure.
const MAX_CONCURRENT: i64 = 8;
const MAX_CONCURRENT_FAILING: i64 = 1;

/// The maximum number of messages that a replica sends concurrently, and of additional slow ones: to failing endpoints,
/// or without a response after `SLOW_AFTER`. Dead endpoints, each of which may take until the timeout, then leave
/// permits for the others.
const MAX_SENDS: usize = 64;
const MAX_SLOW_SENDS: usize = 512;

/// The time after which a message without a response counts as slow.
const SLOW_AFTER: Duration = Duration::from_secs(2);

/// How often a replica polls for due messages.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// The pauses after each failed attempt, in seconds. After the last one, a message is given up. They follow the
/// specification, with two more days: five days in total.
const RETRY_DELAYS_SECONDS: [i64; 11] = [
    5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400, 86_400, 86_400,
];

/// How long an endpoint may fail before it is disabled.
const DISABLE_AFTER: TimeDelta = TimeDelta::days(5);

/// The status of an endpoint that wants no further messages.
const GONE: u16 = 410;

/// The statuses whose `Retry-After` replaces the pause after a failed attempt.
const POSTPONING: [u16; 2] = [429, 503];

/// The bounds of a `Retry-After`.
const MIN_RETRY_AFTER: TimeDelta = TimeDelta::seconds(1);
const MAX_RETRY_AFTER: TimeDelta = TimeDelta::days(1);

/// How long an endpoint may postpone a message after it was queued. Later, a postponed attempt counts as failed.
const MAX_POSTPONEMENT: TimeDelta = TimeDelta::days(5);

/// The reason why there is no response to a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PostError {
    /// The message could not be sent: its address is forbidden, or its secret cannot be read.
    #[error("the message was not sent: {0}")]
    NotSent(String),
    /// The message was sent, or the endpoint could not be reached.
    #[error("the endpoint did not respond: {0}")]
    NoResponse(String),
}

impl PostError {
    /// Returns the reason without the summary.
    fn reason(&self) -> &str {
        match self {
            Self::NotSent(reason) | Self::NoResponse(reason) => reason,
        }
    }
}

/// The response of an endpoint to a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EndpointResponse {
    pub(crate) status: u16,
    /// The pause that the endpoint requests.
    retry_after: Option<TimeDelta>,
}

impl EndpointResponse {
    fn of(response: &reqwest::Response, now: DateTime<Utc>) -> Self {
        let status = response.status().as_u16();
        let header = response.headers().get(RETRY_AFTER);
        let text = header.and_then(|value| value.to_str().ok());
        Self {
            status,
            retry_after: text
                .filter(|_| POSTPONING.contains(&status))
                .and_then(|text| retry_after(text.trim(), now)),
        }
    }
}

/// Returns the pause of a `Retry-After` within its bounds: a number of seconds or a date (RFC 9110, 10.2.3).
fn retry_after(text: &str, now: DateTime<Utc>) -> Option<TimeDelta> {
    let pause = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number that is too large to parse also exceeds the maximum.
        let seconds = text.parse().unwrap_or(i64::MAX);
        TimeDelta::try_seconds(seconds).unwrap_or(MAX_RETRY_AFTER)
    } else {
        DateTime::parse_from_rfc2822(text).ok()?.to_utc() - now
    };
    Some(pause.clamp(MIN_RETRY_AFTER, MAX_RETRY_AFTER))
}

/// The permits of the messages that this replica sends.
#[derive(Debug)]
struct Sends {
    prompt: Arc<Semaphore>,
    slow: Arc<Semaphore>,
}

impl Sends {
    fn new() -> Self {
        Self {
            prompt: Arc::new(Semaphore::new(MAX_SENDS)),
            slow: Arc::new(Semaphore::new(MAX_SLOW_SENDS)),
        }
    }

    fn capacity(&self) -> Capacity {
        let left = |places: &Semaphore| i64::try_from(places.available_permits());
        Capacity {
            per_working: MAX_CONCURRENT,
            per_failing: MAX_CONCURRENT_FAILING,
            working: left(&self.prompt).unwrap_or_default(),
            failing: left(&self.slow).unwrap_or_default(),
        }
    }

    fn take(&self, claimed: &ClaimedDelivery) -> Option<OwnedSemaphorePermit> {
        let places = if claimed.is_failing {
            &self.slow
        } else {
            &self.prompt
        };
        places.clone().try_acquire_owned().ok()
    }
}

/// Decides whether messages may be sent.
pub trait DeliveryGuard: Sync {
    /// Returns whether deliveries are paused. Called before each claim, so that the result may be cached.
    fn is_paused(&self) -> impl Future<Output = bool> + Send;

    /// Returns whether the messages that this transaction has claimed may be sent. Not cached: the database may have been
    /// replaced since the last call of [`DeliveryGuard::is_paused`].
    fn permits(
        &self,
        claim: &mut Transaction,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send;
}

impl Webhooks {
    /// Sends due messages until `stop` is cancelled, as far as `guard` permits. Deliveries in progress then complete.
    pub async fn run(self: &Arc<Self>, stop: &CancellationToken, guard: &impl DeliveryGuard) {
        let mut sending = JoinSet::new();
        let sends = Sends::new();
        while !stop.is_cancelled() {
            let capacity = sends.capacity();
            let is_full = capacity.working + capacity.failing == 0;
            let claimed = if is_full || guard.is_paused().await {
                Ok(Vec::new())
            } else {
                self.claim(capacity, guard).await
            };
            match claimed {
                Ok(claimed) => {
                    for claimed in claimed {
                        let this = self.clone();
                        let (place, slow) = (sends.take(&claimed), sends.slow.clone());
                        sending.spawn(async move { this.deliver(claimed, place, slow).await });
                    }
                }
                Err(error) => tracing::warn!(%error, "webhooks: claim failed, will retry"),
            }
            tokio::select! {
                () = tokio::time::sleep(POLL_INTERVAL) => {}
                () = stop.cancelled() => {}
                Some(_) = sending.join_next() => {}
            }
            while sending.try_join_next().is_some() {}
        }
        while sending.join_next().await.is_some() {}
    }

    /// Claims due messages. Returns none, and claims none, if `guard` does not permit to send them.
    async fn claim(
        &self,
        capacity: Capacity,
        guard: &impl DeliveryGuard,
    ) -> Result<Vec<ClaimedDelivery>> {
        let mut tx = self.database.begin().await?;
        let now = self.clock.now();
        let claimed = webhook_deliveries::claim(&mut tx, now, LEASE_SECONDS, capacity).await?;
        if !claimed.is_empty() && !guard.permits(&mut tx).await? {
            return Ok(Vec::new());
        }
        tx.commit().await?;
        Ok(claimed)
    }

    /// Sends a message and records the outcome. A slow message exchanges its permit, `place`, for a slow one, if one is
    /// free.
    async fn deliver(
        &self,
        claimed: ClaimedDelivery,
        mut place: Option<OwnedSemaphorePermit>,
        slow: Arc<Semaphore>,
    ) {
        let answer = {
            let body = claimed.body.get();
            let mut posting =
                pin!(self.post(&claimed.endpoint, &claimed.target, &claimed.message, body));
            match timeout(SLOW_AFTER, posting.as_mut()).await {
                Ok(answer) => answer,
                Err(_slow) => {
                    if let Ok(slow) = slow.try_acquire_owned() {
                        place = Some(slow);
                    }
                    posting.await
                }
            }
        };
        // Leaves half of the pool to requests.
        let Ok(_turn) = self.writers.acquire().await else {
            return;
        };
        let written = match answer {
            Ok(response) if (200..300).contains(&response.status) => {
                self.mark_delivered(&claimed, response.status).await
            }
            Ok(response) => {
                let error = format!("the endpoint returned {}", response.status);
                self.mark_failed(&claimed, Some(response), &error).await
            }
            Err(error) => self.mark_failed(&claimed, None, error.reason()).await,
        };
        if let Err(error) = written {
            // The lease expires, and the message is sent again. Its id lets the receiver deduplicate it.
            tracing::warn!(endpoint = claimed.endpoint, message = claimed.message, %error,
                "webhooks: the outcome of a delivery could not be recorded");
        }
        drop(place);
    }

    /// Sends a message. The body of the response is not read.
    pub(crate) async fn post(
        &self,
        endpoint: &str,
        target: &Target,
        message: &str,
        body: &str,
    ) -> Result<EndpointResponse, PostError> {
        let not_sent = |error: &dyn fmt::Display| PostError::NotSent(error.to_string());
        let route = self.client_for(&target.url);
        let route = route.map_err(|error| not_sent(&error))?;
        let now = self.clock.now();
        let secrets = self.secrets(endpoint, target, now);
        let secrets = secrets.map_err(|error| not_sent(&error))?;
        let signatures = signatures(&secrets, message, now, body);
        let signatures = signatures.map_err(|error| not_sent(&error))?;
        let request = route
            .client
            .post(target.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", message)
            .header("webhook-timestamp", now.timestamp())
            .header("webhook-signature", signatures)
            .body(body.to_owned());
        match request.send().await {
            Ok(response) => Ok(EndpointResponse::of(&response, self.clock.now())),
            Err(error) => Err(PostError::NoResponse(http_client::describe(error))),
        }
    }

    /// Returns the secrets that sign at this time, decrypted.
    fn secrets(
        &self,
        endpoint: &str,
        target: &Target,
        now: DateTime<Utc>,
    ) -> Result<Vec<SecretString>, encryption::Error> {
        let old = target.old_secret.as_ref();
        let old = old.filter(|(_, until)| now < *until).map(|(old, _)| old);
        let stored = [Some(&target.secret), old].into_iter().flatten();
        let row = row(endpoint);
        stored
            .map(|stored| self.encryption.decrypt(&row, stored.expose_secret()))
            .collect()
    }

    async fn mark_delivered(&self, claimed: &ClaimedDelivery, status: u16) -> Result<()> {
        let now = self.clock.now();
        let mut tx = self.database.begin().await?;
        webhook_deliveries::mark_endpoint_working(&mut tx, &claimed.endpoint).await?;
        if !webhook_deliveries::lock_if_leased(&mut tx, claimed).await? {
            return Ok(());
        }
        let sent = AttemptResult {
            status: Some(status),
            error: None,
            outcome: Some("delivered"),
            counts: true,
        };
        webhook_deliveries::record_attempt(&mut tx, claimed, &sent, now).await?;
        webhook_deliveries::release(&mut tx, claimed, now).await?;
        tx.commit().await?;
        Ok(())
    }

    async fn mark_failed(
        &self,
        claimed: &ClaimedDelivery,
        response: Option<EndpointResponse>,
        error: &str,
    ) -> Result<()> {
        let now = self.clock.now();
        let status = response.map(|response| response.status);
        let postponed = response
            .and_then(|response| response.retry_after)
            .filter(|pause| now + *pause - claimed.created_at < MAX_POSTPONEMENT);
        let endpoint = claimed.endpoint.as_str();
        let mut tx = self.database.begin().await?;
        let failing_since =
            webhook_deliveries::mark_endpoint_failing(&mut tx, endpoint, now).await?;
        let off = match failing_since {
            Some(_) if status == Some(GONE) => Some("the endpoint returned 410 Gone"),
            Some(since) if now - since >= DISABLE_AFTER => {
                Some("no message was delivered for five days")
            }
            _ => None,
        };
        // The endpoint is locked before its queue, as everywhere.
        if let Some(reason) = off {
            webhook_endpoints::disable(&mut tx, endpoint, reason, now).await?;
        }
        if !webhook_deliveries::lock_if_leased(&mut tx, claimed).await? {
            return Ok(());
        }
        let backoff = usize::try_from(claimed.attempts)
            .ok()
            .and_then(|attempts| RETRY_DELAYS_SECONDS.get(attempts))
            .map(|seconds| with_jitter(*seconds));
        let pause = postponed.or(backoff);
        // A disabled endpoint loses nothing: its messages wait.
        let waits = pause.is_some() || off.is_some() || failing_since.is_none();
        let sent = AttemptResult {
            status,
            error: Some(error),
            outcome: (!waits).then_some("given_up"),
            counts: postponed.is_none(),
        };
        webhook_deliveries::record_attempt(&mut tx, claimed, &sent, now).await?;
        let due = now + pause.unwrap_or_default();
        webhook_deliveries::release(&mut tx, claimed, due).await?;
        tx.commit().await?;
        log_failure(claimed, error, off, waits);
        Ok(())
    }
}

/// Logs a failed delivery and its consequence for the message and its endpoint.
fn log_failure(claimed: &ClaimedDelivery, error: &str, off: Option<&str>, waits: bool) {
    let endpoint = claimed.endpoint.as_str();
    let (message, attempts) = (&claimed.message, claimed.attempts + 1);
    if let Some(reason) = off {
        tracing::error!(
            endpoint,
            reason,
            "webhook endpoint disabled: `patchbay webhooks enable` enables it and sends the queued messages"
        );
    } else if waits {
        tracing::warn!(
            endpoint,
            message,
            attempts,
            error,
            "webhook delivery failed, will retry"
        );
    } else {
        tracing::error!(
            endpoint,
            message,
            attempts,
            error,
            "webhook delivery given up"
        );
    }
}

/// Returns a signature by each secret, separated by spaces.
fn signatures(
    secrets: &[SecretString],
    message: &str,
    now: DateTime<Utc>,
    body: &str,
) -> Result<String, signing::InvalidSecret> {
    let signed: Result<Vec<String>, _> = secrets
        .iter()
        .map(|secret| signing::signature(secret, message, now.timestamp(), body))
        .collect();
    Ok(signed?.join(" "))
}

/// Adds up to a fifth, so that messages that failed together are not retried together.
fn with_jitter(seconds: i64) -> TimeDelta {
    let mut random = [0; 2];
    // Without randomness there is no jitter, which is harmless.
    let _ = rand::fill(&mut random);
    let share = i64::from(u16::from_be_bytes(random));
    TimeDelta::milliseconds(seconds * 1000 + seconds * 200 * share / i64::from(u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_in_both_forms_and_bounded() {
        let now = DateTime::from_timestamp(784_111_777, 0).unwrap_or_default();
        let seconds = |text| retry_after(text, now).map(|pause| pause.num_seconds());
        assert_eq!(seconds("120"), Some(120));
        assert_eq!(seconds("0"), Some(1));
        for beyond in ["86401", "99999999999999999", "99999999999999999999999999"] {
            assert_eq!(seconds(beyond), Some(86_400), "{beyond}");
        }
        assert_eq!(seconds("Sun, 06 Nov 1994 08:50:37 GMT"), Some(60));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:40:00 GMT"), Some(1));
        assert_eq!(seconds("Sat, 06 Nov 2094 08:40:00 GMT"), Some(86_400));
        for unreadable in ["", "-1", "+5", "1.5", "soon", "1 2"] {
            assert_eq!(seconds(unreadable), None, "{unreadable}");
        }
    }
}
