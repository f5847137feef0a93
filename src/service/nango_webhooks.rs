//! Handlers of Nango's webhooks. A webhook is a hint: [`super::reconcile`] or the credential check verifies it at
//! Nango.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::connect::RETURN_WINDOW;
use super::core::Core;
use super::credential_check::{CredentialChecker, MIN_CHECK_INTERVAL};
use super::reconcile::{Reconciler, tagged_user};
use super::{Error, Result};
use crate::db::{self, AttemptOwner};
use crate::domain::{AttemptId, Connection, Failure, Reason, UserId};
use crate::nango::attempt_poller::ATTEMPT_TAG;
use crate::nango::webhook::{AuthEvent, Event, Operation};
use crate::nango::{self, Priority, Refresh};
use crate::telemetry::TRACES;

/// The minimum time between two records of received webhooks of one operation, per replica.
const RECORD_INTERVAL: Duration = Duration::from_secs(60);

/// The outcome of a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebhookOutcome {
    /// The webhook belongs to a connection or attempt of this installation, and was applied or verified at Nango.
    Applied,
    /// The webhook belongs to nothing of this installation, or changes nothing.
    Ignored,
}

/// The handler of Nango's webhooks.
#[derive(Debug)]
pub struct NangoWebhooks {
    core: Arc<Core>,
    reconciler: Arc<Reconciler>,
    checks: Arc<CredentialChecker>,
    received: ReceivedWebhooks,
}

impl NangoWebhooks {
    pub(crate) fn new(
        core: Arc<Core>,
        reconciler: Arc<Reconciler>,
        checks: Arc<CredentialChecker>,
    ) -> Self {
        Self {
            core,
            reconciler,
            checks,
            received: ReceivedWebhooks::default(),
        }
    }

    /// Handles a webhook whose signature was verified. `attempt` is the id in the webhook's URL.
    ///
    /// A signed webhook may be a replay, to any address and any number of times. A webhook therefore causes no call to
    /// Nango if the database does not have its attempt or connection. The same applies to the failure of an attempt
    /// that has ended.
    ///
    /// # Errors
    /// If Nango or the database fails, or the webhook is rate limited. Nango then retries the webhook.
    #[tracing::instrument(target = TRACES, name = "handle_nango_webhook", skip_all)]
    pub async fn handle(
        &self,
        attempt: Option<AttemptId>,
        event: &Event,
    ) -> Result<WebhookOutcome> {
        let Event::Auth(event) = event else {
            return Ok(WebhookOutcome::Ignored);
        };
        self.received.record(&self.core, &event.operation).await;
        // Connections of the FastAPI service have no tags. Nango's id identifies them.
        let check = async {
            match event.operation {
                Operation::Refresh if event.success => {
                    self.handle_recovery_webhook(event).await.map(Some)
                }
                Operation::Refresh => self.handle_refresh_webhook(event).await.map(Some),
                Operation::Deletion => self.handle_deletion_webhook(event).await.map(Some),
                _ => Ok(None),
            }
        };
        if let Some(outcome) = Priority::Check.scope(check).await? {
            return Ok(outcome);
        }
        let applied = self.handle_attempt_webhook(attempt, event);
        Priority::Connect.scope(applied).await
    }

    /// Handles the webhook of an attempt that was granted or failed.
    async fn handle_attempt_webhook(
        &self,
        attempt: Option<AttemptId>,
        event: &AuthEvent,
    ) -> Result<WebhookOutcome> {
        // The signature covers the tags but not the URL, so the tags take precedence.
        let tagged = event.tags.get(ATTEMPT_TAG).and_then(|id| id.parse().ok());
        let (user, id) = match tagged.or(attempt) {
            Some(id) => match self.reconciler.owner_of(id).await? {
                Some(AttemptOwner::User(owned)) => (Some(owned.user), id),
                Some(AttemptOwner::Erased) if event.success => {
                    self.check_webhook_budget(id, false).await?;
                    return self.handle_grant_webhook(event).await;
                }
                Some(AttemptOwner::Erased) => return Ok(WebhookOutcome::Ignored),
                // The attempt should no longer be granted. If it is granted nevertheless, its tags name the user.
                None => (tagged_user(&event.tags), id),
            },
            None if event.success => return Ok(WebhookOutcome::Ignored),
            // Without the attempt's own URL, only the failure of a reconnect identifies its owner.
            None => match self.reconnect_of(event).await? {
                Some((user, id)) => (Some(user), id),
                None => return Ok(WebhookOutcome::Ignored),
            },
        };
        let Some(user) = user else {
            return Ok(WebhookOutcome::Ignored);
        };
        let Some(found) = self.reconciler.find_attempt(&user, id).await? else {
            return Ok(WebhookOutcome::Ignored);
        };
        let is_open = found.attempt.outcome.is_none();
        if event.success {
            self.check_webhook_budget(id, is_open).await?;
            self.handle_grant_webhook(event).await
        } else if is_open {
            self.check_webhook_budget(id, is_open).await?;
            self.handle_failure_webhook(&user, id, event).await
        } else {
            Ok(WebhookOutcome::Ignored)
        }
    }

