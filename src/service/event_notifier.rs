//! Wakes the subscribers of a user's events on this replica.
//!
//! A wake-up is only a hint. Each subscriber then reads the events after the last one that it has read. No event is
//! therefore lost, and a slow subscriber needs no buffer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::domain::UserId;

type Users = HashMap<String, watch::Sender<()>>;

/// The users with subscribers on this replica.
#[derive(Clone, Debug, Default)]
pub struct EventNotifier {
    users: Arc<Mutex<Users>>,
    /// The number of times that events may have been missed.
    gaps: Arc<AtomicU64>,
}

/// A subscription to a user's events. It wakes when there are new events, or may be.
#[derive(Debug)]
pub struct Subscription {
    notifier: EventNotifier,
    user: String,
    /// `None` only during the drop.
    changes: Option<watch::Receiver<()>>,
}

impl EventNotifier {
    /// Subscribes to this user's events from now on.
    pub fn subscribe(&self, user: &UserId) -> Subscription {
        let mut users = self.users_mut();
        let sender = users.entry(user.as_str().to_owned()).or_default();
        Subscription {
            notifier: self.clone(),
            user: user.as_str().to_owned(),
            changes: Some(sender.subscribe()),
        }
    }

    /// Wakes this user's subscribers.
    pub fn wake(&self, user: &str) {
        if let Some(sender) = self.users_mut().get(user) {
            sender.send_replace(());
        }
    }

    /// Wakes all subscribers, because events may have been missed: the connection to the database was lost, and the
    /// database may have been restored.
    pub fn wake_all(&self) {
        self.gaps.fetch_add(1, Ordering::AcqRel);
        for sender in self.users_mut().values() {
            sender.send_replace(());
        }
    }

    /// Returns the number of times that events may have been missed. A subscriber compares it after it was woken.
    pub fn gaps(&self) -> u64 {
        self.gaps.load(Ordering::Acquire)
    }

    /// Returns the users with subscribers.
    pub fn users(&self) -> Vec<String> {
        self.users_mut().keys().cloned().collect()
    }

    fn users_mut(&self) -> MutexGuard<'_, Users> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscription {
    /// Waits for the next wake-up. Returns immediately if there was one since the last call.
    pub async fn changed(&mut self) {
        if let Some(changes) = &mut self.changes {
            // The sender is dropped only with its last subscription.
            let _ = changes.changed().await;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut users = self.notifier.users_mut();
        self.changes = None;
        if users.get(&self.user).is_some_and(watch::Sender::is_closed) {
            users.remove(&self.user);
        }
    }
}
