//! Grants: the authorization of a connection, and its account.

use chrono::{DateTime, Utc};

use super::Transition;
use crate::domain::{
    Account, Actor, Attempt, AttemptKind, Connection, EventKind, Failure, NangoConnectionRef,
    Outcome, Reason, State,
};

/// The effect of a grant.
#[derive(Debug, PartialEq)]
pub enum Grant {
    /// The grant changes the connection.
    Applied(Box<Transition>),
    /// The grant was applied before.
    AlreadyApplied,
    /// The grant is late or not the newest. Its connection at Nango has to be deleted.
    Discarded,
}

impl Connection {
    /// Applies `grant`, which `attempt` created. `account` is its account, if the provider reports it.
    #[must_use]
    pub fn granted(
        &self,
        attempt: &Attempt,
        grant: &NangoConnectionRef,
        account: Option<&Account>,
        now: DateTime<Utc>,
    ) -> Grant {
        let current = self.state.upstream();
        // Nango renews a connection in place, so a completed reauthorization cannot be undone after a cancellation.
        let is_renewed = current.is_some_and(|current| current.id == grant.id);
        let is_canceled = attempt.outcome == Some(Outcome::Canceled) && !is_renewed;
        if attempt.invalidated || is_canceled || matches!(self.state, State::Disconnected { .. }) {
            return Grant::Discarded;
        }
        let discard = match current {
            Some(current) if current.id == grant.id => None,
            Some(current) if !self.is_older_than(attempt) && current.is_newer_than(grant) => {
                return Grant::Discarded;
            }
            other => other.cloned(),
        };
        let is_same_connection = discard.is_none() && current.is_some();
        // A repeated notification of an applied grant changes nothing. But one session may be granted again with
        // another account.
        let last_account = self.pending_account.as_ref().or(self.account.as_ref());
        let is_other_account = last_account
            .zip(account)
            .is_some_and(|(last_account, account)| last_account.id != account.id);
        if is_same_connection && attempt.is_grant_applied() && !is_other_account {
            return Grant::AlreadyApplied;
        }
        let mut transition = if current.is_some() && self.differs_from(account) {
            self.mismatched(grant, account, now)
        } else {
            self.connected(grant, account, now)
        };
        transition.discard = discard;
        Grant::Applied(Box::new(transition))
    }

    /// Returns whether the current grant was applied before `attempt` started. Then the attempt's grant is newer, even if
    /// it has a lower serial number, as after a restore of Nango's database.
    ///
    /// Only open attempts count: no attempt has started since. A mismatch is excluded, because it does not set the time.
    fn is_older_than(&self, attempt: &Attempt) -> bool {
        attempt.kind == AttemptKind::Connect
            && attempt.outcome.is_none()
            && self.state.reason() != Some(Reason::AccountMismatch)
            && self.connected_at.is_some_and(|at| attempt.created_at > at)
    }

    fn connected(
        &self,
        grant: &NangoConnectionRef,
        account: Option<&Account>,
        now: DateTime<Utc>,
    ) -> Transition {
        let event = match self.state {
            State::Connected { .. } => EventKind::Reauthorized,
            _ => EventKind::Connected,
        };
        let state = State::Connected {
            upstream: grant.clone(),
        };
        let mut transition = self.transition(state, event, now);
        let connection = &mut transition.connection;
        connection.connected_at = Some(now);
        connection.last_synced_at = connection.last_synced_at.max(Some(now));
        connection.last_checked_at = Some(now);
        // Without a connection at Nango to renew, the new grant may be for a different account.
        let previous = self
            .account
            .as_ref()
            .filter(|_| self.state.upstream().is_some());
        connection.account = match account {
            Some(account) => Some(account.or_known(previous)),
            None => previous.cloned(),
        };
        connection.account_unknown_reason = None;
        connection.scopes = None;
        connection.missing_scopes = None;
        connection.pending_account = None;
        connection.clear_errors();
        transition.context.account = connection.account.as_ref().map(Account::label);
        transition.outcome = Some((Outcome::Succeeded, None));
        transition.by(Actor::User)
    }

    /// Records that Nango's connection now has a different account. It is neither used nor deleted until the user
    /// decides.
    pub(super) fn mismatched(
        &self,
        grant: &NangoConnectionRef,
        found: Option<&Account>,
        now: DateTime<Utc>,
    ) -> Transition {
        let state = State::Error {
            reason: Reason::AccountMismatch,
            upstream: Some(grant.clone()),
        };
        let name = |account: Option<&Account>| account.map(Account::label).unwrap_or_default();
        let failure = Failure {
            reason: Reason::AccountMismatch,
            message: format!(
                "This connection is {}'s, and was authorized as {}",
                name(self.account.as_ref()),
                name(found)
            ),
        };
        let mut transition = self.transition(state, EventKind::AccountMismatched, now);
        transition.connection.failing_since = None;
        transition.connection.pending_account = found.cloned();
        transition.failed(&failure.message);
        transition.outcome = Some((Outcome::Failed, Some(failure)));
        transition
    }

    /// Applies the account that a lookup found. Returns `None` if nothing changes.
    #[must_use]
    pub fn account_identified(&self, account: &Account, now: DateTime<Utc>) -> Option<Transition> {
        let is_mismatch = self.state.reason() == Some(Reason::AccountMismatch);
        if !is_mismatch && !matches!(self.state, State::Connected { .. }) {
            return None;
        }
        let upstream = self.state.upstream()?;
        if self.differs_from(Some(account)) {
            let pending = self.pending_account.as_ref();
            let is_new = pending.is_none_or(|pending| pending.id != account.id);
            return is_new.then(|| self.mismatched(upstream, Some(account), now));
        }
        let account = account.or_known(self.account.as_ref());
        let is_known = self.account.as_ref() == Some(&account);
        if !is_mismatch && is_known && self.account_unknown_reason.is_none() {
            return None;
        }
        if is_mismatch {
            // The user reauthorized with the expected account.
            let grant = upstream.clone();
            let mut transition = self.connected(&grant, Some(&account), now);
            transition.outcome = None;
            return Some(transition.by(Actor::System));
        }
        let mut transition = self.transition(self.state.clone(), EventKind::AccountIdentified, now);
        transition.context.account = Some(account.label());
        transition.connection.account = Some(account);
        transition.connection.account_unknown_reason = None;
        Some(transition)
    }

    /// Accepts the different account that a reconnect returned, for the user. Returns `None` if no account is pending.
    #[must_use]
    pub fn account_accepted(&self, now: DateTime<Utc>) -> Option<Transition> {
        let State::Error {
            reason: Reason::AccountMismatch,
            upstream: Some(upstream),
        } = &self.state
        else {
            return None;
        };
        let state = State::Connected {
            upstream: upstream.clone(),
        };
        let mut transition = self.transition(state, EventKind::AccountAccepted, now);
        transition.connection.account = transition.connection.pending_account.take();
        transition.context.account = transition.connection.account.as_ref().map(Account::label);
        transition.connection.account_unknown_reason = None;
        transition.connection.connected_at = Some(now);
        transition.connection.clear_errors();
        Some(transition)
    }
}

impl Attempt {
    /// Returns whether a grant of this attempt was applied, including as an account mismatch.
    pub(crate) fn is_grant_applied(&self) -> bool {
        let mismatched = |failure: &Failure| failure.reason == Reason::AccountMismatch;
        self.outcome == Some(Outcome::Succeeded) || self.error.as_ref().is_some_and(mismatched)
    }
}
