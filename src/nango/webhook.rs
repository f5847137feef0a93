//! Webhooks from Nango: verification of the signature, and parsing.
//!
//! A webhook contains neither an id nor a time, so a genuine one may be a replay. It only causes a query of Nango,
//! whose result is authoritative.

use std::collections::BTreeMap;

use aws_lc_rs::hmac;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::lenient;

/// The header with the signature.
pub const SIGNATURE_HEADER: &str = "x-nango-hmac-sha256";

/// The keys with which Nango may sign: one, or two during a rotation.
///
/// It is the environment's webhook signing key, not its secret key.
#[derive(Clone, Debug)]
pub struct SigningKeys(Vec<hmac::Key>);

/// The error of an empty signing key, with which any client could sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a webhook signing key is empty: copy it from Nango's environment settings")]
pub struct EmptySigningKey;

/// The reason for which the signature of a webhook is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The `X-Nango-Hmac-Sha256` header is missing. The deprecated `X-Nango-Signature` is not accepted.
    #[error("the X-Nango-Hmac-Sha256 header is missing")]
    Missing,
    /// The header is not 64 hexadecimal digits.
    #[error("the X-Nango-Hmac-Sha256 header is not a hexadecimal SHA-256 digest")]
    Malformed,
    /// No key matches the signature of this body.
    #[error("the signature does not match: check the webhook signing key")]
    Mismatch,
}

impl SigningKeys {
    /// Accepts all of these keys. Without any, no webhook is genuine.
    ///
    /// # Errors
    /// If one of them is blank.
    pub fn new(keys: &[SecretString]) -> Result<Self, EmptySigningKey> {
        let key = |key: &SecretString| match key.expose_secret() {
            blank if blank.trim().is_empty() => Err(EmptySigningKey),
            key => Ok(hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes())),
        };
        keys.iter().map(key).collect::<Result<_, _>>().map(Self)
    }

    /// Returns the header's value for these bytes with the first key, as Nango computes it.
    pub fn sign(&self, body: &[u8]) -> String {
        let key = self.0.first();
        key.map_or_else(String::new, |key| hex::encode(hmac::sign(key, body)))
    }

    /// Returns whether one of the keys is this text.
    pub fn contains(&self, key: &str) -> bool {
        let other = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
        let signed = hmac::sign(&other, b"");
        let same = |key: &hmac::Key| hmac::verify(key, b"", signed.as_ref()).is_ok();
        self.0.iter().any(same)
    }

    /// Verifies that one of the keys signed exactly these bytes. `header` is the value of [`SIGNATURE_HEADER`]: the
    /// hexadecimal HMAC-SHA256 of the body. The comparison takes constant time.
    ///
    /// # Errors
    /// If the header is missing, is not a digest, or belongs to another body or key.
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

/// The content of a webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// `type: "auth"`: an authorization or a refresh succeeded or failed.
    Auth(AuthEvent),
    /// Any other `type`, with its name. It is ignored.
    Other(String),
}

/// The outcome of an authorization or of a refresh.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthEvent {
    /// The operation.
    pub operation: Operation,
    /// `true` if it succeeded.
    pub success: bool,
    /// Nango's id of the connection. After a failed creation, Nango never stored this id.
    pub connection_id: String,
    /// Nango's key of the integration.
    pub provider_config_key: String,
    /// The connection's tags. Empty after a failed creation or reconnect.
    #[serde(default, deserialize_with = "lenient::texts")]
    pub tags: BTreeMap<String, String>,
    /// The error, if it failed.
    #[serde(default, deserialize_with = "auth_error")]
    pub error: Option<AuthError>,
}

/// The operation of an [`AuthEvent`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub enum Operation {
    /// A connection is created. A failed reconnect is reported as this, too.
    Creation,
    /// A connection was reauthorized.
    Override,
    /// An access token is refreshed. A success is reported only after a failure.
    Refresh,
    /// A connection was deleted. Nango sends it from 0.72 on, if the environment's settings enable it.
    Deletion,
    /// An operation that this version does not know.
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

/// The error of an authorization or a refresh, as reported by Nango.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct AuthError {
    /// Nango's code: `invalid_callback` if the user denied.
    #[serde(rename = "type", default, deserialize_with = "lenient::text")]
    pub kind: String,
    /// Prose, or JSON in a string; it may quote the provider's response. Empty if Nango gives none.
    #[serde(default, deserialize_with = "lenient::text")]
    pub description: String,
}

/// Reads the error of an event. An error that is not an object becomes the description.
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

/// The error of a body that is not an event of Nango's.
#[derive(Debug, thiserror::Error)]
#[error("the webhook's body is not an event of Nango's (line {}, column {})", .0.line(), .0.column())]
pub struct ParseError(serde_json::Error);

/// Reads a body whose signature has been verified.
///
/// # Errors
/// If it is not JSON, has no `type`, or is an `auth` event that lacks a field.
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