    /// Returns the newest attempt of the event's connection with its user, if it was not granted and its return window
    /// is open.
    async fn reconnect_of(&self, event: &AuthEvent) -> Result<Option<(UserId, AttemptId)>> {
        let Some(connection) = self.connection_of(event).await? else {
            return Ok(None);
        };
        let since = self.core.clock.now() - RETURN_WINDOW;
        let user = connection.user_id;
        let attempt =
            db::ungranted_attempt(&self.core.database, &user, connection.id, since).await?;
        Ok(attempt.map(|attempt| (user, attempt)))
    }

    /// Returns an error if webhooks of the attempt have caused too many calls in the last minute. If the attempt has
    /// ended, also returns an error if little of Nango's rate limit is left.
    async fn check_webhook_budget(&self, attempt: AttemptId, is_open: bool) -> Result<()> {
        let upstream = self.core.nango_gateway()?;
        if !is_open {
            self.require_room()?;
        }
        if upstream.attempt_poller.counts_webhook(attempt).await {
            return Ok(());
        }
        Err(Error::WebhookDeferred(
            "Too many webhooks of this attempt arrived within a minute",
        ))
    }

    /// Returns an error if little of Nango's rate limit is left, for a webhook that no user waits for. Nango retries
    /// it.
    fn require_room(&self) -> Result<()> {
        if self.core.has_room(Priority::Check) {
            return Ok(());
        }
        Err(nango::Error::RateLimited { retry_after: None }.into())
    }

    /// Handles the webhook of a failed refresh. A connection that was just checked is ignored, because checks cause
    /// such webhooks, too.
    ///
    /// During a provider's outage, Nango sends one webhook for each of its connections, but one check detects the
    /// outage. Therefore one connection of a connector is checked at a time, and none while an outage of its provider
    /// is cached.
    async fn handle_refresh_webhook(&self, event: &AuthEvent) -> Result<WebhookOutcome> {
        let recently = self.core.clock.now() - MIN_CHECK_INTERVAL;
        let is_recent = |checked: DateTime<Utc>| checked >= recently;
        let connection = match self.connection_of(event).await? {
            // Nango has the connection that it refreshes, so an absent one is checked again.
            Some(connection)
                if !connection.absences.is_empty()
                    || !connection.last_checked_at.is_some_and(is_recent) =>
            {
                connection
            }
            _ => return Ok(WebhookOutcome::Ignored),
        };
        let connector = connection.connector.id;
        if self.checks.doubts.is_provider_out_of_order(connector) {
            return Ok(WebhookOutcome::Ignored);
        }
        self.require_room()?;
        let Some(_lock) = self.checks.doubts.take_turn(connector).await else {
            return Err(Error::WebhookDeferred(
                "Another webhook already causes a check of a connection of this connector",
            ));
        };
        if let Err(error) = self.checks.check_connection(&connection).await {
            // A failed check must not prevent the check that the retried webhook causes.
            let before = connection.last_checked_at;
            self.checks.record_check(&connection, before).await?;
            return Err(error);
        }
        Ok(WebhookOutcome::Applied)
    }

    /// Handles the webhook of a refresh that succeeded after a failed one. Nango has just refreshed the credentials, so
    /// they are read without a forced refresh.
    async fn handle_recovery_webhook(&self, event: &AuthEvent) -> Result<WebhookOutcome> {
        let Some(connection) = self.connection_of(event).await? else {
            return Ok(WebhookOutcome::Ignored);
        };
        let is_dead = connection.state.reason() == Some(Reason::NeedsReauthorization);
        let is_absent = !connection.absences.is_empty();
        if connection.failing_since.is_none() && !is_dead && !is_absent {
            return Ok(WebhookOutcome::Ignored);
        }
        let Some(stored) = connection.state.upstream() else {
            return Ok(WebhookOutcome::Ignored);
        };
        self.require_room()?;
        let nango = self.core.nango()?;
        let found = match nango
            .connection(&stored.id, &stored.integration.key, Refresh::WhenDue)
            .await
        {
            Ok(found) => found,
            // The refresh has failed again since.
            Err(nango::Error::InvalidCredentials { .. } | nango::Error::NotFound) => {
                return Ok(WebhookOutcome::Ignored);
            }
            Err(error) => return Err(error.into()),
        };
        self.core.end_absence(&connection).await?;
        if self.checks.has_recovered(&connection, &found).await? {
            Ok(WebhookOutcome::Applied)
        } else {
            self.handle_refresh_webhook(event).await
        }
    }

