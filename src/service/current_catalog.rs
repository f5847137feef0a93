//! The current catalog: the listed connectors, and connectors for the integrations that are configured at Nango.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use chrono::{DateTime, Utc};

use super::core::Core;
use super::{Error, Result};
use crate::catalog::{Catalog, CatalogMode, ConfiguredIntegration, Connector};
use crate::db;
use crate::db::connector_cache::ConnectorCache;
use crate::domain::{Connection, ConnectorId};
use crate::nango::integration_cache::Integrations;
use crate::telemetry::TRACES;

/// The listed connectors, and the newest catalog that was built from them.
#[derive(Debug)]
pub struct CurrentCatalog {
    core: Arc<Core>,
    connectors: Arc<ConnectorCache>,
    listed: Arc<Catalog>,
    mode: CatalogMode,
    newest: RwLock<Newest>,
    /// Locked by the update in progress.
    updating: tokio::sync::Mutex<()>,
}

#[derive(Clone, Debug)]
struct Newest {
    catalog: Arc<Catalog>,
    /// The integrations from which it was built; `None` before Nango's first response.
    integrations: Option<Integrations>,
}

/// A snapshot of the catalog and of the configured integrations.
#[derive(Debug)]
pub struct CatalogView {
    /// All connectors.
    pub catalog: Arc<Catalog>,
    mode: CatalogMode,
    integrations: Option<Integrations>,
}

impl CatalogView {
    /// Returns whether Nango has an integration for a connector; `None` if the integrations could not be read.
    pub fn is_configured(&self, connector: &Connector) -> Option<bool> {
        let integrations = self.integrations.as_ref()?;
        Some(integrations.contains_key(&connector.integration_key))
    }

    /// Returns whether users are offered a connector.
    pub fn is_offered(&self, connector: &Connector) -> bool {
        match self.mode {
            CatalogMode::Listed | CatalogMode::All => true,
            CatalogMode::Configured => self.is_configured(connector) != Some(false),
        }
    }
}

impl CurrentCatalog {
    pub(crate) fn new(
        core: Arc<Core>,
        connectors: Arc<ConnectorCache>,
        listed: Arc<Catalog>,
        mode: CatalogMode,
    ) -> Self {
        let newest = Newest {
            catalog: listed.clone(),
            integrations: None,
        };
        Self {
            core,
            connectors,
            listed,
            mode,
            newest: RwLock::new(newest),
            updating: tokio::sync::Mutex::default(),
        }
    }

    fn newest(&self) -> Newest {
        let newest = self.newest.read();
        newest.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the newest catalog, without a call to Nango.
    pub fn current(&self) -> Arc<Catalog> {
        self.newest().catalog
    }

    /// Returns the integrations from which the newest catalog was built, without a call to Nango.
    pub(crate) fn integrations(&self) -> Option<Integrations> {
        self.newest().integrations
    }

    /// Returns the catalog with the integrations that Nango last listed. Calls Nango only if it has listed none yet, or
    /// in the background.
    #[tracing::instrument(target = TRACES, name = "view_catalog", skip_all)]
    pub async fn view(&self) -> CatalogView {
        let integrations = match &self.core.upstream {
            Some(upstream) => upstream.integrations.all().await.map_err(|error| {
                tracing::warn!(%error, "could not list nango's integrations");
            }),
            None => Err(()),
        };
        if let Ok(integrations) = &integrations {
            self.update(integrations).await;
        }
        CatalogView {
            catalog: self.current(),
            mode: self.mode,
            integrations: integrations.ok(),
        }
    }

    /// Reads the integrations from Nango, so that a new one is in the catalog without a restart.
    ///
    /// # Errors
    /// As Nango.
    #[tracing::instrument(target = TRACES, name = "refresh_catalog", skip_all)]
    pub async fn refresh(&self) -> Result<()> {
        let integrations = self.core.nango_gateway()?.integrations.refreshed().await?;
        self.update(&integrations).await;
        Ok(())
    }

    /// Returns a connector by id or slug. If it is unknown, reads the integrations again, because it may be a new one.
    ///
    /// # Errors
    /// [`Error::ConnectorNotFound`].
    pub async fn connector(&self, reference: &str) -> Result<Connector> {
        let find = || self.current().get(reference).cloned();
        if let Some(connector) = find() {
            return Ok(connector);
        }
        if self.mode != CatalogMode::Listed
            && let Err(error) = self.refresh().await
        {
            tracing::debug!(%error, "could not refresh the integrations");
        }
        find().ok_or_else(|| Error::ConnectorNotFound(reference.to_owned()))
    }

    /// Rebuilds the catalog if the integrations have changed since it was built.
    async fn update(&self, integrations: &Integrations) {
        let is_current = || {
            let built_from = self.newest().integrations;
            built_from.is_some_and(|it| Arc::ptr_eq(&it, integrations))
        };
        if is_current() {
            return;
        }
        let _update = self.updating.lock().await;
        if is_current() {
            return;
        }
        let all = integrations.values();
        let configured: Vec<ConfiguredIntegration> = all
            .filter(|_| self.mode != CatalogMode::Listed)
            .map(|integration| ConfiguredIntegration {
                key: integration.unique_key.clone(),
                provider: integration.provider.clone(),
                display_name: integration.display_name.clone(),
            })
            .collect();
        let catalog = Arc::new(self.listed.with_integrations(&configured));
        // Connections refer to their connector's row, so it must exist before the connector is offered.
        if let Err(error) = self.write_integrations(&catalog).await {
            tracing::warn!(%error, "could not write new connectors to the database, will retry");
            return;
        }
        let newest = Newest {
            catalog,
            integrations: Some(integrations.clone()),
        };
        *self.newest.write().unwrap_or_else(PoisonError::into_inner) = newest;
    }

    async fn write_integrations(&self, catalog: &Catalog) -> Result<()> {
        let new: Vec<&Connector> = catalog.iter().filter(|it| !it.is_listed).collect();
        if new.is_empty() {
            return Ok(());
        }
        db::write_connectors(&self.core.database, &new).await?;
        self.connectors.reload().await?;
        Ok(())
    }

    /// Returns the connector of a connection.
    ///
    /// # Errors
    /// [`Error::ConnectorNotConfigured`] if the connector is not in the catalog, as after its integration was deleted
    /// at Nango.
    pub(crate) async fn connector_of(&self, connection: &Connection) -> Result<Connector> {
        let reference = &connection.connector;
        let found = self.connector(&reference.slug).await;
        found.map_err(|error| match error {
            Error::ConnectorNotFound(_) => Error::ConnectorNotConfigured {
                connector: reference.name.clone(),
                integration_key: reference.slug.clone(),
            },
            error => error,
        })
    }

    /// Returns when each connector was first in the catalog, by the connector's id.
    pub async fn creation_times(&self) -> Result<HashMap<ConnectorId, DateTime<Utc>>> {
        Ok(db::connector_creation_times(&self.core.database).await?)
    }
}
