//! Reading connections, and the little that is written without Nango.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use moka::future::Cache;
use serde_json::{Map, Value};
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::reconcile::MAX_POLLED_ATTEMPTS;
use super::{Connections, Error, Result};
use crate::db;
use crate::db::connection_health::{STATEMENT_TIMEOUT, with_timeout};
use crate::domain::UserId;
use crate::domain::{Account, Actor, Attempt, Connection, Reason, Status};
use crate::nango::Priority;
use crate::views::AccountRef;
use crate::views::ConnectionView;

/// How deep a config may be nested: readers of JSON give up somewhere beyond a hundred levels, and
/// what is deeper would make a whole list unreadable to them.
const MAX_DEPTH: usize = 32;

/// How large a connection's config may become, in bytes of JSON.
const MAX_CONFIG_BYTES: usize = 4 * 1024;

/// How many values a config may have, those in others included: in memory each takes many times its bytes of JSON.
const MAX_VALUES: usize = 500;

/// The most bytes of rows that a list may have to be read in one statement with the lists of other users.
const LARGE: usize = 64 * 1024;

/// The most bytes of configs that are read for one page.
const MAX_PAGE: i64 = 512 * 1024;

/// The most large lists that are read at once. Each takes a connection of the pool.
const LARGE_AT_ONCE: usize = 2;

/// How long, and for how many users, the service remembers that a list is large.
const LARGE_FOR: Duration = Duration::from_mins(10);
const LARGE_USERS: u64 = 10_000;

/// Users whose lists are large. Each of these lists is read in a statement of its own, so that other users do not wait
/// for it.
#[derive(Debug)]
pub(crate) struct LargeLists {
    users: Cache<UserId, ()>,
    turns: Semaphore,
}

impl LargeLists {
    pub(crate) fn new() -> Self {
        let users = Cache::builder()
            .max_capacity(LARGE_USERS)
            .time_to_live(LARGE_FOR)
            .build();
        Self {
            users,
            turns: Semaphore::new(LARGE_AT_ONCE),
        }
    }

    /// Remembers the user if these rows are large.
    async fn note(&self, user: &UserId, rows: &[db::ConnectionWithAttemptRow]) {
        let bytes: usize = rows.iter().map(db::ConnectionWithAttemptRow::size).sum();
        if bytes > LARGE {
            self.users.insert(user.clone(), ()).await;
        }
    }
}
/// For how long after a change of its label or config another one is part of the same event.
const MERGED: TimeDelta = TimeDelta::minutes(1);

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

/// What a user changes of a connection.
#[derive(Clone, Debug, Default)]
pub struct Update {
    /// A new label, or none at all.
    pub label: Option<Option<String>>,
    /// Merged into the config by key (RFC 7396): null removes one.
    pub config: Option<Map<String, Value>>,
}

impl Connections {
    /// A page of a user's connections. Those that wait for a grant are looked up at Nango first.
    ///
    /// # Errors
    /// As the database. That Nango does not answer only means that nothing new is known.
    pub async fn list(self: &Arc<Self>, user: &UserId, query: &Query) -> Result<Page> {
        let page = self.list_page(user, query).await?;
        let open = open_attempts(&page.connections);
        if self.core.upstream.is_some() && !open.is_empty() && self.poll_all(&open).await {
            return self.list_page(user, query).await;
        }
        Ok(page)
    }

    /// One connection of a user, looked up at Nango first if it waits for a grant.
    ///
    /// # Errors
    /// When there is no such connection, and as the database.
    pub async fn get(self: &Arc<Self>, user: &UserId, id: Uuid) -> Result<ConnectionView> {
        let details = self.fetch_details(user, id).await?;
        let open = open_attempts(std::slice::from_ref(&details));
        if self.core.upstream.is_some() && !open.is_empty() && self.poll_all(&open).await {
            return self.fetch_details(user, id).await;
        }
        Ok(details)
    }

    /// Returns a connection that came back from the popup, by our id or Nango's, after polling Nango for its attempt.
    /// Nango is not queried for ids that are unknown here.
    ///
    /// Without a `user`, finds a connection of any user, and by our own id only, which is random. Nango's id may name
    /// the user and the connector, as the ids of imported connections do. The caller returns only whether it
    /// succeeded.
    ///
    /// # Errors
    /// If there is no such connection here.
    pub async fn find_returned(
        self: &Arc<Self>,
        user: Option<&UserId>,
        id: &str,
    ) -> Result<ConnectionView> {
        self.core.nango_gateway()?;
        let found = match user {
            Some(user) => {
                let own = self.find_returned_to(user, id).await?;
                own.map(|connection| (connection.user_id, connection.id))
            }
            None => self.find_returned_anywhere(id).await?,
        };
        let (user, connection) = found.ok_or(Error::ConnectionNotFound)?;
        let details = self.fetch_details(&user, connection).await?;
        let open = details.attempt.filter(|attempt| attempt.outcome.is_none());
        if let Some(attempt) = open {
            // Something has just happened: what was found a moment before says nothing.
            self.poll_uncached(attempt.id).await;
        }
        self.fetch_details(&user, connection).await
    }

