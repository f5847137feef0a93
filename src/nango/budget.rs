//! Nango's rate limit, divided by priority.
//!
//! Nango counts the calls of all replicas together, and each response contains the number that is left in the current
//! minute. Replicas therefore share Nango's count, and each counts only its own calls in progress.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::DateTime;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use reqwest::header::{DATE, HeaderMap};
use strum::VariantArray;
use tokio::time::Instant;

use super::Error;
use super::priority::{Priority, Scope};
use crate::clock::Clock;
use crate::telemetry::metrics::{Durations, GaugeGuard, Label};

/// The window in which Nango counts calls.
const WINDOW: Duration = Duration::from_secs(60);

/// The maximum time until the end of a window. A later end is implausible, so the response is ignored.
const MAX_RESET_DISTANCE: Duration = Duration::from_secs(120);

/// Nango rounds times down to a second.
const ROUNDING: Duration = Duration::from_secs(1);

/// The maximum difference of two ends of the same window.
const SAME_WINDOW: Duration = Duration::from_secs(3);

/// The smallest limit of calls a minute that a Nango has, for which pauses are given.
const FREE_PLAN_LIMIT: u64 = 200;

/// Pauses shrink no further for a greater limit: each page of a list is work for Nango's database.
const MAX_PACED_LIMIT: u64 = 2000;

/// How often a waiting call checks whether it is admitted.
const WAIT_INTERVAL: Duration = Duration::from_millis(50);

/// The number of calls that are left according to the latest responses, and the calls in progress.
#[derive(Debug)]
pub(crate) struct RateBudget {
    clock: Clock,
    state: Mutex<State>,
    waiting: Family<Label, Gauge>,
    waits: Durations<Label>,
    remaining: Gauge,
}

#[derive(Debug, Default)]
struct State {
    window: Option<RateWindow>,
    in_progress: u64,
}

#[derive(Clone, Copy, Debug)]
struct RateWindow {
    limit: u64,
    remaining: u64,
    /// When the response was read, and how long the window lasted from then on.
    read_at: Moment,
    lasts: Duration,
}

/// A moment of the clock and of the system. They differ only in tests that move the clock.
#[derive(Clone, Copy, Debug)]
struct Moment {
    clock: Duration,
    system: Instant,
}

impl Moment {
    fn now(clock: &Clock) -> Self {
        Self {
            clock: clock.monotonic(),
            system: Instant::now(),
        }
    }

    /// Returns the time since `earlier`.
    fn since(self, earlier: Self) -> Duration {
        let clock = self.clock.saturating_sub(earlier.clock);
        clock.max(self.system.saturating_duration_since(earlier.system))
    }
}

/// A call in progress.
#[derive(Debug)]
pub(crate) struct Slot<'a> {
    budget: &'a RateBudget,
    is_answered: bool,
}

