//! Checks of the credentials that Nango stores.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use moka::future::Cache;
use serde::Serialize;
use tokio::sync::{Mutex, OwnedMutexGuard};
use utoipa::ToSchema;

use super::account::AccountIdentifier;
use super::core::Core;
use super::{Error, Result};
use crate::db;
use crate::domain::state_machine::Transition;
use crate::domain::{Account, Brake, Connection, ConnectorId, EventKind, Reason, State, UserId};
use crate::nango::attempt_poller::{CONNECTION_TAG, INSTALLATION_TAG};
use crate::nango::{self, ListConnections, Nango, Refresh};

/// The maximum number of other connections that are refreshed to detect a provider's outage.
const MAX_SIBLING_CHECKS: usize = 3;

/// The time for which credentials must fail before they count as dead, if no other connection can be compared. Nango
/// returns the same error for a revoked grant and for a provider's outage.
const FAILURE_GRACE: TimeDelta = TimeDelta::hours(1);

/// The time for which credentials must fail before they count as dead, if other connections fail too. After it, the
/// provider is assumed to have revoked all of them.
const MAX_OUTAGE: TimeDelta = TimeDelta::hours(24);

/// The minimum time between a check and the next automatic one.
pub(crate) const MIN_CHECK_INTERVAL: TimeDelta = TimeDelta::minutes(1);

/// The TTL of a provider's outage. Until it expires, no other connections are refreshed for comparison.
const OUTAGE_CACHE_TTL: Duration = Duration::from_secs(60);

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CredentialHealth {
    /// The credentials were refreshed or need no refresh. Contains their account, if the provider reports it.
    Working(Option<Account>),
    /// The refresh failed for this and for other connections: the provider has an outage.
    ProviderOutage,
    /// The refresh failed, and no other connection can be compared.
    Unknown,
    /// The provider rejected the credentials: it refreshes those of other connections, or no comparison was needed.
    Refused,
    /// The credentials cannot be refreshed, and a workflow reported them within [`FAILURE_GRACE`].
    Reported,
    /// Nango does not have the connection.
    Missing,
}

/// The result of a check. It does not depend on the connection's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// The credentials were refreshed, or need no refresh.
    Working,
    /// The provider refused to refresh the credentials. After three refusals over five minutes, the user has to
    /// authorize again.
    Refused,
    /// The provider refuses to refresh the credentials of other connections, too.
    ProviderOutage,
    /// The credentials were not refreshed, for an unknown reason.
    Unknown,
    /// Nango does not have the connection. After five such results over five minutes, the user has to connect again.
    Missing,
}

impl From<CredentialHealth> for Health {
    fn from(health: CredentialHealth) -> Self {
        match health {
            CredentialHealth::Working(_) => Self::Working,
            CredentialHealth::Refused => Self::Refused,
            CredentialHealth::ProviderOutage => Self::ProviderOutage,
            CredentialHealth::Unknown | CredentialHealth::Reported => Self::Unknown,
            CredentialHealth::Missing => Self::Missing,
        }
    }
}

/// The connectors whose provider refreshed no credentials in the last check, and the locks of checks that webhooks
/// cause.
#[derive(Debug)]
pub(crate) struct SuspectCredentials {
    /// The results of checks, by connector.
    results: Cache<ConnectorId, CredentialHealth>,
    /// The locks, by connector.
    locks: Cache<ConnectorId, Arc<Mutex<()>>>,
}

impl Default for SuspectCredentials {
    fn default() -> Self {
        Self {
            results: Cache::builder().time_to_live(OUTAGE_CACHE_TTL).build(),
            locks: Cache::builder().time_to_idle(OUTAGE_CACHE_TTL).build(),
        }
    }
}

impl SuspectCredentials {
    /// Returns whether a check within the last minute found that a connector's provider refreshes no credentials.
    pub(crate) fn is_provider_out_of_order(&self, connector: ConnectorId) -> bool {
        self.results.contains_key(&connector)
    }

    /// Locks a connector for a check that a webhook causes. Returns `None` while another check has the lock.
    pub(crate) async fn take_turn(&self, connector: ConnectorId) -> Option<OwnedMutexGuard<()>> {
        let lock = self.locks.get_with(connector, async { Arc::default() });
        lock.await.try_lock_owned().ok()
    }
}

