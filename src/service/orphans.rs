//! Orphans: connections of this installation at Nango without a row, for example after a restore of the database. An
//! operator restores or deletes them.

use std::collections::HashSet;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::core::Core;
use super::reconcile::{listed, tagged_user};
use super::{Error, Result};
use crate::db;
use crate::domain::{
    AttemptId, Connection, ConnectionId, DeletionReason, NangoConnectionRef, Reason, UserId,
};
use crate::nango::attempt_poller::{
    ATTEMPT_TAG, CONNECTION_TAG, CONNECTOR_TAG, INSTALLATION_TAG, INSTANCE_TAG,
};
use crate::nango::{ConnectionSummary, ListConnections};
use crate::telemetry::TRACES;

/// The number of connections on a page of Nango's list.
const PAGE_SIZE: u32 = 1000;

/// A connection at Nango with this installation's tags and without a row.
#[derive(Clone, Debug)]
pub struct Orphan {
    /// The connection at Nango.
    pub nango: NangoConnectionRef,
    /// The user in its tags; `None` without a valid tag.
    pub user: Option<UserId>,
    /// The id of its row in its tags; `None` without a valid tag.
    pub connection: Option<ConnectionId>,
    /// The slug of the connector in its tags; `None` without a tag.
    pub connector: Option<String>,
    /// The instance in its tags; empty for the connector's first instance.
    pub instance_id: String,
}

impl Orphan {
    fn new(summary: &ConnectionSummary) -> Self {
        let tag = |name: &str| summary.tags.get(name).cloned();
        Self {
            nango: listed(summary),
            user: tagged_user(&summary.tags),
            connection: tag(CONNECTION_TAG).and_then(|id| id.parse().ok()),
            connector: tag(CONNECTOR_TAG),
            instance_id: tag(INSTANCE_TAG).unwrap_or_default(),
        }
    }

    /// Returns its age in days, hours or minutes, as text.
    pub fn age(&self, now: DateTime<Utc>) -> String {
        let age = now - self.nango.created_at;
        if age.num_days() > 0 {
            format!("{} d", age.num_days())
        } else if age.num_hours() > 0 {
            format!("{} h", age.num_hours())
        } else {
            format!("{} min", age.num_minutes())
        }
    }
}

/// Finds an installation's orphans, and restores or deletes them.
#[derive(Debug)]
pub struct Orphans {
    core: Arc<Core>,
}

impl Orphans {
    /// Returns the use case for this installation.
    pub fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// Returns all orphans, the newest first.
    ///
    /// # Errors
    /// As Nango and the database.
    #[tracing::instrument(target = TRACES, name = "list_orphans", skip_all)]
    pub async fn list(&self) -> Result<Vec<Orphan>> {
        let mut ids = HashSet::new();
        let mut orphans = Vec::new();
        for page in 0.. {
            let tag = (INSTALLATION_TAG, self.core.installation.to_string());
            let filter = ListConnections {
                limit: Some(PAGE_SIZE),
                page: Some(page),
                ..ListConnections::tagged([tag])
            };
            let found = self.core.nango()?.connection_page(&filter).await?;
            // Pages overlap if connections are created meanwhile.
            let mut new = found.connections;
            new.retain(|it| ids.insert(it.connection_id.clone()));
            // A page without new connections is the last one. Nango may ignore a page number beyond the last page.
            if new.is_empty() {
                break;
            }
            self.add_orphans(&mut orphans, &new).await?;
        }
        Ok(orphans)
    }

