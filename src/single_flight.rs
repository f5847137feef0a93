//! One answer for all who ask at about the same time.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

/// A value that concurrent callers load once, and that is cached for a while after that.
#[derive(Debug)]
pub(crate) struct CachedValue<T> {
    lasts: Duration,
    last: Mutex<Option<(Instant, T)>>,
}

impl<T: Clone> CachedValue<T> {
    /// Creates one whose values are cached for `lasts`.
    pub(crate) fn new(lasts: Duration) -> Self {
        Self {
            lasts,
            last: Mutex::new(None),
        }
    }

    /// The last answer while it lasts, else that of `ask`.
    pub(crate) async fn get(&self, ask: impl Future<Output = T>) -> T {
        // The lock is held until there is an answer, so that it serves all who wait.
        let mut last = self.last.lock().await;
        if let Some((since, answer)) = &*last
            && since.elapsed() < self.lasts
        {
            return answer.clone();
        }
        let answer = ask.await;
        *last = Some((Instant::now(), answer.clone()));
        answer
    }
}
