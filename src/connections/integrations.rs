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

/// The keys of the configured integrations, kept for a minute.
#[derive(Debug)]
pub struct Integrations {
    nango: Nango,
    known: Mutex<Option<(Instant, Keys)>>,
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
    /// As the call to Nango, when there never was an answer.
    pub async fn keys(&self) -> Result<Keys, Error> {
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

    async fn not_older_than(&self, age: Duration) -> Result<Keys, Error> {
        // The lock is held while Nango answers, so that one call serves all who wait.
        let mut known = self.known.lock().await;
        if let Some((asked, keys)) = &*known
            && asked.elapsed() < age
        {
            return Ok(keys.clone());
        }
        match self.nango.integrations().await {
            Ok(integrations) => {
                let keys: Keys = Arc::new(
                    integrations
                        .into_iter()
                        .map(|integration| integration.unique_key)
                        .collect(),
                );
                *known = Some((Instant::now(), keys.clone()));
                Ok(keys)
            }
            Err(error) => match &*known {
                Some((_, keys)) => {
                    let keys = keys.clone();
                    tracing::warn!(%error, "Nango's integrations could not be refreshed");
                    // Counts as an answer, so that an outage is not asked about by every request.
                    *known = Some((Instant::now(), keys.clone()));
                    Ok(keys)
                }
                None => Err(error),
            },
        }
    }
}
