//! Deletion of old data: pruning of the history, and of expired idempotency keys.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::Result;
use super::core::Core;
use super::idempotency::TTL_SECONDS;
use crate::db::{self, Batch, Database};
use crate::domain::AttemptId;
use crate::telemetry::TRACES;

/// The name of the job.
const JOB_NAME: &str = "pruning";

/// The lease of a run, in seconds. After it, another replica repeats an aborted run. A longer run may overlap with the
/// next one, which is harmless.
const LEASE_SECONDS: f64 = 3600.0;

/// The pause after each batch, so that other queries are not delayed.
const BATCH_PAUSE: Duration = Duration::from_millis(50);

/// The numbers of rows that a run has deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Token accesses.
    pub uses: u64,
    /// Attempts.
    pub attempts: u64,
    /// Events.
    pub events: u64,
}

/// Deletes data that is older than its retention.
#[derive(Debug)]
pub struct Retention {
    core: Arc<Core>,
    /// The retention of events, attempts and token accesses.
    history: TimeDelta,
}

impl Retention {
    pub(crate) fn new(core: Arc<Core>, history: TimeDelta) -> Self {
        Self { core, history }
    }

    /// Deletes events, attempts and token accesses that are older than the retention, in batches. Returns `None` if
    /// another replica runs the job, or if it was completed less than `every` ago.
    ///
    /// # Errors
    /// As the database. A run after the lease deletes the remaining rows.
    #[tracing::instrument(target = TRACES, skip_all)]
    pub async fn prune(&self, every: Duration) -> Result<Option<Pruned>> {
        let every = every.as_secs_f64();
        let claimed = db::claim_job(&self.core.database, JOB_NAME, LEASE_SECONDS, every).await?;
        if !claimed {
            return Ok(None);
        }
        let before = self.core.clock.now() - self.history;
        let pruned = Pruned {
            uses: self
                .prune_in_batches(db::prune_token_accesses, before, 0)
                .await?,
            attempts: self
                .prune_in_batches(db::prune_attempts, before, AttemptId(Uuid::nil()))
                .await?,
            events: self.prune_in_batches(db::prune_events, before, 0).await?,
        };
        db::release_job(&self.core.database, JOB_NAME, true).await?;
        Ok(Some(pruned))
    }

    /// Deletes the rows of a table that are older than `before`, in batches from `first` on. Returns the number of
    /// deleted rows.
    async fn prune_in_batches<Id>(
        &self,
        prune_batch: impl AsyncFn(&Database, DateTime<Utc>, Id) -> sqlx::Result<Batch<Id>>,
        before: DateTime<Utc>,
        first: Id,
    ) -> Result<u64> {
        let mut deleted = 0;
        let mut next = Some(first);
        while let Some(after) = next {
            let (count, last) = prune_batch(&self.core.database, before, after).await?;
            deleted += count.unsigned_abs();
            next = last;
            tokio::time::sleep(BATCH_PAUSE).await;
        }
        Ok(deleted)
    }

    /// Deletes all expired idempotency keys with their responses, in batches. Returns the number of deleted keys.
    #[tracing::instrument(target = TRACES, skip_all)]
    pub async fn delete_expired_keys(&self) -> Result<u64> {
        const BATCH: u32 = 500;
        let mut all = 0;
        loop {
            let deleted = db::delete_expired_keys(
                &self.core.database,
                TTL_SECONDS,
                self.core.clock.now(),
                BATCH.into(),
            )
            .await?;
            all += deleted;
            if deleted < BATCH.into() {
                return Ok(all);
            }
        }
    }
}
