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

/// The most bytes of rows that a list may have to be read in one statement with the lists of other users.
const LARGE: usize = 64 * 1024;

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
    pub after: Option<ConnectionId>,
}

/// One page of a user's connections, newest first.
#[derive(Debug, Default)]
pub struct Page {
    /// The page.
    pub connections: Vec<ConnectionView>,
    /// How many there are on all pages.
    pub total: i64,
    /// The cursor of the next page, if there is one.
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
        if !self.large.contains_key(user) {
            let rows = self
                .newest
                .load(db::NewestConnections(user.clone()))
                .await?;
            let bytes: usize = rows.iter().map(db::ConnectionWithAttemptRow::size).sum();
            if bytes > LARGE {
                self.large.insert(user.clone(), ()).await;
            }
            if rows.len() < db::NewestConnections::LIMIT {
                return Ok(rows);
            }
        }
        let turn = async {
            let turn = self.turns.acquire().await;
            turn.map_err(|_closed| sqlx::Error::PoolClosed)
        };
        let _turn = with_timeout(STATEMENT_TIMEOUT, turn).await?;
        let mut tx = self.core.begin_single().await?;
        let rows = db::list(&mut tx, user, None).await?;
        tx.commit().await?;
        Ok(rows.into())
    }
}
