//! Disconnect of connections, cancellation of attempts and removal of connections.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};

use super::connect::RETURN_WINDOW;
use super::core::Core;
use super::deletions::DeletionQueue;
use super::polls::AttemptPolls;
use super::reader::ConnectionReader;
use super::reconcile::Reconciler;
use super::{Error, Result};
use crate::db;
use crate::domain::{
    Actor, Attempt, AttemptId, Connection, ConnectionId, DeletionReason, Reason, State, UserId,
};
use crate::nango::Priority;
use crate::telemetry::TRACES;
use crate::views::ConnectionView;

/// The time for which a response waits for the list of a connection's grants.
const LIST_TIMEOUT: Duration = Duration::from_secs(2);

/// The rate limit of these lists, and its burst, while little of Nango's rate limit is left.
const LIST_INTERVAL: Duration = Duration::from_secs(2);
const LIST_BURST: NonZeroU32 = NonZeroU32::new(10).expect("10 is not 0");

/// The burst of one user's lists, which have the same rate limit.
const USER_LIST_BURST: NonZeroU32 = NonZeroU32::new(30).expect("30 is not 0");

/// The number of users whose lists are counted, beyond which those that have their whole burst again are forgotten.
const MANY_USERS: usize = 10_000;

/// The connection of a connector to disconnect.
#[derive(Clone, Debug)]
pub enum DisconnectTarget {
    /// The connection with this id.
    Connection(ConnectionId),
    /// The connection of this instance.
    Instance(String),
    /// The only connection of the connector.
    Only,
}

/// The result of a disconnect or a removal.
#[derive(Debug)]
pub struct Disconnected {
    /// The connection after the change.
    pub connection: Connection,
    /// `true` if Nango has confirmed that it has no grant of the connection.
    pub confirmed: bool,
}

/// Disconnects and removes connections, cancels attempts, and deletes their grants at Nango.
#[derive(Debug)]
pub struct DisconnectFlow {
    core: Arc<Core>,
    reader: Arc<ConnectionReader>,
    polls: Arc<AttemptPolls>,
    reconciler: Arc<Reconciler>,
    deletions: Arc<DeletionQueue>,
    /// The rate limit of lists while little of Nango's rate limit is left.
    lists: DefaultDirectRateLimiter,
    /// The rate limit of each user's lists.
    user_lists: DefaultKeyedRateLimiter<UserId>,
}

impl DisconnectFlow {
    pub(crate) fn new(
        core: Arc<Core>,
        reader: Arc<ConnectionReader>,
        (polls, reconciler): (Arc<AttemptPolls>, Arc<Reconciler>),
        deletions: Arc<DeletionQueue>,
    ) -> Self {
        let lists = Quota::with_period(LIST_INTERVAL).expect("two seconds are not 0");
        Self {
            core,
            reader,
            polls,
            reconciler,
            deletions,
            lists: RateLimiter::direct(lists.allow_burst(LIST_BURST)),
            user_lists: RateLimiter::keyed(lists.allow_burst(USER_LIST_BURST)),
        }
    }

    /// Disconnects a connection immediately, and deletes it at Nango. If Nango does not confirm the deletion, it is
    /// retried in the background. Idempotent.
    ///
    /// # Errors
    /// If there is no such connection, or there are several and `target` names none.
    #[tracing::instrument(target = TRACES, skip_all)]
    pub async fn disconnect(
        &self,
        user: &UserId,
        connector: &str,
        target: &DisconnectTarget,
        actor: Actor,
    ) -> Result<Disconnected> {
        self.core.nango_gateway()?;
        let id = self.resolve_target(user, connector, target).await?;
        let now = self.core.clock.now();
        let mut tx = self.core.begin().await?;
        let connection = db::lock_own(&mut tx, user, id)
            .await?
            .ok_or(Error::ConnectionNotFound)?;
        let connection = match connection.disconnected(now) {
            Some(transition) => {
                db::invalidate_attempts(&mut tx, user, id, now).await?;
                db::apply(&mut tx, &transition.by(actor), None).await?
            }
            None => connection,
        };
        db::hasten_deletions(&mut tx, id, DeletionReason::Disconnected, now).await?;
        let is_recent = db::has_recent_attempt(&mut tx, user, id, now - RETURN_WINDOW).await?;
        tx.commit().await?;
        let confirmed = self.delete_all_grants(user, id, is_recent).await?;
        Ok(Disconnected {
            connection,
            confirmed,
        })
    }

    /// Cancels the open attempt of a connection; with `attempt`, only if it is that one. A later grant of the attempt
    /// is deleted at Nango. Idempotent.
    ///
    /// # Errors
    /// If there is no such connection, and as the database.
    #[tracing::instrument(target = TRACES, name = "cancel_attempt", skip_all, fields(connection = %id))]
    pub async fn cancel(
        &self,
        user: &UserId,
        id: ConnectionId,
        attempt: Option<AttemptId>,
        actor: Actor,
    ) -> Result<ConnectionView> {
        self.core.nango_gateway()?;
        let details = self.reader.view(user, id).await?;
        let is_target = |newest: &Attempt| {
            attempt.is_none_or(|attempt| attempt == newest.id) && newest.outcome.is_none()
        };
        let Some(newest) = details.attempt.as_ref().filter(|newest| is_target(newest)) else {
            return Ok(details);
        };
        let mut tx = self.core.begin().await?;
        let locked = db::lock_attempt(&mut tx, user, newest.id).await?;
        let locked = locked.ok_or(Error::ConnectionNotFound)?;
        let now = self.core.clock.now();
        if let Some(transition) = locked.connection.attempt_canceled(&locked.attempt, now) {
            let transition = transition.by(actor);
            db::apply(&mut tx, &transition, Some(newest.id)).await?;
            tx.commit().await?;
            self.core.counts.attempt_ended(&locked.attempt, &transition);
            self.polls.poll_uncached(newest.id).await;
            let deleted = self.deletions.delete_now(id);
            Priority::Check.scope(deleted).await?;
        }
        self.reader.view(user, id).await
    }

