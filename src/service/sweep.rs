//! The sweep: all that Nango holds against all that the table says.
//!
//! Nango lists its connections by creation, newest first. A sweep reads the list in segments, and acts after each: on the rows of
//! that segment's creation times. So its memory is bounded, a segment that was listed only in part changes nothing, and a sweep
//! that was interrupted continues at its segment. What it cannot do it leaves to the next one.

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
use crate::db;
use crate::db::{SweepPass, SweepRow};
use crate::domain::UserId;
use crate::domain::state_machine::ABSENCE_INTERVAL;
use crate::domain::{Connection, ConnectionId, Reason};
use crate::nango;
use crate::nango::{ConnectionSummary, Priority};
use crate::telemetry::TRACES;

/// The sweep's name among the jobs.
pub(crate) const JOB_NAME: &str = "sweep";

/// The name among the jobs of looking for what is new at Nango, which the sweep does.
pub(crate) const NEWEST_JOB_NAME: &str = "sweep newest";

/// The lease of a sweep, in seconds. It is renewed while the sweep lasts, so that another replica soon takes over a
/// killed replica's sweep.
const LEASE_SECONDS: f64 = 30.0;

/// How often the lease is renewed.
const LEASE_RENEWAL_INTERVAL: Duration = Duration::from_secs(10);

/// How often it is looked whether Nango's rate limit leaves room again.
const RATE_LIMIT_RECHECK: Duration = Duration::from_secs(1);

/// How often Nango is swept, and how hard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SweepSchedule {
    /// From the end of a sweep to the next, whichever replica does it.
    pub every: Duration,
    /// The pause after each call to Nango for which no client waits, at 200 calls a minute. It shrinks with a greater limit.
    pub pause: Duration,
}

impl SweepSchedule {
    /// Returns a schedule with a pause of two seconds: a sweep then takes at most a sixth of Nango's rate limit. It takes more
    /// only for grants that no webhook or poll reported, and while it checks whether a provider has an outage.
    #[must_use]
    pub fn every(every: Duration) -> Self {
        Self {
            every,
            pause: Duration::from_secs(2),
        }
    }
}

/// What a sweep saw and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// How many connections Nango holds.
    pub listed: usize,
    /// How many of them were grants that no webhook or poll had reported.
    pub found: usize,
    /// How many were checked, because Nango reports their credentials as failed or they may have recovered.
    pub checked: usize,
    /// How many connections became missing.
    pub missing: usize,
    /// How many connections of this installation at Nango belong to no row: they are kept.
    pub orphans: usize,
    /// How many entries of Nango's list cannot be read: they are skipped.
    pub unreadable: usize,
}

/// Sweeps all that Nango holds.
#[derive(Debug)]
pub struct Sweeper {
    pub(crate) core: Arc<Core>,
    pub(crate) reconciler: Arc<Reconciler>,
    pub(crate) checks: Arc<CredentialChecker>,
    pub(crate) lookups: Arc<AccountLookups>,
}

impl Sweeper {
    /// One sweep, unless another replica is at it, one ended a moment ago, Nango's rate limit leaves no room for it,
    /// or `stop` comes first.
    ///
    /// # Errors
    /// When Nango or the database does not answer: then the next sweep continues at the segment that failed.
    #[tracing::instrument(target = TRACES, skip_all)]
    pub async fn sweep(
        &self,
        pace: SweepSchedule,
        stop: &CancellationToken,
    ) -> Result<Option<SweepReport>> {
        if !self.core.has_room(Priority::Sweep) || self.core.is_database_foreign().await {
            return Ok(None);
        }
        let mut tx = self.core.begin().await?;
        let every = pace.every.as_secs_f64();
        let claimed = db::claim_job(&mut tx, JOB_NAME, LEASE_SECONDS, every).await?;
        tx.commit().await?;
        if !claimed {
            return Ok(None);
        }
        let sweep = async {
            tokio::select! {
                report = Priority::Sweep.scope(Box::pin(self.sweep_all(pace))) => report.map(Some),
                lost = self.renew_lease() => Err(lost),
                // Another replica may take it up at once.
                () = stop.cancelled() => Ok(None),
            }
        };
        let started = Instant::now();
        let report = sweep.await;
        self.core.counts.sweep_finished(&report, started.elapsed());
        let mut tx = self.core.begin_single().await?;
        db::release_job(&mut tx, JOB_NAME, matches!(report, Ok(Some(_)))).await?;
        tx.commit().await?;
        report
    }

