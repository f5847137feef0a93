//! Erasure of a user's data.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use tokio::time::Instant;

use super::Result;
use super::core::Core;
use super::deletions::DeletionQueue;
use super::reconcile::listed;
use crate::db;
use crate::domain::{ConnectionId, DeletionReason, UserId};
use crate::nango::attempt_poller::{CONNECTION_TAG, INSTALLATION_TAG, USER_TAG};
use crate::nango::{ConnectionSummary, ListConnections, Priority};
use crate::telemetry::TRACES;

/// How many connections are erased in one transaction.
const ERASURE_BATCH: usize = 100;

/// How long deletions at Nango are started before the answer, and how many run at once.
const ERASURE_WAIT: Duration = Duration::from_secs(2);
const PARALLEL_DELETIONS: usize = 8;

/// What came of deleting a user's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Erased {
    /// How many connections were removed here.
    pub connections: usize,
    /// How many connections at Nango wait to be deleted.
    pub pending: usize,
    /// Whether Nango has confirmed that it holds nothing of the user any more.
    pub confirmed: bool,
}

/// Erases users' data, here and at Nango.
#[derive(Debug)]
pub struct UserErasure {
    core: Arc<Core>,
    deletions: Arc<DeletionQueue>,
}

impl UserErasure {
    pub(crate) fn new(core: Arc<Core>, deletions: Arc<DeletionQueue>) -> Self {
        Self { core, deletions }
    }

    /// Removes all of a user's connections with their history, here at once, and at Nango in parallel, as far as its rate
    /// limit allows and an answer may wait. The rest is deleted in the background. May be repeated.
    ///
    /// # Errors
    /// As the database; what Nango does not confirm now is deleted there later.
    #[tracing::instrument(target = TRACES, name = "erase_user", skip_all)]
    pub async fn erase(&self, user: &UserId) -> Result<Erased> {
        Priority::Check.scope(self.erase_user(user)).await
    }

    async fn erase_user(&self, user: &UserId) -> Result<Erased> {
        self.core.nango_gateway()?;
        let mut tx = self.core.begin_single().await?;
        let connections = db::connection_ids(&mut tx, user).await?;
        tx.commit().await?;
        for batch in connections.chunks(ERASURE_BATCH) {
            let mut tx = self.core.begin().await?;
            db::erase_connections(&mut tx, user, batch, self.core.clock.now()).await?;
            tx.commit().await?;
        }
        let mut tx = self.core.begin_single().await?;
        db::delete_keys_of(&mut tx, user).await?;
        tx.commit().await?;
        let started = Instant::now();
        let mut ids: BTreeSet<ConnectionId> = connections.iter().copied().collect();
        match self.delete_unknown(user).await {
            Ok(found) => ids.extend(found),
            Err(error) => {
                tracing::warn!(%error, "nango could not be searched for other connections of an erased user");
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
        let mut tx = self.core.begin_single().await?;
        let pending = db::count_pending_erasures(&mut tx, user).await?;
        tx.commit().await?;
        // Queried again: a deletion may have been refused, now or in an earlier call, and tags may not name the user.
        let confirmed = pending == 0
            && is_deleted.iter().all(|deleted| *deleted)
            && (self.list_nango_connections(user).await).is_ok_and(|stored| stored.is_empty());
        Ok(Erased {
            connections: connections.len(),
            pending: usize::try_from(pending).unwrap_or_default(),
            confirmed,
        })
    }

    /// What Nango holds of the user though no row said so: granted a moment ago, or left behind. Answers which
    /// connections it was granted for. A connection that a row uses is left alone, whatever Nango says of its user.
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

    /// What Nango holds with a user's and this installation's tags.
    async fn list_nango_connections(&self, user: &UserId) -> Result<Vec<ConnectionSummary>> {
        let tags = [
            (USER_TAG.to_owned(), user.as_str().to_owned()),
            (
                INSTALLATION_TAG.to_owned(),
                self.core.installation.to_string(),
            ),
        ];
        let filter = ListConnections {
            tags: tags.into(),
            ..ListConnections::default()
        };
        // What cannot be read may be the user's as well: then nothing is confirmed.
        let page = self
            .core
            .nango_gateway()?
            .nango
            .connection_page(&filter)
            .await?;
        Ok(page.complete()?)
    }
}
