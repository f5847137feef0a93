//! The offset of this machine's clock from the database's. Leases, due times and ages use the database's time.

use std::sync::{Arc, Mutex, PoisonError};

use chrono::TimeDelta;
use tokio::time::Instant;

use super::Result;
use super::core::Core;
use crate::db;

/// The offset above which a warning is logged.
const WARN_ABOVE: TimeDelta = TimeDelta::seconds(2);

/// The offset above which the replica is not ready. Other operations that use this machine's clock fail as well.
const FAIL_ABOVE: TimeDelta = TimeDelta::seconds(60);

/// Measures the offset of this machine's clock from the database's.
#[derive(Debug)]
pub struct ClockOffset {
    core: Arc<Core>,
    /// The last measured offset, positive if the database's clock is ahead; `None` before the first measurement.
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

    /// Reads the database's clock and sets the service's clock to it. Logs an offset or a jump.
    pub async fn measure(&self) -> Result<()> {
        // In a transaction, because a wait for a connection is not part of the round trip.
        let mut tx = self.core.begin().await?;
        let started = Instant::now();
        let read = db::database_time(&mut tx).await?;
        let round_trip = TimeDelta::from_std(started.elapsed()).unwrap_or_default();
        tx.commit().await?;
        let expected = self.core.clock.now();
        let now = read + round_trip / 2;
        let Some(offset) = self.core.clock.set_database_time(now) else {
            return Ok(());
        };
        let jump = now - expected;
        if self.get().is_some() && jump.abs() > WARN_ABOVE {
            let seconds = jump.as_seconds_f64();
            tracing::warn!(seconds, "the database's clock jumped");
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

    /// Returns the last measured offset in seconds, positive if the database's clock is ahead; 0 before the first
    /// measurement.
    pub(crate) fn seconds(&self) -> f64 {
        self.get().unwrap_or_default().as_seconds_f64()
    }

    /// Returns whether the offset is too great for the replica to be ready.
    pub fn is_off(&self) -> bool {
        self.get().is_some_and(|offset| offset.abs() > FAIL_ABOVE)
    }
}
