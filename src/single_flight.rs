//! One answer for all who ask at about the same time.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

/// An answer that is asked for once for all who wait for it, and told for a while after that.
#[derive(Debug)]
pub(crate) struct CachedValue<T> {
    lasts: Duration,
    last: Mutex<Option<(Instant, T)>>,
}

impl<T: Clone> CachedValue<T> {
    /// One whose answers are told for so long.
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
