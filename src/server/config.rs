//! How connections of clients are served.

use std::time::Duration;

use crate::environment::Environment;

/// How connections of clients are served, and how the service stops.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// `MAX_CLIENT_CONNECTIONS`: how many clients may be connected; more wait in the system's queue.
    pub max_connections: usize,
    /// The most connections of one address, a quarter of all; 0 means no limit, as behind trusted proxies, which have
    /// limits of their own.
    pub connections_per_address: u32,
    /// `CLIENT_READ_TIMEOUT_SECONDS`: how long a client may take to send a request's head, or the next
    /// piece of its body, or to take the next piece of an answer.
    pub client_timeout: Duration,
    /// `KEEP_ALIVE_SECONDS`: how long a connection without a request stays open.
    pub keep_alive: Duration,
    /// `SHUTDOWN_DELAY_SECONDS`: how long requests are still taken after a signal to stop.
    pub shutdown_delay: Duration,
}

impl Environment<'_> {
    pub(crate) fn server(&mut self, trusted_hops: u8) -> ServerConfig {
        let connections: usize = self.positive("MAX_CLIENT_CONNECTIONS", 10_000);
        let quarter = u32::try_from(connections / 4).unwrap_or(u32::MAX).max(1);
        ServerConfig {
            max_connections: connections,
            connections_per_address: if trusted_hops == 0 { quarter } else { 0 },
            client_timeout: self.positive_seconds("CLIENT_READ_TIMEOUT_SECONDS", 15),
            // Longer than the proxies in front keep theirs: who closes first may cut off a request.
            keep_alive: self.positive_seconds("KEEP_ALIVE_SECONDS", 75),
            shutdown_delay: self.seconds("SHUTDOWN_DELAY_SECONDS", 5),
        }
    }
}
