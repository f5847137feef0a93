//! A connection of the pool, with one deadline for everything that uses it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::stream::{BoxStream, Stream};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgQueryResult, PgRow};
use sqlx::{Either, Execute, Executor, Postgres, SqlStr};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::connection_health::{PING_TIMEOUT, STATEMENT_TIMEOUT, is_connection_usable, timed_out};
use super::primary::Primary;

/// A connection of the pool. It returns to the pool only in a known state. If a statement is still in progress, was
/// abandoned or missed the deadline, the connection is closed. That frees its slot even if the server never answers
/// again, and ends the statement.
#[derive(Debug)]
pub(crate) struct PooledConnection {
    /// `None` after the return to the pool.
    connection: Option<PoolConnection<Postgres>>,
    /// `false` while a statement is in progress, and after one that leaves the connection in an unknown state.
    reusable: bool,
    in_transaction: bool,
    deadline: Instant,
    primary: Arc<Primary>,
}

impl PooledConnection {
    pub(crate) fn new(connection: PoolConnection<Postgres>, primary: Arc<Primary>) -> Self {
        Self {
            connection: Some(connection),
            reusable: true,
            in_transaction: false,
            deadline: Instant::now() + STATEMENT_TIMEOUT,
            primary,
        }
    }

    /// Sets the deadline. Statements that have not completed by then fail.
    pub(crate) fn set_deadline(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    pub(crate) async fn begin(&mut self, statement: SqlStr) -> sqlx::Result<()> {
        // Even if the statement fails, because a transaction may have started.
        self.in_transaction = true;
        sqlx::raw_sql(statement).execute(self).await?;
        Ok(())
    }

    /// Ends the transaction, if one was started, by `commit` or `rollback`.
    pub(crate) async fn end(&mut self, statement: &'static str) -> sqlx::Result<()> {
        if self.in_transaction {
            sqlx::raw_sql(statement).execute(&mut *self).await?;
            self.in_transaction = false;
        }
        Ok(())
    }
}

impl Drop for PooledConnection {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else {
            return;
        };
        if !self.reusable {
            // Dropped without a terminate message, which could block.
            drop(connection.detach());
        } else if self.in_transaction {
            let mut open = Self::new(connection, self.primary.clone());
            open.set_deadline(Instant::now() + PING_TIMEOUT);
            tokio::spawn(async move { sqlx::raw_sql("rollback").execute(&mut open).await });
        } else {
            // sqlx's `return_to_pool` first pings the server, without a timeout of its own.
            tokio::spawn(timeout(PING_TIMEOUT, connection.return_to_pool()));
        }
    }
}

/// The methods of an [`Executor`] besides `fetch_many`. Preparing a statement is an error, because sqlx would name it
/// even behind a transaction-mode pooler.
macro_rules! executor_methods {
    ($c:lifetime) => {
        fn fetch_optional<'e, 'q: 'e, E>(
            self,
            query: E,
        ) -> futures::future::BoxFuture<'e, sqlx::Result<Option<sqlx::postgres::PgRow>>>
        where
            $c: 'e,
            E: 'q + sqlx::Execute<'q, sqlx::Postgres>,
        {
            let mut rows = self.fetch_many(query);
            Box::pin(async move {
                let mut first = None;
                // Read to the end, because errors of deferred constraints are reported there.
                while let Some(next) = futures::TryStreamExt::try_next(&mut rows).await? {
                    if let sqlx::Either::Right(row) = next {
                        first.get_or_insert(row);
                    }
                }
                Ok(first)
            })
        }

        fn prepare_with<'e>(
            self,
            _sql: sqlx::SqlStr,
            _parameters: &'e [sqlx::postgres::PgTypeInfo],
        ) -> futures::future::BoxFuture<'e, sqlx::Result<sqlx::postgres::PgStatement>>
        where
            $c: 'e,
        {
            let error = sqlx::Error::InvalidArgument("statements are run, not prepared".to_owned());
            Box::pin(std::future::ready(Err(error)))
        }

        fn describe<'e>(
            self,
            _sql: sqlx::SqlStr,
        ) -> futures::future::BoxFuture<'e, sqlx::Result<sqlx::Describe<sqlx::Postgres>>>
        where
            $c: 'e,
        {
            let error =
                sqlx::Error::InvalidArgument("statements are run, not described".to_owned());
            Box::pin(std::future::ready(Err(error)))
        }
    };
}
pub(crate) use executor_methods;

impl<'c> Executor<'c> for &'c mut PooledConnection {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, sqlx::Result<Either<PgQueryResult, PgRow>>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let Some(connection) = &mut self.connection else {
            let closed = futures::future::ready(Err(sqlx::Error::PoolClosed));
            return Box::pin(futures::stream::once(closed));
        };
        let connection: &mut PgConnection = connection;
        self.reusable = false;
        Box::pin(BoundedRows {
            rows: connection.fetch_many(query),
            reusable: &mut self.reusable,
            deadline: Box::pin(sleep_until(self.deadline)),
            primary: &self.primary,
        })
    }

    executor_methods!('c);
}

/// The rows of a statement, with a deadline. The connection is reusable after all rows have been read.
struct BoundedRows<'e, Row> {
    rows: BoxStream<'e, sqlx::Result<Row>>,
    reusable: &'e mut bool,
    deadline: Pin<Box<Sleep>>,
    primary: &'e Primary,
}

impl<Row> Stream for BoundedRows<'_, Row> {
    type Item = sqlx::Result<Row>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        match this.rows.as_mut().poll_next(context) {
            Poll::Ready(None) => {
                *this.reusable = true;
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                *this.reusable = is_connection_usable(&error);
                if !*this.reusable {
                    this.primary.suspect();
                }
                Poll::Ready(Some(Err(error)))
            }
            Poll::Pending if this.deadline.as_mut().poll(context).is_ready() => {
                this.primary.suspect();
                Poll::Ready(Some(Err(timed_out())))
            }
            other => other,
        }
    }
}
