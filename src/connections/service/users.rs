//! What is done with all of a user's connections, and with what is known of their use.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::{Connections, Result};
use crate::auth::UserId;
use crate::connections::Upstream;
use crate::connections::lookups::{CONNECTION_TAG, INSTALLATION_TAG, USER_TAG};
use crate::connections::store;
use crate::connections::uses::PastUse;
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
        self.upstream()?;
        let connections = self.all_of(user, &store::Filter::default()).await?;
        for connection in &connections {
            self.erase_connection(connection.id).await?;
        }
        let mut tx = self.begin_single().await?;
        store::forget_keys_of(&mut tx, user).await?;
        tx.commit().await?;
        let mut ids: BTreeSet<Uuid> = connections.iter().map(|erased| erased.id).collect();
        match self.erase_unknown(user).await {
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
        // Asked again, for what was to be deleted may have been refused, today or in an earlier call.
        confirmed &= (self.held_of(user).await).is_ok_and(|held| held.is_empty());
        Ok(Erased {
            connections: connections.len(),
            confirmed,
        })
    }

    async fn erase_connection(&self, id: Uuid) -> Result<()> {
        let mut tx = self.begin().await?;
        let Some(connection) = store::lock(&mut tx, id).await? else {
            return Ok(());
        };
        if let Some(upstream) = connection.state.upstream() {
            let key = &connection.connector.integration_key;
            store::delete_later(&mut tx, upstream, key, Some(id), self.clock.now()).await?;
        }
        store::delete(&mut tx, id).await?;
        tx.commit().await?;
        Ok(())
    }

    /// What Nango holds of the user though no row said so: granted a moment ago, or left behind. Answers which
    /// connections it was granted for.
    async fn erase_unknown(&self, user: &UserId) -> Result<Vec<Uuid>> {
        let found = self.held_of(user).await?;
        let mut ids = Vec::with_capacity(found.len());
        let mut tx = self.begin().await?;
        for summary in &found {
            let upstream = Upstream {
                id: summary.connection_id.clone(),
                created_at: summary.created_at,
            };
            let connection = summary.tags.get(CONNECTION_TAG);
            let connection = connection.and_then(|id| id.parse().ok());
            let key = &summary.provider_config_key;
            store::delete_later(&mut tx, &upstream, key, connection, self.clock.now()).await?;
            ids.extend(connection);
        }
        tx.commit().await?;
        Ok(ids)
    }

    /// What Nango holds with a user's tags.
    async fn held_of(&self, user: &UserId) -> Result<Vec<ConnectionSummary>> {
        let tags = [
            (USER_TAG.to_owned(), user.as_str().to_owned()),
            (INSTALLATION_TAG.to_owned(), self.installation.to_string()),
        ];
        let filter = ListConnections {
            tags: tags.into(),
            ..ListConnections::default()
        };
        // What cannot be read may be the user's as well: then nothing is confirmed.
        let page = self.upstream()?.nango.connection_page(&filter).await?;
        Ok(page.complete()?)
    }

    /// A page of who has used a connection's credentials, the newest first.
    ///
    /// # Errors
    /// When there is no such connection, and as the database.
    pub async fn uses(
        &self,
        user: &UserId,
        id: Uuid,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<PastUse>> {
        self.own(user, id).await?;
        let mut tx = self.begin_single().await?;
        let uses = store::uses(&mut tx, id, before, limit).await?;
        tx.commit().await?;
        Ok(uses)
    }

    /// Returns when so many uses wait to be written down that it should be done soon.
    pub async fn uses_wanted(&self) {
        self.uses.many().await;
    }

    /// Writes down the uses that wait for it. Says how many, those that are the same as one.
    ///
    /// # Errors
    /// As the database; then they go on waiting.
    pub async fn write_uses(&self) -> Result<usize> {
        let uses = self.uses.take();
        if uses.is_empty() {
            return Ok(0);
        }
        let written = async {
            let mut tx = self.begin().await?;
            store::insert_uses(&mut tx, &uses).await?;
            tx.commit().await?;
            Ok(uses.len())
        };
        let written = written.await;
        if written.is_err() {
            self.uses.give_back(uses);
        }
        written
    }
}
