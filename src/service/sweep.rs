//! The sweep: compares all connections at Nango with the connections in the database.
//!
//! Nango lists its connections by creation time, newest first. A sweep reads the list in segments. After each segment,
//! it reconciles the rows whose creation times lie in that segment. Its memory is therefore bounded, a partially listed
//! segment changes nothing, and an interrupted sweep resumes at its segment. The next sweep retries failed connections.

use std::collections::HashSet;
use std::hash::RandomState;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::account_lookup::AccountLookups;
use super::core::Core;
use super::credential_check::{CredentialChecker, CredentialHealth};
use super::reconcile::Reconciler;
use super::sweep_listing::{MAX_FINDINGS, SEGMENT_PAGES, Segment, attempt_tag};
use super::{Error, Result};
use crate::db::{self, Creation, SweepPass, SweepRow};
use crate::domain::state_machine::ABSENCE_INTERVAL;
use crate::domain::{Connection, ConnectionId, Reason, UserId};
use crate::nango::{self, ConnectionSummary, Priority};
use crate::telemetry::TRACES;

/// The name of the sweep's job.
pub(crate) const JOB_NAME: &str = "sweep";

/// The name of the job that searches Nango's newest connections. It runs as a part of the sweep.
pub(crate) const NEWEST_JOB_NAME: &str = "sweep newest";

/// The lease of a sweep, in seconds. A running sweep renews it. The lease is short, so that another replica soon takes
/// over the sweep of a killed replica.
const LEASE_SECONDS: f64 = 30.0;

/// The interval between renewals of the lease.
const LEASE_RENEWAL_INTERVAL: Duration = Duration::from_secs(10);

/// The interval between checks of Nango's rate limit while it leaves no room for the sweep.
const RATE_LIMIT_RECHECK: Duration = Duration::from_secs(1);

/// The number of creations that one statement corrects.
const CORRECTION_BATCH: usize = 1000;

/// The interval between sweeps, and the pause between their calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SweepSchedule {
    /// The time from the end of a sweep on any replica to the start of the next.
    pub every: Duration,
    /// The pause after each call to Nango for which no client waits, if Nango's limit is 200 calls a minute. A greater
    /// limit shortens it.
    pub pause: Duration,
}

impl SweepSchedule {
    /// Returns a schedule with a pause of two seconds. A sweep then uses at most a sixth of Nango's rate limit. It uses
    /// more only for grants that no webhook or poll reported, and while it checks whether a provider has an outage.
    pub fn every(every: Duration) -> Self {
        Self {
            every,
            pause: Duration::from_secs(2),
        }
    }
}

/// The results of a sweep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// The number of connections that this run listed at Nango.
    pub listed: usize,
    /// The number of grants among them that no webhook or poll had reported.
    pub found: usize,
    /// The number of checked connections: Nango reports their credentials as failed, or they may have recovered.
    pub checked: usize,
    /// The number of connections that became missing.
    pub missing: usize,
    /// The number of orphans: connections of this installation at Nango without a row. They are kept.
    pub orphans: usize,
    /// The number of entries of Nango's list that were skipped because they cannot be read.
    pub unreadable: usize,
}

/// Compares Nango's connections with the database, and reconciles differences.
#[derive(Debug)]
pub struct Sweeper {
    pub(crate) core: Arc<Core>,
    pub(crate) reconciler: Arc<Reconciler>,
    pub(crate) checks: Arc<CredentialChecker>,
    pub(crate) lookups: Arc<AccountLookups>,
}

