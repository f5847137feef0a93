//! Tokens for workflows: one upstream call however many ask, and a precise reason why not.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::core::Core;
use super::credential_check::{CredentialChecker, CredentialHealth, MIN_CHECK_INTERVAL};
use super::current_catalog::CurrentCatalog;
use super::reader::ConnectionReader;
use super::token_cache::TokenCache;
use super::token_errors::{check_scopes, check_usable, refusal, select_connection};
use super::{Error, Result};
use crate::db;
use crate::db::batch::BatchLoader;
use crate::db::token_accesses::Purpose;
use crate::domain::UserId;
use crate::domain::{Connection, ConnectionId};
use crate::nango;
use crate::nango::proxy::ProxyAnswer;
use crate::nango::proxy::ProxyCall;
use crate::nango::{Credentials, Priority, Refresh};
use crate::telemetry::TRACES;

/// A cached token is not returned if it expires within this time.
const EXPIRY_MARGIN: Duration = Duration::from_secs(5 * 60);

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
    pub(super) good_for: Duration,
}

/// Issues tokens to services, and calls providers for them.
#[derive(Debug)]
pub struct TokenIssuer {
    core: Arc<Core>,
    catalog: Arc<CurrentCatalog>,
    reader: Arc<ConnectionReader>,
    checks: Arc<CredentialChecker>,
    versions: BatchLoader<db::ConnectionVersion>,
    uses: BatchLoader<db::Used>,
    cache: TokenCache,
    /// The TTL of the cache; zero disables it.
    ttl: Duration,
}

impl TokenIssuer {
    pub(crate) fn new(
        core: Arc<Core>,
        catalog: Arc<CurrentCatalog>,
        reader: Arc<ConnectionReader>,
        checks: Arc<CredentialChecker>,
        ttl: Duration,
    ) -> Self {
        Self {
            versions: BatchLoader::new(&core.database),
            uses: BatchLoader::new(&core.database),
            cache: TokenCache::new(),
            core,
            catalog,
            reader,
            checks,
            ttl,
        }
    }

    /// A live token of a user's connection, for the service named.
    ///
    /// # Errors
    /// Why there is none: see [`Error`].
    #[tracing::instrument(target = TRACES, name = "issue_token", skip_all, fields(connection = %id))]
    pub async fn token(
        &self,
        user: &UserId,
        id: ConnectionId,
        required_scopes: &[String],
        service: &str,
    ) -> Result<Arc<Token>> {
        let asked = self
            .versions
            .load(db::ConnectionVersion(user.clone(), id))
            .await?;
        let version = asked.ok_or(Error::ConnectionNotFound)?;
        let token = if let Some(token) = self.cache.held.get(&(id, version)).await {
            self.core.counts.token_served(false);
            token
        } else {
            let connection = self.reader.find_own(user, id).await?;
            self.usable_token(connection).await?
        };
        self.issue(token, required_scopes, service).await
    }

    /// The same of the user's connection of a connector: of the instance named, or of the only one.
    ///
    /// # Errors
    /// [`Error::AmbiguousConnection`] rather than a guess.
    #[tracing::instrument(target = TRACES, name = "issue_token_of_connector", skip_all)]
    pub async fn token_of_connector(
        &self,
        user: &UserId,
        connector: &str,
        instance_id: Option<&str>,
        required_scopes: &[String],
        service: &str,
    ) -> Result<Arc<Token>> {
        let connector = self.catalog.connector(connector).await?;
        let all = self.reader.of_connector(user, connector.id).await?;
        let connection =
            select_connection(all, instance_id)?.ok_or_else(|| Error::NotConnected {
                connector: connector.slug.clone(),
                detail: format!("the user has not connected {}", connector.name),
            })?;
        let token = self.usable_token(connection).await?;
        self.issue(token, required_scopes, service).await
    }

