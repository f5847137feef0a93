//! Segments of Nango's list, which the sweep reads and compares with the table page by page.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::Result;
use super::credential_check::MIN_CHECK_INTERVAL;
use super::sweep::Sweeper;
use crate::db::{self, Creation, CreationRange, SweepPass, SweepRow, Transaction};
use crate::domain::state_machine::is_retry_due;
use crate::domain::{AttemptId, ConnectionId, Reason, Status};
use crate::nango::attempt_poller::ATTEMPT_TAG;
use crate::nango::{self, ConnectionPage, ConnectionSummary, ListConnections};

/// The number of connections on a page of Nango's list.
const PAGE_SIZE: u32 = 1000;

/// The number of pages of a segment: 50,000 connections.
pub(crate) const SEGMENT_PAGES: i32 = 50;

/// The maximum number of a segment's connections that are kept to recognize the Nango environment.
const MAX_CONFIRMED: usize = 5;

/// The maximum number of findings of each kind in a segment.
pub(crate) const MAX_FINDINGS: usize = 200;

/// A segment of Nango's list: [`SEGMENT_PAGES`] pages. It is shorter at the end of the list, and longer if all its
/// connections have the creation time at which it starts.
pub(crate) struct Segment<'a> {
    hasher: &'a RandomState,
    /// The hashes of the connections' ids. They suffice to find missing connections and take less memory than the ids.
    ids: HashSet<u64>,
    /// The hashes of the connections with the oldest creation time, which the next segment may share.
    oldest_ids: HashSet<u64>,
    /// The creation time of the last connection before the segment; `None` for the first segment.
    before: Option<DateTime<Utc>>,
    /// The oldest creation time in the segment.
    pub(crate) oldest: Option<DateTime<Utc>>,
    /// The page that is read next.
    pub(crate) page: i32,
    /// `true` if Nango's list ends with the segment.
    pub(crate) is_last: bool,
    /// The number of connections in the segment.
    pub(crate) listed: usize,
    /// The connections to check: the time of the last check, the id and the user.
    pub(crate) to_check: Vec<(Option<DateTime<Utc>>, ConnectionId, String)>,
    /// The connections of known attempts that have no row or an unapplied grant. `true` for those in the deletion
    /// queue.
    pub(crate) unknown: Vec<(bool, ConnectionSummary)>,
    /// Nango's ids of some connections that rows use. They identify the Nango environment.
    pub(crate) confirmed: Vec<String>,
    /// The creations that differ from their rows. They are written when the environment is recognized.
    pub(crate) corrections: Vec<Creation>,
    /// The number of orphans.
    pub(crate) orphans: usize,
    /// The number of entries that were skipped because they cannot be read, and the id of one of them.
    pub(crate) unreadable: usize,
    unreadable_id: Option<String>,
}

impl<'a> Segment<'a> {
    /// Returns an empty segment that starts where the sweep is. `carried` are the hashes of connections at the
    /// boundary, which the previous segment has read.
    pub(crate) fn new(pass: &SweepPass, hasher: &'a RandomState, carried: HashSet<u64>) -> Self {
        Self {
            ids: carried,
            before: pass.before,
            ..Self::of_page(hasher, pass.page)
        }
    }

    /// Returns an empty segment that starts with this page.
    pub(crate) fn of_page(hasher: &'a RandomState, page: i32) -> Self {
        Self {
            hasher,
            ids: HashSet::new(),
            oldest_ids: HashSet::new(),
            before: None,
            oldest: None,
            page,
            is_last: false,
            listed: 0,
            to_check: Vec::new(),
            unknown: Vec::new(),
            confirmed: Vec::new(),
            corrections: Vec::new(),
            orphans: 0,
            unreadable: 0,
            unreadable_id: None,
        }
    }

    /// Returns whether the segment has a connection with this id.
    pub(crate) fn has(&self, id: &str) -> bool {
        self.ids.contains(&self.hasher.hash_one(id))
    }

    /// Returns whether there are creation times for which the segment has all connections.
    fn has_range(&self) -> bool {
        (self.oldest).is_some_and(|oldest| self.before.is_none_or(|before| oldest < before))
    }

    /// Returns the creation times for which the segment has all connections.
    pub(crate) fn range(&self) -> CreationRange {
        CreationRange {
            after: self.oldest.filter(|_| !self.is_last),
            until: self.before,
        }
    }

    /// Returns the hashes of the connections with the oldest creation time.
    pub(crate) fn into_oldest(self) -> HashSet<u64> {
        self.oldest_ids
    }

