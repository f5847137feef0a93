//! Tokens for workflows: one upstream call however many ask, and a precise reason why not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use moka::Expiry;
use moka::future::Cache;
use uuid::Uuid;

use super::credential_check::{CredentialHealth, MIN_CHECK_INTERVAL};
use super::{Connections, Error, Result};
use crate::catalog::scopes;
use crate::db;
use crate::db::token_accesses::Purpose;
use crate::domain::UserId;
use crate::domain::{Connection, Reason, State};
use crate::nango;
use crate::nango::proxy::ProxyAnswer;
use crate::nango::proxy::ProxyCall;
use crate::nango::{Credentials, Priority, Refresh};

/// A cached token is not returned if it expires within this time.
const EXPIRY_MARGIN: Duration = Duration::from_secs(5 * 60);

/// How many tokens are held in memory at the most.
const CACHE_CAPACITY: u64 = 50_000;

/// What a workflow is given.
#[derive(Debug)]
pub struct Token {
    /// The token's connection, in the version that the token is cached for.
    pub connection: Connection,
    /// The credentials; for OAuth the access token and when it ends.
    pub credentials: Credentials,
    /// A digest that names the token without telling it: to be sent back should the provider refuse it.
    pub id: String,
    /// How long it may be cached.
    good_for: Duration,
}

/// Tokens held in memory for a short while. One call to Nango serves all who ask at once.
///
/// A token is held for one version of its connection: whatever changes the
/// connection, on whichever replica, empties it everywhere.
#[derive(Debug)]
pub(crate) struct TokenCache {
    held: Cache<(Uuid, i64), Arc<Token>>,
    /// What was reported of a connection and has been looked at: a refused token, or a failed call through the proxy.
    reports: Cache<(Uuid, String), ()>,
}

struct TokenExpiry;

impl Expiry<(Uuid, i64), Arc<Token>> for TokenExpiry {
    fn expire_after_create(
        &self,
        _: &(Uuid, i64),
        stored: &Arc<Token>,
        _: Instant,
    ) -> Option<Duration> {
        Some(stored.good_for)
    }
}

impl TokenCache {
    pub(crate) fn new() -> Self {
        Self {
            held: Cache::builder()
                .max_capacity(CACHE_CAPACITY)
                .expire_after(TokenExpiry)
                .build(),
            // A report is one report, however many workers of a workflow send it.
            reports: Cache::builder()
                .max_capacity(CACHE_CAPACITY)
                .time_to_live(Duration::from_secs(60))
                .build(),
        }
    }
}

impl Connections {
    /// A live token of a user's connection, for the service named.
    ///
    /// # Errors
    /// Why there is none: see [`Error`].
    pub async fn token(
        &self,
        user: &UserId,
        id: Uuid,
        required_scopes: &[String],
        service: &str,
    ) -> Result<Arc<Token>> {
        let asked = self
            .versions
            .load(db::ConnectionVersion(user.clone(), id))
            .await?;
        let version = asked.ok_or(Error::ConnectionNotFound)?;
        let token = if let Some(token) = self.tokens.held.get(&(id, version)).await {
            self.counts.token_served(false);
            token
        } else {
            let connection = self.find_own(user, id).await?;
            let token = Priority::Token.scope(async {
                let connection = self.retried(connection).await;
                self.cached_token(&connection).await
            });
            Box::pin(token).await?
        };
        check_scopes(&token, required_scopes)?;
        self.record_access(&token.connection, service, Purpose::Token)
            .await?;
        Ok(token)
    }

    /// The same of the user's connection of a connector: of the instance named, or of the only one.
    ///
    /// # Errors
    /// [`Error::AmbiguousConnection`] rather than a guess.
    pub async fn token_of_connector(
        &self,
        user: &UserId,
        connector: &str,
        instance_id: Option<&str>,
        required_scopes: &[String],
        service: &str,
    ) -> Result<Arc<Token>> {
        let connector = self.connector(connector).await?;
        let filter = db::Filter {
            connector_id: Some(connector.id),
            ..db::Filter::default()
        };
        let all = self.list_all(user, &filter).await?;
        let connection =
            select_connection(all, instance_id)?.ok_or_else(|| Error::NotConnected {
                connector: connector.slug.clone(),
                detail: format!("the user has not connected {}", connector.name),
            })?;
        let token = Priority::Token.scope(async {
            let connection = self.retried(connection).await;
            self.cached_token(&connection).await
        });
        let token = Box::pin(token).await?;
        check_scopes(&token, required_scopes)?;
        self.record_access(&token.connection, service, Purpose::Token)
            .await?;
        Ok(token)
    }

