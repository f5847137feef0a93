//! Encryption of the secrets in the database: AES-256-GCM with the keys of `ENCRYPTION_KEY`.
//!
//! An encrypted value is a text `enc1:<key id>:<base64>`, whose last part contains the nonce, the ciphertext and the
//! tag. The name of its row is the associated data, so a value cannot be decrypted in another row.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use secrecy::{ExposeSecret, SecretString};

/// The prefix of every encrypted value.
const PREFIX: &str = "enc1:";

/// The length of a key, in bytes.
const KEY_BYTES: usize = 32;

/// The maximum number of keys: the current one, and the next or previous one during a rotation.
const MAX_KEYS: usize = 2;

/// The encryption keys. The first one encrypts, and all of them decrypt. Without keys, values are stored in plain text.
/// Clones share them.
#[derive(Clone, Default)]
pub struct Encryption(Arc<[Key]>);

struct Key {
    /// The first hexadecimal digits of a digest of the key.
    id: String,
    key: RandomizedNonceKey,
}

/// The reason why `ENCRYPTION_KEY` is invalid. No message contains the value.
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

/// The reason why a value cannot be decrypted or encrypted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// None of the keys encrypted the value.
    #[error(
        "a stored value is encrypted with a key (id {0}) that ENCRYPTION_KEY does not hold: add that key, after a comma"
    )]
    UnknownKey(String),
    /// The value was modified, or copied from another row.
    #[error("a stored value was not encrypted for its row, or was changed since")]
    RowError,
    /// The system returned no random bytes for a nonce.
    #[error("the system gives no random bytes to encrypt a value with")]
    NoRandomness,
}

impl Encryption {
    /// Parses keys, each in base64 or hexadecimal digits.
    ///
    /// # Errors
    /// If a key is malformed, or there are too many.
    pub fn new(keys: &[SecretString]) -> Result<Self, KeyError> {
        if keys.len() > MAX_KEYS {
            return Err(KeyError::TooMany);
        }
        keys.iter()
            .map(Key::read)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Returns `true` if new values are encrypted.
    pub fn is_enabled(&self) -> bool {
        !self.0.is_empty()
    }

    /// Encrypts a value for this row. Without a key, returns the value itself.
    ///
    /// # Errors
    /// If the system returns no random bytes.
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

    /// Decrypts a value that was stored in this row. A value that is not encrypted is returned unchanged.
    ///
    /// # Errors
    /// If the value's key is missing, or the value belongs to another row.
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

    /// Returns the prefix of values that the first key has encrypted; `None` without a key.
    pub fn current_prefix(&self) -> Option<String> {
        let first = self.0.first()?;
        Some(format!("{PREFIX}{}:", first.id))
    }
}

impl Key {
    fn read(text: &SecretString) -> Result<Self, KeyError> {
        let text = text.expose_secret();
        let bytes = match text.len() {
            // 64 characters of base64 are 48 bytes, which is no key.
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

/// Returns `true` if a stored value is encrypted.
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
