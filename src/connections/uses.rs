//! Who was given which token when: written behind the answers, in batches.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use tokio::sync::Notify;
use uuid::Uuid;

use super::store::Queue;

/// How many uses wait to be written before those who add more have to wait, too.
const WAITING: usize = 10_000;

/// What a token was used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// It was handed out.
    Token,
    /// A call was made with it.
    Proxy,
}

impl Purpose {
    /// The name in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Proxy => "proxy",
        }
    }
}

/// Who uses which connection what for: what uses are counted by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Use {
    /// The connection.
    pub connection_id: Uuid,
    /// Who used it.
    pub service: String,
    /// What for.
    pub purpose: Purpose,
}

/// How often the same was done in a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// How often, at least once.
    pub times: i32,
    /// The first time.
    pub first: DateTime<Utc>,
    /// The last time.
    pub last: DateTime<Utc>,
}

impl Times {
    /// Once, now.
    #[must_use]
    pub fn once(now: DateTime<Utc>) -> Self {
        Self {
            times: 1,
            first: now,
            last: now,
        }
    }

    fn and(&mut self, others: Self) {
        self.times = self.times.saturating_add(others.times);
        self.first = self.first.min(others.first);
        self.last = self.last.max(others.last);
    }
}

/// A use that was written down.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct PastUse {
    /// Grows with each use.
    pub id: i64,
    /// Who used the connection.
    pub service: String,
    /// `token` or `proxy`.
    pub purpose: String,
    /// How often, at that moment.
    pub times: i32,
    /// When, the last time.
    pub used_at: DateTime<Utc>,
}

/// Uses that wait to be written, those that are the same counted together. None is dropped: when too
/// many wait, the next waits for its place.
#[derive(Debug, Default)]
pub struct Uses {
    waiting: Mutex<HashMap<Use, Times>>,
    many: Notify,
    room: Notify,
}

impl Uses {
    /// Adds a use.
    pub async fn note(&self, used: Use, now: DateTime<Utc>) {
        loop {
            let room = self.room.notified();
            {
                let mut waiting = self.lock();
                if let Some(same) = waiting.get_mut(&used) {
                    same.and(Times::once(now));
                    return;
                }
                if waiting.len() < WAITING {
                    waiting.insert(used, Times::once(now));
                    if waiting.len() == WAITING / 4 {
                        self.many.notify_one();
                    }
                    return;
                }
            }
            room.await;
        }
    }

    /// Returns when so many wait that they should be written soon.
    pub async fn many(&self) {
        self.many.notified().await;
    }

    /// Takes all that wait, in the order in which they were last done.
    #[must_use]
    pub fn take(&self) -> Vec<(Use, Times)> {
        let taken = std::mem::take(&mut *self.lock());
        self.room.notify_waiters();
        let mut taken: Vec<_> = taken.into_iter().collect();
        taken.sort_unstable_by_key(|(_, times)| times.last);
        taken
    }

    /// Gives back what could not be written.
    pub fn give_back(&self, uses: Vec<(Use, Times)>) {
        let mut waiting = self.lock();
        for (used, times) in uses {
            match waiting.entry(used) {
                Entry::Occupied(mut same) => same.get_mut().and(times),
                Entry::Vacant(place) => drop(place.insert(times)),
            }
        }
    }

    /// How many wait, and since when the oldest does.
    pub(super) fn waiting(&self) -> Queue {
        let waiting = self.lock();
        Queue {
            waiting: i64::try_from(waiting.len()).unwrap_or(i64::MAX),
            oldest: waiting.values().map(|times| times.first).min(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Use, Times>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).expect("it is a time")
    }

    fn used(service: &str) -> Use {
        Use {
            connection_id: Uuid::nil(),
            service: service.to_owned(),
            purpose: Purpose::Token,
        }
    }

    #[tokio::test]
    async fn what_is_the_same_is_counted_and_nothing_is_lost_by_a_failure() {
        let uses = Uses::default();
        for (service, second) in [("engine", 1), ("reports", 2), ("engine", 3)] {
            uses.note(used(service), at(second)).await;
        }
        let taken = uses.take();
        let told = |(used, times): &(Use, Times)| (used.service.clone(), times.times, times.last);
        let told: Vec<_> = taken.iter().map(told).collect();
        assert_eq!(
            told,
            [
                ("reports".to_owned(), 1, at(2)),
                ("engine".to_owned(), 2, at(3))
            ]
        );
        uses.note(used("engine"), at(4)).await;
        uses.give_back(taken);
        assert_eq!(uses.waiting().oldest, Some(at(1)));
        let engine = uses.take().pop();
        let all = Times {
            times: 3,
            first: at(1),
            last: at(4),
        };
        assert_eq!(engine, Some((used("engine"), all)));
    }
}
