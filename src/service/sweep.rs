//! The sweep: all that Nango holds against all that the table says.
//!
//! It takes nothing with it from one pass to the next, may run at any time, and
//! leaves what it cannot do to its next pass. It acts only on a listing that
//! came to its end.

use crate::nango::attempt_poller::ATTEMPT_TAG;
use crate::nango::attempt_poller::INSTALLATION_TAG;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::credential_check::{CredentialHealth, MIN_CHECK_INTERVAL};
use super::{Connections, Error, Result};
use crate::db;
use crate::db::SweepRow;
use crate::domain::UserId;
use crate::domain::state_machine::is_retry_due;
use crate::domain::{Brake, Connection, Reason, Status};
use crate::nango;
use crate::nango::{ConnectionPage, ConnectionSummary, ListConnections, Priority};

/// How many connections a page of Nango's list has.
const PAGE_SIZE: u32 = 1000;

/// The sweep's name among the jobs.
pub(crate) const JOB_NAME: &str = "sweep";

/// How long a sweep is nobody else's, in seconds. It is renewed while the sweep lasts, so
/// that a killed replica's sweep is soon taken up by another.
const LEASE_SECONDS: f64 = 30.0;

/// How often the lease is renewed.
const LEASE_RENEWAL_INTERVAL: Duration = Duration::from_secs(10);

/// How often it is looked whether Nango's rate limit leaves room again.
const RATE_LIMIT_RECHECK: Duration = Duration::from_secs(1);

/// How many connections are remembered to recognize the Nango environment by.
const MAX_CONFIRMED: usize = 5;

/// How many things of a kind that are out of the ordinary one sweep looks into.
const MAX_FINDINGS: usize = 200;

/// How often Nango is swept, and how hard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SweepSchedule {
    /// From the end of a sweep to the next, whichever replica does it.
    pub every: Duration,
    /// After each call to Nango that nobody waits for.
    pub pause: Duration,
}

impl SweepSchedule {
    /// With a pause of two seconds: a sweep then takes a sixth of Nango's rate limit, and more only
    /// for grants that nobody had told of and while it finds out whether a provider is out of order.
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
    /// How many of them were found to be grants that nobody had told of.
    pub found: usize,
    /// How many were checked, because Nango reports their credentials as failed or they may have recovered.
    pub checked: usize,
    /// How many rows' connections Nango no longer holds.
    pub missing: usize,
    /// How many connections of this installation at Nango belong to no row: they are kept.
    pub orphans: usize,
    /// How many entries of Nango's list cannot be read: they are skipped.
    pub unreadable: usize,
}

/// What a listing has shown.
#[derive(Default)]
struct Listing {
    hasher: RandomState,
    /// Hashes of the ids: enough to tell what is not there, and small.
    ids: HashSet<u64>,
    /// With when they were checked before.
    to_check: Vec<(Option<DateTime<Utc>>, Uuid, String)>,
    /// With whether they wait to be deleted.
    unknown: Vec<(bool, ConnectionSummary)>,
    /// Some connections that rows use: they identify the Nango environment.
    confirmed: Vec<String>,
    orphans: usize,
    /// How many entries were skipped because they cannot be read, and the id of one of them.
    unreadable: usize,
    unreadable_id: Option<String>,
}

impl Listing {
    /// Notes which connections a page has. Returns whether one of them is new.
    fn note(&mut self, page: &ConnectionPage) -> bool {
        self.unreadable += page.unreadable.len();
        let known = self.ids.len();
        let readable = page.connections.iter().map(|it| &it.connection_id);
        for id in readable.chain(page.unreadable.iter().flatten()) {
            self.ids.insert(self.hasher.hash_one(id));
        }
        if let Some(id) = page.unreadable.iter().flatten().next() {
            self.unreadable_id.get_or_insert_with(|| id.clone());
        }
        self.ids.len() > known
    }
}

