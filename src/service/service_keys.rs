//! Service keys, managed by `patchbay keys` or set by `SERVICE_API_KEYS`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use chrono::TimeDelta;
use moka::future::Cache;
use secrecy::SecretString;

use crate::auth::service_keys::{
    EnvironmentKey, InvalidName, KeyInfo, Scope, Service, check_name, digest_of, new_key, prefix_of,
};
use crate::clock::Clock;
use crate::db::batch::BatchLoader;
use crate::db::{Database, service_keys as rows};

/// The TTL of the key cache. A stream rechecks its key as often. It therefore ends within twice this time after the key
/// was revoked or lost a scope.
const CACHE_TTL: Duration = Duration::from_secs(1);

/// The maximum number of cached keys, known or not.
const CACHE_CAPACITY: u64 = 1_000;

/// An error in the management of keys.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No active key has this prefix or name.
    #[error("no active key has the prefix or name {0:?}")]
    NotFound(String),
    /// The name is invalid.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// Several active keys have this name.
    #[error("several active keys are named {0:?}: specify one by its prefix")]
    Ambiguous(String),
    /// A database query failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// The service keys of the database and of the environment.
#[derive(Debug)]
pub struct ServiceKeys {
    database: Database,
    /// Batches lookups: requests with forged keys occupy at most one database connection.
    active_keys: BatchLoader<rows::ActiveKey>,
    environment_keys: Vec<EnvironmentKey>,
    clock: Clock,
    cache: Cache<[u8; 32], Option<Arc<Service>>>,
}

impl ServiceKeys {
    /// Returns the keys of this database and those of the environment.
    pub fn new(database: Database, environment_keys: Vec<EnvironmentKey>, clock: Clock) -> Self {
        let cache = Cache::builder()
            .max_capacity(CACHE_CAPACITY)
            .time_to_live(CACHE_TTL)
            .build();
        Self {
            active_keys: BatchLoader::new(&database),
            database,
            environment_keys,
            clock,
            cache,
        }
    }

    /// Returns the service that this key belongs to; `None` if the key is unknown, expired or revoked.
    pub async fn authenticate(&self, key: &str) -> Result<Option<Arc<Service>>, Arc<sqlx::Error>> {
        let digest = digest_of(key);
        let same = |other: &[u8]| verify_slices_are_equal(&digest, other).is_ok();
        let found = self.environment_keys.iter().find(|it| same(&it.digest));
        if let Some(found) = found {
            return Ok(Some(found.service.clone()));
        }
        let Some(prefix) = prefix_of(key) else {
            return Ok(None);
        };
        self.cache
            .try_get_with(digest, async {
                let query = rows::ActiveKey {
                    prefix: prefix.to_owned(),
                    now: self.clock.now(),
                };
                let stored = self.active_keys.load(query).await;
                stored.map(|stored| {
                    stored
                        .filter(|it| same(&it.digest))
                        .map(|it| Arc::new(it.service))
                })
            })
            .await
            .map_err(|error| Arc::clone(&*error))
    }

    /// Creates a key and returns it. Only its digest is stored, so it cannot be shown again.
    ///
    /// # Errors
    /// [`Error::Name`] if the name is invalid, and as the database.
    pub async fn create(
        &self,
        name: &str,
        scopes: &BTreeSet<Scope>,
    ) -> Result<SecretString, Error> {
        check_name(name)?;
        let key = new_key();
        rows::insert(&self.database, &key, name, scopes).await?;
        Ok(key.text)
    }

    /// Returns all keys, newest first.
    pub async fn list(&self) -> Result<Vec<KeyInfo>, Error> {
        Ok(rows::list(&self.database).await?)
    }

    /// Creates a key with the name and scopes of the key `which` (a prefix or name), and returns it. The old key
    /// expires after `grace`.
    ///
    /// # Errors
    /// [`Error::NotFound`] or [`Error::Ambiguous`] if not exactly one active key matches; as the database.
    pub async fn rotate(&self, which: &str, grace: TimeDelta) -> Result<SecretString, Error> {
        let now = self.clock.now();
        let mut tx = self.database.begin().await?;
        let old = single_match(rows::in_use(&mut tx, which, now).await?, which)?;
        rows::expire(&mut tx, &old.prefix, now + grace).await?;
        let key = new_key();
        rows::insert(&mut tx, &key, &old.name, &old.scopes).await?;
        tx.commit().await?;
        Ok(key.text)
    }

    /// Revokes the key `which` (a prefix or name). Replicas reject it when their caches expire, within a second.
    ///
    /// # Errors
    /// [`Error::NotFound`] or [`Error::Ambiguous`] if not exactly one active key matches; as the database.
    pub async fn revoke(&self, which: &str) -> Result<KeyInfo, Error> {
        let now = self.clock.now();
        let mut tx = self.database.begin().await?;
        let old = single_match(rows::in_use(&mut tx, which, now).await?, which)?;
        rows::revoke(&mut tx, &old.prefix, now).await?;
        tx.commit().await?;
        Ok(old)
    }

    /// Replaces the scopes of a key. With a name, also replaces those of its rotated keys that have not expired.
    /// Returns the key as it was before.
    ///
    /// # Errors
    /// [`Error::NotFound`] or [`Error::Ambiguous`] if not exactly one active key matches; as the database.
    pub async fn set_scopes(
        &self,
        which: &str,
        scopes: &BTreeSet<Scope>,
    ) -> Result<KeyInfo, Error> {
        let now = self.clock.now();
        let mut tx = self.database.begin().await?;
        let old = single_match(rows::in_use(&mut tx, which, now).await?, which)?;
        rows::set_scopes(&mut tx, which, scopes, now).await?;
        tx.commit().await?;
        Ok(old)
    }
}

fn single_match(mut found: Vec<KeyInfo>, which: &str) -> Result<KeyInfo, Error> {
    match (found.pop(), found.is_empty()) {
        (None, _) => Err(Error::NotFound(which.to_owned())),
        (Some(only), true) => Ok(only),
        (Some(_), false) => Err(Error::Ambiguous(which.to_owned())),
    }
}
