//! The identity provider's public keys (RFC 7517), fetched when needed.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jsonwebtoken::jwk::{
    AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse,
};
use jsonwebtoken::{Algorithm, DecodingKey};
use reqwest::dns::Resolve;
use reqwest::{Client, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::{Mutex, Semaphore};
use url::Url;

use super::{ConfigError, Error};
use crate::clock::Clock;
use crate::networks::{Forbidden, Guard, Networks, is_local};
use crate::outbound::{self, BodyError};

/// How long a fetched set is used without another look.
const FRESH: Duration = Duration::from_mins(10);

/// How long a set is still used while it cannot be fetched again.
const KEPT: Duration = Duration::from_hours(1);

/// The least time between a fetch and the next, however many unknown keys are
/// named: anybody can write a token that names one.
const PAUSE: Duration = Duration::from_secs(30);

/// The same after a fetch that failed, so that recovery is noticed soon.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(5);

/// How long a fetch may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The most requests that wait for a fetch. Any client can write a token that needs one, so further requests fail.
const MAX_WAITING: usize = 256;

/// The longest set that is read, in bytes.
const MAX_BODY: usize = 256 * 1024;

/// The keys behind one URL. Clones share them.
#[derive(Clone)]
pub(super) struct Jwks(Arc<Inner>);

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
    keys: Vec<Key>,
    /// Monotonic times, so that a corrected clock neither keeps a set longer nor delays the next fetch.
    fetched_at: Option<Duration>,
    tried_at: Option<Duration>,
    failed: bool,
}

struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// What the cache says about one key.
struct Seen {
    key: Option<DecodingKey>,
    /// Whether the set should be fetched, and may be again.
    due: bool,
    /// Whether a missing key is really unknown to the identity provider, as far
    /// as it could be asked.
    certain: bool,
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
}

/// What keeps a fetch from going elsewhere than to a public address with TLS, to one of the
/// `networks`, or to this machine where the URL itself says so: whoever answers in the identity
/// provider's place would decide who everybody is.
pub(super) fn guard(
    url: &Url,
    networks: &Networks,
    resolver: &Arc<dyn Resolve>,
) -> Result<Guard, Forbidden> {
    let networks = if is_local(url) {
        networks.and_loopback()
    } else {
        networks.clone()
    };
    let guard = Guard::new(networks, resolver.clone(), url.scheme() == "http");
    guard.check(url)?;
    Ok(guard)
}

impl Jwks {
    /// Keys that are fetched only from where [`guard`] lets a connection go.
    pub(super) fn new(
        url: Url,
        networks: &Networks,
        resolver: &Arc<dyn Resolve>,
        clock: Clock,
    ) -> Result<Self, ConfigError> {
        let guard = guard(&url, networks, resolver)?;
        Ok(Self(Arc::new(Inner {
            client: outbound::guarded_or_proxied(TIMEOUT, guard)?,
            url,
            clock,
            cache: RwLock::default(),
            fetching: Arc::default(),
            waiting: Semaphore::new(MAX_WAITING),
        })))
    }

    /// The key of that id for that algorithm. A token without a key id is
    /// verified with the only key that fits, if there is only one.
    pub(super) async fn key(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<DecodingKey, Error> {
        let mut seen = self.look_up(id, algorithm);
        if seen.due {
            let fetching = Arc::clone(&self.0.fetching);
            let waiting = self.0.waiting.try_acquire();
            let turn = match seen.key {
                // A key that is merely no longer fresh waits for nobody.
                Some(key) => match fetching.try_lock_owned() {
                    Ok(turn) => turn,
                    Err(_busy) => return Ok(key),
                },
                None if waiting.is_err() => return Err(Error::KeysUnavailable),
                None => fetching.lock_owned().await,
            };
            seen = self.look_up(id, algorithm);
            if seen.due {
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
                seen = self.look_up(id, algorithm);
            }
        }
        match seen.key {
            Some(key) => Ok(key),
            None if seen.certain => Err(Error::UnknownKey),
            None => Err(Error::KeysUnavailable),
        }
    }

    /// How many usable keys there are at the moment, or why that cannot be told.
    pub(super) async fn count(&self) -> Result<usize, String> {
        let keys = self.download().await;
        keys.map(|keys| keys.len())
            .map_err(|error| error.to_string())
    }

    fn look_up(&self, id: Option<&str>, algorithm: Algorithm) -> Seen {
        let now = self.0.clock.monotonic();
        let cache = self.0.cache.read().unwrap_or_else(PoisonError::into_inner);
        let within = |time: Option<Duration>, span| time.is_some_and(|time| now < time + span);
        let usable = within(cache.fetched_at, KEPT);
        let key = if usable {
            cache.find(id, algorithm)
        } else {
            None
        };
        let pause = if cache.failed {
            PAUSE_AFTER_FAILURE
        } else {
            PAUSE
        };
        let wanted = key.is_none() || !within(cache.fetched_at, FRESH);
        Seen {
            due: wanted && !within(cache.tried_at, pause),
            certain: usable && !cache.failed,
            key: key.cloned(),
        }
    }

    async fn fetch(&self) {
        let result = self.download().await;
        let now = self.0.clock.monotonic();
        let mut cache = self.0.cache.write().unwrap_or_else(PoisonError::into_inner);
        cache.tried_at = Some(now);
        cache.failed = result.is_err();
        match result {
            Ok(keys) => {
                cache.keys = keys;
                cache.fetched_at = Some(now);
            }
            Err(error) => tracing::warn!(url = %self.0.url, %error, "the JWKS cannot be fetched"),
        }
    }

    async fn download(&self) -> Result<Vec<Key>, FetchError> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        let response = self.0.client.get(self.0.url.clone()).send().await;
        let response =
            response.map_err(|error| FetchError::Transport(outbound::describe(error)))?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let body = outbound::read_body(response, MAX_BODY).await?;
        let set: Set = serde_json::from_slice(&body)?;
        Ok(set.keys.into_iter().filter_map(Key::from_jwk).collect())
    }
}

impl Cache {
    fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<&DecodingKey> {
        let named = |key: &&Key| id.is_none() || key.id.as_deref() == id;
        let mut fitting = (self.keys.iter())
            .filter(|key| key.algorithm == algorithm)
            .filter(named);
        let first = fitting.next()?;
        fitting.next().is_none().then_some(&first.key)
    }
}

impl Key {
    /// `None` for a key that is not for verifying with one of our algorithms;
    /// a set may hold others.
    fn from_jwk(jwk: Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(jwk).ok()?;
        let (algorithm, name) = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
                (Algorithm::ES256, KeyAlgorithm::ES256)
            }
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
                (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
            }
            _ => return None,
        };
        let common = &jwk.common;
        let for_signatures = matches!(common.public_key_use, None | Some(PublicKeyUse::Signature));
        let operations = common.key_operations.as_deref();
        let verifies = operations.is_none_or(|known| known.contains(&KeyOperations::Verify));
        let fits = common.key_algorithm.is_none_or(|given| given == name);
        if !(for_signatures && verifies && fits) {
            return None;
        }
        Some(Self {
            key: DecodingKey::from_jwk(&jwk).ok()?,
            id: jwk.common.key_id,
            algorithm,
        })
    }
}
