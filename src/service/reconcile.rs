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
use crate::db::batch::BatchLoader;
use crate::db::{self, AttemptOwner, AttemptWithConnection};
use crate::domain::state_machine::Grant;
use crate::domain::{
    Account, AttemptId, Connection, ConnectionId, DeletionReason, Failure, Integration,
    NangoConnectionRef, State, UserId,
};
use crate::nango::attempt_poller::{ATTEMPT_TAG, CONNECTION_TAG, INSTALLATION_TAG, USER_TAG};

use crate::nango::{ConnectionSummary, ListConnections};

/// The idle time after which an attempt's lock is dropped: longer than a task holds the lock.
const LOCK_TTL: Duration = Duration::from_secs(60);

/// The locks of attempts whose grants are being applied. Only the task with an attempt's lock takes a connection from
/// the pool. Otherwise, tasks that wait for the row's lock could occupy the whole pool.
#[derive(Debug)]
pub(crate) struct AttemptLocks(Cache<AttemptId, Arc<Mutex<()>>>);

impl Default for AttemptLocks {
    fn default() -> Self {
        Self(Cache::builder().time_to_idle(LOCK_TTL).build())
    }
}

impl AttemptLocks {
    async fn lock(&self, attempt: AttemptId) -> OwnedMutexGuard<()> {
        let lock = self.0.get_with(attempt, async { Arc::default() });
        lock.await.lock_owned().await
    }
}

/// The TTL of a grant that changed nothing. Until it expires, the grant is not compared with the database again.
const UNCHANGED_TTL: Duration = Duration::from_secs(30);

/// A cache of grants that changed nothing when they were last compared with the database, by attempt. Nango returns
/// them with every poll while a client waits for the attempt.
#[derive(Debug)]
pub(crate) struct UnchangedGrants {
    hasher: RandomState,
    grants: Cache<AttemptId, u64>,
}

impl Default for UnchangedGrants {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            grants: Cache::builder().time_to_live(UNCHANGED_TTL).build(),
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

    /// Returns whether exactly these grants of an attempt changed nothing last time. No grants change nothing.
    async fn contains(&self, attempt: AttemptId, found: &[ConnectionSummary]) -> bool {
        found.is_empty() || self.grants.get(&attempt).await == Some(self.hash(found))
    }
}

/// The outcome of a grant that Nango reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GrantOutcome {
    /// The grant changed the connection, or its deletion at Nango was queued.
    Applied,
    /// The grant changes nothing, even if it is reported again.
    Unchanged,
    /// The grant changed nothing this time.
    Deferred,
}

/// The reconciler of connections with the grants that Nango stores.
#[derive(Debug)]
pub(crate) struct Reconciler {
    core: Arc<Core>,
    accounts: Arc<AccountIdentifier>,
    attempts: BatchLoader<db::AttemptById>,
    locks: AttemptLocks,
    unchanged: UnchangedGrants,
}

impl Reconciler {
    pub(crate) fn new(core: Arc<Core>, accounts: Arc<AccountIdentifier>) -> Self {
        Self {
            attempts: BatchLoader::new(&core.database),
            locks: AttemptLocks::default(),
            unchanged: UnchangedGrants::default(),
            core,
            accounts,
        }
    }

    /// Polls Nango for the grants of an attempt, at most once a second, and applies them. Returns whether anything
    /// changed.
    pub(crate) async fn poll(&self, attempt: AttemptId) -> Result<bool> {
        let poller = &self.core.nango_gateway()?.attempt_poller;
        let found = poller.poll(attempt).await?.connections;
        if self.unchanged.contains(attempt, &found).await {
            return Ok(false);
        }
        self.apply_grants(attempt, found).await
    }

    /// As [`Self::poll`], without the cache. Returns whether the result was complete.
    pub(crate) async fn poll_uncached(&self, attempt: AttemptId) -> Result<bool> {
        let poller = &self.core.nango_gateway()?.attempt_poller;
        let found = poller.poll_uncached(attempt).await?;
        self.apply_grants(attempt, found.connections).await?;
        Ok(found.is_complete)
    }

    /// Lists the connections at Nango with the tag of a row that is disconnected, and applies each to its own attempt:
    /// their deletion is queued. Returns `false` if one may be left whose deletion is not queued.
    ///
    /// # Errors
    /// As Nango and the database, and if an entry cannot be read.
    pub(crate) async fn apply_all_grants(&self, id: ConnectionId) -> Result<bool> {
        let filter = ListConnections::tagged([
            (INSTALLATION_TAG, self.core.installation.to_string()),
            (CONNECTION_TAG, id.to_string()),
        ]);
        let listed = self.core.nango()?.connection_page(&filter).await?;
        let mut listed = listed.complete()?;
        let ids: Vec<&str> = listed.iter().map(|it| it.connection_id.as_str()).collect();
        let queued = db::find_queued_deletions(&self.core.database, &ids).await?;
        listed.retain(|summary| !queued.contains(&summary.connection_id));
        let mut of_attempt: BTreeMap<AttemptId, Vec<ConnectionSummary>> = BTreeMap::new();
        let mut is_complete = true;
        for summary in listed {
            match summary.tags.get(ATTEMPT_TAG).and_then(|id| id.parse().ok()) {
                Some(attempt) => of_attempt.entry(attempt).or_default().push(summary),
                None => is_complete = false,
            }
        }
        for (attempt, found) in of_attempt {
            let outcomes = self.reconcile_grants(attempt, found).await?;
            is_complete &= !outcomes.contains(&GrantOutcome::Unchanged);
        }
        Ok(is_complete)
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
        Ok(db::attempt_owner(&self.core.database, attempt).await?)
    }