impl Connections {
    /// One sweep, unless another replica is at it, one ended a moment ago, Nango's rate limit leaves no room for it,
    /// or `stop` comes first.
    ///
    /// # Errors
    /// When Nango or the database does not answer: then the next sweep does it all again.
    pub async fn sweep(
        &self,
        pace: SweepSchedule,
        stop: &CancellationToken,
    ) -> Result<Option<SweepReport>> {
        if !self.has_room(Priority::Sweep) || self.is_database_foreign().await {
            return Ok(None);
        }
        let mut tx = self.begin().await?;
        let every = pace.every.as_secs_f64();
        let claimed = db::claim_job(&mut tx, JOB_NAME, LEASE_SECONDS, every).await?;
        tx.commit().await?;
        if !claimed {
            return Ok(None);
        }
        let sweep = async {
            tokio::select! {
                report = Priority::Sweep.scope(self.sweep_all(pace.pause)) => report.map(Some),
                lost = self.renew_lease() => Err(lost),
                // Another replica may take it up at once.
                () = stop.cancelled() => Ok(None),
            }
        };
        let started = Instant::now();
        let report = sweep.await;
        self.counts.sweep_finished(&report, started.elapsed());
        let mut tx = self.begin_single().await?;
        db::release_job(&mut tx, JOB_NAME, matches!(report, Ok(Some(_)))).await?;
        tx.commit().await?;
        report
    }

