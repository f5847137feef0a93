//! Keys of the product's own services: their format, scopes and digests.
//!
//! A key is `pbk_<prefix>_<secret>`. The prefix identifies it and may be shown. Only a digest of the whole key is
//! stored, which is enough for a secret of 256 bits.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use chrono::{DateTime, Utc};
use secrecy::SecretString;
use strum::{Display, EnumString, IntoStaticStr};
use uuid::Uuid;

/// The prefix of every key. It distinguishes a key from a user's token, and secret scanners find it.
pub const KEY_PREFIX: &str = "pbk_";

/// The key of `patchbay sandbox`. The README shows it, so it is rejected everywhere else.
pub const SANDBOX_KEY: &str = "pbk_sandbox_0123456789abcdef0123456789abcdef";

/// The minimum length of a key from the environment, in characters, and the minimum number of different characters
/// after its prefix. A random key of 32 hexadecimal digits has fewer once in 20 million times.
const MIN_KEY: usize = 36;
const MIN_DIFFERENT: usize = 8;

/// The maximum length of a key's name, in characters.
const MAX_NAME: usize = 64;

/// A permission of a key.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Display, EnumString, IntoStaticStr,
)]
#[strum(parse_err_ty = UnknownScope, parse_err_fn = unknown_scope)]
pub enum Scope {
    /// Permits token requests and provider calls through the proxy.
    #[strum(serialize = "tokens:read")]
    TokensRead,
    /// Permits reading users' connections.
    #[strum(serialize = "connections:read")]
    ConnectionsRead,
    /// Permits connecting, changing and disconnecting for users, and deleting a user's data.
    #[strum(serialize = "connections:write")]
    ConnectionsWrite,
}

impl Scope {
    /// All scopes.
    pub const ALL: [Self; 3] = [
        Self::TokensRead,
        Self::ConnectionsRead,
        Self::ConnectionsWrite,
    ];

    /// Returns the name on the wire.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// A text that is not a scope.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a scope: there are tokens:read, connections:read and connections:write")]
pub struct UnknownScope(String);

fn unknown_scope(text: &str) -> UnknownScope {
    UnknownScope(text.to_owned())
}

/// A service that was authenticated by its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// The name of the key, as shown in the audit trail.
    pub name: String,
    /// The scopes of the key.
    pub scopes: BTreeSet<Scope>,
}

/// A key from the environment.
#[derive(Clone, Debug)]
pub struct EnvironmentKey {
    pub(crate) service: Arc<Service>,
    pub(crate) digest: [u8; 32],
}

/// A text that is not a valid key name. The message omits it, because it may contain a key or terminal control
/// characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a key's name has 1 to {MAX_NAME} letters, digits and characters of . _ : / @ + - (ASCII), and no {KEY_PREFIX} in it"
)]
pub struct InvalidName;

/// Checks a key's name, from any source: the audit trail and `patchbay keys list` show it.
///
/// # Errors
/// If the name is not valid.
pub fn check_name(name: &str) -> Result<(), InvalidName> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/@+-".contains(&byte);
    let fits = (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(plain);
    if fits && !name.contains(KEY_PREFIX) {
        Ok(())
    } else {
        Err(InvalidName)
    }
}

/// The reason for which `SERVICE_API_KEYS` is rejected.
#[derive(Debug, thiserror::Error)]
pub enum EnvironmentKeyError {
    /// An entry has the wrong form.
    #[error("an entry is not <name>=<key> or <name>=<key>;<scope> <scope>")]
    Form,
    /// An entry has an invalid name.
    #[error("an entry is not <name>=<key> or <name>=<key>;<scope> <scope>: {0}")]
    Name(#[from] InvalidName),
    /// A key is too short or has another prefix.
    #[error("the key of {0} must begin with {KEY_PREFIX} and have at least {MIN_KEY} characters")]
    Short(String),
    /// A key has characters that no request can carry, such as quotes that were left around it.
    #[error("the key of {0} must have only letters, digits, _ and - (ASCII)")]
    Characters(String),
    /// A key can be guessed.
    #[error(
        "the key of {0} can be guessed: it has fewer than {MIN_DIFFERENT} different characters. Make one: {KEY_PREFIX} and the output of `openssl rand -hex 32`"
    )]
    Guessable(String),
    /// A key is the sandbox's.
    #[error(
        "the key of {0} is the one of `patchbay sandbox`, which the README shows: make your own with `patchbay keys create`"
    )]
    Sandbox(String),
    /// A scope that does not exist. The message omits it, because it may be part of a key.
    #[error(
        "a scope of {0} does not exist: there are tokens:read, connections:read and connections:write"
    )]
    Scope(String),
}