    /// Removes a connection that is not connected from its user's list. Its history stays. Idempotent.
    ///
    /// # Errors
    /// If there is no such connection, or it is connected.
    #[tracing::instrument(target = TRACES, name = "remove_connection", skip_all, fields(connection = %id))]
    pub async fn remove(
        &self,
        user: &UserId,
        id: ConnectionId,
        actor: Actor,
    ) -> Result<Disconnected> {
        self.core.nango_gateway()?;
        let now = self.core.clock.now();
        let mut tx = self.core.begin().await?;
        let own = db::lock_own(&mut tx, user, id).await?;
        let mut connection = own.ok_or(Error::ConnectionNotFound)?;
        if matches!(connection.state, State::Connected { .. }) {
            return Err(Error::StillConnected);
        }
        // Webhook endpoints were notified when it was connected, so they are notified of its end.
        let ended = connection.disconnected(now);
        if let Some(ended) = ended.filter(|_| connection.connected_at.is_some()) {
            connection = db::apply(&mut tx, &ended.by(actor), None).await?;
        }
        if let Some(removed) = connection.removed(now) {
            db::invalidate_attempts(&mut tx, user, id, now).await?;
            connection = db::apply(&mut tx, &removed.by(actor), None).await?;
        }
        db::hasten_deletions(&mut tx, id, DeletionReason::Disconnected, now).await?;
        let is_recent = db::has_recent_attempt(&mut tx, user, id, now - RETURN_WINDOW).await?;
        tx.commit().await?;
        let confirmed = self.delete_all_grants(user, id, is_recent).await?;
        Ok(Disconnected {
            connection,
            confirmed,
        })
    }

    /// Runs the pending deletions of a disconnected connection. If it has a recent attempt, Nango may have grants that
    /// were not reported: these are listed before, and deleted as well. Returns whether Nango has confirmed that no
    /// grant is left.
    async fn delete_all_grants(
        &self,
        user: &UserId,
        id: ConnectionId,
        has_recent_attempt: bool,
    ) -> Result<bool> {
        let is_complete = !has_recent_attempt || self.apply_all_grants(user, id).await;
        let deleted = Priority::Check.scope(self.deletions.delete_now(id)).await?;
        Ok(deleted && is_complete)
    }

    /// Applies all grants of a disconnected connection that Nango lists, for at most [`LIST_TIMEOUT`]. Returns `true` if
    /// the list was complete, and the deletion of all of them is queued.
    async fn apply_all_grants(&self, user: &UserId, id: ConnectionId) -> bool {
        // Any client can repeat this call.
        if self.user_lists.len() > MANY_USERS {
            self.user_lists.retain_recent();
        }
        if self.user_lists.check_key(user).is_err()
            || !self.core.has_room(Priority::Sweep) && self.lists.check().is_err()
        {
            return false;
        }
        let reconciler = self.reconciler.clone();
        let list = async move { reconciler.apply_all_grants(id).await };
        let list = tokio::spawn(Priority::Check.scope(list));
        match tokio::time::timeout(LIST_TIMEOUT, list).await {
            Ok(Ok(Ok(is_complete))) => is_complete,
            Ok(Ok(Err(error))) => {
                tracing::warn!(connection = %id, %error, "could not list a connection's grants at nango");
                false
            }
            Ok(Err(_)) | Err(_) => false,
        }
    }

    async fn resolve_target(
        &self,
        user: &UserId,
        connector: &str,
        target: &DisconnectTarget,
    ) -> Result<ConnectionId> {
        // A connector that is no longer in the catalog can still be disconnected.
        let reference = self.reader.connectors.by_reference(connector).await?;
        let unknown = || Error::ConnectorNotFound(connector.to_owned());
        let connector_id = reference.ok_or_else(unknown)?.id;
        let found = match target {
            DisconnectTarget::Connection(id) => {
                let own = self.reader.find_own(user, *id).await?;
                (own.connector.id == connector_id).then_some(own.id)
            }
            DisconnectTarget::Instance(name) => {
                let own = self.reader.find_instance(user, connector_id, name).await?;
                own.map(|(connection, _)| connection.id)
            }
            DisconnectTarget::Only => {
                let mut all = self.reader.of_connector(user, connector_id).await?;
                all.retain(|connection| connection.state.reason() != Some(Reason::Removed));
                sole_connection(&all)?.map(|connection| connection.id)
            }
        };
        found.ok_or(Error::ConnectionNotFound)
    }
}

/// Returns the only connection that is not disconnected; if all are disconnected, the only one.
///
/// # Errors
/// [`Error::AmbiguousConnection`] if there are several.
fn sole_connection(all: &[Connection]) -> Result<Option<&Connection>> {
    let live: Vec<&Connection> = all
        .iter()
        .filter(|connection| !matches!(connection.state, State::Disconnected { .. }))
        .collect();
    let candidates = if live.is_empty() {
        all.iter().collect()
    } else {
        live
    };
    match candidates.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        several => Err(Error::AmbiguousConnection(
            several.iter().map(|connection| connection.id).collect(),
        )),
    }
}
