//! Asking Nango about an attempt while somebody waits for it.

use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;
use uuid::Uuid;

use crate::nango::{ConnectionSummary, Error, ListConnections, Nango};

/// The tag by which a Nango connection names the attempt that made or renewed it.
pub const ATTEMPT_TAG: &str = "patchbay_attempt";
/// The tag by which a Nango connection names our connection.
pub const CONNECTION_TAG: &str = "patchbay_connection";
/// The tag by which a Nango connection names its user, in Nango's own convention.
pub const USER_TAG: &str = "end_user_id";

/// How often an attempt is asked about at the most, and how many are remembered.
const INTERVAL: Duration = Duration::from_secs(1);
const REMEMBERED: u64 = 10_000;

type Answer = Result<Vec<ConnectionSummary>, Error>;

/// Looks attempts up at Nango by their tag: at most once a second each, with one
/// call for all who wait.
#[derive(Clone, Debug)]
pub struct Lookups {
    nango: Nango,
    answers: Cache<Uuid, Arc<Answer>>,
}

impl Lookups {
    /// Looks up at this Nango.
    #[must_use]
    pub fn new(nango: Nango) -> Self {
        let answers = Cache::builder()
            .max_capacity(REMEMBERED)
            .time_to_live(INTERVAL)
            .build();
        Self { nango, answers }
    }

    /// What Nango holds with this attempt's tag: nothing, one, or several if it was granted again.
    ///
    /// # Errors
    /// As the call to Nango; the error, too, is told to all who ask within the second.
    pub async fn attempt(&self, attempt: Uuid) -> Answer {
        let answer = self
            .answers
            .get_with(attempt, async { Arc::new(self.ask(attempt).await) })
            .await;
        (*answer).clone()
    }

    /// The same, asked now: for when the second's answer is known to be old.
    ///
    /// # Errors
    /// As the call to Nango.
    pub async fn attempt_now(&self, attempt: Uuid) -> Answer {
        let answer = self.ask(attempt).await;
        self.answers.insert(attempt, Arc::new(answer.clone())).await;
        answer
    }

    async fn ask(&self, attempt: Uuid) -> Answer {
        let tags = [(ATTEMPT_TAG.to_owned(), attempt.to_string())].into();
        self.nango
            .connections(&ListConnections {
                tags,
                ..ListConnections::default()
            })
            .await
    }
}
