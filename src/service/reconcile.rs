//! Reconciles connections with Nango, whose API is authoritative.
//!
//! The webhook, a poll while a client waits, and the sweep all end here. Each signal may come first, twice, or not at
//! all.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use moka::future::Cache;
use tokio::sync::{Mutex, OwnedMutexGuard};
use uuid::Uuid;

use super::account::Identity;
use super::connect::RETURN_WINDOW;
use super::credential_check::MIN_CHECK_INTERVAL;
use super::{Connections, Result};
use crate::db;
use crate::db::{AttemptOwner, AttemptWithConnection};
use crate::domain::UserId;
use crate::domain::state_machine::Grant;
use crate::domain::{
    Account, Connection, DeletionReason, Failure, Integration, NangoConnectionRef, Reason, State,
};
use crate::nango;
use crate::nango::attempt_poller::{ATTEMPT_TAG, CONNECTION_TAG, USER_TAG};

use crate::nango::webhook::{AuthEvent, Event, Operation};

use crate::nango::{ConnectionSummary, ListConnections, Priority, Refresh};

/// How long the turns of an attempt are remembered after the last use, longer than a turn takes.
const TURN_TTL: Duration = Duration::from_secs(60);

/// How many of a user's newest attempts are polled while a client waits. The sweep covers the others: users do not
/// have so many popups open.
pub(crate) const MAX_POLLED_ATTEMPTS: u8 = 20;

/// The turns of those that apply what Nango holds for an attempt. One at a time takes a connection of the pool: where another
/// transaction has the row's lock, the others would wait for it too, with all connections there are.
#[derive(Debug)]
pub(crate) struct AttemptTurns(Cache<Uuid, Arc<Mutex<()>>>);

impl Default for AttemptTurns {
    fn default() -> Self {
        Self(Cache::builder().time_to_idle(TURN_TTL).build())
    }
}

impl AttemptTurns {
    async fn wait(&self, attempt: Uuid) -> OwnedMutexGuard<()> {
        let turn = self.0.get_with(attempt, async { Arc::default() });
        turn.await.lock_owned().await
    }
}

/// How long a grant that changes nothing is not compared with the database again.
const UNCHANGED_FOR: Duration = Duration::from_secs(30);

/// Grants that changed nothing when they were last compared with the database, by attempt. While a client waits for the attempt,
/// Nango returns them with every poll.
#[derive(Debug)]
pub(crate) struct UnchangedGrants {
    hasher: RandomState,
    grants: Cache<Uuid, u64>,
}

impl Default for UnchangedGrants {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            grants: Cache::builder().time_to_live(UNCHANGED_FOR).build(),
        }
    }
}

impl UnchangedGrants {
    fn hash(&self, found: &[ConnectionSummary]) -> u64 {
        let identity = |it: &ConnectionSummary| {
            (
                it.connection_id.clone(),
                it.provider_config_key.clone(),
                it.created_at,
                it.serial,
                it.tags.clone(),
            )
        };
        self.hasher
            .hash_one(found.iter().map(identity).collect::<Vec<_>>())
    }

    /// Whether exactly these grants of an attempt are known to change nothing.
    pub(super) async fn contains(&self, attempt: Uuid, found: &[ConnectionSummary]) -> bool {
        found.is_empty() || self.grants.get(&attempt).await == Some(self.hash(found))
    }
}

/// What became of a grant that Nango reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GrantOutcome {
    /// It changed the connection, or is deleted at Nango.
    Applied,
    /// It changes nothing, however often it is reported.
    Unchanged,
    /// It changed nothing this time.
    Deferred,
}

/// What became of a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebhookOutcome {
    /// The webhook concerned a connection or attempt of this installation, and Nango confirmed it.
    Applied,
    /// The webhook concerned nothing of this installation.
    Ignored,
}

