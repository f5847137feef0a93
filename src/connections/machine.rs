//! The state machine: what each thing that happens makes of a connection.
//!
//! Every function looks at a connection and says what changes, or that nothing
//! does; the service writes it down in one transaction. All of them may be told
//! the same thing twice, in any order.

use chrono::{DateTime, Utc};

use super::{
    Attempt, AttemptKind, Connection, EventKind, Failure, Outcome, Reason, State, Upstream,
};

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
    pub discard: Option<Upstream>,
}

/// What a grant does.
#[derive(Debug, PartialEq)]
pub enum Grant {
    /// It changes the connection.
    Taken(Box<Transition>),
    /// It was known already.
    Known,
    /// It comes too late or is not the newest: what Nango holds of it is to be deleted.
    Discarded,
}

impl Connection {
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
        self.transition(state, EventKind::AttemptStarted, now)
    }

    /// What kind of attempt authorizes this connection: one that keeps what Nango holds, if anything.
    #[must_use]
    pub fn attempt_kind(&self) -> AttemptKind {
        match self.state.upstream() {
            Some(_) => AttemptKind::Reconnect,
            None => AttemptKind::Connect,
        }
    }

    /// Nango holds `grant`, which `attempt` brought about.
    #[must_use]
    pub fn granted(&self, attempt: &Attempt, grant: &Upstream, now: DateTime<Utc>) -> Grant {
        if attempt.void || matches!(self.state, State::Disconnected { .. }) {
            return Grant::Discarded;
        }
        let current = self.state.upstream();
        let discard = match current {
            Some(current) if current.id == grant.id => None,
            Some(current) if current.created_at > grant.created_at => return Grant::Discarded,
            other => other.cloned(),
        };
        let same = discard.is_none() && current.is_some();
        // Told again of a success that was taken before: what has become of it since is not its to say.
        if same && attempt.outcome == Some(Outcome::Succeeded) {
            return Grant::Known;
        }
        let connected = matches!(self.state, State::Connected { .. });
        let event = if connected {
            EventKind::Reauthorized
        } else {
            EventKind::Connected
        };
        let state = State::Connected {
            upstream: grant.clone(),
        };
        let mut transition = self.transition(state, event, now);
        transition.connection.connected_at = Some(now);
        transition.connection.last_checked_at = Some(now);
        transition.connection.last_error = None;
        transition.connection.error_count = 0;
        transition.outcome = Some((Outcome::Succeeded, None));
        transition.discard = discard;
        Grant::Taken(Box::new(transition))
    }

    /// An attempt ended without a grant: denied, broken or expired. `None` if it had ended before.
    ///
    /// A connection that works goes on working.
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
        transition.connection.last_error = Some(failure.message.clone());
        transition.connection.error_count = self.error_count.saturating_add(1);
        let outcome = match failure.reason {
            Reason::AttemptExpired => Outcome::Expired,
            _ => Outcome::Failed,
        };
        transition.outcome = Some((outcome, Some(failure.clone())));
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
        transition.connection.last_error = None;
        transition.connection.error_count = 0;
        transition.discard = self.state.upstream().cloned();
        Some(transition)
    }

    /// The user gives it another label or config.
    #[must_use]
    pub fn updated(&self, now: DateTime<Utc>) -> Transition {
        self.transition(self.state.clone(), EventKind::Updated, now)
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
        }
    }
}
