//! Whether Nango accepts a webhook address of each session.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::nango;
use crate::nango::SessionRequest;

/// How long a refusal is remembered. After that one session tries the address again.
const REFUSAL_TTL: Duration = Duration::from_secs(10 * 60);

/// The last answer of Nango to an address in `webhook_url_override`.
#[derive(Debug, Default)]
pub(crate) struct WebhookUrls(Mutex<Option<Instant>>);

impl WebhookUrls {
    /// Returns whether Nango refused the address a short while ago. A session with it would be a call in vain.
    pub(crate) fn are_refused(&self) -> bool {
        let refused = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        refused.is_some_and(|at| at.elapsed() < REFUSAL_TTL)
    }

    /// Remembers how a session was accepted: with the address, or without it after a refusal. A refusal is logged
    /// when it begins.
    pub(crate) fn note(&self, accepted: &SessionRequest, refusal: Option<&nango::Error>) {
        let mut refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if accepted.webhook_url_override.is_some() {
            *refused = None;
        } else if let Some(error) = refusal
            && refused.replace(Instant::now()).is_none()
        {
            tracing::warn!(
                %error,
                "nango refuses the webhook url of a session: authorizations are found by polling, denials only when \
                 their session expires. Give PUBLIC_URL an address that Nango may call, admit private networks with \
                 NANGO_OUTBOUND_URL_POLICY of a self-hosted Nango, or update a Nango that does not know \
                 webhook_url_override"
            );
        }
    }
}
