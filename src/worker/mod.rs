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
const STALL_TIME: Option<Duration> = Some(Duration::from_secs(60));

/// How long a run of the sweep may take: it pauses between its calls to Nango.
const SWEEP_STALL_TIME: Option<Duration> = Some(Duration::from_secs(3600));

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
    let (service, stop) = (services.clone(), jobs.stop.clone());
    let job = jobs.job("clock check", CLOCK_CHECK_INTERVAL, STALL_TIME);
    jobs.tasks.spawn(repeat(job, async move || {
        let run = || service.clock_offset.measure();
        report_until(&stop, "compared clocks", run).await;
    }));
    let (service, stop) = (services.clone(), jobs.stop.clone());
    let job = jobs.job("idempotency key cleanup", KEY_CLEANUP_INTERVAL, STALL_TIME);
    jobs.tasks.spawn(repeat(job, async move || {
        let run = || service.retention.delete_expired_keys();
        report_until(&stop, "deleted expired idempotency keys", run).await;
    }));
    let (service, stop) = (services.clone(), jobs.stop.clone());
    let job = jobs.job("history pruning", PRUNING_CHECK_INTERVAL, SWEEP_STALL_TIME);
    jobs.tasks.spawn(repeat(job, async move || {
        let run = || service.retention.prune(PRUNING_INTERVAL);
        report_until(&stop, "pruned the history", run).await;
    }));
    let (service, stop) = (services.clone(), jobs.stop.clone());
    let job = jobs.job("event feed", EVENT_RECONNECT_DELAY, None);
    jobs.tasks.spawn(repeat(job, async move || {
        // This returns only on a failure.
        let run = || service.events.follow_changes();
        report_until(&stop, "followed changes", run).await;
    }));
}

/// Starts the jobs that send webhooks to the product. They pause while the database is not the installation's.
pub fn start_webhooks(webhooks: &Arc<Webhooks>, services: &Arc<Services>, jobs: &Scheduler) {
    let (sender, service, stop) = (webhooks.clone(), services.clone(), jobs.stop.clone());
    let job = jobs.job("webhook delivery", DELIVERY_RETRY_DELAY, None);
    jobs.tasks.spawn(repeat(job, async move || {
        // This returns only on a failure.
        sender.run(&stop, &*service.core).await;
    }));
    let (pruner, stop) = (webhooks.clone(), jobs.stop.clone());
    let job = jobs.job("webhook cleanup", DELIVERY_CLEANUP_INTERVAL, STALL_TIME);
    jobs.tasks.spawn(repeat(job, async move || {
        let run = || pruner.prune_deliveries();
        report_until(&stop, "deleted old webhook deliveries", run).await;
        let run = || pruner.reencrypt();
        report_until(&stop, "reencrypted webhook secrets", run).await;
    }));
}

/// Starts the jobs that call Nango.
pub fn start_nango_jobs(services: &Arc<Services>, sweep_every: Duration, jobs: &Scheduler) {
    let (service, stop) = (services.clone(), jobs.stop.clone());
    let job = jobs.job("deletions at Nango", Duration::ZERO, STALL_TIME);
    jobs.tasks.spawn(repeat(job, async move || {
        // Another replica may have queued a deletion without waking this one.
        let wanted = tokio::time::timeout(DELETION_INTERVAL, service.deletions.wait());
        if stop.run_until_cancelled(wanted).await.is_some() {
            let deleted = service.deletions.delete_due().await;
            report("deleted connections at Nango", &deleted);
        }
    }));
    let (service, stop) = (services.clone(), jobs.stop.clone());
    let job = jobs.job("attempt expiry", EXPIRY_INTERVAL, SWEEP_STALL_TIME);
    jobs.tasks.spawn(repeat(job, async move || {
        loop {
            let expired = service.expiry.run().await;
            report("authorizations ran out of time", &expired);
            if !expired.is_ok_and(AttemptExpiry::is_full) || stop.is_cancelled() {
                break;
            }
        }
    }));
    start_catalog_jobs(services, jobs);
    let (service, stop) = (services.clone(), jobs.stop.clone());
    let job = jobs.job("absence checks", ABSENCE_CHECK_INTERVAL, STALL_TIME);
    jobs.tasks.spawn(repeat(job, async move || {
        let run = || service.sweeper.check_absences();
        report_until(&stop, "looked up absent connections", run).await;
    }));
    let (service, stop) = (services.clone(), jobs.stop.clone());
    let schedule = SweepSchedule::every(sweep_every);
    let job = jobs.job("sweep", SWEEP_CHECK_INTERVAL, SWEEP_STALL_TIME);
    jobs.tasks.spawn(repeat(job, async move || {
        report("swept", &service.sweeper.sweep(schedule, &stop).await);
    }));
}

/// Starts the jobs of account lookups and the catalog.
fn start_catalog_jobs(services: &Arc<Services>, jobs: &Scheduler) {
    let (service, stop) = (services.clone(), jobs.stop.clone());
    let job = jobs.job("account look-ups", Duration::ZERO, STALL_TIME);
    jobs.tasks.spawn(repeat(job, async move || {
        let wanted = tokio::time::timeout(LOOKUP_INTERVAL, service.account_lookups.wait());
        if stop.run_until_cancelled(wanted).await.is_some() {
            let looked_up = service.account_lookups.run_due(&stop).await;
            report("looked up accounts", &looked_up.map(drop));
        }
    }));
    let service = services.clone();
    let job = jobs.job("catalog refresh", CATALOG_INTERVAL, STALL_TIME);
    jobs.tasks.spawn(repeat(job, async move || {
        report(
            "listed nango integrations",
            &service.catalog.refresh().await,
        );
    }));
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

/// Runs an operation until it ends or `stop`, and logs its result. The next run continues what a stop interrupted.
async fn report_until<T: Debug + Default + PartialEq, E: Display, F>(
    stop: &CancellationToken,
    what: &str,
    run: impl FnOnce() -> F,
) where
    F: Future<Output = Result<T, E>>,
{
    // Boxed, because a future that is passed on by value is copied, which overflows the stack of debug builds.
    let run = Box::pin(run());
    if let Some(result) = stop.run_until_cancelled(run).await {
        report(what, &result);
    }
}

/// Logs a run that did something, or that failed and will be retried. A run that did nothing returns `T::default()`.
fn report<T: Debug + Default + PartialEq, E: Display>(what: &str, result: &Result<T, E>) {
    match result {
        Ok(result) if *result != T::default() => tracing::info!(?result, "{what}"),
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
