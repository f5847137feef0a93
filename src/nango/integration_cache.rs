//! A cache of the integrations that are configured in the Nango environment.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use moka::future::Cache;
use tokio::time::Instant;

use super::{Error, Integration, Nango, Priority};

/// The TTL of the cache. A stale list remains in use while it is refreshed.
const CACHE_TTL: Duration = Duration::from_secs(60);

/// The minimum time between two queries after a failure or a list that lacks an integration: an operator who has just
/// added one should not wait a minute.
const MISS_RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// How long Nango has to list no integration at all, after it listed some, before the empty list is accepted.
const DOUBT: Duration = Duration::from_secs(10 * 60);

/// The configured integrations by key.
pub type Integrations = Arc<BTreeMap<String, Integration>>;

/// How long the scopes of an integration are cached.
const SCOPES_TTL: Duration = Duration::from_secs(5 * 60);

/// The maximum number of integrations whose scopes are cached.
const SCOPES_CAPACITY: u64 = 2000;

/// A cache of the configured integrations. After the first list, no caller waits for a refresh.
#[derive(Debug)]
pub struct IntegrationCache(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    nango: Nango,
    known: Mutex<Known>,
    /// Locked by the one call in progress.
    call: tokio::sync::Mutex<()>,
    /// The scopes that integrations request; `None` if Nango does not say.
    scopes: Cache<String, Option<Vec<String>>>,
}

/// The last successful list, and the outcome of the last call.
#[derive(Debug, Default)]
struct Known {
    integrations: Option<Integrations>,
    called: Option<Instant>,
    error: Option<Error>,
    /// When Nango first listed none, although it listed some before.
    empty_since: Option<Instant>,
}

impl IntegrationCache {
    /// Creates a cache for this Nango.
    pub fn new(nango: Nango) -> Self {
        Self(Arc::new(Inner {
            nango,
            known: Mutex::default(),
            call: tokio::sync::Mutex::default(),
            scopes: Cache::builder()
                .max_capacity(SCOPES_CAPACITY)
                .time_to_live(SCOPES_TTL)
                .build(),
        }))
    }

    /// Returns all integrations of the last successful list, of any age. A stale one is refreshed in the background.
    ///
    /// # Errors
    /// As the call to Nango, if none has succeeded yet. Calls within two seconds return the same error.
    pub async fn all(&self) -> Result<Integrations, Error> {
        let known = {
            let known = self.0.lock();
            let age = if known.error.is_none() {
                CACHE_TTL
            } else {
                MISS_RETRY_INTERVAL
            };
            let stale = !known.called_within(age);
            known.integrations.clone().map(|found| (found, stale))
        };
        match known {
            Some((found, stale)) => {
                if stale {
                    self.refresh_behind();
                }
                Ok(found)
            }
            None => self.0.refresh(MISS_RETRY_INTERVAL).await,
        }
    }

    /// Returns whether an integration is configured. Queries Nango again if the last list lacks it.
    ///
    /// # Errors
    /// As [`IntegrationCache::all`].
    pub async fn contains(&self, key: &str) -> Result<bool, Error> {
        if self.all().await?.contains_key(key) {
            return Ok(true);
        }
        Ok(self.refreshed().await?.contains_key(key))
    }

    /// Returns all integrations of a list that is at most a few seconds old, or of the last one while little of Nango's
    /// rate limit is left: requests with unknown names must not use it up.
    ///
    /// # Errors
    /// As [`IntegrationCache::all`].
    pub async fn refreshed(&self) -> Result<Integrations, Error> {
        if self.0.nango.has_room(Priority::Poll) {
            self.0.refresh(MISS_RETRY_INTERVAL).await
        } else {
            self.all().await
        }
    }

    /// Returns the scopes that an integration requests; `None` if Nango does not say.
    pub async fn scopes(&self, key: &str) -> Option<Vec<String>> {
        let fetch = async {
            let scopes = self.0.nango.integration_scopes(key).await;
            scopes.unwrap_or_else(|error| {
                tracing::warn!(integration = key, %error, "cannot read the scopes of an integration");
                None
            })
        };
        self.0.scopes.get_with_by_ref(key, fetch).await
    }

