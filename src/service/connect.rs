//! Connect and reconnect: what a user authorizes in the popup.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use chrono::TimeDelta;
use serde::Serialize;
use serde_json::{Map, Value};
use url::Url;
use uuid::Uuid;

use super::queries::merge;
use super::{Connections, Error, NangoGateway, Result};
use crate::auth::BrowserToken;
use crate::catalog::{AuthMode, Availability, Connector};
use crate::db;
use crate::domain::UserId;
use crate::domain::{Actor, Attempt, AttemptKind, Connection, Failure, Integration, State};
use crate::nango;
use crate::nango::attempt_poller::{
    ATTEMPT_TAG, CONNECTION_TAG, CONNECTOR_TAG, INSTALLATION_TAG, INSTANCE_TAG, USER_TAG,
};
use crate::nango::{IntegrationDefaults, Priority, Session, SessionRequest};

/// How long an attempt is open until Nango has said how long its session lives.
const SESSION_TTL: TimeDelta = TimeDelta::minutes(30);

/// How often a connection is read that is another whenever it is to be written.
const MAX_WRITE_RETRIES: usize = 100;

/// How long after it began an attempt may come back from its provider: the session's time, and as long at the provider.
pub(crate) const RETURN_WINDOW: TimeDelta = TimeDelta::hours(1);

/// What a user asks for with a connect.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ConnectRequest {
    /// Distinguishes several accounts of one connector.
    pub instance_id: String,
    /// What the user calls the connection.
    pub label: Option<String>,
    /// What the product keeps with it.
    pub config: Map<String, Value>,
    /// Scopes to ask for instead of the integration's own.
    pub scopes: Vec<String>,
    /// The account that the provider should offer.
    pub login_hint: Option<String>,
    /// What the provider has to know of the account, by the names of the connector's parameters.
    pub parameters: BTreeMap<String, String>,
    /// Who asks for it. The same request by another is the same.
    #[serde(skip)]
    pub actor: Option<Actor>,
}

/// An attempt that has been written.
#[derive(Clone)]
struct StartedAttempt {
    connection: Connection,
    attempt: Attempt,
    /// The integration of its session.
    integration: Integration,
    /// All that is known of what the provider has to know of the account.
    parameters: BTreeMap<String, String>,
}

/// What came of a connect or reconnect.
#[derive(Debug)]
pub enum ConnectOutcome {
    /// There was nothing to do: the connection works.
    AlreadyConnected(Connection),
    /// The user is to be sent to `url`.
    Started {
        /// The connection that waits for it.
        connection: Connection,
        /// The attempt.
        attempt: Attempt,
        /// Where the popup goes. It holds a session token of Nango's.
        url: Url,
    },
}

impl Connections {
    /// Begins to connect an account, unless it is connected already.
    ///
    /// # Errors
    /// When the connector cannot be connected, the user has too many connections, or Nango does
    /// not begin a session: then the connection says so, and the same may be tried again.
    pub async fn connect(
        &self,
        user: &UserId,
        connector: &str,
        request: &ConnectRequest,
    ) -> Result<ConnectOutcome> {
        let started = self.start_connect(user, connector, request);
        Priority::Connect.scope(started).await
    }

    async fn start_connect(
        &self,
        user: &UserId,
        connector: &str,
        request: &ConnectRequest,
    ) -> Result<ConnectOutcome> {
        let upstream = self.nango_gateway()?;
        self.brakes.require_environment().await?;
        let connector = &self.connector(connector).await?;
        check_parameters(connector, request)?;
        available(connector)?;
        let instance = &request.instance_id;
        for tries in 0..MAX_WRITE_RETRIES {
            let (mut connection, open) = match self.find_instance(user, connector, instance).await?
            {
                Some((connection, newest)) => (connection, open_attempt(newest)),
                None => {
                    // A new connection is refused if another request has created it meanwhile, or the user has too
                    // many.
                    if tries > 0 {
                        self.check_connection_limit(user).await?;
                    }
                    (self.new_connection(user, connector, instance).await?, None)
                }
            };
            // What Nango does not have at the moment may be gone: its user decides.
            let is_present = connection.absences.is_empty();
            if is_present && matches!(connection.state, State::Connected { .. }) {
                return Ok(ConnectOutcome::AlreadyConnected(connection));
            }
            if request.label.is_some() {
                connection.label.clone_from(&request.label);
            }
            merge(&mut connection.config, &request.config)?;
            let session = self.plan(upstream, connector, &connection).await?;
            let request = &*self.with_earlier_scopes(&connection, request).await?;
            if let Some(started) = self
                .start_attempt(connector, &connection, open, session, request)
                .await?
            {
                return self
                    .open_session(upstream, connector, started, request)
                    .await;
            }
        }
        Err(too_many_conflicts())
    }

