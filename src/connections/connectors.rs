//! What connections' connectors are called.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use uuid::Uuid;

use super::{ConnectorRef, Database, store};

/// Every connector that the database has, those that have left the catalog, too. Kept in memory:
/// they change only when a replica starts.
#[derive(Debug)]
pub(super) struct Connectors {
    database: Database,
    known: RwLock<HashMap<Uuid, Arc<ConnectorRef>>>,
}

impl Connectors {
    pub(super) fn new(database: Database, known: Vec<ConnectorRef>) -> Self {
        let connectors = Self {
            database,
            known: RwLock::default(),
        };
        connectors.know(known);
        connectors
    }

    /// The connector that a row refers to; `None` if it was deleted since.
    pub(super) async fn get(&self, id: Uuid) -> sqlx::Result<Option<Arc<ConnectorRef>>> {
        if let Some(connector) = self.known(id) {
            return Ok(Some(connector));
        }
        // A newer replica has brought it.
        let mut tx = self.database.begin_single().await?;
        let all = store::connectors(&mut tx).await?;
        tx.commit().await?;
        self.know(all);
        Ok(self.known(id))
    }

    fn known(&self, id: Uuid) -> Option<Arc<ConnectorRef>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(&id).cloned()
    }

    fn know(&self, connectors: Vec<ConnectorRef>) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.extend(
            connectors
                .into_iter()
                .map(|connector| (connector.id, Arc::new(connector))),
        );
    }
}
