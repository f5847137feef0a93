//! Brakes stop operations that could harm many users by mistake, until an operator confirms them or Nango is
//! recognized.
//!
//! The brakes `database` and `nango` compare the current database and Nango environment with those of the installation.
//! The other brakes count changes that no user requested.

mod operator;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use moka::future::Cache;
use url::Url;

use super::core::tagged_installation;
use super::{Error, Result};
use crate::clock::Clock;
use crate::db::{self, Database, Identity, SweepRow, Transaction};
use crate::domain::{Brake, InstallationId};
use crate::nango::{ConnectionPage, ConnectionSummary, ListConnections, Nango};

pub use operator::EngagedBrake;

/// The maximum number of connections that are looked up to recognize a Nango environment.
const SAMPLE: i64 = 5;

/// The number of absent connections, without a present one, that make an environment unknown. Fewer absences may be
/// unrelated, as in a new product. Then the integrations identify the environment.
const MIN_ABSENT: usize = 3;

/// The TTL of the cached identity of the database, and of the cached result of a verification.
const IDENTITY_TTL: Duration = Duration::from_secs(2);

/// The TTL of the cached proof of the environment. Without the cache, each deletion after an import would make two more
/// calls.
const PROOF_TTL: Duration = Duration::from_secs(60);

/// The result of a verification of the Nango environment.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Evidence {
    /// Nango has a connection or an integration of the installation.
    Proven,
    /// The installation has no connection to look up.
    NotNeeded,
    /// Nango has neither, or too few connections and no integrations are recorded.
    Insufficient,
}

/// The connections that are looked up to recognize a Nango environment.
struct Sample {
    /// Their ids at Nango.
    ids: Vec<String>,
    /// Their rows.
    rows: Vec<SweepRow>,
    installation: InstallationId,
}

impl Sample {
    /// Returns whether a connection at Nango is one of the installation's, and not another one with the same id. Ids of
    /// imported connections contain the user and the connector, so that two environments may share them.
    fn proves(&self, found: &ConnectionSummary) -> bool {
        tagged_installation(found) == Some(self.installation)
            || self.rows.iter().any(|row| row.is(found))
    }

    /// Returns whether Nango lists an id that may be the installation's connection: the entry cannot be read, or the
    /// row is imported and its creation time is not known yet.
    fn may_be(&self, id: &str, page: &ConnectionPage) -> bool {
        let is_imported = |row: &SweepRow| row.nango_connection_id == id && row.is_time_unknown();
        !page.unreadable.is_empty()
            || (!page.connections.is_empty() && self.rows.iter().any(is_imported))
    }
}

/// All brakes of an installation, as seen by this process.
#[derive(Debug)]
pub struct Brakes {
    database: Database,
    nango: Option<Nango>,
    public_url: Url,
    clock: Clock,
    /// The installation's id at startup; unset in a process that does not start the service.
    installation: OnceLock<InstallationId>,
    identity: Cache<(), Result<Option<String>, Arc<sqlx::Error>>>,
    /// Whether the last conclusive verification recognized the Nango environment; `None` before the first.
    is_environment_known: Mutex<Option<bool>>,
    /// The cached result of the verification by requests.
    verified: Cache<(), Result<()>>,
    /// Set if the environment was proven within [`PROOF_TTL`].
    proven: Cache<(), ()>,
}

impl Brakes {
    /// Returns the brakes of this database, Nango environment and public address.
    pub fn new(database: Database, nango: Option<Nango>, public_url: Url, clock: Clock) -> Self {
        Self {
            database,
            nango,
            public_url,
            clock,
            installation: OnceLock::new(),
            identity: Cache::builder()
                .max_capacity(1)
                .time_to_live(IDENTITY_TTL)
                .build(),
            is_environment_known: Mutex::default(),
            verified: Cache::builder()
                .max_capacity(1)
                .time_to_live(IDENTITY_TTL)
                .build(),
            proven: Cache::builder()
                .max_capacity(1)
                .time_to_live(PROOF_TTL)
                .build(),
        }
    }

    /// Records the database's identity at the first start. At later starts, logs a difference from it. `installation`
    /// is the id in the tags of this installation's connections at Nango.
    pub(crate) async fn start(&self, installation: InstallationId) -> Result<()> {
        self.installation.get_or_init(|| installation);
        let mut tx = self.database.begin().await?;
        let actual = db::actual_identity(&mut tx, self.public_url.as_str()).await?;
        let recorded = db::recorded_identity(&mut tx).await?;
        if recorded.is_none() {
            db::record_identity(&mut tx, &actual).await?;
        }
        tx.commit().await?;
        if let Some(difference) = recorded.and_then(|recorded| actual.differs_from(&recorded)) {
            tracing::error!(
                brake = Brake::Database.as_str(), %difference,
                "the database differs from this installation's recorded one: sweeps, deletions and webhooks are \
                 paused. Run `patchbay brake`"
            );
        }
        Ok(())
    }

