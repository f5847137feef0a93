//! The connectors: which third-party products users can connect, and through which Nango integration.
//!
//! Patchbay has a built-in file ([`Catalog::builtin`]); an operator's file changes and extends it ([`Catalog::load`]).
//! Both are validated in full before anything else starts, so a [`Connector`] is always valid.

mod account;
mod configured;
mod load;
mod logo;
mod parameters;
mod parse;
mod providers;
pub mod scopes;
mod search;

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use self::search::SearchQuery;
use crate::domain::ConnectorId;

pub use account::{AccountFields, AccountRequest, AccountRule, AccountValue};
pub use configured::{CatalogMode, ConfiguredIntegration};
pub use load::CatalogError;
pub use parameters::Parameter;
pub use parse::ManifestError;
pub use providers::Provider;

/// The namespace of connector ids: a connector's id is the UUIDv5 of its slug, so it is the same in every installation.
/// It must never change.
pub const ID_NAMESPACE: Uuid = uuid::uuid!("2c2a2ccc-e238-4925-a368-3230f5e32781");

/// One third-party product, and how Nango connects to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Connector {
    /// UUIDv5 of the slug in [`ID_NAMESPACE`].
    #[serde(skip)]
    pub id: ConnectorId,
    /// The name in URLs and files: `[a-z0-9][a-z0-9-]{0,62}`.
    pub slug: String,
    /// The display name.
    pub name: String,
    /// The category under which it is listed.
    pub category: String,
    /// Nango's template (`provider` in its API); `None` only if the connector is unavailable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// The integration in the Nango environment (`unique_key`, `provider_config_key`): the slug,
    /// unless the manifest names another. No two connectors share one.
    pub integration_key: String,
    /// How the provider authenticates; set if `provider` is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_mode: Option<AuthMode>,
    /// `true` if the operator offers it.
    pub enabled: bool,
    /// Human-readable reason why it cannot be connected; `None` if it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unavailable: Option<String>,
    /// A note for operators.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// `true` if a manifest file has it; `false` if it comes from a configured integration.
    #[serde(rename = "listed", skip_serializing_if = "is_true")]
    pub is_listed: bool,
    /// The manifest file's rule for reading the account of a connection, if it has one. See
    /// [`account_rule`](Self::account_rule).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<AccountRule>,
    /// Values that the provider needs of an account besides the authorization.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parameters: Vec<Parameter>,
}

/// How a provider authenticates, in Nango's spelling (`OAUTH2_CC`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(missing_docs, reason = "Nango's names, which Nango documents")]
pub enum AuthMode {
    ApiKey,
    App,
    AwsSigv4,
    Basic,
    Bill,
    Custom,
    InstallPlugin,
    Jwt,
    McpOauth2,
    McpOauth2Generic,
    None,
    Oauth1,
    Oauth2,
    Oauth2Cc,
    Signature,
    Tba,
    TwoStep,
}

impl fmt::Display for AuthMode {
    /// Writes Nango's spelling.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(formatter)
    }
}

/// Whether a connector can be connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability<'a> {
    /// It can, as soon as the Nango environment has its integration.
    Available,
    /// The operator has turned it off.
    Disabled,
    /// It cannot be connected, for this reason.
    Unavailable(&'a str),
}

impl Connector {
    /// Returns the id of the connector with this slug, whether or not the connector exists.
    pub fn id_of(slug: &str) -> ConnectorId {
        ConnectorId(Uuid::new_v5(&ID_NAMESPACE, slug.as_bytes()))
    }

    /// Returns whether the connector uses Nango's `/oauth/connect`. With other connectors, the user enters a key or a
    /// password on Nango's page.
    pub(crate) fn uses_oauth_popup(&self) -> bool {
        matches!(self.auth_mode, Some(AuthMode::Oauth1 | AuthMode::Oauth2))
    }

    /// Returns whether the connector can be connected, and if not, why.
    pub fn availability(&self) -> Availability<'_> {
        match &self.unavailable {
            Some(reason) => Availability::Unavailable(reason),
            None if self.enabled => Availability::Available,
            None => Availability::Disabled,
        }
    }

    /// Returns the rule that reads the account of a connection: the manifest's, or the provider's built-in one.
    pub fn account_rule(&self) -> Option<&AccountRule> {
        let builtin = || AccountRule::of_provider(self.provider.as_deref()?);
        self.account.as_ref().or_else(builtin)
    }

    /// Returns the connector without its id, as an object with the fields of the manifest file.
    pub fn manifest(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("strings and booleans always serialise")
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_true(value: &bool) -> bool {
    *value
}

/// All connectors, validated and sorted by name.
#[derive(Clone, Debug)]
pub struct Catalog {
    connectors: Vec<Connector>,
}

impl Catalog {
    /// Returns the built-in connectors.
    pub fn builtin() -> Self {
        load::builtin()
    }

    /// Returns the built-in connectors, changed and extended by an operator's file.
    ///
    /// # Errors
    /// If the file cannot be read; otherwise with all errors of the file.
    pub fn load(override_file: Option<&Path>) -> Result<Self, CatalogError> {
        match override_file {
            Some(path) => load::with_overrides(path),
            None => Ok(Self::builtin()),
        }
    }

    /// Checks that an operator's file can be read. [`Catalog::load`] also checks its content.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub(crate) fn check_readable(override_file: &Path) -> Result<(), CatalogError> {
        load::read(override_file).map(drop)
    }

    /// Returns the built-in connectors, changed and extended by the text of an operator's file. Error messages name
    /// the file by `path`.
    ///
    /// # Errors
    /// With all errors of the file.
    pub fn parse(path: &Path, text: &str) -> Result<Self, CatalogError> {
        load::with_text(path, text)
    }

    /// Returns the same connectors, with `rule` in place of the built-in account rules.
    #[must_use]
    pub fn with_default_account_rule(mut self, rule: &AccountRule) -> Self {
        for connector in &mut self.connectors {
            connector.account.get_or_insert_with(|| rule.clone());
        }
        self
    }

    /// Returns the connector with this slug or id.
    pub fn get(&self, slug_or_id: &str) -> Option<&Connector> {
        let id = slug_or_id.parse().ok();
        self.iter()
            .find(|connector| connector.slug == slug_or_id || Some(connector.id) == id)
    }

    /// Returns all connectors, sorted by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Connector> {
        self.connectors.iter()
    }

    /// Returns the connectors whose name, slug or category contains `query`, or whose synonyms start with it, sorted by
    /// name; with `category`, only those of that category. Case does not matter; an empty query finds all.
    pub fn search(&self, query: &str, category: Option<&str>) -> impl Iterator<Item = &Connector> {
        let query = SearchQuery::new(query);
        let category = category.map(str::to_lowercase);
        self.iter().filter(move |connector| {
            let own = connector.category.to_lowercase();
            category.as_ref().is_none_or(|wanted| own == *wanted) && query.matches(connector)
        })
    }
}
