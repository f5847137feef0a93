//! Expiry of open attempts that are past their time and have no grant at Nango.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};

use super::core::Core;
use super::reconcile::Reconciler;
use super::{Error, Result};
use crate::db::{self, DueAttempt};
use crate::domain::{AttemptId, AttemptKind, Failure};
use crate::nango::attempt_poller::ATTEMPT_TAG;
use crate::nango::{self, ConnectionSummary, ListConnections, Priority};
use crate::telemetry::TRACES;

/// The name of the job.
const EXPIRY_JOB: &str = "expiry";

/// The lease of a run, in seconds. After it, two replicas may run the job concurrently. They then query Nango twice.
const LEASE_SECONDS: f64 = 60.0;

/// The maximum number of due attempts in a batch.
const MAX_BATCH: usize = 500;

/// Up to this number of connects are looked up one by one. More connects share a list of Nango's newest connections.
const MAX_SINGLE_LOOKUPS: usize = 3;

/// The number of connections on a page of Nango's list.
const PAGE_SIZE: u32 = 1000;

/// The maximum number of pages that are read.
const MAX_PAGES: u32 = 10;

/// How far Nango's clock may be behind the database's.
const CLOCK_MARGIN: TimeDelta = TimeDelta::minutes(5);

/// Expires attempts that are past their time.
#[derive(Debug)]
pub struct AttemptExpiry {
    core: Arc<Core>,
    reconciler: Arc<Reconciler>,
}

impl AttemptExpiry {
    pub(crate) fn new(core: Arc<Core>, reconciler: Arc<Reconciler>) -> Self {
        Self { core, reconciler }
    }

    /// Expires a batch of attempts that are past their time, unless another replica runs the job. Looks each of them up
    /// at Nango before. Returns the number of expired attempts. After a full batch, more attempts may be due.
    ///
    /// # Errors
    /// As the database. If a look-up at Nango fails, its attempts stay open until the next run.
    #[tracing::instrument(target = TRACES, name = "expire_attempts", skip_all)]
    pub async fn run(&self) -> Result<usize> {
        if self.due_attempts().await?.0.is_empty() {
            return Ok(0);
        }
        let claimed = db::claim_job(&self.core.database, EXPIRY_JOB, LEASE_SECONDS, 0.0).await?;
        if !claimed {
            return Ok(0);
        }
        let expired = Priority::Deletion.scope(self.expire_due()).await;
        db::release_job(&self.core.database, EXPIRY_JOB, expired.is_ok()).await?;
        expired
    }

    /// Returns whether a run that expired this many attempts should be followed by another immediately.
    pub fn is_full(expired: usize) -> bool {
        expired >= MAX_BATCH / 2
    }

    async fn expire_due(&self) -> Result<usize> {
        let open = self.settle_ended().await?;
        let (connects, reconnects): (Vec<_>, Vec<_>) =
            (open.into_iter()).partition(|due| due.kind == AttemptKind::Connect);
        let mut expired = 0;
        let listed =
            if connects.len() > MAX_SINGLE_LOOKUPS && self.core.has_room(Priority::Deletion) {
                self.list_granted(&connects).await
            } else {
                Ok(None)
            };
        match listed {
            Ok(Some(mut granted)) => {
                for due in &connects {
                    let found = granted.remove(&due.attempt_id).unwrap_or_default();
                    expired += usize::from(self.expire_unless_granted(due, found).await?);
                }
            }
            Ok(None) => expired += self.expire_one_by_one(&connects).await?,
            Err(error) => {
                tracing::warn!(%error, attempts = connects.len(), "attempts stay open: nango could not be queried");
            }
        }
        expired += self.expire_one_by_one(&reconnects).await?;
        self.settle_ended().await?;
        Ok(expired)
    }

    /// Looks up each of these attempts alone, while Nango's rate limit has room. Returns how many expired.
    async fn expire_one_by_one(&self, attempts: &[DueAttempt]) -> Result<usize> {
        let mut expired = 0;
        for due in attempts {
            if !self.core.has_room(Priority::Deletion) {
                break;
            }
            let poller = &self.core.nango_gateway()?.attempt_poller;
            match poller.fetch_attempt(due.attempt_id).await {
                Ok(found) => {
                    expired += usize::from(self.expire_unless_granted(due, found).await?);
                }
                Err(error) => {
                    tracing::warn!(
                        attempt = %due.attempt_id, %error,
                        "an attempt stays open: nango could not be queried"
                    );
                }
            }
        }
        Ok(expired)
    }

