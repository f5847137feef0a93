//! The token that identifies the browser in which an attempt was started.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand;

/// A secret of one browser: 256 bits, written as 64 lower-case hex digits.
#[derive(Clone)]
pub struct BrowserToken(String);

impl BrowserToken {
    /// Generates a random token.
    ///
    /// # Errors
    /// If the system's random number generator fails.
    pub fn new() -> Result<Self, Unspecified> {
        let mut secret = [0; 32];
        rand::fill(&mut secret)?;
        Ok(Self(hex::encode(secret)))
    }

    /// Parses a secret; `None` if it is malformed.
    pub fn parse(secret: &str) -> Option<Self> {
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        (secret.len() == 64 && secret.bytes().all(is_hex)).then(|| Self(secret.to_owned()))
    }

    /// Returns the secret. Only the browser may receive it.
    pub fn secret(&self) -> &str {
        &self.0
    }

    /// Returns the digest, which is stored instead of the secret.
    pub(crate) fn hash(&self) -> Vec<u8> {
        digest(&SHA256, self.0.as_bytes()).as_ref().to_vec()
    }
}

impl fmt::Debug for BrowserToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Browser(…)")
    }
}
