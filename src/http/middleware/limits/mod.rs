//! Rate limits: per user for authenticated callers, per address for all others.
//!
//! Requests are authenticated before any other work. An authenticated caller counts towards its own limit only, so
//! that many users behind one address, or a wrong `TRUSTED_PROXY_HOPS`, do not block each other. The product's
//! services are limited only in how often they start Nango operations for one user.

mod admission;
mod bodies;
mod config;
mod rate_limiter;

pub use config::LimitsConfig;

use std::hash::{BuildHasher, Hash, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;

use self::admission::Lane;
use self::rate_limiter::{QuotaBuckets, QuotaState};
use super::metrics::HttpMetrics;
use crate::clock::Clock;
use crate::domain::UserId;
use crate::http::extract::{AuthenticationResult, Identity};
use crate::http::problem::{Code, Problem};
pub(crate) use crate::server::{ConcurrencyLimiter, Permit};
use crate::server::{Peer, network};
use crate::telemetry::metrics::GaugeGuard;
pub(crate) use admission::{MAX_BODY, RequestPermit, limit_requests};

/// The header to which each proxy appends the address of its client.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// The share of one user: a twentieth of a replica's permits.
const USERS: u32 = 20;

/// The share of one service key or address: a tenth of a replica's permits.
const ADDRESSES: u32 = 10;

/// The `Retry-After` of an overloaded replica, in seconds.
const OVERLOAD_RETRY_SECONDS: u64 = 1;

/// The limits of one replica.
#[derive(Debug)]
pub struct Limits {
    config: LimitsConfig,
    clock: Clock,
    metrics: Arc<HttpMetrics>,
    hasher: RandomState,
    users: QuotaBuckets,
    connects: QuotaBuckets,
    updates: QuotaBuckets,
    addresses: QuotaBuckets,
    /// Wrong metrics tokens of each address, counted apart from its other requests: Prometheus may share the address.
    guesses: QuotaBuckets,
    streams: ConcurrencyLimiter,
    waits: ConcurrencyLimiter,
    /// The requests in progress of each caller.
    in_progress: ConcurrencyLimiter,
    requests: Lane,
    /// Webhooks have as many permits of their own. Otherwise other callers could lock out Nango, which drops a webhook
    /// after three rejections.
    webhooks: Lane,
}

/// The key of a request's client address, in the request's extensions.
#[derive(Clone, Copy, Debug, Hash)]
pub(crate) struct CallerAddress(u64);

/// The rate limit state of a request's caller, for the response headers. In the request's extensions.
#[derive(Clone, Debug, Default)]
struct RateLimitStatus(Arc<Mutex<Option<QuotaState>>>);

impl RateLimitStatus {
    fn set(&self, quota: QuotaState) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(quota);
    }
}

/// A webhook that counts towards its sender's limit until its signature is verified. In the request's extensions.
#[derive(Clone, Debug)]
pub(crate) struct Unverified {
    address: CallerAddress,
    place: Arc<Mutex<Option<Permit>>>,
}

impl Unverified {
    fn new(address: CallerAddress, place: Permit) -> Self {
        Self {
            address,
            place: Arc::new(Mutex::new(Some(place))),
        }
    }
}

impl Limits {
    /// Creates limits without any counted requests.
    pub fn new(config: LimitsConfig, clock: Clock, metrics: Arc<HttpMetrics>) -> Self {
        Self {
            users: QuotaBuckets::new("user", config.user_per_minute),
            connects: QuotaBuckets::new("connect", config.connect_per_minute),
            updates: QuotaBuckets::new("update", config.connect_per_minute),
            addresses: QuotaBuckets::new("address", config.address_per_minute),
            guesses: QuotaBuckets::new("metrics", config.address_per_minute),
            streams: ConcurrencyLimiter::default(),
            waits: ConcurrencyLimiter::default(),
            in_progress: ConcurrencyLimiter::default(),
            requests: Lane::new(config.max_concurrent_requests),
            webhooks: Lane::new(config.max_concurrent_requests),
            hasher: RandomState::new(),
            config,
            clock,
            metrics,
        }
    }

    /// Counts a request that calls Nango for a user, from any caller.
    pub(crate) fn check_connect(&self, user: &UserId, parts: &Parts) -> Result<(), Problem> {
        let key = self.hasher.hash_one(user.as_str());
        self.count(
            &self.connects,
            key,
            parts.extensions.get::<RateLimitStatus>(),
        )
    }

    /// Counts a change of a user's connection, from any caller: each change is stored until its retention ends.
    pub(crate) fn of_update(&self, user: &UserId, parts: &Parts) -> Result<(), Problem> {
        let key = self.hasher.hash_one(user.as_str());
        self.count(
            &self.updates,
            key,
            parts.extensions.get::<RateLimitStatus>(),
        )
    }

    /// Counts a request towards its caller's limit. An unidentified request counts towards its
    /// address, so forged tokens are limited even while keys cannot be fetched or the database is down.
    fn check_caller(
        &self,
        sent: &AuthenticationResult,
        address: CallerAddress,
        status: &RateLimitStatus,
    ) -> Result<(), Problem> {
        match sent {
            Ok(Identity::User(caller)) => {
                let key = self.hasher.hash_one(caller.user_id.as_str());
                self.count(&self.users, key, Some(status))
            }
            Ok(Identity::Service(_)) => Ok(()),
            Err(_unknown) => self.count(&self.addresses, address.0, Some(status)),
        }
    }

    /// Charges an address for a request. Returns the seconds to wait if its limit is used up.
    fn charge(&self, address: CallerAddress) -> Option<u64> {
        let quota = self.addresses.take(address.0, self.clock.monotonic())?;
        if quota.wait.is_some() {
            self.metrics.refused("address");
        }
        quota.wait
    }

