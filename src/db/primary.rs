//! Tracks which of the servers accepts writes.

use std::sync::Mutex;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPool};
use sqlx::{Connection, PgConnection};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::connection_health::with_timeout;
use super::session;

/// How long every connection is tested before use after one has failed.
const SUSPICION_TIME: Duration = Duration::from_secs(30);

/// The timeout of the check whether a server accepts writes.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// The pause between two searches for the primary.
const SEARCH_INTERVAL: Duration = Duration::from_millis(500);

/// The state of the server that the pool connects to, shared by all its connections.
#[derive(Debug, Default)]
pub(crate) struct Primary {
    suspect_until: Mutex<Option<Instant>>,
    suspected: Notify,
}

impl Primary {
    /// Records that a connection has failed or that its server is read-only.
    pub(crate) fn suspect(&self) {
        *self
            .suspect_until
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) =
            Some(Instant::now() + SUSPICION_TIME);
        self.search();
    }

    /// Starts a search for the primary, if there are several servers.
    pub(crate) fn search(&self) {
        self.suspected.notify_one();
    }

    /// Returns `true` for a while after [`suspect`](Self::suspect).
    pub(crate) fn is_suspect(&self) -> bool {
        let until = *self
            .suspect_until
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }

    /// Switches the pool to another of these servers when the current one may no longer accept writes, until the pool
    /// is closed.
    pub(crate) async fn follow(&self, servers: Vec<PgConnectOptions>, pool: PgPool) {
        let search = async {
            loop {
                self.suspected.notified().await;
                for server in &servers {
                    if accepts_writes(server).await {
                        pool.set_connect_options(server.clone());
                        break;
                    }
                }
                tokio::time::sleep(SEARCH_INTERVAL).await;
            }
        };
        let closed = pool.close_event();
        tokio::select! {
            () = search => {}
            () = closed => {}
        }
    }
}

async fn accepts_writes(server: &PgConnectOptions) -> bool {
    let probe = async {
        let mut connection = PgConnection::connect_with(server).await?;
        let writable = session::can_write(&mut connection).await?;
        connection.close().await?;
        Ok(writable)
    };
    with_timeout(PROBE_TIMEOUT, probe).await.unwrap_or(false)
}
