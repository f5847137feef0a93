//! Webhooks from Nango: is one genuine, and what does it say.
//!
//! A webhook carries neither an id nor a time, so a genuine one may be an old
//! one sent again: it is a reason to look at Nango, never the truth itself.

use std::collections::BTreeMap;

use aws_lc_rs::hmac;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::lenient;

/// The header that carries the signature.
pub const SIGNATURE_HEADER: &str = "x-nango-hmac-sha256";

/// The keys that Nango may sign with: one, or two while it is rotated.
///
/// It is the environment's webhook signing key, not its secret key.
#[derive(Clone, Debug)]
pub struct SigningKeys(Vec<hmac::Key>);

/// An empty signing key: any client could sign with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a webhook signing key is empty: copy it from Nango's environment settings")]
pub struct EmptySigningKey;

/// Why the signature of a webhook is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// No `X-Nango-Hmac-Sha256` header. The deprecated `X-Nango-Signature` is no substitute.
    #[error("the X-Nango-Hmac-Sha256 header is missing")]
    Missing,
    /// The header is not 64 hexadecimal digits.
    #[error("the X-Nango-Hmac-Sha256 header is not a hexadecimal SHA-256 digest")]
    Malformed,
    /// None of the keys made this signature of this body.
    #[error("the signature does not match: check the webhook signing key")]
    Mismatch,
}

impl SigningKeys {
    /// Keys that are all valid. Without any, no webhook is genuine.
    ///
    /// # Errors
    /// When one of them is blank.
    pub fn new(keys: &[SecretString]) -> Result<Self, EmptySigningKey> {
        let key = |key: &SecretString| match key.expose_secret() {
            blank if blank.trim().is_empty() => Err(EmptySigningKey),
            key => Ok(hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes())),
        };
        keys.iter().map(key).collect::<Result<_, _>>().map(Self)
    }

    /// The header's value for these bytes by the first of the keys, as Nango makes it.
    #[must_use]
    pub fn sign(&self, body: &[u8]) -> String {
        let key = self.0.first();
        key.map_or_else(String::new, |key| hex::encode(hmac::sign(key, body)))
    }

    /// Whether one of the keys is this text.
    #[must_use]
    pub fn contains(&self, key: &str) -> bool {
        let other = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
        let signed = hmac::sign(&other, b"");
        let same = |key: &hmac::Key| hmac::verify(key, b"", signed.as_ref()).is_ok();
        self.0.iter().any(same)
    }

    /// Whether one of the keys signed exactly these bytes. `header` is the
    /// value of [`SIGNATURE_HEADER`]: the hexadecimal HMAC-SHA256 of the body.
    /// The comparison takes the same time wherever the first difference is.
    ///
    /// # Errors
    /// When it is missing, is not a digest, or belongs to another body or key.
    pub fn verify(&self, body: &[u8], header: Option<&str>) -> Result<(), SignatureError> {
        let mut tag = [0; 32];
        hex::decode_to_slice(header.ok_or(SignatureError::Missing)?, &mut tag)
            .map_err(|_not_hex| SignatureError::Malformed)?;
        let signed = |key: &hmac::Key| hmac::verify(key, body, &tag).is_ok();
        if self.0.iter().any(signed) {
            Ok(())
        } else {
            Err(SignatureError::Mismatch)
        }
    }
}

/// What a webhook says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// `type: "auth"`: an authorization or a refresh succeeded or failed.
    Auth(AuthEvent),
    /// Any other `type`, named: nothing for us.
    Other(String),
}

/// The outcome of an authorization or of a refresh.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthEvent {
    /// What was tried.
    pub operation: Operation,
    /// Whether it worked.
    pub success: bool,
    /// Nango's id of the connection. After the failure of a creation it is an
    /// id that Nango never stored.
    pub connection_id: String,
    /// Nango's key of the integration.
    pub provider_config_key: String,
    /// The connection's tags: none at all after the failure of a creation or a
    /// reconnect.
    #[serde(default, deserialize_with = "lenient::texts")]
    pub tags: BTreeMap<String, String>,
    /// Why it did not work.
    #[serde(default, deserialize_with = "auth_error")]
    pub error: Option<AuthError>,
}

/// What an [`AuthEvent`] is about.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub enum Operation {
    /// A connection was to be made; a failed reconnect says so too.
    Creation,
    /// A connection was reauthorized.
    Override,
    /// An access token was to be refreshed; a success follows a failure only.
    Refresh,
    /// A connection was deleted: from Nango 0.72 on, if the environment's settings say so.
    Deletion,
    /// Something that Nango has added since.
    Other(String),
}

impl From<String> for Operation {
    fn from(name: String) -> Self {
        match name.as_str() {
            "creation" => Self::Creation,
            "override" => Self::Override,
            "refresh" => Self::Refresh,
            "deletion" => Self::Deletion,
            _ => Self::Other(name),
        }
    }
}

/// Why an authorization or a refresh failed, in Nango's words.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct AuthError {
    /// Nango's code: `invalid_callback` when the user denied.
    #[serde(rename = "type", default, deserialize_with = "lenient::text")]
    pub kind: String,
    /// Prose, or JSON in a string; it may repeat what the provider answered. Empty if Nango gives none.
    #[serde(default, deserialize_with = "lenient::text")]
    pub description: String,
}

/// Reads the error of an event. One that is no object is its own description.
fn auth_error<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<AuthError>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    if value.is_null() {
        return Ok(None);
    }
    let read = serde_json::from_value(value.clone());
    Ok(Some(read.unwrap_or_else(|_no_object| AuthError {
        kind: String::new(),
        description: value.as_str().unwrap_or_default().to_owned(),
    })))
}

/// A body that is no event of Nango's.
#[derive(Debug, thiserror::Error)]
#[error("the webhook's body is not an event of Nango's (line {}, column {})", .0.line(), .0.column())]
pub struct ParseError(serde_json::Error);

/// Reads a body whose signature has been verified.
///
/// # Errors
/// When it is not JSON, has no `type`, or is an `auth` event that lacks a field.
pub fn parse(body: &[u8]) -> Result<Event, ParseError> {
    #[derive(Deserialize)]
    struct Tag {
        #[serde(rename = "type")]
        kind: String,
    }
    let Tag { kind } = serde_json::from_slice(body).map_err(ParseError)?;
    if kind != "auth" {
        return Ok(Event::Other(kind));
    }
    serde_json::from_slice(body)
        .map(Event::Auth)
        .map_err(ParseError)
}