    /// Removes an integration that Nango has just reported as missing.
    pub fn forget(&self, key: &str) {
        let mut known = self.0.lock();
        if let Some(integrations) = &mut known.integrations {
            Arc::make_mut(integrations).remove(key);
        }
    }

    /// Starts a refresh unless one is in progress. The client's own timeout ends it.
    fn refresh_behind(&self) {
        if self.0.call.try_lock().is_ok() {
            let inner = self.0.clone();
            tokio::spawn(async move { inner.refresh(MISS_RETRY_INTERVAL).await });
        }
    }
}

impl Inner {
    /// Queries Nango unless the last query is less than `age` ago. Concurrent callers share one call.
    async fn refresh(&self, age: Duration) -> Result<Integrations, Error> {
        let _call = self.call.lock().await;
        if self.lock().called_within(age) {
            return self.lock().answer();
        }
        let answer = self.nango.integrations().await;
        let by_key = |found: Vec<Integration>| {
            let found = found.into_iter().map(|it| (it.unique_key.clone(), it));
            found.collect()
        };
        let mut known = self.lock();
        known.note(answer.map(by_key), Instant::now());
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

    /// Records the outcome of a call. A failure keeps the last successful list, and so does an empty list: Nango itself
    /// rejects a session of an integration that no longer exists.
    fn note(&mut self, answer: Result<BTreeMap<String, Integration>, Error>, now: Instant) {
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
        let had_some = (self.integrations.as_ref()).is_some_and(|known| !known.is_empty());
        if !(found.is_empty() && had_some) {
            self.empty_since = None;
            // An equal list keeps its `Arc`, so that comparisons by pointer detect no change.
            if self.integrations.as_deref() != Some(&found) {
                self.integrations = Some(Arc::new(found));
            }
            return;
        }
        if self.empty_since.is_none() {
            tracing::warn!(
                "nango no longer lists any integration, the last known ones are used for ten minutes. Check that \
                 NANGO_SECRET_KEY is of the right environment"
            );
        }
        let since = *self.empty_since.get_or_insert(now);
        if now.duration_since(since) >= DOUBT {
            self.integrations = Some(Integrations::default());
        }
    }

    fn answer(&self) -> Result<Integrations, Error> {
        match (&self.integrations, &self.error) {
            (Some(found), _) => Ok(found.clone()),
            (None, Some(error)) => Err(error.clone()),
            (None, None) => Ok(Integrations::default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::net::TcpListener;
    use url::Url;

    use super::*;
    use crate::nango::Config;

    fn keys(keys: &[&str]) -> BTreeMap<String, Integration> {
        let integration = |key: &&str| {
            let json = serde_json::json!({ "unique_key": key, "provider": "google-mail" });
            let integration = serde_json::from_value(json).expect("an integration");
            ((*key).to_owned(), integration)
        };
        keys.iter().map(integration).collect()
    }

    #[test]
    fn answer_that_lost_all_integrations_is_doubted() {
        let (mut known, now) = (Known::default(), Instant::now());
        known.note(Ok(keys(&["gmail"])), now);
        known.note(Ok(keys(&[])), now);
        assert!(known.answer().is_ok_and(|keys| keys.contains_key("gmail")));
        known.note(Ok(keys(&[])), now + DOUBT / 2);
        known.note(Err(Error::Timeout), now + DOUBT);
        assert!(known.answer().is_ok_and(|keys| keys.contains_key("gmail")));
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
        cache.0.lock().integrations = Some(Arc::new(keys(&["gmail"])));
        let answer = || cache.all().now_or_never().expect("no wait for Nango");
        let known = answer().expect("the last answer");
        assert!(known.contains_key("gmail"));
        // The background refresh has started, and is not started again.
        let _call = listener.accept().await.expect("its call");
        assert!(cache.0.call.try_lock().is_err());
        assert!(answer().is_ok());
        tokio::task::yield_now().await;
        assert!(listener.accept().now_or_never().is_none());
    }
}
