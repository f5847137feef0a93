//! Brakes stop what could harm many users by mistake: until an operator confirms it, or Nango proves that it is right.
//!
//! `database` and `nango` compare this process's database and Nango environment with those that the installation had. The
//! others count changes that no user asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use strum::{Display, EnumString, IntoStaticStr, VariantArray, VariantNames};
use url::Url;

use super::{Error, Result};
use crate::clock::Clock;
use crate::db;
use crate::db::{Database, Identity, Transaction};
use crate::nango::{ListConnections, Nango};
use crate::single_flight::CachedValue;

/// How many changes of a kind may happen within an hour, whatever the share.
const MIN_LIMIT: i64 = 10;

/// One in so many connections may change within an hour: 2 %.
const SHARE: i64 = 50;

/// How many connections are looked up to recognize a Nango environment.
const SAMPLE: i64 = 5;

/// How long the database's identity is cached.
const IDENTITY_TTL: Duration = Duration::from_secs(2);

/// A brake.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Display, EnumString, IntoStaticStr, VariantArray, VariantNames,
)]
#[strum(serialize_all = "snake_case")]
pub enum Brake {
    /// The database is not the one that the installation had, as after a restore or in a copy: no sweep, no deletion at
    /// Nango and no webhook to the product.
    Database,
    /// Nango has none of the connections that were connected last: no sweep, no deletion and no connect.
    Nango,
    /// Too many connections would become `missing_upstream`.
    Missing,
    /// Too many connections would become `needs_reauthorization`.
    Dead,
    /// Too many connections at Nango would be deleted although no user asked for it.
    Deletions,
}

impl Brake {
    /// The name in the database, in metrics and in commands.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

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

/// All brakes of an installation, as this process sees them.
#[derive(Debug)]
pub struct Brakes {
    database: Database,
    nango: Option<Nango>,
    public_url: Url,
    clock: Clock,
    identity: CachedValue<Result<Option<String>, Arc<sqlx::Error>>>,
    /// The secret key opens another Nango environment, as far as is known.
    is_environment_unknown: AtomicBool,
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
            identity: CachedValue::new(IDENTITY_TTL),
            is_environment_unknown: AtomicBool::new(false),
        }
    }

    /// Records the database's identity at the first start, and logs what differs from it at a later one.
    ///
    /// # Errors
    /// As the database.
    pub(crate) async fn start(&self) -> Result<()> {
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
        let compared = self.identity.get(async {
            let mut tx = self.database.begin().await?;
            let actual = db::actual_identity(&mut tx, self.public_url.as_str()).await?;
            let recorded = db::recorded_identity(&mut tx).await?;
            tx.commit().await?;
            Ok(recorded.and_then(|recorded: Identity| actual.differs_from(&recorded)))
        });
        Ok(compared.await.map_err(|error: sqlx::Error| Arc::new(error))?)
    }

    /// Fails if the Nango environment is unknown: a connect there would be lost when the right one is back.
    pub(crate) fn check_environment(&self) -> Result<()> {
        if self.is_environment_unknown.load(Ordering::Relaxed) {
            return Err(Error::UnknownEnvironment);
        }
        Ok(())
    }

    /// Looks up connections that became connected last, without those in `except`, until Nango has one of them.
    ///
    /// Without any there is nothing to recognize the environment by, and it counts as known.
    ///
    /// # Errors
    /// [`Error::UnknownEnvironment`] if Nango has none; as Nango and the database.
    pub(crate) async fn verify_environment(&self, except: &[&str]) -> Result<()> {
        let Some(nango) = &self.nango else {
            return Ok(());
        };
        let mut tx = self.database.begin_single().await?;
        let sample = db::confirmed_lately(&mut tx, except, SAMPLE).await?;
        tx.commit().await?;
        for id in &sample {
            let filter = ListConnections {
                connection_id: Some(id.clone()),
                ..ListConnections::default()
            };
            if !nango.connection_page(&filter).await?.is_empty() {
                self.recognize_environment(true);
                return Ok(());
            }
        }
        self.recognize_environment(sample.is_empty());
        self.check_environment()
    }

    /// Notes whether Nango has connections of this installation.
    pub(crate) fn recognize_environment(&self, is_known: bool) {
        let was_unknown = self.is_environment_unknown.swap(!is_known, Ordering::Relaxed);
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

    /// Counts changes that no user asked for, in the transaction that makes them. Returns `false` if they must not be
    /// made; the brake is engaged when the transaction commits.
    pub(crate) async fn admit(
        tx: &mut Transaction,
        brake: Brake,
        changes: i64,
    ) -> sqlx::Result<bool> {
        let admitted = Self::has_room(tx, brake, changes).await?;
        if admitted {
            db::count_changes(tx, brake.as_str(), changes).await?;
        }
        Ok(admitted)
    }

    /// Returns whether so many changes may be made within the hour. If not, the brake is engaged when the transaction
    /// commits.
    pub(crate) async fn has_room(
        tx: &mut Transaction,
        brake: Brake,
        changes: i64,
    ) -> sqlx::Result<bool> {
        let state = db::lock_brake(tx, brake.as_str()).await?;
        if state.is_engaged || state.is_released {
            return Ok(!state.is_engaged);
        }
        let wanted = state.count + changes;
        if wanted <= MIN_LIMIT {
            return Ok(true);
        }
        let by_status = db::connections_by_status(tx).await?;
        let total: i64 = by_status.iter().map(|(_, count)| count).sum();
        if wanted <= total / SHARE {
            return Ok(true);
        }
        db::engage_brake(tx, brake.as_str()).await?;
        tracing::error!(
            brake = brake.as_str(), changes = wanted, connections = total,
            "too many connections would change within an hour without their users' doing: nothing more of the kind \
             is done. Run `patchbay brake`"
        );
        Ok(false)
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
                reason: "more than 10 and more than 2 % of all connections within an hour".to_owned(),
            })
        }));
        Ok(engaged)
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
            }
            Brake::Nango => db::confirm_environment(&mut tx, self.clock.now()).await?,
            counted => db::release_brake(&mut tx, counted.as_str()).await?,
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
