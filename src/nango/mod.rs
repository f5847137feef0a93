//! The client of Nango, which runs the OAuth flows and stores the tokens.
//!
//! The client handles Nango's connections, not Patchbay's. A method returns or fails within the configured time,
//! retries included, and its [`Error`] tells a caller how to react.

pub mod attempt_poller;
mod budget;
mod calls;
mod config;
mod credentials;
mod error;
pub mod integration_cache;
mod lenient;
mod logo;
mod priority;
pub mod proxy;
mod request;
pub mod webhook;
mod wire;

pub(crate) use config::MAX_NANGO_TIMEOUT;
pub use config::NangoConfig;
use std::sync::Arc;
use std::time::Duration;

use percent_encoding::{CONTROLS, utf8_percent_encode};
use prometheus_client::registry::Registry;
use reqwest::header::HeaderValue;
use reqwest::{Client, Method};
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::catalog::{AuthMode, Provider};
use crate::clock::Clock;
use crate::net::http_client;

pub use credentials::Credentials;
pub use error::Error;
pub(crate) use error::shorten;
pub use logo::Image;
pub use priority::Priority;
pub use wire::{
    Connection, ConnectionError, ConnectionPage, ConnectionSummary, Integration,
    IntegrationDefaults, ListConnections, Session, SessionRequest,
};

use self::budget::RateBudget;
use self::calls::CallMetrics;
use self::request::{Call, MAX_BODY_BYTES};
use self::wire::{Connections, Data, SessionBody};

/// The hosted Nango, which Nango's connect page calls by default.
const HOSTED_BASE_URL: &str = "https://api.nango.dev";

/// The maximum size of a page of connections, in bytes. Any client with a key can store megabytes of metadata in a
/// connection.
const MAX_PAGE_BODY: usize = 64 * 1024 * 1024;

/// The settings of the client.
#[derive(Clone, Debug)]
pub struct Config {
    /// The base URL of Nango's API, which may have a path. It may be in a private network, because the operator
    /// configures it.
    pub base_url: Url,
    /// The address at which browsers reach Nango. Responses contain only this one.
    pub public_url: Url,
    /// The secret key of the Nango environment.
    pub secret_key: SecretString,
    /// The timeout of a call as a whole, retries included.
    pub timeout: Duration,
}

/// The reason for which a [`Config`] is rejected.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The URL is not a base to which paths can be added.
    #[error(
        "Nango's base URL must be http or https, with a host and without user, query or fragment"
    )]
    BaseUrl,
    /// The key is empty, or has characters that no HTTP header can carry.
    #[error("Nango's secret key is empty or has characters that no key has: copy it again")]
    SecretKey,
    /// The HTTP client could not be created.
    #[error("the HTTP client for Nango cannot be set up")]
    Client(#[from] reqwest::Error),
}

/// Returns `true` if a text can be a secret key: not empty, without white space, and an HTTP header can carry it.
pub(crate) fn is_secret_key(key: &str) -> bool {
    !key.is_empty() && key.chars().all(|c| c.is_ascii_graphic())
}

/// The client of one Nango environment. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Nango(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: Client,
    base_url: Url,
    public_url: Url,
    secret_key: SecretString,
    authorization: HeaderValue,
    timeout: Duration,
    calls: CallMetrics,
    budget: RateBudget,
}

/// Whether Nango refreshes the access token before it responds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresh {
    /// Only if the current one expires soon.
    WhenDue,
    /// Always, even within the 30 seconds for which Nango caches a failed refresh.
    Force,
}

/// The outcome of a deletion. In both cases the connection no longer exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// This call deleted it.
    Now,
    /// Nango has no such connection, at least not under this integration.
    AlreadyGone,
}

