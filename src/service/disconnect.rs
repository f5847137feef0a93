//! Disconnect.

use uuid::Uuid;

use super::connect::RETURN_WINDOW;
use super::{Connections, Error, Result};
use crate::db;
use crate::domain::UserId;
use crate::domain::{Connection, DeletionReason, State};

/// Which connection of a connector is to be ended.
#[derive(Clone, Debug)]
pub enum DisconnectTarget {
    /// This one.
    Connection(Uuid),
    /// The one of this instance.
    Instance(String),
    /// The only one there is.
    Only,
}

/// What came of a disconnect.
#[derive(Debug)]
pub struct Disconnected {
    /// The connection, disconnected.
    pub connection: Connection,
    /// Whether Nango has confirmed that it holds nothing of it any more.
    pub confirmed: bool,
}

impl Connections {
    /// Ends a connection, here at once, at Nango as soon as it answers. May be repeated.
    ///
    /// # Errors
    /// When there is no such connection, or several and none is named.
    pub async fn disconnect(
        &self,
        user: &UserId,
        connector: &str,
        target: &DisconnectTarget,
    ) -> Result<Disconnected> {
        self.nango_gateway()?;
        let id = self.resolve_target(user, connector, target).await?;
        let now = self.clock.now();
        let mut tx = self.begin().await?;
        let connection = db::lock_own(&mut tx, user, id)
            .await?
            .ok_or(Error::ConnectionNotFound)?;
        let connection = match connection.disconnected(now) {
            Some(transition) => {
                db::invalidate_attempts(&mut tx, user, id, now).await?;
                db::apply(&mut tx, &transition, None).await?
            }
            None => connection,
        };
        db::hasten_deletions(&mut tx, id, DeletionReason::Disconnected, now).await?;
        let ungranted = db::ungranted_attempt(&mut tx, user, id, now - RETURN_WINDOW).await?;
        tx.commit().await?;
        // The user may have granted what nobody has seen yet: then it goes, too.
        let seen = match ungranted {
            Some(attempt) => self.poll_uncached(attempt).await,
            None => true,
        };
        let deleted = self.delete_now(id).await?;
        Ok(Disconnected {
            connection,
            confirmed: seen && deleted,
        })
    }

    async fn resolve_target(
        &self,
        user: &UserId,
        connector: &str,
        target: &DisconnectTarget,
    ) -> Result<Uuid> {
        // A connector that has left the catalog can still be disconnected.
        let reference = self.connectors.by_reference(connector).await?;
        let unknown = || Error::ConnectorNotFound(connector.to_owned());
        let connector_id = reference.ok_or_else(unknown)?.id;
        let filter = db::Filter {
            connector_id: Some(connector_id),
            ..db::Filter::default()
        };
        let found = match target {
            DisconnectTarget::Connection(id) => {
                let own = self.find_own(user, *id).await?;
                (own.connector.id == connector_id).then_some(own.id)
            }
            DisconnectTarget::Instance(name) => {
                let asked = db::ConnectionByInstance {
                    user: user.clone(),
                    connector: connector_id,
                    name: name.clone(),
                };
                let row = self.instances.load(asked).await?;
                row.map(|row| row.id()).transpose()?
            }
            DisconnectTarget::Only => sole_connection(&self.list_all(user, &filter).await?)?
                .map(|connection| connection.id),
        };
        found.ok_or(Error::ConnectionNotFound)
    }
}

/// The one that is meant when none is named: the only one that is not ended, or the only one.
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
