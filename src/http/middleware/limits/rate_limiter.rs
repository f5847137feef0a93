//! A rate limiter: a quota per minute for each key.
//!
//! Uses the generic cell rate algorithm, which stores one time for each key: when its quota is full again. `governor`
//! cannot check a quota without charging it, and its maps of keys are unbounded.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The time window of a quota, in nanoseconds.
const WINDOW_NANOS: i64 = 60_000_000_000;

/// The number of locks, a power of two, so that callers of different keys rarely wait for each other.
const SHARDS: usize = 16;

/// The most keys of a shard. All shards together take about two megabytes.
const MAX_KEYS_PER_SHARD: usize = 4096;

/// One quota for each key.
#[derive(Debug)]
pub(crate) struct QuotaBuckets {
    policy: &'static str,
    quota: u32,
    /// The nanoseconds of the window that one request uses.
    cost: i64,
    shards: Vec<Mutex<HashMap<u64, i64>>>,
}

/// The state of a key after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QuotaState {
    /// The quota's name.
    pub(crate) policy: &'static str,
    quota: u32,
    remaining: i64,
    /// Seconds until the quota is full again.
    reset: u64,
    /// Seconds until the next request is allowed; `None` if this one was.
    pub(crate) wait: Option<u64>,
}

impl QuotaState {
    pub(crate) fn policy_header(&self) -> String {
        format!("{:?};q={};w=60", self.policy, self.quota)
    }

    pub(crate) fn header(&self) -> String {
        format!("{:?};r={};t={}", self.policy, self.remaining, self.reset)
    }
}

impl QuotaBuckets {
    /// Creates buckets of `quota` requests a minute; 0 means no limit.
    pub(crate) fn new(policy: &'static str, quota: u32) -> Self {
        Self {
            policy,
            quota,
            cost: WINDOW_NANOS / i64::from(quota.max(1)),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }
    }

    /// Counts a request at this monotonic time, unless it exceeds the quota. Returns `None` if there is no limit.
    pub(crate) fn take(&self, key: u64, now: Duration) -> Option<QuotaState> {
        if self.quota == 0 {
            return None;
        }
        let now = nanos(now);
        let mut shard = self.shard(key);
        let full_at = usage(shard.get(&key), now);
        let after = full_at + self.cost;
        let fits = after <= now + WINDOW_NANOS;
        if fits
            && (shard.len() < MAX_KEYS_PER_SHARD
                || shard.contains_key(&key)
                || evict_full(&mut shard, now))
        {
            shard.insert(key, after);
        }
        let used = if fits { after } else { full_at } - now;
        Some(QuotaState {
            policy: self.policy,
            quota: self.quota,
            remaining: (WINDOW_NANOS - used) / self.cost,
            reset: seconds(used),
            wait: (!fits).then(|| seconds(after - now - WINDOW_NANOS).max(1)),
        })
    }

    /// Returns the seconds until a request is allowed; `None` if it is allowed now. Counts nothing.
    pub(crate) fn wait(&self, key: u64, now: Duration) -> Option<u64> {
        if self.quota == 0 {
            return None;
        }
        let now = nanos(now);
        let beyond = usage(self.shard(key).get(&key), now) + self.cost - now - WINDOW_NANOS;
        (beyond > 0).then(|| seconds(beyond).max(1))
    }

    /// Refunds one request that [`take`](Self::take) has counted.
    pub(crate) fn refund(&self, key: u64) {
        if let Some(full_at) = self.shard(key).get_mut(&key) {
            *full_at -= self.cost;
        }
    }

    fn shard(&self, key: u64) -> std::sync::MutexGuard<'_, HashMap<u64, i64>> {
        let shard = &self.shards[usize::try_from(key % SHARDS as u64).unwrap_or_default()];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns when the quota of a key is full again, at the earliest now.
fn usage(full_at: Option<&i64>, now: i64) -> i64 {
    full_at.map_or(now, |at| (*at).max(now))
}

/// Removes keys whose quota is full again. Returns `true` if the shard has room. If not, new keys are allowed
/// uncounted: memory is bounded, and known keys stay limited.
fn evict_full(shard: &mut HashMap<u64, i64>, now: i64) -> bool {
    shard.retain(|_, full_at| *full_at > now);
    shard.len() < MAX_KEYS_PER_SHARD
}

fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX / 2)
}

/// Converts nanoseconds to whole seconds, rounded up.
fn seconds(nanos: i64) -> u64 {
    u64::try_from(nanos).unwrap_or(0).div_ceil(1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn quota_is_consumed_and_refills_gradually() {
        let buckets = QuotaBuckets::new("test", 60);
        for left in (0..60).rev() {
            let quota = buckets.take(1, at(0)).expect("there is a limit");
            assert_eq!((quota.remaining, quota.wait), (left, None));
        }
        let refused = buckets.take(1, at(0)).expect("there is a limit");
        assert_eq!(refused.wait, Some(1));
        assert_eq!(refused.header(), "\"test\";r=0;t=60");
        assert_eq!(refused.policy_header(), "\"test\";q=60;w=60");
        assert_eq!(buckets.wait(1, at(0)), Some(1));
        assert_eq!(buckets.wait(2, at(0)), None, "another has its own");
        // One a second; rejected requests cost nothing.
        assert_eq!(buckets.wait(1, at(1000)), None);
        assert_eq!(buckets.take(1, at(1000)).and_then(|it| it.wait), None);
        assert_eq!(buckets.take(1, at(1000)).and_then(|it| it.wait), Some(1));
        let rested = buckets.take(1, at(200_000)).expect("there is a limit");
        assert_eq!(rested.remaining, 59);
    }

    #[test]
    fn refund_takes_back_one_request() {
        let buckets = QuotaBuckets::new("test", 2);
        buckets.take(1, at(0));
        buckets.take(1, at(0));
        assert_eq!(buckets.wait(1, at(0)), Some(30));
        buckets.refund(1);
        assert_eq!(buckets.wait(1, at(0)), None);
        // A refund never raises the quota above its maximum.
        buckets.refund(1);
        buckets.refund(1);
        buckets.take(1, at(60_000));
        buckets.take(1, at(60_000));
        assert_eq!(buckets.wait(1, at(60_000)), Some(30));
    }

    #[test]
    fn bucket_count_is_bounded_and_known_keys_are_kept() {
        let buckets = QuotaBuckets::new("test", 1);
        for key in 0..(2 * MAX_KEYS_PER_SHARD * SHARDS) as u64 {
            buckets.take(key, at(0));
        }
        let stored: usize = (0..SHARDS as u64).map(|key| buckets.shard(key).len()).sum();
        assert_eq!(stored, MAX_KEYS_PER_SHARD * SHARDS);
        assert_eq!(buckets.take(5, at(0)).and_then(|it| it.wait), Some(60));
        // After a minute every quota is full.
        assert_eq!(
            buckets.take(u64::MAX, at(61_000)).and_then(|it| it.wait),
            None
        );
        assert_eq!(buckets.shard(u64::MAX).len(), 1);
    }

    #[test]
    fn zero_quota_disables_limit() {
        let buckets = QuotaBuckets::new("test", 0);
        assert_eq!(buckets.take(1, at(0)), None);
        assert_eq!(buckets.wait(1, at(0)), None);
    }
}
