//! Which calls to Nango go first when its rate limit leaves few.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use strum::{IntoStaticStr, VariantArray};
use tokio::time::Instant;

/// How long all calls of one request take together at the most, the waits for the rate limit included. A request is given
/// 30 seconds.
const REQUEST_DEADLINE: Duration = Duration::from_secs(25);

/// How long a request waits for the rate limit at the most.
const REQUEST_WAIT: Duration = Duration::from_secs(10);

/// How long a deletion waits: its queue holds it, and claims it again later.
const DELETION_WAIT: Duration = Duration::from_secs(5);

/// How long work waits that has no caller: longer than the rate limit's minute.
const BACKGROUND_WAIT: Duration = Duration::from_secs(65);

tokio::task_local! {
    static CURRENT: Scope;
}

/// What calls to Nango are for, the most important first.
///
/// A call is sent only if the rate limit then leaves enough for those before it: see [`reserve`](Self::reserve).
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "snake_case")]
pub enum Priority {
    /// A user connects an account, or returns from the provider.
    Connect,
    /// A workflow needs a token, or calls the provider.
    Token,
    /// A user or a webhook asks for a credential check, or a user ends a connection. Also calls outside of any scope.
    Check,
    /// A caller waits for an attempt, which a webhook reports as well.
    Poll,
    /// Deletions that are retried, and attempts that expire.
    Deletion,
    /// The name of an account is looked up.
    AccountLookup,
    /// The sweep.
    Sweep,
}

/// The priority of the calls of one task, and what they share.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    pub(crate) priority: Priority,
    /// When all calls have to have ended; `None` for work without a caller.
    pub(crate) deadline: Option<Instant>,
    /// How long the calls have waited for the rate limit, in milliseconds.
    waited: Arc<AtomicU64>,
}

impl Priority {
    /// Runs calls to Nango with this priority. For a request, they share one deadline and one bound on their waits,
    /// those of an outer scope if there is one.
    pub fn scope<T>(self, calls: impl Future<Output = T>) -> impl Future<Output = T> {
        // Boxed: scopes stand around large futures, which would otherwise be part of their callers' futures.
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

    /// Returns which percentage of the calls of the rest of a minute stay for higher priorities.
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

    /// Returns how long a call waits at the most until the rate limit admits it.
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

    /// The name in metrics.
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

    /// Returns the scope of the current task. A call outside of any scope is one by itself.
    pub(crate) fn current() -> Self {
        let current = CURRENT.try_with(Clone::clone);
        current.unwrap_or_else(|_outside| Self::new(Priority::Check))
    }

    /// Returns how long a call may wait from now on.
    pub(crate) fn wait_left(&self) -> Duration {
        let waited = Duration::from_millis(self.waited.load(Ordering::Relaxed));
        let left = self.priority.max_wait().saturating_sub(waited);
        match self.deadline {
            Some(deadline) => left.min(deadline.saturating_duration_since(Instant::now())),
            None => left,
        }
    }

    /// Notes a wait. The waits of a request add up; those of other work do not.
    pub(crate) fn note_wait(&self, waited: Duration) {
        if self.deadline.is_some() {
            let millis = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
            self.waited.fetch_add(millis, Ordering::Relaxed);
        }
    }
}
