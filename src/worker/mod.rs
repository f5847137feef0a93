//! What is done without anybody asking: each job is a `run_once` of the service, and a loop around it.
//!
//! Every replica runs every job. What must happen once is claimed in the database.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connections::service::Connections;

/// How often what is due to be deleted at Nango is looked for.
const DELETIONS: Duration = Duration::from_secs(5);

/// How often attempts past their time are looked for.
const EXPIRY: Duration = Duration::from_secs(15);

/// Starts every job. They end, between two passes, when `stop` says so.
pub fn start(connections: &Arc<Connections>, tasks: &TaskTracker, stop: &CancellationToken) {
    tasks.spawn(delete_upstream(connections.clone(), stop.clone()));
    tasks.spawn(expire_attempts(connections.clone(), stop.clone()));
}

async fn delete_upstream(connections: Arc<Connections>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = connections.deletion_wanted() => {}
            () = tokio::time::sleep(DELETIONS) => {}
        }
        match connections.delete_due().await {
            Ok(0) => {}
            Ok(claimed) => tracing::info!(claimed, "asked Nango to delete connections"),
            Err(error) => tracing::error!(%error, "deletions at Nango could not be worked off"),
        }
    }
}

async fn expire_attempts(connections: Arc<Connections>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EXPIRY) => {}
        }
        match connections.expire_attempts().await {
            Ok(0) => {}
            Ok(expired) => tracing::info!(expired, "authorizations were not finished in time"),
            Err(error) => {
                tracing::error!(%error, "attempts past their time could not be looked for");
            }
        }
    }
}
