//! Connect and reconnect: both start an authorization that the user completes in a popup.

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
use crate::catalog::{Availability, Connector};
use crate::db;
use crate::db::Transaction;
use crate::domain::{
    Actor, Attempt, AttemptId, AttemptKind, Connection, ConnectionId, Failure, Integration, State,
    UserId,
};
use crate::nango::{self, Priority};
use crate::telemetry::TRACES;
use crate::views::ConnectAnswer;

/// The expiry of a new attempt, until Nango has reported the expiry of its session.
const SESSION_TTL: TimeDelta = TimeDelta::minutes(30);

/// The maximum number of optimistic writes of one connection. Each repeats the read after a concurrent change.
const MAX_WRITE_RETRIES: usize = 100;

/// The time after its start during which an attempt may return from the provider: the session's lifetime, and as long
/// again for the provider's pages.
pub(crate) const RETURN_WINDOW: TimeDelta = TimeDelta::hours(1);

/// The parameters of a connect or reconnect.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ConnectRequest {
    /// The instance, which distinguishes several accounts of one connector; empty for the first.
    pub instance_id: String,
    /// The user's name for the connection.
    pub label: Option<String>,
    /// The product's own data, stored with the connection.
    pub config: Map<String, Value>,
    /// The scopes to request instead of the integration's own.
    pub scopes: Vec<String>,
    /// The account that the provider should preselect.
    pub login_hint: Option<String>,
    /// Values of the connector's parameters by name, such as the account's subdomain.
    pub parameters: BTreeMap<String, String>,
    /// The caller. Not part of the idempotency fingerprint.
    #[serde(skip)]
    pub actor: Option<Actor>,
    /// The browser that the attempt is bound to; `None` if browsers are not distinguished.
    #[serde(skip)]
    pub browser: Option<BrowserToken>,
    /// The client's `Idempotency-Key`. A repeated request with the same key gets the first response.
    #[serde(skip)]
    pub idempotency_key: Option<String>,
}

/// A stored attempt with its connection.
#[derive(Clone)]
pub(crate) struct StartedAttempt {
    pub(crate) connection: Connection,
    pub(crate) attempt: Attempt,
    /// The integration of its session.
    pub(crate) integration: Integration,
    /// All stored parameters of the connection, including those of earlier requests.
    parameters: BTreeMap<String, String>,
}