    /// Handles the webhook of a deletion. Queries Nango for the connection before anything changes.
    async fn handle_deletion_webhook(&self, event: &AuthEvent) -> Result<WebhookOutcome> {
        let id = &event.connection_id;
        let Some(connection) = self.connection_of(event).await? else {
            return Ok(WebhookOutcome::Ignored);
        };
        self.require_room()?;
        if !self.checks.is_missing(&connection, &[]).await? {
            return Ok(WebhookOutcome::Ignored);
        }
        let now = self.core.clock.now();
        self.checks
            .apply_if_unchanged(&connection, None, |connection| connection.missing(id, now))
            .await?;
        Ok(WebhookOutcome::Applied)
    }

    /// Returns the connection that uses the event's connection at Nango. Imported connections have no tags, so they are
    /// found by Nango's id alone.
    async fn connection_of(&self, event: &AuthEvent) -> Result<Option<Connection>> {
        let nango_id = &event.connection_id;
        let database = &self.core.database;
        Ok(match tagged_user(&event.tags) {
            Some(user) => db::find_own_by_nango_id(database, &user, nango_id).await?,
            None => db::find_by_nango_id(database, nango_id).await?,
        })
    }

    async fn handle_grant_webhook(&self, event: &AuthEvent) -> Result<WebhookOutcome> {
        let is_new = event.operation == Operation::Creation;
        let poller = &self.core.nango_gateway()?.attempt_poller;
        let found = poller
            .confirm(&event.connection_id, &event.provider_config_key, is_new)
            .await?;
        let mut outcome = WebhookOutcome::Ignored;
        for summary in &found {
            // The attempt is read from the tags in Nango's response, not from those of the webhook.
            if let Some(attempt) = summary.tags.get(ATTEMPT_TAG).and_then(|id| id.parse().ok())
                && (self.reconciler.apply_grant(attempt, summary).await?
                    || self.reconciler.delete_erased(attempt, summary).await?)
            {
                outcome = WebhookOutcome::Applied;
            }
        }
        Ok(outcome)
    }

    async fn handle_failure_webhook(
        &self,
        user: &UserId,
        id: AttemptId,
        event: &AuthEvent,
    ) -> Result<WebhookOutcome> {
        let upstream = self.core.nango_gateway()?;
        let found = upstream.attempt_poller.fetch_attempt(id).await?;
        if !found.is_empty() {
            self.reconciler.apply_grants(id, found).await?;
            return Ok(WebhookOutcome::Applied);
        }
        let failure = Failure::from_authorization_error(event.error.as_ref());
        Ok(
            if self.reconciler.attempt_failed(user, id, &failure).await? {
                WebhookOutcome::Applied
            } else {
                WebhookOutcome::Ignored
            },
        )
    }
}

/// The times at which this replica last recorded webhooks of each operation. `patchbay doctor` detects disabled
/// webhooks from the records.
#[derive(Debug, Default)]
struct ReceivedWebhooks(Mutex<HashMap<&'static str, Instant>>);

impl ReceivedWebhooks {
    fn is_due(&self, operation: &'static str) -> bool {
        let mut recorded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let is_due = (recorded.get(operation)).is_none_or(|at| now - *at >= RECORD_INTERVAL);
        if is_due {
            recorded.insert(operation, now);
        }
        is_due
    }

    /// Records that a webhook arrived. A failure is only logged, because the webhook itself is handled anyway.
    async fn record(&self, core: &Core, operation: &Operation) {
        let name = match operation {
            Operation::Creation => "creation",
            Operation::Refresh => "refresh",
            Operation::Deletion => "deletion",
            Operation::Override | Operation::Other(_) => return,
        };
        if !self.is_due(name) {
            return;
        }
        if let Err(error) = db::record_webhook(&core.database, name).await {
            tracing::warn!(%error, name, "could not record a webhook of nango");
        }
    }
}
