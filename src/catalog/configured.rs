//! Connectors of integrations that are configured at Nango but not listed in a manifest file.

use std::collections::{BTreeMap, HashSet};
use std::str::FromStr;

use super::parse::RESERVED_SLUGS;
use super::search::category_of;
use super::{Catalog, Connector, Provider};
use crate::text::displayable;

/// The connectors that users are offered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CatalogMode {
    /// Connectors of the manifest files, configured or not.
    Listed,
    /// Connectors that are configured at Nango, listed or not.
    #[default]
    Configured,
    /// All listed and all configured connectors.
    All,
}

impl FromStr for CatalogMode {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "listed" => Ok(Self::Listed),
            "configured" => Ok(Self::Configured),
            "all" => Ok(Self::All),
            _ => Err("must be listed, configured or all"),
        }
    }
}

/// An integration of the Nango environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfiguredIntegration {
    /// Nango's key.
    pub key: String,
    /// Nango's name of the provider.
    pub provider: String,
    /// The name that an operator gave it; empty if there is none.
    pub display_name: String,
}

impl Catalog {
    /// Returns the catalog with a connector for each integration that no connector uses yet. Its slug is the integration's
    /// key, or `<key>-integration` if another connector or the API has that name.
    #[must_use]
    pub fn with_integrations(&self, integrations: &[ConfiguredIntegration]) -> Self {
        let mut catalog = self.clone();
        for connector in &mut catalog.connectors {
            let mut same = integrations.iter();
            let found = same.find(|it| it.key == connector.integration_key);
            if let Some(found) = found.filter(|_| connector.provider.is_none()) {
                // Nango has gained a provider for a connector that was unavailable.
                connector.provider = Some(found.provider.clone());
                connector.auth_mode = Provider::find(&found.provider).and_then(|it| it.auth_mode);
                connector.unavailable = None;
                connector.note = None;
            }
        }
        let listed = catalog.connectors.iter();
        let used: HashSet<String> = listed.map(|it| it.integration_key.clone()).collect();
        let new: Vec<&ConfiguredIntegration> = integrations
            .iter()
            .filter(|it| !used.contains(&it.key) && is_key(&it.key))
            .collect();
        // Users could not distinguish two connectors of one name.
        let mut names: BTreeMap<String, usize> = BTreeMap::new();
        let keys: HashSet<&str> = integrations.iter().map(|it| &*it.key).collect();
        let configured = catalog.connectors.iter();
        for connector in configured.filter(|it| keys.contains(&*it.integration_key)) {
            *names.entry(connector.name.to_lowercase()).or_default() += 1;
        }
        for integration in &new {
            *names
                .entry(name_of(integration).to_lowercase())
                .or_default() += 1;
        }
        for integration in new {
            let mut connector = connector(integration);
            if names.get(&connector.name.to_lowercase()) > Some(&1) {
                connector.name = format!("{} ({})", connector.name, integration.key);
            }
            let is_taken =
                RESERVED_SLUGS.contains(&&*connector.slug) || self.get(&connector.slug).is_some();
            if is_taken {
                connector.slug.push_str("-integration");
                connector.id = Connector::id_of(&connector.slug);
            }
            catalog.connectors.push(connector);
        }
        let by_name = |connector: &Connector| connector.name.to_lowercase();
        catalog.connectors.sort_by_cached_key(by_name);
        catalog
    }
}

/// Returns whether Nango accepts a text as an integration's key, and a URL as a path segment.
fn is_key(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "~:.@ _-".contains(c);
    text.len() <= 255 && text.chars().all(allowed) && text.chars().any(|c| c != '.')
}

fn name_of(integration: &ConfiguredIntegration) -> String {
    let given: String = displayable(&integration.display_name).collect();
    if !given.trim().is_empty() {
        return given.trim().to_owned();
    }
    let provider = Provider::find(&integration.provider);
    let name = provider.map_or(&*integration.key, |provider| provider.display_name);
    name.to_owned()
}

fn connector(integration: &ConfiguredIntegration) -> Connector {
    let facts = Provider::find(&integration.provider);
    Connector {
        id: Connector::id_of(&integration.key),
        slug: integration.key.clone(),
        name: name_of(integration),
        category: category_of(facts.as_ref().map_or("", |facts| facts.categories)).to_owned(),
        provider: Some(integration.provider.clone()),
        integration_key: integration.key.clone(),
        auth_mode: facts.as_ref().and_then(|facts| facts.auth_mode),
        enabled: true,
        unavailable: None,
        note: None,
        is_listed: false,
        account: None,
        parameters: facts.map(|facts| facts.parameters).unwrap_or_default(),
    }
}
