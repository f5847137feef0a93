//! Lists as they were answered, for as long as nothing has changed of them.
//!
//! Every change of a user's connections writes an event in its own transaction. So the list that was
//! read after a user's last event holds for as long as that is the last, which the database is asked
//! for each time: a change that was answered, by whichever replica, is never missing from a list.
//!
//! A few columns change without an event, and may be as old as [`HELD`]: when a connection was last
//! used and last checked, and which browser came back.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use moka::future::Cache;

use crate::auth::UserId;

/// For how long a list is held at the most.
const HELD: Duration = Duration::from_secs(1);

/// How many bytes are held at the most.
const MOST: u64 = 16 * 1024 * 1024;

/// What a list takes besides its bytes, about.
const BESIDES: usize = 256;

/// Users' whole lists, as JSON. Clones hold the same.
#[derive(Clone, Debug)]
pub struct Lists(Cache<UserId, Arc<Held>>);

#[derive(Debug)]
struct Held {
    last_event: i64,
    json: Bytes,
}

impl Default for Lists {
    fn default() -> Self {
        let weight = |_: &UserId, held: &Arc<Held>| {
            u32::try_from(held.json.len() + BESIDES).unwrap_or(u32::MAX)
        };
        let cache = Cache::builder()
            .weigher(weight)
            .max_capacity(MOST)
            .time_to_live(HELD);
        Self(cache.build())
    }
}

impl Lists {
    /// A user's list, if it was read after their last event.
    pub(super) async fn get(&self, user: &UserId, last_event: i64) -> Option<Bytes> {
        let held = self.0.get(user).await?;
        (held.last_event == last_event).then(|| held.json.clone())
    }

    /// Holds a list that was read after this event of its user's.
    pub(super) async fn hold(&self, user: UserId, last_event: i64, json: Bytes) {
        let held = Held { last_event, json };
        self.0.insert(user, held.into()).await;
    }
}
