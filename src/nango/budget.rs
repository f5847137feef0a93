//! What Nango says on each answer of how many calls are left in its current minute.

use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::header::HeaderMap;

/// How many tenths of a minute's calls are for what somebody waits for.
const RESERVED: u64 = 3;

/// How far away a minute's end may be. What is farther is told by a clock that goes otherwise than
/// ours, and says nothing.
const MAX_RESET_DISTANCE: TimeDelta = TimeDelta::minutes(2);

/// What the last answer said: whoever else calls with the same key, another replica say, is in it.
#[derive(Debug, Default)]
pub(crate) struct RateBudget(Mutex<Option<RateWindow>>);

#[derive(Clone, Copy, Debug)]
struct RateWindow {
    limit: u32,
    remaining: u32,
    ends_at: DateTime<Utc>,
}

impl RateBudget {
    /// Remembers what an answer says, if it says it.
    pub(crate) fn update(&self, headers: &HeaderMap) {
        if let Some(minute) = RateWindow::read(headers) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(minute);
        }
    }

    /// Whether more is left than what is reserved, as far as is known.
    pub(crate) fn has_room(&self, now: DateTime<Utc>) -> bool {
        let minute = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        minute.is_none_or(|minute| {
            let over = minute.ends_at <= now || minute.ends_at > now + MAX_RESET_DISTANCE;
            over || u64::from(minute.remaining) * 10 >= u64::from(minute.limit) * RESERVED
        })
    }
}

impl RateWindow {
    fn read(headers: &HeaderMap) -> Option<Self> {
        let text = |name: &str| headers.get(name)?.to_str().ok();
        let number = |name: &str| text(name)?.parse().ok();
        let ends_at = text("x-ratelimit-reset")?.parse().ok()?;
        Some(Self {
            limit: number("x-ratelimit-limit")?,
            remaining: number("x-ratelimit-remaining")?,
            ends_at: DateTime::from_timestamp(ends_at, 0)?,
        })
    }
}
