//! The clock, passed to each part that depends on the time.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};

/// The start of [`Clock::monotonic`] with the system's clock.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The source of the time: the system, the database, or a test.
///
/// Clones of a manual clock share their time.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The operating system's clock.
    System,
    /// The database's time, which all replicas share regardless of their systems' clocks.
    Database(Arc<DatabaseTime>),
    /// A clock that stands still until [`Clock::advance`] moves it.
    Manual(Arc<ManualTime>),
}

/// Returns the system's time of day, in microseconds since the epoch.
fn system_micros() -> i64 {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that asks the system"
    )]
    let now = Utc::now();
    now.timestamp_micros()
}

/// The database's time, extrapolated from its last reading.
#[derive(Debug)]
pub struct DatabaseTime {
    /// The last reading, in microseconds since the epoch, and when it was taken. It is extrapolated by the monotonic
    /// clock, so that a correction of the system's clock has no effect.
    reading: RwLock<Option<(i64, Instant)>>,
    /// The simulated error of the system's clock, in microseconds; 0 except in tests.
    system_error: i64,
}

impl DatabaseTime {
    fn now(&self) -> i64 {
        let reading = *self.reading.read().unwrap_or_else(PoisonError::into_inner);
        match reading {
            Some((micros, at)) => {
                let elapsed = i64::try_from(at.elapsed().as_micros());
                micros.saturating_add(elapsed.unwrap_or(i64::MAX))
            }
            None => self.system(),
        }
    }

    fn system(&self) -> i64 {
        system_micros() + self.system_error
    }
}

/// The readings of a manual clock.
#[derive(Debug)]
pub struct ManualTime {
    /// The time of day, in microseconds since the epoch.
    wall: AtomicI64,
    /// The monotonic reading, in microseconds.
    elapsed: AtomicI64,
}

impl Clock {
    /// Creates a clock with the database's time, which [`set_database_time`](Self::set_database_time) sets; until then
    /// with the system's.
    pub fn database() -> Self {
        Self::database_with_system_error(TimeDelta::zero())
    }

    /// Creates the same clock on a machine whose own clock has this error.
    pub fn database_with_system_error(error: TimeDelta) -> Self {
        Self::Database(Arc::new(DatabaseTime {
            reading: RwLock::new(None),
            system_error: error.num_microseconds().unwrap_or(0),
        }))
    }

    /// Sets the current time of the database. Returns how far it is ahead of the system's; `None` if this clock follows
    /// no database.
    pub fn set_database_time(&self, now: DateTime<Utc>) -> Option<TimeDelta> {
        let Self::Database(time) = self else {
            return None;
        };
        let micros = now.timestamp_micros();
        *time.reading.write().unwrap_or_else(PoisonError::into_inner) =
            Some((micros, Instant::now()));
        Some(TimeDelta::microseconds(micros - time.system()))
    }

    /// Creates a clock that stands still at `now`.
    pub fn manual(now: DateTime<Utc>) -> Self {
        Self::Manual(Arc::new(ManualTime {
            wall: AtomicI64::new(now.timestamp_micros()),
            elapsed: AtomicI64::new(0),
        }))
    }

    /// Returns the current time, in whole microseconds, which is PostgreSQL's precision.
    pub fn now(&self) -> DateTime<Utc> {
        let micros = match self {
            Self::System => system_micros(),
            Self::Database(time) => time.now(),
            Self::Manual(time) => time.wall.load(Ordering::SeqCst),
        };
        DateTime::from_timestamp_micros(micros).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    /// Returns the time since some fixed moment of this process. It never goes back, and a correction of the time of
    /// day does not change it. Limits and pauses use it.
    pub fn monotonic(&self) -> Duration {
        match self {
            Self::System | Self::Database(_) => START.elapsed(),
            Self::Manual(time) => {
                let micros = time.elapsed.load(Ordering::SeqCst);
                Duration::from_micros(micros.unsigned_abs())
            }
        }
    }

    /// Moves a manual clock forward; the system's clock cannot be moved and ignores it.
    pub fn advance(&self, by: TimeDelta) {
        self.correct(by);
        if let Self::Manual(time) = self {
            let micros = by.num_microseconds().unwrap_or(i64::MAX).max(0);
            time.elapsed.fetch_add(micros, Ordering::SeqCst);
        }
    }

    /// Corrects the time of day of a manual clock, forward or back, as a time server does. The monotonic reading stays.
    pub fn correct(&self, by: TimeDelta) {
        if let Self::Manual(time) = self {
            let micros = by.num_microseconds().unwrap_or(i64::MAX);
            time.wall.fetch_add(micros, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn database_time_replaces_a_wrong_system_time() {
        let wrong = TimeDelta::days(40);
        let clock = Clock::database_with_system_error(wrong);
        let before = Clock::System.now();
        assert!(clock.now() - before >= wrong);
        let offset = clock.set_database_time(before).unwrap();
        assert!(
            offset <= -wrong && offset > -wrong - TimeDelta::seconds(5),
            "{offset}"
        );
        let now = clock.now();
        assert!(
            now >= before && now < before + TimeDelta::seconds(5),
            "{now}"
        );
        assert_eq!(Clock::System.set_database_time(before), None);
    }
}