/// The checker of connections' credentials.
#[derive(Debug)]
pub(crate) struct CredentialChecker {
    pub(super) core: Arc<Core>,
    accounts: Arc<AccountIdentifier>,
    pub(crate) doubts: SuspectCredentials,
}

impl CredentialChecker {
    pub(crate) fn new(core: Arc<Core>, accounts: Arc<AccountIdentifier>) -> Self {
        Self {
            core,
            accounts,
            doubts: SuspectCredentials::default(),
        }
    }

    /// Checks a connection's credentials and applies the result. Returns the result and the current connection.
    pub(crate) async fn check_connection(
        &self,
        connection: &Connection,
    ) -> Result<(CredentialHealth, Option<Connection>)> {
        if connection.state.upstream().is_none() {
            return Ok((CredentialHealth::Missing, Some(connection.clone())));
        }
        let now = self.core.clock.now();
        self.record_check(connection, Some(now)).await?;
        let health = self.health(connection).await?;
        let now = self.core.clock.now();
        let is_dead = match &health {
            CredentialHealth::Refused => connection.refused(now).1,
            CredentialHealth::Unknown => has_failed_for(connection, FAILURE_GRACE, now),
            CredentialHealth::ProviderOutage => has_failed_for(connection, MAX_OUTAGE, now),
            CredentialHealth::Working(_)
            | CredentialHealth::Reported
            | CredentialHealth::Missing => false,
        };
        let refusals = match &health {
            CredentialHealth::Refused => Some(connection.refused(now).0),
            // During a provider's outage, a refusal is no evidence against these credentials.
            CredentialHealth::ProviderOutage => Some(Vec::new()),
            _ => None,
        };
        if health == CredentialHealth::Missing {
            return Ok((health, self.note_absence(connection).await?));
        }
        self.core.end_absence(connection).await?;
        let changed = self
            .apply_if_unchanged(connection, refusals, |connection| match &health {
                CredentialHealth::Working(account) => connection.healthy(account.as_ref(), now),
                _ if is_dead => connection.credentials_dead(now),
                _ => connection.credentials_failing(now),
            })
            .await?;
        Ok((health, changed))
    }

    /// Records the start of a check, so that the webhooks of its refresh do not cause another check.
    pub(crate) async fn record_check(
        &self,
        connection: &Connection,
        at: Option<DateTime<Utc>>,
    ) -> Result<()> {
        Ok(db::record_check(&self.core.database, connection, at).await?)
    }

    async fn health(&self, connection: &Connection) -> Result<CredentialHealth> {
        let nango = self.core.nango()?;
        let now = self.core.clock.now();
        let before = self.rejected_credentials(connection).await?;
        match refresh(nango, connection).await {
            // Nango returns credentials that it cannot refresh, without a call to the provider. Dead credentials stay
            // dead.
            Ok(found) if found.credentials.are_expired(now) => Ok(CredentialHealth::Refused),
            Ok(found) if before.is_some() && before == found.credentials.fingerprint() => {
                Ok(if connection.failing_since.is_none() {
                    CredentialHealth::Refused
                } else if found.credentials.are_refreshed(now)
                    || has_failed_for(connection, FAILURE_GRACE, now)
                {
                    // No workflow has reported them again.
                    CredentialHealth::Working(self.accounts.account_of(connection, &found))
                } else {
                    CredentialHealth::Reported
                })
            }
            Ok(found) => Ok(CredentialHealth::Working(
                self.accounts.account_of(connection, &found),
            )),
            Err(nango::Error::NotFound) => self.not_found(connection).await,
            // The connection is not connected, so no comparison with other connections is needed.
            Err(nango::Error::InvalidCredentials { .. })
                if !matches!(connection.state, State::Connected { .. }) =>
            {
                Ok(CredentialHealth::Refused)
            }
            // The comparison refreshes other connections, so a connection causes at most one a minute.
            Err(nango::Error::InvalidCredentials { .. })
                if connection
                    .refusals
                    .last()
                    .is_some_and(|last| now - *last < MIN_CHECK_INTERVAL) =>
            {
                Ok(CredentialHealth::Refused)
            }
            Err(nango::Error::InvalidCredentials { .. }) => self.check_suspect(connection).await,
            Err(error) => Err(error.into()),
        }
    }