impl Connections {
    /// Takes a verified webhook of Nango's as a hint of where to look.
    ///
    /// A signed webhook may be an old one that is sent again, to any address and any number of times. So one whose attempt
    /// or connection the database does not have causes no call to Nango, and neither does the failure of an attempt that
    /// has ended.
    ///
    /// # Errors
    /// When Nango or the database cannot be asked: then Nango should send it again.
    pub async fn handle_webhook(
        &self,
        attempt: Option<Uuid>,
        event: &Event,
    ) -> Result<WebhookOutcome> {
        let Event::Auth(event) = event else {
            return Ok(WebhookOutcome::Ignored);
        };
        self.record_received(&event.operation).await;
        // The original service's connections have no tags: their ids identify them.
        let check = async {
            match event.operation {
                Operation::Refresh if event.success => self.told_of_recovery(event).await.map(Some),
                Operation::Refresh => self.handle_refresh_webhook(event).await.map(Some),
                Operation::Deletion => self.told_of_deletion(event).await.map(Some),
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
        attempt: Option<Uuid>,
        event: &AuthEvent,
    ) -> Result<WebhookOutcome> {
        // The tags are signed, the address is not.
        let tagged = event.tags.get(ATTEMPT_TAG).and_then(|id| id.parse().ok());
        let (user, id) = match tagged.or(attempt) {
            Some(id) => match self.attempt_owner(id).await? {
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
        let known = self
            .attempts
            .load(db::AttemptById(user.clone(), id))
            .await?;
        let Some(known) = known.map(|row| row.with_connection()).transpose()? else {
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
    async fn reconnect_of(&self, event: &AuthEvent) -> Result<Option<(UserId, Uuid)>> {
        let Some(connection) = self.of_nango(event).await? else {
            return Ok(None);
        };
        let since = self.clock.now() - RETURN_WINDOW;
        let mut tx = self.begin_single().await?;
        let user = connection.user_id;
        let attempt = db::ungranted_attempt(&mut tx, &user, connection.id, since).await?;
        tx.commit().await?;
        Ok(attempt.map(|attempt| (user, attempt)))
    }

    async fn attempt_owner(&self, attempt: Uuid) -> Result<Option<AttemptOwner>> {
        let mut tx = self.begin_single().await?;
        let owner = db::attempt_owner(&mut tx, attempt).await?;
        tx.commit().await?;
        Ok(owner)
    }

    /// Refuses a webhook of an attempt that has caused too many calls in the last minute, and one that no user waits for
    /// while Nango's rate limit leaves little.
    async fn check_webhook_budget(&self, attempt: Uuid, is_open: bool) -> Result<()> {
        let upstream = self.nango_gateway()?;
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
        if self.has_room(Priority::Check) {
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
        let recently = self.clock.now() - MIN_CHECK_INTERVAL;
        let is_recent = |checked: DateTime<Utc>| checked >= recently;
        let connection = match self.of_nango(event).await? {
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
        if self.doubts.is_provider_out_of_order(connector) {
            return Ok(WebhookOutcome::Ignored);
        }
        self.require_room()?;
        let Some(_turn) = self.doubts.take_turn(connector).await else {
            return Err(nango::Error::RateLimited { retry_after: None }.into());
        };
        if let Err(error) = self.check_connection(&connection).await {
            // A check that failed must not prevent the check that the repeated webhook causes.
            let before = connection.last_checked_at;
            self.record_check(&connection, before).await?;
            return Err(error);
        }
        Ok(WebhookOutcome::Applied)
    }

    /// Handles the webhook of a refresh that succeeded after one that failed. Nango's own word is enough: it has just
    /// refreshed the credentials, so nothing is refreshed again.
    async fn told_of_recovery(&self, event: &AuthEvent) -> Result<WebhookOutcome> {
        let Some(connection) = self.of_nango(event).await? else {
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
        let nango = &self.nango_gateway()?.nango;
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
        self.end_absence(&connection).await?;
        if self.has_recovered(&connection, &found).await? {
            Ok(WebhookOutcome::Applied)
        } else {
            self.handle_refresh_webhook(event).await
        }
    }

    /// Handles the webhook of a deletion: Nango is asked for the connection by its id before anything changes.
    async fn told_of_deletion(&self, event: &AuthEvent) -> Result<WebhookOutcome> {
        let id = &event.connection_id;
        let Some(connection) = self.of_nango(event).await? else {
            return Ok(WebhookOutcome::Ignored);
        };
        self.require_room()?;
        if !self.is_missing(&connection, &[]).await? {
            return Ok(WebhookOutcome::Ignored);
        }
        let now = self.clock.now();
        self.apply_if_unchanged(&connection, None, |connection| connection.missing(id, now))
            .await?;
        Ok(WebhookOutcome::Applied)
    }

    /// Returns the connection that uses the connection of Nango's that an event names. Imported connections have no tags:
    /// they are found by Nango's id alone.
    async fn of_nango(&self, event: &AuthEvent) -> Result<Option<Connection>> {
        let nango_id = &event.connection_id;
        let mut tx = self.begin_single().await?;
        let connection = match tagged_user(&event.tags) {
            Some(user) => db::find_own_by_nango_id(&mut tx, &user, nango_id).await?,
            None => db::find_by_nango_id(&mut tx, nango_id).await?,
        };
        tx.commit().await?;
        Ok(connection)
    }

    async fn handle_grant_webhook(&self, event: &AuthEvent) -> Result<WebhookOutcome> {
        let is_new = event.operation == Operation::Creation;
        let poller = &self.nango_gateway()?.attempt_poller;
        let found = poller
            .confirm(&event.connection_id, &event.provider_config_key, is_new)
            .await?;
        let mut outcome = WebhookOutcome::Ignored;
        for summary in &found {
            // The tags that Nango confirms say which attempt it was, not those of the webhook.
            if let Some(attempt) = summary.tags.get(ATTEMPT_TAG).and_then(|id| id.parse().ok())
                && (self.apply_grant(attempt, summary).await?
                    || self.delete_erased(attempt, summary).await?)
            {
                outcome = WebhookOutcome::Applied;
            }
        }
        Ok(outcome)
    }

    /// Deletes at Nango what an attempt brought about whose user was erased meanwhile. Says whether it is such a one. What
    /// an unknown attempt brought about is kept: the database may not be the one that it was started in.
    pub(crate) async fn delete_erased(
        &self,
        attempt: Uuid,
        summary: &ConnectionSummary,
    ) -> Result<bool> {
        if !self.is_ours(summary) {
            return Ok(false);
        }
        let (grant, now) = (listed(summary), self.clock.now());
        let mut tx = self.begin().await?;
        let owner = db::attempt_owner(&mut tx, attempt).await?;
        let is_queued = matches!(owner, Some(AttemptOwner::Erased))
            && db::queue_deletion(&mut tx, &grant, DeletionReason::Erased, None, None, now).await?;
        tx.commit().await?;
        if is_queued {
            self.deletions.notify_one();
        }
        Ok(is_queued)
    }

    async fn handle_failure_webhook(
        &self,
        user: &UserId,
        id: Uuid,
        event: &AuthEvent,
    ) -> Result<WebhookOutcome> {
        let upstream = self.nango_gateway()?;
        let found = upstream.attempt_poller.fetch_attempt(id).await?;
        if !found.is_empty() {
            self.apply_grants(id, found).await?;
            return Ok(WebhookOutcome::Applied);
        }
        let failure = Failure::from_authorization_error(event.error.as_ref());
        Ok(if self.attempt_failed(user, id, &failure).await? {
            WebhookOutcome::Applied
        } else {
            WebhookOutcome::Ignored
        })
    }

    /// Asks Nango for a connection of its own id, and takes it if it is this user's.
    pub(crate) async fn find_at_nango(
        &self,
        user: &UserId,
        nango_id: &str,
    ) -> Result<Option<Connection>> {
        let filter = ListConnections {
            connection_id: Some(nango_id.to_owned()),
            ..ListConnections::default()
        };
        for summary in self.nango_gateway()?.nango.connections(&filter).await? {
            let tag = |name: &str| summary.tags.get(name);
            if tag(USER_TAG).is_some_and(|tagged| tagged == user.as_str())
                && let Some(attempt) = tag(ATTEMPT_TAG).and_then(|id| id.parse().ok())
            {
                self.apply_grant(attempt, &summary).await?;
            }
        }
        let mut tx = self.begin_single().await?;
        let connection = db::find_own_by_nango_id(&mut tx, user, nango_id).await?;
        tx.commit().await?;
        Ok(connection)
    }

    /// Takes what Nango holds for an attempt, the newest first: the others are then older and go.
    pub(super) async fn apply_grants(
        &self,
        attempt: Uuid,
        mut found: Vec<ConnectionSummary>,
    ) -> Result<bool> {
        let identity = self.unchanged_grants.hash(&found);
        found.sort_by_key(|summary| std::cmp::Reverse((summary.serial, summary.created_at)));
        let _turn = self.attempt_turns.wait(attempt).await;
        let mut outcomes = Vec::with_capacity(found.len());
        for summary in &found {
            outcomes.push(self.reconcile_grant(attempt, summary).await?);
        }
        if outcomes.iter().all(|it| *it == GrantOutcome::Unchanged) {
            self.unchanged_grants.grants.insert(attempt, identity).await;
        }
        Ok(outcomes.contains(&GrantOutcome::Applied))
    }

    /// Applies one grant that Nango confirms. Returns whether it changed anything.
    pub(crate) async fn apply_grant(
        &self,
        attempt: Uuid,
        summary: &ConnectionSummary,
    ) -> Result<bool> {
        let outcome = self.reconcile_grant(attempt, summary).await?;
        Ok(outcome == GrantOutcome::Applied)
    }

    async fn reconcile_grant(
        &self,
        attempt: Uuid,
        summary: &ConnectionSummary,
    ) -> Result<GrantOutcome> {
        // What Nango confirms names its user.
        let Some(user) = tagged_user(&summary.tags) else {
            return Ok(GrantOutcome::Unchanged);
        };
        // Not locked, for nothing is written yet.
        let asked = db::AttemptById(user.clone(), attempt);
        let found = self.attempts.load(asked).await?;
        let found = found.map(|row| row.with_connection()).transpose()?;
        let seen = self.evaluate_grant(found, summary, None);
        // Whose account it is decides what becomes of it.
        let identity = match seen {
            None => return Ok(GrantOutcome::Unchanged),
            Some((of, grant, Grant::Applied(_))) => {
                self.identify_grant(&of.connection, &grant, attempt).await
            }
            Some((of, grant, Grant::AlreadyApplied)) => {
                self.end_absence(&of.connection).await?;
                let identity = self.identify_grant(&of.connection, &grant, attempt).await;
                if identity.account.is_none() {
                    self.queue_lookup(&of.connection, attempt).await?;
                    return Ok(GrantOutcome::Unchanged);
                }
                identity
            }
            Some((_, _, Grant::Discarded)) => Identity::default(),
        };
        let account = identity.account.as_ref();
        let mut tx = self.begin().await?;
        // Evaluated again under the lock: another signal may have been faster.
        let found = db::lock_attempt(&mut tx, &user, attempt).await?;
        let Some((of, grant, mut verdict)) = self.evaluate_grant(found, summary, account) else {
            return Ok(GrantOutcome::Deferred);
        };
        match &mut verdict {
            Grant::AlreadyApplied => return Ok(GrantOutcome::Unchanged),
            Grant::Applied(transition) => {
                // The grant may belong to a connection that was queued for deletion and reauthorized since. During the
                // deletion the result is unknown; the next poll shows it.
                if !db::cancel_deletion(&mut tx, &grant.id).await? {
                    return Ok(GrantOutcome::Deferred);
                }
                Self::record_identity(&identity, &mut transition.connection);
                let written = db::apply(&mut tx, transition, Some(attempt)).await?;
                if let Some(delay) = identity.next_lookup {
                    db::queue_account_lookup(&mut tx, &written, attempt, delay).await?;
                }
            }
            Grant::Discarded => {
                // Read under the row's lock, in this transaction.
                let (reason, id) = (discard_reason(&of), Some(of.connection.id));
                let now = self.clock.now();
                if !db::queue_deletion(&mut tx, &grant, reason, Some(&user), id, now).await? {
                    return Ok(GrantOutcome::Deferred);
                }
            }
        }
        tx.commit().await?;
        if let Grant::Applied(transition) = &verdict {
            self.counts.attempt_ended(&of.attempt, transition);
        }
        self.deletions.notify_one();
        self.lookups.notify_one();
        Ok(GrantOutcome::Applied)
    }

    /// Writes what a grant says of the account and the scopes to its connection.
    fn record_identity(identity: &Identity, connection: &mut Connection) {
        identity.write_scopes(connection);
        if let Some(failure) = identity.failure.filter(|failure| !failure.is_transient)
            && connection.account.is_none()
        {
            connection.account_unknown_reason = Some(failure.reason);
        }
    }

    /// Queues the look-up of a grant that may have been repeated as another account.
    async fn queue_lookup(&self, connection: &Connection, attempt: Uuid) -> Result<()> {
        let rule = self.account_rule(connection);
        if !rule.is_some_and(|rule| rule.identifies_account()) {
            return Ok(());
        }
        let mut tx = self.begin_single().await?;
        db::queue_account_lookup(&mut tx, connection, attempt, 0.0).await?;
        tx.commit().await?;
        self.lookups.notify_one();
        Ok(())
    }

    /// What Nango holds by a grant, and what it does to the connection that it is for. `None` if it is none of ours.
    fn evaluate_grant(
        &self,
        found: Option<AttemptWithConnection>,
        summary: &ConnectionSummary,
        account: Option<&Account>,
    ) -> Option<(AttemptWithConnection, NangoConnectionRef, Grant)> {
        let of = found?;
        if !self.is_ours(summary) || !matches_attempt(summary, &of) {
            tracing::warn!(
                connection = %of.connection.id, attempt = %of.attempt.id, nango_connection = %summary.connection_id,
                "a Nango connection carries our attempt's tag but not its other marks: left alone"
            );
            return None;
        }
        let grant = NangoConnectionRef {
            integration: of.integration.clone(),
            ..listed(summary)
        };
        let verdict = (of.connection).granted(&of.attempt, &grant, account, self.clock.now());
        Some((of, grant, verdict))
    }

    /// Writes down that an attempt has failed. `false` if it had ended before.
    pub(crate) async fn attempt_failed(
        &self,
        user: &UserId,
        id: Uuid,
        failure: &Failure,
    ) -> Result<bool> {
        let mut tx = self.begin().await?;
        let Some(of) = db::lock_attempt(&mut tx, user, id).await? else {
            return Ok(false);
        };
        let now = self.clock.now();
        let Some(transition) = of.connection.attempt_failed(&of.attempt, failure, now) else {
            return Ok(false);
        };
        db::apply(&mut tx, &transition, Some(id)).await?;
        tx.commit().await?;
        self.counts.attempt_ended(&of.attempt, &transition);
        Ok(true)
    }
}

/// Why a discarded grant of an attempt is deleted at Nango.
fn discard_reason(of: &AttemptWithConnection) -> DeletionReason {
    let is_ended = matches!(of.connection.state, State::Disconnected { .. });
    if of.attempt.invalidated || is_ended {
        DeletionReason::Invalidated
    } else {
        DeletionReason::Replaced
    }
}

/// The user in the tags of a connection at Nango.
pub(crate) fn tagged_user(tags: &BTreeMap<String, String>) -> Option<UserId> {
    let user = tags.get(USER_TAG)?.clone();
    UserId::try_from(user).ok()
}

/// What Nango holds, of which no attempt of ours says with which provider it was made.
pub(crate) fn listed(summary: &ConnectionSummary) -> NangoConnectionRef {
    NangoConnectionRef {
        id: summary.connection_id.clone(),
        created_at: summary.created_at,
        serial: summary.serial,
        integration: Integration {
            key: summary.provider_config_key.clone(),
            provider: None,
        },
    }
}

/// Whether a Nango connection is what this attempt was to bring about.
fn matches_attempt(
    summary: &ConnectionSummary,
    AttemptWithConnection {
        connection,
        attempt,
        integration,
    }: &AttemptWithConnection,
) -> bool {
    let tag = |name: &str| summary.tags.get(name).map(String::as_str);
    tag(ATTEMPT_TAG) == Some(attempt.id.to_string().as_str())
        && tag(CONNECTION_TAG) == Some(connection.id.to_string().as_str())
        && tag(USER_TAG) == Some(connection.user_id.as_str())
        && summary.provider_config_key == integration.key
}
