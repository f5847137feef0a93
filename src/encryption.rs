//! Encryption of the few secrets that the database has to keep: AES-256-GCM by the keys of `ENCRYPTION_KEY`.
//!
//! An encrypted value is text, `enc1:<key id>:<base64>`, of which the last part is the nonce, the ciphertext and the tag.
//! The row that it belongs to is its associated data, so that it decrypts in no other row.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use secrecy::{ExposeSecret, SecretString};

/// What every encrypted value begins with.
const PREFIX: &str = "enc1:";

/// The length of a key, in bytes.
const KEY_BYTES: usize = 32;

/// How many keys there are at the most: the one that encrypts, and the one before or after it.
const MAX_KEYS: usize = 2;

/// The keys. The first encrypts, each decrypts; without any, values are stored as they are. Clones share them.
#[derive(Clone, Default)]
pub struct Encryption(Arc<[Key]>);

struct Key {
    /// The first digits of a digest of the key.
    id: String,
    key: RandomizedNonceKey,
}

/// Why `ENCRYPTION_KEY` is refused. The value is in no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// A key is not 32 bytes in base64 or hexadecimal digits.
    #[error(
        "must be {KEY_BYTES} bytes in base64 or hexadecimal digits, as `openssl rand -base64 {KEY_BYTES}` prints them; a comma stands between two"
    )]
    Malformed,
    /// There are more than two keys.
    #[error("may hold {MAX_KEYS} keys at the most: the first encrypts, both decrypt")]
    TooMany,
}

/// Why a stored value cannot be decrypted, or a new one not encrypted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The key that encrypted the value is not among the keys.
    #[error(
        "a stored value is encrypted with a key (id {0}) that ENCRYPTION_KEY does not hold: add that key, after a comma"
    )]
    UnknownKey(String),
    /// The value was changed, or moved from another row.
    #[error("a stored value was not encrypted for its row, or was changed since")]
    RowError,
    /// The system gives no random bytes for a nonce.
    #[error("the system gives no random bytes to encrypt a value with")]
    NoRandomness,
}

impl Encryption {
    /// Reads keys, each as base64 or hexadecimal digits.
    ///
    /// # Errors
    /// When one is malformed, or there are too many.
    pub fn new(keys: &[SecretString]) -> Result<Self, KeyError> {
        if keys.len() > MAX_KEYS {
            return Err(KeyError::TooMany);
        }
        keys.iter()
            .map(Key::read)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether new values are encrypted.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        !self.0.is_empty()
    }

    /// What is to be stored of a value in this row: the value itself where there is no key.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn encrypt(&self, row: &str, value: &str) -> Result<String, Error> {
        let Some(Key { id, key }) = self.0.first() else {
            return Ok(value.to_owned());
        };
        let mut sealed = value.as_bytes().to_vec();
        let nonce = key
            .seal_in_place_append_tag(Aad::from(row.as_bytes()), &mut sealed)
            .map_err(|_unspecified| Error::NoRandomness)?;
        let mut bytes = nonce.as_ref().to_vec();
        bytes.append(&mut sealed);
        Ok(format!("{PREFIX}{id}:{}", STANDARD.encode(bytes)))
    }

    /// The value that was stored in this row. One that is not encrypted is returned as it is.
    ///
    /// # Errors
    /// When its key is missing, or it is not this row's.
    pub fn decrypt(&self, row: &str, stored: &str) -> Result<SecretString, Error> {
        let Some(encrypted) = stored.strip_prefix(PREFIX) else {
            return Ok(stored.into());
        };
        let (key_id, encoded) = encrypted.split_once(':').ok_or(Error::RowError)?;
        let Some(Key { key, .. }) = self.0.iter().find(|key| key.id == key_id) else {
            return Err(Error::UnknownKey(key_id.to_owned()));
        };
        let value = STANDARD.decode(encoded).ok().and_then(|mut bytes| {
            let (nonce, sealed) = bytes.split_at_mut_checked(NONCE_LEN)?;
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            let value = key.open_in_place(nonce, Aad::from(row.as_bytes()), sealed);
            String::from_utf8(value.ok()?.to_vec()).ok()
        });
        value.map(SecretString::from).ok_or(Error::RowError)
    }

    /// What every value begins with that the first key has encrypted; `None` where there is no key.
    #[must_use]
    pub fn current_prefix(&self) -> Option<String> {
        let first = self.0.first()?;
        Some(format!("{PREFIX}{}:", first.id))
    }
}

