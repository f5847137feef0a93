//! Polls of open attempts while a caller waits.
//!
//! A poll belongs to its attempt, not to the callers that wait for it. Its result is applied even if all callers have
//! disconnected.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, join_all};

use super::core::Core;
use super::reconcile::Reconciler;
use crate::domain::{Attempt, AttemptId};
use crate::nango::Priority;
use crate::views::ConnectionView;

/// The maximum number of a user's attempts that are polled while a client waits, newest first. Users rarely have more
/// popups open; the sweep covers other attempts.
pub(crate) const MAX_POLLED_ATTEMPTS: u8 = 20;

/// The number of polls of one attempt without the cache that are sent within a minute.
const UNCACHED_POLLS_PER_MINUTE: u32 = 3;

/// The time for which a response waits for polls.
const POLL_TIMEOUT: Duration = Duration::from_secs(2);

/// The pause before the first poll of a waiting client, and the maximum. The pause doubles with each poll, because
/// polls only replace lost webhooks, and each counts toward Nango's rate limit.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
const MAX_POLL_INTERVAL: Duration = Duration::from_secs(5);

type Poll = Shared<BoxFuture<'static, bool>>;

/// The polls of open attempts, shared by waiting callers.
#[derive(Debug)]
pub(crate) struct AttemptPolls {
    core: Arc<Core>,
    reconciler: Arc<Reconciler>,
    in_progress: Arc<PollsInProgress>,
}

/// The polls in progress, by attempt. Each returns whether it changed anything.
#[derive(Debug, Default)]
struct PollsInProgress(Mutex<HashMap<AttemptId, Poll>>);

impl PollsInProgress {
    fn lock(&self) -> MutexGuard<'_, HashMap<AttemptId, Poll>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A guard that removes a poll when it ends, even by a panic.
struct PollInProgress {
    polls: Arc<PollsInProgress>,
    attempt: AttemptId,
}

impl Drop for PollInProgress {
    fn drop(&mut self) {
        self.polls.lock().remove(&self.attempt);
    }
}

impl AttemptPolls {
    pub(crate) fn new(core: Arc<Core>, reconciler: Arc<Reconciler>) -> Self {
        Self {
            core,
            reconciler,
            in_progress: Arc::default(),
        }
    }

    /// Polls Nango for each of these attempts, for at most [`POLL_TIMEOUT`]. Returns whether anything may have changed.
    ///
    /// If little of Nango's rate limit is left, does not poll: other calls take precedence, and a webhook also reports
    /// the attempt.
    pub(crate) async fn poll_all(&self, attempts: &[Attempt]) -> bool {
        if !self.core.has_room(Priority::Poll) {
            return false;
        }
        let polls = join_all(attempts.iter().map(|attempt| self.poll_shared(attempt.id)));
        match tokio::time::timeout(POLL_TIMEOUT, polls).await {
            Ok(changed) => changed.contains(&true),
            // Some of the polls may have changed something before the timeout.
            Err(_elapsed) => true,
        }
    }

    /// Polls an attempt without the cache, for at most [`POLL_TIMEOUT`]. Returns `true` if the result was complete.
    ///
    /// Anybody with a connection's id can request this. Only the first request within a minute has the priority of a
    /// connect, and after [`UNCACHED_POLLS_PER_MINUTE`] of them none polls.
    pub(crate) async fn poll_uncached(&self, attempt: AttemptId) -> bool {
        let Some(upstream) = &self.core.upstream else {
            return false;
        };
        let priority = match upstream.attempt_poller.count_uncached(attempt).await {
            0 => Priority::Connect,
            1..UNCACHED_POLLS_PER_MINUTE if self.core.has_room(Priority::Poll) => Priority::Poll,
            _ => return false,
        };
        let reconciler = self.reconciler.clone();
        let poll = async move { reconciler.poll_uncached(attempt).await };
        let poll = tokio::spawn(priority.scope(poll));
        match tokio::time::timeout(POLL_TIMEOUT, poll).await {
            Ok(Ok(Ok(is_complete))) => is_complete,
            Ok(Ok(Err(error))) => {
                tracing::warn!(%attempt, %error, "could not poll nango for an attempt");
                false
            }
            Ok(Err(_)) | Err(_) => false,
        }
    }

    /// Returns the poll of an attempt that is in progress, or starts one.
    fn poll_shared(&self, attempt: AttemptId) -> Poll {
        let mut polls = self.in_progress.lock();
        if let Some(poll) = polls.get(&attempt) {
            return poll.clone();
        }
        let reconciler = self.reconciler.clone();
        let in_progress = PollInProgress {
            polls: self.in_progress.clone(),
            attempt,
        };
        let task = tokio::spawn(async move {
            let _in_progress = in_progress;
            let poll = Priority::Poll.scope(reconciler.poll(attempt));
            poll.await.unwrap_or_else(|error| {
                tracing::warn!(%attempt, %error, "could not poll nango for an attempt");
                false
            })
        });
        let poll = task.map(|result| result.unwrap_or(false)).boxed().shared();
        polls.insert(attempt, poll.clone());
        poll
    }

    /// Waits until the next poll of these attempts is due, after `polls` previous ones. Never returns if there is no
    /// attempt or Nango is disabled.
    pub(crate) async fn pause(&self, open: &[Attempt], polls: u32) {
        if self.core.upstream.is_none() || open.is_empty() {
            return std::future::pending().await;
        }
        let pause = POLL_INTERVAL.saturating_mul(2_u32.saturating_pow(polls));
        Box::pin(tokio::time::sleep(pause.min(MAX_POLL_INTERVAL))).await;
    }
}

/// Returns the open attempts of these connections, newest first, at most [`MAX_POLLED_ATTEMPTS`].
pub(crate) fn open_attempts(details: &[ConnectionView]) -> Vec<Attempt> {
    let mut open: Vec<&Attempt> = details
        .iter()
        .filter_map(|details| details.attempt.as_ref())
        .filter(|attempt| attempt.outcome.is_none())
        .collect();
    open.sort_by_key(|attempt| Reverse(attempt.created_at));
    let newest = open.into_iter().take(MAX_POLLED_ATTEMPTS.into());
    newest.cloned().collect()
}
