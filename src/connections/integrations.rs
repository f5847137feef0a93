//! Which integrations the Nango environment has configured.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::nango::{Error, Nango};

/// How long an answer is good for.
const FRESH: Duration = Duration::from_secs(60);

/// How soon an answer that lacks an integration may be asked for again: an
/// operator who has just added it should not wait a minute.
const RETRY: Duration = Duration::from_secs(2);

type Keys = Arc<HashSet<String>>;
type Answer = Result<Keys, Error>;

/// The keys of the configured integrations, kept for a minute.
#[derive(Debug)]
pub struct Integrations {
    nango: Nango,
    known: Mutex<Option<(Instant, Answer)>>,
}

impl Integrations {
    /// Asks this Nango.
    #[must_use]
    pub fn new(nango: Nango) -> Self {
        Self {
            nango,
            known: Mutex::new(None),
        }
    }

    /// All keys. When Nango does not answer, those of the last answer, however old.
    ///
    /// # Errors
    /// As the call to Nango, when there never was an answer; the error, too, is told to all who ask
    /// within two seconds.
    pub async fn keys(&self) -> Answer {
        self.not_older_than(FRESH).await
    }

    /// Whether an integration is configured, asked again if the last answer lacks it.
    ///
    /// # Errors
    /// As [`Integrations::keys`].
    pub async fn contains(&self, key: &str) -> Result<bool, Error> {
        if self.keys().await?.contains(key) {
            return Ok(true);
        }
        Ok(self.not_older_than(RETRY).await?.contains(key))
    }

    async fn not_older_than(&self, age: Duration) -> Answer {
        // The lock is held while Nango answers, so that one call serves all who wait.
        let mut known = self.known.lock().await;
        if let Some((asked, answer)) = &*known
            && asked.elapsed() < if answer.is_ok() { age } else { RETRY }
        {
            return answer.clone();
        }
        let answer = match (self.nango.integrations().await, &*known) {
            (Ok(integrations), _) => Ok(Arc::new(
                integrations
                    .into_iter()
                    .map(|integration| integration.unique_key)
                    .collect(),
            )),
            (Err(error), Some((_, Ok(keys)))) => {
                tracing::warn!(%error, "Nango's integrations could not be refreshed");
                Ok(keys.clone())
            }
            (Err(error), _) => Err(error),
        };
        // An error counts as an answer, so that an outage is not asked about by every request.
        *known = Some((Instant::now(), answer.clone()));
        answer
    }
}