impl Key {
    fn read(text: &SecretString) -> Result<Self, KeyError> {
        let text = text.expose_secret();
        let bytes = match text.len() {
            // 64 characters of base64 would be 48 bytes.
            64 => hex::decode(text).ok(),
            _ => STANDARD_NO_PAD.decode(text.trim_end_matches('=')).ok(),
        };
        let bytes = bytes.filter(|bytes| bytes.len() == KEY_BYTES);
        let bytes = bytes.ok_or(KeyError::Malformed)?;
        let name = digest(&SHA256, &[b"patchbay key id ", bytes.as_slice()].concat());
        let key = RandomizedNonceKey::new(&AES_256_GCM, &bytes);
        Ok(Self {
            id: hex::encode(&name.as_ref()[..4]),
            key: key.map_err(|_unspecified| KeyError::Malformed)?,
        })
    }
}

impl fmt::Debug for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<&str> = self.0.iter().map(|key| key.id.as_str()).collect();
        f.debug_tuple("Encryption").field(&ids).finish()
    }
}

/// Whether a stored value is encrypted.
#[must_use]
pub fn is_encrypted(stored: &str) -> bool {
    stored.starts_with(PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    const OTHER: &str = "ISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+P0A=";

    fn keys(keys: &[&str]) -> Encryption {
        let keys: Vec<SecretString> = keys.iter().map(|key| (*key).into()).collect();
        Encryption::new(&keys).expect("the keys are well formed")
    }

    fn decrypted(by: &Encryption, row: &str, stored: &str) -> Result<String, Error> {
        let value = by.decrypt(row, stored)?;
        Ok(value.expose_secret().to_owned())
    }

    #[test]
    fn value_decrypts_in_its_row_only() {
        let by = keys(&[ONE]);
        let stored = by.encrypt("a row", "a secret").expect("it encrypts");
        assert!(is_encrypted(&stored) && !stored.contains("secret"));
        assert_ne!(by.encrypt("a row", "a secret"), Ok(stored.clone()));
        assert_eq!(decrypted(&by, "a row", &stored), Ok("a secret".to_owned()));
        assert_eq!(decrypted(&by, "another", &stored), Err(Error::RowError));
        let mut changed = stored.clone();
        let last = changed
            .pop()
            .map_or('A', |last| if last == 'A' { 'B' } else { 'A' });
        changed.push(last);
        assert_eq!(decrypted(&by, "a row", &changed), Err(Error::RowError));
        for short in ["enc1:", &stored[..14], &stored[..20]] {
            assert!(by.decrypt("a row", short).is_err(), "{short}");
        }
    }

    #[test]
    fn first_key_encrypts_and_each_decrypts() {
        let (before, during, after) = (keys(&[ONE]), keys(&[OTHER, ONE]), keys(&[OTHER]));
        let old = before.encrypt("row", "x").expect("it encrypts");
        let new = during.encrypt("row", "x").expect("it encrypts");
        let prefix = |by: &Encryption| by.current_prefix().expect("there is a key");
        assert!(old.starts_with(&prefix(&before)) && new.starts_with(&prefix(&after)));
        for stored in [&old, &new] {
            assert_eq!(decrypted(&during, "row", stored), Ok("x".to_owned()));
        }
        assert_eq!(decrypted(&after, "row", &new), Ok("x".to_owned()));
        let missing = decrypted(&after, "row", &old).expect_err("its key is gone");
        let reported = missing.to_string();
        assert!(
            reported.contains("(id ") && reported.contains("ENCRYPTION_KEY"),
            "{reported}"
        );
    }

    #[test]
    fn values_are_stored_as_they_are_without_a_key() {
        let none = Encryption::default();
        assert!(!none.is_enabled());
        assert_eq!(none.encrypt("row", "x"), Ok("x".to_owned()));
        assert_eq!(decrypted(&none, "row", "x"), Ok("x".to_owned()));
        assert_eq!(decrypted(&keys(&[ONE]), "row", "x"), Ok("x".to_owned()));
        let stored = keys(&[ONE]).encrypt("row", "x").expect("it encrypts");
        assert!(matches!(
            none.decrypt("row", &stored),
            Err(Error::UnknownKey(_))
        ));
    }

    #[test]
    fn malformed_keys_are_refused_and_not_shown() {
        let refused = |given: &[&str]| {
            let keys: Vec<SecretString> = given.iter().map(|key| (*key).into()).collect();
            Encryption::new(&keys).map(|_| ())
        };
        for key in [
            "",
            "short",
            &ONE[1..],
            &ONE[2..],
            &OTHER[4..],
            "!",
            &ONE.replace('0', "g"),
        ] {
            assert_eq!(refused(&[key]), Err(KeyError::Malformed), "{key}");
        }
        assert_eq!(refused(&[ONE, OTHER, ONE]), Err(KeyError::TooMany));
        assert_eq!(refused(&[OTHER.trim_end_matches('='), ONE]), Ok(()));
        let shown = format!("{:?}", keys(&[ONE, OTHER]));
        assert!(
            !shown.contains(&ONE[..8]) && !shown.contains(&OTHER[..8]),
            "{shown}"
        );
    }
}