    /// Checks a token's scopes and records that it is issued.
    async fn issue(
        &self,
        token: Arc<Token>,
        required_scopes: &[String],
        service: &str,
    ) -> Result<Arc<Token>> {
        check_scopes(&token, required_scopes)?;
        self.record_access(&token.connection, service, Purpose::Token)
            .await?;
        Ok(token)
    }

    /// Returns a token of a connection, whose dead credentials are tried again first if that is due.
    async fn usable_token(&self, connection: Connection) -> Result<Arc<Token>> {
        let token = Priority::Token.scope(async {
            let connection = self.retried(connection).await;
            self.cached_token(&connection).await
        });
        // Boxed, because it is large, and rare: a request's future is moved before it runs.
        Box::pin(token).await
    }

    /// Tries dead credentials again if that is due, while Nango's rate limit leaves room for it. Returns the connection as
    /// it is then.
    async fn retried(&self, connection: Connection) -> Connection {
        if !connection.is_retry_due(self.core.clock.now()) || !self.core.has_room(Priority::Check) {
            return connection;
        }
        match Box::pin(self.checks.check_connection(&connection)).await {
            Ok((_, Some(checked))) => checked,
            _ => connection,
        }
    }

    async fn cached_token(&self, connection: &Connection) -> Result<Arc<Token>> {
        self.check_usable(connection).await?;
        let key = (connection.id, connection.version);
        let mut asked_nango = false;
        let asked = self.cache.held.try_get_with(key, async {
            asked_nango = true;
            self.fetch_token(connection).await
        });
        // Apart, for it is large, and rare: a request's future is moved about before it is run.
        let token = Box::pin(asked)
            .await
            .map_err(|error| Error::clone(&error))?;
        self.core.counts.token_served(asked_nango);
        Ok(token)
    }

    /// Asks Nango for a token, for all who wait for it; finds out why there is none.
    async fn fetch_token(&self, connection: &Connection) -> Result<Arc<Token>> {
        let credentials = match self.core.at_nango(connection, Refresh::WhenDue).await {
            // Nango gives what it cannot refresh as it is, however long it has been over.
            Ok(found) if found.credentials.are_expired(self.core.clock.now()) => {
                self.token_error(connection, None).await?;
                self.core.credentials(connection, Refresh::WhenDue).await?
            }
            Ok(found) => {
                if connection.failing_since.is_some()
                    && self.checks.has_recovered(connection, &found).await?
                {
                    // They may have become another account's.
                    check_usable(
                        &self
                            .reader
                            .find_own(&connection.user_id, connection.id)
                            .await?,
                    )?;
                }
                found.credentials
            }
            Err(error) => {
                self.token_error(connection, Some(error)).await?;
                // It was refreshed after all.
                self.core.credentials(connection, Refresh::WhenDue).await?
            }
        };
        let good_for = match &credentials {
            Credentials::OAuth2 {
                expires_at: Some(at),
                ..
            } => remaining(*at, self.core.clock.now()).min(self.ttl),
            _ => self.ttl,
        };
        Ok(Arc::new(Token {
            connection: connection.clone(),
            id: credentials.fingerprint().unwrap_or_default(),
            credentials,
            good_for,
        }))
    }