/// The use cases that start a connect or a reconnect.
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
    /// Starts to connect an account, unless it is already connected.
    ///
    /// # Errors
    /// If the connector cannot be connected, the user has too many connections, or Nango does not create a session. In
    /// the last case the connection stores the failure, and the request can be retried.
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
        check_available(connector)?;
        let instance = &request.instance_id;
        for tries in 0..MAX_WRITE_RETRIES {
            let (mut connection, open) = match self
                .reader
                .find_instance(user, connector.id, instance)
                .await?
            {
                Some((connection, newest)) => (connection, open_attempt(newest)),
                None => {
                    // The last insert failed because another request has created the connection, or the user has too
                    // many.
                    if tries > 0 {
                        self.check_connection_limit(user).await?;
                    }
                    (self.new_connection(user, connector, instance).await?, None)
                }
            };
            // If Nango did not have the connection at the last check, the user may authorize it again.
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
            let is_counted = tries > 0 && connection.version == 0;
            if let Some(started) = self
                .start_attempt(connector, &connection, open, session, request, is_counted)
                .await?
            {
                return self
                    .open_session(upstream, connector, started, request)
                    .await;
            }
        }
        Err(too_many_conflicts())
    }

    /// Starts to reauthorize a connection, in any state.
    ///
    /// # Errors
    /// As [`Self::connect`], or if the user has no such connection.
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
            check_available(connector)?;
            let session = upstream.plan(connector, &connection).await?;
            let open = open_attempt(newest);
            let request = &*self.with_earlier_scopes(&connection, request).await?;
            if let Some(started) = self
                .start_attempt(connector, &connection, open, session, request, false)
                .await?
            {
                return self
                    .open_session(upstream, connector, started, request)
                    .await;
            }
        }
        Err(too_many_conflicts())
    }

    /// Returns the request. If it names no scopes and Nango has the connection, adds those that the last granted
    /// attempt requested.
    async fn with_earlier_scopes<'a>(
        &self,
        connection: &Connection,
        request: &'a ConnectRequest,
    ) -> Result<Cow<'a, ConnectRequest>> {
        let mut request = Cow::Borrowed(request);
        if request.scopes.is_empty() && connection.state.upstream().is_some() {
            let scopes = db::granted_attempt_scopes(&self.core.database, connection).await?;
            if let Some(scopes) = scopes {
                request.to_mut().scopes = scopes;
            }
        }
        Ok(request)
    }

    /// Returns a new connection. Its first attempt stores it.
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

    /// Returns an error if the user already has the maximum number of connections.
    async fn check_connection_limit(&self, user: &UserId) -> Result<()> {
        let count = db::count(&self.core.database, user).await?;
        let max = db::MAX_CONNECTIONS_PER_USER;
        if count < max {
            return Ok(());
        }
        Err(Error::Invalid(format!(
            "a user may have at most {max} connections, including disconnected and removed ones. Connect one of these \
             again, with its connector and `instance_id`."
        )))
    }

    /// Stores a new attempt of a connection, which may be new as well, and supersedes the open attempt. Returns `None`
    /// if the connection has changed since it was read, or if it is new, not `is_counted`, and the user has many. The
    /// caller then reads it again.
    async fn start_attempt(
        &self,
        connector: &Connector,
        connection: &Connection,
        supersedes: Option<AttemptId>,
        (kind, integration): (AttemptKind, Integration),
        request: &ConnectRequest,
        is_counted: bool,
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
        let mut started = connection.attempt_started(now);
        started.context.actor = request.actor;
        let read = connection.updated_at;
        let mut parameters = BTreeMap::new();
        let mut most = db::MAX_UNLOCKED_CONNECTIONS;
        let has_options = !connector.parameters.is_empty() || !request.scopes.is_empty();
        let written = if !is_counted && !has_options {
            db::start_attempt(&self.core.database, &started, &new, read, most).await?
        } else {
            let mut tx = self.core.begin().await?;
            if is_counted {
                db::lock_new_connections(&mut tx, &connection.user_id).await?;
                most = db::MAX_CONNECTIONS_PER_USER;
            }
            let written = db::start_attempt(&mut tx, &started, &new, read, most).await?;
            if let Some(written) = &written {
                // After a disconnect, the user may connect another account, so earlier parameters are dropped.
                let keep_stored = !matches!(connection.state, State::Disconnected { .. });
                let options = (connector, request);
                parameters =
                    write_options(&mut tx, written, attempt.id, options, keep_stored).await?;
            }
            tx.commit().await?;
            written
        };
        Ok(written.map(|connection| StartedAttempt {
            connection,
            attempt,
            integration,
            parameters,
        }))
    }

    /// Creates a session at Nango and returns its URL. If that fails, the failure is stored with the attempt.
    async fn open_session(
        &self,
        upstream: &NangoGateway,
        connector: &Connector,
        started: StartedAttempt,
        request: &ConnectRequest,
    ) -> Result<ConnectAnswer> {
        self.core.counts.attempt_started(started.attempt.kind);
        // If a required parameter is missing, the user enters it on Nango's own page.
        let popup =
            connector.uses_oauth_popup() && connector.has_required_parameters(&started.parameters);
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
                    db::update_session(
                        &self.core.database,
                        &connection.user_id,
                        &attempt,
                        &integration,
                    )
                    .await?;
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

    /// Runs `work`, once for each idempotency key, and binds the started attempt to the request's browser.
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

    /// Binds an attempt to the browser that receives its URL, if the provider's redirect passes through this service.
    /// An attempt on Nango's own page, where the user enters a key, is not bound.
    ///
    /// # Errors
    /// If the user has no such attempt, or the database fails.
    async fn bind_browser(
        &self,
        user: &UserId,
        id: ConnectionId,
        attempt: AttemptId,
        browser: &BrowserToken,
    ) -> Result<()> {
        let connection = self.reader.find_own(user, id).await?;
        if !self
            .catalog
            .connector_of(&connection)
            .await?
            .uses_oauth_popup()
        {
            return Ok(());
        }
        Ok(db::bind_attempt(&self.core.database, &connection, attempt, browser).await?)
    }

    /// Records that a browser has returned from a provider. Returns `true` if the browser has started an attempt that
    /// can still be granted.
    ///
    /// # Errors
    /// If the database fails.
    #[tracing::instrument(target = TRACES, skip_all)]
    pub async fn on_provider_return(&self, browser: &BrowserToken) -> Result<bool> {
        let now = self.core.clock.now();
        let attempts = db::attempts_of_browser(&self.core.database, browser, now).await?;
        let mut attempts_by_user: HashMap<UserId, Vec<(AttemptId, ConnectionId)>> = HashMap::new();
        for attempt in attempts {
            let own = attempts_by_user.entry(attempt.user).or_default();
            own.push((attempt.attempt_id, attempt.connection_id));
        }
        let mut started = false;
        for (user, attempts) in attempts_by_user {
            started |=
                db::record_browser_return(&self.core.database, &user, &attempts, now).await?;
        }
        Ok(started)
    }
}

/// Stores the scopes and parameters of a started attempt. Returns the connection's parameters.
async fn write_options(
    tx: &mut Transaction,
    connection: &Connection,
    attempt: AttemptId,
    (connector, request): (&Connector, &ConnectRequest),
    keep_stored: bool,
) -> Result<BTreeMap<String, String>> {
    if !request.scopes.is_empty() {
        db::write_attempt_scopes(&mut *tx, &connection.user_id, attempt, &request.scopes).await?;
    }
    if connector.parameters.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut stored = db::write_parameters(tx, connection, &request.parameters, keep_stored).await?;
    connector.retain_parameters(&mut stored);
    Ok(stored)
}

/// Returns the error for a connection that concurrent requests changed before each of the [`MAX_WRITE_RETRIES`] writes.
fn too_many_conflicts() -> Error {
    sqlx::Error::InvalidArgument(format!(
        "a connection changed between read and write in each of {MAX_WRITE_RETRIES} tries"
    ))
    .into()
}

/// Returns an error if the connector cannot be connected.
fn check_available(connector: &Connector) -> Result<()> {
    match connector.availability() {
        Availability::Available => Ok(()),
        Availability::Disabled => Err(Error::ConnectorUnavailable(format!(
            "{} is switched off",
            connector.name
        ))),
        Availability::Unavailable(reason) => Err(Error::ConnectorUnavailable(reason.to_owned())),
    }
}

/// Returns the id of the newest attempt if it is open.
fn open_attempt(newest: Option<Attempt>) -> Option<AttemptId> {
    let open = newest.filter(|attempt| attempt.outcome.is_none());
    open.map(|attempt| attempt.id)
}

/// Returns an error if the connector does not have one of the parameters, or its value is not valid.
fn check_parameters(connector: &Connector, request: &ConnectRequest) -> Result<()> {
    let checked = connector.check_parameters(&request.parameters);
    checked.map_err(Error::Invalid)
}
