//! The state machine: how each signal changes a connection.
//!
//! Every function takes a connection and returns its transition, or `None` if nothing changes. The service writes the
//! transition in one transaction. All functions are idempotent and accept signals in any order.

mod credentials;
mod grants;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::Map;
use uuid::Uuid;

use super::{
    Account, Actor, Attempt, Connection, ConnectionId, ConnectorRef, EventContext, EventKind,
    Failure, NangoConnectionRef, Outcome, Reason, Rename, State, UserId,
};

pub(crate) use self::credentials::{ABSENCE_INTERVAL, MIN_ABSENCE_SPREAD, is_retry_due};
pub use self::grants::Grant;

/// A change of a connection, with all that is written in its transaction.
#[derive(Debug, PartialEq)]
pub struct Transition {
    /// The connection after the change. The repository increases its version.
    pub connection: Connection,
    /// The kind of the change in the history.
    pub event: EventKind,
    /// The outcome of the attempt, if this change ends it.
    pub outcome: Option<(Outcome, Option<Failure>)>,
    /// The connection to delete at Nango.
    pub discard: Option<NangoConnectionRef>,
    /// The error, human-readable; `None` if the change is no failure.
    pub detail: Option<String>,
    /// The actor, and additional data for the history.
    pub context: EventContext,
}

impl Connection {
    /// Returns a connection that is not stored yet and has no attempt.
    pub fn new(
        user_id: UserId,
        connector: Arc<ConnectorRef>,
        instance_id: String,
        now: DateTime<Utc>,
    ) -> Self {
        Self {
            id: ConnectionId(Uuid::now_v7()),
            user_id,
            connector,
            instance_id,
            label: None,
            state: State::Pending { previous: None },
            connected_at: None,
            disconnected_at: None,
            last_synced_at: None,
            last_checked_at: None,
            config: Map::new(),
            account: None,
            pending_account: None,
            account_unknown_reason: None,
            scopes: None,
            missing_scopes: None,
            failing_since: None,
            refusals: Vec::new(),
            absences: Vec::new(),
            last_error: None,
            error_count: 0,
            version: 0,
            created_at: now,
            updated_at: now,
        }
    }

    /// Starts an attempt. A working connection remains connected.
    #[must_use]
    pub fn attempt_started(&self, now: DateTime<Utc>) -> Transition {
        let state = match &self.state {
            State::Connected { upstream } => State::Connected {
                upstream: upstream.clone(),
            },
            other => State::Pending {
                previous: other.upstream().cloned(),
            },
        };
        let mut transition = self.transition(state, EventKind::AttemptStarted, now);
        transition.connection.pending_account = None;
        transition
    }

    /// Restores the connection from Nango's data, for an operator. The caller rejects a grant that is older than a
    /// connected one.
    #[must_use]
    pub fn restored(&self, grant: &NangoConnectionRef, now: DateTime<Utc>) -> Transition {
        let state = State::Connected {
            upstream: grant.clone(),
        };
        let mut transition = self.transition(state, EventKind::Restored, now);
        let connection = &mut transition.connection;
        connection.connected_at = Some(now);
        connection.pending_account = None;
        connection.clear_errors();
        let replaced = self.state.upstream();
        transition.discard = replaced.filter(|replaced| replaced.id != grant.id).cloned();
        transition
    }

    /// Ends an attempt without a grant: denied, failed or expired. Returns `None` if it has ended already.
    ///
    /// Only a pending connection changes its state and its errors. Otherwise the attempt alone has the error.
    #[must_use]
    pub fn attempt_failed(
        &self,
        attempt: &Attempt,
        failure: &Failure,
        now: DateTime<Utc>,
    ) -> Option<Transition> {
        if attempt.outcome.is_some() {
            return None;
        }
        let state = match &self.state {
            State::Pending { previous } => State::Error {
                reason: failure.reason,
                upstream: previous.clone(),
            },
            other => other.clone(),
        };
        let mut transition = self.transition(state, EventKind::AttemptFailed, now);
        if matches!(self.state, State::Pending { .. }) {
            transition.failed(&failure.message);
        } else {
            transition.detail = Some(failure.message.clone());
        }
        let outcome = match failure.reason {
            Reason::AttemptExpired => Outcome::Expired,
            _ => Outcome::Failed,
        };
        transition.outcome = Some((outcome, Some(failure.clone())));
        if failure.reason == Reason::AuthorizationDenied {
            return Some(transition.by(Actor::User));
        }
        Some(transition)
    }

