//! Tokens for services and workflows. Concurrent requests share one call to Nango, and each error has a precise reason.

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
use crate::domain::{Connection, ConnectionId, Revision, UserId};
use crate::nango::proxy::{ProxyAnswer, ProxyCall};
use crate::nango::{self, Credentials, Priority, Refresh};
use crate::telemetry::TRACES;

/// The time before its expiry at which a token is evicted from the cache.
const EXPIRY_MARGIN: Duration = Duration::from_secs(5 * 60);

/// A token that is issued to a service.
#[derive(Debug)]
pub struct Token {
    /// The token's connection, in the revision that the token is cached for.
    pub connection: Connection,
    /// The credentials; for OAuth, the access token and its expiry.
    pub credentials: Credentials,
    /// A digest that identifies the token without revealing it. Services report a rejected token by it.
    pub id: String,
    /// The TTL in the cache.
    pub(super) good_for: Duration,
}

/// The use cases for tokens, and for calls to providers on behalf of services.
#[derive(Debug)]
pub struct TokenIssuer {
    core: Arc<Core>,
    catalog: Arc<CurrentCatalog>,
    reader: Arc<ConnectionReader>,
    checks: Arc<CredentialChecker>,
    revisions: BatchLoader<db::ConnectionRevision>,
    accesses: BatchLoader<db::Used>,
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
            revisions: BatchLoader::new(&core.database),
            accesses: BatchLoader::new(&core.database),
            cache: TokenCache::new(),
            core,
            catalog,
            reader,
            checks,
            ttl,
        }
    }

    /// Returns a valid token of a user's connection, and records that `service` accessed it.
    ///
    /// # Errors
    /// The reason for which no token can be issued: see [`Error`].
    #[tracing::instrument(target = TRACES, name = "issue_token", skip_all, fields(connection = %id))]
    pub async fn token(
        &self,
        user: &UserId,
        id: ConnectionId,
        required_scopes: &[String],
        service: &str,
    ) -> Result<Arc<Token>> {
        let revision = self
            .revisions
            .load(db::ConnectionRevision(user.clone(), id))
            .await?;
        let revision = revision.ok_or(Error::ConnectionNotFound)?;
        if let Some(token) = self.cache.held.get(&(id, revision)).await {
            self.core.counts.token_served(false);
            return self.issue(token, required_scopes, service).await;
        }
        let connection = self.reader.find_own(user, id).await?;
        self.fetch_and_issue(connection, required_scopes, service)
            .await
    }

    /// As [`Self::token`], for the user's connection of a connector: the one with `instance_id`, or else the only one.
    ///
    /// # Errors
    /// As [`Self::token`]; [`Error::AmbiguousConnection`] if several connections match.
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
                connection_id: None,
                instance_id: instance_id.unwrap_or_default().to_owned(),
                detail: format!("the user has not connected {}", connector.name),
            })?;
        self.fetch_and_issue(connection, required_scopes, service)
            .await
    }

    /// Issues a token of a connection. All calls to Nango share one deadline.
    async fn fetch_and_issue(
        &self,
        connection: Connection,
        required_scopes: &[String],
        service: &str,
    ) -> Result<Arc<Token>> {
        let issued = async {
            let token = self.usable_token(connection).await?;
            self.issue(token, required_scopes, service).await
        };
        Priority::Token.scope(issued).await
    }

    /// Issues a token and records the access. If the connection has changed since it was read, its user may have
    /// disconnected it: then issues a token of the current grant, if there is one.
    async fn issue(
        &self,
        token: Arc<Token>,
        required_scopes: &[String],
        service: &str,
    ) -> Result<Arc<Token>> {
        if self.may_issue(&token, required_scopes, service).await? {
            return Ok(token);
        }
        let (user, id) = (&token.connection.user_id, token.connection.id);
        let current = self.reader.find_own(user, id).await?;
        let other = self.usable_token(current).await?;
        if self.may_issue(&other, required_scopes, service).await? {
            return Ok(other);
        }
        let current = self.reader.find_own(user, id).await?;
        Err(refusal(Some(&current)))
    }

    /// Checks a token's scopes and records the access. Returns `false` if the connection has changed since it was read.
    async fn may_issue(
        &self,
        token: &Token,
        required_scopes: &[String],
        service: &str,
    ) -> Result<bool> {
        check_scopes(token, required_scopes)?;
        self.record_access(&token.connection, service, Purpose::Token)
            .await
    }

    /// Returns a token of a connection. Dead credentials are retried first if that is due.
    async fn usable_token(&self, connection: Connection) -> Result<Arc<Token>> {
        let token = Priority::Token.scope(async {
            let connection = self.retry_dead_credentials(connection).await;
            self.cached_token(&connection).await
        });
        // Boxed, because this future is large and rarely runs, and a request's future is moved before it runs.
        Box::pin(token).await
    }

    /// Retries dead credentials if that is due and Nango's rate limit leaves room. Returns the current connection.
    async fn retry_dead_credentials(&self, connection: Connection) -> Connection {
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
        let key = (connection.id, connection.revision());
        let mut is_fetched = false;
        let token = self.cache.held.try_get_with(key, async {
            is_fetched = true;
            self.fetch_token(connection).await
        });
        // Boxed for the same reason as in `usable_token`.
        let token = Box::pin(token)
            .await
            .map_err(|error| Error::clone(&error))?;
        self.core.counts.token_served(is_fetched);
        Ok(token)
    }

    /// Fetches a token from Nango. If there is none, checks the connection to find the reason.
    async fn fetch_token(&self, connection: &Connection) -> Result<Arc<Token>> {
        let credentials = match self.core.at_nango(connection, Refresh::WhenDue).await {
            // Nango returns credentials that it cannot refresh unchanged, even long after their expiry.
            Ok(found) if found.credentials.are_expired(self.core.clock.now()) => {
                self.token_error(connection, None).await?;
                self.core.credentials(connection, Refresh::WhenDue).await?
            }
            Ok(found) => {
                if connection.failing_since.is_some()
                    && self.checks.has_recovered(connection, &found).await?
                {
                    // The refreshed credentials may belong to another account.
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
                // The check found that the connection works, so its credentials were refreshed.
                self.core.credentials(connection, Refresh::WhenDue).await?
            }
        };
        let ttl = match credentials.expires_at() {
            Some(at) => remaining(at, self.core.clock.now()).min(self.ttl),
            None => self.ttl,
        };
        Ok(Arc::new(Token {
            connection: connection.clone(),
            id: credentials.fingerprint().unwrap_or_default(),
            credentials,
            good_for: ttl,
        }))
    }

    /// Returns an error with the reason if no token of the connection can be issued.
    async fn check_usable(&self, connection: &Connection) -> Result<()> {
        let upstream = self.core.nango_gateway()?;
        let refused = check_usable(connection);
        let Err(Error::NeedsReauthorization { .. }) = &refused else {
            return refused;
        };
        // When an integration is deleted at Nango, its connections are deleted too. Without it, the user cannot
        // reauthorize, so its error takes precedence.
        let connector = &self.catalog.connector_of(connection).await?;
        match upstream.plan(connector, connection).await {
            Err(not_configured) => Err(not_configured),
            Ok(_) => refused,
        }
    }

    /// Finds the reason for which Nango returned no token (`error`) or an expired one (`None`): dead credentials or a
    /// provider's outage.
    ///
    /// # Errors
    /// The reason, unless a check finds that the connection works.
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
            // During an outage, not every request causes a check.
            return Err(Error::ProviderUnavailable);
        }
        match self.checks.check_connection(connection).await? {
            (CredentialHealth::Working(_), _) => Ok(()),
            (_, checked) => Err(refusal(checked.as_ref())),
        }
    }

    /// Handles a service's report that the provider rejected a token: refreshes the token, unless it was refreshed
    /// since it was issued. Returns `true` if this call refreshed it. Credentials that cannot be refreshed, such as an
    /// API key, have to be authorized again.
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
        // Set by the first of several equal reports. The others return `false`.
        let mut refreshed = false;
        let report = (id, token_id.to_owned());
        let reported = self.cache.reports.try_get_with(report, async {
            refreshed = self.refresh_refused(&connection, token_id).await?;
            if !refreshed {
                return self.core.renew_revision(&connection).await;
            }
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
                // Nango cannot refresh the rejected credentials, so there will be no other token.
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

    /// Calls the provider's API with a connection's credentials, which Nango adds. If Nango has none, checks the
    /// connection to find the reason.
    ///
    /// # Errors
    /// As [`Self::token`]. A response of the provider with an error status is not an error.
    #[tracing::instrument(target = TRACES, name = "call_provider", skip_all, fields(connection = %id))]
    pub async fn proxy(
        &self,
        user: &UserId,
        id: ConnectionId,
        service: &str,
        call: ProxyCall,
    ) -> Result<ProxyAnswer> {
        let response = self.call_provider(user, id, service, call);
        Priority::Token.scope(response).await
    }

    async fn call_provider(
        &self,
        user: &UserId,
        id: ConnectionId,
        service: &str,
        call: ProxyCall,
    ) -> Result<ProxyAnswer> {
        let upstream = self.core.nango_gateway()?;
        let connection = self.record_proxy_access(user, id, service).await?;
        let stored = connection
            .state
            .upstream()
            .ok_or(Error::ConnectionNotFound)?;
        let key = &stored.integration.key;
        match upstream.nango.proxy(&stored.id, key, call).await {
            Err(error @ (nango::Error::InvalidCredentials { .. } | nango::Error::NotFound)) => {
                // Calls that fail concurrently share one check. After it has refreshed the credentials, there is no
                // other check for a minute.
                let Revision {
                    version,
                    updated_at,
                } = connection.revision();
                let failed = (id, format!("proxy of version {version} of {updated_at}"));
                let check = self.token_error(&connection, Some(error));
                let check = self.cache.reports.try_get_with(failed, check);
                Box::pin(check)
                    .await
                    .map_err(|error| Error::clone(&error))?;
                // The call cannot be retried, because its body was consumed.
                Err(Error::ProviderUnavailable)
            }
            response => {
                let response = response?;
                self.core.end_absence(&connection).await?;
                Ok(response)
            }
        }
    }

    /// Returns a user's usable connection, and records a call with its credentials. If the connection changes
    /// meanwhile, reads it again once. The access is recorded before the call, because the caller may disconnect while
    /// the call is in progress.
    ///
    /// # Errors
    /// The reason for which the connection is not usable.
    async fn record_proxy_access(
        &self,
        user: &UserId,
        id: ConnectionId,
        service: &str,
    ) -> Result<Connection> {
        for _ in 0..2 {
            let connection = self.reader.find_own(user, id).await?;
            self.check_usable(&connection).await?;
            if self
                .record_access(&connection, service, Purpose::Proxy)
                .await?
            {
                return Ok(connection);
            }
        }
        let current = self.reader.find_own(user, id).await?;
        Err(refusal(Some(&current)))
    }

    /// Records a service's token access, in one batch with concurrent ones. If this fails, no token is issued and no
    /// call is sent. Returns `false` if the connection is no longer connected with the grant that was read.
    async fn record_access(
        &self,
        connection: &Connection,
        service: &str,
        purpose: Purpose,
    ) -> Result<bool> {
        let Some(grant) = connection.state.upstream() else {
            return Ok(false);
        };
        let access = db::Used {
            user: connection.user_id.clone(),
            connection: connection.id,
            nango_id: grant.id.clone(),
            service: service.to_owned(),
            purpose,
            at: self.core.clock.now(),
        };
        Ok(self.accesses.load(access).await?)
    }
}

/// Returns how long a token that expires at `at` may be cached.
fn remaining(at: DateTime<Utc>, now: DateTime<Utc>) -> Duration {
    (at - now)
        .to_std()
        .unwrap_or_default()
        .saturating_sub(EXPIRY_MARGIN)
}