    /// Renews the lease for as long as it is polled; ends only if the database does not answer.
    async fn renew_lease(&self) -> Error {
        let renew = async || {
            let mut tx = self.core.begin_single().await?;
            db::renew_job(&mut tx, JOB_NAME, LEASE_SECONDS).await?;
            tx.commit().await.map_err(Error::from)
        };
        loop {
            tokio::time::sleep(LEASE_RENEWAL_INTERVAL).await;
            if let Err(error) = renew().await {
                return error;
            }
        }
    }

    /// A pause between two calls to Nango, which lasts until its rate limit leaves room for another.
    pub(crate) async fn pause_sweep(&self, pause: Duration) {
        let nango = self.core.upstream.as_ref().map(|upstream| &upstream.nango);
        tokio::time::sleep(nango.map_or(pause, |nango| nango.scale_pause(pause))).await;
        while !self.core.has_room(Priority::Sweep) {
            tokio::time::sleep(RATE_LIMIT_RECHECK).await;
        }
    }

    /// Compares all of Nango's list with the table, a segment after the other, from where an interrupted sweep came to. While there
    /// are more segments, what is new at Nango is looked for at every interval.
    async fn sweep_all(&self, pace: SweepSchedule) -> Result<SweepReport> {
        self.lookups.queue_unidentified().await?;
        let mut pass = self.resume_sweep().await?;
        let mut report = SweepReport::default();
        if pass.before.is_some() {
            self.sweep_newest(pace.pause, &mut report).await?;
        }
        let mut newest_at = Instant::now();
        let mut carried = HashSet::new();
        let hasher = RandomState::new();
        loop {
            let mut segment = Segment::new(&pass, &hasher, std::mem::take(&mut carried));
            self.list_segment(&mut segment, pace.pause).await?;
            pass.orphans += i64::try_from(segment.orphans).unwrap_or(i64::MAX);
            self.apply_segment(&segment, pass.started_at, pace.pause, &mut report)
                .await?;
            if pass.before.is_none() {
                self.record_newest().await?;
            }
            if segment.is_last {
                break;
            }
            (pass.page, pass.before) = (segment.page, segment.oldest);
            let mut tx = self.core.begin_single().await?;
            db::record_sweep(&mut tx, &pass).await?;
            tx.commit().await?;
            carried = segment.into_oldest();
            if newest_at.elapsed() >= pace.every {
                self.sweep_newest(pace.pause, &mut report).await?;
                newest_at = Instant::now();
            }
        }
        report.orphans = usize::try_from(pass.orphans).unwrap_or_default();
        self.record_orphans(report.orphans).await?;
        let mut tx = self.core.begin_single().await?;
        db::end_sweep(&mut tx).await?;
        tx.commit().await?;
        Ok(report)
    }

    /// The sweep that was interrupted, or a new one.
    async fn resume_sweep(&self) -> Result<SweepPass> {
        let mut tx = self.core.begin_single().await?;
        let interrupted = db::interrupted_sweep(&mut tx).await?;
        tx.commit().await?;
        Ok(interrupted.unwrap_or_else(|| SweepPass {
            started_at: self.core.clock.now(),
            page: 0,
            before: None,
            orphans: 0,
        }))
    }

