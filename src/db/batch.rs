//! Batches concurrent queries into one statement.
//!
//! A query that arrives during a statement runs in the next one, together with all that arrived meanwhile. No query
//! waits for others, no result is older than its query, and the cost per query falls as the load grows. If the
//! database rejects a batch, or its result is too large, its queries run separately, so that one query cannot fail
//! another.

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

/// How many questions one statement answers at the most.
const MAX_BATCH: usize = 64;

/// How many questions wait before those who ask more have to wait, too.
const QUEUE_CAPACITY: usize = 1024;

/// How long a connection is kept for the next queries. Then it returns to the pool, for other tasks that wait for one.
const HOLD_TIME: Duration = Duration::from_millis(50);

/// The questions together have a larger answer than one statement should read.
#[derive(Debug, thiserror::Error)]
#[error("the questions have too large an answer together")]
pub(crate) struct TooMuch;

impl From<TooMuch> for sqlx::Error {
    fn from(error: TooMuch) -> Self {
        Self::Decode(Box::new(error))
    }
}

/// Whether questions that failed together may succeed apart.
fn is_worth_splitting(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Decode(error) => error.is::<TooMuch>(),
        error => error.as_database_error().is_some() && Outage::of(error).is_none(),
    }
}

/// What can be asked many at a time, in one statement. It may be run twice where its connection is lost, so it reads only,
/// or writes what may be written twice.
pub(crate) trait BatchQuery: Send + Sync + Sized + 'static {
    /// What one question is answered with.
    type Output: Send + 'static;

    /// The answers, in the order of the questions.
    fn load_many<'c>(
        db: impl PgExecutor<'c>,
        questions: &[Self],
    ) -> impl Future<Output = sqlx::Result<Vec<Self::Output>>> + Send;
}

type LoadResult<Q> = Result<<Q as BatchQuery>::Output, Arc<sqlx::Error>>;

struct PendingQuery<Q: BatchQuery> {
    question: Q,
    reply: oneshot::Sender<LoadResult<Q>>,
}

/// Where questions of one kind are asked; it ends with the value.
#[derive(Debug)]
pub(crate) struct BatchLoader<Q: BatchQuery> {
    sender: mpsc::Sender<PendingQuery<Q>>,
}

impl<Q: BatchQuery> BatchLoader<Q> {
    /// Asks this database, from now on.
    pub(crate) fn new(database: &Database) -> Self {
        let (sender, queue) = mpsc::channel(QUEUE_CAPACITY);
        let reader = BatchReader {
            database: database.clone(),
            held: None,
        };
        tokio::spawn(run_loader(reader, queue));
        Self { sender }
    }

    /// The answer, read after the question was asked.
    ///
    /// # Errors
    /// As the database; where that is lost, for all who asked together.
    pub(crate) async fn load(&self, question: Q) -> LoadResult<Q> {
        let (reply, results) = oneshot::channel();
        let ended = || Arc::new(sqlx::Error::PoolClosed);
        let pending = PendingQuery { question, reply };
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
        let (questions, reply): (Vec<Q>, Vec<_>) = pending
            .drain(..)
            .filter(|pending| !pending.reply.is_closed())
            .map(|pending| (pending.question, pending.reply))
            .unzip();
        let answers = load_batch(&mut reader, &questions, Instant::now() + STATEMENT_TIMEOUT).await;
        for (reply, answer) in reply.into_iter().zip(answers) {
            // Who asked may have gone.
            let _ = reply.send(answer);
        }
    }
}

/// The answers to these questions, by this time. Of those that are refused together, each half is asked by itself, until
/// only those are refused that are to blame.
async fn load_batch<Q: BatchQuery>(
    reader: &mut BatchReader,
    questions: &[Q],
    by: Instant,
) -> Vec<LoadResult<Q>> {
    let remaining = by.saturating_duration_since(Instant::now());
    let error = match catch_panic(with_timeout(remaining, reader.load_many(questions))).await {
        Ok(answers) => return answers.into_iter().map(Ok).collect(),
        Err(error) => error,
    };
    // Whether or not it ever answers, the next are asked on another.
    reader.held = None;
    if is_worth_splitting(&error) && questions.len() > 1 {
        let (some, others) = questions.split_at(questions.len() / 2);
        let mut all = Box::pin(load_batch(reader, some, by)).await;
        all.extend(Box::pin(load_batch(reader, others, by)).await);
        return all;
    }
    let error = Arc::new(error);
    let results = questions.iter().map(|_| Err(Arc::clone(&error)));
    results.collect()
}

/// Runs a query and turns a panic into an error: only the callers of that batch fail, not later ones.
async fn catch_panic<T>(query: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    let result = AssertUnwindSafe(query).catch_unwind().await;
    result.unwrap_or(Err(sqlx::Error::WorkerCrashed))
}

/// A connection of the pool's, kept while there are questions.
struct BatchReader {
    database: Database,
    held: Option<PooledReader>,
}

struct PooledReader {
    connection: PooledConnection,
    until: Instant,
}

impl BatchReader {
    async fn load_many<Q: BatchQuery>(&mut self, questions: &[Q]) -> sqlx::Result<Vec<Q::Output>> {
        if self.database.is_transaction_pooled() {
            let mut tx = self.database.begin().await?;
            let answers = Q::load_many(&mut tx, questions).await?;
            tx.commit().await?;
            return Ok(answers);
        }
        let now = Instant::now();
        if let Some(stored) = self.held.as_mut().filter(|stored| now < stored.until) {
            stored.connection.set_deadline(now + STATEMENT_TIMEOUT);
            if let Ok(answers) = Q::load_many(&mut stored.connection, questions).await {
                return Ok(answers);
            }
        }
        // The stored connection has expired or is lost, or the query itself fails: a new connection shows which.
        self.held = None;
        let mut connection = self.database.acquire().await?;
        let answers = Q::load_many(&mut connection, questions).await?;
        self.held = Some(PooledReader {
            connection,
            until: Instant::now() + HOLD_TIME,
        });
        Ok(answers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn batch_panic_is_returned_to_its_callers() {
        let pending = catch_panic(async { panic!("a value that its reader did not expect") });
        let answer: sqlx::Result<()> = pending.await;
        assert!(matches!(answer, Err(sqlx::Error::WorkerCrashed)));
    }
}
