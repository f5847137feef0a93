//! The catalog as it is now: the listed connectors, and those of the integrations that are configured at Nango.

use std::sync::{Arc, PoisonError, RwLock};

use super::{Connections, Error, Result};
use crate::catalog::{Catalog, CatalogMode, ConfiguredIntegration, Connector};
use crate::db;
use crate::nango::integration_cache::Integrations;

/// The listed connectors, and the newest catalog that was made of them.
#[derive(Debug)]
pub(crate) struct CurrentCatalog {
    listed: Arc<Catalog>,
    mode: CatalogMode,
    newest: RwLock<Newest>,
    /// Held by the one update in progress.
    update: tokio::sync::Mutex<()>,
}

#[derive(Clone, Debug)]
struct Newest {
    catalog: Arc<Catalog>,
    /// The integrations that it was made of; `None` if Nango has not answered yet.
    integrations: Option<Integrations>,
}

impl CurrentCatalog {
    pub(crate) fn new(listed: Arc<Catalog>, mode: CatalogMode) -> Self {
        let newest = Newest {
            catalog: listed.clone(),
            integrations: None,
        };
        Self {
            listed,
            mode,
            newest: RwLock::new(newest),
            update: tokio::sync::Mutex::default(),
        }
    }

    fn newest(&self) -> Newest {
        let newest = self.newest.read();
        newest.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The catalog of one moment, and which of it is configured.
#[derive(Debug)]
pub struct CatalogView {
    /// All connectors.
    pub catalog: Arc<Catalog>,
    mode: CatalogMode,
    integrations: Option<Integrations>,
}

impl CatalogView {
    /// Returns whether Nango has an integration for a connector; `None` if that is not known.
    #[must_use]
    pub fn is_configured(&self, connector: &Connector) -> Option<bool> {
        let integrations = self.integrations.as_ref()?;
        Some(integrations.contains_key(&connector.integration_key))
    }

    /// Returns whether users are offered a connector.
    #[must_use]
    pub fn is_offered(&self, connector: &Connector) -> bool {
        match self.mode {
            CatalogMode::Listed | CatalogMode::All => true,
            CatalogMode::Configured => self.is_configured(connector) != Some(false),
        }
    }
}

impl Connections {
    /// Returns the newest catalog, without a call to Nango.
    #[must_use]
    pub fn catalog(&self) -> Arc<Catalog> {
        self.catalog.newest().catalog
    }

    /// Returns the integrations of which the newest catalog was made, without a call to Nango.
    pub(crate) fn integrations(&self) -> Option<Integrations> {
        self.catalog.newest().integrations
    }

    /// Returns the catalog of the integrations that Nango last listed. If Nango does not answer, the last known ones count.
    pub async fn catalog_view(&self) -> CatalogView {
        let integrations = match &self.core.upstream {
            Some(upstream) => upstream.integrations.all().await.map_err(|error| {
                tracing::warn!(%error, "nango integrations are not known");
            }),
            None => Err(()),
        };
        if let Ok(integrations) = &integrations {
            self.update_catalog(integrations).await;
        }
        CatalogView {
            catalog: self.catalog(),
            mode: self.catalog.mode,
            integrations: integrations.ok(),
        }
    }

    /// Asks Nango for its integrations, so that a new one is in the catalog without a restart.
    ///
    /// # Errors
    /// As Nango.
    pub async fn refresh_catalog(&self) -> Result<()> {
        let integrations = self.core.nango_gateway()?.integrations.refreshed().await?;
        self.update_catalog(&integrations).await;
        Ok(())
    }

    /// Returns a connector by id or slug. An unknown one may be an integration that was added a moment ago.
    ///
    /// # Errors
    /// [`Error::ConnectorNotFound`].
    pub async fn connector(&self, reference: &str) -> Result<Connector> {
        let find = || self.catalog().get(reference).cloned();
        if let Some(connector) = find() {
            return Ok(connector);
        }
        if self.catalog.mode != CatalogMode::Listed
            && let Err(error) = self.refresh_catalog().await
        {
            tracing::debug!(%error, "could not look for a new integration");
        }
        find().ok_or_else(|| Error::ConnectorNotFound(reference.to_owned()))
    }

    /// Rebuilds the catalog if the integrations have changed since it was built.
    async fn update_catalog(&self, integrations: &Integrations) {
        let is_current = || {
            let made_of = self.catalog.newest().integrations;
            made_of.is_some_and(|made_of| Arc::ptr_eq(&made_of, integrations))
        };
        if is_current() {
            return;
        }
        let _update = self.catalog.update.lock().await;
        if is_current() {
            return;
        }
        let all = integrations.values();
        let configured: Vec<ConfiguredIntegration> = all
            .filter(|_| self.catalog.mode != CatalogMode::Listed)
            .map(|integration| ConfiguredIntegration {
                key: integration.unique_key.clone(),
                provider: integration.provider.clone(),
                display_name: integration.display_name.clone(),
            })
            .collect();
        let catalog = Arc::new(self.catalog.listed.with_integrations(&configured));
        // Connections refer to their connector's row: it has to be there before the connector is offered.
        if let Err(error) = self.write_integrations(&catalog).await {
            tracing::warn!(%error, "could not write new connectors to the database, will retry");
            return;
        }
        let newest = Newest {
            catalog,
            integrations: Some(integrations.clone()),
        };
        *self
            .catalog
            .newest
            .write()
            .unwrap_or_else(PoisonError::into_inner) = newest;
    }

    async fn write_integrations(&self, catalog: &Catalog) -> Result<()> {
        let new: Vec<&Connector> = catalog.iter().filter(|it| !it.is_listed).collect();
        if new.is_empty() {
            return Ok(());
        }
        let mut tx = self.core.begin_single().await?;
        db::write_connectors(&mut tx, &new).await?;
        tx.commit().await?;
        self.connectors.reload().await?;
        Ok(())
    }
}
