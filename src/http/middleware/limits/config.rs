//! How much a caller may ask for.

use crate::environment::Environment;

/// How much a caller may ask for. Where a limit is 0 there is none.
#[derive(Clone, Debug)]
pub struct LimitsConfig {
    /// `LIMIT_USER_PER_MINUTE`: requests of one user.
    pub user: u32,
    /// `LIMIT_CONNECT_PER_MINUTE`: requests for one user that make Nango work: connect, reconnect, check, and a
    /// return with an id that only Nango may know.
    pub connect: u32,
    /// `LIMIT_UPDATE_PER_MINUTE`: changes of labels and configs for one user.
    pub update: u32,
    /// `LIMIT_ADDRESS_PER_MINUTE`: requests of one address that do not say, or not truly, who sends them.
    pub address: u32,
    /// `LIMIT_STREAMS_PER_USER`: event streams of one user that are open at once, and as many requests that wait.
    pub streams: u32,
    /// `MAX_REQUESTS`: requests that a replica answers at once, and as many webhooks of Nango's; more are told to come
    /// again. Each caller has a share of them.
    pub requests: u32,
    /// `TRUSTED_PROXY_HOPS`: how many proxies in front add the address that they see to `X-Forwarded-For`.
    pub trusted_hops: u8,
}

impl Environment<'_> {
    pub(crate) fn limits(&mut self) -> LimitsConfig {
        LimitsConfig {
            user: self.or("LIMIT_USER_PER_MINUTE", 1200),
            connect: self.or("LIMIT_CONNECT_PER_MINUTE", 30),
            update: self.or("LIMIT_UPDATE_PER_MINUTE", 30),
            address: self.or("LIMIT_ADDRESS_PER_MINUTE", 600),
            streams: self.or("LIMIT_STREAMS_PER_USER", 10),
            requests: self.or("MAX_REQUESTS", 1000),
            trusted_hops: self.or("TRUSTED_PROXY_HOPS", 0),
        }
    }
}
