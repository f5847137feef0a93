//! Service keys: created, listed, rotated and revoked by `patchbay keys`, or set by `SERVICE_API_KEYS`.

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

/// How long what is known of a key is cached. A stream looks as often, so that it ends within twice that time after its
/// key was revoked or narrowed.
const CACHE_TTL: Duration = Duration::from_secs(1);

/// How many keys' answers are remembered.
const CACHE_CAPACITY: u64 = 1_000;

/// Why a key could not be managed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No key that is in use has this prefix or name.
    #[error("no key in use has the prefix or name {0:?}")]
    NotFound(String),
    /// The name cannot be one.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// Several keys in use have this name.
    #[error("several keys in use are named {0:?}: say which by its prefix")]
    Ambiguous(String),
    /// The database did not do its part.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// The keys, kept in the database and given by the environment.
#[derive(Debug)]
pub struct ServiceKeys {
    database: Database,
    /// Batches lookups: requests with forged keys occupy at most one database connection.
    in_use: BatchLoader<rows::ActiveKey>,
    environment_keys: Vec<EnvironmentKey>,
    clock: Clock,
    cache: Cache<[u8; 32], Option<Arc<Service>>>,
}

impl ServiceKeys {
    /// The keys of this database, and those given besides.
    #[must_use]
    pub fn new(database: Database, given: Vec<EnvironmentKey>, clock: Clock) -> Self {
        let cache = Cache::builder()
            .max_capacity(CACHE_CAPACITY)
            .time_to_live(CACHE_TTL)
            .build();
        Self {
            in_use: BatchLoader::new(&database),
            database,
            environment_keys: given,
            clock,
            cache,
        }
    }

    /// Returns the service that this key belongs to; `None` if the key is unknown, expired or revoked.
    ///
    /// # Errors
    /// As the database.
    pub async fn authenticate(&self, key: &str) -> Result<Option<Arc<Service>>, Arc<sqlx::Error>> {
        let digest = digest_of(key);
        let same = |other: &[u8]| verify_slices_are_equal(&digest, other).is_ok();
        if let Some(given) = self
            .environment_keys
            .iter()
            .find(|given| same(&given.digest))
        {
            return Ok(Some(given.service.clone()));
        }
        let Some(prefix) = prefix_of(key) else {
            return Ok(None);
        };
        self.cache
            .try_get_with(digest, async {
                let asked = rows::ActiveKey {
                    prefix: prefix.to_owned(),
                    now: self.clock.now(),
                };
                let kept = self.in_use.load(asked).await;
                kept.map(|kept| {
                    kept.filter(|kept| same(&kept.digest))
                        .map(|kept| Arc::new(kept.service))
                })
            })
            .await
            .map_err(|error| Arc::clone(&*error))
    }

    /// Makes a key. It is not kept and cannot be shown again.
    ///
    /// # Errors
    /// When the name cannot be one, and as the database.
    pub async fn create(
        &self,
        name: &str,
        scopes: &BTreeSet<Scope>,
    ) -> Result<SecretString, Error> {
        check_name(name)?;
        let mut tx = self.database.begin().await?;
        let key = new_key();
        rows::insert(&mut tx, &key, name, scopes).await?;
        tx.commit().await?;
        Ok(key.text)
    }

    /// All keys, the newest first.
    ///
    /// # Errors
    /// As the database.
    pub async fn list(&self) -> Result<Vec<KeyInfo>, Error> {
        let mut tx = self.database.begin().await?;
        let keys = rows::list(&mut tx).await?;
        tx.commit().await?;
        Ok(keys)
    }

    /// Makes a new key of the same name and scopes; the old one ends after `grace`.
    ///
    /// # Errors
    /// When there is no such key in use, or several.
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

    /// Ends a key at once.
    ///
    /// # Errors
    /// When there is no such key in use, or several.
    pub async fn revoke(&self, which: &str) -> Result<KeyInfo, Error> {
        let now = self.clock.now();
        let mut tx = self.database.begin().await?;
        let old = single_match(rows::in_use(&mut tx, which, now).await?, which)?;
        rows::revoke(&mut tx, &old.prefix, now).await?;
        tx.commit().await?;
        Ok(old)
    }

    /// Replaces what a key allows; of a name, also that of the keys which it was rotated from. Returns the key as it was.
    ///
    /// # Errors
    /// When there is no such key in use, or several.
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
