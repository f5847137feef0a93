//! Background jobs: each job repeats one operation of the service.
//!
//! Every replica runs every job. A job that must run once is claimed in the database.

use std::collections::BTreeSet;
use std::fmt::{Debug, Display};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::service::{AttemptExpiry, Services, SweepSchedule};
use crate::webhooks::Webhooks;

/// The interval of running due deletions at Nango.
const DELETION_INTERVAL: Duration = Duration::from_secs(5);

/// The interval of running due account lookups.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(2);

/// The interval of reading Nango's integrations, so that a new one is in the catalog soon.
const CATALOG_INTERVAL: Duration = Duration::from_secs(30);

/// The interval of ending expired attempts.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(15);

/// The interval in which each replica checks whether a sweep is due.
const SWEEP_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// The interval in which each replica looks up absent connections.
const ABSENCE_CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// The interval in which each replica compares its clock with the database's.
const CLOCK_CHECK_INTERVAL: Duration = Duration::from_secs(60);

/// The interval of deleting expired idempotency keys.
const KEY_CLEANUP_INTERVAL: Duration = Duration::from_secs(60);

/// How often old webhook deliveries are pruned, and their endpoints' secrets re-encrypted where necessary.
const DELIVERY_CLEANUP_INTERVAL: Duration = Duration::from_secs(60);

/// The interval in which each replica checks whether pruning the history is due, and the interval of pruning.
const PRUNING_CHECK_INTERVAL: Duration = Duration::from_secs(10 * 60);
const PRUNING_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// The delay before the event feed restarts after a failure.
const EVENT_RECONNECT_DELAY: Duration = Duration::from_secs(1);

/// The delay before the delivery of webhooks restarts after a failure.
const DELIVERY_RETRY_DELAY: Duration = Duration::from_millis(100);

/// How long a job's run may take before the log says that it has not finished.
const STALL_TIME: Duration = Duration::from_secs(60);

/// How long a run of the sweep may take: it pauses between its calls to Nango.
const SWEEP_STALL_TIME: Duration = Duration::from_secs(3600);

/// The jobs of one replica, which end after `stop`.
#[derive(Debug)]
pub struct Scheduler {
    tasks: TaskTracker,
    stop: CancellationToken,
    running: Arc<Mutex<BTreeSet<&'static str>>>,
}

impl Scheduler {
    /// Creates a scheduler without jobs.
    pub fn new(stop: CancellationToken) -> Self {
        Self {
            tasks: TaskTracker::new(),
            stop,
            running: Arc::default(),
        }
    }

    /// Waits until all jobs have ended.
    pub async fn finished(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Returns the names of the jobs that are still running.
    pub fn unfinished(&self) -> Vec<&'static str> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.iter().copied().collect()
    }

    /// Creates a job with a pause before each run. `stalls_after` is `None` for jobs whose runs have no expected end.
    fn job(&self, name: &'static str, pause: Duration, stalls_after: Option<Duration>) -> Job {
        Job {
            name,
            pause,
            stalls_after,
            stop: self.stop.clone(),
            running: self.running.clone(),
        }
    }
}

/// The schedule of a job.
struct Job {
    name: &'static str,
    pause: Duration,
    /// How long a run may take before the log says that it has not finished.
    stalls_after: Option<Duration>,
    stop: CancellationToken,
    running: Arc<Mutex<BTreeSet<&'static str>>>,
}

