//! Finds rows that the program cannot read, before a user's request or a job reads them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::postgres::PgRow;
use sqlx::{FromRow, PgExecutor, Row};
use uuid::Uuid;

use super::rows::{attempt_columns, catch_decode_panic, name_of, select_with_attempt};
use super::{ConnectionWithAttemptRow, Database, webhook_endpoints};
use crate::domain::{Attempt, ConnectionId, ConnectorId, ConnectorRef};

/// The number of rows of a batch.
const BATCH: i64 = 1000;

/// The maximum duration of the search. A large table is searched in part.
const MAX_TIME: Duration = Duration::from_secs(10);

/// A row that cannot be read.
#[derive(Clone, Debug)]
pub(crate) struct UnreadableRow {
    pub(crate) table: &'static str,
    /// The identifier of the row.
    pub(crate) id: String,
    /// The error of the read.
    pub(crate) error: String,
}

/// The result of a search.
#[derive(Clone, Debug, Default)]
pub(crate) struct RowSearch {
    /// The number of rows that were read.
    pub(crate) rows: usize,
    pub(crate) unreadable: Vec<UnreadableRow>,
    /// `true` if the time ran out before all rows were read.
    pub(crate) is_partial: bool,
}

impl RowSearch {
    fn note<T>(&mut self, table: &'static str, row: &PgRow, read: sqlx::Result<T>) {
        self.rows += 1;
        if let Err(error) = read {
            let (id, error) = (name_of(row), error.to_string());
            self.unreadable.push(UnreadableRow { table, id, error });
        }
    }
}

impl Database {
    /// Reads all connections, open attempts and webhook endpoints as the service does.
    ///
    /// # Errors
    /// If the server does not answer.
    pub(crate) async fn find_unreadable_rows(&self) -> sqlx::Result<RowSearch> {
        let end = Instant::now() + MAX_TIME;
        let mut search = RowSearch::default();
        let mut after = (String::new(), ConnectionId(Uuid::nil()));
        loop {
            let rows = connections_after(self, &after).await?;
            let Some(last) = rows.last() else { break };
            after = (last.try_get("user_id")?, last.try_get("id")?);
            for row in rows {
                let connector = ConnectorRef {
                    id: ConnectorId(Uuid::nil()),
                    slug: String::new(),
                    name: String::new(),
                };
                let read = ConnectionWithAttemptRow::from(row);
                let decoded = read.with_attempt(Arc::new(connector));
                search.note("user_connector_connection", read.as_ref(), decoded);
            }
            search.is_partial = Instant::now() >= end;
            if search.is_partial {
                return Ok(search);
            }
        }
        let attempts = sqlx::query(concat!(
            "select ",
            attempt_columns!(),
            " from connect_attempt a where a.outcome is null order by a.created_at limit $1"
        ));
        let attempts = attempts.bind(BATCH).fetch_all(self).await?;
        for row in &attempts {
            search.note("connect_attempt", row, Attempt::from_row(row));
        }
        let endpoints = webhook_endpoints::targets(self).await?;
        for row in &endpoints {
            let read = catch_decode_panic(|| webhook_endpoints::read_target(row));
            search.note("webhook_endpoint", row, read);
        }
        Ok(search)
    }
}

async fn connections_after(
    db: impl PgExecutor<'_>,
    (user, id): &(String, ConnectionId),
) -> sqlx::Result<Vec<PgRow>> {
    sqlx::query(select_with_attempt!(
        "user_connector_connection c where (c.user_id, c.id) > ($1, $2) order by c.user_id, c.id limit $3"
    ))
    .bind(user)
    .bind(id)
    .bind(BATCH)
    .fetch_all(db)
    .await
}
