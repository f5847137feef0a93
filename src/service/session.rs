//! Nango's sessions, in which users authorize.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::TimeDelta;
use tokio::time::Instant;
use url::Url;

use super::connect::{ConnectRequest, StartedAttempt};
use super::core::{Core, NangoGateway};
use super::{Error, Result};
use crate::catalog::Connector;
use crate::domain::{Attempt, AttemptId, AttemptKind, Connection, Integration};
use crate::nango;
use crate::nango::attempt_poller::{
    ATTEMPT_TAG, CONNECTION_TAG, CONNECTOR_TAG, INSTALLATION_TAG, INSTANCE_TAG, USER_TAG,
};
use crate::nango::{IntegrationDefaults, Session, SessionRequest};

/// How long a refusal is remembered. After that one session tries the address again.
const REFUSAL_TTL: Duration = Duration::from_secs(10 * 60);

/// The last answer of Nango to an address in `webhook_url_override`.
#[derive(Debug, Default)]
pub(crate) struct WebhookUrls(Mutex<Option<Instant>>);

impl WebhookUrls {
    /// Returns whether Nango refused the address a short while ago. A session with it would be a call in vain.
    pub(crate) fn are_refused(&self) -> bool {
        let refused = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        refused.is_some_and(|at| at.elapsed() < REFUSAL_TTL)
    }

    /// Remembers how a session was accepted: with the address, or without it after a refusal. A refusal is logged
    /// when it begins.
    pub(crate) fn note(&self, accepted: &SessionRequest, refusal: Option<&nango::Error>) {
        let mut refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if accepted.webhook_url_override.is_some() {
            *refused = None;
        } else if let Some(error) = refusal
            && refused.replace(Instant::now()).is_none()
        {
            tracing::warn!(
                %error,
                "nango refuses the webhook url of a session: authorizations are found by polling, denials only when \
                 their session expires. Give PUBLIC_URL an address that Nango may call, admit private networks with \
                 NANGO_OUTBOUND_URL_POLICY of a self-hosted Nango, or update a Nango that does not know \
                 webhook_url_override"
            );
        }
    }
}

impl NangoGateway {
    /// What the next attempt of a connection authorizes. What Nango holds is authorized again under the integration that
    /// it was made with, for as long as Nango has that; the catalog's integration is for new connects.
    pub(crate) async fn plan(
        &self,
        connector: &Connector,
        connection: &Connection,
    ) -> Result<(AttemptKind, Integration)> {
        let current = integration_of(connector);
        if let Some(stored) = connection.state.upstream() {
            let integration = &stored.integration;
            if self.has_integration(&integration.key).await {
                return Ok((AttemptKind::Reconnect, integration.clone()));
            }
        }
        if self.has_integration(&current.key).await {
            Ok((AttemptKind::Connect, current))
        } else {
            Err(not_configured(connector))
        }
    }

    /// Returns whether Nango has this integration. If that is not known, the call that starts the session shows it.
    async fn has_integration(&self, key: &str) -> bool {
        let known = self.integrations.contains(key).await;
        known.unwrap_or_else(|error| {
            tracing::warn!(%error, "Nango's integrations are not known");
            true
        })
    }
}

/// Creates sessions at Nango.
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

    /// Creates a session for an attempt: of a new connection if Nango no longer has the one to renew, and without an
    /// address for its webhooks if Nango refuses that. Without webhooks a denial is only found by its expiry; a grant is
    /// found all the same.
    pub(crate) async fn create(
        &self,
        upstream: &NangoGateway,
        connector: &Connector,
        started: &mut StartedAttempt,
        defaults: IntegrationDefaults,
    ) -> Result<Session, nango::Error> {
        let renewed = started.connection.state.upstream();
        let renewed = renewed.filter(|_| started.attempt.kind == AttemptKind::Reconnect);
        let mut asked = SessionRequest {
            reconnects: renewed.map(|existing| existing.id.clone()),
            integration: started.integration.key.clone(),
            tags: self.tags(&started.connection, &started.attempt),
            webhook_url_override: (!upstream.webhook_urls.are_refused())
                .then(|| self.webhook_url(started.attempt.id)),
            defaults,
        };
        let mut refusal = None;
        loop {
            match upstream.nango.session(&asked).await {
                Err(nango::Error::UnknownConnection) if asked.reconnects.is_some() => {
                    started.attempt.kind = AttemptKind::Connect;
                    started.integration = integration_of(connector);
                    asked.reconnects = None;
                    asked.integration.clone_from(&started.integration.key);
                }
                // Nango has many reasons to refuse the address: an unknown field, a policy, a list of allowed hosts.
                // That it was the address is certain when the same session is accepted without it.
                Err(error) if asked.webhook_url_override.is_some() && error.is_refusal() => {
                    asked.webhook_url_override = None;
                    refusal = Some(error);
                }
                Ok(session) => {
                    upstream.webhook_urls.note(&asked, refusal.as_ref());
                    return Ok(session);
                }
                error => return error,
            }
        }
    }

    /// What Nango keeps with a connection for us to know it again.
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

    /// Returns the URL for Nango's webhooks of an attempt. Failures come without tags, so the URL contains the
    /// attempt's id.
    fn webhook_url(&self, attempt: AttemptId) -> Url {
        let mut url = self.webhook_base_url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty()
                .extend(["api", "v1", "webhooks", "nango", &attempt.to_string()]);
        }
        url
    }
}

/// Whether a session ends when its attempt was written down to end, or so little later that it is
/// not worth writing down again.
pub(crate) fn expiry_matches(attempt: &Attempt, session: &Session) -> bool {
    let later = session.expires_at - attempt.expires_at;
    (TimeDelta::zero()..TimeDelta::seconds(5)).contains(&later)
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

/// The integration of a connector's new connects.
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
