//! The state machine: how each signal changes a connection.
//!
//! Every function takes a connection and returns its transition, or that nothing changes; the service writes it in one
//! transaction. All of them are idempotent, and accept signals in any order.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Map;
use uuid::Uuid;

use super::UserId;
use super::{
    Account, Actor, Attempt, Connection, ConnectorRef, EventContext, EventKind, Failure,
    NangoConnectionRef, Outcome, Reason, Rename, State,
};

/// How many refusals mean that credentials are dead, and over how long they have to be spread.
const MIN_REFUSALS: usize = 3;
const MIN_REFUSAL_SPREAD: TimeDelta = TimeDelta::minutes(5);

/// How long after a refusal another one counts.
const REFUSAL_INTERVAL: TimeDelta = TimeDelta::minutes(1);

/// How many times Nango has to lack a connection that is missing, and over how long these times have to be spread.
const MIN_ABSENCES: usize = 5;
pub(crate) const MIN_ABSENCE_SPREAD: TimeDelta = TimeDelta::minutes(5);

/// How long after an absence another one counts.
pub(crate) const ABSENCE_INTERVAL: TimeDelta = TimeDelta::minutes(1);

/// The longest time between two absences that confirm each other. After a longer one, a clock may have jumped or nothing
/// may have queried Nango.
const MAX_ABSENCE_GAP: TimeDelta = TimeDelta::minutes(15);

/// The pause before dead credentials are tried again, doubled with each refusal, and the longest one.
const INITIAL_RETRY_PAUSE: TimeDelta = TimeDelta::minutes(2);
const MAX_RETRY_PAUSE: TimeDelta = TimeDelta::hours(12);

/// After how many refusals dead credentials are not tried any more: the pauses before take a week.
const MAX_REFUSALS: usize = 23;

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

/// What a grant does.
#[derive(Debug, PartialEq)]
pub enum Grant {
    /// It changes the connection.
    Applied(Box<Transition>),
    /// It was known already.
    AlreadyApplied,
    /// It comes too late or is not the newest: what Nango holds of it is to be deleted.
    Discarded,
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
            id: Uuid::now_v7(),
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

