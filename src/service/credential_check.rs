//! Health: whether what Nango holds still works.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use moka::future::Cache;
use uuid::Uuid;

use super::{ConnectionView, Connections, Error, Result};
use crate::catalog::AccountPointers;
use crate::db;
use crate::domain::UserId;
use crate::domain::state_machine::Transition;
use crate::domain::{Account, Connection, Reason, State};
use crate::nango;
use crate::nango::{Credentials, ListConnections, Nango, Refresh};

/// How many other connections are asked whether their provider is out of order.
const MAX_SIBLING_CHECKS: i64 = 3;

/// How long credentials have to fail that nothing else speaks for or against: Nango's
/// answer to a revoked grant is the same as to a provider's outage.
const FAILURE_GRACE: TimeDelta = TimeDelta::hours(1);

/// How long they have to fail where others' do, too: a provider that refreshes nobody's for so long
/// has revoked them all.
const MAX_OUTAGE: TimeDelta = TimeDelta::hours(24);

/// How soon after a check another that nobody asked for makes no sense.
pub(crate) const MIN_CHECK_INTERVAL: TimeDelta = TimeDelta::minutes(1);

/// For how long nobody else is asked about a provider that was found to be out of order.
const OUTAGE_CACHE_TTL: Duration = Duration::from_secs(60);

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CredentialHealth {
    /// The credentials were refreshed, or need no refreshing; they are this account's, if that is told.
    Working(Option<Account>),
    /// They were not, and neither were others': the provider is out of order.
    ProviderOutage,
    /// They were not, and there are no others to tell by.
    Unknown,
    /// They were not, though the provider refreshes others'.
    Invalid,
    /// Nango does not hold the connection.
    Missing,
}

/// What was found of each connector whose provider, a moment ago, refreshed the credentials of nobody who was asked about.
#[derive(Debug)]
pub(crate) struct SuspectCredentials(Cache<Uuid, CredentialHealth>);

impl Default for SuspectCredentials {
    fn default() -> Self {
        Self(Cache::builder().time_to_live(OUTAGE_CACHE_TTL).build())
    }
}

impl Connections {
    /// Asks Nango now how a connection is, by a forced refresh.
    ///
    /// # Errors
    /// When there is no such connection, it has nothing at Nango to be asked about, or Nango does not answer.
    pub async fn check(&self, user: &UserId, id: Uuid) -> Result<ConnectionView> {
        self.nango_gateway()?;
        let connection = self.find_own(user, id).await?;
        match &connection.state {
            State::Pending { .. } => {}
            State::Disconnected { .. } => {
                return Err(Error::Invalid(
                    "a disconnected connection has nothing to check".to_owned(),
                ));
            }
            state if state.upstream().is_none() => {
                return Err(Error::Invalid(
                    "nothing was ever authorized that could be checked".to_owned(),
                ));
            }
            _ => {
                self.check_connection(&connection).await?;
            }
        }
        self.get(user, id).await
    }

    /// Finds out how a connection is, and writes it down.
    pub(crate) async fn check_connection(
        &self,
        connection: &Connection,
    ) -> Result<CredentialHealth> {
        let Some(stored) = connection.state.upstream() else {
            return Ok(CredentialHealth::Missing);
        };
        let now = self.clock.now();
        self.record_check(connection, Some(now)).await?;
        let health = match self.health(connection).await? {
            CredentialHealth::Unknown if has_failed_for(connection, FAILURE_GRACE, now) => {
                CredentialHealth::Invalid
            }
            CredentialHealth::ProviderOutage if has_failed_for(connection, MAX_OUTAGE, now) => {
                CredentialHealth::Invalid
            }
            health => health,
        };
        let now = self.clock.now();
        self.apply_if_unchanged(connection, |connection| match &health {
            CredentialHealth::Working(account) => connection.healthy(account.as_ref(), now),
            CredentialHealth::Missing => connection.missing(&stored.id, now),
            CredentialHealth::Invalid => connection.credentials_dead(now),
            CredentialHealth::Unknown | CredentialHealth::ProviderOutage => {
                connection.credentials_failing(now)
            }
        })
        .await?;
        Ok(health)
    }

    /// Notes when a check began, so that the webhooks which it causes cause no other.
    pub(crate) async fn record_check(
        &self,
        connection: &Connection,
        at: Option<DateTime<Utc>>,
    ) -> Result<()> {
        let mut tx = self.begin_single().await?;
        db::record_check(&mut tx, connection, at).await?;
        tx.commit().await?;
        Ok(())
    }

