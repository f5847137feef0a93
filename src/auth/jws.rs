//! Signed tokens in their compact form (RFC 7515, 7.1), before verification.

use std::sync::Arc;

use aws_lc_rs::signature::ParsedPublicKey;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::Error;
use super::keys::Algorithm;

/// A token whose signature has not been verified.
pub(crate) struct Jws<'a> {
    pub(crate) algorithm: Algorithm,
    pub(crate) key_id: Option<String>,
    /// The bytes that the signature covers.
    pub(crate) signed: &'a [u8],
    pub(crate) signature: Vec<u8>,
    payload: &'a str,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    crit: Option<IgnoredAny>,
}

impl<'a> Jws<'a> {
    /// Parses the header of a token.
    ///
    /// # Errors
    /// If the token is not a signed token of a supported kind.
    pub(crate) fn parse(token: &'a str) -> Result<Self, Error> {
        let parts: Vec<&str> = token.splitn(6, '.').collect();
        let (header, payload, signature) = match parts.as_slice() {
            [header, payload, signature] => (*header, *payload, *signature),
            [_, _, _, _, _] => return Err(Error::Encrypted),
            _ => return Err(Error::NotAJwt),
        };
        let signed = &token.as_bytes()[..header.len() + 1 + payload.len()];
        let header = decoded(header).ok_or(Error::BadHeader)?;
        // serde would also read an array as the header's fields in order.
        if !header.trim_ascii_start().starts_with(b"{") {
            return Err(Error::BadHeader);
        }
        let header: Header =
            serde_json::from_slice(&header).map_err(|_not_a_header| Error::BadHeader)?;
        if header.alg.is_empty() || header.alg.eq_ignore_ascii_case("none") {
            return Err(Error::Unsigned);
        }
        if header.crit.is_some() {
            // A verifier must understand every extension that `crit` names (RFC 7515, 4.1.11).
            return Err(Error::CriticalHeader);
        }
        if header.typ.as_deref().is_some_and(|typ| !is_access(typ)) {
            return Err(Error::WrongType);
        }
        Ok(Self {
            algorithm: Algorithm::named(&header.alg).ok_or(Error::UnsupportedAlgorithm)?,
            key_id: header.kid,
            signed,
            signature: decoded(signature).ok_or(Error::BadSignatureEncoding)?,
            payload,
        })
    }

    /// Returns whether one of these keys made the signature.
    pub(crate) fn is_signed_by_one(&self, keys: &[Arc<ParsedPublicKey>]) -> bool {
        let mut keys = keys.iter();
        keys.any(|key| key.verify_sig(self.signed, &self.signature).is_ok())
    }

    /// Returns the claims. The caller verifies the signature first.
    pub(crate) fn claims(&self) -> Result<Map<String, Value>, Error> {
        let claims = decoded(self.payload).ok_or(Error::BadClaims)?;
        serde_json::from_slice(&claims).map_err(|_not_an_object| Error::BadClaims)
    }
}

/// Returns whether a `typ` is that of an API token (RFC 7519, 5.1; RFC 9068, 2.1). The same keys also sign other
/// tokens, such as logout tokens, DPoP proofs and request objects.
fn is_access(typ: &str) -> bool {
    let typ = typ.to_ascii_lowercase();
    let subtype = typ.strip_prefix("application/").unwrap_or(&typ);
    matches!(subtype, "jwt" | "at+jwt")
}

fn decoded(part: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(part).ok()
}
