//! The configuration of the rate and concurrency limits.

use crate::environment::Environment;

/// The limits of a replica. 0 means no limit.
#[derive(Clone, Debug)]
pub struct LimitsConfig {
    /// `RATE_LIMIT_USER_PER_MINUTE`: requests of one user.
    pub user_per_minute: u32,
    /// `RATE_LIMIT_CONNECT_PER_MINUTE`: requests for one user that call Nango (connect, reconnect, check, and a
    /// callback with an unverified id), and separately changes of labels and configs.
    pub connect_per_minute: u32,
    /// `RATE_LIMIT_ADDRESS_PER_MINUTE`: unauthenticated requests of one address.
    pub address_per_minute: u32,
    /// `MAX_STREAMS_PER_USER`: concurrent event streams of one user, and separately as many waiting requests.
    pub max_streams_per_user: u32,
    /// `MAX_CONCURRENT_REQUESTS`: concurrent requests of a replica, and separately as many webhooks of Nango. Further
    /// requests are rejected and may be retried. Each caller has a share of them.
    pub max_concurrent_requests: u32,
    /// `TRUSTED_PROXY_HOPS`: the number of proxies in front that append the client's address to `X-Forwarded-For`.
    pub trusted_proxy_hops: u8,
}

impl Environment<'_> {
    pub(crate) fn limits(&mut self) -> LimitsConfig {
        LimitsConfig {
            user_per_minute: self.number("RATE_LIMIT_USER_PER_MINUTE", 1200),
            connect_per_minute: self.number("RATE_LIMIT_CONNECT_PER_MINUTE", 30),
            address_per_minute: self.number("RATE_LIMIT_ADDRESS_PER_MINUTE", 600),
            max_streams_per_user: self.number("MAX_STREAMS_PER_USER", 10),
            max_concurrent_requests: self.number("MAX_CONCURRENT_REQUESTS", 1000),
            trusted_proxy_hops: self.number("TRUSTED_PROXY_HOPS", 0),
        }
    }
}
