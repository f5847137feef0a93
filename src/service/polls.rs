//! Polls of open attempts while a caller waits.
//!
//! A poll belongs to its attempt and not to the callers who wait for it: it ends by itself, and its result is applied
//! also when all of them have gone.

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

/// How many of a user's newest attempts are polled while a client waits. The sweep covers the others: users do not
/// have so many popups open.
pub(crate) const MAX_POLLED_ATTEMPTS: u8 = 20;

/// How long an answer waits for a poll.
const POLL_TIMEOUT: Duration = Duration::from_secs(2);

/// How long after the start of a wait Nango is polled. The pause doubles with each poll, up to the maximum: polls are for
/// lost webhooks, and each counts towards Nango's rate limit.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
const MAX_POLL_INTERVAL: Duration = Duration::from_secs(5);

type Poll = Shared<BoxFuture<'static, bool>>;

/// Polls Nango for open attempts.
#[derive(Debug)]
pub(crate) struct AttemptPolls {
    core: Arc<Core>,
    reconciler: Arc<Reconciler>,
    in_progress: Arc<PollsInProgress>,
}

/// The polls in progress, by attempt, each with whether it changed anything.
#[derive(Debug, Default)]
struct PollsInProgress(Mutex<HashMap<AttemptId, Poll>>);

impl PollsInProgress {
    fn lock(&self) -> MutexGuard<'_, HashMap<AttemptId, Poll>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes a poll when it ends, however it ends.
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

    /// Polls Nango for each of these attempts, for as long as an answer may wait. Says whether anything may have changed.
    ///
    /// Where Nango's rate limit leaves little, others' requests come first: a webhook reports the attempt as well.
    pub(crate) async fn poll_all(&self, attempts: &[Attempt]) -> bool {
        if !self.core.has_room(Priority::Poll) {
            return false;
        }
        let polls = join_all(attempts.iter().map(|attempt| self.poll_shared(attempt.id)));
        match tokio::time::timeout(POLL_TIMEOUT, polls).await {
            Ok(changed) => changed.contains(&true),
            // What the polls have changed by now is read again.
            Err(_elapsed) => true,
        }
    }

    /// Polls an attempt now, whatever was answered a moment ago, for as long as an answer may wait. Says whether all that
    /// Nango has of it was seen.
    pub(crate) async fn poll_uncached(&self, attempt: AttemptId) -> bool {
        let reconciler = self.reconciler.clone();
        let poll = async move { reconciler.poll_uncached(attempt).await };
        let poll = tokio::spawn(Priority::Connect.scope(poll));
        match tokio::time::timeout(POLL_TIMEOUT, poll).await {
            Ok(Ok(Ok(is_complete))) => is_complete,
            Ok(Ok(Err(error))) => {
                tracing::warn!(%attempt, %error, "could not poll nango for an attempt");
                false
            }
            Ok(Err(_)) | Err(_) => false,
        }
    }

    /// The poll in progress of an attempt, or else a new one.
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
        let poll = task.map(|ended| ended.unwrap_or(false)).boxed().shared();
        polls.insert(attempt, poll.clone());
        poll
    }

    /// Returns when it is time to poll Nango for these attempts, after so many polls; never where there are none.
    pub(crate) async fn pause(&self, open: &[Attempt], polls: u32) {
        if self.core.upstream.is_none() || open.is_empty() {
            return std::future::pending().await;
        }
        let pause = POLL_INTERVAL.saturating_mul(2_u32.saturating_pow(polls));
        Box::pin(tokio::time::sleep(pause.min(MAX_POLL_INTERVAL))).await;
    }
}

/// Returns the newest open attempts of these connections, for which a reader may be waiting.
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
