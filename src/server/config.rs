//! The configuration of client connections.

use std::time::Duration;

use crate::environment::Environment;

/// The configuration of client connections and of the shutdown.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// `MAX_CLIENT_CONNECTIONS`: the maximum number of connections. Further ones wait in the system's queue.
    pub max_connections: usize,
    /// The maximum number of connections from one address: a quarter of all. 0 means no limit, as behind trusted
    /// proxies, which have limits of their own.
    pub connections_per_address: u32,
    /// `CLIENT_READ_TIMEOUT_SECONDS`: how long a client may take to send a request's head or the next piece of its
    /// body, or to read the next piece of a response.
    pub client_timeout: Duration,
    /// `KEEP_ALIVE_SECONDS`: how long an idle connection stays open.
    pub keep_alive: Duration,
    /// `SHUTDOWN_DELAY_SECONDS`: how long requests are still accepted after a stop signal.
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
            // Longer than the keep-alive of proxies in front: closing a connection first can cut off a request.
            keep_alive: self.positive_seconds("KEEP_ALIVE_SECONDS", 75),
            shutdown_delay: self.seconds("SHUTDOWN_DELAY_SECONDS", 5),
        }
    }
}
