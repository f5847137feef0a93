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

/// Reads users' own connections, several in one statement.
#[derive(Debug)]
pub(crate) struct ConnectionReader {
    core: Arc<Core>,
    pub(crate) connectors: Arc<ConnectorCache>,
    ones: BatchLoader<db::ConnectionById>,
    instances: BatchLoader<db::ConnectionByInstance>,
}

impl ConnectionReader {
    pub(crate) fn new(core: Arc<Core>, connectors: Arc<ConnectorCache>) -> Self {
        Self {
            ones: BatchLoader::new(&core.database),
            instances: BatchLoader::new(&core.database),
            connectors,
            core,
        }
    }

    /// A user's own connection.
    pub(crate) async fn find_own(&self, user: &UserId, id: ConnectionId) -> Result<Connection> {
        Ok(self.find_with_attempt(user, id).await?.0)
    }

    /// The same with its newest attempt.
    pub(crate) async fn find_with_attempt(
        &self,
        user: &UserId,
        id: ConnectionId,
    ) -> Result<db::ConnectionWithAttempt> {
        let one = self.ones.load(db::ConnectionById(user.clone(), id)).await?;
        self.with_connector(&*one.ok_or(Error::ConnectionNotFound)?)
            .await
    }

    /// The same of a row among many: `None`, logged and counted, if it cannot be read.
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

    /// What a row says, with what its connector is called.
    pub(crate) async fn with_connector(
        &self,
        row: &db::ConnectionWithAttemptRow,
    ) -> Result<db::ConnectionWithAttempt> {
        let connector = self.connectors.get(row.connector()?).await?;
        // Connectors are never deleted while a connection refers to them.
        Ok(row.with_attempt(connector.ok_or(Error::ConnectionNotFound)?)?)
    }

    /// A user's connection of a connector and instance, if it is there, with its newest attempt.
    pub(crate) async fn find_instance(
        &self,
        user: &UserId,
        connector: ConnectorId,
        instance_id: &str,
    ) -> Result<Option<db::ConnectionWithAttempt>> {
        let asked = db::ConnectionByInstance {
            user: user.clone(),
            connector,
            name: instance_id.to_owned(),
        };
        match self.instances.load(asked).await? {
            Some(row) => Ok(Some(self.with_connector(&row).await?)),
            None => Ok(None),
        }
    }

    /// A user's connections of a connector, the newest first.
    pub(crate) async fn of_connector(
        &self,
        user: &UserId,
        connector: ConnectorId,
    ) -> Result<Vec<Connection>> {
        let mut tx = self.core.begin_single().await?;
        let rows = db::list(&mut tx, user, Some(connector)).await?;
        tx.commit().await?;
        let mut all = Vec::with_capacity(rows.len());
        for row in &rows {
            all.extend(self.readable(row).await?.map(|(connection, _)| connection));
        }
        Ok(all)
    }

    pub(crate) async fn view(&self, user: &UserId, id: ConnectionId) -> Result<ConnectionView> {
        let row = self.ones.load(db::ConnectionById(user.clone(), id)).await?;
        let row = row.ok_or(Error::ConnectionNotFound)?;
        let (connection, attempt) = self.with_connector(&row).await?;
        Ok(ConnectionView {
            connection,
            attempt,
            same_account_as: row.same_account()?,
        })
    }
}