/// Starts the jobs that need no Nango. They end after the scheduler's `stop`.
pub fn start(services: &Arc<Services>, jobs: &Scheduler) {
    let (service, stopping) = (services.clone(), jobs.stop.clone());
    jobs.tasks.spawn(repeat(
        jobs.job("clock check", CLOCK_CHECK_INTERVAL, Some(STALL_TIME)),
        async move || {
            let measure = service.clock_offset.measure();
            if let Some(measured) = stopping.run_until_cancelled(measure).await {
                report("compared clocks", &measured, |()| false);
            }
        },
    ));
    let (service, stopping) = (services.clone(), jobs.stop.clone());
    jobs.tasks.spawn(repeat(
        jobs.job(
            "idempotency key cleanup",
            KEY_CLEANUP_INTERVAL,
            Some(STALL_TIME),
        ),
        async move || {
            // Here and below, the next run continues what a stop interrupted.
            if let Some(deleted) = stopping
                .run_until_cancelled(service.retention.delete_expired_keys())
                .await
            {
                report("deleted expired idempotency keys", &deleted, |count| {
                    *count > 0
                });
            }
        },
    ));
    let (service, stopping) = (services.clone(), jobs.stop.clone());
    jobs.tasks.spawn(repeat(
        jobs.job(
            "history pruning",
            PRUNING_CHECK_INTERVAL,
            Some(SWEEP_STALL_TIME),
        ),
        async move || {
            if let Some(pruned) = stopping
                .run_until_cancelled(service.retention.prune(PRUNING_INTERVAL))
                .await
            {
                report("pruned the history", &pruned, Option::is_some);
            }
        },
    ));
    let (service, stopping) = (services.clone(), jobs.stop.clone());
    jobs.tasks.spawn(repeat(
        jobs.job("event feed", EVENT_RECONNECT_DELAY, None),
        async move || {
            // This returns only on a failure.
            if let Some(ended) = stopping
                .run_until_cancelled(service.events.follow_changes())
                .await
            {
                report("followed changes", &ended, |()| true);
            }
        },
    ));
}

/// Starts the jobs that send webhooks to the product. They pause while the database is not the installation's.
pub fn start_webhooks(webhooks: &Arc<Webhooks>, services: &Arc<Services>, jobs: &Scheduler) {
    let (sender, stopping) = (webhooks.clone(), jobs.stop.clone());
    let service = services.clone();
    jobs.tasks.spawn(repeat(
        jobs.job("webhook delivery", DELIVERY_RETRY_DELAY, None),
        async move || {
            // This returns only on a failure.
            sender.run(&stopping, &*service.core).await;
        },
    ));
    let (pruner, stopping) = (webhooks.clone(), jobs.stop.clone());
    jobs.tasks.spawn(repeat(
        jobs.job(
            "webhook cleanup",
            DELIVERY_CLEANUP_INTERVAL,
            Some(STALL_TIME),
        ),
        async move || {
            if let Some(deleted) = stopping
                .run_until_cancelled(pruner.prune_deliveries())
                .await
            {
                report("deleted old webhook deliveries", &deleted, |count| {
                    *count > 0
                });
            }
            if let Some(changed) = stopping.run_until_cancelled(pruner.reencrypt()).await {
                report("reencrypted webhook secrets", &changed, |count| *count > 0);
            }
        },
    ));
}

