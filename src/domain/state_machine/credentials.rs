//! Credentials: the result of a check, and whether Nango still has the connection.

use chrono::{DateTime, TimeDelta, Utc};

use super::Transition;
use crate::domain::{Account, Connection, EventKind, Reason, State};

/// The number of rejected refreshes after which credentials are dead, and the minimum time between the first and the
/// last.
const MIN_REFUSALS: usize = 3;
const MIN_REFUSAL_SPREAD: TimeDelta = TimeDelta::minutes(5);

/// The minimum time between two rejected refreshes that count.
const REFUSAL_INTERVAL: TimeDelta = TimeDelta::minutes(1);

/// The number of absences at Nango after which a connection is missing, and the minimum time between the first and the
/// last.
const MIN_ABSENCES: usize = 5;
pub(crate) const MIN_ABSENCE_SPREAD: TimeDelta = TimeDelta::minutes(5);

/// The minimum time between two absences that count.
pub(crate) const ABSENCE_INTERVAL: TimeDelta = TimeDelta::minutes(1);

/// The maximum time between two consecutive absences. A longer gap means that a clock jumped or that Nango was not
/// queried, so the count starts again.
const MAX_ABSENCE_GAP: TimeDelta = TimeDelta::minutes(15);

/// The initial and the maximum backoff before dead credentials are retried. It doubles with each rejected refresh.
const INITIAL_RETRY_PAUSE: TimeDelta = TimeDelta::minutes(2);
const MAX_RETRY_PAUSE: TimeDelta = TimeDelta::hours(12);

/// The number of rejected refreshes after which dead credentials are not retried. The pauses before add up to a week.
const MAX_REFUSALS: usize = 23;

impl Connection {
    /// Applies a successful refresh at Nango. `account` is the credentials' account, if the provider reports it.
    /// Returns `None` if nothing changes.
    #[must_use]
    pub fn healthy(&self, account: Option<&Account>, now: DateTime<Utc>) -> Option<Transition> {
        let is_change = match &self.state {
            State::Connected { .. } => self.failing_since.is_some(),
            State::Error { reason, .. } => match reason {
                Reason::AccountMismatch => return None,
                Reason::NeedsReauthorization | Reason::MissingUpstream => true,
                // The state before the failed attempt may have been an account mismatch, so the provider has to report
                // the account.
                _ => self.account.is_none() || account.is_some(),
            },
            State::Pending { .. } | State::Disconnected { .. } => return None,
        };
        let upstream = self.state.upstream()?;
        if self.differs_from(account) {
            return Some(self.mismatched(upstream, account, now));
        }
        if !is_change {
            return None;
        }
        let state = State::Connected {
            upstream: upstream.clone(),
        };
        let mut transition = self.transition(state, EventKind::Recovered, now);
        // An imported connection may not have a time yet.
        transition.connection.connected_at.get_or_insert(now);
        transition.connection.last_checked_at = Some(now);
        transition.connection.clear_errors();
        Some(transition)
    }

    /// Records a failed refresh that may be caused by a provider's outage. Returns `None` if nothing changes.
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

    /// Counts a refresh that the provider rejected while it refreshed other connections. Returns the times of all
    /// counted ones, and whether they mean that the credentials are dead. A single rejection may be temporary.
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

    /// Counts an absence of the connection at Nango. Returns the times of all counted ones, and whether they mean that
    /// the connection is missing. When there are enough times, the newest replaces the last.
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

    /// Returns whether a retry of dead credentials is due. Retries have exponential backoff and stop after a week.
    pub fn is_retry_due(&self, now: DateTime<Utc>) -> bool {
        self.state.reason() == Some(Reason::NeedsReauthorization)
            && is_retry_due(&self.refusals, now)
    }

    /// Records that the credentials are dead. Returns `None` if the connection is not connected.
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

    /// Records that Nango no longer has the connection `nango_connection_id`. Returns `None` if nothing changes.
    ///
    /// A connection that may have another account's grant keeps its error. A missing one recovers when Nango has it
    /// again, without a comparison of accounts.
    #[must_use]
    pub fn missing(&self, nango_connection_id: &str, now: DateTime<Utc>) -> Option<Transition> {
        let is_own_account = match self.state.reason() {
            Some(Reason::AwaitingAuthorization | Reason::MissingUpstream) => return None,
            None | Some(Reason::NeedsReauthorization) => true,
            Some(_) => self.account.is_none(),
        };
        let upstream = (self.state.upstream())
            .filter(|upstream| is_own_account && upstream.id == nango_connection_id)?;
        // The id is kept, so that the connection is recognized if Nango has it again.
        let state = State::Error {
            reason: Reason::MissingUpstream,
            upstream: Some(upstream.clone()),
        };
        let mut transition = self.transition(state, EventKind::MissingUpstream, now);
        transition.connection.last_checked_at = Some(now);
        transition.connection.failing_since = None;
        transition.failed("The connection was deleted at Nango: connect again");
        Some(transition)
    }

    /// Records the refresh of a token that the provider had rejected. Returns `None` if the connection is not
    /// connected.
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
}

/// Returns whether a retry is due for credentials whose refreshes were rejected at these times.
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

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::{ConnectorId, ConnectorRef, UserId};

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).expect("a valid time")
    }

    fn connection(refusals: Vec<DateTime<Utc>>) -> Connection {
        let connector = ConnectorRef {
            id: ConnectorId(Uuid::nil()),
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
            // Several absences within a minute count as one.
            (vec![0, 1, 2, 3, 4, 300], false),
            // Absences from before a clock jump do not count.
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
