//! Operations on a user's own connections: list, get, wait, update, check and history.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::connection_config::merge;
use super::core::Core;
use super::credential_check::{CredentialChecker, Health};
use super::event_notifier::EventNotifier;
use super::list::{ConnectionLists, Page, Query};
use super::polls::{AttemptPolls, open_attempts};
use super::reader::ConnectionReader;
use super::reconcile::Reconciler;
use super::{Error, Result};
use crate::db;
use crate::db::token_accesses::RecordedAccess;
use crate::domain::{Account, Actor, Attempt, Connection, ConnectionId, Event, State, UserId};
use crate::nango::Priority;
use crate::telemetry::TRACES;
use crate::views::ConnectionView;

/// The time during which further changes of the label or config are merged into one event.
const UPDATE_MERGE_WINDOW: TimeDelta = TimeDelta::minutes(1);

/// The age of an attempt from which a wait starts with a poll, if the wait lasts long enough for another one. No user
/// grants access sooner after the popup has opened.
const MIN_POLLED_AGE: Duration = Duration::from_secs(1);

/// A change of a connection by its user.
#[derive(Clone, Debug, Default)]
pub struct Update {
    /// The new label; `Some(None)` removes it, `None` leaves it unchanged.
    pub label: Option<Option<String>>,
    /// A JSON merge patch of the config (RFC 7396): null removes a key. `None` leaves the config unchanged.
    pub config: Option<Map<String, Value>>,
}

/// The use cases for a user's own connections.
#[derive(Debug)]
pub struct Connections {
    pub(crate) core: Arc<Core>,
    pub(crate) reader: Arc<ConnectionReader>,
    pub(crate) lists: ConnectionLists,
    pub(crate) polls: Arc<AttemptPolls>,
    pub(crate) reconciler: Arc<Reconciler>,
    pub(crate) checks: Arc<CredentialChecker>,
    pub(crate) feed: EventNotifier,
}

impl Connections {
    /// Returns a page of a user's connections, after polling Nango for their open attempts.
    ///
    /// # Errors
    /// If the database fails. If Nango fails, the page shows the stored state.
    #[tracing::instrument(target = TRACES, name = "list_connections", skip_all)]
    pub async fn list(&self, user: &UserId, query: &Query) -> Result<Page> {
        let page = self.lists.page(user, query).await?;
        let open = open_attempts(&page.connections);
        if self.core.upstream.is_some() && !open.is_empty() && self.polls.poll_all(&open).await {
            return self.lists.page(user, query).await;
        }
        Ok(page)
    }

    /// Returns a connection of a user, after polling Nango for its open attempt.
    ///
    /// # Errors
    /// If the user has no such connection, or the database fails.
    #[tracing::instrument(target = TRACES, name = "get_connection", skip_all, fields(connection = %id))]
    pub async fn get(&self, user: &UserId, id: ConnectionId) -> Result<ConnectionView> {
        let details = self.reader.view(user, id).await?;
        let open = open_attempts(std::slice::from_ref(&details));
        if self.core.upstream.is_some() && !open.is_empty() && self.polls.poll_all(&open).await {
            return self.reader.view(user, id).await;
        }
        Ok(details)
    }

    /// Returns the connection with which the popup returned, by our id or Nango's, after polling Nango for its attempt.
    /// Nango is not queried for ids that the database does not have.
    ///
    /// Without a `user`, finds a connection of any user, but only by our own id, which is random. Nango's id may
    /// contain the user and the connector, as the ids of imported connections do. The caller reveals only whether a
    /// connection was found.
    ///
    /// # Errors
    /// If the database has no such connection, or it fails.
    #[tracing::instrument(target = TRACES, skip_all)]
    pub async fn find_returned(&self, user: Option<&UserId>, id: &str) -> Result<ConnectionView> {
        self.core.nango_gateway()?;
        let found = match user {
            Some(user) => {
                let own = self.find_returned_to(user, id).await?;
                own.map(|connection| (connection.user_id, connection.id))
            }
            None => self.find_returned_anywhere(id).await?,
        };
        let (user, connection) = found.ok_or(Error::ConnectionNotFound)?;
        let details = self.reader.view(&user, connection).await?;
        let open = details.attempt.filter(|attempt| attempt.outcome.is_none());
        if let Some(attempt) = open {
            // The user has just returned from the provider, so a cached poll is stale.
            self.polls.poll_uncached(attempt.id).await;
        }
        self.reader.view(&user, connection).await
    }

    /// Returns the connection with which the popup returned, by an id of Nango that the database does not have. Each
    /// call queries Nango for a connection with this id and user.
    ///
    /// # Errors
    /// If Nango has no such connection, or Nango or the database fails.
    #[tracing::instrument(target = TRACES, skip_all)]
    pub async fn find_returned_at_nango(&self, user: &UserId, id: &str) -> Result<ConnectionView> {
        let find = Priority::Connect.scope(self.reconciler.find_at_nango(user, id));
        let found = find.await?;
        let connection = found.ok_or(Error::ConnectionNotFound)?;
        self.reader.view(user, connection.id).await
    }

    /// Finds a user's own connection by our id or Nango's. Another user's connection takes the same path as a missing
    /// one, so that the response time reveals nothing.
    async fn find_returned_to(&self, user: &UserId, id: &str) -> Result<Option<Connection>> {
        let mut tx = self.core.begin().await?;
        let mut own = match id.parse() {
            Ok(connection_id) => db::find_own(&mut tx, user, connection_id).await?,
            Err(_not_a_uuid) => None,
        };
        if own.is_none() {
            own = db::find_own_by_nango_id(&mut tx, user, id).await?;
        }
        tx.commit().await?;
        Ok(own)
    }

