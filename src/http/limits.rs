//! How much a caller may ask for: a user by who he is, everybody else by where he comes from.
//!
//! Who sends a request is found out before anything else is done for it. Whoever proves who he is
//! counts towards his own limit only, so that many users behind one address, or a wrong
//! `TRUSTED_PROXY_HOPS`, do not shut each other out. The product's own services are not limited but
//! in how often they have Nango begin something for one user.

mod buckets;
mod places;

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use prometheus_client::metrics::gauge::Gauge;

use self::buckets::{Buckets, Standing};
use self::places::{Place, Places};
use super::AppState;
use super::error::{Code, Problem};
use super::extract::{Identity, Sent, identify};
use super::metrics::{Counted, HttpMetrics};
use crate::auth::UserId;
use crate::clock::Clock;
use crate::config::LimitsConfig;

/// The header to which each proxy adds the address that it sees.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// Where Nango's webhooks come in.
const WEBHOOKS: &str = "/api/v1/webhooks/";

/// What the platform and the operator ask, however much there is to do.
const ALWAYS: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// How soon to come again where there is too much to do.
const SOON: u64 = 1;

/// The address at the other end of a connection; each request of it has it among its extensions.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// The limits of one replica.
#[derive(Debug)]
pub struct Limits {
    config: LimitsConfig,
    clock: Clock,
    metrics: Arc<HttpMetrics>,
    hasher: RandomState,
    users: Buckets,
    connects: Buckets,
    updates: Buckets,
    addresses: Buckets,
    streams: Places,
    waits: Places,
    webhooks: Gauge,
}

/// How a request's caller stands, for the answer's headers; among the request's extensions.
#[derive(Clone, Debug, Default)]
struct Told(Arc<Mutex<Option<Standing>>>);

impl Told {
    fn set(&self, standing: Standing) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(standing);
    }
}

/// Whether a webhook was signed by Nango; among the request's extensions.
#[derive(Clone, Debug, Default)]
pub(super) struct Signed(Arc<AtomicBool>);

impl Signed {
    /// Notes that it was.
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Limits {
    /// Limits of nobody yet.
    #[must_use]
    pub fn new(config: LimitsConfig, clock: Clock, metrics: Arc<HttpMetrics>) -> Self {
        Self {
            users: Buckets::new("user", config.user),
            connects: Buckets::new("connect", config.connect),
            updates: Buckets::new("update", config.update),
            addresses: Buckets::new("address", config.address),
            streams: Places::default(),
            waits: Places::default(),
            webhooks: Gauge::default(),
            hasher: RandomState::new(),
            config,
            clock,
            metrics,
        }
    }

    /// Counts a request for a user that makes Nango work, whoever sends it.
    pub(super) fn of_connect(&self, user: &UserId, parts: &Parts) -> Result<(), Problem> {
        let key = self.hasher.hash_one(user.as_str());
        self.count(&self.connects, key, parts.extensions.get::<Told>())
    }

    /// Counts a change of a user's connection, whoever sends it: each is stored for long.
    pub(super) fn of_update(&self, user: &UserId, parts: &Parts) -> Result<(), Problem> {
        let key = self.hasher.hash_one(user.as_str());
        self.count(&self.updates, key, parts.extensions.get::<Told>())
    }

    /// Counts a request by who sends it.
    fn of_sender(&self, sent: &Sent, address: u64, told: &Told) -> Result<(), Problem> {
        match sent {
            Ok(Identity::User(caller)) => {
                let key = self.hasher.hash_one(caller.user_id.as_str());
                self.count(&self.users, key, Some(told))
            }
            Ok(Identity::Service(_)) => Ok(()),
            Err(problem) if problem.is_unauthenticated() => {
                self.count(&self.addresses, address, Some(told))
            }
            // Whether the token is good cannot be told at the moment, which is not its bearer's doing.
            Err(_) => Ok(()),
        }
    }

    fn count(&self, buckets: &Buckets, key: u64, told: Option<&Told>) -> Result<(), Problem> {
        let Some(standing) = buckets.take(key, self.clock.now()) else {
            return Ok(());
        };
        if let Some(told) = told {
            told.set(standing);
        }
        let Some(wait) = standing.wait else {
            return Ok(());
        };
        self.metrics.refused(standing.policy);
        Err(Problem::rate_limited(standing.policy, wait))
    }

    /// Makes room for one more event stream of a user's; it is given back when the value is dropped.
    pub(super) fn stream(&self, user: &UserId) -> Result<(Place, Counted), Problem> {
        let most = self.config.streams;
        let Some(place) = self.streams.take(self.hasher.hash_one(user.as_str()), most) else {
            self.metrics.refused("streams");
            return Err(Problem::too_many_streams(most));
        };
        Ok((place, Counted::new(&self.metrics.streams)))
    }

    /// Makes room for one more request of a user's that waits, for as long as the value lives; `None` where as many wait
    /// as may. Each of them keeps one of the replica's places from everybody else.
    pub(super) fn wait(&self, user: &UserId) -> Option<Place> {
        let most = self.config.streams;
        let place = self.waits.take(self.hasher.hash_one(user.as_str()), most);
        if place.is_none() {
            self.metrics.refused("waits");
        }
        place
    }

    /// A request's place among those that are under way; `None` where all are taken. Webhooks have places of their own,
    /// as many: Nango drops what is refused three times, and nobody who asks much is to keep it out.
    fn admitted(&self, webhook: bool) -> Option<(Counted, Option<Counted>)> {
        let webhooks = self.webhooks.get();
        let under_way = if webhook {
            webhooks
        } else {
            self.metrics.under_way.get() - webhooks
        };
        let full = u32::try_from(under_way).unwrap_or(0) >= self.config.requests;
        if full && self.config.requests > 0 {
            self.metrics.refused("requests");
            return None;
        }
        let among_webhooks = webhook.then(|| Counted::new(&self.webhooks));
        Some((Counted::new(&self.metrics.under_way), among_webhooks))
    }

    /// The caller's address as a key: an IPv6 host has a whole /64 to itself.
    fn address(&self, request: &Request) -> u64 {
        let peer = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
        let said = forwarded(request.headers(), self.config.trusted_hops);
        let address = said.or(peer).map(|address| match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = address.to_bits() >> 64 << 64;
                IpAddr::V6(Ipv6Addr::from_bits(network))
            }
            v4 => v4,
        });
        self.hasher.hash_one(address)
    }
}

