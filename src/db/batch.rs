//! Statements that are asked for at the same time are one.
//!
//! A question that comes while a statement is under way is asked in the next,
//! together with all that have come meanwhile. Nobody waits for company, no
//! answer is older than its question, and the more is asked the less a
//! question costs the database. What the database refuses to answer together
//! is asked apart, so that nobody's question fails another's.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use sqlx::PgExecutor;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use super::Database;
use super::connection_health::{ANSWER, Lent, in_time, is_unreachable};

/// How many questions one statement answers at the most.
const TOGETHER: usize = 64;

/// How many questions wait before those who ask more have to wait, too.
const WAITING: usize = 1024;

/// For how long a connection is kept for the next questions. Then it is the turn of whoever else
/// waits for one of the pool's.
const KEPT: Duration = Duration::from_millis(50);

/// What can be asked many at a time, in one statement. It may be run twice where its connection is lost, so it reads only,
/// or writes what may be written twice.
pub(crate) trait Question: Send + Sync + Sized + 'static {
    /// What one question is answered with.
    type Answer: Send + 'static;

    /// The answers, in the order of the questions.
    fn ask<'c>(
        db: impl PgExecutor<'c>,
        questions: &[Self],
    ) -> impl Future<Output = sqlx::Result<Vec<Self::Answer>>> + Send;
}

type Told<Q> = Result<<Q as Question>::Answer, Arc<sqlx::Error>>;

struct Asked<Q: Question> {
    question: Q,
    tell: oneshot::Sender<Told<Q>>,
}

/// Where questions of one kind are asked; it ends with the value.
#[derive(Debug)]
pub(crate) struct Gatherer<Q: Question> {
    asked: mpsc::Sender<Asked<Q>>,
}

impl<Q: Question> Gatherer<Q> {
    /// Asks this database, from now on.
    pub(crate) fn new(database: &Database) -> Self {
        let (asked, waiting) = mpsc::channel(WAITING);
        let reader = Reader {
            database: database.clone(),
            held: None,
        };
        tokio::spawn(answer(reader, waiting));
        Self { asked }
    }

    /// The answer, read after the question was asked.
    ///
    /// # Errors
    /// As the database; where that is lost, for all who asked together.
    pub(crate) async fn ask(&self, question: Q) -> Told<Q> {
        let (tell, told) = oneshot::channel();
        let ended = || Arc::new(sqlx::Error::PoolClosed);
        let asked = Asked { question, tell };
        self.asked.send(asked).await.map_err(|_ended| ended())?;
        told.await.map_err(|_ended| ended())?
    }
}

/// Answers questions until nobody can ask any more.
async fn answer<Q: Question>(mut reader: Reader, mut waiting: mpsc::Receiver<Asked<Q>>) {
    let mut asked = Vec::with_capacity(TOGETHER);
    loop {
        let next = waiting.recv_many(&mut asked, TOGETHER);
        let count = if reader.held.is_none() {
            next.await
        } else if let Ok(count) = timeout(KEPT, next).await {
            count
        } else {
            reader.held = None;
            continue;
        };
        if count == 0 {
            return;
        }
        let (questions, tell): (Vec<Q>, Vec<_>) = asked
            .drain(..)
            .filter(|asked| !asked.tell.is_closed())
            .map(|asked| (asked.question, asked.tell))
            .unzip();
        let answers = answers(&mut reader, &questions, Instant::now() + ANSWER).await;
        for (tell, answer) in tell.into_iter().zip(answers) {
            // Who asked may have gone.
            let _ = tell.send(answer);
        }
    }
}

/// The answers to these questions, by this time. Of those that are refused together, each half is asked by itself, until
/// only those are refused that are to blame.
async fn answers<Q: Question>(reader: &mut Reader, questions: &[Q], by: Instant) -> Vec<Told<Q>> {
    let left = by.saturating_duration_since(Instant::now());
    let error = match caught(in_time(left, reader.ask(questions))).await {
        Ok(answers) => return answers.into_iter().map(Ok).collect(),
        Err(error) => error,
    };
    // Whether or not it ever answers, the next are asked on another.
    reader.held = None;
    let is_refused = error.as_database_error().is_some() && !is_unreachable(&error);
    if is_refused && questions.len() > 1 {
        let (some, others) = questions.split_at(questions.len() / 2);
        let mut all = Box::pin(answers(reader, some, by)).await;
        all.extend(Box::pin(answers(reader, others, by)).await);
        return all;
    }
    let error = Arc::new(error);
    let told = questions.iter().map(|_| Err(Arc::clone(&error)));
    told.collect()
}

/// What asking comes to. A panic fails those who asked, and nobody who asks after them.
async fn caught<T>(asking: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    let asked = AssertUnwindSafe(asking).catch_unwind().await;
    asked.unwrap_or(Err(sqlx::Error::WorkerCrashed))
}

/// A connection of the pool's, kept while there are questions.
struct Reader {
    database: Database,
    held: Option<Held>,
}

struct Held {
    connection: Lent,
    until: Instant,
}

impl Reader {
    async fn ask<Q: Question>(&mut self, questions: &[Q]) -> sqlx::Result<Vec<Q::Answer>> {
        if self.database.switches_servers() {
            let mut tx = self.database.begin().await?;
            let answers = Q::ask(&mut tx, questions).await?;
            tx.commit().await?;
            return Ok(answers);
        }
        if let Some(held) = self
            .held
            .as_mut()
            .filter(|held| Instant::now() < held.until)
            && let Ok(answers) = Q::ask(&mut *held.connection, questions).await
        {
            return Ok(answers);
        }
        // Its time is over, or it was lost, which a new one tells.
        self.held = None;
        let mut connection = self.database.acquire().await?;
        let answers = Q::ask(&mut *connection, questions).await?;
        self.held = Some(Held {
            connection,
            until: Instant::now() + KEPT,
        });
        Ok(answers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_of_those_who_asked() {
        let asked = caught(async { panic!("a value that its reader did not expect") });
        let answer: sqlx::Result<()> = asked.await;
        assert!(matches!(answer, Err(sqlx::Error::WorkerCrashed)));
    }
}
