//! Reads of one user's connections from the database, without Nango.

use std::sync::Arc;

use super::core::Core;
use super::{Error, Result};
use crate::db;
use crate::db::batch::BatchLoader;
use crate::db::connection_health::Outage;
use crate::db::connector_cache::ConnectorCache;
use crate::domain::{Connection, ConnectionId, ConnectorId, UserId};
use crate::views::ConnectionView;

/// Reads users' own connections. Concurrent reads share statements.
#[derive(Debug)]
pub(crate) struct ConnectionReader {
    core: Arc<Core>,
    pub(crate) connectors: Arc<ConnectorCache>,
    by_id: BatchLoader<db::ConnectionById>,
    by_instance: BatchLoader<db::ConnectionByInstance>,
}

impl ConnectionReader {
    pub(crate) fn new(core: Arc<Core>, connectors: Arc<ConnectorCache>) -> Self {
        Self {
            by_id: BatchLoader::new(&core.database),
            by_instance: BatchLoader::new(&core.database),
            connectors,
            core,
        }
    }

    /// Returns a user's own connection.
    ///
    /// # Errors
    /// [`Error::ConnectionNotFound`] if the user has no such connection; as the database.
    pub(crate) async fn find_own(&self, user: &UserId, id: ConnectionId) -> Result<Connection> {
        Ok(self.find_with_attempt(user, id).await?.0)
    }

    /// Returns a user's own connection with its newest attempt.
    ///
    /// # Errors
    /// As [`ConnectionReader::find_own`].
    pub(crate) async fn find_with_attempt(
        &self,
        user: &UserId,
        id: ConnectionId,
    ) -> Result<db::ConnectionWithAttempt> {
        let row = self
            .by_id
            .load(db::ConnectionById(user.clone(), id))
            .await?;
        self.with_connector(&*row.ok_or(Error::ConnectionNotFound)?)
            .await
    }

    /// Decodes one of many rows. Returns `None` if it cannot be decoded, after logging and counting it.
    pub(crate) async fn readable(
        &self,
        row: &db::ConnectionWithAttemptRow,
    ) -> Result<Option<db::ConnectionWithAttempt>> {
        match self.with_connector(row).await {
            Err(Error::Database(error)) if Outage::of(&error).is_none() => {
                let id = row.id().map(|id| id.to_string()).unwrap_or_default();
                db::note_unreadable_row("user_connector_connection", &id, &error);
                Ok(None)
            }
            read => Ok(Some(read?)),
        }
    }

    /// Decodes a row, with its connector from the cache.
    pub(crate) async fn with_connector(
        &self,
        row: &db::ConnectionWithAttemptRow,
    ) -> Result<db::ConnectionWithAttempt> {
        let connector = self.connectors.get(row.connector()?).await?;
        // A connector is never deleted while a connection refers to it.
        Ok(row.with_attempt(connector.ok_or(Error::ConnectionNotFound)?)?)
    }

    /// Returns a user's connection of a connector and instance with its newest attempt; `None` if there is none.
    pub(crate) async fn find_instance(
        &self,
        user: &UserId,
        connector: ConnectorId,
        instance_id: &str,
    ) -> Result<Option<db::ConnectionWithAttempt>> {
        let query = db::ConnectionByInstance {
            user: user.clone(),
            connector,
            name: instance_id.to_owned(),
        };
        match self.by_instance.load(query).await? {
            Some(row) => Ok(Some(self.with_connector(&row).await?)),
            None => Ok(None),
        }
    }

    /// Returns a user's connections of a connector, newest first, without unreadable rows.
    pub(crate) async fn of_connector(
        &self,
        user: &UserId,
        connector: ConnectorId,
    ) -> Result<Vec<Connection>> {
        let rows = db::list(&self.core.database, user, Some(connector)).await?;
        let mut all = Vec::with_capacity(rows.len());
        for row in &rows {
            all.extend(self.readable(row).await?.map(|(connection, _)| connection));
        }
        Ok(all)
    }

    /// Returns a user's own connection as the API represents it.
    pub(crate) async fn view(&self, user: &UserId, id: ConnectionId) -> Result<ConnectionView> {
        let row = self
            .by_id
            .load(db::ConnectionById(user.clone(), id))
            .await?;
        let row = row.ok_or(Error::ConnectionNotFound)?;
        let (connection, attempt) = self.with_connector(&row).await?;
        Ok(ConnectionView {
            connection,
            attempt,
            same_account_as: row.same_account()?,
        })
    }
}