    /// Changes what differs from a segment of Nango's list.
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
        self.inspect_all(&segment.unknown, report).await?;
        report.missing += self.check_missing(segment, started_at, pause).await?;
        report.checked += self.check_all(&segment.to_check, pause).await?;
        Ok(())
    }

    async fn inspect_all(
        &self,
        unknown: &[(bool, ConnectionSummary)],
        report: &mut SweepReport,
    ) -> Result<()> {
        for (_, summary) in unknown {
            let looked = self.inspect(summary, report).await;
            if let Some(error) = recoverable_error(looked)? {
                let id = &summary.connection_id;
                tracing::warn!(nango_connection = id, %error, "the sweep leaves a connection for the next one");
            }
            // Its user waits.
            self.pause_sweep(Duration::ZERO).await;
        }
        Ok(())
    }

    /// Looks for grants that no webhook reported, on the newest pages of Nango's list, until a page has none.
    async fn sweep_newest(&self, pause: Duration, report: &mut SweepReport) -> Result<()> {
        let hasher = RandomState::new();
        for page in 0..SEGMENT_PAGES {
            let found = self.nango_page(page).await?;
            let mut segment = Segment::of_page(&hasher, page);
            let connections: Vec<&ConnectionSummary> = found.connections.iter().collect();
            self.compare(&mut segment, &connections).await?;
            let before = report.found;
            self.inspect_all(&segment.unknown, report).await?;
            if report.found == before {
                break;
            }
            self.pause_sweep(pause).await;
        }
        self.record_newest().await
    }

    async fn record_newest(&self) -> Result<()> {
        let mut tx = self.core.begin_single().await?;
        db::record_job(&mut tx, NEWEST_JOB_NAME).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Checks these, but of a connector that turns out to be out of order no more than one. Says how many.
    async fn check_all(
        &self,
        connections: &[(Option<DateTime<Utc>>, ConnectionId, String)],
        pause: Duration,
    ) -> Result<usize> {
        let mut checked = 0;
        let mut out_of_order = HashSet::new();
        for (_, id, user) in connections {
            let Some(connection) = self.connection_of(user, *id).await? else {
                continue;
            };
            if out_of_order.contains(&connection.connector.id) {
                continue;
            }
            let health = self.checks.check_connection(&connection).await;
            if matches!(health, Ok((CredentialHealth::ProviderOutage, _)) | Err(_)) {
                out_of_order.insert(connection.connector.id);
            }
            match recoverable_error(health)? {
                None => checked += 1,
                Some(error) => {
                    tracing::warn!(%id, %error, "the sweep leaves a connection and others of its connector for the next one");
                }
            }
            self.pause_sweep(pause).await;
        }
        Ok(checked)
    }

    /// A connection of a known attempt that no row holds, or not for this grant: no webhook reported it, or its user was
    /// erased.
    async fn inspect(&self, summary: &ConnectionSummary, report: &mut SweepReport) -> Result<()> {
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

    /// The rows whose connections a segment should have and does not, and which did not change since the sweep began.
    async fn find_missing(
        &self,
        segment: &Segment<'_>,
        started_at: DateTime<Utc>,
    ) -> Result<Vec<SweepRow>> {
        const BATCH: i64 = 1000;
        let mut missing = Vec::new();
        let (range, mut after, now) = (segment.range(), None, self.core.clock.now());
        loop {
            let mut tx = self.core.begin_single().await?;
            let rows = db::list_at_nango_since(&mut tx, started_at, range, after, BATCH).await?;
            tx.commit().await?;
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

    /// Looks up the connections that a segment should have and does not. Returns how many became missing.
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
        let mut tx = self.core.begin_single().await?;
        let has_changed =
            db::record_orphans(&mut tx, i64::try_from(count).unwrap_or(i64::MAX)).await?;
        tx.commit().await?;
        if has_changed && count > 0 {
            tracing::warn!(
                orphans = count,
                "nango has connections of this installation that belong to no row: they are kept. \
                 Run `patchbay orphans list`"
            );
        }
        Ok(())
    }

    async fn connection_of(&self, user: &str, id: ConnectionId) -> Result<Option<Connection>> {
        // A row whose user cannot be read cannot be checked.
        let Ok(user) = UserId::try_from(user.to_owned()) else {
            return Ok(None);
        };
        let mut tx = self.core.begin_single().await?;
        let connection = db::find_own(&mut tx, &user, id).await?;
        tx.commit().await?;
        Ok(connection)
    }
}

/// Whether a connection was absent within the last minute: the next absence would not count.
fn was_absent_lately(row: &SweepRow, now: DateTime<Utc>) -> bool {
    let last = row.absences.last();
    last.is_some_and(|last| (TimeDelta::zero()..ABSENCE_INTERVAL).contains(&(now - *last)))
}

/// An error that is about one connection, which is no reason to leave the others. Fails with any other.
pub(super) fn recoverable_error<T>(result: Result<T>) -> Result<Option<Error>> {
    use nango::Error::{RateLimited, Unauthorized};
    match result {
        Ok(_) => Ok(None),
        Err(error) if error.is_unreadable_row() => Ok(Some(error)),
        Err(
            error @ (Error::Database(_) | Error::Nango(RateLimited { .. } | Unauthorized { .. })),
        ) => Err(error),
        Err(error) => Ok(Some(error)),
    }
}
