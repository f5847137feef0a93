//! The time of day, passed in wherever it decides something.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};

/// Where the system's monotonic clock starts counting.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Where the time comes from: the system, or a hand that tests move.
///
/// Clones of a manual clock share their time.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The operating system's clock.
    System,
    /// A clock that stands still until [`Clock::advance`] moves it.
    Manual(Arc<ManualTime>),
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
    /// A clock that stands at `now` until it is moved.
    #[must_use]
    pub fn manual(now: DateTime<Utc>) -> Self {
        Self::Manual(Arc::new(ManualTime {
            wall: AtomicI64::new(now.timestamp_micros()),
            elapsed: AtomicI64::new(0),
        }))
    }

    /// The current time, in whole microseconds: what PostgreSQL can hold.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        let micros = match self {
            Self::System => {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "the one place that asks the system"
                )]
                let now = Utc::now();
                now.timestamp_micros()
            }
            Self::Manual(time) => time.wall.load(Ordering::SeqCst),
        };
        DateTime::from_timestamp_micros(micros).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    /// Returns the time since some fixed moment of this process. It never goes back, and a correction of the time of
    /// day does not change it. Limits and pauses use it.
    #[must_use]
    pub fn monotonic(&self) -> Duration {
        match self {
            Self::System => START.elapsed(),
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