impl Nango {
    /// Creates a client with the system's clock. Sends nothing yet.
    ///
    /// # Errors
    /// If the configuration cannot be used.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        Self::with_clock(config, Clock::System)
    }

    /// Creates a client with another clock, which determines when Nango's minutes end.
    ///
    /// # Errors
    /// As [`Nango::new`].
    pub fn with_clock(config: Config, clock: Clock) -> Result<Self, ConfigError> {
        let Config {
            base_url,
            public_url,
            secret_key,
            timeout,
        } = config;
        if ![&base_url, &public_url].into_iter().all(is_base) {
            return Err(ConfigError::BaseUrl);
        }
        let key = secret_key.expose_secret();
        if !is_secret_key(key) {
            return Err(ConfigError::SecretKey);
        }
        let mut authorization = HeaderValue::from_str(&format!("Bearer {key}"))
            .map_err(|_not_a_header| ConfigError::SecretKey)?;
        authorization.set_sensitive(true);
        Ok(Self(Arc::new(Inner {
            client: http_client::client(timeout)?,
            base_url,
            public_url,
            secret_key,
            authorization,
            timeout,
            calls: CallMetrics::default(),
            budget: RateBudget::new(clock),
        })))
    }

    /// Starts a session in which a user connects one integration, or reauthorizes one connection.
    ///
    /// # Errors
    /// Among others [`Error::UnknownIntegration`], [`Error::UnknownConnection`] for a connection to reauthorize, and
    /// [`Error::UnsupportedField`] if Nango is too old for a field.
    pub async fn session(&self, session: &SessionRequest) -> Result<Session, Error> {
        let (operation, path): (_, &[&str]) = if session.reconnects.is_some() {
            ("reconnect_session", &["connect", "sessions", "reconnect"])
        } else {
            ("create_session", &["connect", "sessions"])
        };
        let body = serde_json::to_vec(&SessionBody::from(session));
        // A retry may create a second session. That is harmless, because an unused one expires.
        let call = Call {
            operation,
            method: Method::POST,
            url: self.url(path),
            body: Some(body.expect("strings and maps of strings are JSON")),
            max_answer: MAX_BODY_BYTES,
        };
        let answer: Data<Session> = self.call(call).await?;
        Ok(answer.data)
    }

    /// Deletes a session, so that its token no longer authorizes anything.
    ///
    /// # Errors
    /// Errors that are common to all calls. There is no retry.
    pub async fn delete_session(&self, session: &Session) -> Result<(), Error> {
        let url = self.url(&["connect", "session"]);
        let timer = self.0.calls.begin("delete_session");
        let request = self
            .0
            .client
            .delete(url)
            .bearer_auth(session.token.expose_secret());
        let deleted = match request.send().await {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(Error::Unexpected {
                status: answer.status().as_u16(),
                detail: "the session was not deleted".to_owned(),
            }),
            Err(error) => Err(error.into()),
        };
        timer.end(deleted.as_ref().err());
        deleted
    }

    /// Returns one connection with its credentials.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::UnknownIntegration`], or
    /// [`Error::InvalidCredentials`] if a refresh was due or forced and failed.
    pub async fn connection(
        &self,
        connection_id: &str,
        integration: &str,
        refresh: Refresh,
    ) -> Result<Connection, Error> {
        let mut url = self
            .connection_url(connection_id, integration)
            .ok_or(Error::NotFound)?;
        let operation = match refresh {
            Refresh::WhenDue => "get_connection",
            Refresh::Force => {
                url.query_pairs_mut().append_pair("force_refresh", "true");
                "refresh_connection"
            }
        };
        let mut found: Connection = self.call(Call::new(operation, Method::GET, url)).await?;
        let needs_none = |provider: Provider| provider.auth_mode == Some(AuthMode::None);
        // Nango also omits the credentials if the key may not read them.
        if matches!(found.credentials, Credentials::Withheld)
            && Provider::find(&found.provider).is_some_and(needs_none)
        {
            found.credentials = Credentials::not_needed();
        }
        Ok(found)
    }

    /// Returns the connections that match, newest first, without their credentials. Entries that cannot be read are
    /// omitted, and so are those that Nango lists although they do not match.
    ///
    /// # Errors
    /// [`Error::FilterIgnored`]; an unknown integration or tag matches nothing.
    pub async fn connections(
        &self,
        filter: &ListConnections,
    ) -> Result<Vec<ConnectionSummary>, Error> {
        Ok(self.connection_page(filter).await?.connections)
    }

    /// Returns a page that includes unreadable entries, for callers that act on missing connections.
    ///
    /// # Errors
    /// As [`connections`](Self::connections).
    pub async fn connection_page(&self, filter: &ListConnections) -> Result<ConnectionPage, Error> {
        let mut url = self.url(&["connections"]);
        let query = filter.query();
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let call = Call {
            max_answer: MAX_PAGE_BODY,
            ..Call::new("list_connections", Method::GET, url)
        };
        let answer: Connections = self.call(call).await?;
        let mut page = ConnectionPage::from(answer);
        let listed = std::mem::take(&mut page.connections);
        let matching = filter.keep_matching(listed, page.unreadable.len());
        page.connections = matching.ok_or(Error::FilterIgnored)?;
        Ok(page)
    }

    /// Deletes a connection and its tokens. The call is idempotent.
    ///
    /// # Errors
    /// Errors that are common to all calls. A missing connection is [`Deleted::AlreadyGone`].
    pub async fn delete_connection(
        &self,
        connection_id: &str,
        integration: &str,
    ) -> Result<Deleted, Error> {
        let Some(url) = self.connection_url(connection_id, integration) else {
            return Ok(Deleted::AlreadyGone);
        };
        let call = Call::new("delete_connection", Method::DELETE, url);
        match self.call(call).await {
            Ok(wire::Deletion { success: true }) => Ok(Deleted::Now),
            Ok(wire::Deletion { success: false }) => Err(Error::Unexpected {
                status: 200,
                detail: "the deletion had no success".to_owned(),
            }),
            Err(Error::UnknownConnection | Error::NotFound) => Ok(Deleted::AlreadyGone),
            Err(error) => Err(error),
        }
    }

    /// Returns the integrations that the environment has configured. Entries that cannot be read are omitted.
    ///
    /// # Errors
    /// Errors that are common to all calls.
    pub async fn integrations(&self) -> Result<Vec<Integration>, Error> {
        let url = self.url(&["integrations"]);
        let call = Call::new("list_integrations", Method::GET, url);
        let answer: wire::Integrations = self.call(call).await?;
        answer.readable().ok_or_else(|| Error::Unexpected {
            status: 200,
            detail: "a body of type application/json in which no integration can be read"
                .to_owned(),
        })
    }

    /// Returns the scopes that an integration requests; `None` if it has none, such as one without OAuth.
    ///
    /// # Errors
    /// [`Error::NotFound`], and [`Error::Unauthorized`] if the key may not read integrations' clients.
    pub async fn integration_scopes(&self, key: &str) -> Result<Option<Vec<String>>, Error> {
        let mut url = self.url(&["integrations", key]);
        url.query_pairs_mut().append_pair("include", "credentials");
        let call = Call::new("get_integration", Method::GET, url);
        let answer: Data<wire::IntegrationClient> = self.call(call).await?;
        Ok(answer.data.scopes())
    }

    /// Returns the URL at which a browser starts the authorization of an OAuth integration. The URL contains the
    /// session's token.
    pub fn oauth_connect_url(&self, integration: &str, session: &Session) -> Url {
        let mut url = at(&self.0.public_url, &["oauth", "connect", integration]);
        url.query_pairs_mut()
            .append_pair("connect_session_token", session.token.expose_secret());
        url
    }

    /// Returns the URL of Nango's own page for a session, for integrations that ask the user for a key or a password.
    /// The page calls the hosted Nango unless the URL names another.
    pub fn connect_link(&self, session: &Session) -> Url {
        let base = self.0.public_url.as_str().trim_end_matches('/');
        let mut url = session.connect_link.clone();
        if base != HOSTED_BASE_URL {
            url.query_pairs_mut().append_pair("apiURL", base);
        }
        url
    }

    /// Returns the URL to which a provider's return to our own domain is redirected. The query is forwarded byte for
    /// byte, as the provider's `state` requires; bytes that are not allowed in a URL are escaped.
    pub fn oauth_callback_url(&self, raw_query: &str) -> String {
        let url = at(&self.0.public_url, &["oauth", "callback"]);
        let query = utf8_percent_encode(raw_query, CONTROLS);
        format!("{url}?{query}")
    }

    /// Returns whether Nango's rate limit admits a call of this priority without a wait. If not, callers should defer
    /// calls that can wait.
    pub fn has_room(&self, priority: Priority) -> bool {
        self.0.budget.has_room(priority)
    }

    /// Returns a pause between background calls, which shrinks with a greater rate limit than the free plan's.
    pub(crate) fn scale_pause(&self, pause: Duration) -> Duration {
        self.0.budget.scale_pause(pause)
    }

    /// Registers the metrics of calls.
    pub fn register_metrics(&self, registry: &mut Registry) {
        self.0.calls.register(registry);
        self.0.budget.register(registry);
    }

    /// Returns `None` for an id that cannot be a path segment, because URLs drop such segments.
    fn connection_url(&self, connection_id: &str, integration: &str) -> Option<Url> {
        if matches!(connection_id, "" | "." | "..") {
            return None;
        }
        let mut url = self.url(&["connections", connection_id]);
        url.query_pairs_mut()
            .append_pair("provider_config_key", integration);
        Some(url)
    }

    fn url(&self, path: &[&str]) -> Url {
        at(&self.0.base_url, path)
    }
}

/// Returns whether paths can be added to a URL, and it may be shown.
fn is_base(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https")
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none()
}

/// Returns a URL with these segments added to its path.
fn at(base: &Url, path: &[&str]) -> Url {
    let mut url = base.clone();
    url.path_segments_mut()
        .expect("an http URL has a path")
        .pop_if_empty()
        .extend(path);
    url
}
