//! What an operator sees of the brakes, and releases.

use chrono::{DateTime, Utc};

use super::Brakes;
use crate::db;
use crate::domain::Brake;
use crate::service::{Error, Result};

/// An engaged brake.
#[derive(Clone, Debug)]
pub struct EngagedBrake {
    /// The brake.
    pub brake: Brake,
    /// When the brake was engaged; `None` if it depends on the current state only.
    pub since: Option<DateTime<Utc>>,
    /// Human-readable reason.
    pub reason: String,
}

impl Brakes {
    /// Returns the brakes that are engaged.
    ///
    /// # Errors
    /// As the database. Does not call Nango.
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
        let counted = db::engaged_brakes(&self.database).await?;
        engaged.extend(counted.into_iter().filter_map(|row| {
            Some(EngagedBrake {
                brake: row.kind.parse().ok()?,
                since: Some(row.engaged_at),
                reason: "connections of more than 10 users within an hour, and of more users than 2 % of all connections"
                    .to_owned(),
            })
        }));
        Ok(engaged)
    }

    /// Returns the brakes that do not limit changes for now, because an operator released them, and the times at which
    /// they limit again.
    pub async fn released(&self) -> Result<Vec<(Brake, DateTime<Utc>)>> {
        let released = db::released_brakes(&self.database).await?;
        let known = |(kind, until): (String, _)| Some((kind.parse().ok()?, until));
        Ok(released.into_iter().filter_map(known).collect())
    }

    /// Returns the number of this installation's connections at Nango without a row, as of the last sweep.
    pub async fn orphans(&self) -> Result<i64> {
        Ok(db::orphan_count(&self.database).await?)
    }

    /// Releases a brake, after an operator has confirmed the stopped operations. For [`Brake::Database`], records the
    /// current database as the installation's, because it was moved or restored. Returns `false`, and changes nothing,
    /// if the brake is not engaged. [`Brake::Nango`] can be released before it engages.
    pub async fn release(&self, brake: Brake) -> Result<bool> {
        let mut tx = self.database.begin().await?;
        let was_engaged = match brake {
            Brake::Database => {
                let was_engaged = self.compare_database(&mut tx).await?.is_some();
                if was_engaged {
                    let actual = db::actual_identity(&mut tx, self.public_url.as_str()).await?;
                    db::record_identity(&mut tx, &actual).await?;
                    db::end_all_absences(&mut tx).await?;
                }
                was_engaged
            }
            // Deletions also wait while the environment cannot be verified, which engages no brake.
            Brake::Nango => {
                db::confirm_environment(&mut tx, self.clock.now()).await?;
                true
            }
            counted => db::release_brake(&mut tx, counted).await?,
        };
        tx.commit().await?;
        Ok(was_engaged)
    }

    /// Makes a copied database another installation. It does not own the original's connections at Nango, and it sends
    /// no webhooks. Returns `false`, and changes nothing, if the brake is not engaged: the database is then the
    /// installation's own.
    pub async fn release_copy(&self) -> Result<bool> {
        let mut tx = self.database.begin().await?;
        if self.compare_database(&mut tx).await?.is_none() {
            return Ok(false);
        }
        db::become_copy(&mut tx).await?;
        let actual = db::actual_identity(&mut tx, self.public_url.as_str()).await?;
        db::record_identity(&mut tx, &actual).await?;
        tx.commit().await?;
        Ok(true)
    }
}
