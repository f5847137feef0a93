//! Which integrations the Nango environment has configured.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{Error, Nango};

/// How long an answer is fresh. After that it is still used, while Nango is queried again.
const CACHE_TTL: Duration = Duration::from_secs(60);

/// How soon Nango may be queried again after an answer that lacks an integration, or a failure: an operator who has
/// just added one should not wait a minute.
const MISS_RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// How long Nango has to answer that it has no integration at all, after it had some, before that is accepted.
const DOUBT: Duration = Duration::from_secs(10 * 60);

type Keys = Arc<HashSet<String>>;

/// The keys of the configured integrations. Once there is an answer, no caller waits for the next.
#[derive(Debug)]
pub struct IntegrationCache(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    nango: Nango,
    known: Mutex<Known>,
    /// Held by the one call that is under way.
    call: tokio::sync::Mutex<()>,
}

/// The last good answer, and how the last call ended.
#[derive(Debug, Default)]
struct Known {
    keys: Option<Keys>,
    called: Option<Instant>,
    error: Option<Error>,
    /// Since when Nango has answered that it has none, though it had some.
    empty_since: Option<Instant>,
}

impl IntegrationCache {
    /// Queries this Nango.
    #[must_use]
    pub fn new(nango: Nango) -> Self {
        Self(Arc::new(Inner {
            nango,
            known: Mutex::default(),
            call: tokio::sync::Mutex::default(),
        }))
    }

    /// Returns all keys of the last good answer, however old. A stale one is refreshed in the background.
    ///
    /// # Errors
    /// As the call to Nango, if there never was a good answer. All who ask within two seconds get the same error.
    pub async fn keys(&self) -> Result<Keys, Error> {
        let known = {
            let known = self.0.lock();
            let age = if known.error.is_none() {
                CACHE_TTL
            } else {
                MISS_RETRY_INTERVAL
            };
            let stale = !known.called_within(age);
            known.keys.clone().map(|keys| (keys, stale))
        };
        match known {
            Some((keys, stale)) => {
                if stale {
                    self.refresh_behind();
                }
                Ok(keys)
            }
            None => self.0.refresh(MISS_RETRY_INTERVAL).await,
        }
    }

    /// Returns whether an integration is configured. Nango is queried again if the last answer lacks it.
    ///
    /// # Errors
    /// As [`IntegrationCache::keys`].
    pub async fn contains(&self, key: &str) -> Result<bool, Error> {
        if self.keys().await?.contains(key) {
            return Ok(true);
        }
        Ok(self.0.refresh(MISS_RETRY_INTERVAL).await?.contains(key))
    }

    /// Removes an integration of which Nango has just said that there is none.
    pub fn forget(&self, key: &str) {
        let mut known = self.0.lock();
        if let Some(keys) = &mut known.keys {
            Arc::make_mut(keys).remove(key);
        }
    }

    /// Starts a refresh unless one is under way. It ends by the client's own timeout.
    fn refresh_behind(&self) {
        if self.0.call.try_lock().is_ok() {
            let inner = self.0.clone();
            tokio::spawn(async move { inner.refresh(MISS_RETRY_INTERVAL).await });
        }
    }
}

impl Inner {
    /// Queries Nango unless that was done less than `age` ago. One call serves all who wait.
    async fn refresh(&self, age: Duration) -> Result<Keys, Error> {
        let _call = self.call.lock().await;
        if self.lock().called_within(age) {
            return self.lock().answer();
        }
        let answer = self.nango.integrations().await;
        let keys = answer.map(|found| found.into_iter().map(|it| it.unique_key).collect());
        let mut known = self.lock();
        known.note(keys, Instant::now());
        known.answer()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn called_within(&self, age: Duration) -> bool {
        self.called.is_some_and(|called| called.elapsed() < age)
    }

    /// Notes how a call ended. A failure keeps the last good answer, and so does an answer that has lost everything: a
    /// session of an integration that is really gone is refused by Nango itself.
    fn note(&mut self, answer: Result<HashSet<String>, Error>, now: Instant) {
        self.called = Some(now);
        let found = match answer {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "nango's integrations could not be refreshed");
                self.error = Some(error);
                return;
            }
        };
        self.error = None;
        let had_some = self.keys.as_ref().is_some_and(|keys| !keys.is_empty());
        if !(found.is_empty() && had_some) {
            self.empty_since = None;
            self.keys = Some(Arc::new(found));
            return;
        }
        if self.empty_since.is_none() {
            tracing::warn!(
                "nango lists no integration any more: the last known ones are used for ten minutes. Check that \
                 NANGO_SECRET_KEY is of the right environment"
            );
        }
        let since = *self.empty_since.get_or_insert(now);
        if now.duration_since(since) >= DOUBT {
            self.keys = Some(Keys::default());
        }
    }

    fn answer(&self) -> Result<Keys, Error> {
        match (&self.keys, &self.error) {
            (Some(keys), _) => Ok(keys.clone()),
            (None, Some(error)) => Err(error.clone()),
            (None, None) => Ok(Keys::default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use url::Url;

    use super::*;
    use crate::nango::Config;

    fn keys(keys: &[&str]) -> HashSet<String> {
        keys.iter().map(|key| (*key).to_owned()).collect()
    }

    #[test]
    fn answer_that_lost_all_integrations_is_doubted() {
        let (mut known, now) = (Known::default(), Instant::now());
        known.note(Ok(keys(&["gmail"])), now);
        known.note(Ok(keys(&[])), now);
        assert!(known.answer().is_ok_and(|keys| keys.contains("gmail")));
        known.note(Ok(keys(&[])), now + DOUBT / 2);
        known.note(Err(Error::Timeout), now + DOUBT);
        assert!(known.answer().is_ok_and(|keys| keys.contains("gmail")));
        known.note(Ok(keys(&[])), now + DOUBT);
        assert!(known.answer().is_ok_and(|keys| keys.is_empty()));
    }

    #[tokio::test]
    async fn last_good_answer_is_served_while_nango_hangs() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let base_url: Url = format!("http://{address}").parse().expect("an address");
        let nango = Nango::new(Config {
            public_url: base_url.clone(),
            base_url,
            secret_key: "a-key".into(),
            timeout: Duration::from_secs(10),
        });
        let cache = IntegrationCache::new(nango.expect("a client"));
        cache.0.lock().keys = Some(Arc::new(keys(&["gmail"])));
        let asked = Instant::now();
        let known = cache.keys().await.expect("the last answer");
        assert!(known.contains("gmail") && asked.elapsed() < Duration::from_secs(1));
        // The refresh behind it has begun, and is not begun again.
        listener.accept().await.expect("its call");
        assert!(cache.keys().await.is_ok());
        let second = tokio::time::timeout(Duration::from_millis(200), listener.accept());
        assert!(second.await.is_err());
    }
}
