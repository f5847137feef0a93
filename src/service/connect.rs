//! Connect and reconnect: what a user authorizes in the popup.

use std::collections::BTreeMap;

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
use crate::domain::{Actor, Attempt, AttemptKind, Connection, Failure, State};
use crate::nango;
use crate::nango::attempt_poller::{ATTEMPT_TAG, CONNECTION_TAG, INSTALLATION_TAG, USER_TAG};
use crate::nango::{IntegrationDefaults, Session, SessionRequest};

/// How long an attempt is open until Nango has said how long its session lives.
const SESSION_TTL: TimeDelta = TimeDelta::minutes(30);

/// How often a connection is read that is another whenever it is to be written.
const MAX_WRITE_RETRIES: usize = 100;

/// How long after it began an attempt may come back from its provider: the session's time, and as long at the provider.
pub(crate) const RETURN_WINDOW: TimeDelta = TimeDelta::hours(1);

/// What a user asks for with a connect.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ConnectRequest {
    /// Tells several accounts of one connector apart.
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

/// An attempt that has been written down.
struct Begun {
    connection: Connection,
    attempt: Attempt,
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
        let upstream = self.nango_gateway()?;
        let connector = self.connector(connector)?;
        check_parameters(connector, request)?;
        self.check_connectable(upstream, connector).await?;
        let instance = &request.instance_id;
        for tries in 0..MAX_WRITE_RETRIES {
            let mut connection = match self.find_instance(user, connector, instance).await? {
                Some(connection) => connection,
                None => {
                    // A new one is refused where somebody else has made it meanwhile, or the user has too many.
                    if tries > 0 {
                        self.check_connection_limit(user).await?;
                    }
                    self.new_connection(user, connector, instance).await?
                }
            };
            if matches!(connection.state, State::Connected { .. }) {
                return Ok(ConnectOutcome::AlreadyConnected(connection));
            }
            if request.label.is_some() {
                connection.label.clone_from(&request.label);
            }
            merge(&mut connection.config, &request.config)?;
            if let Some(started) = self.start_attempt(connector, &connection, request).await? {
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
        let upstream = self.nango_gateway()?;
        let mut connection = self.find_own(user, id).await?;
        let connector = self.connector(&connection.connector.slug)?;
        check_parameters(connector, request)?;
        self.check_connectable(upstream, connector).await?;
        for _ in 0..MAX_WRITE_RETRIES {
            if let Some(started) = self.start_attempt(connector, &connection, request).await? {
                return self
                    .open_session(upstream, connector, started, request)
                    .await;
            }
            connection = self.find_own(user, id).await?;
        }
        Err(too_many_conflicts())
    }

    /// Binds an attempt to the browser that is given its address, where its provider returns through this service.
    /// Whoever types a key on Nango's own page does not.
    ///
    /// # Errors
    /// When there is no such attempt of this user's, and as the database.
    pub async fn bind_browser(
        &self,
        user: &UserId,
        id: Uuid,
        attempt: Uuid,
        browser: &BrowserToken,
    ) -> Result<()> {
        let connection = self.find_own(user, id).await?;
        if !uses_oauth_popup(self.connector(&connection.connector.slug)?) {
            return Ok(());
        }
        let mut tx = self.begin_single().await?;
        db::bind_attempt(&mut tx, &connection, attempt, browser).await?;
        tx.commit().await?;
        Ok(())
    }

    /// A browser comes back from a provider. Says whether it has begun an attempt that may be what it comes back with.
    ///
    /// # Errors
    /// As the database.
    pub async fn on_provider_return(&self, browser: &BrowserToken) -> Result<bool> {
        let now = self.clock.now();
        let mut tx = self.begin_single().await?;
        let started = db::record_browser_return(&mut tx, browser, now - RETURN_WINDOW, now).await?;
        tx.commit().await?;
        Ok(started)
    }

    /// A user's connection of a connector and instance, if it is there.
    async fn find_instance(
        &self,
        user: &UserId,
        connector: &Connector,
        instance_id: &str,
    ) -> Result<Option<Connection>> {
        let asked = db::ConnectionByInstance {
            user: user.clone(),
            connector: connector.id,
            name: instance_id.to_owned(),
        };
        match self.instances.load(asked).await? {
            Some(row) => Ok(Some(self.with_connector(&row).await?.0)),
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

    /// Writes down that an attempt to authorize a connection begins, which may be a new one. `None` where somebody
    /// has changed it since it was read: then it is to be read again.
    async fn start_attempt(
        &self,
        connector: &Connector,
        connection: &Connection,
        request: &ConnectRequest,
    ) -> Result<Option<Begun>> {
        let now = self.clock.now();
        let attempt = Attempt {
            id: Uuid::now_v7(),
            connection_id: connection.id,
            kind: connection.attempt_kind(),
            expires_at: now + SESSION_TTL,
            outcome: None,
            error: None,
            void: false,
            returned: None,
            created_at: now,
            ended_at: None,
        };
        let has_parameters = !connector.parameters.is_empty();
        let mut tx = if has_parameters {
            self.begin().await?
        } else {
            self.begin_single().await?
        };
        let mut started = connection.attempt_started(now);
        started.context.actor = request.actor;
        let Some(written) =
            db::start_attempt(&mut tx, &started, &attempt, connection.updated_at).await?
        else {
            return Ok(None);
        };
        let mut parameters = BTreeMap::new();
        if has_parameters {
            // After a disconnect, the next account may be another.
            let keep = !matches!(connection.state, State::Disconnected { .. });
            let given = &request.parameters;
            parameters = db::write_parameters(&mut tx, written.id, given, keep).await?;
            connector.retain_parameters(&mut parameters);
        }
        tx.commit().await?;
        Ok(Some(Begun {
            connection: written,
            attempt,
            parameters,
        }))
    }

    /// Refuses a connector that cannot be connected.
    async fn check_connectable(
        &self,
        upstream: &NangoGateway,
        connector: &Connector,
    ) -> Result<()> {
        match connector.availability() {
            Availability::Available => {}
            Availability::Disabled => {
                return Err(Error::ConnectorUnavailable(format!(
                    "{} is switched off",
                    connector.name
                )));
            }
            Availability::Unavailable(reason) => {
                return Err(Error::ConnectorUnavailable(reason.to_owned()));
            }
        }
        match upstream
            .integrations
            .contains(&connector.integration_key)
            .await
        {
            Ok(false) => Err(not_configured(connector)),
            Ok(true) => Ok(()),
            Err(error) => {
                // Whether it is configured, the session's own answer will tell.
                tracing::warn!(%error, "Nango's integrations are not known");
                Ok(())
            }
        }
    }

    /// Asks Nango for a session, and writes down what came of it.
    async fn open_session(
        &self,
        upstream: &NangoGateway,
        connector: &Connector,
        started: Begun,
        request: &ConnectRequest,
    ) -> Result<ConnectOutcome> {
        let Begun {
            connection,
            attempt: started,
            parameters,
        } = started;
        self.counts.attempt_started(started.kind);
        let mut attempt = started.clone();
        // Without a required parameter, Nango's own page asks the user for it.
        let popup = uses_oauth_popup(connector) && connector.has_required_parameters(&parameters);
        let defaults = integration_defaults(request, parameters);
        let session = self.create_session(upstream, connector, &connection, &mut attempt, defaults);
        match session.await {
            Ok(session) => {
                if attempt.kind != started.kind || !expiry_matches(&started, &session) {
                    attempt.expires_at = session.expires_at;
                    let mut tx = self.begin_single().await?;
                    db::update_session(&mut tx, &attempt).await?;
                    tx.commit().await?;
                }
                let url = if popup {
                    upstream
                        .nango
                        .oauth_connect_url(&connector.integration_key, &session)
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
                self.attempt_failed(attempt.id, &Failure::from_session_error(&error))
                    .await?;
                Err(match error {
                    nango::Error::UnknownIntegration => {
                        upstream.integrations.forget(&connector.integration_key);
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
        connection: &Connection,
        attempt: &mut Attempt,
        defaults: IntegrationDefaults,
    ) -> Result<Session, nango::Error> {
        let renewed = connection.state.upstream();
        let renewed = renewed.filter(|_| attempt.kind == AttemptKind::Reconnect);
        let mut asked = SessionRequest {
            reconnects: renewed.map(|existing| existing.id.clone()),
            integration: connector.integration_key.clone(),
            tags: self.tags(connection, attempt),
            webhook_url_override: (!upstream.webhook_urls.are_refused())
                .then(|| self.webhook_url(attempt.id)),
            defaults,
        };
        let mut refusal = None;
        loop {
            match upstream.nango.session(&asked).await {
                Err(nango::Error::UnknownConnection) if asked.reconnects.is_some() => {
                    asked.reconnects = None;
                    attempt.kind = AttemptKind::Connect;
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
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    /// Where Nango tells how an attempt goes: failures come without tags, so the address has to say whose they are.
    fn webhook_url(&self, attempt: Uuid) -> Url {
        let mut url = self.public_url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty()
                .extend(["api", "v1", "webhooks", "nango", &attempt.to_string()]);
        }
        url
    }
}

/// Each time that it is another, somebody else has begun or ended something of it: so often nobody does.
fn too_many_conflicts() -> Error {
    sqlx::Error::Protocol(format!(
        "a connection was another in each of the {MAX_WRITE_RETRIES} times between being read and written"
    ))
    .into()
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
