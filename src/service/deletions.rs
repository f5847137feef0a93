//! The queue of connections to delete at Nango.
//!
//! A deletion is complete only when Nango, in a known environment, confirms by id that the connection no longer exists.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use futures::future::join_all;
use tokio::time::Instant;
use uuid::Uuid;

use super::core::Core;
use super::{Error, Result};
use crate::db::{self, Deletion, Transaction};
use crate::domain::{ConnectionId, DeletionReason, State, UserId};
use crate::nango::attempt_poller::{CONNECTION_TAG, INSTALLATION_TAG};
use crate::nango::{self, ConnectionSummary, Deleted, ListConnections, Priority, Refresh};
use crate::telemetry::TRACES;

/// The lease of a claimed deletion in seconds. It exceeds the timeouts of its calls to Nango.
const LEASE_SECONDS: f64 = 120.0;

/// How long a disconnect waits for a deletion that another worker has claimed.
const DELETION_WAIT: Duration = Duration::from_secs(2);

/// The interval at which a disconnect polls such a deletion.
const DELETION_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The maximum number of deletions that are claimed together and run concurrently.
const BATCH: i64 = 10;

/// The pause after Nango's rate limit left no room for a deletion.
const RATE_LIMIT_PAUSE: TimeDelta = TimeDelta::seconds(30);

/// The maximum backoff between two attempts of a deletion.
const MAX_BACKOFF: TimeDelta = TimeDelta::minutes(10);

/// The queue of connections to delete at Nango, and its worker.
#[derive(Debug)]
pub struct DeletionQueue {
    core: Arc<Core>,
}

impl DeletionQueue {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// Runs the pending deletions of a connection now, except those of replaced grants. Returns whether none is left.
    pub(crate) async fn delete_now(&self, connection: ConnectionId) -> Result<bool> {
        let end = Instant::now() + DELETION_WAIT;
        loop {
            let claimed = self.run_deletions(Some(connection)).await?;
            let (is_pending, is_claimable) =
                db::pending_deletions(&self.core.database, connection).await?;
            // If deletions are pending but none could be claimed, another worker has claimed them, or they are of
            // replaced grants, which are kept.
            if !is_claimable || claimed != Some(0) || Instant::now() >= end {
                return Ok(!is_pending);
            }
            tokio::time::sleep(DELETION_POLL_INTERVAL).await;
        }
    }

    /// Runs a batch of due deletions, if Nango's rate limit leaves room for it. Returns the number of claimed
    /// deletions. After a full batch, wakes the worker for the next one.
    ///
    /// # Errors
    /// As the database. Deletions that Nango does not confirm are retried with backoff.
    #[tracing::instrument(target = TRACES, skip_all)]
    pub async fn delete_due(&self) -> Result<usize> {
        if !self.core.has_room(Priority::Deletion) {
            return Ok(0);
        }
        let claimed = Priority::Deletion.scope(self.run_deletions(None)).await?;
        let claimed = claimed.unwrap_or_default();
        if i64::try_from(claimed) == Ok(BATCH) {
            self.core.deletions.notify_one();
        }
        Ok(claimed)
    }

    /// Waits until the worker is woken for new deletions.
    pub async fn wait(&self) {
        self.core.deletions.notified().await;
    }

    /// Claims and runs a batch of deletions: a connection's, due or not, or else due ones. Returns the number of
    /// claimed deletions; `None` if a brake stops all deletions.
    async fn run_deletions(&self, connection: Option<ConnectionId>) -> Result<Option<usize>> {
        // Nango is queried only if there is something to delete, and not within the transaction.
        if !self.core.brakes.is_environment_known() {
            let mut tx = self.core.begin().await?;
            let claimed = self.claim(&mut tx, connection).await?;
            tx.rollback().await?;
            if claimed.is_empty() {
                return Ok(Some(0));
            }
            if self.core.is_environment_foreign().await? {
                return Ok(None);
            }
        }
        let mut tx = self.core.begin().await?;
        let claimed = self.claim(&mut tx, connection).await?;
        // Compared after the claim: the database may have been restored or copied since the last comparison.
        if !claimed.is_empty() && self.core.brakes.compare_database(&mut tx).await?.is_some() {
            return Ok(None);
        }
        tx.commit().await?;
        let done = join_all(claimed.iter().map(|deletion| self.delete(deletion))).await;
        done.into_iter().collect::<Result<Vec<()>>>()?;
        Ok(Some(claimed.len()))
    }

    async fn claim(
        &self,
        tx: &mut Transaction,
        connection: Option<ConnectionId>,
    ) -> sqlx::Result<Vec<Deletion>> {
        let now = self.core.clock.now();
        db::claim_deletions(tx, connection, now, LEASE_SECONDS, BATCH).await
    }

    async fn delete(&self, deletion: &Deletion) -> Result<()> {
        let id = &deletion.nango_connection_id;
        let result = self.delete_at_nango(deletion).await;
        let database = &self.core.database;
        match result {
            Ok(()) => db::complete_deletion(database, id).await?,
            Err(error @ Error::Database(_)) => return Err(error),
            Err(error) => {
                tracing::warn!(
                    nango_connection = id, connection = ?deletion.connection_id.map(|id| id.0),
                    attempts = deletion.attempts, %error,
                    "nango has not confirmed a deletion, will retry"
                );
                let pause = match &error {
                    // The deletion was not attempted. The rate limit's next minute has room for it.
                    Error::Nango(nango::Error::RateLimited { .. }) => RATE_LIMIT_PAUSE,
                    _ => backoff(deletion.attempts),
                };
                let next = self.core.clock.now() + pause;
                db::reschedule_deletion(database, id, &error.to_string(), next).await?;
            }
        }
        Ok(())
    }

