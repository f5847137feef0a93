//! Reconciles connections with Nango, whose API is authoritative.
//!
//! Webhooks, a poll while a client waits, and the sweep all end here. Each signal may come first, twice, or not at
//! all.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::Result;
use super::account::{AccountIdentifier, Identity};
use super::core::Core;
use crate::db;
use crate::db::batch::BatchLoader;
use crate::db::{AttemptOwner, AttemptWithConnection};
use crate::domain::UserId;
use crate::domain::state_machine::Grant;
use crate::domain::{
    Account, AttemptId, Connection, DeletionReason, Failure, Integration, NangoConnectionRef, State,
};
use crate::nango::attempt_poller::{ATTEMPT_TAG, CONNECTION_TAG, USER_TAG};

use crate::nango::{ConnectionSummary, ListConnections};

/// How long the turns of an attempt are remembered after the last use, longer than a turn takes.
const TURN_TTL: Duration = Duration::from_secs(60);

/// The turns of those that apply what Nango holds for an attempt. One at a time takes a connection of the pool: where another
/// transaction has the row's lock, the others would wait for it too, with all connections there are.
#[derive(Debug)]
pub(crate) struct AttemptTurns(Cache<AttemptId, Arc<Mutex<()>>>);

impl Default for AttemptTurns {
    fn default() -> Self {
        Self(Cache::builder().time_to_idle(TURN_TTL).build())
    }
}

