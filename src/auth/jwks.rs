//! The identity provider's public keys (RFC 7517), fetched when needed.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use aws_lc_rs::signature::ParsedPublicKey;
use reqwest::dns::Resolve;
use reqwest::{Client, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::{Mutex, Semaphore};
use url::Url;

use super::keys::{Algorithm, KeySet};
use super::{ConfigError, Error};
use crate::clock::Clock;
use crate::net::address_guard::{AddressGuard, ForbiddenAddress, Networks, is_local};
use crate::net::http_client::{self, BodyError};

/// The TTL of a fetched key set.
pub(crate) const CACHE_TTL: Duration = Duration::from_mins(10);

/// How long a stale set remains in use while fetches fail.
const MAX_STALE: Duration = Duration::from_hours(1);

/// The minimum time between two fetches, because any client can send tokens with unknown key ids.
const REFETCH_INTERVAL: Duration = Duration::from_secs(30);

/// The same after a failed fetch: shorter, so that recovery is noticed soon.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// The timeout of a fetch.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// The maximum number of requests that wait for a fetch. Any client can write a token that needs one, so further
/// requests fail.
const MAX_WAITING: usize = 256;

/// The maximum size of a key set, in bytes.
const MAX_JWKS_BYTES: usize = 256 * 1024;

/// A cache of the keys at one URL. Clones share it.
#[derive(Clone)]
pub(crate) struct Jwks(Arc<Inner>);

struct Inner {
    client: Client,
    url: Url,
    clock: Clock,
    cache: RwLock<Cache>,
    /// Locked by the task that fetches.
    fetching: Arc<Mutex<()>>,
    /// Permits of the requests that wait for a fetch.
    waiting: Semaphore,
}

#[derive(Default)]
struct Cache {
    keys: KeySet,
    /// Monotonic times, which a correction of the system clock does not affect.
    fetched_at: Option<Duration>,
    last_attempt_at: Option<Duration>,
    failed: bool,
}

/// The keys that may have signed a token.
type Candidates = Vec<Arc<ParsedPublicKey>>;

/// The result of a cache look-up for one key.
struct KeyLookup {
    keys: Result<Candidates, Error>,
    /// `true` if the set is stale or lacks the key, and the minimum time since the last fetch has passed.
    needs_fetch: bool,
    /// `true` if a missing key means that the identity provider does not publish it: the set is usable, and the last
    /// fetch succeeded.
    is_definitive: bool,
}

#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("{0}")]
    Transport(String),
    #[error("the answer has status {0}")]
    Status(StatusCode),
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error("the answer is not a JWKS: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the answer has no key that can verify a token (RSA, EC or Ed25519, for signatures)")]
    NoKey,
}

/// Returns the guard that restricts JWKS fetches to public addresses with TLS, to `networks`, or to this machine if
/// the URL names it. A server that impersonates the identity provider could authenticate as any user.
pub(crate) fn address_guard(
    url: &Url,
    networks: &Networks,
    resolver: &Arc<dyn Resolve>,
) -> Result<AddressGuard, ForbiddenAddress> {
    let networks = if is_local(url) {
        networks.with_loopback()
    } else {
        networks.clone()
    };
    let guard = AddressGuard::new(networks, resolver.clone(), url.scheme() == "http");
    guard.check(url)?;
    Ok(guard)
}

impl Jwks {
    /// Creates an empty cache. Fetches go only to addresses that [`address_guard`] permits.
    pub(crate) fn new(
        url: Url,
        networks: &Networks,
        resolver: &Arc<dyn Resolve>,
        clock: Clock,
    ) -> Result<Self, ConfigError> {
        let guard = address_guard(&url, networks, resolver)?;
        Ok(Self(Arc::new(Inner {
            client: http_client::guarded_or_proxied_client(FETCH_TIMEOUT, guard)?,
            url,
            clock,
            cache: RwLock::default(),
            fetching: Arc::default(),
            waiting: Semaphore::new(MAX_WAITING),
        })))
    }

