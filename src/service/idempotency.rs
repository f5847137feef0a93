//! Requests that a client may send again without doing their work again.

use crate::domain::UserId;
use std::future::Future;

use chrono::{DateTime, Utc};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::{Connections, Error, Result};
use crate::db;
use crate::db::KeyState;
use crate::encryption;

/// How long an unanswered request counts as in progress, in seconds: longer than any request may take.
const LEASE_SECONDS: f64 = 90.0;

/// How long answers without a session are kept, in seconds.
const TTL_SECONDS: f64 = 24.0 * 3600.0;

/// What a request says of being sent again.
#[derive(Clone, Debug)]
pub struct Idempotency {
    /// The client's key: 1 to 255 characters.
    pub key: String,
    /// A digest of all that the request asks for: the same key has to come with the same.
    pub fingerprint: Vec<u8>,
}

/// An answer, and when the session in it is over. From then on the answer is deleted: its link opens nothing any more.
pub type Answer = (Value, Option<DateTime<Utc>>);

impl Connections {
    /// Runs `work` once per key; a repeated request with the key gets the first response.
    ///
    /// # Errors
    /// As the work, which may then be retried with the same key; if the key came with another request before, or the
    /// first is still in progress.
    pub async fn with_idempotency_key<E: From<Error>>(
        &self,
        user: &UserId,
        idempotency: Option<&Idempotency>,
        work: impl Future<Output = Result<Answer, E>>,
    ) -> Result<Value, E> {
        let Some(Idempotency { key, fingerprint }) = idempotency else {
            return work.await.map(|(answer, _)| answer);
        };
        match self.claim_key(user, key, fingerprint).await? {
            KeyState::Acquired => {}
            KeyState::InProgress => return Err(Error::KeyInProgress.into()),
            KeyState::Mismatch => return Err(Error::KeyReused.into()),
            KeyState::Completed(stored) => return Ok(self.answer(user, key, stored)?),
        }
        let answer = work.await;
        self.complete_key(user, key, answer.as_ref().ok()).await?;
        answer.map(|(answer, _)| answer)
    }

    async fn claim_key(&self, user: &UserId, key: &str, fingerprint: &[u8]) -> Result<KeyState> {
        let now = self.core.clock.now();
        let mut tx = self.core.begin().await?;
        let used = db::claim_key(&mut tx, user, key, fingerprint, LEASE_SECONDS, now).await?;
        tx.commit().await?;
        Ok(used)
    }

    async fn complete_key(&self, user: &UserId, key: &str, answer: Option<&Answer>) -> Result<()> {
        let stored = answer.map(|(answer, _)| self.stored_answer(user, key, answer));
        let stored = stored.transpose()?;
        let mut tx = self.core.begin_single().await?;
        match stored.zip(answer) {
            Some((stored, (_, until))) => {
                db::store_answer(&mut tx, user, key, &stored, *until).await?;
            }
            None => db::release_key(&mut tx, user, key).await?,
        }
        tx.commit().await?;
        Ok(())
    }

    /// An answer as it is stored: encrypted as a text, if there is a key for it.
    fn stored_answer(&self, user: &UserId, key: &str, answer: &Value) -> Result<Value> {
        if !self.encryption.is_enabled() {
            return Ok(answer.clone());
        }
        let encrypted = self
            .encryption
            .encrypt(&row(user, key), &answer.to_string());
        Ok(Value::String(encrypted?))
    }

    /// The answer that was stored.
    fn answer(&self, user: &UserId, key: &str, stored: Value) -> Result<Value> {
        let Value::String(encrypted) = stored else {
            return Ok(stored);
        };
        let answer = self.encryption.decrypt(&row(user, key), &encrypted)?;
        let answer = serde_json::from_str(answer.expose_secret());
        Ok(answer.map_err(|_not_json| encryption::Error::RowError)?)
    }

    /// One pass that deletes all old answers, some at a time. Says how many.
    ///
    /// # Errors
    /// As the database.
    pub async fn delete_expired_keys(&self) -> Result<u64> {
        const BATCH: u32 = 500;
        let mut all = 0;
        loop {
            let mut tx = self.core.begin_single().await?;
            let forgotten =
                db::delete_expired_keys(&mut tx, TTL_SECONDS, self.core.clock.now(), BATCH.into())
                    .await?;
            tx.commit().await?;
            all += forgotten;
            if forgotten < BATCH.into() {
                return Ok(all);
            }
        }
    }
}

/// The row of an answer, to which it is bound; as JSON, so that no other user and key are written the same.
fn row(user: &UserId, key: &str) -> String {
    json!(["idempotency_key", user.as_str(), key]).to_string()
}