/// Starts the jobs that call Nango.
pub fn start_nango_jobs(services: &Arc<Services>, sweep_every: Duration, jobs: &Scheduler) {
    let (service, stopping) = (services.clone(), jobs.stop.clone());
    jobs.tasks.spawn(repeat(
        jobs.job("deletions at Nango", Duration::ZERO, Some(STALL_TIME)),
        async move || {
            // Another replica may have queued a deletion without waking this one.
            let wanted = tokio::time::timeout(DELETION_INTERVAL, service.deletions.wait());
            if stopping.run_until_cancelled(wanted).await.is_some() {
                report(
                    "deleted connections at Nango",
                    &service.deletions.delete_due().await,
                    |count| *count > 0,
                );
            }
        },
    ));
    let (service, stopping) = (services.clone(), jobs.stop.clone());
    jobs.tasks.spawn(repeat(
        jobs.job("attempt expiry", EXPIRY_INTERVAL, Some(SWEEP_STALL_TIME)),
        async move || {
            loop {
                let expired = service.expiry.run().await;
                report("authorizations ran out of time", &expired, |count| {
                    *count > 0
                });
                let is_full = expired.is_ok_and(AttemptExpiry::is_full);
                if !is_full || stopping.is_cancelled() {
                    break;
                }
            }
        },
    ));
    start_catalog_jobs(services, jobs);
    let (service, stopping) = (services.clone(), jobs.stop.clone());
    jobs.tasks.spawn(repeat(
        jobs.job("absence checks", ABSENCE_CHECK_INTERVAL, Some(STALL_TIME)),
        async move || {
            if let Some(missing) = stopping
                .run_until_cancelled(service.sweeper.check_absences())
                .await
            {
                report("looked up absent connections", &missing, |count| *count > 0);
            }
        },
    ));
    let (service, stopping) = (services.clone(), jobs.stop.clone());
    jobs.tasks.spawn(repeat(
        jobs.job("sweep", SWEEP_CHECK_INTERVAL, Some(SWEEP_STALL_TIME)),
        async move || {
            report(
                "swept",
                &service
                    .sweeper
                    .sweep(SweepSchedule::every(sweep_every), &stopping)
                    .await,
                Option::is_some,
            );
        },
    ));
}

/// Starts the jobs of account lookups and the catalog.
fn start_catalog_jobs(services: &Arc<Services>, jobs: &Scheduler) {
    let (service, stopping) = (services.clone(), jobs.stop.clone());
    jobs.tasks.spawn(repeat(
        jobs.job("account look-ups", Duration::ZERO, Some(STALL_TIME)),
        async move || {
            let wanted = tokio::time::timeout(LOOKUP_INTERVAL, service.account_lookups.wait());
            if stopping.run_until_cancelled(wanted).await.is_some() {
                report(
                    "looked up accounts",
                    &service.account_lookups.run_due(&stopping).await,
                    |_| false,
                );
            }
        },
    ));
    let service = services.clone();
    jobs.tasks.spawn(repeat(
        jobs.job("catalog refresh", CATALOG_INTERVAL, Some(STALL_TIME)),
        async move || {
            report(
                "listed nango integrations",
                &service.catalog.refresh().await,
                |()| false,
            );
        },
    ));
}

/// Runs a job after each pause, until `stop`. A started run completes, and a run that panics does not end its job.
async fn repeat(job: Job, mut run: impl AsyncFnMut()) {
    let Job { name, .. } = job;
    job.running().insert(name);
    while job
        .stop
        .run_until_cancelled(tokio::time::sleep(job.pause))
        .await
        .is_some()
    {
        let run = AssertUnwindSafe(run()).catch_unwind();
        if report_stalls(&job, run).await.is_err() {
            tracing::error!(job = name, "job panicked, will run again");
        }
    }
    job.running().remove(name);
}

impl Job {
    fn running(&self) -> std::sync::MutexGuard<'_, BTreeSet<&'static str>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for a run, and repeatedly logs that it has not finished.
async fn report_stalls<T>(job: &Job, run: impl Future<Output = T>) -> T {
    let Some(stalls_after) = job.stalls_after else {
        return run.await;
    };
    let started = Instant::now();
    let mut run = pin!(run);
    loop {
        match tokio::time::timeout(stalls_after, run.as_mut()).await {
            Ok(result) => return result,
            Err(_elapsed) => {
                let seconds = started.elapsed().as_secs();
                tracing::warn!(job = job.name, seconds, "job is still running");
            }
        }
    }
}

/// Logs a run that did something, or that failed and will be retried.
fn report<T: Debug, E: Display>(what: &str, result: &Result<T, E>, did: impl FnOnce(&T) -> bool) {
    match result {
        Ok(result) if did(result) => tracing::info!(?result, "{what}"),
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "{what}: failed, will be retried"),
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
        let jobs = Scheduler::new(stop.clone());
        repeat(jobs.job("test", Duration::ZERO, None), run).await;
        assert_eq!(passes, 2);
    }
}