    async fn add_orphans(
        &self,
        orphans: &mut Vec<Orphan>,
        found: &[ConnectionSummary],
    ) -> Result<()> {
        let ids: Vec<&str> = found.iter().map(|it| it.connection_id.as_str()).collect();
        let attempt = |summary: &ConnectionSummary| -> Option<AttemptId> {
            summary.tags.get(ATTEMPT_TAG)?.parse().ok()
        };
        let attempts: Vec<AttemptId> = found.iter().filter_map(attempt).collect();
        let mut tx = self.core.begin().await?;
        let rows = db::find_by_nango_ids(&mut tx, &ids).await?;
        let known_attempts = db::known_attempts(&mut tx, &attempts).await?;
        let queued = db::find_queued_deletions(&mut tx, &ids).await?;
        tx.commit().await?;
        let used: HashSet<&str> = rows
            .iter()
            .map(|it| it.nango_connection_id.as_str())
            .collect();
        let is_orphan = |summary: &&ConnectionSummary| {
            let id = summary.connection_id.as_str();
            // The sweep applies grants of known attempts.
            let is_known = attempt(summary).is_some_and(|it| known_attempts.contains_key(&it));
            !used.contains(id) && !queued.contains(id) && !is_known
        };
        orphans.extend(found.iter().filter(is_orphan).map(Orphan::new));
        Ok(())
    }

    /// Restores an orphan's connection with its former id. It is connected again.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the tags lack data that a row needs, if the user has connected again, or if the orphan is
    /// being deleted; as the database.
    #[tracing::instrument(target = TRACES, name = "restore_orphan", skip_all)]
    pub async fn restore(&self, orphan: &Orphan) -> Result<Connection> {
        let invalid = |detail: String| Err(Error::Invalid(detail));
        let (Some(user), Some(id)) = (&orphan.user, orphan.connection) else {
            return invalid("its tags do not name its user and connection".to_owned());
        };
        let now = self.core.clock.now();
        let mut tx = self.core.begin().await?;
        if db::is_in_use(&mut tx, &orphan.nango.id).await? {
            return invalid("a connection uses it already".to_owned());
        }
        if !db::cancel_deletion(&mut tx, &orphan.nango.id).await? {
            return invalid("it is being deleted at Nango: list the orphans again".to_owned());
        }
        let connection = match db::lock_own(&mut tx, user, id).await? {
            Some(connection) => {
                let is_dead = matches!(
                    connection.state.reason(),
                    Some(Reason::NeedsReauthorization | Reason::MissingUpstream)
                );
                if let Some(current) = connection.state.upstream()
                    && !is_dead
                    && current.is_newer_than(&orphan.nango)
                {
                    return invalid("its connection has a newer grant".to_owned());
                }
                db::apply(&mut tx, &connection.restored(&orphan.nango, now), None).await?
            }
            None => {
                let key = &orphan.nango.integration.key;
                let slug = orphan.connector.as_deref();
                let mut connectors = db::connectors_of(&mut tx, slug, key).await?;
                let (Some(connector), true) = (connectors.pop(), connectors.is_empty()) else {
                    return invalid(match slug {
                        Some(slug) => format!("the catalog has no connector {slug:?}"),
                        None => format!("no single connector has the integration {key:?}"),
                    });
                };
                let instance = orphan.instance_id.clone();
                let new = Connection {
                    id,
                    ..Connection::new(user.clone(), connector.into(), instance, now)
                };
                let Some(restored) =
                    db::insert_restored(&mut tx, &new.restored(&orphan.nango, now)).await?
                else {
                    return invalid("its user has connected again".to_owned());
                };
                restored
            }
        };
        tx.commit().await?;
        Ok(connection)
    }

    /// Queues the deletion of an orphan at Nango. The deletion is retried until Nango confirms it.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a connection uses it by now; as the database.
    #[tracing::instrument(target = TRACES, name = "delete_orphan", skip_all)]
    pub async fn delete(&self, orphan: &Orphan) -> Result<()> {
        let mut tx = self.core.begin().await?;
        if db::is_in_use(&mut tx, &orphan.nango.id).await? {
            return Err(Error::Invalid("a connection uses it already".to_owned()));
        }
        let (reason, now) = (DeletionReason::Orphan, self.core.clock.now());
        db::queue_deletion(&mut tx, &orphan.nango, reason, None, orphan.connection, now).await?;
        tx.commit().await?;
        self.core.deletions.notify_one();
        Ok(())
    }
}
