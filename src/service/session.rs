//! Connect sessions at Nango, in which users authorize.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::TimeDelta;
use tokio::time::Instant;
use url::Url;

use super::connect::{ConnectRequest, StartedAttempt};
use super::core::{Core, NangoGateway, tagged_installation};
use super::{Error, Result};
use crate::catalog::Connector;
use crate::domain::{Attempt, AttemptId, AttemptKind, Connection, Integration};
use crate::nango::attempt_poller::{
    ATTEMPT_TAG, CONNECTION_TAG, CONNECTOR_TAG, INSTALLATION_TAG, INSTANCE_TAG, USER_TAG,
};
use crate::nango::{self, IntegrationDefaults, ListConnections, Session, SessionRequest};

/// The TTL of a refusal. After it, the next session is requested with the webhook URL again.
const REFUSAL_TTL: Duration = Duration::from_secs(10 * 60);

/// The time at which Nango last refused a session's `webhook_url_override`; `None` if it accepted the last one.
#[derive(Debug, Default)]
pub(crate) struct WebhookUrls(Mutex<Option<Instant>>);

impl WebhookUrls {
    /// Returns whether Nango refused the webhook URL within [`REFUSAL_TTL`], so that a session with it would fail
    /// again.
    pub(crate) fn are_refused(&self) -> bool {
        let refused = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        refused.is_some_and(|at| at.elapsed() < REFUSAL_TTL)
    }

    /// Records whether a session was accepted with the webhook URL, or without it after a refusal. Logs the first
    /// refusal.
    pub(crate) fn note(&self, accepted: &SessionRequest, refusal: Option<&nango::Error>) {
        let mut refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if accepted.webhook_url_override.is_some() {
            *refused = None;
        } else if let Some(error) = refusal
            && refused.replace(Instant::now()).is_none()
        {
            tracing::warn!(
                %error,
                "nango refuses the webhook url of a session: grants are detected by polling, denials only when the \
                 session expires. Set PUBLIC_URL to an address that Nango may call, allow private networks with \
                 NANGO_OUTBOUND_URL_POLICY of a self-hosted Nango, or update a Nango that does not support \
                 webhook_url_override"
            );
        }
    }
}

impl NangoGateway {
    /// Returns the kind and the integration of a connection's next attempt. A connection at Nango is reauthorized under
    /// its own integration while Nango has that. Otherwise, the attempt is a new connect with the catalog's
    /// integration. In a copied database, the original's connections are not reauthorized: this would change them and
    /// replace their tags.
    ///
    /// # Errors
    /// [`Error::ConnectorNotConfigured`] if Nango has neither integration; in a copied database, as Nango.
    pub(crate) async fn plan(
        &self,
        connector: &Connector,
        connection: &Connection,
    ) -> Result<(AttemptKind, Integration)> {
        let current = integration_of(connector);
        if let Some(stored) = connection.state.upstream() {
            let integration = &stored.integration;
            if self.is_own(&stored.id).await? && self.has_integration(&integration.key).await {
                return Ok((AttemptKind::Reconnect, integration.clone()));
            }
        }
        if self.has_integration(&current.key).await {
            Ok((AttemptKind::Connect, current))
        } else {
            Err(not_configured(connector))
        }
    }

    /// Returns whether a connection that a row uses belongs to this installation. In a copied database, its tags decide.
    async fn is_own(&self, id: &str) -> Result<bool> {
        let Some(installation) = self.copy else {
            return Ok(true);
        };
        let filter = ListConnections::of_id(id);
        let found = self.nango.connection_page(&filter).await?.connections;
        Ok(found
            .iter()
            .any(|it| tagged_installation(it) == Some(installation)))
    }

    /// Returns whether Nango has this integration. Returns `true` if it is unknown: creating the session then shows it.
    async fn has_integration(&self, key: &str) -> bool {
        let contains = self.integrations.contains(key).await;
        contains.unwrap_or_else(|error| {
            tracing::warn!(%error, "could not list the integrations of nango");
            true
        })
    }
}

/// The factory of connect sessions at Nango.
#[derive(Debug)]
pub(crate) struct ConnectSessions {
    core: Arc<Core>,
    /// The address of this service to which Nango sends webhooks.
    webhook_base_url: Url,
}

