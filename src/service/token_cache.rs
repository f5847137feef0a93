//! The cache of tokens and of reports about them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::future::Cache;

use super::tokens::Token;
use crate::domain::{ConnectionId, Revision};

/// The maximum number of cached tokens, and of cached reports.
const CACHE_CAPACITY: u64 = 50_000;

/// A cache of tokens with a short TTL. Concurrent requests share one call to Nango.
///
/// A token is cached for one revision of its connection. A change of the connection therefore invalidates it in all
/// replicas.
#[derive(Debug)]
pub(crate) struct TokenCache {
    /// The tokens, by connection and revision.
    pub(crate) held: Cache<(ConnectionId, Revision), Arc<Token>>,
    /// The reports of a connection that were handled: a rejected token, or a failed call through the proxy.
    pub(crate) reports: Cache<(ConnectionId, String), ()>,
}

struct TokenExpiry;

impl Expiry<(ConnectionId, Revision), Arc<Token>> for TokenExpiry {
    fn expire_after_create(
        &self,
        _: &(ConnectionId, Revision),
        stored: &Arc<Token>,
        _: Instant,
    ) -> Option<Duration> {
        Some(stored.good_for)
    }
}

impl TokenCache {
    pub(crate) fn new() -> Self {
        Self {
            held: Cache::builder()
                .max_capacity(CACHE_CAPACITY)
                .expire_after(TokenExpiry)
                .build(),
            // Deduplicates reports, because many workers of a workflow may report the same token.
            reports: Cache::builder()
                .max_capacity(CACHE_CAPACITY)
                .time_to_live(Duration::from_secs(60))
                .build(),
        }
    }
}
