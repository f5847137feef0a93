//! Keys of the product's own services: made, listed, rotated and revoked by
//! `patchbay keys`, or given by `SERVICE_API_KEYS`.
//!
//! A key is `pbk_<prefix>_<secret>`. The prefix finds it and may be shown; of
//! the whole only a digest is kept, which is enough for a secret of 256 bits.

mod store;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use chrono::{DateTime, TimeDelta, Utc};
use moka::future::Cache;
use secrecy::SecretString;
use uuid::Uuid;

use crate::clock::Clock;
use crate::connections::Database;
use crate::connections::gather::Gatherer;

/// What every key begins with, so that it is told from a user's token and found by secret scanners.
pub const KEY_PREFIX: &str = "pbk_";

/// How long what is known of a key is cached. A stream looks as often, so that it ends within twice that time after its
/// key was revoked or narrowed.
const CACHE_TTL: Duration = Duration::from_secs(1);

/// How many keys' answers are remembered.
const REMEMBERED: u64 = 1_000;

/// What a key allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// To be given tokens, and to call providers through the proxy.
    TokensRead,
    /// To read users' connections.
    ConnectionsRead,
    /// To connect, change and disconnect for users, and to delete a user's data.
    ConnectionsWrite,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 3] = [
        Self::TokensRead,
        Self::ConnectionsRead,
        Self::ConnectionsWrite,
    ];

    /// The name on the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TokensRead => "tokens:read",
            Self::ConnectionsRead => "connections:read",
            Self::ConnectionsWrite => "connections:write",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is not a scope.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a scope: there are tokens:read, connections:read and connections:write")]
pub struct UnknownScope(String);

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        Self::ALL
            .into_iter()
            .find(|scope| scope.as_str() == text)
            .ok_or_else(|| UnknownScope(text.to_owned()))
    }
}

/// A service that has shown its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// What the key is called: it stands in the audit trail.
    pub name: String,
    /// What it may do.
    pub scopes: BTreeSet<Scope>,
}

/// A key given by the environment.
#[derive(Clone, Debug)]
pub struct GivenKey {
    service: Arc<Service>,
    digest: [u8; 32],
}

/// Why `SERVICE_API_KEYS` cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum GivenKeyError {
    /// An entry is not of the form.
    #[error("an entry is not <name>=<key> or <name>=<key>;<scope> <scope>")]
    Form,
    /// A key could be guessed.
    #[error("the key of {0} has to begin with pbk_ and to have at least 36 characters")]
    Weak(String),
    /// A scope that does not exist. It is not told: it may be the rest of a key.
    #[error(
        "a scope of {0} does not exist: there are tokens:read, connections:read and connections:write"
    )]
    Scope(String),
}

impl FromStr for GivenKey {
    type Err = GivenKeyError;

    /// Reads `<name>=<key>`, which allows everything, or `<name>=<key>;<scope> <scope>`.
    fn from_str(entry: &str) -> Result<Self, GivenKeyError> {
        let (name, rest) = entry.trim().split_once('=').ok_or(GivenKeyError::Form)?;
        // Names are told: none has a key in it, or what would write lines of its own and move a cursor.
        if name.is_empty() || name.contains(KEY_PREFIX) || name.contains(char::is_control) {
            return Err(GivenKeyError::Form);
        }
        let (key, scopes) = match rest.split_once(';') {
            Some((key, scopes)) => (
                key,
                scopes
                    .split_whitespace()
                    .map(str::parse)
                    .collect::<Result<_, UnknownScope>>()
                    .map_err(|_unknown| GivenKeyError::Scope(name.to_owned()))?,
            ),
            None => (rest, BTreeSet::from(Scope::ALL)),
        };
        if !key.starts_with(KEY_PREFIX) || key.len() < 36 {
            return Err(GivenKeyError::Weak(name.to_owned()));
        }
        Ok(Self {
            service: Arc::new(Service {
                name: name.to_owned(),
                scopes,
            }),
            digest: digest_of(key),
        })
    }
}

/// A kept key, without the key.
#[derive(Clone, Debug)]
pub struct KeyInfo {
    /// The part of the key that may be shown.
    pub prefix: String,
    /// What it is called.
    pub name: String,
    /// What it allows.
    pub scopes: BTreeSet<Scope>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it ends, if it was rotated.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was revoked.
    pub revoked_at: Option<DateTime<Utc>>,
}

