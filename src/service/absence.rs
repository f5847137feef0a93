//! Absence: a connection is missing only if repeated look-ups over time confirm it. A single look-up proves nothing.

use std::time::Duration;

use chrono::TimeDelta;

use super::core::Core;
use super::credential_check::CredentialChecker;
use super::sweep::{Sweeper, recoverable_error};
use super::{Error, Result};
use crate::db;
use crate::domain::state_machine::MIN_ABSENCE_SPREAD;
use crate::domain::{Brake, Connection, Reason};
use crate::nango::Priority;

/// The maximum number of absent connections that one run looks up. The sweep looks up the others.
const MAX_CHECKS: i64 = 20;

/// How long after its first absence a connection is looked up between sweeps.
const FREQUENT_CHECKS: TimeDelta = TimeDelta::hours(1);

impl Sweeper {
    /// Looks up absent connections, so that their absence is confirmed or ends between two sweeps. Every replica runs
    /// it, without a lease. Returns the number of connections that became missing.
    ///
    /// # Errors
    /// As Nango and the database.
    pub async fn check_absences(&self) -> Result<usize> {
        if !self.core.has_room(Priority::Sweep) || self.core.is_database_foreign().await {
            return Ok(0);
        }
        Priority::Sweep.scope(self.check_absent_connections()).await
    }

    async fn check_absent_connections(&self) -> Result<usize> {
        let since = self.core.clock.now() - FREQUENT_CHECKS;
        let absent = db::absent_connections(&self.core.database, since, MAX_CHECKS).await?;
        if absent.is_empty() {
            return Ok(0);
        }
        self.core.brakes.verify_environment(&[], None).await?;
        let mut missing = 0;
        for connection in &absent {
            let checked = self.checks.check_absence(connection, &[]).await;
            missing += usize::from(matches!(checked, Ok(true)));
            if let Some(error) = recoverable_error(checked)? {
                tracing::warn!(
                    connection = %connection.id, %error,
                    "could not look up an absent connection, will retry"
                );
            }
            self.pause_sweep(Duration::ZERO).await;
        }
        Ok(missing)
    }
}

impl CredentialChecker {
    /// Looks up a connection that Nango's list lacks, and records the result. Returns `true` if it is missing. `listed`
    /// are Nango's ids of connections that the list contains.
    ///
    /// # Errors
    /// As [`CredentialChecker::is_missing`].
    pub(crate) async fn check_absence(
        &self,
        connection: &Connection,
        listed: &[String],
    ) -> Result<bool> {
        let Some(upstream) = connection.state.upstream() else {
            return Ok(false);
        };
        let is_absent = if connection.absent(self.core.clock.now()).1 {
            match self.is_missing(connection, listed).await {
                // An orphan is a newer grant of the connection.
                Err(Error::ProviderUnavailable) => false,
                is_missing => is_missing?,
            }
        } else {
            self.core
                .is_gone(&upstream.id, &upstream.integration.key)
                .await?
        };
        if !is_absent {
            self.core.end_absence(connection).await?;
            return Ok(false);
        }
        let current = self.note_absence(connection).await?;
        Ok(current.is_some_and(|it| it.state.reason() == Some(Reason::MissingUpstream)))
    }

    /// Records that Nango does not have a connection. Sets it to missing if the absence is confirmed and the brake
    /// permits this for all connections that are absent for as long. Returns the current connection; `None` if it does
    /// not exist.
    pub(crate) async fn note_absence(&self, seen: &Connection) -> Result<Option<Connection>> {
        // With a restored or copied database, absences prove nothing until an operator releases the brake.
        if self.core.is_database_foreign().await {
            return Ok(Some(seen.clone()));
        }
        let now = self.core.clock.now();
        let mut tx = self.core.begin().await?;
        let Some(connection) = db::lock_own(&mut tx, &seen.user_id, seen.id).await? else {
            return Ok(None);
        };
        if connection.revision() != seen.revision() {
            return Ok(Some(connection));
        }
        let transition = (connection.state.upstream())
            .and_then(|upstream| connection.missing(&upstream.id, now));
        let Some(transition) = transition else {
            return Ok(Some(connection));
        };
        // Another replica may have recorded an absence since. The locked row is current.
        let (absences, is_confirmed) = connection.absent(now);
        if connection.absences.is_empty() {
            tracing::info!(
                connection = %connection.id,
                "nango does not have a connection, will check again"
            );
        }
        if is_confirmed {
            let user = &connection.user_id;
            let pending = db::count_absent_users(&mut tx, user, now - MIN_ABSENCE_SPREAD).await?;
            if db::admit_change(&mut tx, Brake::Missing, user, pending).await? {
                let missing = db::apply(&mut tx, &transition, None).await?;
                tx.commit().await?;
                return Ok(Some(missing));
            }
        }
        db::record_absences(&mut tx, &connection, &absences).await?;
        tx.commit().await?;
        Ok(Some(Connection {
            absences,
            ..connection
        }))
    }
}

impl Core {
    /// Clears a connection's absences, because Nango has it.
    pub(crate) async fn end_absence(&self, connection: &Connection) -> Result<()> {
        if connection.absences.is_empty() {
            return Ok(());
        }
        Ok(db::record_absences(&self.database, connection, &[]).await?)
    }
}