    /// A connection that came back from the popup by an id that is not known here: Nango is asked,
    /// each time, whether it has one of it that is this user's.
    ///
    /// # Errors
    /// When it has not, and as Nango and the database.
    pub async fn find_returned_at_nango(&self, user: &UserId, id: &str) -> Result<ConnectionView> {
        let find = Priority::Connect.scope(self.find_at_nango(user, id));
        let found = find.await?;
        let connection = found.ok_or(Error::ConnectionNotFound)?;
        self.fetch_details(user, connection.id).await
    }

    /// Finds a user's own connection. Another user's takes the same path as one that does not exist, so that the
    /// response time reveals nothing.
    async fn find_returned_to(&self, user: &UserId, id: &str) -> Result<Option<Connection>> {
        let mut tx = self.core.begin().await?;
        let mut own = match id.parse() {
            Ok(ours) => db::find_own(&mut tx, user, ours).await?,
            Err(_not_ours) => None,
        };
        if own.is_none() {
            own = db::find_own_by_nango_id(&mut tx, user, id).await?;
        }
        tx.commit().await?;
        Ok(own)
    }

    /// Any user's connection, by our id, for as long as something may come of an attempt of it.
    async fn find_returned_anywhere(&self, id: &str) -> Result<Option<(UserId, Uuid)>> {
        let Ok(ours) = id.parse() else {
            return Ok(None);
        };
        let mut tx = self.core.begin_single().await?;
        let owned = db::owner_of_connection(&mut tx, ours).await?;
        tx.commit().await?;
        Ok(owned.map(|owned| (owned.user, owned.connection_id)))
    }

    /// Takes the other account that a reconnect came back as. May be repeated.
    ///
    /// # Errors
    /// When there is no such connection, or it is not that account which waits to be taken.
    pub async fn accept_account(
        &self,
        user: &UserId,
        id: Uuid,
        account_id: &str,
        actor: Actor,
    ) -> Result<ConnectionView> {
        let mut tx = self.core.begin().await?;
        let own = db::lock_own(&mut tx, user, id).await?;
        let connection = own.ok_or(Error::ConnectionNotFound)?;
        let is = |account: &Option<Account>| {
            account
                .as_ref()
                .is_some_and(|account| account.id == account_id)
        };
        match connection.account_accepted(self.core.clock.now()) {
            Some(transition) if is(&connection.pending_account) => {
                db::apply(&mut tx, &transition.by(actor), None).await?;
            }
            None if is(&connection.account) => {}
            _ => {
                return Err(Error::Invalid(
                    "no such account waits to be taken for this connection".to_owned(),
                ));
            }
        }
        tx.commit().await?;
        self.fetch_details(user, id).await
    }

    /// Changes a connection's label or config. Changes that follow each other within a minute are one event.
    ///
    /// # Errors
    /// When there is no such connection, or the config would become too large.
    pub async fn update(
        &self,
        user: &UserId,
        id: Uuid,
        update: &Update,
        actor: Actor,
    ) -> Result<ConnectionView> {
        let mut tx = self.core.begin().await?;
        let own = db::lock_own(&mut tx, user, id).await?;
        let mut connection = own.ok_or(Error::ConnectionNotFound)?;
        let before = connection.clone();
        if let Some(label) = &update.label {
            connection.label.clone_from(label);
        }
        if let Some(changes) = &update.config {
            merge(&mut connection.config, changes)?;
        }
        if connection != before {
            let now = self.core.clock.now();
            let updated = connection.updated(&before, now).by(actor);
            if !db::merge_update(&mut tx, &updated, now - MERGED).await? {
                db::apply(&mut tx, &updated, None).await?;
            }
        }
        tx.commit().await?;
        self.fetch_details(user, id).await
    }

