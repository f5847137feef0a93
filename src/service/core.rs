//! The dependencies that all use cases share: the database, Nango, the clock and the installation.

use std::time::Duration;

use tokio::sync::Notify;
use url::Url;

use super::brakes::Brakes;
use super::session::WebhookUrls;
use super::statistics::ServiceMetrics;
use super::{Error, Result};
use crate::clock::Clock;
use crate::db::{self, Database, Transaction};
use crate::domain::{Connection, InstallationId};
use crate::nango::attempt_poller::{AttemptPoller, INSTALLATION_TAG};
use crate::nango::integration_cache::IntegrationCache;
use crate::nango::{
    self, ConnectionSummary, Credentials, ListConnections, Nango, Priority, Refresh,
};
use crate::webhooks::DeliveryGuard;

/// How long the startup waits for the verification of the Nango environment.
const STARTUP_PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// The database, Nango, the clock and the installation, which all use cases share.
#[derive(Debug)]
pub struct Core {
    pub(crate) database: Database,
    pub(crate) clock: Clock,
    /// `None` if `NANGO_ENABLED` is false.
    pub(crate) upstream: Option<NangoGateway>,
    /// The installation's id, which is in the tags of its connections at Nango.
    pub(crate) installation: InstallationId,
    /// `true` if the database is a copy of another installation's. Its rows may refer to that installation's
    /// connections at Nango.
    pub(crate) is_copy: bool,
    /// The brakes.
    pub brakes: Brakes,
    pub(crate) counts: ServiceMetrics,
    /// Wakes the worker that deletes connections at Nango.
    pub(crate) deletions: Notify,
    /// Wakes the worker that looks up accounts.
    pub(crate) lookups: Notify,
}

/// The client of Nango and the caches of its responses.
#[derive(Debug)]
pub(crate) struct NangoGateway {
    pub(crate) nango: Nango,
    pub(crate) attempt_poller: AttemptPoller,
    pub(crate) integrations: IntegrationCache,
    pub(crate) webhook_urls: WebhookUrls,
    /// The installation's id if the database is a copy of another installation's.
    pub(crate) copy: Option<InstallationId>,
}

impl Core {
    /// Reads the installation's id from a database with a current schema. Without a `nango`, operations that need it
    /// fail with [`Error::NangoDisabled`].
    pub async fn new(
        database: Database,
        nango: Option<Nango>,
        clock: Clock,
        public_url: Url,
    ) -> Result<Self> {
        let (installation, is_copy) = db::installation(&database).await?;
        let brakes = Brakes::new(database.clone(), nango.clone(), public_url, clock.clone());
        brakes.start(installation).await?;
        let upstream = nango.map(|nango| NangoGateway {
            attempt_poller: AttemptPoller::new(nango.clone()),
            integrations: IntegrationCache::new(nango.clone()),
            webhook_urls: WebhookUrls::default(),
            copy: is_copy.then_some(installation),
            nango,
        });
        Ok(Self {
            database,
            clock,
            upstream,
            installation,
            is_copy,
            brakes,
            counts: ServiceMetrics::default(),
            deletions: Notify::new(),
            lookups: Notify::new(),
        })
    }

    pub(crate) fn nango_gateway(&self) -> Result<&NangoGateway> {
        self.upstream.as_ref().ok_or(Error::NangoDisabled)
    }

    pub(crate) fn nango(&self) -> Result<&Nango> {
        Ok(&self.nango_gateway()?.nango)
    }

    /// Returns whether Nango's rate limit admits a call of this priority without a wait.
    pub(crate) fn has_room(&self, priority: Priority) -> bool {
        (self.upstream.as_ref()).is_some_and(|upstream| upstream.nango.has_room(priority))
    }

    pub(crate) async fn begin(&self) -> Result<Transaction> {
        Ok(self.database.begin().await?)
    }

