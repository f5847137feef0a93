//! The state machine: how each signal changes a connection.
//!
//! Every function takes a connection and returns its transition, or that nothing changes; the service writes it in one
//! transaction. All of them are idempotent, and accept signals in any order.

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

/// What a change writes besides the connection itself.
#[derive(Debug, PartialEq)]
pub struct Transition {
    /// The connection after the change; its version is raised by the store.
    pub connection: Connection,
    /// The name of the change in the history.
    pub event: EventKind,
    /// How the attempt that brought the change ended, if it ended by it.
    pub outcome: Option<(Outcome, Option<Failure>)>,
    /// What is to be deleted at Nango.
    pub discard: Option<NangoConnectionRef>,
    /// What went wrong by this change, for a person to read.
    pub detail: Option<String>,
    /// Who caused it, and what the history says of it besides.
    pub context: EventContext,
}

impl Connection {
    /// One that is not there yet, and waits for its first attempt.
    #[must_use]
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

    /// An attempt begins. A connection that works goes on working meanwhile.
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

    /// An operator restores the connection from what Nango holds of it. Nothing that the row has is newer.
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

    /// An attempt ended without a grant: denied, broken or expired. `None` if it had ended before.
    ///
    /// A connection that waits for no authorization keeps its state and its errors: the attempt has its own.
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

    /// The user cancels an attempt. `None` if it had ended before.
    ///
    /// A connection that never worked is removed with it. One that works keeps its state.
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

    /// The user removes it from the list. `None` if it is connected, or was removed before.
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
        // The next connection of this instance is a new one to its user.
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

    /// The user disconnects. `None` if that was done before.
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
        // The account stays until the next one is known: a list shows whose it was.
        transition.connection.account_unknown_reason = None;
        transition.connection.scopes = None;
        transition.connection.missing_scopes = None;
        transition.connection.pending_account = None;
        transition.connection.clear_errors();
        transition.discard = self.state.upstream().cloned();
        Some(transition)
    }

    /// The user gives it another label or config than it had `before`.
    #[must_use]
    pub fn updated(&self, before: &Self, now: DateTime<Utc>) -> Transition {
        let mut transition = self.transition(self.state.clone(), EventKind::Updated, now);
        transition.context.rename = (self.label != before.label).then(|| Rename {
            from: before.label.clone(),
            to: self.label.clone(),
        });
        transition
    }

    /// Returns whether the connection's account is known, and `reported` is another.
    fn differs_from(&self, reported: Option<&Account>) -> bool {
        match (&self.account, reported) {
            (Some(ours), Some(theirs)) => ours.id != theirs.id,
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
    /// The same, caused by this actor.
    #[must_use]
    pub fn by(mut self, actor: Actor) -> Self {
        self.context.actor = Some(actor);
        self
    }

    /// Writes what went wrong to the connection and to the event.
    fn failed(&mut self, message: &str) {
        self.connection.last_error = Some(message.to_owned());
        self.connection.error_count = self.connection.error_count.saturating_add(1);
        self.detail = Some(message.to_owned());
    }
}
