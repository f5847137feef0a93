//! Nango's requests and responses, limited to the fields that this client needs. Unknown fields are ignored.

use std::collections::BTreeMap;
use std::fmt;

use chrono::{DateTime, Utc};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use url::Url;

use super::{Credentials, Error, lenient};
use crate::catalog::scopes;

/// The request for a connect session: one user may connect one integration, or reauthorize one connection, which keeps
/// its id.
///
/// There is exactly one integration, because Nango reads an empty list of allowed integrations as all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRequest {
    /// Nango's id of the connection to reauthorize; `None` for a new one.
    pub reconnects: Option<String>,
    /// Nango's key of the integration.
    pub integration: String,
    /// The tags of the connection, which replace its previous ones. Nango lowercases the keys; a value has at most 255
    /// characters.
    pub tags: BTreeMap<String, String>,
    /// The URL to which Nango sends this session's webhooks, including failures, and later those of the resulting
    /// connection. Supported by Nango since mid-2026.
    pub webhook_url_override: Option<Url>,
    /// What to request from the provider instead of the integration's own configuration.
    pub defaults: IntegrationDefaults,
}

/// What a session requests from the provider.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IntegrationDefaults {
    /// Scopes to request instead of the integration's own.
    pub scopes: Vec<String>,
    /// Parameters that the provider needs of the account, such as its subdomain.
    pub parameters: BTreeMap<String, String>,
    /// Query parameters added to the provider's authorization URL.
    pub authorization_params: BTreeMap<String, String>,
}

/// The defaults in the form that Nango accepts.
#[derive(Serialize)]
struct Defaults<'a> {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    connection_config: BTreeMap<&'a str, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    authorization_params: &'a BTreeMap<String, String>,
}

impl IntegrationDefaults {
    fn by_key<'a>(&'a self, integration: &'a str) -> BTreeMap<&'a str, Defaults<'a>> {
        let parameters = self.parameters.iter();
        let mut connection_config: BTreeMap<_, _> = parameters
            .map(|(name, value)| (name.as_str(), value.clone()))
            .collect();
        if !self.scopes.is_empty() {
            // Nango accepts scopes as one comma-separated text in the connection's own configuration.
            connection_config.insert("oauth_scopes_override", self.scopes.join(","));
        }
        let defaults = Defaults {
            connection_config,
            authorization_params: &self.authorization_params,
        };
        let empty =
            defaults.connection_config.is_empty() && defaults.authorization_params.is_empty();
        (!empty)
            .then_some((integration, defaults))
            .into_iter()
            .collect()
    }
}

/// The body of `POST /connect/sessions` and of `POST /connect/sessions/reconnect`.
#[derive(Serialize)]
pub(crate) struct SessionBody<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    connection_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    integration_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed_integrations: Option<[&'a str; 1]>,
    tags: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook_url_override: Option<&'a Url>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    integrations_config_defaults: BTreeMap<&'a str, Defaults<'a>>,
}

impl<'a> From<&'a SessionRequest> for SessionBody<'a> {
    fn from(session: &'a SessionRequest) -> Self {
        let integration = session.integration.as_str();
        let reconnects = session.reconnects.as_deref();
        Self {
            connection_id: reconnects,
            integration_id: reconnects.map(|_| integration),
            allowed_integrations: reconnects.is_none().then_some([integration]),
            tags: &session.tags,
            webhook_url_override: session.webhook_url_override.as_ref(),
            integrations_config_defaults: session.defaults.by_key(integration),
        }
    }
}