impl RateBudget {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            clock,
            state: Mutex::default(),
            waiting: Family::default(),
            waits: Family::new_with_constructor(wait_histogram),
            remaining: Gauge::default(),
        }
    }

    pub(crate) fn register(&self, registry: &mut Registry) {
        for priority in Priority::VARIANTS {
            let priority = [("priority", priority.as_str())];
            drop(self.waiting.get_or_create(&priority));
            drop(self.waits.get_or_create(&priority));
        }
        registry.register(
            "nango_calls_waiting",
            "Calls that are waiting for Nango's rate limit, by priority",
            self.waiting.clone(),
        );
        registry.register(
            "nango_call_wait_seconds",
            "Time that calls waited for Nango's rate limit, without calls that did not wait, by priority",
            self.waits.clone(),
        );
        registry.register(
            "nango_rate_limit_remaining",
            "Calls left in the current minute of Nango's rate limit, as of the last response",
            self.remaining.clone(),
        );
    }

    /// Returns whether a call of this priority would currently be sent without a wait.
    pub(crate) fn has_room(&self, priority: Priority) -> bool {
        let now = Moment::now(&self.clock);
        self.lock().times(priority, now).0.is_zero()
    }

    /// Returns the pause between background calls that takes the same share of Nango's limit as `pause` takes of the free plan's.
    pub(crate) fn scale_pause(&self, pause: Duration) -> Duration {
        let limit = self.lock().window.map_or(0, |window| window.limit);
        let limit = limit.clamp(FREE_PLAN_LIMIT, MAX_PACED_LIMIT);
        pause.mul_f64(FREE_PLAN_LIMIT as f64 / limit as f64)
    }

    /// Waits until a call may be sent.
    ///
    /// # Errors
    /// [`Error::RateLimited`] if the wait would exceed the scope's maximum.
    pub(crate) async fn admit(&self, scope: &Scope) -> Result<Slot<'_>, Error> {
        if let Some(slot) = self.try_admit(scope.priority) {
            return Ok(slot);
        }
        let priority = [("priority", scope.priority.as_str())];
        let waiting = GaugeGuard::new(&self.waiting.get_or_create(&priority));
        let started = Moment::now(&self.clock);
        let most = scope.wait_left();
        let admitted = loop {
            if let Some(slot) = self.try_admit(scope.priority) {
                break Ok(slot);
            }
            let now = Moment::now(&self.clock);
            let (earliest, end) = self.lock().times(scope.priority, now);
            if now.since(started) + earliest > most {
                let retry_after = Some(Duration::from_secs(end.as_secs() + 1));
                break Err(Error::RateLimited { retry_after });
            }
            tokio::time::sleep(WAIT_INTERVAL.min(earliest)).await;
        };
        drop(waiting);
        let waited = Moment::now(&self.clock).since(started);
        scope.note_wait(waited);
        self.waits
            .get_or_create(&priority)
            .observe(waited.as_secs_f64());
        admitted
    }

    fn try_admit(&self, priority: Priority) -> Option<Slot<'_>> {
        let now = Moment::now(&self.clock);
        let mut state = self.lock();
        if !state.times(priority, now).0.is_zero() {
            return None;
        }
        state.in_progress += 1;
        Some(Slot {
            budget: self,
            is_answered: false,
        })
    }

    /// Records the number of remaining calls from a response.
    pub(crate) fn update(&self, headers: &HeaderMap) {
        let now = Moment::now(&self.clock);
        let Some(answered) = RateWindow::read(headers, now, &self.clock) else {
            return;
        };
        let mut state = self.lock();
        let known = state.window.map(|known| (known, known.left(now)));
        let window = match known {
            Some((known, left)) if left.abs_diff(answered.lasts) < SAME_WINDOW => RateWindow {
                // Responses may arrive out of order: the smallest number is the newest.
                remaining: known.remaining.min(answered.remaining),
                limit: answered.limit,
                ..known
            },
            // A late response from the previous minute.
            Some((_, left)) if left > answered.lasts => return,
            _ => answered,
        };
        state.window = Some(window);
        let remaining = i64::try_from(window.remaining);
        self.remaining.set(remaining.unwrap_or(i64::MAX));
    }

    /// Records that Nango rejected a call. Returns how long the next one has to wait; `None` if the response does not
    /// say.
    pub(crate) fn note_refusal(&self, retry_after: Option<Duration>) -> Option<Duration> {
        // Nango counts by the minute. A longer pause comes from a proxy in front of it, and would delay all calls.
        let lasts = retry_after?.min(WINDOW) + ROUNDING;
        let mut state = self.lock();
        let limit = state.window.map_or(1, |window| window.limit);
        state.window = Some(RateWindow {
            limit,
            remaining: 0,
            read_at: Moment::now(&self.clock),
            lasts,
        });
        Some(lasts)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Returns the minimum wait of a call of this priority, and the time until the window ends.
    ///
    /// The reserve for higher priorities shrinks with the remaining time: calls that these have not used by the end are
    /// available to the others.
    fn times(&self, priority: Priority, now: Moment) -> (Duration, Duration) {
        let Some(window) = self.window else {
            return (Duration::ZERO, Duration::ZERO);
        };
        let left = window.left(now);
        let (remaining, rest) = if left.is_zero() {
            (window.limit, WINDOW)
        } else {
            (window.remaining, left.min(WINDOW))
        };
        let free = remaining.saturating_sub(self.in_progress);
        if free == 0 {
            // At the end of a window, the responses to the calls in progress show how many calls the next one has.
            return (left.max(WAIT_INTERVAL), left);
        }
        let percent = u128::from(window.limit) * u128::from(priority.reserve());
        if percent == 0 {
            return (Duration::ZERO, left);
        }
        // The remaining time at which `free` exceeds the reserve.
        let enough = u128::from(free) * 100 * WINDOW.as_millis() / percent;
        let enough = Duration::from_millis(u64::try_from(enough).unwrap_or(u64::MAX));
        (rest.saturating_sub(enough), left)
    }
}

impl RateWindow {
    fn left(&self, now: Moment) -> Duration {
        self.lasts.saturating_sub(now.since(self.read_at))
    }

    fn read(headers: &HeaderMap, read_at: Moment, clock: &Clock) -> Option<Self> {
        let text = |name: &str| headers.get(name)?.to_str().ok();
        let number = |name: &str| text(name)?.parse().ok();
        let ends_at = DateTime::from_timestamp(text("x-ratelimit-reset")?.parse().ok()?, 0)?;
        // Both are Nango's times, because its clock and ours may differ.
        let date = headers.get(DATE).and_then(|date| date.to_str().ok());
        let date = date.and_then(|date| DateTime::parse_from_rfc2822(date).ok());
        let now = date.map_or_else(|| clock.now(), |date| date.to_utc());
        let left = (ends_at - now).to_std().unwrap_or_default();
        (left <= MAX_RESET_DISTANCE).then_some(Self {
            limit: number("x-ratelimit-limit")?,
            remaining: number("x-ratelimit-remaining")?,
            read_at,
            lasts: left + ROUNDING,
        })
    }
}

