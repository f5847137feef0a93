//! Batches concurrent queries into one statement.
//!
//! A query that arrives during a statement runs in the next one, with all others that arrived meanwhile. No query waits
//! for others, no result is older than its query, and the cost per query falls as the load grows. If the database
//! rejects a batch, or its result is too large, its queries run separately, so that one query cannot fail another.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use sqlx::PgExecutor;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use super::Database;
use super::connection_health::{Outage, STATEMENT_TIMEOUT, with_timeout};
use super::pooled_connection::PooledConnection;

/// The maximum number of queries in one statement.
const MAX_BATCH: usize = 64;

/// The maximum number of queued queries. Further callers wait for space in the queue.
const QUEUE_CAPACITY: usize = 1024;

/// How long a connection is kept for the next queries. Then it returns to the pool, for other tasks that wait for one.
const HOLD_TIME: Duration = Duration::from_millis(50);

/// The result of a batch is larger than one statement should read.
#[derive(Debug, thiserror::Error)]
#[error("the result of the batch is too large")]
pub(crate) struct TooMuch;

impl From<TooMuch> for sqlx::Error {
    fn from(error: TooMuch) -> Self {
        Self::Decode(Box::new(error))
    }
}

/// Returns whether queries that failed as a batch may succeed separately.
fn is_worth_splitting(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Decode(error) => error.is::<TooMuch>(),
        error => error.as_database_error().is_some() && Outage::of(error).is_none(),
    }
}

/// A query that can share one statement with others of its kind. The statement may run twice if its connection is lost,
/// so it must be read-only or idempotent.
pub(crate) trait BatchQuery: Send + Sync + Sized + 'static {
    /// The result of one query.
    type Output: Send + 'static;

    /// Runs all queries in one statement. Returns the results in the order of the queries.
    fn load_many<'c>(
        db: impl PgExecutor<'c>,
        queries: &[Self],
    ) -> impl Future<Output = sqlx::Result<Vec<Self::Output>>> + Send;
}

type LoadResult<Q> = Result<<Q as BatchQuery>::Output, Arc<sqlx::Error>>;

struct PendingQuery<Q: BatchQuery> {
    query: Q,
    reply: oneshot::Sender<LoadResult<Q>>,
}

/// Runs queries of one kind in batches, until the value is dropped.
#[derive(Debug)]
pub(crate) struct BatchLoader<Q: BatchQuery> {
    sender: mpsc::Sender<PendingQuery<Q>>,
}

impl<Q: BatchQuery> BatchLoader<Q> {
    /// Starts a loader for this database.
    pub(crate) fn new(database: &Database) -> Self {
        let (sender, queue) = mpsc::channel(QUEUE_CAPACITY);
        let reader = BatchReader {
            database: database.clone(),
            held: None,
        };
        tokio::spawn(run_loader(reader, queue));
        Self { sender }
    }

    /// Returns the result of a query, read after this call.
    ///
    /// # Errors
    /// As the database. If the connection is lost, all queries of the batch fail.
    pub(crate) async fn load(&self, query: Q) -> LoadResult<Q> {
        let (reply, results) = oneshot::channel();
        let ended = || Arc::new(sqlx::Error::PoolClosed);
        let pending = PendingQuery { query, reply };
        self.sender.send(pending).await.map_err(|_ended| ended())?;
        results.await.map_err(|_ended| ended())?
    }
}

/// Runs queries until all senders are dropped.
async fn run_loader<Q: BatchQuery>(
    mut reader: BatchReader,
    mut queue: mpsc::Receiver<PendingQuery<Q>>,
) {
    let mut pending = Vec::with_capacity(MAX_BATCH);
    loop {
        let next = queue.recv_many(&mut pending, MAX_BATCH);
        let count = if reader.held.is_none() {
            next.await
        } else if let Ok(count) = timeout(HOLD_TIME, next).await {
            count
        } else {
            reader.held = None;
            continue;
        };
        if count == 0 {
            return;
        }
        let (queries, reply): (Vec<Q>, Vec<_>) = pending
            .drain(..)
            .filter(|pending| !pending.reply.is_closed())
            .map(|pending| (pending.query, pending.reply))
            .unzip();
        let results = load_batch(&mut reader, &queries, Instant::now() + STATEMENT_TIMEOUT).await;
        for (reply, result) in reply.into_iter().zip(results) {
            // The caller may have been cancelled.
            let _ = reply.send(result);
        }
    }
}

/// Runs a batch with the deadline `by`. If the database rejects it, runs each half separately, until only the queries
/// at fault are rejected.
async fn load_batch<Q: BatchQuery>(
    reader: &mut BatchReader,
    queries: &[Q],
    by: Instant,
) -> Vec<LoadResult<Q>> {
    let remaining = by.saturating_duration_since(Instant::now());
    let error = match catch_panic(with_timeout(remaining, reader.load_many(queries))).await {
        Ok(results) => return results.into_iter().map(Ok).collect(),
        Err(error) => error,
    };
    // The connection may never answer, so the next batch uses another one.
    reader.held = None;
    if is_worth_splitting(&error) && queries.len() > 1 {
        let (some, others) = queries.split_at(queries.len() / 2);
        let mut all = Box::pin(load_batch(reader, some, by)).await;
        all.extend(Box::pin(load_batch(reader, others, by)).await);
        return all;
    }
    let error = Arc::new(error);
    let results = queries.iter().map(|_| Err(Arc::clone(&error)));
    results.collect()
}

/// Runs a query and turns a panic into an error: only the callers of that batch fail, not later ones.
async fn catch_panic<T>(query: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    let result = AssertUnwindSafe(query).catch_unwind().await;
    result.unwrap_or(Err(sqlx::Error::WorkerCrashed))
}

/// A pooled connection that is kept while queries arrive.
struct BatchReader {
    database: Database,
    held: Option<PooledReader>,
}

struct PooledReader {
    connection: PooledConnection,
    until: Instant,
}

impl BatchReader {
    async fn load_many<Q: BatchQuery>(&mut self, queries: &[Q]) -> sqlx::Result<Vec<Q::Output>> {
        if self.database.is_transaction_pooled() {
            return Q::load_many(&self.database, queries).await;
        }
        let now = Instant::now();
        if let Some(stored) = self.held.as_mut().filter(|stored| now < stored.until) {
            stored.connection.set_deadline(now + STATEMENT_TIMEOUT);
            if let Ok(results) = Q::load_many(&mut stored.connection, queries).await {
                return Ok(results);
            }
        }
        // On a new connection: the stored one may have expired or be lost.
        self.held = None;
        let mut connection = self.database.acquire().await?;
        let results = Q::load_many(&mut connection, queries).await?;
        self.held = Some(PooledReader {
            connection,
            until: Instant::now() + HOLD_TIME,
        });
        Ok(results)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn batch_panic_is_returned_to_its_callers() {
        let pending = catch_panic(async { panic!("a value that its reader did not expect") });
        let result: sqlx::Result<()> = pending.await;
        assert!(matches!(result, Err(sqlx::Error::WorkerCrashed)));
    }
}