    /// Begins to authorize a connection again, whether or not it works.
    ///
    /// # Errors
    /// As [`Connections::connect`], and when there is no such connection.
    pub async fn reconnect(
        &self,
        user: &UserId,
        id: Uuid,
        request: &ConnectRequest,
    ) -> Result<ConnectOutcome> {
        let started = self.start_reconnect(user, id, request);
        Priority::Connect.scope(started).await
    }

    async fn start_reconnect(
        &self,
        user: &UserId,
        id: Uuid,
        request: &ConnectRequest,
    ) -> Result<ConnectOutcome> {
        let upstream = self.nango_gateway()?;
        self.brakes.require_environment().await?;
        for _ in 0..MAX_WRITE_RETRIES {
            let (connection, newest) = self.find_with_attempt(user, id).await?;
            let connector = &self.connector_of(&connection).await?;
            check_parameters(connector, request)?;
            available(connector)?;
            let session = self.plan(upstream, connector, &connection).await?;
            let open = open_attempt(newest);
            let request = &*self.with_earlier_scopes(&connection, request).await?;
            if let Some(started) = self
                .start_attempt(connector, &connection, open, session, request)
                .await?
            {
                return self
                    .open_session(upstream, connector, started, request)
                    .await;
            }
        }
        Err(too_many_conflicts())
    }

    /// Binds an attempt to the browser that receives its URL, if its provider returns through this service. An attempt
    /// on Nango's own page, where the user enters a key, is not bound.
    ///
    /// # Errors
    /// If the user has no such attempt, and as the database.
    pub async fn bind_browser(
        &self,
        user: &UserId,
        id: Uuid,
        attempt: Uuid,
        browser: &BrowserToken,
    ) -> Result<()> {
        let connection = self.find_own(user, id).await?;
        if !uses_oauth_popup(&self.connector_of(&connection).await?) {
            return Ok(());
        }
        let mut tx = self.begin_single().await?;
        db::bind_attempt(&mut tx, &connection, attempt, browser).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Records that a browser returns from a provider. Returns whether it has started an attempt that this may be the
    /// return of.
    ///
    /// # Errors
    /// As the database.
    pub async fn on_provider_return(&self, browser: &BrowserToken) -> Result<bool> {
        let now = self.clock.now();
        let mut tx = self.begin_single().await?;
        let attempts = db::attempts_of_browser(&mut tx, browser, now).await?;
        tx.commit().await?;
        let mut of_user: HashMap<UserId, Vec<(Uuid, Uuid)>> = HashMap::new();
        for one in attempts {
            let own = of_user.entry(one.user).or_default();
            own.push((one.attempt_id, one.connection_id));
        }
        let mut started = false;
        for (user, attempts) in of_user {
            let mut tx = self.begin_single().await?;
            started |= db::record_browser_return(&mut tx, &user, &attempts, now).await?;
            tx.commit().await?;
        }
        Ok(started)
    }

    /// Returns the connector of a connection. One whose integration was deleted at Nango has left the catalog.
    pub(super) async fn connector_of(&self, connection: &Connection) -> Result<Connector> {
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

    /// Returns the request with the scopes of the authorization that it renews, unless it names others.
    async fn with_earlier_scopes<'a>(
        &self,
        connection: &Connection,
        request: &'a ConnectRequest,
    ) -> Result<Cow<'a, ConnectRequest>> {
        let mut request = Cow::Borrowed(request);
        if request.scopes.is_empty() && connection.state.upstream().is_some() {
            let mut tx = self.begin_single().await?;
            let scopes = db::granted_attempt_scopes(&mut tx, connection).await?;
            tx.commit().await?;
            if let Some(scopes) = scopes {
                request.to_mut().scopes = scopes;
            }
        }
        Ok(request)
    }

    /// A user's connection of a connector and instance, if it is there, with its newest attempt.
    async fn find_instance(
        &self,
        user: &UserId,
        connector: &Connector,
        instance_id: &str,
    ) -> Result<Option<db::ConnectionWithAttempt>> {
        let asked = db::ConnectionByInstance {
            user: user.clone(),
            connector: connector.id,
            name: instance_id.to_owned(),
        };
        match self.instances.load(asked).await? {
            Some(row) => Ok(Some(self.with_connector(&row).await?)),
            None => Ok(None),
        }
    }

