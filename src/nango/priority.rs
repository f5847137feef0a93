//! Priorities of calls to Nango, for when little of its rate limit is left.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use strum::{IntoStaticStr, VariantArray};
use tokio::time::Instant;

/// The maximum total duration of the calls of one request, including the waits for the rate limit. The timeout of a
/// request is 30 seconds.
const REQUEST_DEADLINE: Duration = Duration::from_secs(25);

/// The maximum wait of a request for the rate limit.
const REQUEST_WAIT: Duration = Duration::from_secs(10);

/// The maximum wait of a deletion: it stays in its queue, and is claimed again later.
const DELETION_WAIT: Duration = Duration::from_secs(5);

/// The maximum wait of work without a caller: longer than the rate limit's minute.
const BACKGROUND_WAIT: Duration = Duration::from_secs(65);

tokio::task_local! {
    static CURRENT: Scope;
}

/// The purposes of calls to Nango, the most important first.
///
/// A call is sent only if the rate limit then leaves enough for the purposes before it: see [`reserve`](Self::reserve).
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Priority {
    /// A user connects an account, or returns from the provider.
    Connect,
    /// A workflow needs a token, or calls the provider.
    Token,
    /// A user or a webhook requests a credential check, or a user disconnects. Also calls outside of any scope.
    Check,
    /// A caller waits for an attempt, which a webhook reports as well.
    Poll,
    /// Deletions are retried, and attempts expire.
    Deletion,
    /// The account of a connection is looked up.
    AccountLookup,
    /// The sweep.
    Sweep,
}

/// The priority and the shared limits of the calls of one task.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    pub(crate) priority: Priority,
    /// The deadline of all calls; `None` for work without a caller.
    pub(crate) deadline: Option<Instant>,
    /// The total wait of the calls for the rate limit, in milliseconds.
    waited: Arc<AtomicU64>,
}

impl Priority {
    /// Runs calls to Nango with this priority. The calls of a request share one deadline and one maximum wait, or those
    /// of an outer scope.
    pub fn scope<T>(self, calls: impl Future<Output = T>) -> impl Future<Output = T> {
        // Boxed, because scopes wrap large futures, which would otherwise be part of their callers' futures.
        let calls = Box::pin(calls);
        async move {
            let outer = CURRENT.try_with(Clone::clone).ok();
            let scope = match outer {
                Some(outer) if self.is_interactive() && outer.deadline.is_some() => Scope {
                    priority: self,
                    ..outer
                },
                _ => Scope::new(self),
            };
            CURRENT.scope(scope, calls).await
        }
    }

    /// Returns the percentage of the remaining minute's calls that is reserved for higher priorities.
    pub(crate) fn reserve(self) -> u64 {
        match self {
            Self::Connect => 0,
            Self::Token => 20,
            Self::Check => 40,
            Self::Poll => 60,
            Self::Deletion => 70,
            Self::AccountLookup | Self::Sweep => 80,
        }
    }

    /// Returns the maximum wait of a call for the rate limit.
    pub(crate) fn max_wait(self) -> Duration {
        match self {
            Self::Connect | Self::Token | Self::Check | Self::Poll => REQUEST_WAIT,
            Self::Deletion => DELETION_WAIT,
            Self::AccountLookup | Self::Sweep => BACKGROUND_WAIT,
        }
    }

    /// Returns whether a caller waits for the calls.
    fn is_interactive(self) -> bool {
        matches!(self, Self::Connect | Self::Token | Self::Check | Self::Poll)
    }

    /// Returns the name in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        self.into()
    }
}

impl Scope {
    fn new(priority: Priority) -> Self {
        let deadline = Instant::now() + REQUEST_DEADLINE;
        Self {
            priority,
            deadline: priority.is_interactive().then_some(deadline),
            waited: Arc::default(),
        }
    }

    /// Returns the scope of the current task. A call outside of any scope gets its own.
    pub(crate) fn current() -> Self {
        let current = CURRENT.try_with(Clone::clone);
        current.unwrap_or_else(|_outside| Self::new(Priority::Check))
    }

    /// Returns how much longer a call may wait.
    pub(crate) fn wait_left(&self) -> Duration {
        let waited = Duration::from_millis(self.waited.load(Ordering::Relaxed));
        let left = self.priority.max_wait().saturating_sub(waited);
        match self.deadline {
            Some(deadline) => left.min(deadline.saturating_duration_since(Instant::now())),
            None => left,
        }
    }

    /// Records a wait. The waits of a request add up; those of other work do not.
    pub(crate) fn note_wait(&self, waited: Duration) {
        if self.deadline.is_some() {
            let millis = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
            self.waited.fetch_add(millis, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_of_a_request_add_up() {
        let wait = Duration::from_secs(1);
        for (priority, waits) in [(Priority::Connect, 2), (Priority::Sweep, 0)] {
            let scope = Scope::new(priority);
            scope.note_wait(wait);
            scope.clone().note_wait(wait);
            assert_eq!(scope.wait_left(), priority.max_wait() - wait * waits);
        }
    }
}