    /// Returns a description of the difference from the installation's recorded database; `None` if there is none.
    /// Cached.
    pub(crate) async fn database_difference(&self) -> Result<Option<String>> {
        // Boxed, because the cache's future contains this future several times.
        let compared = Box::pin(async {
            let mut tx = self.database.begin().await?;
            let difference = self.compare_database(&mut tx).await?;
            tx.commit().await?;
            Ok(difference)
        });
        Ok(self.identity.get_with((), compared).await?)
    }

    /// As [`Brakes::database_difference`], but not cached.
    pub(crate) async fn compare_database(
        &self,
        db: &mut Transaction,
    ) -> sqlx::Result<Option<String>> {
        let actual = db::actual_identity(db, self.public_url.as_str()).await?;
        let recorded = db::recorded_identity(db).await?;
        let (installation, _is_copy) = db::installation(db).await?;
        if (self.installation.get()).is_some_and(|started| *started != installation) {
            let difference =
                "the installation's id in the database has changed: restart this replica";
            return Ok(Some(difference.to_owned()));
        }
        Ok(recorded.and_then(|recorded: Identity| actual.differs_from(&recorded)))
    }

    /// Fails if the Nango environment is unknown, after verifying it again. A connection that is created there would be
    /// lost when the secret key is corrected. Also verifies it if no verification since the start was conclusive, for
    /// example because Nango's rate limit was used up.
    ///
    /// # Errors
    /// As [`Brakes::verify_environment`].
    pub(crate) async fn require_environment(&self) -> Result<()> {
        if self.is_environment_known() {
            return Ok(());
        }
        let verify = Box::pin(self.verify_environment(&[], None));
        self.verified.get_with((), verify).await
    }

    /// Fails if the last verification did not recognize the Nango environment. Does not call Nango.
    pub(crate) fn check_environment(&self) -> Result<()> {
        if *self.environment() == Some(false) {
            return Err(Error::UnknownEnvironment);
        }
        Ok(())
    }

    /// Returns whether the last conclusive verification recognized the Nango environment.
    pub(crate) fn is_environment_known(&self) -> bool {
        *self.environment() == Some(true)
    }

