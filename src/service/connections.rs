//! A user's own connections: read, waited for, checked and described.

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
use crate::domain::{Account, Actor, Connection, ConnectionId, Event, State, UserId};
use crate::nango::Priority;
use crate::telemetry::TRACES;
use crate::views::ConnectionView;

/// For how long after a change of its label or config another one is part of the same event.
const MERGED: TimeDelta = TimeDelta::minutes(1);

/// What a user changes of a connection.
#[derive(Clone, Debug, Default)]
pub struct Update {
    /// A new label, or none at all.
    pub label: Option<Option<String>>,
    /// Merged into the config by key (RFC 7396): null removes one.
    pub config: Option<Map<String, Value>>,
}

/// Reads and changes users' own connections.
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
    /// A page of a user's connections. Those that wait for a grant are looked up at Nango first.
    ///
    /// # Errors
    /// As the database. That Nango does not answer only means that nothing new is known.
    #[tracing::instrument(target = TRACES, name = "list_connections", skip_all)]
    pub async fn list(&self, user: &UserId, query: &Query) -> Result<Page> {
        let page = self.lists.page(user, query).await?;
        let open = open_attempts(&page.connections);
        if self.core.upstream.is_some() && !open.is_empty() && self.polls.poll_all(&open).await {
            return self.lists.page(user, query).await;
        }
        Ok(page)
    }

    /// One connection of a user, looked up at Nango first if it waits for a grant.
    ///
    /// # Errors
    /// When there is no such connection, and as the database.
    #[tracing::instrument(target = TRACES, name = "get_connection", skip_all, fields(connection = %id))]
    pub async fn get(&self, user: &UserId, id: ConnectionId) -> Result<ConnectionView> {
        let details = self.reader.view(user, id).await?;
        let open = open_attempts(std::slice::from_ref(&details));
        if self.core.upstream.is_some() && !open.is_empty() && self.polls.poll_all(&open).await {
            return self.reader.view(user, id).await;
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
            // Something has just happened: what was found a moment before says nothing.
            self.polls.poll_uncached(attempt.id).await;
        }
        self.reader.view(&user, connection).await
    }

    /// A connection that came back from the popup by an id that is not known here: Nango is asked,
    /// each time, whether it has one of it that is this user's.
    ///
    /// # Errors
    /// When it has not, and as Nango and the database.
    #[tracing::instrument(target = TRACES, skip_all)]
    pub async fn find_returned_at_nango(&self, user: &UserId, id: &str) -> Result<ConnectionView> {
        let find = Priority::Connect.scope(self.reconciler.find_at_nango(user, id));
        let found = find.await?;
        let connection = found.ok_or(Error::ConnectionNotFound)?;
        self.reader.view(user, connection.id).await
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
    async fn find_returned_anywhere(&self, id: &str) -> Result<Option<(UserId, ConnectionId)>> {
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
                    "no such account waits to be taken for this connection".to_owned(),
                ));
            }
        }
        tx.commit().await?;
        self.reader.view(user, id).await
    }

    /// Changes a connection's label or config. Changes that follow each other within a minute are one event.
    ///
    /// # Errors
    /// When there is no such connection, or the config would become too large.
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
            if !db::merge_update(&mut tx, &updated, now - MERGED).await? {
                db::apply(&mut tx, &updated, None).await?;
            }
        }
        tx.commit().await?;
        self.reader.view(user, id).await
    }

    /// Returns a connection as soon as no attempt of it is open, or as it is when `patience` ends. Meanwhile it is read
    /// again only when it may have changed.
    ///
    /// # Errors
    /// When there is no such connection, and as the database.
    pub async fn wait(
        &self,
        user: &UserId,
        id: ConnectionId,
        timeout: Duration,
    ) -> Result<ConnectionView> {
        let deadline = Instant::now() + timeout;
        let mut subscription = self.feed.subscribe(user);
        let mut details = self.get(user, id).await?;
        let mut polls = 0;
        loop {
            let open = open_attempts(std::slice::from_ref(&details));
            if open.is_empty() || Instant::now() >= deadline {
                return Ok(details);
            }
            let may_have_changed = tokio::select! {
                () = subscription.changed() => true,
                // Not cancelled by a notification, which may be of the change that it is applying.
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

    /// Asks Nango now how a connection is, by a forced refresh. Returns what it found; `None` while the connection waits for
    /// its user.
    ///
    /// # Errors
    /// When there is no such connection, it has nothing at Nango to be asked about, or Nango does not answer.
    #[tracing::instrument(target = TRACES, name = "check_connection", skip_all, fields(connection = %id))]
    pub async fn check(
        &self,
        user: &UserId,
        id: ConnectionId,
    ) -> Result<(ConnectionView, Option<Health>)> {
        self.core.nango_gateway()?;
        let connection = self.reader.find_own(user, id).await?;
        let health = match &connection.state {
            State::Pending { .. } => None,
            State::Disconnected { .. } => {
                return Err(Error::Invalid(
                    "a disconnected connection has nothing to check".to_owned(),
                ));
            }
            state if state.upstream().is_none() => {
                return Err(Error::Invalid(
                    "nothing was ever authorized that could be checked".to_owned(),
                ));
            }
            _ => {
                let check = Priority::Check.scope(self.checks.check_connection(&connection));
                Some(Box::pin(check).await?.0.into())
            }
        };
        Ok((self.get(user, id).await?, health))
    }

    /// A page of what has happened to a connection, the newest first, before this version of it; and before
    /// which version the next page is, if anything is left on it.
    ///
    /// # Errors
    /// When there is no such connection, and as the database.
    #[tracing::instrument(target = TRACES, skip_all, fields(connection = %id))]
    pub async fn history(
        &self,
        user: &UserId,
        id: ConnectionId,
        before: Option<i64>,
        limit: i64,
    ) -> Result<(Vec<Event>, Option<i64>)> {
        self.reader.find_own(user, id).await?;
        let mut tx = self.core.begin_single().await?;
        let mut events = db::history(&mut tx, user, id, before, limit + 1).await?;
        tx.commit().await?;
        let more = i64::try_from(events.len()).is_ok_and(|found| found > limit);
        if more {
            events.pop();
        }
        let last = events.last().map(|event| event.version);
        Ok((events, last.filter(|_| more)))
    }

    /// A page of who has used a connection's credentials, the newest first.
    ///
    /// # Errors
    /// When there is no such connection, and as the database.
    #[tracing::instrument(target = TRACES, skip_all, fields(connection = %id))]
    pub async fn token_accesses(
        &self,
        user: &UserId,
        id: ConnectionId,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<RecordedAccess>> {
        self.reader.find_own(user, id).await?;
        let mut tx = self.core.begin_single().await?;
        let uses = db::token_accesses(&mut tx, user, id, before, limit).await?;
        tx.commit().await?;
        Ok(uses)
    }
}
