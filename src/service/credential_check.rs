//! Health: whether what Nango holds still works.

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
use crate::domain::{Account, Brake, Connection, ConnectorId, EventKind, Reason, State};
use crate::nango;
use crate::nango::attempt_poller::{CONNECTION_TAG, INSTALLATION_TAG};
use crate::nango::{Credentials, ListConnections, Nango, Refresh};

/// How many other connections are asked whether their provider is out of order.
const MAX_SIBLING_CHECKS: i64 = 3;

/// How long credentials have to fail that nothing else speaks for or against: Nango's
/// answer to a revoked grant is the same as to a provider's outage.
const FAILURE_GRACE: TimeDelta = TimeDelta::hours(1);

/// How long credentials have to fail if others' fail too: a provider that refreshes no credentials for so long has
/// revoked them all.
const MAX_OUTAGE: TimeDelta = TimeDelta::hours(24);

/// The minimum time between a check and the next automatic one.
pub(crate) const MIN_CHECK_INTERVAL: TimeDelta = TimeDelta::minutes(1);

/// How long a provider's outage is cached. Meanwhile no other connections are checked.
const OUTAGE_CACHE_TTL: Duration = Duration::from_secs(60);

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CredentialHealth {
    /// The credentials were refreshed, or need no refresh; they are this account's, if the provider reports it.
    Working(Option<Account>),
    /// They were not, and neither were others': the provider is out of order.
    ProviderOutage,
    /// They were not, and there are no other connections to compare with.
    Unknown,
    /// They were not, though the provider refreshes others'.
    Refused,
    /// There is nothing to refresh, and a workflow reported the credentials a while ago.
    Reported,
    /// Nango does not hold the connection.
    Missing,
}

/// What a check found at this moment, whatever the connection's status is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// The credentials were refreshed, or need no refresh.
    Working,
    /// The provider refused to refresh them. After three refusals over five minutes, the user has to authorize again.
    Refused,
    /// The provider refuses to refresh others' credentials as well.
    ProviderOutage,
    /// They were not refreshed, and nothing says why.
    Unknown,
    /// Nango does not have the connection. After five such look-ups over five minutes, the user has to connect again.
    Missing,
}

impl From<CredentialHealth> for Health {
    fn from(found: CredentialHealth) -> Self {
        match found {
            CredentialHealth::Working(_) => Self::Working,
            CredentialHealth::Refused => Self::Refused,
            CredentialHealth::ProviderOutage => Self::ProviderOutage,
            CredentialHealth::Unknown | CredentialHealth::Reported => Self::Unknown,
            CredentialHealth::Missing => Self::Missing,
        }
    }
}

/// What was found of each connector whose provider, a moment ago, refreshed no credentials of those that were checked; and
/// the turns of the checks that webhooks ask for.
#[derive(Debug)]
pub(crate) struct SuspectCredentials {
    found: Cache<ConnectorId, CredentialHealth>,
    turns: Cache<ConnectorId, Arc<Mutex<()>>>,
}

impl Default for SuspectCredentials {
    fn default() -> Self {
        Self {
            found: Cache::builder().time_to_live(OUTAGE_CACHE_TTL).build(),
            turns: Cache::builder().time_to_idle(OUTAGE_CACHE_TTL).build(),
        }
    }
}

impl SuspectCredentials {
    /// Whether a check within the last minute found that a connector's provider refreshes no credentials.
    pub(crate) fn is_provider_out_of_order(&self, connector: ConnectorId) -> bool {
        self.found.contains_key(&connector)
    }

    /// The turn of a check of a connector that a webhook asks for; `None` while another one has it.
    pub(crate) async fn take_turn(&self, connector: ConnectorId) -> Option<OwnedMutexGuard<()>> {
        let turn = self.turns.get_with(connector, async { Arc::default() });
        turn.await.try_lock_owned().ok()
    }
}

