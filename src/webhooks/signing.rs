//! The signatures of webhooks, by the Standard Webhooks specification.

use aws_lc_rs::{hmac, rand};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};

/// The prefix of every secret.
const PREFIX: &str = "whsec_";

/// The number of random bytes of a secret; the specification requires 24 to 64.
const SECRET_BYTES: usize = 32;

/// The error of a malformed secret.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("a secret of a webhook is not whsec_ and base64")]
pub(crate) struct InvalidSecret;

/// Returns a new secret, as `whsec_` and base64.
///
/// # Errors
/// If the system's random number generator fails.
pub(crate) fn new_secret() -> Result<SecretString, aws_lc_rs::error::Unspecified> {
    let mut bytes = [0; SECRET_BYTES];
    rand::fill(&mut bytes)?;
    Ok(format!("{PREFIX}{}", STANDARD.encode(bytes)).into())
}

/// Returns the signature of one message: `v1,` and the base64 of an HMAC-SHA256 over id, time and body.
pub(crate) fn signature(
    secret: &SecretString,
    id: &str,
    timestamp: i64,
    body: &str,
) -> Result<String, InvalidSecret> {
    let encoded = secret.expose_secret().strip_prefix(PREFIX);
    let key = STANDARD
        .decode(encoded.ok_or(InvalidSecret)?)
        .map_err(|_not_base64| InvalidSecret)?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
    let tag = hmac::sign(&key, format!("{id}.{timestamp}.{body}").as_bytes());
    Ok(format!("v1,{}", STANDARD.encode(tag)))
}