/// Why a key could not be managed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No key that is in use has this prefix or name.
    #[error("no key in use has the prefix or name {0:?}")]
    NotFound(String),
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
    /// Whoever makes up many keys takes one connection's time at the most.
    in_use: Gatherer<store::InUse>,
    given: Vec<GivenKey>,
    clock: Clock,
    believed: Cache<[u8; 32], Option<Arc<Service>>>,
}

impl ServiceKeys {
    /// The keys of this database, and those given besides.
    #[must_use]
    pub fn new(database: Database, given: Vec<GivenKey>, clock: Clock) -> Self {
        let believed = Cache::builder()
            .max_capacity(REMEMBERED)
            .time_to_live(CACHE_TTL)
            .build();
        Self {
            in_use: Gatherer::new(&database),
            database,
            given,
            clock,
            believed,
        }
    }

    /// Whose key this is; `None` if it is nobody's, or no longer.
    ///
    /// # Errors
    /// As the database.
    pub async fn authenticate(&self, key: &str) -> Result<Option<Arc<Service>>, Arc<sqlx::Error>> {
        let digest = digest_of(key);
        let same = |other: &[u8]| verify_slices_are_equal(&digest, other).is_ok();
        if let Some(given) = self.given.iter().find(|given| same(&given.digest)) {
            return Ok(Some(given.service.clone()));
        }
        let Some(prefix) = prefix_of(key) else {
            return Ok(None);
        };
        self.believed
            .try_get_with(digest, async {
                let asked = store::InUse {
                    prefix: prefix.to_owned(),
                    now: self.clock.now(),
                };
                let kept = self.in_use.ask(asked).await;
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
    /// As the database.
    pub async fn create(
        &self,
        name: &str,
        scopes: &BTreeSet<Scope>,
    ) -> Result<SecretString, Error> {
        let mut tx = self.database.begin().await?;
        let key = new_key();
        store::insert(&mut tx, &key, name, scopes).await?;
        tx.commit().await?;
        Ok(key.text)
    }

    /// All keys, the newest first.
    ///
    /// # Errors
    /// As the database.
    pub async fn list(&self) -> Result<Vec<KeyInfo>, Error> {
        let mut tx = self.database.begin().await?;
        let keys = store::list(&mut tx).await?;
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
        let old = one(store::in_use(&mut tx, which, now).await?, which)?;
        store::expire(&mut tx, &old.prefix, now + grace).await?;
        let key = new_key();
        store::insert(&mut tx, &key, &old.name, &old.scopes).await?;
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
        let old = one(store::in_use(&mut tx, which, now).await?, which)?;
        store::revoke(&mut tx, &old.prefix, now).await?;
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
        let old = one(store::in_use(&mut tx, which, now).await?, which)?;
        store::set_scopes(&mut tx, which, scopes, now).await?;
        tx.commit().await?;
        Ok(old)
    }
}

fn one(mut found: Vec<KeyInfo>, which: &str) -> Result<KeyInfo, Error> {
    match (found.pop(), found.is_empty()) {
        (None, _) => Err(Error::NotFound(which.to_owned())),
        (Some(only), true) => Ok(only),
        (Some(_), false) => Err(Error::Ambiguous(which.to_owned())),
    }
}

/// A key that was just made.
struct NewKey {
    text: SecretString,
    prefix: String,
    digest: [u8; 32],
}

fn new_key() -> NewKey {
    let prefix = Uuid::new_v4().simple().to_string()[..8].to_owned();
    // Two random UUIDs: 244 bits that nobody can guess.
    let text = format!(
        "{KEY_PREFIX}{prefix}_{}{}",
        Uuid::new_v4().simple(),
        Uuid::new_v4().simple()
    );
    let digest = digest_of(&text);
    NewKey {
        text: text.into(),
        prefix,
        digest,
    }
}

fn prefix_of(key: &str) -> Option<&str> {
    key.strip_prefix(KEY_PREFIX)?
        .split_once('_')
        .map(|(prefix, _)| prefix)
}

fn digest_of(key: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, key.as_bytes()).as_ref());
    bytes
}