    /// Renews the lease for as long as it is polled; ends only if the database does not answer.
    async fn renew_lease(&self) -> Error {
        let renew = async || {
            let mut tx = self.begin_single().await?;
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
    async fn pause_sweep(&self, pause: Duration) {
        tokio::time::sleep(pause).await;
        while !self.has_room(Priority::Sweep) {
            tokio::time::sleep(RATE_LIMIT_RECHECK).await;
        }
    }

    async fn sweep_all(&self, pause: Duration) -> Result<SweepReport> {
        let started_at = self.clock.now();
        let listing = self.list_nango(pause).await?;
        let mut report = SweepReport {
            listed: listing.ids.len(),
            unreadable: listing.unreadable,
            orphans: listing.orphans,
            ..SweepReport::default()
        };
        if listing.confirmed.is_empty() {
            self.brakes.verify_environment(&[], None).await?;
        } else {
            self.brakes.recognize_environment(true);
        }
        self.record_orphans(listing.orphans).await?;
        for (_, summary) in &listing.unknown {
            let looked = self.inspect(summary, &mut report).await;
            if let Some(error) = recoverable_error(looked)? {
                let id = &summary.connection_id;
                tracing::warn!(nango_connection = id, %error, "the sweep leaves a connection for the next one");
            }
            // Its user waits.
            self.pause_sweep(Duration::ZERO).await;
        }
        report.missing = self.mark_missing(&listing, started_at, pause).await?;
        report.checked = self.check_all(&listing.to_check, pause).await?;
        Ok(report)
    }

    /// Checks these, but of a connector that turns out to be out of order no more than one. Says how many.
    async fn check_all(
        &self,
        connections: &[(Option<DateTime<Utc>>, Uuid, String)],
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
            let health = self.check_connection(&connection).await;
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

    /// Reads all that Nango holds, page by page, and notes what differs from the table.
    async fn list_nango(&self, pause: Duration) -> Result<Listing> {
        let upstream = self.nango_gateway()?;
        let mut listing = Listing::default();
        for page in 0.. {
            let filter = ListConnections {
                limit: Some(PAGE_SIZE),
                page: Some(page),
                ..ListConnections::default()
            };
            let found = upstream.nango.connection_page(&filter).await?;
            // A page may be shorter than asked for: only an empty one is the end.
            if found.is_empty() {
                break;
            }
            if !listing.note(&found) {
                return Err(nango::Error::repeated_page(page).into());
            }
            self.compare(&mut listing, &found.connections).await?;
            let is_short = found.connections.len() < PAGE_SIZE as usize;
            self.pause_sweep(if is_short { Duration::ZERO } else { pause })
                .await;
        }
        if listing.unreadable > 0 {
            tracing::warn!(
                entries = listing.unreadable,
                nango_connection = listing.unreadable_id,
                "the sweep skipped entries of nango's connection list that cannot be read"
            );
        }
        Ok(listing)
    }

    async fn compare(&self, listing: &mut Listing, found: &[ConnectionSummary]) -> Result<()> {
        let ids: Vec<&str> = found
            .iter()
            .map(|summary| summary.connection_id.as_str())
            .collect();
        let attempts: Vec<Uuid> = found.iter().filter_map(attempt_tag).collect();
        let mut tx = self.begin().await?;
        let rows = db::find_by_nango_ids(&mut tx, &ids).await?;
        let untold: HashSet<Uuid> = db::unapplied_attempts(&mut tx, &attempts).await?;
        let known = db::known_attempts(&mut tx, &attempts).await?;
        let to_be_deleted = db::find_queued_deletions(&mut tx, &ids).await?;
        tx.commit().await?;
        let rows: HashMap<&str, &SweepRow> = rows
            .iter()
            .map(|row| (row.nango_connection_id.as_str(), row))
            .collect();
        let now = self.clock.now();
        let recently = now - MIN_CHECK_INTERVAL;
        for summary in found {
            let attempt = attempt_tag(summary);
            // Another installation's are none of our business, however many there are.
            let ours = self.is_ours(summary);
            let to_be_deleted = to_be_deleted.contains(&summary.connection_id);
            if ours && attempt.is_some_and(|attempt| untold.contains(&attempt)) {
                listing.unknown.push((to_be_deleted, summary.clone()));
                continue;
            }
            let row = rows.get(summary.connection_id.as_str());
            if row.is_some() && listing.confirmed.len() < MAX_CONFIRMED {
                listing.confirmed.push(summary.connection_id.clone());
            }
            match row {
                Some(row)
                    if needs_check(row, summary, now)
                        && row.last_checked_at.is_none_or(|at| at < recently) =>
                {
                    listing
                        .to_check
                        .push((row.last_checked_at, row.id, row.user_id.clone()));
                }
                Some(_) => {}
                None if ours && attempt.is_some_and(|attempt| known.contains_key(&attempt)) => {
                    listing.unknown.push((to_be_deleted, summary.clone()));
                }
                None if ours && !to_be_deleted => listing.orphans += 1,
                None => {}
            }
        }
        // Those that no sweep came to for the longest time are first, whatever kept it from them.
        listing.to_check.sort_unstable();
        listing.to_check.truncate(MAX_FINDINGS);
        // What waits to be deleted is mostly known for long, and may be granted anew only in between.
        (listing.unknown).sort_by_key(|(to_be_deleted, _)| *to_be_deleted);
        listing.unknown.truncate(MAX_FINDINGS);
        Ok(())
    }

    /// A connection of a known attempt that no row holds, or not for this grant: no webhook reported it, or its user was
    /// erased.
    async fn inspect(&self, summary: &ConnectionSummary, report: &mut SweepReport) -> Result<()> {
        let Some(attempt) = attempt_tag(summary) else {
            return Ok(());
        };
        if self.apply_grant(attempt, summary).await? || self.delete_erased(attempt, summary).await?
        {
            report.found += 1;
        }
        Ok(())
    }

    /// Whether a connection at Nango is this installation's.
    pub(crate) fn is_ours(&self, summary: &ConnectionSummary) -> bool {
        let tag = summary.tags.get(INSTALLATION_TAG);
        tag.and_then(|id| id.parse().ok()) == Some(self.installation)
    }

    /// The rows whose connections the listing does not have, and which did not change since it began.
    async fn find_missing(
        &self,
        listing: &Listing,
        started_at: DateTime<Utc>,
    ) -> Result<Vec<SweepRow>> {
        const BATCH: i64 = 1000;
        let mut missing = Vec::new();
        let mut after = (String::new(), Uuid::nil());
        loop {
            let mut tx = self.begin_single().await?;
            let rows =
                db::list_at_nango_since(&mut tx, started_at, (&after.0, after.1), BATCH).await?;
            tx.commit().await?;
            let Some(last) = rows.last() else {
                return Ok(missing);
            };
            after = (last.user_id.clone(), last.id);
            missing.extend(rows.into_iter().filter(|row| {
                row.status_reason.as_deref() != Some(Reason::MissingUpstream.as_str())
                    && !listing
                        .ids
                        .contains(&listing.hasher.hash_one(&row.nango_connection_id))
            }));
            if missing.len() >= MAX_FINDINGS {
                missing.truncate(MAX_FINDINGS);
                return Ok(missing);
            }
        }
    }

    /// Marks the rows whose connections Nango does not have any more: none in an unknown environment, and none if they
    /// are too many. Returns how many.
    async fn mark_missing(
        &self,
        listing: &Listing,
        started_at: DateTime<Utc>,
        pause: Duration,
    ) -> Result<usize> {
        let mut gone = Vec::new();
        for row in self.find_missing(listing, started_at).await? {
            if self
                .is_gone(&row.nango_connection_id, &row.integration_key)
                .await?
                && let Some(connection) = self.connection_of(&row.user_id, row.id).await?
            {
                gone.push(connection);
            }
            self.pause_sweep(pause).await;
        }
        let mut marked = 0;
        if gone.is_empty() || !self.may_mark_missing(listing, gone.len()).await? {
            return Ok(marked);
        }
        for connection in &gone {
            if !self.is_missing(connection, &listing.confirmed).await? {
                continue;
            }
            let now = self.clock.now();
            let changed = self.apply_if_unchanged(connection, None, |connection| {
                let upstream = connection.state.upstream()?;
                connection.missing(&upstream.id, now)
            });
            let changed = changed.await?;
            let reason = changed.and_then(|connection| connection.state.reason());
            marked += usize::from(reason == Some(Reason::MissingUpstream));
            self.pause_sweep(pause).await;
        }
        Ok(marked)
    }

    /// Whether so many connections may be missing: Nango has others, and the brake has room for all.
    async fn may_mark_missing(&self, listing: &Listing, count: usize) -> Result<bool> {
        self.brakes
            .verify_environment(&listing.confirmed, None)
            .await?;
        let mut tx = self.begin().await?;
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let has_room = db::has_room(&mut tx, Brake::Missing, count).await?;
        tx.commit().await?;
        Ok(has_room)
    }

    async fn record_orphans(&self, count: usize) -> Result<()> {
        let mut tx = self.begin_single().await?;
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

    async fn connection_of(&self, user: &str, id: Uuid) -> Result<Option<Connection>> {
        // A row whose user cannot be read cannot be checked.
        let Ok(user) = UserId::try_from(user.to_owned()) else {
            return Ok(None);
        };
        let mut tx = self.begin_single().await?;
        let connection = db::find_own(&mut tx, &user, id).await?;
        tx.commit().await?;
        Ok(connection)
    }
}

/// An error that is about one connection, which is no reason to leave the others. Fails with any other.
fn recoverable_error<T>(result: Result<T>) -> Result<Option<Error>> {
    use nango::Error::{RateLimited, Unauthorized};
    match result {
        Ok(_) => Ok(None),
        // A row that cannot be read.
        Err(Error::Database(error))
            if matches!(
                *error,
                sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. }
            ) =>
        {
            Ok(Some(Error::Database(error)))
        }
        Err(
            error @ (Error::Database(_) | Error::Nango(RateLimited { .. } | Unauthorized { .. })),
        ) => Err(error),
        Err(error) => Ok(Some(error)),
    }
}

/// The attempt that brought a connection about, or authorized it anew.
fn attempt_tag(summary: &ConnectionSummary) -> Option<Uuid> {
    summary.tags.get(ATTEMPT_TAG)?.parse().ok()
}

/// Whether what Nango says of a connection's credentials is not what the row says.
fn needs_check(row: &SweepRow, summary: &ConnectionSummary, now: DateTime<Utc>) -> bool {
    let failed = summary.errors.iter().any(|error| error.kind == "auth");
    let reason = row.status_reason.as_deref();
    if row.status == Status::Connected.as_str() {
        return failed || row.failing_since.is_some();
    }
    let is = |other: Reason| reason == Some(other.as_str());
    let error = row.status == Status::Error.as_str();
    // Nango reports credentials as failed until it has refreshed them: what is dead is tried with growing pauses.
    let is_due = is(Reason::NeedsReauthorization) && is_retry_due(&row.refusals, now);
    error && (is(Reason::MissingUpstream) || is_due || (!failed && !is(Reason::AccountMismatch)))
}
