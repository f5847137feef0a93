//! Connect and reconnect: what a user authorizes in the popup.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use chrono::TimeDelta;
use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::connection_config::merge;
use super::core::{Core, NangoGateway};
use super::current_catalog::CurrentCatalog;
use super::idempotency::{IdempotencyKeys, fingerprint};
use super::reader::ConnectionReader;
use super::reconcile::Reconciler;
use super::session::{ConnectSessions, expiry_matches, integration_defaults, not_configured};
use super::{Error, Result};
use crate::auth::BrowserToken;
use crate::catalog::{AuthMode, Availability, Connector};
use crate::db;
use crate::domain::{
    Actor, Attempt, AttemptId, AttemptKind, Connection, ConnectionId, Failure, Integration, State,
    UserId,
};
use crate::nango;
use crate::nango::Priority;
use crate::telemetry::TRACES;
use crate::views::ConnectAnswer;

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
    /// The browser that the attempt is bound to; `None` if browsers are not distinguished.
    #[serde(skip)]
    pub browser: Option<BrowserToken>,
    /// The client's `Idempotency-Key`: a repeated request with it gets the first response.
    #[serde(skip)]
    pub idempotency_key: Option<String>,
}

/// An attempt that has been written.
#[derive(Clone)]
pub(crate) struct StartedAttempt {
    pub(crate) connection: Connection,
    pub(crate) attempt: Attempt,
    /// The integration of its session.
    pub(crate) integration: Integration,
    /// All that is known of what the provider has to know of the account.
    parameters: BTreeMap<String, String>,
}

/// Starts to connect and to reconnect accounts.
#[derive(Debug)]
pub struct ConnectFlow {
    pub(crate) core: Arc<Core>,
    pub(crate) catalog: Arc<CurrentCatalog>,
    pub(crate) reader: Arc<ConnectionReader>,
    pub(crate) reconciler: Arc<Reconciler>,
    pub(crate) keys: IdempotencyKeys,
    pub(crate) sessions: ConnectSessions,
}

impl ConnectFlow {
    /// Begins to connect an account, unless it is connected already.
    ///
    /// # Errors
    /// When the connector cannot be connected, the user has too many connections, or Nango does
    /// not begin a session: then the connection says so, and the same may be tried again.
    #[tracing::instrument(target = TRACES, skip_all)]
    pub async fn connect(
        &self,
        user: &UserId,
        connector: &str,
        request: &ConnectRequest,
    ) -> Result<ConnectAnswer> {
        let started = Box::pin(self.start_connect(user, connector, request));
        self.run(user, &("connect", connector), request, started)
            .await
    }