    /// Adds a page to the segment. Returns the connections that neither this segment nor the previous one has; `None`
    /// if the page has no new entry.
    fn add_page<'p>(&mut self, page: &'p ConnectionPage) -> Option<Vec<&'p ConnectionSummary>> {
        self.unreadable += page.unreadable.len();
        let before_page = self.ids.len();
        for id in page.unreadable.iter().flatten() {
            self.ids.insert(self.hasher.hash_one(id.as_str()));
        }
        self.listed += self.ids.len() - before_page;
        let mut new = Vec::with_capacity(page.connections.len());
        for connection in &page.connections {
            let created_at = connection.created_at;
            let hash = self.hasher.hash_one(connection.connection_id.as_str());
            if self.ids.insert(hash) && self.before.is_none_or(|before| created_at <= before) {
                new.push(connection);
            }
            if self.oldest.is_none_or(|oldest| created_at < oldest) {
                self.oldest = Some(created_at);
                self.oldest_ids.clear();
            }
            if self.oldest == Some(created_at) {
                self.oldest_ids.insert(hash);
            }
        }
        self.listed += new.len();
        if let Some(id) = page.unreadable.iter().flatten().next() {
            self.unreadable_id.get_or_insert_with(|| id.clone());
        }
        (self.ids.len() > before_page).then_some(new)
    }
}

impl Sweeper {
    /// Returns a page of Nango's list, with unreadable entries.
    pub(crate) async fn nango_page(&self, page: i32) -> Result<ConnectionPage> {
        let filter = ListConnections {
            limit: Some(PAGE_SIZE),
            page: Some(page.unsigned_abs()),
            ..ListConnections::default()
        };
        Ok(self.core.nango()?.connection_page(&filter).await?)
    }

    /// Returns the first page of a segment. It overlaps with the previous segment: connections that were deleted
    /// meanwhile have moved the others to earlier pages.
    async fn first_page(
        &self,
        segment: &mut Segment<'_>,
        pause: Duration,
    ) -> Result<ConnectionPage> {
        let mut step = 1;
        loop {
            let found = self.nango_page(segment.page).await?;
            let newest = found.connections.first().map(|it| it.created_at);
            let continues = match (segment.before, newest) {
                (Some(before), Some(newest)) => newest >= before,
                (Some(_), None) => !found.unreadable.is_empty(),
                (None, _) => true,
            };
            if continues || segment.page == 0 {
                return Ok(found);
            }
            // The step doubles, because the list may have lost most of its pages.
            segment.page = segment.page.saturating_sub(step).max(0);
            step = step.saturating_mul(2);
            self.pause_sweep(pause).await;
        }
    }

    /// Reads a segment of Nango's list, page by page, and records its differences from the table.
    pub(crate) async fn list_segment(
        &self,
        segment: &mut Segment<'_>,
        pause: Duration,
    ) -> Result<()> {
        let mut found = self.first_page(segment, pause).await?;
        for read in 1.. {
            // A page may be shorter than the limit. Only an empty page is the end.
            if found.is_empty() {
                segment.is_last = true;
                break;
            }
            match segment.add_page(&found) {
                Some(new) => self.compare(segment, &new).await?,
                // The previous segment may have read all of the first page.
                None if read == 1 && segment.before.is_some() => {}
                None => {
                    let page = segment.page.unsigned_abs();
                    return Err(nango::Error::repeated_page(page).into());
                }
            }
            segment.page += 1;
            if read >= SEGMENT_PAGES && segment.has_range() {
                break;
            }
            let is_short = found.connections.len() < PAGE_SIZE as usize;
            self.pause_sweep(if is_short { Duration::ZERO } else { pause })
                .await;
            found = self.nango_page(segment.page).await?;
        }
        if segment.unreadable > 0 {
            tracing::warn!(
                entries = segment.unreadable,
                nango_connection = segment.unreadable_id,
                "the sweep skipped entries of nango's connection list that cannot be read"
            );
        }
        Ok(())
    }