    /// Applies the recovery of a connection, if Nango has refreshed its credentials since they failed. Returns whether
    /// it has.
    pub(crate) async fn has_recovered(
        &self,
        connection: &Connection,
        found: &nango::Connection,
    ) -> Result<bool> {
        let now = self.core.clock.now();
        let failed = found.errors.iter().any(|error| error.kind == "auth");
        if failed || !found.credentials.are_refreshed(now) {
            return Ok(false);
        }
        let account = self.accounts.account_of(connection, found);
        self.apply_if_unchanged(connection, None, |connection| {
            connection.healthy(account.as_ref(), now)
        })
        .await?;
        Ok(true)
    }

    /// Returns the fingerprint of the stored credentials, if they are dead or were refused; otherwise `None`. A refresh
    /// that returns the same fingerprint has changed nothing.
    ///
    /// # Errors
    /// If Nango fails: without the fingerprint, the refresh could not be verified.
    async fn rejected_credentials(&self, connection: &Connection) -> Result<Option<String>> {
        let is_dead = matches!(
            connection.state,
            State::Error {
                reason: Reason::NeedsReauthorization,
                ..
            }
        );
        // A connection that was imported as dead and was never checked may work.
        let is_doubted = is_dead || !connection.refusals.is_empty();
        if !is_doubted || connection.last_checked_at.is_none() {
            return Ok(None);
        }
        match self.core.credentials(connection, Refresh::WhenDue).await {
            Ok(stored) => Ok(stored.fingerprint()),
            Err(nango::Error::InvalidCredentials { .. } | nango::Error::NotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Handles Nango's 404, which it also returns if the connection belongs to another integration.
    ///
    /// # Errors
    /// [`Error::IntegrationChanged`] if Nango has the connection under another integration than the stored one, as can
    /// happen after an import.
    async fn not_found(&self, connection: &Connection) -> Result<CredentialHealth> {
        match connection.state.upstream() {
            Some(stored) if !self.is_missing(connection, &[]).await? => {
                Err(Error::IntegrationChanged {
                    connector: connection.connector.name.clone(),
                    integration_key: stored.integration.key.clone(),
                })
            }
            _ => Ok(CredentialHealth::Missing),
        }
    }

    /// Checks whether the provider refreshes other connections' credentials. If it does, the refused credentials are
    /// dead. If it does not, concurrent checks share the result.
    async fn check_suspect(&self, connection: &Connection) -> Result<CredentialHealth> {
        let mut computed = None;
        let cached = self
            .doubts
            .results
            .optionally_get_with(connection.connector.id, async {
                let found = self.check_siblings(connection).await;
                // `Refused` is not cached: an earlier refresh of another connection does not prove that credentials
                // are dead now.
                let cacheable = found
                    .as_ref()
                    .ok()
                    .filter(|found| **found != CredentialHealth::Refused);
                let cacheable = cacheable.cloned();
                computed = Some(found);
                cacheable
            });
        let cached = Box::pin(cached).await;
        match (computed, cached) {
            (Some(found), _) => found,
            (None, Some(cached)) => Ok(cached),
            (None, None) => self.check_siblings(connection).await,
        }
    }

    /// Refreshes the credentials of some connections of the same connector, each of another user, until one refresh
    /// succeeds. A single user could revoke several connections, which is no outage.
    async fn check_siblings(&self, connection: &Connection) -> Result<CredentialHealth> {
        let nango = self.core.nango()?;
        let mut is_any_refused = false;
        let mut users = vec![connection.user_id.clone()];
        for _ in 0..MAX_SIBLING_CHECKS {
            let Some(sibling) = self.sibling(connection, &users).await? else {
                break;
            };
            users.push(sibling.user_id.clone());
            self.record_check(&sibling, Some(self.core.clock.now()))
                .await?;
            match refresh(nango, &sibling)
                .await
                .map(|found| found.credentials)
            {
                // Credentials without an expiry are not refreshed, so Nango did not call the provider.
                Ok(credentials) if credentials.expires_at().is_some() => {
                    return Ok(CredentialHealth::Refused);
                }
                Err(nango::Error::InvalidCredentials { .. }) => is_any_refused = true,
                Ok(_) | Err(nango::Error::NotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(if is_any_refused {
            CredentialHealth::ProviderOutage
        } else {
            CredentialHealth::Unknown
        })
    }

    /// Returns another connection of the same connector, of none of these users.
    async fn sibling(
        &self,
        connection: &Connection,
        users: &[UserId],
    ) -> Result<Option<Connection>> {
        let users: Vec<&str> = users.iter().map(UserId::as_str).collect();
        Ok(db::sibling(&self.core.database, connection.connector.id, &users).await?)
    }

    /// Returns whether Nango does not have a connection. Queries Nango twice by id. In between, verifies that Nango
    /// still has another connection: one of `listed_ids`, or if there are none, one of those that were connected last.
    ///
    /// # Errors
    /// [`Error::UnknownEnvironment`] if Nango has none of the others; [`Error::ProviderUnavailable`] while Nango has a
    /// newer grant of the connection, which is an orphan.
    pub(crate) async fn is_missing(
        &self,
        connection: &Connection,
        listed_ids: &[String],
    ) -> Result<bool> {
        let Some(stored) = connection.state.upstream() else {
            return Ok(false);
        };
        let (id, key) = (&stored.id, &stored.integration.key);
        if !self.core.is_gone(id, key).await? {
            return Ok(false);
        }
        self.core
            .brakes
            .verify_environment(listed_ids, Some(id))
            .await?;
        if self.has_newer_grant(connection).await? {
            return Err(Error::ProviderUnavailable);
        }
        self.core.is_gone(id, key).await
    }

    /// Returns whether Nango has a grant with this connection's tags and without a pending deletion, or an entry that
    /// cannot be read. Then the database is older than the grant, as after a restore. The sweep or an operator restores
    /// it.
    async fn has_newer_grant(&self, connection: &Connection) -> Result<bool> {
        let filter = ListConnections::tagged([
            (INSTALLATION_TAG, self.core.installation.to_string()),
            (CONNECTION_TAG, connection.id.to_string()),
        ]);
        let page = self.core.nango()?.connection_page(&filter).await?;
        if page.is_empty() {
            return Ok(false);
        }
        if !page.unreadable.is_empty() {
            return Ok(true);
        }
        let ids: Vec<&str> = (page.connections.iter())
            .map(|it| it.connection_id.as_str())
            .collect();
        let queued = db::find_queued_deletions(&self.core.database, &ids).await?;
        Ok(ids.iter().any(|id| !queued.contains(*id)))
    }

    /// Applies a change to a connection, unless the row has changed since `snapshot` or a brake stops the change. Returns the current connection; `None` if it no longer exists.
    pub(crate) async fn apply_if_unchanged(
        &self,
        snapshot: &Connection,
        refusals: Option<Vec<DateTime<Utc>>>,
        change: impl FnOnce(&Connection) -> Option<Transition>,
    ) -> Result<Option<Connection>> {
        let mut tx = self.core.begin().await?;
        let Some(connection) = db::lock_own(&mut tx, &snapshot.user_id, snapshot.id).await? else {
            return Ok(None);
        };
        if connection.revision() != snapshot.revision() {
            return Ok(Some(connection));
        }
        let transition = change(&connection);
        let brake = transition
            .as_ref()
            .and_then(|change| brake_of(change.event));
        let has_room = match brake {
            Some(brake) => db::admit_change(&mut tx, brake, &connection.user_id, 0).await?,
            None => true,
        };
        let changed = match transition.filter(|_| has_room) {
            Some(transition) => db::apply(&mut tx, &transition, None).await?,
            None => {
                db::record_check(&mut tx, &connection, Some(self.core.clock.now())).await?;
                connection
            }
        };
        if let Some(refusals) = refusals.filter(|refusals| *refusals != changed.refusals) {
            db::record_refusals(&mut tx, &changed, &refusals).await?;
        }
        tx.commit().await?;
        Ok(Some(changed))
    }
}

/// Returns the brake that limits a kind of change; `None` if there is none.
fn brake_of(event: EventKind) -> Option<Brake> {
    match event {
        EventKind::MissingUpstream => Some(Brake::Missing),
        EventKind::NeedsReauthorization => Some(Brake::Dead),
        _ => None,
    }
}

async fn refresh(
    nango: &Nango,
    connection: &Connection,
) -> Result<nango::Connection, nango::Error> {
    let upstream = connection.state.upstream().ok_or(nango::Error::NotFound)?;
    let key = &upstream.integration.key;
    nango.connection(&upstream.id, key, Refresh::Force).await
}

fn has_failed_for(connection: &Connection, time: TimeDelta, now: DateTime<Utc>) -> bool {
    connection
        .failing_since
        .is_some_and(|since| now - since >= time)
}