    /// Returns the keys that may have signed a token with this key id and algorithm, fetched at most `max_age` ago
    /// unless the last fetch is too recent. Zero is for an identity provider that may have replaced a key and kept its
    /// id.
    pub(crate) async fn candidates(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
        max_age: Duration,
    ) -> Result<Candidates, Error> {
        let mut found = self.lookup(id, algorithm, max_age);
        if found.needs_fetch {
            let fetching = Arc::clone(&self.0.fetching);
            let waiting = self.0.waiting.try_acquire();
            let turn = match found.keys {
                // Stale keys remain usable, so the request does not wait for a fetch in progress.
                Ok(keys) => match fetching.try_lock_owned() {
                    Ok(turn) => turn,
                    Err(_busy) => return Ok(keys),
                },
                Err(_missing) if waiting.is_err() => return Err(Error::KeysUnavailable),
                Err(_missing) => fetching.lock_owned().await,
            };
            found = self.lookup(id, algorithm, max_age);
            if found.needs_fetch {
                // In a separate task, because a cancelled caller must not cancel the fetch that others wait for.
                let this = self.clone();
                let fetch = tokio::spawn(async move {
                    this.fetch().await;
                    drop(turn);
                });
                if let Err(error) = fetch.await {
                    tracing::error!(%error, "fetching the JWKS panicked");
                }
                found = self.lookup(id, algorithm, max_age);
            }
        }
        match found.keys {
            Ok(keys) => Ok(keys),
            Err(missing) if found.is_definitive => Err(missing),
            Err(_) => Err(Error::KeysUnavailable),
        }
    }

    /// Fetches the set and returns the number of usable keys, or the reason for the failure.
    pub(crate) async fn count(&self) -> Result<usize, String> {
        let keys = self.download().await;
        keys.map(|keys| keys.len())
            .map_err(|error| error.to_string())
    }

    fn lookup(&self, id: Option<&str>, algorithm: Algorithm, fresh: Duration) -> KeyLookup {
        let now = self.0.clock.monotonic();
        let cache = self.0.cache.read().unwrap_or_else(PoisonError::into_inner);
        let within = |time: Option<Duration>, span| time.is_some_and(|time| now < time + span);
        let usable = within(cache.fetched_at, MAX_STALE);
        let keys = if usable {
            cache.keys.candidates(id, algorithm)
        } else {
            Err(Error::KeysUnavailable)
        };
        let pause = if cache.failed {
            RETRY_INTERVAL
        } else {
            REFETCH_INTERVAL
        };
        let wanted = keys.is_err() || !within(cache.fetched_at, fresh);
        KeyLookup {
            needs_fetch: wanted && !within(cache.last_attempt_at, pause),
            is_definitive: usable && !cache.failed,
            keys,
        }
    }

    async fn fetch(&self) {
        let result = self.download().await;
        let now = self.0.clock.monotonic();
        let mut cache = self.0.cache.write().unwrap_or_else(PoisonError::into_inner);
        cache.last_attempt_at = Some(now);
        cache.failed = result.is_err();
        match result {
            Ok(keys) => {
                cache.keys = keys;
                cache.fetched_at = Some(now);
            }
            Err(error) => tracing::warn!(url = %self.0.url, %error, "the JWKS cannot be fetched"),
        }
    }

    async fn download(&self) -> Result<KeySet, FetchError> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        let response = self.0.client.get(self.0.url.clone()).send().await;
        let response =
            response.map_err(|error| FetchError::Transport(http_client::describe(error)))?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let body = http_client::read_body(response, MAX_JWKS_BYTES).await?;
        let set: Set = serde_json::from_slice(&body)?;
        let keys = KeySet::new(set.keys);
        if keys.len() == 0 {
            return Err(FetchError::NoKey);
        }
        Ok(keys)
    }
}
