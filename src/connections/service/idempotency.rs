//! Requests that a client may send again without doing their work again.

use std::future::Future;

use serde_json::Value;

use super::{Connections, Error, Result};
use crate::auth::UserId;
use crate::connections::store::{self, KeyUse};

/// How long a request that nobody has answered counts as under way, in seconds:
/// longer than any request may take.
const LEASE_SECONDS: f64 = 90.0;

/// How long answers are kept, in seconds.
const KEPT_SECONDS: f64 = 24.0 * 3600.0;

/// What a request says of being sent again.
#[derive(Clone, Debug)]
pub struct Idempotency {
    /// The client's key: 1 to 255 characters.
    pub key: String,
    /// A digest of all that the request asks for: the same key has to come with the same.
    pub fingerprint: Vec<u8>,
}

impl Connections {
    /// Does `work` once for a key; whoever sends the key again gets the first answer.
    ///
    /// # Errors
    /// As the work, which may then be tried again with the same key; when the
    /// key came with another request before, or the first is still under way.
    pub async fn once<E: From<Error>>(
        &self,
        user: &UserId,
        idempotency: Option<&Idempotency>,
        work: impl Future<Output = Result<Value, E>>,
    ) -> Result<Value, E> {
        let Some(Idempotency { key, fingerprint }) = idempotency else {
            return work.await;
        };
        match self.take_key(user, key, fingerprint).await? {
            KeyUse::New => {}
            KeyUse::UnderWay => return Err(Error::KeyUnderWay.into()),
            KeyUse::Other => return Err(Error::KeyReused.into()),
            KeyUse::Answered(answer) => return Ok(answer),
        }
        let answer = work.await;
        self.settle_key(user, key, answer.as_ref().ok()).await?;
        answer
    }

    async fn take_key(&self, user: &UserId, key: &str, fingerprint: &[u8]) -> Result<KeyUse> {
        let mut tx = self.begin().await?;
        let used = store::take_key(&mut tx, user, key, fingerprint, LEASE_SECONDS).await?;
        tx.commit().await?;
        Ok(used)
    }

    async fn settle_key(&self, user: &UserId, key: &str, answer: Option<&Value>) -> Result<()> {
        let mut tx = self.begin_single().await?;
        match answer {
            Some(answer) => store::keep_answer(&mut tx, user, key, answer).await?,
            None => store::drop_key(&mut tx, user, key).await?,
        }
        tx.commit().await?;
        Ok(())
    }

    /// One pass that forgets all old answers, some at a time. Says how many.
    ///
    /// # Errors
    /// As the database.
    pub async fn forget_old_keys(&self) -> Result<u64> {
        const BATCH: u32 = 500;
        let mut all = 0;
        loop {
            let mut tx = self.begin_single().await?;
            let forgotten = store::forget_keys(&mut tx, KEPT_SECONDS, BATCH.into()).await?;
            tx.commit().await?;
            all += forgotten;
            if forgotten < BATCH.into() {
                return Ok(all);
            }
        }
    }
}