    /// Deletes a connection at Nango, in whichever integration it now is, if the reason still holds. Succeeds if Nango
    /// confirms by id that it no longer exists, or if a row uses it, so that it must not be deleted.
    async fn delete_at_nango(&self, deletion: &Deletion) -> Result<()> {
        let id = &deletion.nango_connection_id;
        let is_in_use = db::is_in_use(&self.core.database, id).await?;
        if is_in_use {
            tracing::warn!(
                nango_connection = id,
                "a connection at nango is in use and is not deleted"
            );
            return Ok(());
        }
        if deletion.reason == DeletionReason::Replaced.as_str()
            && !self.has_working_successor(deletion).await?
        {
            return Err(Error::Unconfirmed(
                "the grant that replaced it is not verified",
            ));
        }
        let nango = self.core.nango()?;
        let key = &deletion.integration_key;
        // An id that Nango generated belongs to this connection, unless this database is a copy. Otherwise the tags
        // identify the owner.
        let is_owned = !self.core.is_copy && Uuid::try_parse(id).is_ok();
        let mut is_deleted = is_owned && nango.delete_connection(id, key).await? == Deleted::Now;
        let (mut stored, mut is_foreign) = self.stored_for(deletion).await?;
        let was_stored = !stored.is_empty();
        if !stored.iter().all(|summary| self.core.is_ours(summary)) {
            self.core.brakes.verify_untagged_deletion().await?;
        }
        for summary in &stored {
            let deleted = nango.delete_connection(id, &summary.provider_config_key);
            is_deleted |= deleted.await? == Deleted::Now;
        }
        if was_stored {
            (stored, is_foreign) = self.stored_for(deletion).await?;
        }
        if !stored.is_empty()
            || !(is_deleted || is_foreign || self.core.is_unknown_to_nango(id, key).await?)
        {
            return Err(Error::Unconfirmed("nango still has the connection"));
        }
        if !was_stored && !is_deleted {
            // A wrong environment would not have the connection either, so the environment is verified. The absence
            // alone does not mean that it is wrong: the connection may have been deleted before.
            self.core.brakes.verify_deletion().await?;
        }
        Ok(())
    }

    /// Returns whether the grant that replaced this one works, or its user has disconnected the connection.
    async fn has_working_successor(&self, deletion: &Deletion) -> Result<bool> {
        let user = deletion.user_id.clone().map(UserId::try_from);
        let (Some(Ok(user)), Some(id)) = (user, deletion.connection_id) else {
            return Ok(false);
        };
        let connection = db::find_own(&self.core.database, &user, id).await?;
        let state = connection.as_ref().map(|connection| &connection.state);
        let upstream = match state {
            Some(State::Disconnected { .. }) => return Ok(true),
            Some(State::Connected { upstream }) => upstream,
            _ => return Ok(false),
        };
        let nango = self.core.nango()?;
        let key = &upstream.integration.key;
        match nango.connection(&upstream.id, key, Refresh::WhenDue).await {
            Ok(found) => Ok(!found.credentials.are_expired(self.core.clock.now())),
            Err(nango::Error::NotFound | nango::Error::InvalidCredentials { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the connections that Nango lists with the id of a pending deletion, without those of other owners. Also
    /// returns whether the id belongs to another owner in the deletion's integration.
    async fn stored_for(&self, deletion: &Deletion) -> Result<(Vec<ConnectionSummary>, bool)> {
        let filter = ListConnections::of_id(&deletion.nango_connection_id);
        let listed = self.core.nango()?.connection_page(&filter).await?;
        let listed = listed.complete()?;
        let (stored, foreign): (Vec<_>, Vec<_>) = listed
            .into_iter()
            .partition(|summary| self.matches_deletion(deletion, summary));
        let is_same_integration =
            |summary: &ConnectionSummary| summary.provider_config_key == deletion.integration_key;
        Ok((stored, foreign.iter().any(is_same_integration)))
    }

    /// Returns whether a connection at Nango may be the one to delete: its tags name no other owner. Only an id that
    /// Nango generated identifies the same connection in any integration. In a copied database, connections without
    /// tags are those of the original installation.
    fn matches_deletion(&self, deletion: &Deletion, summary: &ConnectionSummary) -> bool {
        let is = |tag: &str, ours: Option<Uuid>| {
            let tagged = summary.tags.get(tag);
            tagged.is_none_or(|tagged| ours.is_none_or(|ours| tagged.parse() == Ok(ours)))
        };
        (summary.provider_config_key == deletion.integration_key
            || Uuid::try_parse(&deletion.nango_connection_id).is_ok())
            && (!self.core.is_copy || self.core.is_ours(summary))
            && is(INSTALLATION_TAG, Some(self.core.installation.0))
            && is(CONNECTION_TAG, deletion.connection_id.map(|id| id.0))
    }
}

/// Returns the pause after this number of attempts. It starts at one second and doubles, up to [`MAX_BACKOFF`].
fn backoff(attempts: i32) -> TimeDelta {
    let exponent = u32::try_from(attempts.clamp(1, 20) - 1).unwrap_or(0);
    let pause = Duration::from_secs(1) * 2_u32.pow(exponent);
    TimeDelta::from_std(pause).map_or(MAX_BACKOFF, |pause| pause.min(MAX_BACKOFF))
}