/// Checks whether connections' credentials work.
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

    /// Finds out how a connection is, and writes it down. Returns what was found, and the connection as it is now.
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
            // While the provider refuses others' as well, its answer says nothing about this one.
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

    /// Notes when a check began, so that the webhooks which it causes cause no other.
    pub(crate) async fn record_check(
        &self,
        connection: &Connection,
        at: Option<DateTime<Utc>>,
    ) -> Result<()> {
        let mut tx = self.core.begin_single().await?;
        db::record_check(&mut tx, connection, at).await?;
        tx.commit().await?;
        Ok(())
    }

    async fn health(&self, connection: &Connection) -> Result<CredentialHealth> {
        let nango = &self.core.nango_gateway()?.nango;
        let now = self.core.clock.now();
        let before = self.rejected_credentials(connection).await?;
        match refresh(nango, connection).await {
            // Nango also answers if it has nothing to refresh with. Then it has not called the provider, and dead
            // credentials stay dead.
            Ok(found) if found.credentials.are_expired(now) => Ok(CredentialHealth::Refused),
            Ok(found) if before.is_some() && before == found.credentials.fingerprint() => {
                Ok(if connection.failing_since.is_none() {
                    CredentialHealth::Refused
                } else if found.credentials.are_refreshed(now)
                    || has_failed_for(connection, FAILURE_GRACE, now)
                {
                    // No workflow has reported them again since.
                    CredentialHealth::Working(self.accounts.account_of(connection, &found))
                } else {
                    CredentialHealth::Reported
                })
            }
            Ok(found) => Ok(CredentialHealth::Working(
                self.accounts.account_of(connection, &found),
            )),
            Err(nango::Error::NotFound) => self.not_found(connection).await,
            // The connection does not work anyway, so the failure needs no comparison with other connections.
            Err(nango::Error::InvalidCredentials { .. })
                if !matches!(connection.state, State::Connected { .. }) =>
            {
                Ok(CredentialHealth::Refused)
            }
            // Others' are refreshed once a minute at most, however often one is checked.
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

    /// Ends the outage of a connection whose credentials Nango has refreshed since. Returns whether it has.
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

    /// Returns the fingerprint of credentials that are known to be dead or were refused, if Nango still returns them.
    ///
    /// # Errors
    /// As Nango: without the fingerprint, a refresh could not be verified.
    async fn rejected_credentials(&self, connection: &Connection) -> Result<Option<String>> {
        let is_dead = matches!(
            connection.state,
            State::Error {
                reason: Reason::NeedsReauthorization,
                ..
            }
        );
        // One that was taken over dead and never looked at may work for all that is known here.
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

    /// Nango does not hold a connection, or under another integration, of which it says the same.
    ///
    /// # Errors
    /// When it is under another than the one that is stored, as may be of one that was imported.
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
        let mut asked = None;
        let known = self
            .doubts
            .found
            .optionally_get_with(connection.connector.id, async {
                let found = self.check_siblings(connection).await;
                // `Refused` is not cached: that another connection was refreshed earlier does not prove that
                // credentials are dead now.
                let lasting = found
                    .as_ref()
                    .ok()
                    .filter(|found| **found != CredentialHealth::Refused);
                let lasting = lasting.cloned();
                asked = Some(found);
                lasting
            });
        let known = Box::pin(known).await;
        match (asked, known) {
            (Some(found), _) => found,
            (None, Some(known)) => Ok(known),
            (None, None) => self.check_siblings(connection).await,
        }
    }

    /// Has some others' credentials of the same connector refreshed, until one's are.
    async fn check_siblings(&self, connection: &Connection) -> Result<CredentialHealth> {
        let mut tx = self.core.begin_single().await?;
        let siblings = db::siblings(&mut tx, connection, MAX_SIBLING_CHECKS).await?;
        tx.commit().await?;
        let nango = &self.core.nango_gateway()?.nango;
        let mut asked = false;
        for sibling in &siblings {
            self.record_check(sibling, Some(self.core.clock.now()))
                .await?;
            match refresh(nango, sibling).await.map(|found| found.credentials) {
                // Without an expiry there was nothing to refresh, so the provider was not asked.
                Ok(Credentials::OAuth2 {
                    expires_at: Some(_),
                    ..
                }) => return Ok(CredentialHealth::Refused),
                Err(nango::Error::InvalidCredentials { .. }) => asked = true,
                Ok(_) | Err(nango::Error::NotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(if asked {
            CredentialHealth::ProviderOutage
        } else {
            CredentialHealth::Unknown
        })
    }

    /// Whether Nango says of a connection, asked for by its id, that it does not exist; and, between two such answers,
    /// has another one that it had before: those in `seen`, or else those that became connected last.
    ///
    /// # Errors
    /// [`Error::UnknownEnvironment`] if it has none of them; [`Error::ProviderUnavailable`] while an orphan is the
    /// connection's newer grant.
    pub(crate) async fn is_missing(
        &self,
        connection: &Connection,
        seen: &[String],
    ) -> Result<bool> {
        let Some(stored) = connection.state.upstream() else {
            return Ok(false);
        };
        let (id, key) = (&stored.id, &stored.integration.key);
        if !self.core.is_gone(id, key).await? {
            return Ok(false);
        }
        self.core.brakes.verify_environment(seen, Some(id)).await?;
        if self.has_newer_grant(connection).await? {
            return Err(Error::ProviderUnavailable);
        }
        self.core.is_gone(id, key).await
    }

    /// Whether Nango has a grant with the tags of this connection that waits for no deletion: the database is older than
    /// it, as after a restore. An operator or the sweep brings it back.
    async fn has_newer_grant(&self, connection: &Connection) -> Result<bool> {
        let tags = [
            (INSTALLATION_TAG, self.core.installation.to_string()),
            (CONNECTION_TAG, connection.id.to_string()),
        ];
        let filter = ListConnections {
            tags: tags.map(|(name, value)| (name.to_owned(), value)).into(),
            ..ListConnections::default()
        };
        let found = self
            .core
            .nango_gateway()?
            .nango
            .connections(&filter)
            .await?;
        let ids: Vec<&str> = found.iter().map(|it| it.connection_id.as_str()).collect();
        if ids.is_empty() {
            return Ok(false);
        }
        let mut tx = self.core.begin_single().await?;
        let queued = db::find_queued_deletions(&mut tx, &ids).await?;
        tx.commit().await?;
        Ok(ids.iter().any(|id| !queued.contains(*id)))
    }

    /// Writes down what was found out about a connection, unless it has changed since it was looked at, or a brake stops
    /// the change. Returns the connection as it is then.
    pub(crate) async fn apply_if_unchanged(
        &self,
        seen: &Connection,
        refusals: Option<Vec<DateTime<Utc>>>,
        change: impl FnOnce(&Connection) -> Option<Transition>,
    ) -> Result<Option<Connection>> {
        let mut tx = self.core.begin().await?;
        let Some(connection) = db::lock_own(&mut tx, &seen.user_id, seen.id).await? else {
            return Ok(None);
        };
        if connection.version != seen.version {
            return Ok(Some(connection));
        }
        let transition = change(&connection);
        let brake = transition
            .as_ref()
            .and_then(|change| brake_of(change.event));
        let has_room = match brake {
            Some(brake) => db::has_room(&mut tx, brake, 1).await?,
            None => true,
        };
        let changed = match transition.filter(|_| has_room) {
            Some(transition) => {
                if let Some(brake) = brake {
                    db::count_changes(&mut tx, brake, 1).await?;
                }
                db::apply(&mut tx, &transition, None).await?
            }
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

/// The brake that counts a change.
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
