//! Disconnect, and what has to be deleted at Nango after it.

use std::time::Duration;

use chrono::TimeDelta;
use futures::future::join_all;
use tokio::time::Instant;
use uuid::Uuid;

use super::connect::RETURN_WINDOW;
use super::{Connections, Error, Result};
use crate::db;
use crate::db::Deletion;

use crate::domain::UserId;

use crate::domain::{Actor, Attempt, Connection, State};

use crate::nango;
use crate::nango::attempt_poller::{CONNECTION_TAG, INSTALLATION_TAG};
use crate::nango::{ConnectionSummary, Deleted, ListConnections, Nango};
use crate::views::ConnectionView;

/// How long a claimed deletion is nobody else's, in seconds: longer than the calls to Nango may take.
const LEASE_SECONDS: f64 = 60.0;

/// How long a disconnect waits for a deletion that somebody else is at, and how often it looks.
const DELETION_WAIT: Duration = Duration::from_secs(2);
const DELETION_POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How many deletions one pass claims: between two it is looked what is left of Nango's rate limit.
const BATCH: i64 = 5;

/// The longest pause between two tries of one deletion.
const MAX_BACKOFF: TimeDelta = TimeDelta::minutes(10);

/// Which connection of a connector is to be ended.
#[derive(Clone, Debug)]
pub enum DisconnectTarget {
    /// This one.
    Connection(Uuid),
    /// The one of this instance.
    Instance(String),
    /// The only one there is.
    Only,
}

/// What came of a disconnect.
#[derive(Debug)]
pub struct Disconnected {
    /// The connection, disconnected.
    pub connection: Connection,
    /// Whether Nango has confirmed that it holds nothing of it any more.
    pub confirmed: bool,
}

impl Connections {
    /// Ends a connection, here at once, at Nango as soon as it answers. May be repeated.
    ///
    /// # Errors
    /// When there is no such connection, or several and none is named.
    pub async fn disconnect(
        &self,
        user: &UserId,
        connector: &str,
        target: &DisconnectTarget,
        actor: Actor,
    ) -> Result<Disconnected> {
        self.nango_gateway()?;
        let id = self.resolve_target(user, connector, target).await?;
        let now = self.clock.now();
        let mut tx = self.begin().await?;
        let connection = db::lock_own(&mut tx, user, id)
            .await?
            .ok_or(Error::ConnectionNotFound)?;
        let connection = match connection.disconnected(now) {
            Some(transition) => {
                db::invalidate_attempts(&mut tx, user, id, now).await?;
                db::apply(&mut tx, &transition.by(actor), None).await?
            }
            None => connection,
        };
        let ungranted = db::ungranted_attempt(&mut tx, user, id, now - RETURN_WINDOW).await?;
        tx.commit().await?;
        let confirmed = self.delete_grants(id, ungranted).await?;
        Ok(Disconnected {
            connection,
            confirmed,
        })
    }

    /// Cancels the open attempt of a connection; with `attempt`, only that one. A connection that it still brings about
    /// at Nango is deleted there. May be repeated.
    ///
    /// # Errors
    /// When there is no such connection, and as the database.
    pub async fn cancel(
        &self,
        user: &UserId,
        id: Uuid,
        attempt: Option<Uuid>,
        actor: Actor,
    ) -> Result<ConnectionView> {
        self.nango_gateway()?;
        let details = self.fetch_details(user, id).await?;
        let is_meant = |newest: &Attempt| {
            attempt.is_none_or(|attempt| attempt == newest.id) && newest.outcome.is_none()
        };
        let Some(newest) = details.attempt.as_ref().filter(|newest| is_meant(newest)) else {
            return Ok(details);
        };
        let mut tx = self.begin().await?;
        let of = db::lock_attempt(&mut tx, user, newest.id).await?;
        let of = of.ok_or(Error::ConnectionNotFound)?;
        let now = self.clock.now();
        if let Some(transition) = of.connection.attempt_canceled(&of.attempt, now) {
            let transition = transition.by(actor);
            db::apply(&mut tx, &transition, Some(newest.id)).await?;
            tx.commit().await?;
            self.counts.attempt_ended(&of.attempt, &transition);
            self.delete_grants(id, Some(newest.id)).await?;
        }
        self.fetch_details(user, id).await
    }