impl Sweeper {
    /// Runs one sweep. Returns `None` if another replica runs one, the last one ended less than an interval ago, the
    /// database is not the installation's, Nango's rate limit leaves no room, or `stop` is cancelled before the end.
    ///
    /// # Errors
    /// If Nango or the database does not answer. The next sweep resumes at the segment that failed.
    #[tracing::instrument(target = TRACES, skip_all)]
    pub async fn sweep(
        &self,
        schedule: SweepSchedule,
        stop: &CancellationToken,
    ) -> Result<Option<SweepReport>> {
        if !self.core.has_room(Priority::Sweep) || self.core.is_database_foreign().await {
            return Ok(None);
        }
        let every = schedule.every.as_secs_f64();
        let claimed = db::claim_job(&self.core.database, JOB_NAME, LEASE_SECONDS, every).await?;
        if !claimed {
            return Ok(None);
        }
        let sweep = async {
            tokio::select! {
                report = Priority::Sweep.scope(Box::pin(self.sweep_all(schedule))) => report.map(Some),
                lost = self.renew_lease() => Err(lost),
                // Another replica may resume the sweep immediately.
                () = stop.cancelled() => Ok(None),
            }
        };
        let started = Instant::now();
        let report = sweep.await;
        self.core.counts.sweep_finished(&report, started.elapsed());
        db::release_job(&self.core.database, JOB_NAME, matches!(report, Ok(Some(_)))).await?;
        report
    }

    /// Renews the lease until the future is dropped. Returns only if the database fails.
    async fn renew_lease(&self) -> Error {
        let database = &self.core.database;
        loop {
            tokio::time::sleep(LEASE_RENEWAL_INTERVAL).await;
            if let Err(error) = db::renew_job(database, JOB_NAME, LEASE_SECONDS).await {
                return error.into();
            }
        }
    }

    /// Waits between two calls to Nango, at least until its rate limit leaves room for another.
    pub(crate) async fn pause_sweep(&self, pause: Duration) {
        let nango = self.core.upstream.as_ref().map(|upstream| &upstream.nango);
        tokio::time::sleep(nango.map_or(pause, |nango| nango.scale_pause(pause))).await;
        while !self.core.has_room(Priority::Sweep) {
            tokio::time::sleep(RATE_LIMIT_RECHECK).await;
        }
    }

    /// Compares Nango's list with the table, segment by segment, and resumes an interrupted sweep. Between segments,
    /// searches Nango's newest connections again if an interval has passed.
    async fn sweep_all(&self, schedule: SweepSchedule) -> Result<SweepReport> {
        self.lookups.queue_unidentified().await?;
        let mut pass = self.resume_sweep().await?;
        let mut report = SweepReport::default();
        if pass.before.is_some() {
            self.sweep_newest(schedule.pause, &mut report).await?;
        }
        let mut newest_at = Instant::now();
        let mut carried = HashSet::new();
        let hasher = RandomState::new();
        loop {
            let mut segment = Segment::new(&pass, &hasher, std::mem::take(&mut carried));
            self.list_segment(&mut segment, schedule.pause).await?;
            pass.orphans += i64::try_from(segment.orphans).unwrap_or(i64::MAX);
            self.apply_segment(&segment, pass.started_at, schedule.pause, &mut report)
                .await?;
            if pass.before.is_none() {
                self.record_newest().await?;
            }
            if segment.is_last {
                break;
            }
            (pass.page, pass.before) = (segment.page, segment.oldest);
            db::record_sweep(&self.core.database, &pass).await?;
            carried = segment.into_oldest();
            if newest_at.elapsed() >= schedule.every {
                self.sweep_newest(schedule.pause, &mut report).await?;
                newest_at = Instant::now();
            }
        }
        report.orphans = usize::try_from(pass.orphans).unwrap_or_default();
        self.record_orphans(report.orphans).await?;
        db::end_sweep(&self.core.database).await?;
        Ok(report)
    }

    /// Returns the progress of the interrupted sweep, or of a new one.
    async fn resume_sweep(&self) -> Result<SweepPass> {
        let interrupted = db::interrupted_sweep(&self.core.database).await?;
        Ok(interrupted.unwrap_or_else(|| SweepPass {
            started_at: self.core.clock.now(),
            page: 0,
            before: None,
            orphans: 0,
        }))
    }

