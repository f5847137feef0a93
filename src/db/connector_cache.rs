//! A cache of the names of connectors.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::Database;
use crate::db;
use crate::domain::{ConnectorId, ConnectorRef};

/// A cache of all connectors in the database, including those that have left the catalog. They change only when a
/// replica starts, and when Nango's integrations change.
#[derive(Debug)]
pub(crate) struct ConnectorCache {
    database: Database,
    known: RwLock<HashMap<ConnectorId, Arc<ConnectorRef>>>,
}

impl ConnectorCache {
    pub(crate) fn new(database: Database, known: Vec<ConnectorRef>) -> Self {
        let connectors = Self {
            database,
            known: RwLock::default(),
        };
        connectors.insert(known);
        connectors
    }

    /// Returns the connector of a row; `None` if it was deleted meanwhile.
    pub(crate) async fn get(&self, id: ConnectorId) -> sqlx::Result<Option<Arc<ConnectorRef>>> {
        self.find(|known| known.get(&id)).await
    }

    /// Returns the connector with this slug or id.
    pub(crate) async fn by_reference(
        &self,
        reference: &str,
    ) -> sqlx::Result<Option<Arc<ConnectorRef>>> {
        let is_named = |connector: &&Arc<ConnectorRef>| connector.is_named(reference);
        self.find(|known| known.values().find(is_named)).await
    }

    async fn find(
        &self,
        of: impl Fn(&HashMap<ConnectorId, Arc<ConnectorRef>>) -> Option<&Arc<ConnectorRef>>,
    ) -> sqlx::Result<Option<Arc<ConnectorRef>>> {
        let find = || of(&self.known.read().unwrap_or_else(PoisonError::into_inner)).cloned();
        if let Some(connector) = find() {
            return Ok(Some(connector));
        }
        // A newer replica may have added it.
        self.reload().await?;
        Ok(find())
    }

    /// Reloads all connectors.
    pub(crate) async fn reload(&self) -> sqlx::Result<()> {
        let all = db::connectors(&self.database).await?;
        self.insert(all);
        Ok(())
    }

    fn insert(&self, connectors: Vec<ConnectorRef>) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.extend(
            connectors
                .into_iter()
                .map(|connector| (connector.id, Arc::new(connector))),
        );
    }
}
