//! Idempotency keys: a client can retry a request without running it twice.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use chrono::{DateTime, Utc};
use secrecy::ExposeSecret;
use serde::Serialize;
use serde_json::{Value, json};

use super::core::Core;
use super::{Error, Result};
use crate::db::{self, KeyState};
use crate::domain::UserId;
use crate::encryption::Encryption;
use crate::views::ConnectAnswer;

/// The lease of a key whose request is in progress, in seconds: longer than the timeout of any request.
const LEASE_SECONDS: f64 = 90.0;

/// The TTL of keys whose response has no session, in seconds.
pub(crate) const TTL_SECONDS: f64 = 24.0 * 3600.0;

/// The idempotency keys of connects and reconnects, with their stored responses.
#[derive(Debug)]
pub(crate) struct IdempotencyKeys {
    core: Arc<Core>,
    /// Encrypts the responses, because they contain a session's link.
    encryption: Encryption,
}

impl IdempotencyKeys {
    pub(crate) fn new(core: Arc<Core>, encryption: Encryption) -> Self {
        Self { core, encryption }
    }

    /// Runs `work` once per key. A repeated request with the key gets the first response. The fingerprint identifies
    /// the request's content.
    ///
    /// # Errors
    /// As `work`; the request can then be retried with the same key. [`Error::KeyReused`] if the key was used for
    /// another request; [`Error::KeyInProgress`] while the first request is running.
    pub(crate) async fn run(
        &self,
        user: &UserId,
        key: &str,
        fingerprint: &[u8],
        work: impl Future<Output = Result<ConnectAnswer>>,
    ) -> Result<ConnectAnswer> {
        let claimed = match self.claim(user, key, fingerprint).await? {
            KeyState::Acquired(claimed) => claimed,
            KeyState::InProgress => return Err(Error::KeyInProgress),
            KeyState::Mismatch => return Err(Error::KeyReused),
            KeyState::Completed(stored) => return self.answer(user, key, stored),
        };
        let answer = work.await;
        self.complete(user, (key, claimed), answer.as_ref().ok())
            .await?;
        answer
    }

    async fn claim(&self, user: &UserId, key: &str, fingerprint: &[u8]) -> Result<KeyState> {
        let now = self.core.clock.now();
        let mut tx = self.core.begin().await?;
        let state = db::claim_key(&mut tx, user, key, fingerprint, LEASE_SECONDS, now).await?;
        tx.commit().await?;
        Ok(state)
    }

    /// Stores a response until its link expires. Without a response, releases the key. If this request was frozen for
    /// longer than the lease, another one may have claimed the key: then changes nothing.
    async fn complete(
        &self,
        user: &UserId,
        claim: (&str, DateTime<Utc>),
        answer: Option<&ConnectAnswer>,
    ) -> Result<()> {
        let stored = answer.map(|answer| self.stored_answer(user, claim.0, answer));
        let stored = stored.transpose()?;
        let database = &self.core.database;
        match stored.zip(answer) {
            Some((stored, answer)) => {
                db::store_answer(database, user, claim, &stored, answer.expires_at).await?;
            }
            None => db::release_key(database, user, claim).await?,
        }
        Ok(())
    }

    /// Returns the stored form of a response: encrypted, as a JSON string, if an encryption key is configured;
    /// otherwise as a JSON object.
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

    /// Returns a stored response.
    ///
    /// # Errors
    /// If it cannot be decrypted or decoded.
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

/// Returns the SHA-256 digest of a request's content.
pub(crate) fn fingerprint(request: &impl Serialize) -> Vec<u8> {
    let request = serde_json::to_vec(request).unwrap_or_default();
    digest(&SHA256, &request).as_ref().to_vec()
}

/// Returns the name of a key's row, to which the encryption binds the response. It is JSON, so that it is unambiguous.
fn row(user: &UserId, key: &str) -> String {
    json!(["idempotency_key", user.as_str(), key]).to_string()
}