    /// Invalidates the cached tokens of a connection on all replicas. Writes no event, because services can report any
    /// text as a rejected token.
    pub(crate) async fn renew_revision(&self, connection: &Connection) -> Result<()> {
        db::renew_revision(&self.database, connection, self.clock.now()).await?;
        Ok(())
    }

    /// Verifies the Nango environment before the first request. Logs failures.
    pub async fn verify_environment_at_start(&self) {
        let confirm = self.brakes.confirm_environment(false);
        match tokio::time::timeout(STARTUP_PROBE_TIMEOUT, confirm).await {
            // The verification has logged an unknown environment.
            Ok(Ok(()) | Err(Error::UnknownEnvironment)) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "could not verify the nango environment");
            }
            Err(_elapsed) => {
                tracing::warn!("the verification of the nango environment timed out");
            }
        }
    }

    /// Returns whether the Nango environment is not the installation's, or cannot be verified. Verifies it unless the last
    /// verification recognized it. After an inconclusive verification, each deletion needs its own proof.
    pub(crate) async fn is_environment_foreign(&self) -> Result<bool> {
        if self.brakes.is_environment_known() {
            return Ok(false);
        }
        match self.brakes.verify_environment(&[], None).await {
            Ok(()) => Ok(false),
            Err(Error::UnknownEnvironment) => Ok(true),
            Err(error @ Error::Database(_)) => Err(error),
            Err(error) => {
                tracing::warn!(%error, "could not verify the nango environment, deletions wait");
                Ok(true)
            }
        }
    }

    /// Returns whether the database is not the installation's, so that no webhooks are sent. An error counts as `true`.
    pub async fn is_database_foreign(&self) -> bool {
        !matches!(self.brakes.database_difference().await, Ok(None))
    }

    /// Returns whether a connection at Nango has this installation's tag.
    pub(crate) fn is_ours(&self, summary: &ConnectionSummary) -> bool {
        tagged_installation(summary) == Some(self.installation)
    }

    /// Fetches a connection's credentials from Nango, refreshed as `refresh` requires.
    pub(crate) async fn credentials(
        &self,
        connection: &Connection,
        refresh: Refresh,
    ) -> Result<Credentials, nango::Error> {
        Ok(self.at_nango(connection, refresh).await?.credentials)
    }

    /// Fetches a connection from Nango, with its credentials refreshed as `refresh` requires. Clears recorded absences.
    pub(crate) async fn at_nango(
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
            // The next fetch clears them.
            tracing::warn!(
                connection = %connection.id, %error,
                "could not clear the absences of a connection that nango has"
            );
        }
        Ok(found)
    }

    /// Returns whether Nango neither lists a connection with this id nor returns it by id.
    pub(crate) async fn is_gone(&self, id: &str, integration: &str) -> Result<bool> {
        let filter = ListConnections::of_id(id);
        Ok(self.nango()?.connection_page(&filter).await?.is_empty()
            && self.is_unknown_to_nango(id, integration).await?)
    }

    /// Returns whether Nango responds to a request by id that the connection does not exist.
    pub(crate) async fn is_unknown_to_nango(&self, id: &str, integration: &str) -> Result<bool> {
        let nango = self.nango()?;
        match nango.connection(id, integration, Refresh::WhenDue).await {
            // Nango deletes the connections of a deleted integration.
            Err(nango::Error::NotFound | nango::Error::UnknownIntegration) => Ok(true),
            Ok(_) | Err(nango::Error::InvalidCredentials { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl DeliveryGuard for Core {
    async fn is_paused(&self) -> bool {
        self.is_database_foreign().await
    }

    async fn permits(&self, claim: &mut Transaction) -> sqlx::Result<bool> {
        Ok(self.brakes.compare_database(claim).await?.is_none())
    }
}

/// Returns the installation in the tags of a connection at Nango; `None` without a valid tag.
pub(crate) fn tagged_installation(summary: &ConnectionSummary) -> Option<InstallationId> {
    summary.tags.get(INSTALLATION_TAG)?.parse().ok()
}
