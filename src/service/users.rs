//! What is done with all of a user's connections, and with what is known of their use.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::reconcile::listed;
use super::{Connections, Result};
use crate::db;
use crate::db::token_accesses::RecordedAccess;

use crate::domain::{DeletionReason, UserId};

use crate::nango::attempt_poller::{CONNECTION_TAG, INSTALLATION_TAG, USER_TAG};

use crate::nango::{ConnectionSummary, ListConnections};

/// What came of deleting a user's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Erased {
    /// How many connections were removed here.
    pub connections: usize,
    /// Whether Nango has confirmed that it holds nothing of the user any more.
    pub confirmed: bool,
}

impl Connections {
    /// Removes all of a user's connections with their history, here and at Nango. May be repeated.
    ///
    /// # Errors
    /// As the database; what Nango does not confirm now is deleted there later.
    pub async fn erase(&self, user: &UserId) -> Result<Erased> {
        self.nango_gateway()?;
        let mut tx = self.begin_single().await?;
        let connections = db::connection_ids(&mut tx, user).await?;
        tx.commit().await?;
        for id in &connections {
            self.erase_connection(user, *id).await?;
        }
        let mut tx = self.begin_single().await?;
        db::delete_keys_of(&mut tx, user).await?;
        tx.commit().await?;
        let mut ids: BTreeSet<Uuid> = connections.iter().copied().collect();
        match self.delete_unknown(user).await {
            Ok(found) => ids.extend(found),
            Err(error) => {
                tracing::warn!(%error, "Nango could not be searched for what a deleted user left there; the sweep does it");
            }
        }
        let mut confirmed = true;
        for id in ids {
            confirmed &= self.delete_now(id).await?;
        }
        self.deletions.notify_one();
        // Also of an earlier call, and of connections whose tags do not name their user.
        let mut tx = self.begin_single().await?;
        confirmed &= !db::has_pending_erasure(&mut tx, user).await?;
        tx.commit().await?;
        // Asked again, for what was to be deleted may have been refused, today or in an earlier call.
        confirmed &=
            (self.list_nango_connections(user).await).is_ok_and(|stored| stored.is_empty());
        Ok(Erased {
            connections: connections.len(),
            confirmed,
        })
    }

    async fn erase_connection(&self, user: &UserId, id: Uuid) -> Result<()> {
        let mut tx = self.begin().await?;
        let Some(upstream) = db::lock_own_to_delete(&mut tx, user, id).await? else {
            return Ok(());
        };
        db::delete(&mut tx, user, id).await?;
        let (reason, now) = (DeletionReason::Erased, self.clock.now());
        if let Some(upstream) = &upstream {
            db::queue_deletion(&mut tx, upstream, reason, Some(user), Some(id), now).await?;
        }
        db::hasten_deletions(&mut tx, id, reason, now).await?;
        tx.commit().await?;
        Ok(())
    }

    /// What Nango holds of the user though no row said so: granted a moment ago, or left behind. Answers which
    /// connections it was granted for. A connection that a row uses is left alone, whatever Nango says of its user.
    async fn delete_unknown(&self, user: &UserId) -> Result<Vec<Uuid>> {
        let found = self.list_nango_connections(user).await?;
        let mut ids = Vec::with_capacity(found.len());
        let mut tx = self.begin().await?;
        for summary in &found {
            if db::is_in_use(&mut tx, &summary.connection_id).await? {
                continue;
            }
            let connection = summary.tags.get(CONNECTION_TAG);
            let connection = connection.and_then(|id| id.parse().ok());
            let (grant, reason) = (listed(summary), DeletionReason::Erased);
            let now = self.clock.now();
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
            (INSTALLATION_TAG.to_owned(), self.installation.to_string()),
        ];
        let filter = ListConnections {
            tags: tags.into(),
            ..ListConnections::default()
        };
        // What cannot be read may be the user's as well: then nothing is confirmed.
        let page = self.nango_gateway()?.nango.connection_page(&filter).await?;
        Ok(page.complete()?)
    }

    /// A page of who has used a connection's credentials, the newest first.
    ///
    /// # Errors
    /// When there is no such connection, and as the database.
    pub async fn token_accesses(
        &self,
        user: &UserId,
        id: Uuid,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<RecordedAccess>> {
        self.find_own(user, id).await?;
        let mut tx = self.begin_single().await?;
        let uses = db::token_accesses(&mut tx, user, id, before, limit).await?;
        tx.commit().await?;
        Ok(uses)
    }
}