    /// Refunds the address of a webhook that Nango has signed.
    pub(crate) fn verified(&self, webhook: &Unverified) {
        let mut place = (webhook.place.lock()).unwrap_or_else(PoisonError::into_inner);
        if place.take().is_some() {
            self.addresses.refund(webhook.address.0);
        }
    }

    /// Checks a secret that an address sends, and counts a wrong one.
    ///
    /// # Errors
    /// `wrong` if it is wrong. Once the limit is used up, every secret is refused without a comparison.
    pub(crate) fn guess(
        &self,
        address: CallerAddress,
        is_right: impl FnOnce() -> bool,
        wrong: impl FnOnce() -> Problem,
    ) -> Result<(), Problem> {
        let now = self.clock.monotonic();
        if let Some(wait) = self.guesses.wait(address.0, now) {
            self.metrics.refused("metrics");
            return Err(Problem::rate_limited("metrics", wait));
        }
        if is_right() {
            return Ok(());
        }
        self.guesses.take(address.0, now);
        Err(wrong())
    }

    fn count(
        &self,
        buckets: &QuotaBuckets,
        key: u64,
        status: Option<&RateLimitStatus>,
    ) -> Result<(), Problem> {
        let Some(quota) = buckets.take(key, self.clock.monotonic()) else {
            return Ok(());
        };
        if let Some(status) = status {
            status.set(quota);
        }
        let Some(wait) = quota.wait else {
            return Ok(());
        };
        self.metrics.refused(quota.policy);
        Err(Problem::rate_limited(quota.policy, wait))
    }

    /// Takes one of a user's event streams until the returned value is dropped.
    pub(crate) fn stream(&self, user: &UserId) -> Result<(Permit, GaugeGuard), Problem> {
        let limit = self.config.max_streams_per_user;
        let Some(slot) = self
            .streams
            .acquire(self.hasher.hash_one(user.as_str()), limit)
        else {
            self.metrics.refused("streams");
            return Err(Problem::too_many_streams(limit));
        };
        Ok((slot, GaugeGuard::new(&self.metrics.streams)))
    }

    /// Takes one of a user's waiting requests until the returned value is dropped; `None` if all are taken.
    pub(crate) fn wait(&self, user: &UserId) -> Option<(Permit, GaugeGuard)> {
        let limit = self.config.max_streams_per_user;
        let slot = self
            .waits
            .acquire(self.hasher.hash_one(user.as_str()), limit);
        if slot.is_none() {
            self.metrics.refused("waits");
        }
        Some((slot?, GaugeGuard::new(&self.metrics.waiting)))
    }

    fn key(&self, kind: &str, caller: &impl Hash) -> u64 {
        self.hasher.hash_one((kind, caller))
    }

    /// Returns the maximum number of permits of one user; 0 means no limit.
    fn user_share(&self) -> u32 {
        self.share(USERS)
    }

    /// Returns the maximum number of permits of one address or service key; 0 means no limit.
    fn address_share(&self) -> u32 {
        self.share(ADDRESSES)
    }

    fn share(&self, one_in: u32) -> u32 {
        match self.config.max_concurrent_requests {
            0 => 0,
            all => (all / one_in).max(1),
        }
    }

    /// Returns the key of the caller's address.
    fn address_key(&self, request: &Request) -> CallerAddress {
        let peer = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
        let forwarded_address = forwarded(request.headers(), self.config.trusted_proxy_hops);
        CallerAddress(
            self.hasher
                .hash_one(forwarded_address.or(peer).map(network)),
        )
    }
}

/// Returns the address that the outermost trusted proxy saw. Any client can forge the entries before it in the list.
fn forwarded(headers: &HeaderMap, hops: u8) -> Option<IpAddr> {
    let nth_from_the_end = usize::from(hops.checked_sub(1)?);
    let values = headers.get_all(FORWARDED_FOR).iter().rev();
    let mut entries = values.flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','));
    // Entries that a client forged may have any bytes.
    let entry = entries.nth(nth_from_the_end)?.trim_ascii();
    let text = std::str::from_utf8(entry).ok()?;
    // Some proxies append a port, and put brackets around an IPv6 address.
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    (bare.parse().ok()).or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()))
}

/// Adds the headers of the IETF draft "RateLimit header fields for HTTP".
fn add_rate_limit_headers(mut response: Response, status: &RateLimitStatus) -> Response {
    let status = *status.0.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(quota) = status {
        let headers = response.headers_mut();
        for (name, value) in [
            ("ratelimit-policy", quota.policy_header()),
            ("ratelimit", quota.header()),
        ] {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name, value);
            }
        }
    }
    response
}

impl Problem {
    fn rate_limited(policy: &str, wait: u64) -> Self {
        Self::new(
            Code::RateLimited,
            format!("too many requests: the limit {policy:?} is exceeded"),
        )
        .retry_after(wait)
    }

    fn too_many_streams(limit: u32) -> Self {
        Self::new(
            Code::RateLimited,
            format!("{limit} event streams of this user are open: close one of them first"),
        )
        .retry_after(OVERLOAD_RETRY_SECONDS)
    }

    fn too_many_in_progress(limit: u32) -> Self {
        Self::new(
            Code::RateLimited,
            format!(
                "{limit} requests of this caller are in progress. Wait until one has been answered."
            ),
        )
        .retry_after(OVERLOAD_RETRY_SECONDS)
    }

    fn too_much_unread() -> Self {
        Self::new(
            Code::RateLimited,
            "Too many bytes of responses to this caller are unread. Read them before sending further requests.",
        )
        .retry_after(OVERLOAD_RETRY_SECONDS)
    }

    fn overloaded(wait: u64) -> Self {
        Self::new(Code::Overloaded, "this replica is overloaded").retry_after(wait)
    }
}