    /// Cancels an attempt, for the user. Returns `None` if it has ended already.
    ///
    /// A connection that was never connected is removed. A working one keeps its state.
    #[must_use]
    pub fn attempt_canceled(&self, attempt: &Attempt, now: DateTime<Utc>) -> Option<Transition> {
        if attempt.outcome.is_some() {
            return None;
        }
        let state = match &self.state {
            State::Pending {
                previous: Some(upstream),
            } => State::Error {
                reason: Reason::AuthorizationCanceled,
                upstream: Some(upstream.clone()),
            },
            State::Pending { previous: None } => State::Disconnected {
                reason: match self.connected_at {
                    Some(_) => Reason::UserDisconnected,
                    None => Reason::Removed,
                },
            },
            other => other.clone(),
        };
        let mut transition = self.transition(state, EventKind::AttemptCanceled, now);
        let connection = &mut transition.connection;
        if matches!(connection.state, State::Disconnected { .. }) {
            connection.disconnected_at.get_or_insert(now);
            connection.clear_errors();
        }
        transition.outcome = Some((Outcome::Canceled, None));
        Some(transition)
    }

    /// Removes the connection from the list, for the user. Returns `None` if it is connected or already removed.
    #[must_use]
    pub fn removed(&self, now: DateTime<Utc>) -> Option<Transition> {
        let is_removed = self.state.reason() == Some(Reason::Removed);
        if is_removed || matches!(self.state, State::Connected { .. }) {
            return None;
        }
        let state = State::Disconnected {
            reason: Reason::Removed,
        };
        let mut transition = self.transition(state, EventKind::Removed, now);
        let connection = &mut transition.connection;
        // To the user, a later connection of this instance is a new one.
        connection.connected_at = None;
        connection.disconnected_at.get_or_insert(now);
        connection.label = None;
        connection.config = Map::new();
        connection.account = None;
        connection.pending_account = None;
        connection.clear_errors();
        transition.discard = self.state.upstream().cloned();
        Some(transition)
    }

    /// Disconnects the connection, for the user. Returns `None` if it is already disconnected.
    #[must_use]
    pub fn disconnected(&self, now: DateTime<Utc>) -> Option<Transition> {
        if matches!(self.state, State::Disconnected { .. }) {
            return None;
        }
        let state = State::Disconnected {
            reason: Reason::UserDisconnected,
        };
        let mut transition = self.transition(state, EventKind::Disconnected, now);
        transition.connection.disconnected_at = Some(now);
        // The account stays until the next one is known, because lists show it.
        transition.connection.account_unknown_reason = None;
        transition.connection.scopes = None;
        transition.connection.missing_scopes = None;
        transition.connection.pending_account = None;
        transition.connection.clear_errors();
        transition.discard = self.state.upstream().cloned();
        Some(transition)
    }

    /// Records a change of the label or config by the user. `before` is the connection before the change.
    #[must_use]
    pub fn updated(&self, before: &Self, now: DateTime<Utc>) -> Transition {
        let mut transition = self.transition(self.state.clone(), EventKind::Updated, now);
        transition.context.rename = (self.label != before.label).then(|| Rename {
            from: before.label.clone(),
            to: self.label.clone(),
        });
        transition
    }

    /// Returns whether the connection's account is known and differs from `reported`.
    fn differs_from(&self, reported: Option<&Account>) -> bool {
        match (&self.account, reported) {
            (Some(account), Some(reported)) => account.id != reported.id,
            _ => false,
        }
    }

    fn clear_errors(&mut self) {
        self.failing_since = None;
        self.refusals.clear();
        self.last_error = None;
        self.error_count = 0;
    }

    fn transition(&self, state: State, event: EventKind, now: DateTime<Utc>) -> Transition {
        let connection = Self {
            state,
            updated_at: now,
            ..self.clone()
        };
        Transition {
            connection,
            event,
            outcome: None,
            discard: None,
            detail: None,
            context: EventContext {
                actor: Some(Actor::System),
                account: self.account.as_ref().map(Account::label),
                rename: None,
            },
        }
    }
}

impl Transition {
    /// Returns the transition with this actor.
    #[must_use]
    pub fn by(mut self, actor: Actor) -> Self {
        self.context.actor = Some(actor);
        self
    }

    /// Sets the error of the connection and of the event.
    fn failed(&mut self, message: &str) {
        self.connection.last_error = Some(message.to_owned());
        self.connection.error_count = self.connection.error_count.saturating_add(1);
        self.detail = Some(message.to_owned());
    }
}