    /// Reconciles the differences between a segment of Nango's list and the table.
    async fn apply_segment(
        &self,
        segment: &Segment<'_>,
        started_at: DateTime<Utc>,
        pause: Duration,
        report: &mut SweepReport,
    ) -> Result<()> {
        report.listed += segment.listed;
        report.unreadable += segment.unreadable;
        let is_recognized = !segment.confirmed.is_empty();
        self.core.brakes.confirm_environment(is_recognized).await?;
        self.correct_creations(&segment.corrections).await?;
        self.apply_all_unknown(&segment.unknown, report).await?;
        report.missing += self.check_missing(segment, started_at, pause).await?;
        report.checked += self.check_all(&segment.to_check, pause).await?;
        Ok(())
    }

    /// Writes corrected creations, unless the environment is unknown: the times would be another environment's.
    async fn correct_creations(&self, corrections: &[Creation]) -> Result<()> {
        if !self.core.brakes.is_environment_known() {
            return Ok(());
        }
        for batch in corrections.chunks(CORRECTION_BATCH) {
            db::correct_creations(&self.core.database, batch).await?;
        }
        Ok(())
    }

    async fn apply_all_unknown(
        &self,
        unknown: &[(bool, ConnectionSummary)],
        report: &mut SweepReport,
    ) -> Result<()> {
        for (_, summary) in unknown {
            let applied = self.apply_unknown(summary, report).await;
            if let Some(error) = recoverable_error(applied)? {
                let id = &summary.connection_id;
                tracing::warn!(
                    nango_connection = id, %error,
                    "the sweep skipped a connection, will retry in the next sweep"
                );
            }
            // No scheduled pause: the connection's user may be waiting.
            self.pause_sweep(Duration::ZERO).await;
        }
        Ok(())
    }

    /// Applies unreported grants on the newest pages of Nango's list, until a page has none.
    async fn sweep_newest(&self, pause: Duration, report: &mut SweepReport) -> Result<()> {
        let hasher = RandomState::new();
        for page in 0..SEGMENT_PAGES {
            let found = self.nango_page(page).await?;
            let mut segment = Segment::of_page(&hasher, page);
            let connections: Vec<&ConnectionSummary> = found.connections.iter().collect();
            self.compare(&mut segment, &connections).await?;
            let before = report.found;
            self.apply_all_unknown(&segment.unknown, report).await?;
            if report.found == before {
                break;
            }
            self.pause_sweep(pause).await;
        }
        self.record_newest().await
    }

    async fn record_newest(&self) -> Result<()> {
        Ok(db::record_job(&self.core.database, NEWEST_JOB_NAME).await?)
    }

    /// Checks these connections. Skips a connector's other connections after a failed check or a provider's outage.
    /// Returns the number of checked connections.
    async fn check_all(
        &self,
        connections: &[(Option<DateTime<Utc>>, ConnectionId, String)],
        pause: Duration,
    ) -> Result<usize> {
        let mut checked = 0;
        let mut failing_connectors = HashSet::new();
        for (_, id, user) in connections {
            let Some(connection) = self.connection_of(user, *id).await? else {
                continue;
            };
            if failing_connectors.contains(&connection.connector.id) {
                continue;
            }
            let health = self.checks.check_connection(&connection).await;
            if matches!(health, Ok((CredentialHealth::ProviderOutage, _)) | Err(_)) {
                failing_connectors.insert(connection.connector.id);
            }
            match recoverable_error(health)? {
                None => checked += 1,
                Some(error) => {
                    tracing::warn!(
                        %id, %error,
                        "the sweep skipped a connection and others of its connector, will retry in the next sweep"
                    );
                }
            }
            self.pause_sweep(pause).await;
        }
        Ok(checked)
    }