impl AttemptTurns {
    async fn wait(&self, attempt: AttemptId) -> OwnedMutexGuard<()> {
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
    grants: Cache<AttemptId, u64>,
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
    async fn contains(&self, attempt: AttemptId, found: &[ConnectionSummary]) -> bool {
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

/// Applies to connections what Nango holds of their attempts.
#[derive(Debug)]
pub(crate) struct Reconciler {
    core: Arc<Core>,
    accounts: Arc<AccountIdentifier>,
    attempts: BatchLoader<db::AttemptById>,
    turns: AttemptTurns,
    unchanged: UnchangedGrants,
}

impl Reconciler {
    pub(crate) fn new(core: Arc<Core>, accounts: Arc<AccountIdentifier>) -> Self {
        Self {
            attempts: BatchLoader::new(&core.database),
            turns: AttemptTurns::default(),
            unchanged: UnchangedGrants::default(),
            core,
            accounts,
        }
    }

    /// Polls Nango for what an attempt has brought about, at most once a second. Returns whether anything changed.
    pub(crate) async fn poll(&self, attempt: AttemptId) -> Result<bool> {
        let poller = &self.core.nango_gateway()?.attempt_poller;
        let found = poller.poll(attempt).await?.connections;
        if self.unchanged.contains(attempt, &found).await {
            return Ok(false);
        }
        self.apply_grants(attempt, found).await
    }

    /// Polls Nango without the cache. Returns whether everything that Nango has of the attempt was read.
    pub(crate) async fn poll_uncached(&self, attempt: AttemptId) -> Result<bool> {
        let poller = &self.core.nango_gateway()?.attempt_poller;
        let found = poller.poll_uncached(attempt).await?;
        self.apply_grants(attempt, found.connections).await?;
        Ok(found.is_complete)
    }

    /// Returns a user's attempt with its connection, not locked.
    pub(crate) async fn find_attempt(
        &self,
        user: &UserId,
        id: AttemptId,
    ) -> Result<Option<AttemptWithConnection>> {
        let found = self
            .attempts
            .load(db::AttemptById(user.clone(), id))
            .await?;
        Ok(found.map(|row| row.with_connection()).transpose()?)
    }

    pub(crate) async fn owner_of(&self, attempt: AttemptId) -> Result<Option<AttemptOwner>> {
        let mut tx = self.core.begin_single().await?;
        let owner = db::attempt_owner(&mut tx, attempt).await?;
        tx.commit().await?;
        Ok(owner)
    }

    /// Deletes at Nango what an attempt brought about whose user was erased meanwhile. Says whether it is such a one. What
    /// an unknown attempt brought about is kept: the database may not be the one that it was started in.
    pub(crate) async fn delete_erased(
        &self,
        attempt: AttemptId,
        summary: &ConnectionSummary,
    ) -> Result<bool> {
        if !self.core.is_ours(summary) {
            return Ok(false);
        }
        let (grant, now) = (listed(summary), self.core.clock.now());
        let mut tx = self.core.begin().await?;
        let owner = db::attempt_owner(&mut tx, attempt).await?;
        let is_queued = matches!(owner, Some(AttemptOwner::Erased))
            && db::queue_deletion(&mut tx, &grant, DeletionReason::Erased, None, None, now).await?;
        tx.commit().await?;
        if is_queued {
            self.core.deletions.notify_one();
        }
        Ok(is_queued)
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
        for summary in self
            .core
            .nango_gateway()?
            .nango
            .connections(&filter)
            .await?
        {
            let tag = |name: &str| summary.tags.get(name);
            if tag(USER_TAG).is_some_and(|tagged| tagged == user.as_str())
                && let Some(attempt) = tag(ATTEMPT_TAG).and_then(|id| id.parse().ok())
            {
                self.apply_grant(attempt, &summary).await?;
            }
        }
        let mut tx = self.core.begin_single().await?;
        let connection = db::find_own_by_nango_id(&mut tx, user, nango_id).await?;
        tx.commit().await?;
        Ok(connection)
    }

    /// Takes what Nango holds for an attempt, the newest first: the others are then older and go.
    pub(super) async fn apply_grants(
        &self,
        attempt: AttemptId,
        mut found: Vec<ConnectionSummary>,
    ) -> Result<bool> {
        let identity = self.unchanged.hash(&found);
        found.sort_by_key(|summary| std::cmp::Reverse((summary.serial, summary.created_at)));
        let _turn = self.turns.wait(attempt).await;
        let mut outcomes = Vec::with_capacity(found.len());
        for summary in &found {
            outcomes.push(self.reconcile_grant(attempt, summary).await?);
        }
        if outcomes.iter().all(|it| *it == GrantOutcome::Unchanged) {
            self.unchanged.grants.insert(attempt, identity).await;
        }
        Ok(outcomes.contains(&GrantOutcome::Applied))
    }

    /// Applies one grant that Nango confirms. Returns whether it changed anything.
    pub(crate) async fn apply_grant(
        &self,
        attempt: AttemptId,
        summary: &ConnectionSummary,
    ) -> Result<bool> {
        let outcome = self.reconcile_grant(attempt, summary).await?;
        Ok(outcome == GrantOutcome::Applied)
    }

    async fn reconcile_grant(
        &self,
        attempt: AttemptId,
        summary: &ConnectionSummary,
    ) -> Result<GrantOutcome> {
        // What Nango confirms names its user.
        let Some(user) = tagged_user(&summary.tags) else {
            return Ok(GrantOutcome::Unchanged);
        };
        // Not locked, for nothing is written yet.
        let found = self.find_attempt(&user, attempt).await?;
        let Some((of, grant, verdict)) = self.evaluate_grant(found, summary, None) else {
            return Ok(GrantOutcome::Unchanged);
        };
        let mut identity = Identity::default();
        if !matches!(verdict, Grant::Discarded) {
            let identified = (self.accounts).identify_grant(&of.connection, &grant, attempt);
            identity = identified.await;
        }
        if matches!(verdict, Grant::AlreadyApplied) {
            self.core.end_absence(&of.connection).await?;
            if identity.account.is_none() {
                self.queue_lookup(&of.connection, attempt).await?;
                return Ok(GrantOutcome::Unchanged);
            }
        }
        let account = identity.account.as_ref();
        let mut tx = self.core.begin().await?;
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
                let now = self.core.clock.now();
                if !db::queue_deletion(&mut tx, &grant, reason, Some(&user), id, now).await? {
                    return Ok(GrantOutcome::Deferred);
                }
            }
        }
        tx.commit().await?;
        if let Grant::Applied(transition) = &verdict {
            self.core.counts.attempt_ended(&of.attempt, transition);
        }
        self.core.deletions.notify_one();
        self.core.lookups.notify_one();
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
    async fn queue_lookup(&self, connection: &Connection, attempt: AttemptId) -> Result<()> {
        let rule = self.accounts.account_rule(connection);
        if !rule.is_some_and(|rule| rule.identifies_account()) {
            return Ok(());
        }
        let mut tx = self.core.begin_single().await?;
        db::queue_account_lookup(&mut tx, connection, attempt, 0.0).await?;
        tx.commit().await?;
        self.core.lookups.notify_one();
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
        if !self.core.is_ours(summary) || !matches_attempt(summary, &of) {
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
        let verdict = (of.connection).granted(&of.attempt, &grant, account, self.core.clock.now());
        Some((of, grant, verdict))
    }

    /// Writes down that an attempt has failed. `false` if it had ended before.
    pub(crate) async fn attempt_failed(
        &self,
        user: &UserId,
        id: AttemptId,
        failure: &Failure,
    ) -> Result<bool> {
        let mut tx = self.core.begin().await?;
        let Some(of) = db::lock_attempt(&mut tx, user, id).await? else {
            return Ok(false);
        };
        let now = self.core.clock.now();
        let Some(transition) = of.connection.attempt_failed(&of.attempt, failure, now) else {
            return Ok(false);
        };
        db::apply(&mut tx, &transition, Some(id)).await?;
        tx.commit().await?;
        self.core.counts.attempt_ended(&of.attempt, &transition);
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