impl FromStr for EnvironmentKey {
    type Err = EnvironmentKeyError;

    /// Parses `<name>=<key>`, which allows all scopes, or `<name>=<key>;<scope> <scope>`.
    fn from_str(entry: &str) -> Result<Self, EnvironmentKeyError> {
        let (name, rest) = entry
            .trim()
            .split_once('=')
            .ok_or(EnvironmentKeyError::Form)?;
        check_name(name)?;
        let (key, scopes) = match rest.split_once(';') {
            Some((key, scopes)) => (
                key,
                scopes
                    .split_whitespace()
                    .map(str::parse)
                    .collect::<Result<_, UnknownScope>>()
                    .map_err(|_unknown| EnvironmentKeyError::Scope(name.to_owned()))?,
            ),
            None => (rest, BTreeSet::from(Scope::ALL)),
        };
        check_key(key).map_err(|error| error(name.to_owned()))?;
        Ok(Self::new(name, key, scopes))
    }
}

impl EnvironmentKey {
    fn new(name: &str, key: &str, scopes: BTreeSet<Scope>) -> Self {
        Self {
            service: Arc::new(Service {
                name: name.to_owned(),
                scopes,
            }),
            digest: digest_of(key),
        }
    }

    /// Returns the [`SANDBOX_KEY`], which allows all scopes.
    #[cfg(feature = "sandbox")]
    pub(crate) fn sandbox() -> Self {
        Self::new("sandbox", SANDBOX_KEY, BTreeSet::from(Scope::ALL))
    }

    /// Returns the name of the key's service.
    pub fn name(&self) -> &str {
        &self.service.name
    }

    /// Returns whether another entry has the same key.
    pub fn is_same_key(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

/// Checks that a key of the environment can be sent in a header and cannot be guessed.
fn check_key(key: &str) -> Result<(), fn(String) -> EnvironmentKeyError> {
    let Some(secret) = key
        .strip_prefix(KEY_PREFIX)
        .filter(|_| key.len() >= MIN_KEY)
    else {
        return Err(EnvironmentKeyError::Short);
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if !secret.bytes().all(plain) {
        return Err(EnvironmentKeyError::Characters);
    }
    if BTreeSet::from_iter(secret.bytes()).len() < MIN_DIFFERENT {
        return Err(EnvironmentKeyError::Guessable);
    }
    if key == SANDBOX_KEY {
        return Err(EnvironmentKeyError::Sandbox);
    }
    Ok(())
}

/// A stored key, without its secret.
#[derive(Clone, Debug)]
pub struct KeyInfo {
    /// The part of the key that may be shown.
    pub prefix: String,
    /// The key's name.
    pub name: String,
    /// The key's scopes.
    pub scopes: BTreeSet<Scope>,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When it expires, if it was rotated.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was revoked.
    pub revoked_at: Option<DateTime<Utc>>,
}

/// A key that was just created.
pub(crate) struct NewKey {
    pub(crate) text: SecretString,
    pub(crate) prefix: String,
    pub(crate) digest: [u8; 32],
}

pub(crate) fn new_key() -> NewKey {
    let prefix = Uuid::new_v4().simple().to_string()[..8].to_owned();
    // Two random UUIDs: 244 bits, which cannot be guessed.
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

pub(crate) fn prefix_of(key: &str) -> Option<&str> {
    key.strip_prefix(KEY_PREFIX)?
        .split_once('_')
        .map(|(prefix, _)| prefix)
}

pub(crate) fn digest_of(key: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, key.as_bytes()).as_ref());
    bytes
}
