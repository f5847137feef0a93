//! The browser that begins an attempt, by which it is known when it comes back from a provider.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand;

/// A secret that only one browser has: 256 bits, written as 64 lower-case hex digits.
#[derive(Clone)]
pub struct BrowserToken(String);

impl BrowserToken {
    /// One that was never seen before.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn new() -> Result<Self, Unspecified> {
        let mut secret = [0; 32];
        rand::fill(&mut secret)?;
        Ok(Self(hex::encode(secret)))
    }

    /// The one with this secret; `None` for what is not of the form.
    #[must_use]
    pub fn parse(secret: &str) -> Option<Self> {
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        (secret.len() == 64 && secret.bytes().all(is_hex)).then(|| Self(secret.to_owned()))
    }

    /// The secret, for the browser alone.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.0
    }

    /// What is kept of it.
    pub(crate) fn hash(&self) -> Vec<u8> {
        digest(&SHA256, self.0.as_bytes()).as_ref().to_vec()
    }
}

impl fmt::Debug for BrowserToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Browser(…)")
    }
}
