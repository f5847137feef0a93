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

/// The key that `patchbay sandbox` starts with. The README shows it, so it opens nothing elsewhere.
pub const SANDBOX_KEY: &str = "pbk_sandbox_0123456789abcdef0123456789abcdef";

/// The shortest key that the environment may give, in characters, and how many different ones it needs
/// after its first part. A random key of 32 hexadecimal digits has fewer once in 20 million times.
const MIN_KEY: usize = 36;
const MIN_DIFFERENT: usize = 8;

/// The longest name of a key, in characters.
const MAX_NAME: usize = 64;

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

/// A text that cannot be the name of a key. It is not repeated: it may hold a key, or characters that move a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a key's name has 1 to {MAX_NAME} letters, digits and characters of . _ : / @ + - (ASCII), and no {KEY_PREFIX} in it"
)]
pub struct InvalidName;

/// The rule for names of keys, wherever one is given: the audit trail and `patchbay keys list` show them.
///
/// # Errors
/// When the text cannot be a name.
pub fn check_name(name: &str) -> Result<(), InvalidName> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/@+-".contains(&byte);
    let fits = (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(plain);
    if fits && !name.contains(KEY_PREFIX) {
        Ok(())
    } else {
        Err(InvalidName)
    }
}

/// Why `SERVICE_API_KEYS` cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum GivenKeyError {
    /// An entry is not of the form.
    #[error("an entry is not <name>=<key> or <name>=<key>;<scope> <scope>")]
    Form,
    /// An entry's name cannot be one.
    #[error("an entry is not <name>=<key> or <name>=<key>;<scope> <scope>: {0}")]
    Name(#[from] InvalidName),
    /// A key that is too short, or not one.
    #[error("the key of {0} must begin with {KEY_PREFIX} and have at least {MIN_KEY} characters")]
    Short(String),
    /// A key that no request can carry, or that a quote was left around.
    #[error("the key of {0} must have only letters, digits, _ and - (ASCII)")]
    Characters(String),
    /// A key that could be guessed.
    #[error(
        "the key of {0} can be guessed: it has fewer than {MIN_DIFFERENT} different characters. Make one: {KEY_PREFIX} and the output of `openssl rand -hex 32`"
    )]
    Guessable(String),
    /// The sandbox's key.
    #[error(
        "the key of {0} is the one of `patchbay sandbox`, which the README shows: make your own with `patchbay keys create`"
    )]
    Sandbox(String),
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
        check_name(name)?;
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
        check_key(key).map_err(|error| error(name.to_owned()))?;
        Ok(Self::new(name, key, scopes))
    }
}

impl GivenKey {
    fn new(name: &str, key: &str, scopes: BTreeSet<Scope>) -> Self {
        Self {
            service: Arc::new(Service {
                name: name.to_owned(),
                scopes,
            }),
            digest: digest_of(key),
        }
    }

    /// The [`SANDBOX_KEY`], which allows everything.
    #[cfg(feature = "sandbox")]
    pub(crate) fn sandbox() -> Self {
        Self::new("sandbox", SANDBOX_KEY, BTreeSet::from(Scope::ALL))
    }

    /// The name of the service whose key it is.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.service.name
    }

    /// Whether another entry has the same key.
    #[must_use]
    pub fn is_same_key(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

/// Whether a key of the environment can be sent in a header and cannot be guessed.
fn check_key(key: &str) -> Result<(), fn(String) -> GivenKeyError> {
    let Some(secret) = key
        .strip_prefix(KEY_PREFIX)
        .filter(|_| key.len() >= MIN_KEY)
    else {
        return Err(GivenKeyError::Short);
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if !secret.bytes().all(plain) {
        return Err(GivenKeyError::Characters);
    }
    if BTreeSet::from_iter(secret.bytes()).len() < MIN_DIFFERENT {
        return Err(GivenKeyError::Guessable);
    }
    if key == SANDBOX_KEY {
        return Err(GivenKeyError::Sandbox);
    }
    Ok(())
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
    /// When the name cannot be one, and as the database.
    pub async fn create(
        &self,
        name: &str,
        scopes: &BTreeSet<Scope>,
    ) -> Result<SecretString, Error> {
        check_name(name)?;
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