    /// Tries dead credentials again if that is due, while Nango's rate limit leaves room for it. Returns the connection as
    /// it is then.
    async fn retried(&self, connection: Connection) -> Connection {
        if !connection.is_retry_due(self.clock.now()) || !self.has_room(Priority::Check) {
            return connection;
        }
        match Box::pin(self.check_connection(&connection)).await {
            Ok((_, Some(checked))) => checked,
            _ => connection,
        }
    }

    async fn cached_token(&self, connection: &Connection) -> Result<Arc<Token>> {
        self.check_usable(connection).await?;
        let key = (connection.id, connection.version);
        let mut asked_nango = false;
        let asked = self.tokens.held.try_get_with(key, async {
            asked_nango = true;
            self.fetch_token(connection).await
        });
        // Apart, for it is large, and rare: a request's future is moved about before it is run.
        let token = Box::pin(asked)
            .await
            .map_err(|error| Error::clone(&error))?;
        self.counts.token_served(asked_nango);
        Ok(token)
    }

    /// Asks Nango for a token, for all who wait for it; finds out why there is none.
    async fn fetch_token(&self, connection: &Connection) -> Result<Arc<Token>> {
        let credentials = match self.at_nango(connection, Refresh::WhenDue).await {
            // Nango gives what it cannot refresh as it is, however long it has been over.
            Ok(found) if found.credentials.are_expired(self.clock.now()) => {
                self.token_error(connection, None).await?;
                self.credentials(connection, Refresh::WhenDue).await?
            }
            Ok(found) => {
                if connection.failing_since.is_some()
                    && self.has_recovered(connection, &found).await?
                {
                    // They may have become another account's.
                    check_usable(&self.find_own(&connection.user_id, connection.id).await?)?;
                }
                found.credentials
            }
            Err(error) => {
                self.token_error(connection, Some(error)).await?;
                // It was refreshed after all.
                self.credentials(connection, Refresh::WhenDue).await?
            }
        };
        let good_for = match &credentials {
            Credentials::OAuth2 {
                expires_at: Some(at),
                ..
            } => remaining(*at, self.clock.now()).min(self.token_cache),
            _ => self.token_cache,
        };
        Ok(Arc::new(Token {
            connection: connection.clone(),
            id: credentials.fingerprint().unwrap_or_default(),
            credentials,
            good_for,
        }))
    }

    /// Returns the credentials that Nango holds of a connection, refreshed if need be.
    pub(crate) async fn credentials(
        &self,
        connection: &Connection,
        refresh: Refresh,
    ) -> Result<Credentials, nango::Error> {
        Ok(self.at_nango(connection, refresh).await?.credentials)
    }

    /// Returns what Nango holds of a connection, its credentials refreshed if need be.
    async fn at_nango(
        &self,
        connection: &Connection,
        refresh: Refresh,
    ) -> Result<nango::Connection, nango::Error> {
        let (Some(upstream), Some(stored)) = (&self.upstream, connection.state.upstream()) else {
            return Err(nango::Error::NotFound);
        };
        let key = &stored.integration.key;
        let found = upstream.nango.connection(&stored.id, key, refresh).await?;
        if let Err(error) = self.end_absence(connection).await {
            // The next look-up records it.
            tracing::warn!(connection = %connection.id, %error, "could not record that nango has a connection again");
        }
        Ok(found)
    }

    /// Refuses a connection that has no token to give, and says why.
    async fn check_usable(&self, connection: &Connection) -> Result<()> {
        let upstream = self.nango_gateway()?;
        let refused = check_usable(connection);
        let Err(Error::NeedsReauthorization { .. }) = &refused else {
            return refused;
        };
        // An integration that was deleted at Nango has taken its connections with it: none can be authorized again.
        let connector = &self.connector_of(connection).await?;
        match self.plan(upstream, connector, connection).await {
            Err(not_configured) => Err(not_configured),
            Ok(_) => refused,
        }
    }