    /// Queues the deletion of an attempt's connection at Nango, if the user was erased meanwhile. Returns whether it
    /// was queued. The connection of an unknown attempt is kept, because the attempt may belong to another database.
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

    /// Queries Nango for a connection by Nango's id, and applies it if its tags name this user. Returns the connection.
    pub(crate) async fn find_at_nango(
        &self,
        user: &UserId,
        nango_id: &str,
    ) -> Result<Option<Connection>> {
        let filter = ListConnections::of_id(nango_id);
        for summary in self.core.nango()?.connections(&filter).await? {
            let tag = |name: &str| summary.tags.get(name);
            if tag(USER_TAG).is_some_and(|tagged| tagged == user.as_str())
                && let Some(attempt) = tag(ATTEMPT_TAG).and_then(|id| id.parse().ok())
            {
                self.apply_grant(attempt, &summary).await?;
            }
        }
        Ok(db::find_own_by_nango_id(&self.core.database, user, nango_id).await?)
    }

    /// Applies the grants that Nango stores for an attempt. Returns whether anything changed.
    pub(super) async fn apply_grants(
        &self,
        attempt: AttemptId,
        found: Vec<ConnectionSummary>,
    ) -> Result<bool> {
        let outcomes = self.reconcile_grants(attempt, found).await?;
        Ok(outcomes.contains(&GrantOutcome::Applied))
    }

    /// Applies the grants of an attempt. The newest is first, so that older ones are discarded. Returns their outcomes.
    async fn reconcile_grants(
        &self,
        attempt: AttemptId,
        mut found: Vec<ConnectionSummary>,
    ) -> Result<Vec<GrantOutcome>> {
        let identity = self.unchanged.hash(&found);
        found.sort_by_key(|summary| std::cmp::Reverse((summary.serial, summary.created_at)));
        let _lock = self.locks.lock(attempt).await;
        let mut outcomes = Vec::with_capacity(found.len());
        for summary in &found {
            outcomes.push(self.reconcile_grant(attempt, summary).await?);
        }
        if outcomes.iter().all(|it| *it == GrantOutcome::Unchanged) {
            self.unchanged.grants.insert(attempt, identity).await;
        }
        Ok(outcomes)
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
        // The tags in Nango's response name the user.
        let Some(user) = tagged_user(&summary.tags) else {
            return Ok(GrantOutcome::Unchanged);
        };
        // Not locked, because nothing is written yet.
        let found = self.find_attempt(&user, attempt).await?;
        let Some((target, grant, verdict)) = self.evaluate_grant(found, summary, None) else {
            return Ok(GrantOutcome::Unchanged);
        };
        let mut identity = Identity::default();
        if !matches!(verdict, Grant::Discarded) {
            let lookup = (self.accounts).identify_grant(&target.connection, &grant, attempt);
            identity = lookup.await;
        }
        if matches!(verdict, Grant::AlreadyApplied) {
            self.core.end_absence(&target.connection).await?;
            if identity.account.is_none() {
                self.queue_lookup(&target.connection, attempt).await?;
                return Ok(GrantOutcome::Unchanged);
            }
        }
        let account = identity.account.as_ref();
        let mut tx = self.core.begin().await?;
        // Evaluated again under the lock, because another signal may have been faster.
        let found = db::lock_attempt(&mut tx, &user, attempt).await?;
        let Some((target, grant, mut verdict)) = self.evaluate_grant(found, summary, account)
        else {
            return Ok(GrantOutcome::Deferred);
        };
        match &mut verdict {
            Grant::AlreadyApplied => return Ok(GrantOutcome::Unchanged),
            Grant::Applied(transition) => {
                // The grant's connection at Nango may have been queued for deletion before it was reauthorized. While
                // the deletion runs, its outcome is unknown; a later poll shows it.
                if !db::cancel_deletion(&mut tx, &grant.id).await? {
                    return Ok(GrantOutcome::Deferred);
                }
                Self::record_identity(&identity, &mut transition.connection);
                let written = match db::apply(&mut tx, transition, Some(attempt)).await {
                    Err(error) if db::is_used_by_other_row(&error) => {
                        return self.refuse_duplicate(tx, &user, attempt).await;
                    }
                    written => written?,
                };
                if let Some(delay) = identity.next_lookup {
                    db::queue_account_lookup(&mut tx, &written, attempt, delay).await?;
                }
            }
            Grant::Discarded => {
                // The reason is read in this transaction, under the row's lock.
                let (reason, id) = (discard_reason(&target), Some(target.connection.id));
                let now = self.core.clock.now();
                if !db::queue_deletion(&mut tx, &grant, reason, Some(&user), id, now).await? {
                    return Ok(GrantOutcome::Deferred);
                }
            }
        }
        tx.commit().await?;
        if let Grant::Applied(transition) = &verdict {
            self.core.counts.attempt_ended(&target.attempt, transition);
        }
        self.core.deletions.notify_one();
        self.core.lookups.notify_one();
        Ok(GrantOutcome::Applied)
    }