/// A connect session. Its token may be used more than once until it expires, and each grant except a reconnect's
/// creates another connection.
#[derive(Clone, Deserialize)]
pub struct Session {
    /// The token with which a browser starts the authorization at Nango.
    pub token: SecretString,
    /// Nango's own page for this session; the URL contains the token. For a browser, use
    /// [`Nango::connect_link`](crate::nango::Nango::connect_link).
    pub connect_link: Url,
    /// When the token expires, 30 minutes after its creation.
    pub expires_at: DateTime<Utc>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// The response to `DELETE /connections/{id}`.
#[derive(Deserialize)]
pub(crate) struct Deletion {
    pub(crate) success: bool,
}

/// One connection, from `GET /connections/{id}`.
#[derive(Clone, Debug, Deserialize)]
pub struct Connection {
    /// Nango's name of the provider; empty if Nango does not say.
    #[serde(default, deserialize_with = "lenient::text")]
    pub provider: String,
    /// Custom metadata of the connection: an object, or null.
    #[serde(default)]
    pub metadata: Value,
    /// The provider's settings apart from the credentials, such as a subdomain: an object.
    #[serde(default)]
    pub connection_config: Value,
    /// The URL to which Nango sends its webhooks, as its session requested.
    #[serde(default)]
    pub webhook_url_override: Option<String>,
    /// The current errors of the connection, such as a failed refresh.
    #[serde(default, deserialize_with = "lenient::items")]
    pub errors: Vec<ConnectionError>,
    /// The credentials of the account.
    pub credentials: Credentials,
}

/// One connection in the response to `GET /connections`, without credentials.
#[derive(Clone, Debug, Deserialize)]
pub struct ConnectionSummary {
    /// Nango's serial number: connections created later have greater ones. A reconnect keeps it.
    #[serde(rename = "id", default)]
    pub serial: Option<i64>,
    /// Nango's id.
    #[serde(deserialize_with = "lenient::id")]
    pub connection_id: String,
    /// Nango's key of the integration.
    #[serde(deserialize_with = "lenient::id")]
    pub provider_config_key: String,
    /// The tags of its session; keys are lowercase.
    #[serde(default, deserialize_with = "lenient::texts")]
    pub tags: BTreeMap<String, String>,
    /// The current errors of the connection, such as a failed refresh.
    #[serde(default, deserialize_with = "lenient::items")]
    pub errors: Vec<ConnectionError>,
    /// When it was created; a reconnect does not change it.
    #[serde(rename = "created")]
    pub created_at: DateTime<Utc>,
}

/// A page of the list of connections.
#[derive(Clone, Debug, Default)]
pub struct ConnectionPage {
    /// The connections, newest first.
    pub connections: Vec<ConnectionSummary>,
    /// The ids of the entries that cannot be read, if they have one: entries may be another application's, and in any
    /// form.
    pub unreadable: Vec<Option<String>>,
}

impl ConnectionPage {
    /// Returns whether the page has no entries, readable or not.
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty() && self.unreadable.is_empty()
    }

    /// Returns the connections of a page on which none may be missing.
    ///
    /// # Errors
    /// If there is an entry that cannot be read.
    pub fn complete(self) -> Result<Vec<ConnectionSummary>, Error> {
        match self.unreadable.first() {
            None => Ok(self.connections),
            Some(id) => Err(Error::Unexpected {
                status: 200,
                detail: format!(
                    "an entry of the connection list that cannot be read ({})",
                    id.as_deref().unwrap_or("without an id")
                ),
            }),
        }
    }
}

/// An error of a connection, as reported by Nango.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ConnectionError {
    /// `auth` for credentials that could not be refreshed.
    #[serde(rename = "type")]
    pub kind: String,
}

/// A filter of the list of connections; the default lists all, newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListConnections {
    /// Only connections with all of these tags and values.
    pub tags: BTreeMap<String, String>,
    /// Only connections of this integration.
    pub integration: Option<String>,
    /// Only this connection.
    pub connection_id: Option<String>,
    /// The number of connections in a page, 1 to 2000. Without it, at most 10,000 are listed.
    pub limit: Option<u32>,
    /// The number of the page, from 0.
    pub page: Option<u32>,
}

/// The maximum number of connections that Nango lists without a `limit`.
const UNLIMITED: usize = 10_000;

impl ListConnections {
    /// Returns the filter for the connection with this id.
    pub fn of_id(id: &str) -> Self {
        Self {
            connection_id: Some(id.to_owned()),
            ..Self::default()
        }
    }

    /// Returns the filter for the connections with all of these tags.
    pub fn tagged<const N: usize>(tags: [(&str, String); N]) -> Self {
        Self {
            tags: tags.map(|(name, value)| (name.to_owned(), value)).into(),
            ..Self::default()
        }
    }