    /// A connection that its first attempt makes.
    async fn new_connection(
        &self,
        user: &UserId,
        connector: &Connector,
        instance_id: &str,
    ) -> Result<Connection> {
        let reference = self.connectors.get(connector.id).await?;
        let reference =
            reference.ok_or_else(|| Error::ConnectorNotFound(connector.slug.clone()))?;
        let instance_id = instance_id.to_owned();
        Ok(Connection::new(
            user.clone(),
            reference,
            instance_id,
            self.clock.now(),
        ))
    }

    /// Refuses a user who has as many connections as one may have.
    async fn check_connection_limit(&self, user: &UserId) -> Result<()> {
        let mut tx = self.begin_single().await?;
        let count = db::count(&mut tx, user, &db::Filter::default()).await?;
        tx.commit().await?;
        let most = db::MAX_CONNECTIONS_PER_USER;
        if count < most {
            return Ok(());
        }
        Err(Error::Invalid(format!(
            "a user may have {most} connections, those that have ended included: connect one of them again"
        )))
    }

    /// What the next attempt of a connection authorizes. What Nango holds is authorized again under the integration that
    /// it was made with, for as long as Nango has that; the catalog's integration is for new connects.
    pub(super) async fn plan(
        &self,
        upstream: &NangoGateway,
        connector: &Connector,
        connection: &Connection,
    ) -> Result<(AttemptKind, Integration)> {
        let current = integration_of(connector);
        if let Some(stored) = connection.state.upstream() {
            let integration = &stored.integration;
            if has_integration(upstream, &integration.key).await {
                return Ok((AttemptKind::Reconnect, integration.clone()));
            }
        }
        if has_integration(upstream, &current.key).await {
            Ok((AttemptKind::Connect, current))
        } else {
            Err(not_configured(connector))
        }
    }

    /// Writes the start of an attempt for a connection, which may be new, and supersedes the open attempt. Returns
    /// `None` if the connection has changed since it was read: then the caller reads it again.
    async fn start_attempt(
        &self,
        connector: &Connector,
        connection: &Connection,
        supersedes: Option<Uuid>,
        (kind, integration): (AttemptKind, Integration),
        request: &ConnectRequest,
    ) -> Result<Option<StartedAttempt>> {
        let now = self.clock.now();
        let attempt = Attempt {
            id: Uuid::now_v7(),
            connection_id: connection.id,
            kind,
            expires_at: now + SESSION_TTL,
            outcome: None,
            error: None,
            invalidated: false,
            returned: None,
            created_at: now,
            ended_at: None,
        };
        let new = db::NewAttempt {
            attempt: &attempt,
            integration: &integration,
            kept_until: now + RETURN_WINDOW,
            supersedes,
        };
        let has_parameters = !connector.parameters.is_empty();
        let mut tx = if has_parameters || !request.scopes.is_empty() {
            self.begin().await?
        } else {
            self.begin_single().await?
        };
        let mut started = connection.attempt_started(now);
        started.context.actor = request.actor;
        let Some(written) =
            db::start_attempt(&mut tx, &started, &new, connection.updated_at).await?
        else {
            return Ok(None);
        };
        if !request.scopes.is_empty() {
            db::write_attempt_scopes(&mut tx, &connection.user_id, attempt.id, &request.scopes)
                .await?;
        }
        let mut parameters = BTreeMap::new();
        if has_parameters {
            // After a disconnect, the next account may be another.
            let keep = !matches!(connection.state, State::Disconnected { .. });
            let given = &request.parameters;
            parameters = db::write_parameters(&mut tx, &written, given, keep).await?;
            connector.retain_parameters(&mut parameters);
        }
        tx.commit().await?;
        Ok(Some(StartedAttempt {
            connection: written,
            attempt,
            integration,
            parameters,
        }))
    }