impl Slot<'_> {
    /// Ends a call whose response was recorded.
    pub(crate) fn answered(mut self) {
        self.is_answered = true;
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let mut state = self.budget.lock();
        state.in_progress -= 1;
        if let (false, Some(window)) = (self.is_answered, &mut state.window) {
            // Without an answer, Nango may have counted the call.
            window.remaining = window.remaining.saturating_sub(1);
        }
    }
}

fn wait_histogram() -> Histogram {
    Histogram::new([0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0])
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn headers(limit: u64, remaining: u64, seconds: i64) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let mut set = |name: &'static str, value: String| {
            headers.insert(name, value.parse().expect("digits are a value"));
        };
        set("x-ratelimit-limit", limit.to_string());
        set("x-ratelimit-remaining", remaining.to_string());
        // Nango's clock is a year ahead of ours.
        set("date", "Wed, 01 Jan 2031 00:00:00 GMT".to_owned());
        set("x-ratelimit-reset", (1_924_992_000 + seconds).to_string());
        headers
    }

    fn budget() -> RateBudget {
        let now = DateTime::from_timestamp(1_800_000_000, 0).expect("a time");
        RateBudget::new(Clock::manual(now))
    }

    fn admitted(budget: &RateBudget) -> Vec<&'static str> {
        let all = Priority::VARIANTS.iter();
        let fits = all.filter(|priority| budget.has_room(**priority));
        fits.map(|priority| priority.as_str()).collect()
    }

    #[test]
    fn low_priorities_leave_calls_to_higher_ones() {
        let budget = budget();
        assert_eq!(admitted(&budget).len(), Priority::VARIANTS.len());
        for (remaining, last) in [
            (199, "sweep"),
            (150, "deletion"),
            (125, "poll"),
            (100, "check"),
            (50, "token"),
            (10, "connect"),
        ] {
            budget.update(&headers(200, remaining, 60));
            assert_eq!(admitted(&budget).last(), Some(&last), "{remaining}");
        }
        budget.update(&headers(200, 0, 60));
        assert_eq!(admitted(&budget), [""; 0]);
    }

    #[test]
    fn reserve_shrinks_with_the_rest_of_the_minute() {
        let budget = budget();
        budget.update(&headers(200, 50, 60));
        assert!(!budget.has_room(Priority::Sweep));
        budget.clock.advance(TimeDelta::seconds(46));
        assert!(budget.has_room(Priority::Sweep));
    }

    #[test]
    fn calls_in_progress_count() {
        let budget = budget();
        budget.update(&headers(200, 2, 60));
        let first = budget.try_admit(Priority::Connect);
        let second = budget.try_admit(Priority::Connect);
        assert!(first.is_some() && second.is_some());
        assert!(budget.try_admit(Priority::Connect).is_none());
        drop((first, second));
        assert!(!budget.has_room(Priority::Connect), "they had no answer");
    }

    #[test]
    fn next_minute_starts_with_all_calls() {
        let budget = budget();
        budget.update(&headers(200, 0, 30));
        budget.clock.advance(TimeDelta::seconds(30));
        assert!(
            !budget.has_room(Priority::Connect),
            "the end is rounded down"
        );
        budget.clock.advance(TimeDelta::seconds(1));
        assert!(budget.has_room(Priority::Sweep));
        // Responses from the previous minute do not affect this one.
        budget.update(&headers(200, 190, 60));
        budget.update(&headers(200, 0, -1));
        assert!(budget.has_room(Priority::Token));
    }

    #[test]
    fn pause_shrinks_with_a_greater_limit() {
        let budget = budget();
        let pause = Duration::from_secs(2);
        assert_eq!(budget.scale_pause(pause), pause);
        for (limit, millis) in [
            (20, 2000),
            (200, 2000),
            (500, 800),
            (2000, 200),
            (u64::MAX, 200),
        ] {
            budget.clock.advance(TimeDelta::minutes(2));
            budget.update(&headers(limit, limit, 60));
            let expected = Duration::from_millis(millis);
            assert_eq!(budget.scale_pause(pause), expected, "{limit}");
        }
    }

    #[test]
    fn refusal_ends_the_minute_when_it_says_so() {
        let budget = budget();
        assert_eq!(budget.note_refusal(None), None);
        assert!(budget.has_room(Priority::Sweep));
        let wait = budget.note_refusal(Some(Duration::ZERO));
        assert_eq!(wait, Some(Duration::from_secs(1)));
        assert!(!budget.has_room(Priority::Connect));
        budget.clock.advance(TimeDelta::seconds(1));
        assert!(budget.has_room(Priority::Connect));
    }

    #[test]
    fn refusal_for_an_hour_stops_calls_for_a_minute() {
        let budget = budget();
        budget.note_refusal(Some(Duration::from_secs(3600)));
        budget.clock.advance(TimeDelta::seconds(60));
        assert!(!budget.has_room(Priority::Connect));
        budget.clock.advance(TimeDelta::seconds(1));
        assert!(budget.has_room(Priority::Connect));
    }
}