    /// Refuses a connection that has no token to give, and says why.
    async fn check_usable(&self, connection: &Connection) -> Result<()> {
        let upstream = self.core.nango_gateway()?;
        let refused = check_usable(connection);
        let Err(Error::NeedsReauthorization { .. }) = &refused else {
            return refused;
        };
        // An integration that was deleted at Nango has taken its connections with it: none can be authorized again.
        let connector = &self.catalog.connector_of(connection).await?;
        match upstream.plan(connector, connection).await {
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
        let recently = self.core.clock.now() - MIN_CHECK_INTERVAL;
        let checked = connection
            .last_checked_at
            .is_some_and(|checked| checked >= recently);
        let is_in_doubt = connection.failing_since.is_some() || !connection.absences.is_empty();
        if is_in_doubt && checked {
            // An outage is not asked about by every workflow that meets it.
            return Err(Error::ProviderUnavailable);
        }
        match self.checks.check_connection(connection).await? {
            (CredentialHealth::Working(_), _) => Ok(()),
            (_, checked) => Err(refusal(checked.as_ref())),
        }
    }

    /// A provider refused a token: has it refreshed, unless that was done since. Says whether it was. What cannot be
    /// refreshed, as an API key, has to be authorized again.
    ///
    /// # Errors
    /// As [`Self::token`].
    #[tracing::instrument(target = TRACES, skip_all, fields(connection = %id))]
    pub async fn token_refused(
        &self,
        user: &UserId,
        id: ConnectionId,
        token_id: &str,
    ) -> Result<bool> {
        let refused = self.handle_refused_token(user, id, token_id);
        Priority::Token.scope(refused).await
    }

    async fn handle_refused_token(
        &self,
        user: &UserId,
        id: ConnectionId,
        token_id: &str,
    ) -> Result<bool> {
        let connection = self.reader.find_own(user, id).await?;
        self.check_usable(&connection).await?;
        // What the first of several reports has done; the others have nothing to do.
        let mut refreshed = false;
        let report = (id, token_id.to_owned());
        let reported = self.cache.reports.try_get_with(report, async {
            refreshed = self.refresh_refused(&connection, token_id).await?;
            let now = self.core.clock.now();
            // The new version invalidates the old token in the caches of all replicas.
            self.checks
                .apply_if_unchanged(&connection, None, |connection| {
                    connection.token_refreshed(now)
                })
                .await
                .map(|_| ())
        });
        reported.await.map_err(|error| Error::clone(&error))?;
        Ok(refreshed)
    }

    async fn refresh_refused(&self, connection: &Connection, token_id: &str) -> Result<bool> {
        let current = match self.core.credentials(connection, Refresh::WhenDue).await {
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
        match self.core.credentials(connection, Refresh::Force).await {
            Ok(new) if new.fingerprint().as_deref() == Some(token_id) => {
                // There was nothing to refresh it by, and the provider does not take it: no other will come.
                let now = self.core.clock.now();
                let (refusals, is_dead) = connection.refused(now);
                let refused = |connection: &Connection| {
                    if is_dead {
                        connection.credentials_dead(now)
                    } else {
                        connection.credentials_failing(now)
                    }
                };
                let refused = self
                    .checks
                    .apply_if_unchanged(connection, Some(refusals), refused);
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
    /// As [`Self::token`]; what the provider answers is no error.
    #[tracing::instrument(target = TRACES, name = "call_provider", skip_all, fields(connection = %id))]
    pub async fn proxy(
        &self,
        user: &UserId,
        id: ConnectionId,
        service: &str,
        call: ProxyCall,
    ) -> Result<ProxyAnswer> {
        let answer = self.call_provider(user, id, service, call);
        Priority::Token.scope(answer).await
    }

    async fn call_provider(
        &self,
        user: &UserId,
        id: ConnectionId,
        service: &str,
        call: ProxyCall,
    ) -> Result<ProxyAnswer> {
        let upstream = self.core.nango_gateway()?;
        let connection = self.reader.find_own(user, id).await?;
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
                let explained = self.cache.reports.try_get_with(failed, explained);
                Box::pin(explained)
                    .await
                    .map_err(|error| Error::clone(&error))?;
                // The call cannot be repeated here, for its body is gone.
                Err(Error::ProviderUnavailable)
            }
            answer => {
                let answer = answer?;
                self.core.end_absence(&connection).await?;
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
            at: self.core.clock.now(),
        };
        if self.uses.load(used).await? {
            Ok(())
        } else {
            Err(Error::ConnectionNotFound)
        }
    }
}

/// How long a token is good for out of memory, that ends at `at`.
fn remaining(at: DateTime<Utc>, now: DateTime<Utc>) -> Duration {
    (at - now)
        .to_std()
        .unwrap_or_default()
        .saturating_sub(EXPIRY_MARGIN)
}
