//! Wakes those who wait for a user's events, on every replica.
//!
//! What wakes them is only a hint: each then reads the events after the last
//! one that it has seen. So nothing is lost, and nobody's slowness costs memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::auth::UserId;

/// The users whose events somebody waits for on this replica.
#[derive(Clone, Debug, Default)]
pub struct Feed(Arc<Mutex<HashMap<String, watch::Sender<()>>>>);

/// Wakes when a user's events have changed, or may have.
#[derive(Debug)]
pub struct Subscription {
    feed: Feed,
    user: String,
    changes: Option<watch::Receiver<()>>,
}

impl Feed {
    /// Waits for this user's events from now on.
    #[must_use]
    pub fn subscribe(&self, user: &UserId) -> Subscription {
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = users
            .entry(user.as_str().to_owned())
            .or_insert_with(|| watch::Sender::new(()));
        let changes = Some(sender.subscribe());
        Subscription {
            feed: self.clone(),
            user: user.as_str().to_owned(),
            changes,
        }
    }

    /// Wakes those who wait for this user.
    pub fn wake(&self, user: &str) {
        let users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = users.get(user) {
            sender.send_replace(());
        }
    }

    /// Wakes all, when it is not known what has changed.
    pub fn wake_all(&self) {
        let users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for sender in users.values() {
            sender.send_replace(());
        }
    }

    /// The users for whom somebody waits.
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
        if let Some(changes) = &mut self.changes {
            // The sender lives in the map for as long as this subscription does.
            let _ = changes.changed().await;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut users = self.feed.0.lock().unwrap_or_else(PoisonError::into_inner);
        self.changes = None;
        if users.get(&self.user).is_some_and(watch::Sender::is_closed) {
            users.remove(&self.user);
        }
    }
}