    /// Removes a connection that is not connected from its user's list. Its history stays. May be repeated.
    ///
    /// # Errors
    /// When there is no such connection, or it is connected.
    pub async fn remove(&self, user: &UserId, id: Uuid, actor: Actor) -> Result<Disconnected> {
        self.nango_gateway()?;
        let now = self.clock.now();
        let mut tx = self.begin().await?;
        let own = db::lock_own(&mut tx, user, id).await?;
        let mut connection = own.ok_or(Error::ConnectionNotFound)?;
        if matches!(connection.state, State::Connected { .. }) {
            return Err(Error::StillConnected);
        }
        // Endpoints that were notified of the connection are notified of its end.
        let ended = connection.disconnected(now);
        if let Some(ended) = ended.filter(|_| connection.connected_at.is_some()) {
            connection = db::apply(&mut tx, &ended.by(actor), None).await?;
        }
        if let Some(removed) = connection.removed(now) {
            db::invalidate_attempts(&mut tx, user, id, now).await?;
            connection = db::apply(&mut tx, &removed.by(actor), None).await?;
        }
        let ungranted = db::ungranted_attempt(&mut tx, user, id, now - RETURN_WINDOW).await?;
        tx.commit().await?;
        let confirmed = self.delete_grants(id, ungranted).await?;
        Ok(Disconnected {
            connection,
            confirmed,
        })
    }

    /// Deletes at Nango what is to be deleted of a connection, and what its user may have granted unseen by an attempt.
    /// Says whether nothing is left.
    async fn delete_grants(&self, id: Uuid, ungranted: Option<Uuid>) -> Result<bool> {
        let seen = match ungranted {
            Some(attempt) => self.poll_uncached(attempt).await,
            None => true,
        };
        Ok(self.delete_now(id).await? && seen)
    }

    async fn resolve_target(
        &self,
        user: &UserId,
        connector: &str,
        target: &DisconnectTarget,
    ) -> Result<Uuid> {
        // A connector that has left the catalog can still be disconnected.
        let reference = self.connectors.by_reference(connector).await?;
        let unknown = || Error::ConnectorNotFound(connector.to_owned());
        let connector_id = reference.ok_or_else(unknown)?.id;
        let filter = db::Filter {
            connector_id: Some(connector_id),
            listed: true,
            ..db::Filter::default()
        };
        let found = match target {
            DisconnectTarget::Connection(id) => {
                let own = self.find_own(user, *id).await?;
                (own.connector.id == connector_id).then_some(own.id)
            }
            DisconnectTarget::Instance(name) => {
                let asked = db::ConnectionByInstance {
                    user: user.clone(),
                    connector: connector_id,
                    name: name.clone(),
                };
                let row = self.instances.load(asked).await?;
                row.map(|row| row.id()).transpose()?
            }
            DisconnectTarget::Only => sole_connection(&self.list_all(user, &filter).await?)?
                .map(|connection| connection.id),
        };
        found.ok_or(Error::ConnectionNotFound)
    }

    /// Tries now what still has to be deleted of a connection. Says whether nothing is left.
    pub(crate) async fn delete_now(&self, connection: Uuid) -> Result<bool> {
        let end = Instant::now() + DELETION_WAIT;
        loop {
            let claimed = self.run_deletions(Some(connection)).await?;
            let mut tx = self.begin_single().await?;
            let pending = db::has_pending_deletion(&mut tx, connection).await?;
            tx.commit().await?;
            // Pending without having been claimed here: the worker, or another replica, is at it.
            if !pending || claimed > 0 || Instant::now() >= end {
                return Ok(!pending);
            }
            tokio::time::sleep(DELETION_POLL_INTERVAL).await;
        }
    }

    /// One pass over what is due to be deleted at Nango, while Nango's rate limit leaves room for it. Answers how
    /// many were claimed; another pass is wanted at once where there may be more.
    ///
    /// # Errors
    /// As the database; what Nango does not confirm is tried again later.
    pub async fn delete_due(&self) -> Result<usize> {
        if !self.has_rate_budget() {
            return Ok(0);
        }
        let claimed = self.run_deletions(None).await?;
        if i64::try_from(claimed) == Ok(BATCH) {
            self.deletions.notify_one();
        }
        Ok(claimed)
    }

