//! How much a caller may ask for.

use crate::environment::Environment;

/// How much a caller may ask for. Where a limit is 0 there is none.
#[derive(Clone, Debug)]
pub struct LimitsConfig {
    /// `RATE_LIMIT_USER_PER_MINUTE`: requests of one user.
    pub user_per_minute: u32,
    /// `RATE_LIMIT_CONNECT_PER_MINUTE`: requests for one user that make Nango work: connect, reconnect, check, and a
    /// return with an id that only Nango may know.
    pub connect_per_minute: u32,
    /// `RATE_LIMIT_UPDATE_PER_MINUTE`: changes of labels and configs for one user.
    pub update: u32,
    /// `RATE_LIMIT_ADDRESS_PER_MINUTE`: requests of one address that do not say, or not truly, who sends them.
    pub address_per_minute: u32,
    /// `MAX_STREAMS_PER_USER`: event streams of one user that are open at once, and as many requests that wait.
    pub max_streams_per_user: u32,
    /// `MAX_CONCURRENT_REQUESTS`: the number of requests that a replica handles concurrently, and of Nango's webhooks
    /// in addition. Further requests are rejected and may be retried. Each caller has a share of them.
    pub max_concurrent_requests: u32,
    /// `TRUSTED_PROXY_HOPS`: how many proxies in front add the address that they see to `X-Forwarded-For`.
    pub trusted_proxy_hops: u8,
}

impl Environment<'_> {
    pub(crate) fn limits(&mut self) -> LimitsConfig {
        LimitsConfig {
            user_per_minute: self.number("RATE_LIMIT_USER_PER_MINUTE", 1200),
            connect_per_minute: self.number("RATE_LIMIT_CONNECT_PER_MINUTE", 30),
            update: self.number("RATE_LIMIT_UPDATE_PER_MINUTE", 30),
            address_per_minute: self.number("RATE_LIMIT_ADDRESS_PER_MINUTE", 600),
            max_streams_per_user: self.number("MAX_STREAMS_PER_USER", 10),
            max_concurrent_requests: self.number("MAX_CONCURRENT_REQUESTS", 1000),
            trusted_proxy_hops: self.number("TRUSTED_PROXY_HOPS", 0),
        }
    }
}