    /// Returns whether a connection matches the filter.
    fn matches(&self, summary: &ConnectionSummary) -> bool {
        let id = self.connection_id.as_ref();
        let integrations = self.integration.as_ref();
        id.is_none_or(|id| *id == summary.connection_id)
            // Nango accepts a comma-separated list.
            && integrations.is_none_or(|keys| keys.split(',').any(|key| key == summary.provider_config_key))
            && (self.tags.iter()).all(|(name, value)| summary.tags.get(name) == Some(value))
    }

    /// Keeps only the listed connections that match. `None` if others were listed as well and the list is full: if
    /// Nango ignores a filter, the matching connections may be on another page.
    pub(crate) fn keep_matching(
        &self,
        mut listed: Vec<ConnectionSummary>,
        unreadable: usize,
    ) -> Option<Vec<ConnectionSummary>> {
        let count = listed.len();
        listed.retain(|summary| self.matches(summary));
        let most = self.limit.map_or(UNLIMITED, |limit| limit as usize);
        (listed.len() == count || count + unreadable < most).then_some(listed)
    }

    pub(crate) fn query(&self) -> Vec<(String, String)> {
        let tags = self.tags.iter();
        let mut query: Vec<_> = tags
            .map(|(k, v)| (format!("tags[{k}]"), v.clone()))
            .collect();
        let mut add = |name: &str, value: Option<String>| {
            query.extend(value.map(|value| (name.to_owned(), value)));
        };
        add("integrationId", self.integration.clone());
        add("connectionId", self.connection_id.clone());
        add("limit", self.limit.map(|n| n.to_string()));
        add("page", self.page.map(|n| n.to_string()));
        query
    }
}

/// `{"data": […]}` of integrations, each entry unparsed.
#[derive(Deserialize)]
pub(crate) struct Integrations {
    data: Vec<Box<RawValue>>,
}

impl Integrations {
    /// Returns the integrations that can be read; `None` if there are entries and none can.
    pub(crate) fn readable(self) -> Option<Vec<Integration>> {
        let entries = self.data.iter();
        let readable: Vec<_> = entries
            .filter_map(|entry| serde_json::from_str(entry.get()).ok())
            .collect();
        (self.data.is_empty() || !readable.is_empty()).then_some(readable)
    }
}

/// An integration that the Nango environment has configured.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Integration {
    /// Nango's key.
    pub unique_key: String,
    /// Nango's name of the provider.
    pub provider: String,
    /// The name that an operator gave it; empty if there is none.
    #[serde(default, deserialize_with = "lenient::text")]
    pub display_name: String,
    /// The address of the provider's logo; empty if there is none.
    #[serde(default, deserialize_with = "lenient::text")]
    pub logo: String,
    /// When it was created, as Nango writes it; empty if Nango does not say.
    #[serde(default, deserialize_with = "lenient::text")]
    pub created_at: String,
}

/// The part of an integration's OAuth client that is not secret.
#[derive(Deserialize)]
pub(crate) struct IntegrationClient {
    credentials: Option<ClientScopes>,
}

#[derive(Deserialize)]
struct ClientScopes {
    scopes: Option<Value>,
}

impl IntegrationClient {
    /// Returns the scopes that the integration requests; `None` if Nango does not say.
    pub(crate) fn scopes(&self) -> Option<Vec<String>> {
        scopes::read(self.credentials.as_ref()?.scopes.as_ref()?)
    }
}

/// `{"data": …}`, around a session.
#[derive(Deserialize)]
pub(crate) struct Data<T> {
    pub(crate) data: T,
}

/// `{"connections": […]}`, each entry unparsed.
#[derive(Deserialize)]
pub(crate) struct Connections {
    connections: Vec<Box<RawValue>>,
}

impl From<Connections> for ConnectionPage {
    fn from(answer: Connections) -> Self {
        /// An entry of which only the id can be read.
        #[derive(Deserialize)]
        struct Named {
            #[serde(deserialize_with = "lenient::id")]
            connection_id: String,
        }
        let mut page = Self::default();
        for entry in answer.connections {
            match serde_json::from_str(entry.get()) {
                Ok(connection) => page.connections.push(connection),
                Err(_unreadable) => {
                    let named: Option<Named> = serde_json::from_str(entry.get()).ok();
                    page.unreadable.push(named.map(|named| named.connection_id));
                }
            }
        }
        page
    }
}
