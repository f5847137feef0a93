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
use crate::net::http_client;
use crate::net::http_client::BodyError;

/// How long a fetched set is used without another look.
const CACHE_TTL: Duration = Duration::from_mins(10);

/// How long a set is still used while it cannot be fetched again.
const MAX_STALE: Duration = Duration::from_hours(1);

/// The minimum time between two fetches, however many unknown key ids tokens name: any client can send a token that
/// names one.
const REFETCH_INTERVAL: Duration = Duration::from_secs(30);

/// The same after a fetch that failed, so that recovery is noticed soon.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// How long a fetch may take.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// The most requests that wait for a fetch. Any client can write a token that needs one, so further requests fail.
const MAX_WAITING: usize = 256;

/// The longest set that is read, in bytes.
const MAX_JWKS_BYTES: usize = 256 * 1024;

/// The keys behind one URL. Clones share them.
#[derive(Clone)]
pub(crate) struct Jwks(Arc<Inner>);

struct Inner {
    client: Client,
    url: Url,
    clock: Clock,
    cache: RwLock<Cache>,
    /// Held by the one who fetches.
    fetching: Arc<Mutex<()>>,
    /// Permits of the requests that wait for a fetch.
    waiting: Semaphore,
}

#[derive(Default)]
struct Cache {
    keys: KeySet,
    /// Monotonic times, so that a corrected clock neither keeps a set longer nor delays the next fetch.
    fetched_at: Option<Duration>,
    last_attempt_at: Option<Duration>,
    failed: bool,
}

/// The keys that may have signed a token.
type Candidates = Vec<Arc<ParsedPublicKey>>;

/// What the cache says about one key.
struct KeyLookup {
    keys: Result<Candidates, Error>,
    /// Whether the set should be fetched, and may be again.
    needs_fetch: bool,
    /// Whether a missing key is really unknown to the identity provider, as far
    /// as it could be asked.
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
    /// Keys that are fetched only from where [`address_guard`] lets a connection go.
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

    /// The keys that may have signed a token with this key id and algorithm.
    pub(crate) async fn candidates(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Candidates, Error> {
        self.candidates_of(id, algorithm, CACHE_TTL).await
    }

    /// The same from a set that is fetched again, unless the last fetch is more recent than the
    /// pause between two: the identity provider may have replaced a key and kept its id.
    pub(crate) async fn newest_candidates(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Candidates, Error> {
        self.candidates_of(id, algorithm, Duration::ZERO).await
    }

    async fn candidates_of(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
        fresh: Duration,
    ) -> Result<Candidates, Error> {
        let mut found = self.lookup(id, algorithm, fresh);
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
            found = self.lookup(id, algorithm, fresh);
            if found.needs_fetch {
                // On a task of its own: a caller that goes away must not end
                // what others wait for, nor fetch again without a pause.
                let this = self.clone();
                let fetch = tokio::spawn(async move {
                    this.fetch().await;
                    drop(turn);
                });
                if let Err(error) = fetch.await {
                    tracing::error!(%error, "fetching the JWKS panicked");
                }
                found = self.lookup(id, algorithm, fresh);
            }
        }
        match found.keys {
            Ok(keys) => Ok(keys),
            Err(missing) if found.is_definitive => Err(missing),
            Err(_) => Err(Error::KeysUnavailable),
        }
    }

    /// Returns the number of usable keys at the moment, or why it is not known.
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