    async fn health(&self, connection: &Connection) -> Result<CredentialHealth> {
        let nango = &self.nango_gateway()?.nango;
        let before = self.rejected_credentials(connection).await?;
        match refresh(nango, connection).await {
            // Nango answers as well where it has nothing to refresh with. Then it has asked nobody, and what was dead is.
            Ok(found)
                if found.credentials.are_expired(self.clock.now())
                    || (before.is_some() && before == found.credentials.fingerprint()) =>
            {
                Ok(CredentialHealth::Invalid)
            }
            Ok(found) => Ok(CredentialHealth::Working(
                self.account_of(connection, &found),
            )),
            Err(nango::Error::NotFound) => self.not_found(connection).await,
            // It is no news of one that does not work anyway: nobody else's are refreshed for it.
            Err(nango::Error::InvalidCredentials { .. })
                if !matches!(connection.state, State::Connected { .. }) =>
            {
                Ok(CredentialHealth::Invalid)
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
        let now = self.clock.now();
        let failed = found.errors.iter().any(|error| error.kind == "auth");
        if failed || !found.credentials.are_refreshed(now) {
            return Ok(false);
        }
        let account = self.account_of(connection, found);
        self.apply_if_unchanged(connection, |connection| {
            connection.healthy(account.as_ref(), now)
        })
        .await?;
        Ok(true)
    }

    /// Returns where a connection's provider says whose account it is.
    pub(crate) fn account_pointers(&self, connection: &Connection) -> Option<&AccountPointers> {
        let connector = self.catalog.get(&connection.connector.slug)?;
        connector.account.as_ref()
    }

    /// Returns whose account a connection is, as far as its provider says.
    pub(crate) fn account_of(
        &self,
        connection: &Connection,
        found: &nango::Connection,
    ) -> Option<Account> {
        Account::of(found, self.account_pointers(connection)?)
    }

    /// The name of credentials that are known to be dead, if Nango gives them all the same.
    ///
    /// # Errors
    /// As Nango: without them nothing could tell whether a refresh has brought others.
    async fn rejected_credentials(&self, connection: &Connection) -> Result<Option<String>> {
        let is_dead = matches!(
            connection.state,
            State::Error {
                reason: Reason::NeedsReauthorization,
                ..
            }
        );
        // One that was taken over dead and never looked at may work for all that is known here.
        if !is_dead || connection.last_checked_at.is_none() {
            return Ok(None);
        }
        match self.credentials(connection, Refresh::WhenDue).await {
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
            Some(stored) if !self.is_missing(&stored.id).await? => Err(Error::IntegrationChanged {
                connector: connection.connector.name.clone(),
                integration_key: stored.integration.key.clone(),
            }),
            _ => Ok(CredentialHealth::Missing),
        }
    }

    /// Whether the provider refreshes anybody's credentials: if it does, those that it refused are dead. If it does
    /// not, that is found out once for all who doubt it.
    async fn check_suspect(&self, connection: &Connection) -> Result<CredentialHealth> {
        let mut asked = None;
        let known = self
            .doubts
            .0
            .optionally_get_with(connection.connector.id, async {
                let found = self.check_siblings(connection).await;
                // What was refreshed a moment ago does not tell that another's is dead now.
                let lasting = found
                    .as_ref()
                    .ok()
                    .filter(|found| **found != CredentialHealth::Invalid);
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
        let mut tx = self.begin_single().await?;
        let siblings = db::siblings(&mut tx, connection, MAX_SIBLING_CHECKS).await?;
        tx.commit().await?;
        let nango = &self.nango_gateway()?.nango;
        let mut asked = false;
        for sibling in &siblings {
            self.record_check(sibling, Some(self.clock.now())).await?;
            match refresh(nango, sibling).await.map(|found| found.credentials) {
                // Without an expiry there was nothing to refresh, so the provider was not asked.
                Ok(Credentials::OAuth2 {
                    expires_at: Some(_),
                    ..
                }) => return Ok(CredentialHealth::Invalid),
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

    /// Whether Nango says that it does not hold a connection: asked for by its id, not guessed from a list.
    pub(crate) async fn is_missing(&self, nango_id: &str) -> Result<bool> {
        let filter = ListConnections {
            connection_id: Some(nango_id.to_owned()),
            ..ListConnections::default()
        };
        let found = self.nango_gateway()?.nango.connection_page(&filter).await?;
        Ok(found.is_empty())
    }

    /// Writes down what was found out about a connection, unless it has changed since it was looked at.
    pub(crate) async fn apply_if_unchanged(
        &self,
        seen: &Connection,
        change: impl FnOnce(&Connection) -> Option<Transition>,
    ) -> Result<()> {
        let mut tx = self.begin().await?;
        let Some(connection) = db::lock_own(&mut tx, &seen.user_id, seen.id).await? else {
            return Ok(());
        };
        if connection.version != seen.version {
            return Ok(());
        }
        match change(&connection) {
            Some(transition) => {
                db::apply(&mut tx, &transition, None).await?;
            }
            None => db::record_check(&mut tx, &connection, Some(self.clock.now())).await?,
        }
        tx.commit().await?;
        Ok(())
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