    async fn list_page(&self, user: &UserId, query: &Query) -> Result<Page> {
        if self.large_lists.users.contains_key(user) {
            return self.page_from_database(user, query).await;
        }
        let rows = self
            .newest
            .load(db::NewestConnections(user.clone()))
            .await?;
        self.large_lists.note(user, &rows).await;
        if rows.len() >= db::NewestConnections::LIMIT {
            return self.page_from_database(user, query).await;
        }
        let mut newest = Vec::with_capacity(rows.len());
        for row in rows.iter() {
            newest.extend(self.readable(row).await?);
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
            let turn = self.large_lists.turns.acquire().await;
            turn.map_err(|_closed| sqlx::Error::PoolClosed)
        };
        let _turn = with_timeout(STATEMENT_TIMEOUT, turn).await?;
        let connector_id = match &query.connector {
            None => None,
            Some(reference) => match self.connectors.by_reference(reference).await? {
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
            if let Some((connection, attempt)) = self.readable(row).await? {
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

    /// All of a user's connections that the filter lets through, the newest first.
    pub(crate) async fn list_all(
        &self,
        user: &UserId,
        filter: &db::Filter,
    ) -> Result<Vec<Connection>> {
        let mut tx = self.core.begin_single().await?;
        let rows = db::list(&mut tx, user, filter).await?;
        tx.commit().await?;
        let mut all = Vec::with_capacity(rows.len());
        for row in &rows {
            all.extend(self.readable(row).await?.map(|(connection, _)| connection));
        }
        Ok(all)
    }

    pub(crate) async fn fetch_details(&self, user: &UserId, id: Uuid) -> Result<ConnectionView> {
        let row = self.ones.load(db::ConnectionById(user.clone(), id)).await?;
        let row = row.ok_or(Error::ConnectionNotFound)?;
        let (connection, attempt) = self.with_connector(&row).await?;
        Ok(ConnectionView {
            connection,
            attempt,
            same_account_as: row.same_account()?,
        })
    }
}

/// Returns the newest open attempts of these connections, for which a reader may be waiting.
pub(crate) fn open_attempts(details: &[ConnectionView]) -> Vec<Attempt> {
    let mut open: Vec<&Attempt> = details
        .iter()
        .filter_map(|details| details.attempt.as_ref())
        .filter(|attempt| attempt.outcome.is_none())
        .collect();
    open.sort_by_key(|attempt| Reverse(attempt.created_at));
    let newest = open.into_iter().take(MAX_POLLED_ATTEMPTS.into());
    newest.cloned().collect()
}

/// Merges into a config by key, where null removes one; refuses what would become too large, too deep or too many.
pub(crate) fn merge(config: &mut Map<String, Value>, changes: &Map<String, Value>) -> Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    if changes
        .values()
        .any(|value| exceeds_depth(value, MAX_DEPTH - 1))
    {
        return Err(Error::Invalid(format!(
            "config: at most {MAX_DEPTH} levels deep"
        )));
    }
    for (key, value) in changes {
        if value.is_null() {
            config.remove(key);
        } else {
            config.insert(key.clone(), value.clone());
        }
    }
    let json = serde_json::to_vec(config).map_or(usize::MAX, |json| json.len());
    let size = json.saturating_add(config.values().map(unfolded).sum());
    if size > MAX_CONFIG_BYTES {
        return Err(Error::Invalid(format!(
            "`config` must have at most {MAX_CONFIG_BYTES} bytes of JSON, and would have {size}. Numbers count with all their digits."
        )));
    }
    let values: usize = config.values().map(count_values).sum();
    if values > MAX_VALUES {
        return Err(Error::Invalid(format!(
            "config: at most {MAX_VALUES} values, and it would have {values}"
        )));
    }
    Ok(())
}

/// Returns how many bytes more than JSON PostgreSQL needs for the numbers in a value: it writes 1e300 with all its digits.
fn unfolded(value: &Value) -> usize {
    match value {
        Value::Number(number) if number.is_f64() => {
            let digits = number.as_f64().map_or(0, |float| float.to_string().len());
            digits.saturating_sub(number.to_string().len())
        }
        Value::Array(items) => items.iter().map(unfolded).sum(),
        Value::Object(fields) => fields.values().map(unfolded).sum(),
        _ => 0,
    }
}

/// How many values a value is, with those in it.
fn count_values(value: &Value) -> usize {
    let inner: usize = match value {
        Value::Array(items) => items.iter().map(count_values).sum(),
        Value::Object(fields) => fields.values().map(count_values).sum(),
        _ => 0,
    };
    1 + inner
}

/// Whether a value has more levels of arrays and objects than this.
fn exceeds_depth(value: &Value, levels: usize) -> bool {
    let deeper = |inner: &Value| exceeds_depth(inner, levels - 1);
    match value {
        Value::Array(items) => levels == 0 || items.iter().any(deeper),
        Value::Object(fields) => levels == 0 || fields.values().any(deeper),
        _ => false,
    }
}