    /// Finds a connection of any user by our id, while an attempt of it can still be granted.
    async fn find_returned_anywhere(&self, id: &str) -> Result<Option<(UserId, ConnectionId)>> {
        let Ok(connection_id) = id.parse() else {
            return Ok(None);
        };
        let owned = db::owner_of_connection(&self.core.database, connection_id).await?;
        Ok(owned.map(|owned| (owned.user, owned.connection_id)))
    }

    /// Adopts the different account that a reconnect authorized. Idempotent.
    ///
    /// # Errors
    /// If the user has no such connection, or this account is neither pending nor the connection's.
    #[tracing::instrument(target = TRACES, skip_all, fields(connection = %id))]
    pub async fn accept_account(
        &self,
        user: &UserId,
        id: ConnectionId,
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
                    "no pending account change matches `account_id`".to_owned(),
                ));
            }
        }
        tx.commit().await?;
        self.reader.view(user, id).await
    }

    /// Changes a connection's label or config. Changes within a minute share one event, unless a
    /// webhook is sent for it.
    ///
    /// # Errors
    /// If the user has no such connection, or the config would exceed its limits.
    #[tracing::instrument(target = TRACES, name = "update_connection", skip_all, fields(connection = %id))]
    pub async fn update(
        &self,
        user: &UserId,
        id: ConnectionId,
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
            if !db::merge_update(&mut tx, &updated, now - UPDATE_MERGE_WINDOW).await? {
                db::apply(&mut tx, &updated, None).await?;
            }
        }
        tx.commit().await?;
        self.reader.view(user, id).await
    }

    /// Waits until no attempt of a connection is open, or `timeout` has passed. Returns the connection. It is read
    /// again only when it may have changed.
    ///
    /// # Errors
    /// If the user has no such connection, or the database fails.
    pub async fn wait(
        &self,
        user: &UserId,
        id: ConnectionId,
        timeout: Duration,
    ) -> Result<ConnectionView> {
        let deadline = Instant::now() + timeout;
        let mut subscription = self.feed.subscribe(user);
        let mut details = self.reader.view(user, id).await?;
        let latest = self.core.clock.now() - MIN_POLLED_AGE;
        let is_due = |attempt: &Attempt| timeout <= MIN_POLLED_AGE || attempt.created_at <= latest;
        let open = open_attempts(std::slice::from_ref(&details));
        if open.iter().any(is_due) {
            details = self.get(user, id).await?;
        }
        let mut polls = 0;
        loop {
            let open = open_attempts(std::slice::from_ref(&details));
            if open.is_empty() || Instant::now() >= deadline {
                return Ok(details);
            }
            let may_have_changed = tokio::select! {
                () = subscription.changed() => true,
                // A poll runs to its end in this branch: a notification may report the change that the poll is
                // applying.
                () = self.polls.pause(&open, polls) => {
                    polls += 1;
                    Box::pin(self.polls.poll_all(&open)).await
                }
                () = tokio::time::sleep_until(deadline) => true,
            };
            if may_have_changed {
                details = self.reader.view(user, id).await?;
            }
        }
    }

    /// Checks a connection's credentials by a forced refresh at Nango. Returns the connection and the result; `None`
    /// while the connection is pending.
    ///
    /// # Errors
    /// If the user has no such connection, the connection has no credentials, or Nango or the database fails.
    #[tracing::instrument(target = TRACES, name = "check_connection", skip_all, fields(connection = %id))]
    pub async fn check(
        &self,
        user: &UserId,
        id: ConnectionId,
    ) -> Result<(ConnectionView, Option<Health>)> {
        let connection = self.reader.find_own(user, id).await?;
        let health = match &connection.state {
            State::Pending { .. } => None,
            State::Disconnected { .. } => {
                return Err(Error::Invalid(
                    "the connection is disconnected: connect it again before you check it"
                        .to_owned(),
                ));
            }
            state if state.upstream().is_none() => {
                return Err(Error::Invalid(
                    "the connection was never authorized: connect it before you check it"
                        .to_owned(),
                ));
            }
            _ => {
                let check = Priority::Check.scope(self.checks.check_connection(&connection));
                Some(Box::pin(check).await?.0.into())
            }
        };
        Ok((self.get(user, id).await?, health))
    }

    /// Returns a page of a connection's events before version `before`, newest first, and the `before` of the next
    /// page; `None` if this page is the last.
    ///
    /// # Errors
    /// If the user has no such connection, or the database fails.
    #[tracing::instrument(target = TRACES, skip_all, fields(connection = %id))]
    pub async fn history(
        &self,
        user: &UserId,
        id: ConnectionId,
        before: Option<i64>,
        limit: i64,
    ) -> Result<(Vec<Event>, Option<i64>)> {
        self.reader.find_own(user, id).await?;
        let mut events = db::history(&self.core.database, user, id, before, limit + 1).await?;
        let has_more = i64::try_from(events.len()).is_ok_and(|found| found > limit);
        if has_more {
            events.pop();
        }
        let last = events.last().map(|event| event.version);
        Ok((events, last.filter(|_| has_more)))
    }

    /// Returns a page of a connection's token accesses before the id `before`, newest first.
    ///
    /// # Errors
    /// If the user has no such connection, or the database fails.
    #[tracing::instrument(target = TRACES, skip_all, fields(connection = %id))]
    pub async fn token_accesses(
        &self,
        user: &UserId,
        id: ConnectionId,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<RecordedAccess>> {
        self.reader.find_own(user, id).await?;
        Ok(db::token_accesses(&self.core.database, user, id, before, limit).await?)
    }
}