    fn environment(&self) -> MutexGuard<'_, Option<bool>> {
        let state = self.is_environment_known.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }

    /// Verifies the Nango environment. Looks up the connections in `listed` or, if it is empty, the most recently
    /// connected ones except `doubted`, until Nango has one of them: with this installation's tag, or the creation time
    /// of its row.
    ///
    /// If fewer than [`MIN_ABSENT`] are absent, or Nango has ids of imported rows without a known creation time, the
    /// recorded integrations decide. If none are recorded, more than half of these ids are enough. Otherwise, the
    /// previous result stays.
    ///
    /// # Errors
    /// [`Error::UnknownEnvironment`] if Nango has none of them; as Nango and the database.
    pub(crate) async fn verify_environment(
        &self,
        listed: &[String],
        doubted: Option<&str>,
    ) -> Result<()> {
        self.recognize(listed, doubted).await?;
        self.check_environment()
    }

    /// Verifies the environment, and records its integrations unless the evidence is insufficient. `is_recognized` is
    /// `true` if Nango has just listed a connection of the installation.
    ///
    /// # Errors
    /// As [`Brakes::verify_environment`].
    pub(crate) async fn confirm_environment(&self, is_recognized: bool) -> Result<()> {
        let evidence = if is_recognized {
            self.recognize_environment(true);
            Evidence::Proven
        } else {
            self.recognize(&[], None).await?
        };
        if evidence != Evidence::Insufficient
            && let Err(error) = self.record_integrations(evidence == Evidence::Proven).await
        {
            tracing::warn!(%error, "could not record the integrations of the nango environment, will retry");
        }
        self.check_environment()
    }

    /// Records the environment's integrations. Replaces earlier records only if the environment `is_proven`.
    async fn record_integrations(&self, is_proven: bool) -> Result<()> {
        let integrations = self.integrations().await?;
        if integrations.is_empty() {
            return Ok(());
        }
        Ok(db::record_integrations(&self.database, &integrations, is_proven).await?)
    }

    /// Returns the integrations of the current environment, by key, with their creation times.
    async fn integrations(&self) -> Result<BTreeMap<String, String>> {
        let Some(nango) = &self.nango else {
            return Ok(BTreeMap::new());
        };
        let found = nango.integrations().await?.into_iter();
        Ok(found
            .filter(|it| !it.created_at.is_empty())
            .map(|it| (it.unique_key, it.created_at))
            .collect())
    }

    /// Returns whether the environment has a recorded integration with the same creation time; `None` if none are
    /// recorded.
    async fn has_known_integrations(&self) -> Result<Option<bool>> {
        let recorded = db::nango_integrations(&self.database).await?;
        let Some(recorded) = recorded else {
            return Ok(None);
        };
        let found = self.integrations().await?;
        let is_known = found
            .iter()
            .any(|(key, created_at)| recorded.get(key) == Some(created_at));
        Ok(Some(is_known))
    }

    /// Fails unless this is the installation's environment. Only there does an absent connection count as deleted. The
    /// recorded integrations are compared as well, because no other connection may be left to identify the environment.
    ///
    /// # Errors
    /// As [`Brakes::verify_environment`], and if the evidence is insufficient.
    pub(crate) async fn verify_deletion(&self) -> Result<()> {
        let evidence = self.recognize(&[], None).await?;
        self.check_environment()?;
        match (evidence, self.has_known_integrations().await?) {
            (Evidence::Insufficient, _) | (_, Some(false)) => Err(Error::UnknownEnvironment),
            _ => Ok(()),
        }
    }

    /// As [`Brakes::verify_deletion`], before the deletion of a connection without this installation's tag. Another
    /// environment may have one with the same id. A success is cached for [`PROOF_TTL`].
    ///
    /// # Errors
    /// As [`Brakes::verify_deletion`].
    pub(crate) async fn verify_untagged_deletion(&self) -> Result<()> {
        if self.proven.get(&()).await.is_none() {
            self.verify_deletion().await?;
            self.proven.insert((), ()).await;
        }
        Ok(())
    }

    /// Verifies the environment, and records whether it is known.
    async fn recognize(&self, listed: &[String], doubted: Option<&str>) -> Result<Evidence> {
        let Some(nango) = &self.nango else {
            return Ok(Evidence::Insufficient);
        };
        let sample = self.sample(listed, doubted).await?;
        // Connections with the id of an imported row. They prove less than a tag or a creation time.
        let mut possible = 0;
        for id in &sample.ids {
            let page = nango.connection_page(&ListConnections::of_id(id)).await?;
            if page.connections.iter().any(|found| sample.proves(found)) {
                self.recognize_environment(true);
                return Ok(Evidence::Proven);
            }
            possible += usize::from(sample.may_be(id, &page));
        }
        let absent = sample.ids.len() - possible + usize::from(doubted.is_some());
        let is_known = match (possible, absent) {
            (0, 0) => {
                self.recognize_environment(true);
                return Ok(Evidence::NotNeeded);
            }
            (0, MIN_ABSENT..) => Some(false),
            _ => match self.has_known_integrations().await? {
                // The first start after an import. Only the ids can be compared.
                None if possible > absent => Some(true),
                None if absent >= MIN_ABSENT => Some(false),
                is_known => is_known,
            },
        };
        if let Some(is_known) = is_known {
            self.recognize_environment(is_known);
        }
        Ok(match is_known {
            Some(true) => Evidence::Proven,
            _ => Evidence::Insufficient,
        })
    }

    /// Returns the connections to look up: those in `listed` or, if it is empty, the most recently connected ones except
    /// `doubted`.
    async fn sample(&self, listed: &[String], doubted: Option<&str>) -> Result<Sample> {
        let mut tx = self.database.begin().await?;
        let ids = match listed {
            [] => db::confirmed_lately(&mut tx, doubted, SAMPLE).await?,
            listed => listed.to_vec(),
        };
        let (installation, _is_copy) = db::installation(&mut tx).await?;
        let names: Vec<&str> = ids.iter().map(String::as_str).collect();
        let rows = db::find_by_nango_ids(&mut tx, &names).await?;
        tx.commit().await?;
        Ok(Sample {
            ids,
            rows,
            installation,
        })
    }

    /// Verifies the environment for [`Brakes::engaged`]. An unknown environment is no error.
    ///
    /// # Errors
    /// As Nango and the database.
    pub async fn probe(&self) -> Result<()> {
        match self.verify_environment(&[], None).await {
            Err(Error::UnknownEnvironment) => Ok(()),
            verified => verified,
        }
    }

    /// Records whether the environment is this installation's, and logs a change.
    pub(crate) fn recognize_environment(&self, is_known: bool) {
        let was_unknown = self.environment().replace(is_known) == Some(false);
        match (was_unknown, is_known) {
            (false, false) => tracing::error!(
                brake = Brake::Nango.as_str(),
                "nango has none of the most recently connected connections: sweeps, deletions and connects are paused. \
                 Check that NANGO_SECRET_KEY belongs to the right environment, and run `patchbay brake`"
            ),
            (true, true) => tracing::info!("nango has this installation's connections again"),
            _ => {}
        }
    }
}