    /// Why Nango gave no token, or one that is over: finds out whether the connection is dead or its provider is out
    /// of order.
    ///
    /// # Errors
    /// Always the reason, but when a check has found that the connection works.
    async fn token_error(
        &self,
        connection: &Connection,
        error: Option<nango::Error>,
    ) -> Result<()> {
        match error {
            None | Some(nango::Error::InvalidCredentials { .. } | nango::Error::NotFound) => {}
            Some(error) => return Err(error.into()),
        }
        let recently = self.clock.now() - MIN_CHECK_INTERVAL;
        let checked = connection
            .last_checked_at
            .is_some_and(|checked| checked >= recently);
        let is_in_doubt = connection.failing_since.is_some() || !connection.absences.is_empty();
        if is_in_doubt && checked {
            // An outage is not asked about by every workflow that meets it.
            return Err(Error::ProviderUnavailable);
        }
        match self.check_connection(connection).await? {
            (CredentialHealth::Working(_), _) => Ok(()),
            (_, checked) => Err(refusal(checked.as_ref())),
        }
    }

    /// A provider refused a token: has it refreshed, unless that was done since. Says whether it was. What cannot be
    /// refreshed, as an API key, has to be authorized again.
    ///
    /// # Errors
    /// As [`Connections::token`].
    pub async fn token_refused(&self, user: &UserId, id: Uuid, token_id: &str) -> Result<bool> {
        let refused = self.handle_refused_token(user, id, token_id);
        Priority::Token.scope(refused).await
    }

    async fn handle_refused_token(&self, user: &UserId, id: Uuid, token_id: &str) -> Result<bool> {
        let connection = self.find_own(user, id).await?;
        self.check_usable(&connection).await?;
        // What the first of several reports has done; the others have nothing to do.
        let mut refreshed = false;
        let report = (id, token_id.to_owned());
        let reported = self.tokens.reports.try_get_with(report, async {
            refreshed = self.refresh_refused(&connection, token_id).await?;
            let now = self.clock.now();
            // The new version invalidates the old token in the caches of all replicas.
            self.apply_if_unchanged(&connection, None, |connection| {
                connection.token_refreshed(now)
            })
            .await
            .map(|_| ())
        });
        reported.await.map_err(|error| Error::clone(&error))?;
        Ok(refreshed)
    }

    async fn refresh_refused(&self, connection: &Connection, token_id: &str) -> Result<bool> {
        let current = match self.credentials(connection, Refresh::WhenDue).await {
            Ok(current) => current,
            Err(error) => {
                return self
                    .token_error(connection, Some(error))
                    .await
                    .map(|()| true);
            }
        };
        if current.fingerprint().as_deref() != Some(token_id) {
            // Nango has already refreshed it by itself, without a notification.
            return Ok(false);
        }
        match self.credentials(connection, Refresh::Force).await {
            Ok(new) if new.fingerprint().as_deref() == Some(token_id) => {
                // There was nothing to refresh it by, and the provider does not take it: no other will come.
                let now = self.clock.now();
                let (refusals, is_dead) = connection.refused(now);
                let refused = |connection: &Connection| {
                    if is_dead {
                        connection.credentials_dead(now)
                    } else {
                        connection.credentials_failing(now)
                    }
                };
                let refused = self.apply_if_unchanged(connection, Some(refusals), refused);
                Err(refusal(refused.await?.as_ref()))
            }
            Ok(_) => Ok(true),
            Err(error) => self
                .token_error(connection, Some(error))
                .await
                .map(|()| true),
        }
    }

    /// Calls the provider's API with a connection's credentials, which Nango adds. If Nango has none, finds out why, as
    /// for a token.
    ///
    /// # Errors
    /// As [`Connections::token`]; what the provider answers is no error.
    pub async fn proxy(
        &self,
        user: &UserId,
        id: Uuid,
        service: &str,
        call: ProxyCall,
    ) -> Result<ProxyAnswer> {
        let answer = self.call_provider(user, id, service, call);
        Priority::Token.scope(answer).await
    }

    async fn call_provider(
        &self,
        user: &UserId,
        id: Uuid,
        service: &str,
        call: ProxyCall,
    ) -> Result<ProxyAnswer> {
        let upstream = self.nango_gateway()?;
        let connection = self.find_own(user, id).await?;
        self.check_usable(&connection).await?;
        let stored = connection
            .state
            .upstream()
            .ok_or(Error::ConnectionNotFound)?;
        let key = &stored.integration.key;
        // Recorded before the call: the caller may disconnect while it is in progress.
        self.record_access(&connection, service, Purpose::Proxy)
            .await?;
        match upstream.nango.proxy(&stored.id, key, call).await {
            Err(error @ (nango::Error::InvalidCredentials { .. } | nango::Error::NotFound)) => {
                // One check for all calls that fail at once, and none for a minute after it has refreshed the credentials.
                let failed = (id, format!("proxy of version {}", connection.version));
                let explained = self.token_error(&connection, Some(error));
                let explained = self.tokens.reports.try_get_with(failed, explained);
                Box::pin(explained)
                    .await
                    .map_err(|error| Error::clone(&error))?;
                // The call cannot be repeated here, for its body is gone.
                Err(Error::ProviderUnavailable)
            }
            answer => {
                let answer = answer?;
                self.end_absence(&connection).await?;
                Ok(answer)
            }
        }
    }

