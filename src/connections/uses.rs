//! Who was given which token when: written behind the answers, in batches.

use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use tokio::sync::Notify;
use uuid::Uuid;

use super::store::Queue;

/// How many uses wait to be written before those who add more have to wait, too.
const WAITING: usize = 10_000;

/// What a token was used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It was handed out.
    Token,
    /// A call was made with it.
    Proxy,
}

impl Purpose {
    /// The name in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Proxy => "proxy",
        }
    }
}

/// One use of a connection by a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// The connection.
    pub connection_id: Uuid,
    /// Its user.
    pub user_id: String,
    /// Who used it.
    pub service: String,
    /// What for.
    pub purpose: Purpose,
    /// When.
    pub used_at: DateTime<Utc>,
}

/// A use that was written down.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct PastUse {
    /// Grows with each use.
    pub id: i64,
    /// Who used the connection.
    pub service: String,
    /// `token` or `proxy`.
    pub purpose: String,
    /// When.
    pub used_at: DateTime<Utc>,
}

/// Uses that wait to be written. None is dropped: when too many wait, the next waits for its place.
#[derive(Debug, Default)]
pub struct Uses {
    waiting: Mutex<Vec<Use>>,
    room: Notify,
}

impl Uses {
    /// Adds a use.
    pub async fn note(&self, used: Use) {
        loop {
            let room = self.room.notified();
            {
                let mut waiting = self.lock();
                if waiting.len() < WAITING {
                    waiting.push(used);
                    return;
                }
            }
            room.await;
        }
    }

    /// Takes all that wait.
    #[must_use]
    pub fn take(&self) -> Vec<Use> {
        let taken = std::mem::take(&mut *self.lock());
        self.room.notify_waiters();
        taken
    }

    /// Gives back what could not be written.
    pub fn give_back(&self, mut uses: Vec<Use>) {
        let mut waiting = self.lock();
        uses.append(&mut waiting);
        *waiting = uses;
    }

    /// How many wait, and since when the oldest does.
    pub(super) fn waiting(&self) -> Queue {
        let waiting = self.lock();
        Queue {
            waiting: i64::try_from(waiting.len()).unwrap_or(i64::MAX),
            oldest: waiting.first().map(|used| used.used_at),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Use>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