    /// Returns when there may be something new to delete.
    pub async fn wait_for_deletions(&self) {
        self.deletions.notified().await;
    }

    async fn run_deletions(&self, connection: Option<Uuid>) -> Result<usize> {
        let now = self.clock.now();
        let mut tx = self.begin_single().await?;
        let claimed = db::claim_deletions(&mut tx, connection, now, LEASE_SECONDS, BATCH).await?;
        tx.commit().await?;
        let done = join_all(claimed.iter().map(|deletion| self.delete(deletion))).await;
        done.into_iter().collect::<Result<Vec<()>>>()?;
        Ok(claimed.len())
    }

    async fn delete(&self, deletion: &Deletion) -> Result<()> {
        let id = &deletion.nango_connection_id;
        let answer = self.delete_at(&self.nango_gateway()?.nango, deletion).await;
        let mut tx = self.begin_single().await?;
        match answer {
            Ok(()) => db::complete_deletion(&mut tx, id).await?,
            Err(error) => {
                tracing::warn!(
                    nango_connection = id, connection = ?deletion.connection_id, attempts = deletion.attempts, %error,
                    "Nango has not confirmed a deletion: it is tried again"
                );
                let next = self.clock.now() + backoff(deletion.attempts);
                db::reschedule_deletion(&mut tx, id, &error.to_string(), next).await?;
            }
        }
        tx.commit().await?;
        Ok(())
    }

    /// Deletes at Nango, whichever integration the connection is of by now.
    async fn delete_at(&self, nango: &Nango, deletion: &Deletion) -> Result<(), nango::Error> {
        let id = &deletion.nango_connection_id;
        let answer = nango.delete_connection(id, &deletion.integration_key);
        // Nango says of a connection of another integration, as may be of one that was imported, that it is not
        // there. Only an id of Nango's own making means the same connection in whatever integration.
        if answer.await? == Deleted::Now || Uuid::try_parse(id).is_err() {
            return Ok(());
        }
        let filter = ListConnections {
            connection_id: Some(id.clone()),
            ..ListConnections::default()
        };
        for summary in nango.connection_page(&filter).await?.complete()? {
            if self.is_meant(deletion, &summary) {
                let key = &summary.provider_config_key;
                nango.delete_connection(id, key).await?;
            } else {
                tracing::warn!(
                    nango_connection = id,
                    integration = summary.provider_config_key,
                    "a connection at Nango has the id of a pending deletion and the tags of another owner: left alone"
                );
            }
        }
        Ok(())
    }

    /// Whether the tags of a connection at Nango do not say that it is another's than the one that is to be deleted.
    fn is_meant(&self, deletion: &Deletion, summary: &ConnectionSummary) -> bool {
        let is = |tag: &str, ours: Option<Uuid>| {
            let tagged = summary.tags.get(tag);
            tagged.is_none_or(|tagged| ours.is_none_or(|ours| tagged.parse() == Ok(ours)))
        };
        is(INSTALLATION_TAG, Some(self.installation)) && is(CONNECTION_TAG, deletion.connection_id)
    }
}

/// Doubles with each try, from one second on.
fn backoff(attempts: i32) -> TimeDelta {
    let exponent = u32::try_from(attempts.clamp(1, 20) - 1).unwrap_or(0);
    let pause = Duration::from_secs(1) * 2_u32.pow(exponent);
    TimeDelta::from_std(pause).map_or(MAX_BACKOFF, |pause| pause.min(MAX_BACKOFF))
}

/// The one that is meant when none is named: the only one that is not ended, or the only one.
fn sole_connection(all: &[Connection]) -> Result<Option<&Connection>> {
    let live: Vec<&Connection> = all
        .iter()
        .filter(|connection| !matches!(connection.state, State::Disconnected { .. }))
        .collect();
    let candidates = if live.is_empty() {
        all.iter().collect()
    } else {
        live
    };
    match candidates.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        several => Err(Error::AmbiguousConnection(
            several.iter().map(|connection| connection.id).collect(),
        )),
    }
}
