//! A cache of one value with single flight: concurrent callers share one load.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

/// A value that concurrent callers load once, and that is cached for a while after that.
#[derive(Debug)]
pub(crate) struct CachedValue<T> {
    ttl: Duration,
    last: Mutex<Option<(Instant, T)>>,
}

impl<T: Clone> CachedValue<T> {
    /// Creates a value that is cached for `ttl` after each load.
    pub(crate) fn new(ttl: Duration) -> Self {
        Self {
            ttl,
            last: Mutex::new(None),
        }
    }

    /// Returns the cached value, or loads it with `load` if it is stale.
    pub(crate) async fn get(&self, load: impl Future<Output = T>) -> T {
        // The lock is held during the load, so that waiting callers get its result.
        let mut last = self.last.lock().await;
        if let Some((since, value)) = &*last
            && since.elapsed() < self.ttl
        {
            return value.clone();
        }
        let value = load.await;
        *last = Some((Instant::now(), value.clone()));
        value
    }
}
