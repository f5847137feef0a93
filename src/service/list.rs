//! The list of a user's connections, page by page.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::Result;
use super::core::Core;
use super::reader::ConnectionReader;
use crate::db;
use crate::db::batch::BatchLoader;
use crate::db::connection_health::{STATEMENT_TIMEOUT, with_timeout};
use crate::domain::{Reason, Status, UserId};
use crate::views::{AccountRef, ConnectionView};

/// The most bytes of rows that a list may have to be read in one statement with the lists of other users.
const LARGE: usize = 64 * 1024;

/// The most bytes of configs that are read for one page.
const MAX_PAGE: i64 = 512 * 1024;

/// The most large lists that are read at once. Each takes a connection of the pool.
const LARGE_AT_ONCE: usize = 2;

/// How long, and for how many users, the service remembers that a list is large.
const LARGE_FOR: Duration = Duration::from_mins(10);
const LARGE_USERS: u64 = 10_000;

/// Which connections a list shows.
#[derive(Clone, Debug)]
pub struct Query {
    /// Only those of this connector, by id or slug.
    pub connector: Option<String>,
    /// Only those with this status.
    pub status: Option<Status>,
    /// How many at the most; `None` for all.
    pub limit: Option<i64>,
    /// Only those after this one on the list: the page's cursor.
    pub after: Option<Uuid>,
}

/// One page of a user's connections, newest first.
#[derive(Debug, Default)]
pub struct Page {
    /// The page.
    pub connections: Vec<ConnectionView>,
    /// How many there are on all pages.
    pub total: i64,
    /// The cursor of the next page, if there is one.
    pub next: Option<Uuid>,
}

/// Reads users' lists.
///
/// A large list is read in a statement of its own, so that other users do not wait for it.
#[derive(Debug)]
pub(crate) struct ConnectionLists {
    core: Arc<Core>,
    reader: Arc<ConnectionReader>,
    newest: BatchLoader<db::NewestConnections>,
    /// The users whose lists are large.
    large: Cache<UserId, ()>,
    /// The turns of large lists.
    turns: Semaphore,
}

impl ConnectionLists {
    pub(crate) fn new(core: Arc<Core>, reader: Arc<ConnectionReader>) -> Self {
        let large = Cache::builder()
            .max_capacity(LARGE_USERS)
            .time_to_live(LARGE_FOR)
            .build();
        Self {
            newest: BatchLoader::new(&core.database),
            large,
            turns: Semaphore::new(LARGE_AT_ONCE),
            reader,
            core,
        }
    }

    pub(crate) async fn page(&self, user: &UserId, query: &Query) -> Result<Page> {
        if self.large.contains_key(user) {
            return self.page_from_database(user, query).await;
        }
        let rows = self
            .newest
            .load(db::NewestConnections(user.clone()))
            .await?;
        let bytes: usize = rows.iter().map(db::ConnectionWithAttemptRow::size).sum();
        if bytes > LARGE {
            self.large.insert(user.clone(), ()).await;
        }
        if rows.len() >= db::NewestConnections::LIMIT {
            return self.page_from_database(user, query).await;
        }
        let mut newest = Vec::with_capacity(rows.len());
        for row in rows.iter() {
            newest.extend(self.reader.readable(row).await?);
        }
        newest.sort_unstable_by_key(|(connection, _)| Reverse(connection.id));
        Ok(Self::page_from_all(newest, query))
    }

    /// A page of all that a user has.
    fn page_from_all(all: Vec<db::ConnectionWithAttempt>, query: &Query) -> Page {
        let is_meant = |(connection, _): &db::ConnectionWithAttempt| {
            let reference = query.connector.as_deref();
            reference.is_none_or(|reference| connection.connector.is_named(reference))
                && connection.state.reason() != Some(Reason::Removed)
                && query
                    .status
                    .is_none_or(|status| connection.state.status() == status)
        };
        let accounts: Vec<AccountRef> = all
            .iter()
            .filter_map(|(connection, _)| AccountRef::of(connection))
            .collect();
        let meant: Vec<db::ConnectionWithAttempt> = all.into_iter().filter(is_meant).collect();
        let total = meant.len();
        let mut rest = meant
            .into_iter()
            .filter(|(connection, _)| query.after.is_none_or(|after| connection.id < after));
        let limit = query.limit.unwrap_or(db::MAX_CONNECTIONS_PER_USER);
        let limit = usize::try_from(limit).unwrap_or_default();
        let connections: Vec<ConnectionView> = rest
            .by_ref()
            .take(limit)
            .map(|(connection, attempt)| ConnectionView::new(connection, attempt, &accounts))
            .collect();
        let last = connections.last().map(|details| details.connection.id);
        Page {
            next: rest.next().and(last),
            total: i64::try_from(total).unwrap_or(i64::MAX),
            connections,
        }
    }

    /// A page of a user who has many or large connections. It stops before its limit if their configs are large.
    async fn page_from_database(&self, user: &UserId, query: &Query) -> Result<Page> {
        let turn = async {
            let turn = self.turns.acquire().await;
            turn.map_err(|_closed| sqlx::Error::PoolClosed)
        };
        let _turn = with_timeout(STATEMENT_TIMEOUT, turn).await?;
        let connector_id = match &query.connector {
            None => None,
            Some(reference) => match self.reader.connectors.by_reference(reference).await? {
                Some(connector) => Some(connector.id),
                None => return Ok(Page::default()),
            },
        };
        let mut tx = self.core.database.begin_snapshot().await?;
        let filter = db::Filter {
            connector_id,
            status: query.status,
            before: query.after,
            listed: true,
        };
        let (limit, bytes) = match query.limit {
            Some(limit) => (limit, MAX_PAGE),
            None => (db::MAX_CONNECTIONS_PER_USER, i64::MAX),
        };
        let (rows, more) = db::page(&mut tx, user, &filter, limit, bytes).await?;
        let total = db::count(&mut tx, user, &filter).await?;
        let accounts = db::accounts_of(&mut tx, user).await?;
        tx.commit().await?;
        let mut connections = Vec::with_capacity(rows.len());
        for row in &rows {
            if let Some((connection, attempt)) = self.reader.readable(row).await? {
                connections.push(ConnectionView::new(connection, attempt, &accounts));
            }
        }
        let last = rows.last().and_then(|row| row.id().ok());
        Ok(Page {
            next: last.filter(|_| more),
            connections,
            total,
        })
    }
}