    async fn start_connect(
        &self,
        user: &UserId,
        connector: &str,
        request: &ConnectRequest,
    ) -> Result<ConnectAnswer> {
        let upstream = self.core.nango_gateway()?;
        self.core.brakes.require_environment().await?;
        let connector = &self.catalog.connector(connector).await?;
        check_parameters(connector, request)?;
        available(connector)?;
        let instance = &request.instance_id;
        for tries in 0..MAX_WRITE_RETRIES {
            let (mut connection, open) = match self
                .reader
                .find_instance(user, connector.id, instance)
                .await?
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
                return Ok(ConnectAnswer::new(&connection, None));
            }
            if request.label.is_some() {
                connection.label.clone_from(&request.label);
            }
            merge(&mut connection.config, &request.config)?;
            let session = upstream.plan(connector, &connection).await?;
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
    /// As [`Self::connect`], and when there is no such connection.
    #[tracing::instrument(target = TRACES, skip_all, fields(connection = %id))]
    pub async fn reconnect(
        &self,
        user: &UserId,
        id: ConnectionId,
        request: &ConnectRequest,
    ) -> Result<ConnectAnswer> {
        let started = Box::pin(self.start_reconnect(user, id, request));
        self.run(user, &("reconnect", id), request, started).await
    }

    async fn start_reconnect(
        &self,
        user: &UserId,
        id: ConnectionId,
        request: &ConnectRequest,
    ) -> Result<ConnectAnswer> {
        let upstream = self.core.nango_gateway()?;
        self.core.brakes.require_environment().await?;
        for _ in 0..MAX_WRITE_RETRIES {
            let (connection, newest) = self.reader.find_with_attempt(user, id).await?;
            let connector = &self.catalog.connector_of(&connection).await?;
            check_parameters(connector, request)?;
            available(connector)?;
            let session = upstream.plan(connector, &connection).await?;
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

    /// Returns the request with the scopes of the authorization that it renews, unless it names others.
    async fn with_earlier_scopes<'a>(
        &self,
        connection: &Connection,
        request: &'a ConnectRequest,
    ) -> Result<Cow<'a, ConnectRequest>> {
        let mut request = Cow::Borrowed(request);
        if request.scopes.is_empty() && connection.state.upstream().is_some() {
            let mut tx = self.core.begin_single().await?;
            let scopes = db::granted_attempt_scopes(&mut tx, connection).await?;
            tx.commit().await?;
            if let Some(scopes) = scopes {
                request.to_mut().scopes = scopes;
            }
        }
        Ok(request)
    }

    /// A connection that its first attempt makes.
    async fn new_connection(
        &self,
        user: &UserId,
        connector: &Connector,
        instance_id: &str,
    ) -> Result<Connection> {
        let reference = self.reader.connectors.get(connector.id).await?;
        let reference =
            reference.ok_or_else(|| Error::ConnectorNotFound(connector.slug.clone()))?;
        let instance_id = instance_id.to_owned();
        Ok(Connection::new(
            user.clone(),
            reference,
            instance_id,
            self.core.clock.now(),
        ))
    }

    /// Refuses a user who has as many connections as one may have.
    async fn check_connection_limit(&self, user: &UserId) -> Result<()> {
        let mut tx = self.core.begin_single().await?;
        let count = db::count(&mut tx, user).await?;
        tx.commit().await?;
        let most = db::MAX_CONNECTIONS_PER_USER;
        if count < most {
            return Ok(());
        }
        Err(Error::Invalid(format!(
            "a user may have {most} connections, those that have ended included: connect one of them again"
        )))
    }

    /// Writes the start of an attempt for a connection, which may be new, and supersedes the open attempt. Returns
    /// `None` if the connection has changed since it was read: then the caller reads it again.
    async fn start_attempt(
        &self,
        connector: &Connector,
        connection: &Connection,
        supersedes: Option<AttemptId>,
        (kind, integration): (AttemptKind, Integration),
        request: &ConnectRequest,
    ) -> Result<Option<StartedAttempt>> {
        let now = self.core.clock.now();
        let attempt = Attempt {
            id: AttemptId(Uuid::now_v7()),
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
            self.core.begin().await?
        } else {
            self.core.begin_single().await?
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
    ) -> Result<ConnectAnswer> {
        self.core.counts.attempt_started(started.attempt.kind);
        // Without a required parameter, Nango's own page asks the user for it.
        let popup =
            uses_oauth_popup(connector) && connector.has_required_parameters(&started.parameters);
        let defaults = integration_defaults(request, started.parameters.clone());
        let mut opened = started.clone();
        match self
            .sessions
            .create(upstream, connector, &mut opened, defaults)
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
                    let mut tx = self.core.begin_single().await?;
                    db::update_session(&mut tx, &connection.user_id, &attempt, &integration)
                        .await?;
                    tx.commit().await?;
                }
                let url = if popup {
                    upstream.nango.oauth_connect_url(&integration.key, &session)
                } else {
                    upstream.nango.connect_link(&session)
                };
                Ok(ConnectAnswer::new(&connection, Some((attempt, url))))
            }
            Err(error) => {
                let (user, failure) = (
                    &started.connection.user_id,
                    Failure::from_session_error(&error),
                );
                self.reconciler
                    .attempt_failed(user, started.attempt.id, &failure)
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

    /// Runs `work` once for each idempotency key, and binds its attempt to the request's browser.
    async fn run(
        &self,
        user: &UserId,
        operation: &impl Serialize,
        request: &ConnectRequest,
        work: impl Future<Output = Result<ConnectAnswer>>,
    ) -> Result<ConnectAnswer> {
        let work = Priority::Connect.scope(work);
        let key = request.idempotency_key.as_deref();
        let answer = match key {
            Some(key) => {
                let fingerprint = fingerprint(&(operation, request));
                self.keys.run(user, key, &fingerprint, work).await?
            }
            None => work.await?,
        };
        if let (Some(attempt), Some(browser)) = (answer.attempt_id, &request.browser) {
            self.bind_browser(user, answer.connection_id, attempt, browser)
                .await?;
        }
        Ok(answer)
    }

    /// Binds an attempt to the browser that receives its URL, if its provider returns through this service. An attempt
    /// on Nango's own page, where the user enters a key, is not bound.
    ///
    /// # Errors
    /// If the user has no such attempt, and as the database.
    async fn bind_browser(
        &self,
        user: &UserId,
        id: ConnectionId,
        attempt: AttemptId,
        browser: &BrowserToken,
    ) -> Result<()> {
        let connection = self.reader.find_own(user, id).await?;
        if !uses_oauth_popup(&self.catalog.connector_of(&connection).await?) {
            return Ok(());
        }
        let mut tx = self.core.begin_single().await?;
        db::bind_attempt(&mut tx, &connection, attempt, browser).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Records that a browser returns from a provider. Returns whether it has started an attempt that this may be the
    /// return of.
    ///
    /// # Errors
    /// As the database.
    #[tracing::instrument(target = TRACES, skip_all)]
    pub async fn on_provider_return(&self, browser: &BrowserToken) -> Result<bool> {
        let now = self.core.clock.now();
        let mut tx = self.core.begin_single().await?;
        let attempts = db::attempts_of_browser(&mut tx, browser, now).await?;
        tx.commit().await?;
        let mut of_user: HashMap<UserId, Vec<(AttemptId, ConnectionId)>> = HashMap::new();
        for one in attempts {
            let own = of_user.entry(one.user).or_default();
            own.push((one.attempt_id, one.connection_id));
        }
        let mut started = false;
        for (user, attempts) in of_user {
            let mut tx = self.core.begin_single().await?;
            started |= db::record_browser_return(&mut tx, &user, &attempts, now).await?;
            tx.commit().await?;
        }
        Ok(started)
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

/// The newest attempt, if it is open.
fn open_attempt(newest: Option<Attempt>) -> Option<AttemptId> {
    let open = newest.filter(|attempt| attempt.outcome.is_none());
    open.map(|attempt| attempt.id)
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
