//! Erasure of a user's data.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;
use uuid::Uuid;

use super::Result;
use super::core::Core;
use super::deletions::DeletionQueue;
use super::reconcile::listed;
use crate::db;
use crate::domain::{ConnectionId, DeletionReason, UserId};
use crate::nango::attempt_poller::{CONNECTION_TAG, INSTALLATION_TAG, USER_TAG};
use crate::nango::{ConnectionSummary, ListConnections, Priority};
use crate::telemetry::TRACES;

/// The maximum number of connections that are erased in one transaction.
const ERASURE_BATCH: usize = 100;

/// The time within which deletions at Nango are started before the response.
const ERASURE_WAIT: Duration = Duration::from_secs(2);

/// The maximum number of concurrent deletions at Nango.
const PARALLEL_DELETIONS: usize = 8;

/// The outcome of erasing a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = EraseUserResponse)]
pub struct Erased {
    /// The number of deleted connections.
    pub connections: usize,
    /// The number of connections at Nango that wait to be deleted. They are deleted in the background.
    pub upstream_pending: usize,
    /// `true` if Nango has confirmed the deletions. Otherwise they are retried until Nango confirms them.
    pub upstream_deleted: bool,
}

/// Erases users' data in the database and at Nango.
#[derive(Debug)]
pub struct UserErasure {
    core: Arc<Core>,
    deletions: Arc<DeletionQueue>,
}

impl UserErasure {
    pub(crate) fn new(core: Arc<Core>, deletions: Arc<DeletionQueue>) -> Self {
        Self { core, deletions }
    }

    /// Erases all of a user's connections and their history. Deletes them at Nango concurrently, while its rate limit
    /// and the time for a response permit it. The remaining deletions run in the background. Idempotent.
    ///
    /// # Errors
    /// As the database. Deletions that Nango does not confirm are retried.
    #[tracing::instrument(target = TRACES, name = "erase_user", skip_all)]
    pub async fn erase(&self, user: &UserId) -> Result<Erased> {
        Priority::Check.scope(self.erase_user(user)).await
    }

    async fn erase_user(&self, user: &UserId) -> Result<Erased> {
        self.core.nango_gateway()?;
        let connections = db::connection_ids(&self.core.database, user).await?;
        let mut last = Some((ConnectionId(Uuid::nil()), 0));
        while let Some(accesses) = last {
            last = db::erase_token_accesses(&self.core.database, user, accesses).await?;
        }
        for batch in connections.chunks(ERASURE_BATCH) {
            let mut tx = self.core.begin().await?;
            db::erase_connections(&mut tx, user, batch, self.core.clock.now()).await?;
            tx.commit().await?;
        }
        let mut tx = self.core.begin().await?;
        db::delete_keys_of(&mut tx, user).await?;
        db::forget_user(&mut tx, user).await?;
        tx.commit().await?;
        let started = Instant::now();
        let mut ids: BTreeSet<ConnectionId> = connections.iter().copied().collect();
        match self.delete_unknown(user).await {
            Ok(found) => ids.extend(found),
            Err(error) => {
                tracing::warn!(%error, "could not list other connections of an erased user at nango");
            }
        }
        let ids: Vec<ConnectionId> = ids.into_iter().collect();
        let deletions = stream::iter(ids.clone()).map(|id| async move {
            if started.elapsed() < ERASURE_WAIT && self.core.has_room(Priority::Check) {
                self.deletions.delete_now(id).await
            } else {
                Ok(false)
            }
        });
        let deleted: Vec<Result<bool>> = deletions
            .buffer_unordered(PARALLEL_DELETIONS)
            .collect()
            .await;
        let is_deleted = deleted.into_iter().collect::<Result<Vec<bool>>>()?;
        self.core.deletions.notify_one();
        let mut tx = self.core.begin().await?;
        let pending = db::count_pending_erasures(&mut tx, user).await?;
        // The user may have started another connection meanwhile.
        let left = db::count(&mut tx, user).await?;
        tx.commit().await?;
        // Pending deletions are not enough: none is queued for a connection that a row uses. Neither is Nango's list:
        // tags may not name the user.
        let upstream_deleted = pending == 0
            && left == 0
            && is_deleted.iter().all(|deleted| *deleted)
            && (self.list_nango_connections(user).await).is_ok_and(|stored| stored.is_empty());
        Ok(Erased {
            connections: connections.len(),
            upstream_pending: usize::try_from(pending).unwrap_or_default(),
            upstream_deleted,
        })
    }

    /// Queues the deletion of the user's connections at Nango without a row: new grants and orphans. Returns the ids of
    /// the rows that they were granted for. A connection that a row uses is kept, regardless of its tags.
    async fn delete_unknown(&self, user: &UserId) -> Result<Vec<ConnectionId>> {
        let found = self.list_nango_connections(user).await?;
        let mut ids = Vec::with_capacity(found.len());
        let mut tx = self.core.begin().await?;
        for summary in &found {
            if db::is_in_use(&mut tx, &summary.connection_id).await? {
                continue;
            }
            let connection = summary.tags.get(CONNECTION_TAG);
            let connection = connection.and_then(|id| id.parse().ok());
            let (grant, reason) = (listed(summary), DeletionReason::Erased);
            let now = self.core.clock.now();
            db::queue_deletion(&mut tx, &grant, reason, Some(user), connection, now).await?;
            ids.extend(connection);
        }
        tx.commit().await?;
        Ok(ids)
    }

    /// Returns the connections at Nango with the tags of a user and this installation.
    ///
    /// # Errors
    /// As Nango, and if an entry cannot be read.
    async fn list_nango_connections(&self, user: &UserId) -> Result<Vec<ConnectionSummary>> {
        let filter = ListConnections::tagged([
            (USER_TAG, user.as_str().to_owned()),
            (INSTALLATION_TAG, self.core.installation.to_string()),
        ]);
        // An unreadable entry may be the user's. Then the erasure is not confirmed.
        let page = self.core.nango()?.connection_page(&filter).await?;
        Ok(page.complete()?)
    }
}