    /// Applies an attempt's grants at Nango, and expires the attempt if it is still open. Returns whether it expired.
    async fn expire_unless_granted(
        &self,
        due: &DueAttempt,
        found: Vec<ConnectionSummary>,
    ) -> Result<bool> {
        let id = due.attempt_id;
        let ended = async {
            self.reconciler.apply_grants(id, found).await?;
            self.reconciler
                .attempt_failed(&due.user, id, &Failure::expired())
                .await
        };
        match ended.await {
            Err(error) if error.concerns_one_row() => {
                tracing::error!(attempt = %id, %error, "an attempt cannot be read, or its grant cannot be stored: it does not expire");
                db::postpone_unreadable(&self.core.database, &[id], self.core.clock.now()).await?;
                Ok(false)
            }
            Err(error @ Error::Database(_)) => Err(error),
            Err(error) => {
                tracing::warn!(attempt = %id, %error, "an attempt stays open: its grant could not be applied");
                Ok(false)
            }
            ended => ended,
        }
    }

    /// Returns the connections at Nango of each of these connects. They are newer than their attempts, so only the
    /// newest pages are read. `None` if too many connections are newer.
    async fn list_granted(
        &self,
        attempts: &[DueAttempt],
    ) -> Result<Option<HashMap<AttemptId, Vec<ConnectionSummary>>>> {
        let oldest = attempts.iter().map(|due| due.created_at).min();
        let since = oldest.unwrap_or(DateTime::<Utc>::MAX_UTC) - CLOCK_MARGIN;
        let mut granted: HashMap<AttemptId, Vec<ConnectionSummary>> = attempts
            .iter()
            .map(|due| (due.attempt_id, Vec::new()))
            .collect();
        let nango = self.core.nango()?;
        let mut last = None;
        for page in 0..MAX_PAGES {
            let filter = ListConnections {
                limit: Some(PAGE_SIZE),
                page: Some(page),
                ..ListConnections::default()
            };
            let found = nango.connection_page(&filter).await?;
            let newest = found.connections.first().map(|it| it.connection_id.clone());
            if newest.is_some() && newest == last {
                return Err(nango::Error::repeated_page(page).into());
            }
            last = newest;
            // A page may be shorter than the limit. Only an empty page is the end.
            let is_end =
                found.is_empty() || found.connections.iter().any(|it| it.created_at < since);
            for summary in found.connections {
                let attempt = summary.tags.get(ATTEMPT_TAG).and_then(|id| id.parse().ok());
                if let Some(of_attempt) = attempt.and_then(|id: AttemptId| granted.get_mut(&id)) {
                    of_attempt.push(summary);
                }
            }
            if is_end {
                return Ok(Some(granted));
            }
        }
        Ok(None)
    }

    /// Removes due attempts that have ended, or whose user was erased, from the queue. Postpones those that may still
    /// be granted. Returns the open attempts.
    async fn settle_ended(&self) -> Result<Vec<DueAttempt>> {
        loop {
            let (due, open) = self.due_attempts().await?;
            let is_open = |id: &AttemptId| open.iter().any(|one| one.attempt_id == *id);
            let is_full = due.len() == MAX_BATCH;
            let ended: Vec<AttemptId> = due.into_iter().filter(|id| !is_open(id)).collect();
            if !ended.is_empty() {
                db::settle_due(&self.core.database, &ended, self.core.clock.now()).await?;
            }
            if !is_full || ended.is_empty() {
                return Ok(open);
            }
        }
    }

    async fn due_attempts(&self) -> Result<(Vec<AttemptId>, Vec<DueAttempt>)> {
        let mut tx = self.core.begin().await?;
        let due = db::due_attempts(&mut tx, self.core.clock.now(), MAX_BATCH).await?;
        tx.commit().await?;
        Ok(due)
    }
}
