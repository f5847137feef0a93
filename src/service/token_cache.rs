//! The cache of tokens, and of what was reported of them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::future::Cache;

use super::tokens::Token;
use crate::domain::ConnectionId;

/// How many tokens are held in memory at the most.
const CACHE_CAPACITY: u64 = 50_000;

/// Tokens held in memory for a short while. One call to Nango serves all who ask at once.
///
/// A token is cached for one version of its connection, so that a change of the connection on any replica invalidates it
/// in all replicas.
#[derive(Debug)]
pub(crate) struct TokenCache {
    pub(crate) held: Cache<(ConnectionId, i64), Arc<Token>>,
    /// What was reported of a connection and has been looked at: a refused token, or a failed call through the proxy.
    pub(crate) reports: Cache<(ConnectionId, String), ()>,
}

struct TokenExpiry;

impl Expiry<(ConnectionId, i64), Arc<Token>> for TokenExpiry {
    fn expire_after_create(
        &self,
        _: &(ConnectionId, i64),
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
            // A report is one report, however many workers of a workflow send it.
            reports: Cache::builder()
                .max_capacity(CACHE_CAPACITY)
                .time_to_live(Duration::from_secs(60))
                .build(),
        }
    }
}