impl ConnectSessions {
    pub(crate) fn new(core: Arc<Core>, webhook_base_url: Url) -> Self {
        Self {
            core,
            webhook_base_url,
        }
    }

    /// Creates a session for an attempt. If Nango no longer has the connection to reauthorize, the session creates a
    /// new one, and `started` is changed accordingly. If Nango refuses the webhook URL, the session has none: a grant
    /// is then detected by polling, but a denial only when the session expires.
    ///
    /// # Errors
    /// As the call to Nango.
    pub(crate) async fn create(
        &self,
        upstream: &NangoGateway,
        connector: &Connector,
        started: &mut StartedAttempt,
        defaults: IntegrationDefaults,
    ) -> Result<Session, nango::Error> {
        let current = started.connection.state.upstream();
        let current = current.filter(|_| started.attempt.kind == AttemptKind::Reconnect);
        let mut request = SessionRequest {
            reconnects: current.map(|existing| existing.id.clone()),
            integration: started.integration.key.clone(),
            tags: self.tags(&started.connection, &started.attempt),
            webhook_url_override: (!upstream.webhook_urls.are_refused())
                .then(|| self.webhook_url(started.attempt.id)),
            defaults,
        };
        let mut refusal = None;
        loop {
            match upstream.nango.session(&request).await {
                Err(nango::Error::UnknownConnection) if request.reconnects.is_some() => {
                    started.attempt.kind = AttemptKind::Connect;
                    started.integration = integration_of(connector);
                    request.reconnects = None;
                    request.integration.clone_from(&started.integration.key);
                }
                // Nango may refuse the URL for several reasons: an unknown field, a policy, a list of allowed hosts.
                // The URL is known to be the cause if the same session is accepted without it.
                Err(error) if request.webhook_url_override.is_some() && error.is_refusal() => {
                    request.webhook_url_override = None;
                    refusal = Some(error);
                }
                Ok(session) => {
                    upstream.webhook_urls.note(&request, refusal.as_ref());
                    return Ok(session);
                }
                error => return error,
            }
        }
    }

    /// Returns the tags by which a connection at Nango is recognized later.
    fn tags(&self, connection: &Connection, attempt: &Attempt) -> BTreeMap<String, String> {
        [
            (INSTALLATION_TAG, self.core.installation.to_string()),
            (USER_TAG, connection.user_id.as_str().to_owned()),
            (CONNECTION_TAG, connection.id.to_string()),
            (ATTEMPT_TAG, attempt.id.to_string()),
            (CONNECTOR_TAG, connection.connector.slug.clone()),
            (INSTANCE_TAG, connection.instance_id.clone()),
        ]
        .into_iter()
        .filter(|(name, value)| *name != INSTANCE_TAG || !value.is_empty())
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
    }

    /// Returns the URL for Nango's webhooks of an attempt. It contains the attempt's id, because webhooks of failures
    /// have no tags.
    fn webhook_url(&self, attempt: AttemptId) -> Url {
        let mut url = self.webhook_base_url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty()
                .extend(["api", "v1", "webhooks", "nango", &attempt.to_string()]);
        }
        url
    }
}

/// Returns whether a session expires at the stored expiry of its attempt, or less than five seconds later. Then the
/// stored expiry is not updated.
pub(crate) fn expiry_matches(attempt: &Attempt, session: &Session) -> bool {
    let difference = session.expires_at - attempt.expires_at;
    (TimeDelta::zero()..TimeDelta::seconds(5)).contains(&difference)
}

pub(crate) fn integration_defaults(
    request: &ConnectRequest,
    parameters: BTreeMap<String, String>,
) -> IntegrationDefaults {
    let login_hint = request
        .login_hint
        .iter()
        .map(|hint| ("login_hint".to_owned(), hint.clone()));
    IntegrationDefaults {
        scopes: request.scopes.clone(),
        parameters,
        authorization_params: login_hint.collect(),
    }
}

/// Returns the integration for new connects of a connector.
pub(crate) fn integration_of(connector: &Connector) -> Integration {
    Integration {
        key: connector.integration_key.clone(),
        provider: connector.provider.clone(),
    }
}

pub(crate) fn not_configured(connector: &Connector) -> Error {
    Error::ConnectorNotConfigured {
        connector: connector.name.clone(),
        integration_key: connector.integration_key.clone(),
    }
}
