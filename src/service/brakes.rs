//! Brakes stop what could harm many users by mistake: until an operator confirms it, or Nango proves that it is right.
//!
//! `database` and `nango` compare this process's database and Nango environment with those that the installation had. The
//! others count changes that no user asked for.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use chrono::{DateTime, Utc};
use moka::future::Cache;
use url::Url;

use super::{Error, Result};
use crate::clock::Clock;
use crate::db;
use crate::db::{Database, Identity};
use crate::domain::{Brake, InstallationId};
use crate::nango::{ListConnections, Nango};

/// How many connections are looked up to recognize a Nango environment.
const SAMPLE: i64 = 5;

/// How many connections have to be absent, and none present, for an environment to be unknown. Fewer may be gone each for
/// a reason of its own, as in a new product: then the integrations identify the environment.
const MIN_ABSENT: usize = 3;

/// How long the database's identity is cached.
const IDENTITY_TTL: Duration = Duration::from_secs(2);

/// An engaged brake.
#[derive(Clone, Debug)]
pub struct EngagedBrake {
    /// Which brake.
    pub brake: Brake,
    /// When it was engaged; `None` if it follows from how things are now.
    pub since: Option<DateTime<Utc>>,
    /// What was found.
    pub reason: String,
}

/// What the look-up of an environment showed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Evidence {
    /// Nango has a connection or an integration of the installation.
    Proven,
    /// The installation has no connection that could be absent.
    NotNeeded,
    /// Nango has none, or nothing was recorded that it could have.
    Insufficient,
}

/// All brakes of an installation, as this process sees them.
#[derive(Debug)]
pub struct Brakes {
    database: Database,
    nango: Option<Nango>,
    public_url: Url,
    clock: Clock,
    /// The installation's id at the start; unset in a process that never started the service.
    installation: OnceLock<InstallationId>,
    identity: Cache<(), Result<Option<String>, Arc<sqlx::Error>>>,
    /// The secret key opens another Nango environment, as far as is known.
    is_environment_unknown: AtomicBool,
    /// What requests found that looked it up again.
    reverified: Cache<(), Result<()>>,
}

