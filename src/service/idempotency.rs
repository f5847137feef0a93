//! Requests that a client may send again without doing their work again.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use secrecy::ExposeSecret;
use serde::Serialize;
use serde_json::{Value, json};

use super::core::Core;
use super::{Error, Result};
use crate::db;
use crate::db::KeyState;
use crate::domain::UserId;
use crate::encryption::Encryption;
use crate::views::ConnectAnswer;

/// How long an unanswered request counts as in progress, in seconds: longer than any request may take.
const LEASE_SECONDS: f64 = 90.0;

/// How long answers without a session are kept, in seconds.
pub(crate) const TTL_SECONDS: f64 = 24.0 * 3600.0;

/// The idempotency keys of connects, with their answers.
#[derive(Debug)]
pub(crate) struct IdempotencyKeys {
    core: Arc<Core>,
    /// Encrypts the answers, which have a session's link.
    encryption: Encryption,
}

impl IdempotencyKeys {
    pub(crate) fn new(core: Arc<Core>, encryption: Encryption) -> Self {
        Self { core, encryption }
    }

    /// Runs `work` once per key; a repeated request with the key gets the first answer. The fingerprint identifies all
    /// that the request asks for.
    ///
    /// # Errors
    /// As the work, which may then be retried with the same key; if the key came with another request before, or the
    /// first is still in progress.
    pub(crate) async fn run(
        &self,
        user: &UserId,
        key: &str,
        fingerprint: &[u8],
        work: impl Future<Output = Result<ConnectAnswer>>,
    ) -> Result<ConnectAnswer> {
        match self.claim(user, key, fingerprint).await? {
            KeyState::Acquired => {}
            KeyState::InProgress => return Err(Error::KeyInProgress),
            KeyState::Mismatch => return Err(Error::KeyReused),
            KeyState::Completed(stored) => return self.answer(user, key, stored),
        }
        let answer = work.await;
        self.complete(user, key, answer.as_ref().ok()).await?;
        answer
    }

    async fn claim(&self, user: &UserId, key: &str, fingerprint: &[u8]) -> Result<KeyState> {
        let now = self.core.clock.now();
        let mut tx = self.core.begin().await?;
        let used = db::claim_key(&mut tx, user, key, fingerprint, LEASE_SECONDS, now).await?;
        tx.commit().await?;
        Ok(used)
    }

    /// Stores an answer until its link expires: from then on the link opens nothing. Without an answer, releases the key.
    async fn complete(
        &self,
        user: &UserId,
        key: &str,
        answer: Option<&ConnectAnswer>,
    ) -> Result<()> {
        let stored = answer.map(|answer| self.stored_answer(user, key, answer));
        let stored = stored.transpose()?;
        let mut tx = self.core.begin_single().await?;
        match stored.zip(answer) {
            Some((stored, answer)) => {
                db::store_answer(&mut tx, user, key, &stored, answer.expires_at).await?;
            }
            None => db::release_key(&mut tx, user, key).await?,
        }
        tx.commit().await?;
        Ok(())
    }

    /// An answer as it is stored: encrypted as a text, if there is a key for it.
    fn stored_answer(&self, user: &UserId, key: &str, answer: &ConnectAnswer) -> Result<Value> {
        let answer = json!(answer);
        if !self.encryption.is_enabled() {
            return Ok(answer);
        }
        let encrypted = self
            .encryption
            .encrypt(&row(user, key), &answer.to_string());
        Ok(Value::String(encrypted?))
    }

    /// The answer that was stored.
    fn answer(&self, user: &UserId, key: &str, stored: Value) -> Result<ConnectAnswer> {
        let answer = match stored {
            Value::String(encrypted) => {
                let answer = self.encryption.decrypt(&row(user, key), &encrypted)?;
                serde_json::from_str(answer.expose_secret())
            }
            answer => serde_json::from_value(answer),
        };
        answer.map_err(|error| {
            Error::from(sqlx::Error::ColumnDecode {
                index: "answer".to_owned(),
                source: error.into(),
            })
        })
    }
}

/// Returns a digest of all that a request asks for.
pub(crate) fn fingerprint(request: &impl Serialize) -> Vec<u8> {
    let request = serde_json::to_vec(request).unwrap_or_default();
    digest(&SHA256, &request).as_ref().to_vec()
}

/// The row of an answer, to which it is bound; as JSON, so that no other user and key are written the same.
fn row(user: &UserId, key: &str) -> String {
    json!(["idempotency_key", user.as_str(), key]).to_string()
}
