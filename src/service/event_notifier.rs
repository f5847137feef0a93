//! Wakes those who wait for a user's events, on every replica.
//!
//! A wake-up is only a hint: each subscriber then reads the events after the last one that it has seen. So no event is
//! lost, and a slow subscriber costs no memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::domain::UserId;

/// The users with subscribers on this replica.
#[derive(Clone, Debug, Default)]
pub struct EventNotifier(Arc<Mutex<HashMap<String, Arc<UserHints>>>>);

/// What has been hinted to those who wait for one user. There are as many as users with a stream, and tokio's `watch`, which
/// does the same, is six times as large.
#[derive(Debug, Default)]
struct UserHints {
    count: AtomicU64,
    more: Notify,
}

impl UserHints {
    fn add(&self) {
        self.count.fetch_add(1, Ordering::SeqCst);
        self.more.notify_waiters();
    }
}

/// Wakes when a user's events have changed, or may have.
#[derive(Debug)]
pub struct Subscription {
    feed: EventNotifier,
    user: String,
    /// There until the end.
    hints: Option<Arc<UserHints>>,
    seen: u64,
}

impl EventNotifier {
    /// Waits for this user's events from now on.
    #[must_use]
    pub fn subscribe(&self, user: &UserId) -> Subscription {
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let hints = users.entry(user.as_str().to_owned()).or_default();
        Subscription {
            feed: self.clone(),
            user: user.as_str().to_owned(),
            seen: hints.count.load(Ordering::SeqCst),
            hints: Some(hints.clone()),
        }
    }

    /// Wakes those who wait for this user.
    pub fn wake(&self, user: &str) {
        let users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hints) = users.get(user) {
            hints.add();
        }
    }

    /// Wakes all, when it is not known what has changed.
    pub fn wake_all(&self) {
        let users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for hints in users.values() {
            hints.add();
        }
    }

    /// Returns the users with subscribers.
    #[must_use]
    pub fn users(&self) -> Vec<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .keys()
            .cloned()
            .collect()
    }
}

impl Subscription {
    /// Returns at the next hint; at once if there was one since the last time.
    pub async fn changed(&mut self) {
        if let Some(hints) = &self.hints {
            // What comes from here on is heard, and what came before is counted.
            let more = hints.more.notified();
            if hints.count.load(Ordering::SeqCst) == self.seen {
                more.await;
            }
            self.seen = hints.count.load(Ordering::SeqCst);
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut users = self.feed.0.lock().unwrap_or_else(PoisonError::into_inner);
        self.hints = None;
        let last = |hints: &Arc<UserHints>| Arc::strong_count(hints) == 1;
        if users.get(&self.user).is_some_and(last) {
            users.remove(&self.user);
        }
    }
}