    /// Asks Nango for a session, and writes down what came of it.
    async fn open_session(
        &self,
        upstream: &NangoGateway,
        connector: &Connector,
        started: StartedAttempt,
        request: &ConnectRequest,
    ) -> Result<ConnectOutcome> {
        self.counts.attempt_started(started.attempt.kind);
        // Without a required parameter, Nango's own page asks the user for it.
        let popup =
            uses_oauth_popup(connector) && connector.has_required_parameters(&started.parameters);
        let defaults = integration_defaults(request, started.parameters.clone());
        let mut opened = started.clone();
        match self
            .create_session(upstream, connector, &mut opened, defaults)
            .await
        {
            Ok(session) => {
                let StartedAttempt {
                    connection,
                    mut attempt,
                    integration,
                    parameters: _,
                } = opened;
                if attempt.kind != started.attempt.kind
                    || !expiry_matches(&started.attempt, &session)
                {
                    attempt.expires_at = session.expires_at;
                    let mut tx = self.begin_single().await?;
                    db::update_session(&mut tx, &connection.user_id, &attempt, &integration)
                        .await?;
                    tx.commit().await?;
                }
                let url = if popup {
                    upstream.nango.oauth_connect_url(&integration.key, &session)
                } else {
                    upstream.nango.connect_link(&session)
                };
                Ok(ConnectOutcome::Started {
                    connection,
                    attempt,
                    url,
                })
            }
            Err(error) => {
                let (user, failure) = (
                    &started.connection.user_id,
                    Failure::from_session_error(&error),
                );
                self.attempt_failed(user, started.attempt.id, &failure)
                    .await?;
                Err(match error {
                    nango::Error::UnknownIntegration => {
                        upstream.integrations.forget(&opened.integration.key);
                        not_configured(connector)
                    }
                    error => error.into(),
                })
            }
        }
    }

    /// Creates a session for an attempt: of a new connection if Nango no longer has the one to renew, and without an
    /// address for its webhooks if Nango refuses that. Without webhooks a denial is only found by its expiry; a grant is
    /// found all the same.
    async fn create_session(
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
            (INSTALLATION_TAG, self.installation.to_string()),
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
    fn webhook_url(&self, attempt: Uuid) -> Url {
        let mut url = self.webhook_base_url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty()
                .extend(["api", "v1", "webhooks", "nango", &attempt.to_string()]);
        }
        url
    }
}

/// The connection changed before each write, because of concurrent requests. So many conflicts are not expected.
fn too_many_conflicts() -> Error {
    sqlx::Error::InvalidArgument(format!(
        "a connection was another in each of the {MAX_WRITE_RETRIES} times between being read and written"
    ))
    .into()
}

/// Refuses a connector that cannot be connected.
fn available(connector: &Connector) -> Result<()> {
    match connector.availability() {
        Availability::Available => Ok(()),
        Availability::Disabled => Err(Error::ConnectorUnavailable(format!(
            "{} is switched off",
            connector.name
        ))),
        Availability::Unavailable(reason) => Err(Error::ConnectorUnavailable(reason.to_owned())),
    }
}

/// Returns whether Nango has this integration. If that is not known, the call that starts the session shows it.
async fn has_integration(upstream: &NangoGateway, key: &str) -> bool {
    let known = upstream.integrations.contains(key).await;
    known.unwrap_or_else(|error| {
        tracing::warn!(%error, "Nango's integrations are not known");
        true
    })
}

/// The integration of a connector's new connects.
fn integration_of(connector: &Connector) -> Integration {
    Integration {
        key: connector.integration_key.clone(),
        provider: connector.provider.clone(),
    }
}

/// The newest attempt, if it is open.
fn open_attempt(newest: Option<Attempt>) -> Option<Uuid> {
    let open = newest.filter(|attempt| attempt.outcome.is_none());
    open.map(|attempt| attempt.id)
}

/// Whether a session ends when its attempt was written down to end, or so little later that it is
/// not worth writing down again.
fn expiry_matches(attempt: &Attempt, session: &Session) -> bool {
    let later = session.expires_at - attempt.expires_at;
    (TimeDelta::zero()..TimeDelta::seconds(5)).contains(&later)
}

fn integration_defaults(
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

/// Refuses parameters that the connector does not have, or that have not the right form.
fn check_parameters(connector: &Connector, request: &ConnectRequest) -> Result<()> {
    let checked = connector.check_parameters(&request.parameters);
    checked.map_err(Error::Invalid)
}

/// Whether Nango has an `/oauth/connect` for it; the others ask for a key or a password on Nango's page.
fn uses_oauth_popup(connector: &Connector) -> bool {
    matches!(
        connector.auth_mode,
        Some(AuthMode::Oauth1 | AuthMode::Oauth2)
    )
}

fn not_configured(connector: &Connector) -> Error {
    Error::ConnectorNotConfigured {
        connector: connector.name.clone(),
        integration_key: connector.integration_key.clone(),
    }
}