impl Brakes {
    /// The brakes of this database, Nango environment and address.
    #[must_use]
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
            is_environment_unknown: AtomicBool::new(false),
            reverified: Cache::builder()
                .max_capacity(1)
                .time_to_live(IDENTITY_TTL)
                .build(),
        }
    }

    /// Records the database's identity at the first start, and logs what differs from it at a later one. `installation` is
    /// the id with which this process recognizes its connections at Nango.
    ///
    /// # Errors
    /// As the database.
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
                "the database is not the one that this installation had: sweeps, deletions and webhooks are paused. \
                 Run `patchbay brake`"
            );
        }
        Ok(())
    }

    /// Returns what differs from the database that the installation had; `None` if nothing does.
    ///
    /// # Errors
    /// As the database.
    pub(crate) async fn database_difference(&self) -> Result<Option<String>> {
        // The cache's future contains the given one several times.
        let compared = Box::pin(async {
            let mut tx = self.database.begin().await?;
            let actual = db::actual_identity(&mut tx, self.public_url.as_str()).await?;
            let recorded = db::recorded_identity(&mut tx).await?;
            let (installation, _is_copy) = db::installation(&mut tx).await?;
            tx.commit().await?;
            if (self.installation.get()).is_some_and(|started| *started != installation) {
                let difference = "the database became another installation: restart this replica";
                return Ok(Some(difference.to_owned()));
            }
            Ok(recorded.and_then(|recorded: Identity| actual.differs_from(&recorded)))
        });
        Ok(self.identity.get_with((), compared).await?)
    }

    /// Fails if the Nango environment is unknown, which is looked up again: a connect there would be lost when the right
    /// one is back.
    pub(crate) async fn require_environment(&self) -> Result<()> {
        if self.check_environment().is_ok() {
            return Ok(());
        }
        let verify = Box::pin(self.verify_environment(&[], None));
        self.reverified.get_with((), verify).await
    }

    /// Fails if the Nango environment was unknown when it was last looked up.
    pub(crate) fn check_environment(&self) -> Result<()> {
        if self.is_environment_unknown.load(Ordering::Relaxed) {
            return Err(Error::UnknownEnvironment);
        }
        Ok(())
    }

    /// Looks up connections that were confirmed lately, until Nango has one of them: those in `seen`, or else those that
    /// became connected last, without the one that is in doubt.
    ///
    /// Where one or two are absent, the integrations decide. Without a record of those, the environment counts as before.
    ///
    /// # Errors
    /// [`Error::UnknownEnvironment`] if Nango has none; as Nango and the database.
    pub(crate) async fn verify_environment(
        &self,
        seen: &[String],
        doubted: Option<&str>,
    ) -> Result<()> {
        self.recognize(seen, doubted).await?;
        self.check_environment()
    }

    /// Verifies the environment, and records its integrations if it is proven to be the installation's. `is_recognized`:
    /// Nango has just listed a connection of the installation.
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

    /// Records the integrations. Without a proof, those that were recorded before stay.
    async fn record_integrations(&self, is_proven: bool) -> Result<()> {
        let integrations = self.integrations().await?;
        if integrations.is_empty() {
            return Ok(());
        }
        let mut tx = self.database.begin_single().await?;
        db::record_integrations(&mut tx, &integrations, is_proven).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The integrations of the environment that the key opens, with when each was created.
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

    /// Whether the environment has an integration that the installation's had; `None` if none were recorded.
    async fn has_known_integrations(&self) -> Result<Option<bool>> {
        let mut tx = self.database.begin_single().await?;
        let recorded = db::nango_integrations(&mut tx).await?;
        tx.commit().await?;
        let Some(recorded) = recorded else {
            return Ok(None);
        };
        let found = self.integrations().await?;
        let is_known = found
            .iter()
            .any(|(key, created_at)| recorded.get(key) == Some(created_at));
        Ok(Some(is_known))
    }

    /// Fails unless this is the installation's environment, whose lack of a connection means that it was deleted. No
    /// connection may be left to tell by: then the integrations do.
    ///
    /// # Errors
    /// As [`Brakes::verify_environment`].
    pub(crate) async fn verify_deletion(&self) -> Result<()> {
        self.verify_environment(&[], None).await?;
        match self.has_known_integrations().await? {
            Some(false) => Err(Error::UnknownEnvironment),
            _ => Ok(()),
        }
    }

    /// Looks up the environment, and notes whether it is known.
    async fn recognize(&self, seen: &[String], doubted: Option<&str>) -> Result<Evidence> {
        let Some(nango) = &self.nango else {
            return Ok(Evidence::Insufficient);
        };
        let sample = if seen.is_empty() {
            let mut tx = self.database.begin_single().await?;
            let sample = db::confirmed_lately(&mut tx, doubted, SAMPLE).await?;
            tx.commit().await?;
            sample
        } else {
            seen.to_vec()
        };
        for id in &sample {
            let filter = ListConnections {
                connection_id: Some(id.clone()),
                ..ListConnections::default()
            };
            if !nango.connection_page(&filter).await?.is_empty() {
                self.recognize_environment(true);
                return Ok(Evidence::Proven);
            }
        }
        let is_known = match sample.len() + usize::from(doubted.is_some()) {
            0 => {
                self.recognize_environment(true);
                return Ok(Evidence::NotNeeded);
            }
            1..MIN_ABSENT => self.has_known_integrations().await?,
            _ => Some(false),
        };
        if let Some(is_known) = is_known {
            self.recognize_environment(is_known);
        }
        Ok(match is_known {
            Some(true) => Evidence::Proven,
            _ => Evidence::Insufficient,
        })
    }

    /// Looks up whether Nango has this installation's connections.
    ///
    /// # Errors
    /// As Nango and the database.
    pub async fn probe(&self) -> Result<()> {
        match self.verify_environment(&[], None).await {
            Err(Error::UnknownEnvironment) => Ok(()),
            verified => verified,
        }
    }

    /// Notes whether Nango has connections of this installation.
    pub(crate) fn recognize_environment(&self, is_known: bool) {
        let was_unknown = self
            .is_environment_unknown
            .swap(!is_known, Ordering::Relaxed);
        match (was_unknown, is_known) {
            (false, false) => tracing::error!(
                brake = Brake::Nango.as_str(),
                "Nango has none of the connections that were connected last: sweeps, deletions and connects are paused. \
                 Is NANGO_SECRET_KEY another environment's? Run `patchbay brake`"
            ),
            (true, true) => tracing::info!("Nango has this installation's connections again"),
            _ => {}
        }
    }

    /// Returns the brakes that are engaged.
    ///
    /// # Errors
    /// As the database; that Nango does not answer engages nothing.
    pub async fn engaged(&self) -> Result<Vec<EngagedBrake>> {
        let mut engaged = Vec::new();
        if let Some(reason) = self.database_difference().await? {
            engaged.push(EngagedBrake {
                brake: Brake::Database,
                since: None,
                reason,
            });
        }
        if self.check_environment().is_err() {
            engaged.push(EngagedBrake {
                brake: Brake::Nango,
                since: None,
                reason: Error::UnknownEnvironment.to_string(),
            });
        }
        let mut tx = self.database.begin_single().await?;
        let counted = db::engaged_brakes(&mut tx).await?;
        tx.commit().await?;
        engaged.extend(counted.into_iter().filter_map(|row| {
            Some(EngagedBrake {
                brake: row.kind.parse().ok()?,
                since: Some(row.engaged_at),
                reason: "more than 10 and more than 2 % of all connections within an hour"
                    .to_owned(),
            })
        }));
        Ok(engaged)
    }

    /// Returns how many connections of this installation at Nango belong to no row, by the last sweep.
    ///
    /// # Errors
    /// As the database.
    pub async fn orphans(&self) -> Result<i64> {
        let mut tx = self.database.begin_single().await?;
        let orphans = db::orphan_count(&mut tx).await?;
        tx.commit().await?;
        Ok(orphans)
    }

    /// Releases a brake: what it stopped is right. Of the database this says that it is the installation's, moved or
    /// restored.
    ///
    /// # Errors
    /// As the database.
    pub async fn release(&self, brake: Brake) -> Result<()> {
        let mut tx = self.database.begin().await?;
        match brake {
            Brake::Database => {
                let actual = db::actual_identity(&mut tx, self.public_url.as_str()).await?;
                db::record_identity(&mut tx, &actual).await?;
                db::end_all_absences(&mut tx).await?;
            }
            Brake::Nango => db::confirm_environment(&mut tx, self.clock.now()).await?,
            counted => db::release_brake(&mut tx, counted).await?,
        }
        tx.commit().await?;
        Ok(())
    }

    /// Makes another installation of a copied database: the original's connections at Nango are not its own, and it sends
    /// no webhooks.
    ///
    /// # Errors
    /// As the database.
    pub async fn release_copy(&self) -> Result<()> {
        let mut tx = self.database.begin().await?;
        db::become_copy(&mut tx).await?;
        let actual = db::actual_identity(&mut tx, self.public_url.as_str()).await?;
        db::record_identity(&mut tx, &actual).await?;
        tx.commit().await?;
        Ok(())
    }
}