    /// Applies a grant of a known attempt that no row has yet, or queues its deletion if the user was erased. Counts it
    /// in `report` if anything changed.
    async fn apply_unknown(
        &self,
        summary: &ConnectionSummary,
        report: &mut SweepReport,
    ) -> Result<()> {
        let Some(attempt) = attempt_tag(summary) else {
            return Ok(());
        };
        if self.reconciler.apply_grant(attempt, summary).await?
            || self.reconciler.delete_erased(attempt, summary).await?
        {
            report.found += 1;
        }
        Ok(())
    }

    /// Returns at most [`MAX_FINDINGS`] rows that have not changed since the sweep started and whose connections the
    /// segment lacks.
    async fn find_missing(
        &self,
        segment: &Segment<'_>,
        started_at: DateTime<Utc>,
    ) -> Result<Vec<SweepRow>> {
        const BATCH: i64 = 1000;
        let mut missing = Vec::new();
        let (range, mut after, now) = (segment.range(), None, self.core.clock.now());
        loop {
            let rows =
                db::list_at_nango_since(&self.core.database, started_at, range, after, BATCH)
                    .await?;
            let Some(last) = rows.last() else {
                return Ok(missing);
            };
            after = Some((last.nango_created_at, last.id));
            missing.extend(rows.into_iter().filter(|row| {
                row.status_reason.as_deref() != Some(Reason::MissingUpstream.as_str())
                    && !segment.has(&row.nango_connection_id)
                    && !was_absent_lately(row, now)
            }));
            if missing.len() >= MAX_FINDINGS {
                missing.truncate(MAX_FINDINGS);
                return Ok(missing);
            }
        }
    }

    /// Looks up the connections that a segment lacks. Returns how many became missing.
    async fn check_missing(
        &self,
        segment: &Segment<'_>,
        started_at: DateTime<Utc>,
        pause: Duration,
    ) -> Result<usize> {
        let mut missing = 0;
        for row in self.find_missing(segment, started_at).await? {
            if let Some(connection) = self.connection_of(&row.user_id, row.id).await? {
                let checked = self.checks.check_absence(&connection, &segment.confirmed);
                missing += usize::from(checked.await?);
            }
            self.pause_sweep(pause).await;
        }
        Ok(missing)
    }

    async fn record_orphans(&self, count: usize) -> Result<()> {
        let has_changed = db::record_orphans(
            &self.core.database,
            i64::try_from(count).unwrap_or(i64::MAX),
        )
        .await?;
        if has_changed && count > 0 {
            tracing::warn!(
                orphans = count,
                "nango has connections of this installation without a row, they are kept: run `patchbay orphans list`"
            );
        }
        Ok(())
    }

    async fn connection_of(&self, user: &str, id: ConnectionId) -> Result<Option<Connection>> {
        // A row with an invalid user id cannot be checked.
        let Ok(user) = UserId::try_from(user.to_owned()) else {
            return Ok(None);
        };
        Ok(db::find_own(&self.core.database, &user, id).await?)
    }
}

/// Returns whether a connection was absent within the last minute. Another absence would not count.
fn was_absent_lately(row: &SweepRow, now: DateTime<Utc>) -> bool {
    let last = row.absences.last();
    last.is_some_and(|last| (TimeDelta::zero()..ABSENCE_INTERVAL).contains(&(now - *last)))
}

/// Returns an error that concerns one connection only; `None` if there is no error.
///
/// # Errors
/// All other errors, which end the run.
pub(super) fn recoverable_error<T>(result: Result<T>) -> Result<Option<Error>> {
    use nango::Error::{RateLimited, Unauthorized};
    match result {
        Ok(_) => Ok(None),
        Err(error) if error.concerns_one_row() => Ok(Some(error)),
        Err(
            error @ (Error::Database(_) | Error::Nango(RateLimited { .. } | Unauthorized { .. })),
        ) => Err(error),
        Err(error) => Ok(Some(error)),
    }
}