    /// Records the differences of these connections from the table in the segment.
    pub(crate) async fn compare(
        &self,
        segment: &mut Segment<'_>,
        found: &[&ConnectionSummary],
    ) -> Result<()> {
        let ids: Vec<&str> = found
            .iter()
            .map(|summary| summary.connection_id.as_str())
            .collect();
        let attempts: Vec<AttemptId> = found.iter().filter_map(|it| attempt_tag(it)).collect();
        let mut tx = self.core.begin().await?;
        let rows = db::find_by_nango_ids(&mut tx, &ids).await?;
        let unapplied: HashSet<AttemptId> = db::unapplied_attempts(&mut tx, &attempts).await?;
        let known_attempts = db::known_attempts(&mut tx, &attempts).await?;
        let to_be_deleted = db::find_queued_deletions(&mut tx, &ids).await?;
        end_absences(&mut tx, &rows).await?;
        tx.commit().await?;
        segment.corrections.extend(corrections(&rows, found));
        let rows: HashMap<&str, &SweepRow> = rows
            .iter()
            .map(|row| (row.nango_connection_id.as_str(), row))
            .collect();
        let now = self.core.clock.now();
        let recently = now - MIN_CHECK_INTERVAL;
        for &summary in found {
            let attempt = attempt_tag(summary);
            // Connections of other installations are ignored.
            let ours = self.core.is_ours(summary);
            let to_be_deleted = to_be_deleted.contains(&summary.connection_id);
            if ours && attempt.is_some_and(|attempt| unapplied.contains(&attempt)) {
                segment.unknown.push((to_be_deleted, summary.clone()));
                continue;
            }
            let row = rows.get(summary.connection_id.as_str());
            // Another environment may have the id of an imported connection.
            if row.is_some_and(|row| ours || row.is(summary))
                && segment.confirmed.len() < MAX_CONFIRMED
            {
                segment.confirmed.push(summary.connection_id.clone());
            }
            match row {
                Some(row)
                    if needs_check(row, summary, now)
                        && row.last_checked_at.is_none_or(|at| at < recently) =>
                {
                    segment
                        .to_check
                        .push((row.last_checked_at, row.id, row.user_id.clone()));
                }
                Some(_) => {}
                None if ours && attempt.is_some_and(|it| known_attempts.contains_key(&it)) => {
                    segment.unknown.push((to_be_deleted, summary.clone()));
                }
                None if ours && !to_be_deleted => segment.orphans += 1,
                None => {}
            }
        }
        // Connections that were not checked for the longest time come first.
        segment.to_check.sort_unstable();
        segment.to_check.truncate(MAX_FINDINGS);
        // Connections in the deletion queue come last: most are already known, and few are reauthorized.
        (segment.unknown).sort_by_key(|(to_be_deleted, _)| *to_be_deleted);
        segment.unknown.truncate(MAX_FINDINGS);
        Ok(())
    }
}

/// Returns the id of the attempt that created or reauthorized a connection; `None` without a valid tag.
pub(crate) fn attempt_tag(summary: &ConnectionSummary) -> Option<AttemptId> {
    summary.tags.get(ATTEMPT_TAG)?.parse().ok()
}

/// Records that Nango has the connections of these rows, for those that were absent before.
async fn end_absences(tx: &mut Transaction, rows: &[SweepRow]) -> Result<()> {
    let returned: Vec<&str> = rows
        .iter()
        .filter(|row| !row.absences.is_empty())
        .map(|row| row.nango_connection_id.as_str())
        .collect();
    if !returned.is_empty() {
        db::end_absences(tx, &returned).await?;
    }
    Ok(())
}

/// Returns the creations in Nango's list that differ from the rows of these connections.
fn corrections(rows: &[SweepRow], found: &[&ConnectionSummary]) -> Vec<Creation> {
    let listed: HashMap<(&str, &str), &ConnectionSummary> = found
        .iter()
        .map(|it| ((&*it.connection_id, &*it.provider_config_key), *it))
        .collect();
    let correction = |row: &SweepRow| {
        let summary = listed.get(&(&*row.nango_connection_id, &*row.integration_key))?;
        let is_correct = row.nango_created_at == summary.created_at
            && (row.nango_serial.is_some() || summary.serial.is_none());
        (!is_correct).then(|| Creation {
            user_id: row.user_id.clone(),
            id: row.id,
            nango_connection_id: row.nango_connection_id.clone(),
            created_at: summary.created_at,
            serial: summary.serial,
        })
    };
    rows.iter().filter_map(correction).collect()
}

/// Returns whether a row's status contradicts Nango's list, or a retry of failed credentials is due.
fn needs_check(row: &SweepRow, summary: &ConnectionSummary, now: DateTime<Utc>) -> bool {
    let failed = summary.errors.iter().any(|error| error.kind == "auth");
    let reason = row.status_reason.as_deref();
    if row.status == Status::Connected.as_str() {
        return failed || row.failing_since.is_some();
    }
    let is = |other: Reason| reason == Some(other.as_str());
    let error = row.status == Status::Error.as_str();
    // Nango reports credentials as failed until a refresh succeeds. Refused credentials are retried with backoff.
    let is_due = is(Reason::NeedsReauthorization) && is_retry_due(&row.refusals, now);
    error && (is(Reason::MissingUpstream) || is_due || (!failed && !is(Reason::AccountMismatch)))
}