    /// Writes down that a service is given a token, or uses one, together with all other uses that wait: what could not
    /// be written is not given.
    ///
    /// # Errors
    /// When the connection is gone, and as the database.
    async fn record_access(
        &self,
        connection: &Connection,
        service: &str,
        purpose: Purpose,
    ) -> Result<()> {
        let used = db::Used {
            user: connection.user_id.clone(),
            connection: connection.id,
            service: service.to_owned(),
            purpose,
            at: self.clock.now(),
        };
        if self.uses.load(used).await? {
            Ok(())
        } else {
            Err(Error::ConnectionNotFound)
        }
    }
}

/// The connection that is meant: never a guess among several.
fn select_connection(
    mut all: Vec<Connection>,
    instance_id: Option<&str>,
) -> Result<Option<Connection>> {
    if let Some(instance_id) = instance_id {
        return Ok(all
            .into_iter()
            .find(|connection| connection.instance_id == instance_id));
    }
    all.retain(|connection| !matches!(connection.state, State::Disconnected { .. }));
    // One that was never connected is not in the way of one that is.
    if all
        .iter()
        .any(|connection| connection.state.upstream().is_some())
    {
        all.retain(|connection| connection.state.upstream().is_some());
    }
    match all.len() {
        0 | 1 => Ok(all.pop()),
        _ => Err(Error::AmbiguousConnection(
            all.iter().map(|connection| connection.id).collect(),
        )),
    }
}

/// Refuses a connection that has no token to give, and says why.
pub(crate) fn check_usable(connection: &Connection) -> Result<()> {
    let not_connected = |detail: String| {
        Err(Error::NotConnected {
            connector: connection.connector.slug.clone(),
            detail,
        })
    };
    let name = &connection.connector.name;
    match &connection.state {
        State::Connected { .. } => Ok(()),
        State::Error {
            reason: Reason::AccountMismatch,
            ..
        } => Err(Error::AccountMismatch),
        // Credentials that had failed before an attempt still do after it, however it ended.
        State::Pending { previous: Some(_) }
        | State::Error {
            upstream: Some(_), ..
        } => Err(needs_reauthorization(connection)),
        State::Pending { previous: None } => {
            not_connected(format!("{name} still waits for the user's authorization"))
        }
        State::Disconnected { .. } => not_connected(format!("the user has disconnected {name}")),
        State::Error { reason, .. } => {
            not_connected(format!("{name} could not be connected: {reason}"))
        }
    }
}

/// Why a connection whose credentials were just refused has no token: it is dead, or that is not certain yet.
fn refusal(checked: Option<&Connection>) -> Error {
    match checked {
        Some(connection) => check_usable(connection)
            .err()
            .unwrap_or(Error::ProviderUnavailable),
        None => Error::ConnectionNotFound,
    }
}

/// Refuses a token that lacks scopes which a workflow requires. Where the provider does not say what was granted, nothing is
/// known to be missing.
fn check_scopes(token: &Token, required: &[String]) -> Result<()> {
    let of_token = match &token.credentials {
        Credentials::OAuth2 { scope, .. } => scope.as_deref().map(scopes::split),
        _ => None,
    };
    let of_token = of_token.filter(|scopes| !scopes.is_empty());
    let Some(granted) = of_token.or_else(|| token.connection.scopes.clone()) else {
        return Ok(());
    };
    let missing = scopes::missing(required, &granted);
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::InsufficientScope {
        connection_id: token.connection.id,
        connector: token.connection.connector.name.clone(),
        missing,
    })
}

fn needs_reauthorization(connection: &Connection) -> Error {
    Error::NeedsReauthorization {
        connection_id: connection.id,
        connector: connection.connector.name.clone(),
    }
}

/// How long a token is good for out of memory, that ends at `at`.
fn remaining(at: DateTime<Utc>, now: DateTime<Utc>) -> Duration {
    (at - now)
        .to_std()
        .unwrap_or_default()
        .saturating_sub(EXPIRY_MARGIN)
}
