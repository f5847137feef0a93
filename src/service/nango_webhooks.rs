//! Nango's webhooks: hints of where to look, which [`super::reconcile`] and the credential check confirm.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::Result;
use super::connect::RETURN_WINDOW;
use super::core::Core;
use super::credential_check::{CredentialChecker, MIN_CHECK_INTERVAL};
use super::reconcile::{Reconciler, tagged_user};
use crate::db;
use crate::db::AttemptOwner;
use crate::domain::{AttemptId, Connection, Failure, Reason, UserId};
use crate::nango;
use crate::nango::attempt_poller::ATTEMPT_TAG;
use crate::nango::webhook::{AuthEvent, Event, Operation};
use crate::nango::{Priority, Refresh};
use crate::telemetry::TRACES;

/// How often a replica writes that webhooks of one operation arrive.
const RECORD_INTERVAL: Duration = Duration::from_secs(60);

/// What became of a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebhookOutcome {
    /// The webhook concerned a connection or attempt of this installation, and Nango confirmed it.
    Applied,
    /// The webhook concerned nothing of this installation.
    Ignored,
}

/// Handles Nango's webhooks.
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

    /// Takes a verified webhook of Nango's as a hint of where to look.
    ///
    /// A signed webhook may be an old one that is sent again, to any address and any number of times. So one whose attempt
    /// or connection the database does not have causes no call to Nango, and neither does the failure of an attempt that
    /// has ended.
    ///
    /// # Errors
    /// When Nango or the database cannot be asked: then Nango should send it again.
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
        // The original service's connections have no tags: their ids identify them.
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
        // The tags are signed, the address is not.
        let tagged = event.tags.get(ATTEMPT_TAG).and_then(|id| id.parse().ok());
        let (user, id) = match tagged.or(attempt) {
            Some(id) => match self.reconciler.owner_of(id).await? {
                Some(AttemptOwner::User(owned)) => (Some(owned.user), id),
                Some(AttemptOwner::Erased) if event.success => {
                    self.check_webhook_budget(id, false).await?;
                    return self.handle_grant_webhook(event).await;
                }
                Some(AttemptOwner::Erased) => return Ok(WebhookOutcome::Ignored),
                // Nothing should come of it any more. What comes all the same names its user.
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
        let Some(known) = self.reconciler.find_attempt(&user, id).await? else {
            return Ok(WebhookOutcome::Ignored);
        };
        let is_open = known.attempt.outcome.is_none();
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

    /// Returns the newest attempt to reconnect the connection that an event names.
    async fn reconnect_of(&self, event: &AuthEvent) -> Result<Option<(UserId, AttemptId)>> {
        let Some(connection) = self.connection_of(event).await? else {
            return Ok(None);
        };
        let since = self.core.clock.now() - RETURN_WINDOW;
        let mut tx = self.core.begin_single().await?;
        let user = connection.user_id;
        let attempt = db::ungranted_attempt(&mut tx, &user, connection.id, since).await?;
        tx.commit().await?;
        Ok(attempt.map(|attempt| (user, attempt)))
    }

    /// Refuses a webhook of an attempt that has caused too many calls in the last minute, and one that no user waits for
    /// while Nango's rate limit leaves little.
    async fn check_webhook_budget(&self, attempt: AttemptId, is_open: bool) -> Result<()> {
        let upstream = self.core.nango_gateway()?;
        if !is_open {
            self.require_room()?;
        }
        if upstream.attempt_poller.counts_webhook(attempt).await {
            return Ok(());
        }
        Err(nango::Error::RateLimited { retry_after: None }.into())
    }

    /// Refuses a webhook that no user waits for while Nango's rate limit leaves little: Nango sends it again.
    fn require_room(&self) -> Result<()> {
        if self.core.has_room(Priority::Check) {
            return Ok(());
        }
        Err(nango::Error::RateLimited { retry_after: None }.into())
    }

    /// Handles the webhook of a refresh that failed. A connection that was just checked is left alone: checks cause such
    /// webhooks as well.
    ///
    /// An outage of a provider sends one webhook for each of its connections, and one check finds it. So one connection of
    /// a connector is checked at a time, and none while its provider is known to refresh no credentials.
    async fn handle_refresh_webhook(&self, event: &AuthEvent) -> Result<WebhookOutcome> {
        let recently = self.core.clock.now() - MIN_CHECK_INTERVAL;
        let is_recent = |checked: DateTime<Utc>| checked >= recently;
        let connection = match self.connection_of(event).await? {
            // What Nango refreshes, it has.
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
        let Some(_turn) = self.checks.doubts.take_turn(connector).await else {
            return Err(nango::Error::RateLimited { retry_after: None }.into());
        };
        if let Err(error) = self.checks.check_connection(&connection).await {
            // A check that failed must not prevent the check that the repeated webhook causes.
            let before = connection.last_checked_at;
            self.checks.record_check(&connection, before).await?;
            return Err(error);
        }
        Ok(WebhookOutcome::Applied)
    }

    /// Handles the webhook of a refresh that succeeded after one that failed. Nango's own word is enough: it has just
    /// refreshed the credentials, so nothing is refreshed again.
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
        let nango = &self.core.nango_gateway()?.nango;
        let found = match nango
            .connection(&stored.id, &stored.integration.key, Refresh::WhenDue)
            .await
        {
            Ok(found) => found,
            // It has failed again since.
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

    /// Handles the webhook of a deletion: Nango is asked for the connection by its id before anything changes.
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

    /// Returns the connection that uses the connection of Nango's that an event names. Imported connections have no tags:
    /// they are found by Nango's id alone.
    async fn connection_of(&self, event: &AuthEvent) -> Result<Option<Connection>> {
        let nango_id = &event.connection_id;
        let mut tx = self.core.begin_single().await?;
        let connection = match tagged_user(&event.tags) {
            Some(user) => db::find_own_by_nango_id(&mut tx, &user, nango_id).await?,
            None => db::find_by_nango_id(&mut tx, nango_id).await?,
        };
        tx.commit().await?;
        Ok(connection)
    }

    async fn handle_grant_webhook(&self, event: &AuthEvent) -> Result<WebhookOutcome> {
        let is_new = event.operation == Operation::Creation;
        let poller = &self.core.nango_gateway()?.attempt_poller;
        let found = poller
            .confirm(&event.connection_id, &event.provider_config_key, is_new)
            .await?;
        let mut outcome = WebhookOutcome::Ignored;
        for summary in &found {
            // The tags that Nango confirms say which attempt it was, not those of the webhook.
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

/// When webhooks of each operation were last recorded by this replica: `patchbay doctor` finds out from the record which
/// webhooks are switched off.
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

    /// Records that a webhook arrived. A failure is logged: the webhook itself matters more.
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
        let record = async {
            let mut tx = core.database.begin_single().await?;
            db::record_webhook(&mut tx, name).await?;
            tx.commit().await
        };
        if let Err(error) = record.await {
            tracing::warn!(%error, name, "could not record that a webhook of nango arrived");
        }
    }
}
