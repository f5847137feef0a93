//! The list of a user's connections, page by page.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;
use tokio::sync::Semaphore;

use super::Result;
use super::core::Core;
use super::reader::ConnectionReader;
use crate::db;
use crate::db::batch::BatchLoader;
use crate::db::connection_health::{STATEMENT_TIMEOUT, with_timeout};
use crate::domain::{ConnectionId, Reason, Status, UserId};
use crate::views::{AccountRef, ConnectionView};

/// The maximum size, in bytes of rows, of a list that is read in one statement with the lists of other users.
const MAX_BATCHED_BYTES: usize = 64 * 1024;

/// The maximum number of large lists that are read concurrently. Each takes a connection of the pool.
const MAX_CONCURRENT_LARGE_LISTS: usize = 2;

/// How long a user is remembered to have a large list.
const LARGE_USER_TTL: Duration = Duration::from_mins(10);

/// The maximum number of users who are remembered to have a large list.
const MAX_LARGE_USERS: u64 = 10_000;

/// The filter and page of a list.
#[derive(Clone, Debug)]
pub struct Query {
    /// The id or slug of the connector; `None` for all connectors.
    pub connector: Option<String>,
    /// The status; `None` for every status.
    pub status: Option<Status>,
    /// The maximum number of connections; `None` for all.
    pub limit: Option<i64>,
    /// The cursor: the last connection of the previous page. `None` for the first page.
    pub after: Option<ConnectionId>,
}

/// One page of a user's connections, newest first.
#[derive(Debug, Default)]
pub struct Page {
    /// The connections of the page.
    pub connections: Vec<ConnectionView>,
    /// The number of connections on all pages.
    pub total: i64,
    /// The cursor of the next page; `None` on the last page.
    pub next: Option<ConnectionId>,
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
    large_users: Cache<UserId, ()>,
    /// The permits to read a large list.
    permits: Semaphore,
}

impl ConnectionLists {
    pub(crate) fn new(core: Arc<Core>, reader: Arc<ConnectionReader>) -> Self {
        let large_users = Cache::builder()
            .max_capacity(MAX_LARGE_USERS)
            .time_to_live(LARGE_USER_TTL)
            .build();
        Self {
            newest: BatchLoader::new(&core.database),
            large_users,
            permits: Semaphore::new(MAX_CONCURRENT_LARGE_LISTS),
            reader,
            core,
        }
    }

    /// Returns a page of a user's list.
    pub(crate) async fn page(&self, user: &UserId, query: &Query) -> Result<Page> {
        let connector = match &query.connector {
            None => None,
            Some(reference) => match self.reader.connectors.by_reference(reference).await? {
                Some(connector) => Some(connector.id),
                None => return Ok(Page::default()),
            },
        };
        let rows = self.rows(user).await?;
        let listed = rows.iter().map(|row| Ok((row.listed()?, row)));
        let mut listed = listed.collect::<sqlx::Result<Vec<_>>>()?;
        listed.sort_unstable_by_key(|(it, _)| Reverse(it.id));
        let accounts = listed.iter().filter_map(|(it, _)| it.account());
        let accounts: Vec<AccountRef> = accounts.collect();
        listed.retain(|(it, _)| {
            it.reason != Some(Reason::Removed.as_str())
                && connector.is_none_or(|connector| it.connector == connector)
                && query
                    .status
                    .is_none_or(|status| it.status == status.as_str())
        });
        let total = i64::try_from(listed.len()).unwrap_or(i64::MAX);
        listed.retain(|(it, _)| query.after.is_none_or(|after| it.id < after));
        let limit = query.limit.unwrap_or(db::MAX_CONNECTIONS_PER_USER);
        let limit = usize::try_from(limit).unwrap_or_default();
        let has_more = listed.len() > limit;
        listed.truncate(limit);
        let mut connections = Vec::with_capacity(listed.len());
        for (_, row) in &listed {
            if let Some((connection, attempt)) = self.reader.readable(row).await? {
                connections.push(ConnectionView::new(connection, attempt, &accounts));
            }
        }
        let last = listed.last().map(|(it, _)| it.id);
        Ok(Page {
            next: last.filter(|_| has_more),
            connections,
            total,
        })
    }

    /// Returns all rows of a user, in any order.
    async fn rows(&self, user: &UserId) -> Result<Arc<Vec<db::ConnectionWithAttemptRow>>> {
        if !self.large_users.contains_key(user) {
            let rows = self
                .newest
                .load(db::NewestConnections(user.clone()))
                .await?;
            let bytes: usize = rows.iter().map(db::ConnectionWithAttemptRow::size).sum();
            if bytes > MAX_BATCHED_BYTES {
                self.large_users.insert(user.clone(), ()).await;
            }
            if rows.len() < db::NewestConnections::LIMIT {
                return Ok(rows);
            }
        }
        let permit = async {
            let permit = self.permits.acquire().await;
            permit.map_err(|_closed| sqlx::Error::PoolClosed)
        };
        let _permit = with_timeout(STATEMENT_TIMEOUT, permit).await?;
        let rows = db::list(&self.core.database, user, None).await?;
        Ok(rows.into())
    }
}