    /// Nango stores `grant`, which `attempt` created; `account` is its account, if the provider reports it.
    #[must_use]
    pub fn granted(
        &self,
        attempt: &Attempt,
        grant: &NangoConnectionRef,
        account: Option<&Account>,
        now: DateTime<Utc>,
    ) -> Grant {
        let current = self.state.upstream();
        // Nango renews a connection in place: what a canceled reauthorization has changed cannot be undone there.
        let is_renewed = current.is_some_and(|current| current.id == grant.id);
        let is_canceled = attempt.outcome == Some(Outcome::Canceled) && !is_renewed;
        if attempt.invalidated || is_canceled || matches!(self.state, State::Disconnected { .. }) {
            return Grant::Discarded;
        }
        let discard = match current {
            Some(current) if current.id == grant.id => None,
            Some(current) if current.is_newer_than(grant) => return Grant::Discarded,
            other => other.cloned(),
        };
        let same = discard.is_none() && current.is_some();
        // A repeated notification of a grant that was already applied does not change the connection. But a session
        // may be granted again, with another account.
        let seen = self.pending_account.as_ref().or(self.account.as_ref());
        let another = seen
            .zip(account)
            .is_some_and(|(seen, account)| seen.id != account.id);
        if same && attempt.is_grant_applied() && !another {
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
        // Without a connection at Nango to renew, the next account may be another one.
        let known = self
            .account
            .as_ref()
            .filter(|_| self.state.upstream().is_some());
        connection.account = match account {
            Some(account) => Some(account.or_known(known)),
            None => known.cloned(),
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

    /// Nango's connection has become another account's: it is neither used nor thrown away until the user decides.
    fn mismatched(
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

    /// A look-up has found whose account the connection is. `None` if that is no news.
    #[must_use]
    pub fn account_identified(&self, account: &Account, now: DateTime<Utc>) -> Option<Transition> {
        let is_mismatch = self.state.reason() == Some(Reason::AccountMismatch);
        if !is_mismatch && !matches!(self.state, State::Connected { .. }) {
            return None;
        }
        let upstream = self.state.upstream()?;
        if self.differs_from(Some(account)) {
            let known = self.pending_account.as_ref();
            let is_new = known.is_none_or(|known| known.id != account.id);
            return is_new.then(|| self.mismatched(upstream, Some(account), now));
        }
        let account = account.or_known(self.account.as_ref());
        let is_known = self.account.as_ref() == Some(&account);
        if !is_mismatch && is_known && self.account_unknown_reason.is_none() {
            return None;
        }
        if is_mismatch {
            // Authorized once more, as the right account.
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

    /// The user takes the account that a reconnect came back as. `None` if there is nothing to decide.
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

    /// Nango has just refreshed the credentials; `account` is their account, if the provider reports it. Returns
    /// `None` if nothing changes.
    #[must_use]
    pub fn healthy(&self, account: Option<&Account>, now: DateTime<Utc>) -> Option<Transition> {
        let news = match &self.state {
            State::Connected { .. } => self.failing_since.is_some(),
            State::Error { reason, .. } => match reason {
                Reason::AccountMismatch => return None,
                Reason::NeedsReauthorization | Reason::MissingUpstream => true,
                // Before the failed attempt it may have been another account's, so the provider has to report the
                // account.
                _ => self.account.is_none() || account.is_some(),
            },
            State::Pending { .. } | State::Disconnected { .. } => return None,
        };
        let upstream = self.state.upstream()?;
        if self.differs_from(account) {
            return Some(self.mismatched(upstream, account, now));
        }
        if !news {
            return None;
        }
        let state = State::Connected {
            upstream: upstream.clone(),
        };
        let mut transition = self.transition(state, EventKind::Recovered, now);
        // An imported connection may never have been seen connected.
        transition.connection.connected_at.get_or_insert(now);
        transition.connection.last_checked_at = Some(now);
        transition.connection.clear_errors();
        Some(transition)
    }

    /// A refresh was refused, by a provider that may only be out of order. `None` if that is no news.
    #[must_use]
    pub fn credentials_failing(&self, now: DateTime<Utc>) -> Option<Transition> {
        if !matches!(self.state, State::Connected { .. }) || self.failing_since.is_some() {
            return None;
        }
        let mut transition =
            self.transition(self.state.clone(), EventKind::CredentialsFailing, now);
        transition.connection.failing_since = Some(now);
        transition.connection.last_checked_at = Some(now);
        transition.failed("The provider does not refresh the credentials at the moment");
        Some(transition)
    }

    /// The provider refused to refresh the credentials and refreshed others'. Returns the refusals so far, and whether
    /// they mean that the credentials are dead: one refusal may be a moment's.
    #[must_use]
    pub fn refused(&self, now: DateTime<Utc>) -> (Vec<DateTime<Utc>>, bool) {
        let mut refusals = self.refusals.clone();
        let counts = refusals
            .last()
            .is_none_or(|last| now - *last >= REFUSAL_INTERVAL);
        if counts && refusals.len() < MAX_REFUSALS {
            refusals.push(now);
        }
        let spread = refusals.first().map(|first| now - *first);
        let is_dead = refusals.len() >= MIN_REFUSALS
            && spread.is_some_and(|spread| spread >= MIN_REFUSAL_SPREAD);
        (refusals, is_dead)
    }

    /// Nango does not have the connection at this moment. Returns when it did not have it so far, and whether that proves
    /// that it is missing. The newest time replaces the last one when there are enough.
    #[must_use]
    pub fn absent(&self, now: DateTime<Utc>) -> (Vec<DateTime<Utc>>, bool) {
        let mut absences = self.absences.clone();
        let gap = absences.last().map(|last| now - *last);
        if gap.is_some_and(|gap| gap < TimeDelta::zero() || gap > MAX_ABSENCE_GAP) {
            absences.clear();
        }
        if absences.is_empty() || gap.is_some_and(|gap| gap >= ABSENCE_INTERVAL) {
            absences.truncate(MIN_ABSENCES - 1);
            absences.push(now);
        }
        let spread = absences.first().map(|first| now - *first);
        let is_missing = absences.len() >= MIN_ABSENCES
            && spread.is_some_and(|spread| spread >= MIN_ABSENCE_SPREAD);
        (absences, is_missing)
    }

    /// Whether dead credentials are to be tried again: with growing pauses, for a week.
    #[must_use]
    pub fn is_retry_due(&self, now: DateTime<Utc>) -> bool {
        self.state.reason() == Some(Reason::NeedsReauthorization)
            && is_retry_due(&self.refusals, now)
    }

    /// A refresh was refused for good. `None` if that is no news.
    #[must_use]
    pub fn credentials_dead(&self, now: DateTime<Utc>) -> Option<Transition> {
        let State::Connected { upstream } = &self.state else {
            return None;
        };
        let state = State::Error {
            reason: Reason::NeedsReauthorization,
            upstream: Some(upstream.clone()),
        };
        let mut transition = self.transition(state, EventKind::NeedsReauthorization, now);
        transition.connection.last_checked_at = Some(now);
        transition.connection.failing_since = None;
        transition.failed("The provider no longer accepts the credentials: authorize again");
        Some(transition)
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

    /// Nango no longer holds `gone`. `None` if that is no news.
    #[must_use]
    pub fn missing(&self, nango_connection_id: &str, now: DateTime<Utc>) -> Option<Transition> {
        let upstream = match &self.state {
            State::Connected { upstream } => upstream,
            State::Error {
                reason,
                upstream: Some(upstream),
            } if *reason != Reason::MissingUpstream => upstream,
            _ => return None,
        };
        if upstream.id != nango_connection_id {
            return None;
        }
        // Its id is kept: should Nango hold it again, it is known again.
        let state = State::Error {
            reason: Reason::MissingUpstream,
            upstream: Some(upstream.clone()),
        };
        let mut transition = self.transition(state, EventKind::MissingUpstream, now);
        transition.connection.last_checked_at = Some(now);
        transition.connection.failing_since = None;
        transition.connection.pending_account = None;
        transition.failed("The connection was deleted at Nango: connect again");
        Some(transition)
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

    /// Its token was refused by the provider, and refreshed. `None` if it is connected no longer.
    #[must_use]
    pub fn token_refreshed(&self, now: DateTime<Utc>) -> Option<Transition> {
        let State::Connected { .. } = &self.state else {
            return None;
        };
        let mut transition = self.transition(self.state.clone(), EventKind::TokenRefreshed, now);
        transition.connection.last_checked_at = Some(now);
        transition.connection.clear_errors();
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

/// Whether credentials that were refused at these times are to be tried again.
pub(crate) fn is_retry_due(refusals: &[DateTime<Utc>], now: DateTime<Utc>) -> bool {
    let Some(last) = refusals.last() else {
        return true;
    };
    let doublings = u32::try_from(refusals.len() - 1).unwrap_or(u32::MAX);
    let factor = 2_i32.checked_pow(doublings.min(20)).unwrap_or(i32::MAX);
    let pause = INITIAL_RETRY_PAUSE.checked_mul(factor);
    let pause = pause.map_or(MAX_RETRY_PAUSE, |pause| pause.min(MAX_RETRY_PAUSE));
    refusals.len() < MAX_REFUSALS && now - *last >= pause
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

impl Attempt {
    /// Whether a grant of this attempt has been looked at and decided on.
    pub(crate) fn is_grant_applied(&self) -> bool {
        let mismatched = |failure: &Failure| failure.reason == Reason::AccountMismatch;
        self.outcome == Some(Outcome::Succeeded) || self.error.as_ref().is_some_and(mismatched)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).expect("a valid time")
    }

    fn connection(refusals: Vec<DateTime<Utc>>) -> Connection {
        let connector = ConnectorRef {
            id: Uuid::nil(),
            slug: "gmail".to_owned(),
            name: "Gmail".to_owned(),
        };
        let user = UserId::try_from("ada".to_owned()).expect("a valid user id");
        Connection {
            refusals,
            ..Connection::new(user, connector.into(), String::new(), at(0))
        }
    }

    #[test]
    fn three_refusals_over_five_minutes_mean_dead() {
        for (times, expected) in [
            (vec![0, 300], false),
            (vec![0, 1, 300], false),
            (vec![0, 60, 120], false),
            (vec![0, 60, 299], false),
            (vec![0, 60, 300], true),
            (vec![0, 150, 300], true),
        ] {
            let mut connection = connection(Vec::new());
            let mut is_dead = false;
            for seconds in &times {
                (connection.refusals, is_dead) = connection.refused(at(*seconds));
            }
            assert_eq!(is_dead, expected, "{times:?}");
        }
    }

    #[test]
    fn five_absences_over_five_minutes_mean_missing() {
        let every_minute = [0, 60, 120, 180, 240];
        let hour = 3600;
        for (times, expected) in [
            (vec![0, 300], false),
            (every_minute.to_vec(), false),
            ([&every_minute[..], &[299]].concat(), false),
            ([&every_minute[..], &[300]].concat(), true),
            // Several in one minute are one.
            (vec![0, 1, 2, 3, 4, 300], false),
            // Nothing counts from before a clock has jumped.
            ([&every_minute[..], &[240 + hour]].concat(), false),
            ([&every_minute[..], &[240 - hour]].concat(), false),
            (vec![0, 60, hour, hour + 60, hour + 120], false),
        ] {
            let mut connection = connection(Vec::new());
            let mut is_missing = false;
            for seconds in &times {
                (connection.absences, is_missing) = connection.absent(at(*seconds));
            }
            assert_eq!(is_missing, expected, "{times:?}");
        }
    }

    #[test]
    fn dead_credentials_are_retried_for_a_week() {
        let mut refusals = vec![at(0), at(150), at(300)];
        let mut now = at(300);
        while refusals.len() < MAX_REFUSALS {
            now += TimeDelta::minutes(1);
            if is_retry_due(&refusals, now) {
                refusals.push(now);
            }
        }
        assert!((now - at(0)).num_days() >= 7, "{}", now - at(0));
        assert!(!is_retry_due(&refusals, now + TimeDelta::days(30)));
    }
}
