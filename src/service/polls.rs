//! Polls of open attempts while a caller waits.
//!
//! A poll belongs to its attempt and not to the callers who wait for it: it ends by itself, and its result is applied
//! also when all of them have gone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, join_all};
use uuid::Uuid;

use super::{Connections, Error, Result};
use crate::domain::Attempt;
use crate::nango::Priority;

/// How long an answer waits for a poll.
const POLL_TIMEOUT: Duration = Duration::from_secs(2);

/// The polls in progress, by attempt, each with whether it changed anything.
#[derive(Debug, Default)]
pub(crate) struct AttemptPolls(Mutex<HashMap<Uuid, Shared<BoxFuture<'static, bool>>>>);

impl AttemptPolls {
    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, Shared<BoxFuture<'static, bool>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes a poll when it ends, however it ends.
struct PollInProgress {
    service: Arc<Connections>,
    attempt: Uuid,
}

impl Drop for PollInProgress {
    fn drop(&mut self) {
        self.service.polls.lock().remove(&self.attempt);
    }
}

impl Connections {
    /// Polls Nango for each of these attempts, for as long as an answer may wait. Says whether anything may have changed.
    ///
    /// Where Nango's rate limit leaves little, others' requests come first: a webhook reports the attempt as well.
    pub(crate) async fn poll_all(self: &Arc<Self>, attempts: &[Attempt]) -> bool {
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
    pub(crate) async fn poll_uncached(self: &Arc<Self>, attempt: Uuid) -> bool {
        let service = self.clone();
        let poll = tokio::spawn(Priority::Connect.scope(async move {
            let poller = &service.core.nango_gateway()?.attempt_poller;
            let found = poller.poll_uncached(attempt).await?;
            service.apply_grants(attempt, found.connections).await?;
            Ok::<_, Error>(found.is_complete)
        }));
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
    fn poll_shared(self: &Arc<Self>, attempt: Uuid) -> Shared<BoxFuture<'static, bool>> {
        let mut polls = self.polls.lock();
        if let Some(poll) = polls.get(&attempt) {
            return poll.clone();
        }
        let service = self.clone();
        let in_progress = PollInProgress {
            service: service.clone(),
            attempt,
        };
        let task = tokio::spawn(async move {
            let _in_progress = in_progress;
            let poll = Priority::Poll.scope(service.poll_attempt(attempt));
            poll.await.unwrap_or_else(|error| {
                tracing::warn!(%attempt, %error, "could not poll nango for an attempt");
                false
            })
        });
        let poll = task.map(|ended| ended.unwrap_or(false)).boxed().shared();
        polls.insert(attempt, poll.clone());
        poll
    }

    /// Polls Nango for what an attempt has brought about, at most once a second.
    async fn poll_attempt(&self, attempt: Uuid) -> Result<bool> {
        let poller = &self.core.nango_gateway()?.attempt_poller;
        let found = poller.poll(attempt).await?.connections;
        if self.unchanged_grants.contains(attempt, &found).await {
            return Ok(false);
        }
        self.apply_grants(attempt, found).await
    }
}