/// The address that the outermost trusted proxy saw. What stands before it in the list, anybody could have written.
fn forwarded(headers: &HeaderMap, hops: u8) -> Option<IpAddr> {
    let nth_from_the_end = usize::from(hops.checked_sub(1)?);
    let mut all: Vec<&str> = Vec::new();
    for value in headers.get_all(FORWARDED_FOR) {
        all.extend(value.to_str().ok()?.split(','));
    }
    let text = all.into_iter().rev().nth(nth_from_the_end)?.trim();
    // Some proxies write a port, and brackets around an IPv6 address.
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    (bare.parse().ok()).or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip()))
}

/// Lets a request in, or says when to come again.
pub(super) async fn admit(
    State(state): State<AppState>,
    mut request: Request,
    next: Next,
) -> Response {
    let limits = &state.limits;
    let path = request.uri().path();
    if ALWAYS.contains(&path) {
        return next.run(request).await;
    }
    let is_webhook = path.starts_with(WEBHOOKS);
    let Some(_counted) = limits.admitted(is_webhook) else {
        return Problem::overloaded(SOON).into_response();
    };
    let address = limits.address(&request);
    if is_webhook {
        return limits.webhook(address, request, next).await;
    }
    let told = Told::default();
    let sent = identify(request.headers(), &state).await;
    if let Err(problem) = limits.of_sender(&sent, address, &told) {
        return with_headers(problem.into_response(), &told);
    }
    request.extensions_mut().insert(sent);
    request.extensions_mut().insert(told.clone());
    with_headers(next.run(request).await, &told)
}

impl Limits {
    /// Answers a webhook, which is counted only where Nango has not signed it. That shows when its body
    /// has come, so what its sender has used up counts from the next one on.
    async fn webhook(&self, address: u64, mut request: Request, next: Next) -> Response {
        if let Some(wait) = self.addresses.wait(address, self.clock.now()) {
            self.metrics.refused("address");
            // Nango sends again what a 5xx answers, and drops the rest.
            return Problem::overloaded(wait).into_response();
        }
        let signed = Signed::default();
        request.extensions_mut().insert(signed.clone());
        let response = next.run(request).await;
        if !signed.0.load(Ordering::Relaxed) {
            self.addresses.take(address, self.clock.now());
        }
        response
    }
}

/// The headers of the IETF's draft "RateLimit header fields for HTTP".
fn with_headers(mut response: Response, told: &Told) -> Response {
    let told = *told.0.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(standing) = told {
        let headers = response.headers_mut();
        for (name, value) in [
            ("ratelimit-policy", standing.policy_header()),
            ("ratelimit", standing.header()),
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
            format!("too many requests: the limit {policy:?} is used up for the moment"),
        )
        .retry_after(wait)
    }

    fn too_many_streams(most: u32) -> Self {
        Self::new(
            Code::RateLimited,
            format!("{most} event streams of this user are open: end one of them first"),
        )
        .retry_after(SOON)
    }

    fn overloaded(wait: u64) -> Self {
        Self::new(
            Code::Overloaded,
            "there is more to do than this replica takes on",
        )
        .retry_after(wait)
    }
}
