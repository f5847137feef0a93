//! What is done without anybody asking: each job is a pass of the service, and a loop around it.
//!
//! Every replica runs every job. What must happen once is claimed in the database.

use std::fmt::{Debug, Display};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::service::{Connections, SweepSchedule};
use crate::webhooks::Webhooks;

/// How often what is due to be deleted at Nango is looked for.
const DELETION_INTERVAL: Duration = Duration::from_secs(5);

/// How often attempts past their time are looked for.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(15);

/// How often each replica looks whether a sweep is due.
const SWEEP_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// How often old answers are forgotten.
const KEY_CLEANUP_INTERVAL: Duration = Duration::from_secs(60);

/// How often old deliveries of webhooks are forgotten, and their endpoints' secrets encrypted anew where they have to be.
const DELIVERY_CLEANUP_INTERVAL: Duration = Duration::from_secs(60);

/// How often each replica looks whether the history is due to be pruned, and how often it is.
const PRUNING_CHECK_INTERVAL: Duration = Duration::from_secs(10 * 60);
const PRUNING_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// How soon after it broke the feed of changes is taken up again.
const EVENT_RECONNECT_DELAY: Duration = Duration::from_secs(1);

/// How soon after it broke the sending of webhooks is taken up again.
const DELIVERY_RETRY_DELAY: Duration = Duration::from_millis(100);

/// Starts the jobs that need no Nango. They end when `stop` says so.
pub fn start(connections: &Arc<Connections>, tasks: &TaskTracker, stop: &CancellationToken) {
    let (service, stopping) = (connections.clone(), stop.clone());
    tasks.spawn(repeat(
        stop.clone(),
        KEY_CLEANUP_INTERVAL,
        async move || {
            // What a stop cuts off, here and below, is left to the next pass.
            if let Some(forgotten) = stopping
                .run_until_cancelled(service.delete_expired_keys())
                .await
            {
                report("forgot old answers", &forgotten, |count| *count > 0);
            }
        },
    ));
    let (service, stopping) = (connections.clone(), stop.clone());
    tasks.spawn(repeat(
        stop.clone(),
        PRUNING_CHECK_INTERVAL,
        async move || {
            if let Some(pruned) = stopping
                .run_until_cancelled(service.prune(PRUNING_INTERVAL))
                .await
            {
                report("pruned the history", &pruned, Option::is_some);
            }
        },
    ));
    let (service, stopping) = (connections.clone(), stop.clone());
    tasks.spawn(repeat(
        stop.clone(),
        EVENT_RECONNECT_DELAY,
        async move || {
            // Following never ends by itself.
            if let Some(broken) = stopping.run_until_cancelled(service.follow_changes()).await {
                report("followed changes", &broken, |()| true);
            }
        },
    ));
}

/// Starts the jobs that tell the product. They pause while the database is not the installation's.
pub fn start_webhooks(
    webhooks: &Arc<Webhooks>,
    connections: &Arc<Connections>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let (sender, stopping) = (webhooks.clone(), stop.clone());
    let service = connections.clone();
    tasks.spawn(repeat(
        stop.clone(),
        DELIVERY_RETRY_DELAY,
        async move || {
            // Sending never ends by itself.
            sender
                .run(&stopping, || service.is_database_foreign())
                .await;
        },
    ));
    let (forgetful, stopping) = (webhooks.clone(), stop.clone());
    tasks.spawn(repeat(
        stop.clone(),
        DELIVERY_CLEANUP_INTERVAL,
        async move || {
            if let Some(forgotten) = stopping
                .run_until_cancelled(forgetful.prune_deliveries())
                .await
            {
                report("forgot old deliveries of webhooks", &forgotten, |count| {
                    *count > 0
                });
            }
            if let Some(changed) = stopping.run_until_cancelled(forgetful.reencrypt()).await {
                report("reencrypted webhook secrets", &changed, |count| *count > 0);
            }
        },
    ));
}

/// Starts the jobs that ask Nango.
pub fn start_nango_jobs(
    connections: &Arc<Connections>,
    sweep_every: Duration,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let (service, stopping) = (connections.clone(), stop.clone());
    tasks.spawn(repeat(stop.clone(), Duration::ZERO, async move || {
        // Another replica may have left something that nobody here wants.
        let wanted = tokio::time::timeout(DELETION_INTERVAL, service.wait_for_deletions());
        if stopping.run_until_cancelled(wanted).await.is_some() {
            report(
                "asked Nango to delete",
                &service.delete_due().await,
                |count| *count > 0,
            );
        }
    }));
    let service = connections.clone();
    tasks.spawn(repeat(stop.clone(), EXPIRY_INTERVAL, async move || {
        report(
            "authorizations ran out of time",
            &service.expire_attempts().await,
            |count| *count > 0,
        );
    }));
    let (service, stopping) = (connections.clone(), stop.clone());
    tasks.spawn(repeat(
        stop.clone(),
        SWEEP_CHECK_INTERVAL,
        async move || {
            report(
                "swept",
                &service
                    .sweep(SweepSchedule::every(sweep_every), &stopping)
                    .await,
                Option::is_some,
            );
        },
    ));
}

/// A pass after each pause, until `stop`. A pass that has begun ends by itself, and one that panics is no job's end.
async fn repeat(stop: CancellationToken, pause: Duration, mut run: impl AsyncFnMut()) {
    while stop
        .run_until_cancelled(tokio::time::sleep(pause))
        .await
        .is_some()
    {
        if AssertUnwindSafe(run()).catch_unwind().await.is_err() {
            tracing::error!("a pass has panicked: its job goes on with the next one");
        }
    }
}

/// One line about a pass that did something, or failed and is tried again.
fn report<T: Debug, E: Display>(what: &str, result: &Result<T, E>, did: impl FnOnce(&T) -> bool) {
    match result {
        Ok(result) if did(result) => tracing::info!(?result, "{what}"),
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "{what}: not this time, it is tried again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn job_continues_after_panicking_run() {
        let stop = CancellationToken::new();
        let mut passes = 0;
        let run = async || {
            passes += 1;
            assert_ne!(passes, 1, "the first pass panics");
            stop.cancel();
        };
        repeat(stop.clone(), Duration::ZERO, run).await;
        assert_eq!(passes, 2);
    }
}
