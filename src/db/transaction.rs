//! A transaction, for several statements.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::stream::{BoxStream, Stream};
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArguments, PgQueryResult, PgRow, PgStatement};
use sqlx::{Either, Execute, Executor, Postgres, SqlStr};
use tokio::time::Instant;
use tracing::Span;

use super::pooled_connection::{PooledConnection, executor_methods};
use crate::telemetry;

/// A transaction, which is rolled back if it is dropped without [`commit`](Self::commit).
///
/// Behind a transaction-mode pooler, its statements are unnamed. A name would outlive the transaction on a server
/// connection that serves another client next, whose statements have the same names: sqlx numbers them, and names them
/// even if its cache is off.
///
/// The whole transaction has one deadline. Statements that have not completed by then fail, and the connection is
/// closed.
#[derive(Debug)]
pub struct Transaction {
    connection: PooledConnection,
    unnamed: bool,
}

impl Transaction {
    pub(crate) fn new(connection: PooledConnection, unnamed: bool) -> Self {
        Self {
            connection,
            unnamed,
        }
    }

    /// Sets the deadline, for transactions that may take longer than a request.
    pub(crate) fn set_deadline(&mut self, deadline: Instant) {
        self.connection.set_deadline(deadline);
    }

    /// Commits: makes the writes durable and visible.
    ///
    /// # Errors
    /// If the server does not confirm the commit. Its outcome is then unknown.
    pub async fn commit(mut self) -> sqlx::Result<()> {
        self.connection.end("commit").await
    }

    /// Rolls back, and returns after the locks are released. A dropped transaction releases them later.
    ///
    /// # Errors
    /// As the database.
    pub(crate) async fn rollback(mut self) -> sqlx::Result<()> {
        self.connection.end("rollback").await
    }
}

impl<'c> Executor<'c> for &'c mut Transaction {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, sqlx::Result<Either<PgQueryResult, PgRow>>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let span = telemetry::statement_span();
        let statement = UnnamedStatement {
            query,
            unnamed: self.unnamed,
            span: span.clone(),
        };
        let rows = self.connection.fetch_many(statement);
        if span.is_disabled() {
            return rows;
        }
        Box::pin(TracedRows { rows, span })
    }

    executor_methods!('c);
}

/// A statement that the server does not store if that is unsafe.
struct UnnamedStatement<E> {
    query: E,
    unnamed: bool,
    span: Span,
}

/// The rows of a statement, which are timed in its span.
struct TracedRows<'e, Row> {
    rows: BoxStream<'e, Row>,
    span: Span,
}

impl<Row> Stream for TracedRows<'_, Row> {
    type Item = Row;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Row>> {
        let this = &mut *self;
        let _entered = this.span.enter();
        this.rows.as_mut().poll_next(context)
    }
}

impl<'q, E: Execute<'q, Postgres>> Execute<'q, Postgres> for UnnamedStatement<E> {
    fn sql(self) -> SqlStr {
        let text = self.query.sql();
        telemetry::record_statement(&self.span, text.as_str());
        text
    }

    fn statement(&self) -> Option<&PgStatement> {
        self.query.statement()
    }

    fn take_arguments(&mut self) -> Result<Option<PgArguments>, BoxDynError> {
        self.query.take_arguments()
    }

    fn persistent(&self) -> bool {
        !self.unnamed && self.query.persistent()
    }
}
