//! How far this machine's clock is from the database's, by whose time leases, due times and ages go.

use std::sync::{Arc, Mutex, PoisonError};

use chrono::TimeDelta;
use tokio::time::Instant;

use super::Result;
use super::core::Core;
use crate::db;

/// From which offset on an operator is warned.
const WARN_ABOVE: TimeDelta = TimeDelta::seconds(2);

/// From which offset on the replica is not ready: other services that look at this machine's clock fail too.
const FAIL_ABOVE: TimeDelta = TimeDelta::seconds(60);

/// Measures how far this machine's clock is from the database's.
#[derive(Debug)]
pub struct ClockOffset {
    core: Arc<Core>,
    /// The last measured offset: positive if the database's clock is ahead. `None` until it is measured.
    last: Mutex<Option<TimeDelta>>,
}

impl ClockOffset {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self {
            core,
            last: Mutex::default(),
        }
    }

    fn set(&self, offset: TimeDelta) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(offset);
    }

    fn get(&self) -> Option<TimeDelta> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the database's clock, by which the service's clock goes from then on.
    ///
    /// # Errors
    /// As the database.
    pub async fn measure(&self) -> Result<()> {
        let mut tx = self.core.begin_single().await?;
        let asked = Instant::now();
        let read = db::database_time(&mut tx).await?;
        let round_trip = TimeDelta::from_std(asked.elapsed()).unwrap_or_default();
        tx.commit().await?;
        let expected = self.core.clock.now();
        let now = read + round_trip / 2;
        let Some(offset) = self.core.clock.set_database_time(now) else {
            return Ok(());
        };
        let jump = now - expected;
        if self.get().is_some() && jump.abs() > WARN_ABOVE {
            let seconds = jump.as_seconds_f64();
            tracing::warn!(seconds, "the database's clock was set to another time");
        }
        self.set(offset);
        let seconds = offset.as_seconds_f64();
        if offset.abs() > FAIL_ABOVE {
            tracing::error!(
                seconds,
                "this machine's clock differs from the database's, the replica is not ready: set both by NTP"
            );
        } else if offset.abs() > WARN_ABOVE {
            tracing::warn!(
                seconds,
                "this machine's clock differs from the database's: set both by NTP"
            );
        }
        Ok(())
    }

    /// The last measured offset in seconds: positive if the database's clock is ahead.
    pub(crate) fn seconds(&self) -> f64 {
        self.get().unwrap_or_default().as_seconds_f64()
    }

    /// Whether this machine's clock is too far from the database's for the replica to be ready.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.get().is_some_and(|offset| offset.abs() > FAIL_ABOVE)
    }
}