    /// Ends an attempt whose grant is a connection at Nango that another row of the user has. For some providers, Nango
    /// then renews the existing connection and gives it the tags of the attempt, so it must not be deleted.
    async fn refuse_duplicate(
        &self,
        failed: db::Transaction,
        user: &UserId,
        attempt: AttemptId,
    ) -> Result<GrantOutcome> {
        failed.rollback().await?;
        let failure = Failure::already_connected();
        let has_ended = self.attempt_failed(user, attempt, &failure).await?;
        Ok(if has_ended {
            GrantOutcome::Applied
        } else {
            GrantOutcome::Unchanged
        })
    }

    /// Writes a grant's scopes to the connection, and the reason if the account cannot be identified.
    fn record_identity(identity: &Identity, connection: &mut Connection) {
        identity.write_scopes(connection);
        if let Some(failure) = identity.failure.filter(|failure| !failure.is_transient)
            && connection.account.is_none()
        {
            connection.account_unknown_reason = Some(failure.reason);
        }
    }

    /// Queues an account look-up, because a repeated grant may be another account's.
    async fn queue_lookup(&self, connection: &Connection, attempt: AttemptId) -> Result<()> {
        let rule = self.accounts.account_rule(connection);
        if !rule.is_some_and(|rule| rule.identifies_account()) {
            return Ok(());
        }
        db::queue_account_lookup(&self.core.database, connection, attempt, 0.0).await?;
        self.core.lookups.notify_one();
        Ok(())
    }

    /// Returns the attempt with its connection, the grant, and its effect on the connection. Returns `None` if the
    /// attempt is unknown, or Nango's connection does not match it.
    fn evaluate_grant(
        &self,
        found: Option<AttemptWithConnection>,
        summary: &ConnectionSummary,
        account: Option<&Account>,
    ) -> Option<(AttemptWithConnection, NangoConnectionRef, Grant)> {
        let target = found?;
        if !self.core.is_ours(summary) || !matches_attempt(summary, &target) {
            tracing::warn!(
                connection = %target.connection.id, attempt = %target.attempt.id,
                nango_connection = %summary.connection_id,
                "ignored a nango connection that has an attempt's tag, but not its other tags and integration"
            );
            return None;
        }
        let grant = NangoConnectionRef {
            integration: target.integration.clone(),
            ..listed(summary)
        };
        let now = self.core.clock.now();
        let verdict = (target.connection).granted(&target.attempt, &grant, account, now);
        Some((target, grant, verdict))
    }

    /// Records that an attempt has failed. Returns `false` if the attempt had already ended or does not exist.
    pub(crate) async fn attempt_failed(
        &self,
        user: &UserId,
        id: AttemptId,
        failure: &Failure,
    ) -> Result<bool> {
        let mut tx = self.core.begin().await?;
        let Some(target) = db::lock_attempt(&mut tx, user, id).await? else {
            return Ok(false);
        };
        let now = self.core.clock.now();
        let transition = (target.connection).attempt_failed(&target.attempt, failure, now);
        let Some(transition) = transition else {
            return Ok(false);
        };
        db::apply(&mut tx, &transition, Some(id)).await?;
        tx.commit().await?;
        self.core.counts.attempt_ended(&target.attempt, &transition);
        Ok(true)
    }
}

/// Returns the reason for which a discarded grant of an attempt is deleted at Nango.
fn discard_reason(target: &AttemptWithConnection) -> DeletionReason {
    let is_disconnected = matches!(target.connection.state, State::Disconnected { .. });
    if target.attempt.invalidated || is_disconnected {
        DeletionReason::Invalidated
    } else {
        DeletionReason::Replaced
    }
}

/// Returns the user in the tags of a connection at Nango; `None` if there is no valid one.
pub(crate) fn tagged_user(tags: &BTreeMap<String, String>) -> Option<UserId> {
    let user = tags.get(USER_TAG)?.clone();
    UserId::try_from(user).ok()
}

/// Returns the reference to a listed connection. Its provider is `None`, because it is not read from Nango's list.
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

/// Returns whether a Nango connection has the tags and the integration of this attempt.
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
