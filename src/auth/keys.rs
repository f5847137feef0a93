//! Signature algorithms (RFC 7518, RFC 8037, RFC 9864), and the public keys of a JWKS (RFC 7517).

use std::sync::Arc;

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519,
    ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384,
    RSA_PSS_2048_8192_SHA512, RsaParameters, RsaPublicKeyComponents, VerificationAlgorithm,
};
use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use serde_json::Value;

use super::Error;

/// The maximum number of keys that are tried for one token. Each costs a signature check.
const MAX_CANDIDATES: usize = 8;

/// The accepted sizes of an RSA modulus, in bytes.
const RSA_SIZES: std::ops::RangeInclusive<usize> = 256..=1024;

/// Base64url as identity providers write it: with or without padding.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A signature algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    /// HMAC with a shared secret: HS256, HS384, HS512.
    Hmac(Hash),
    /// RSASSA-PKCS1-v1_5: RS256, RS384, RS512.
    Rsa(Hash),
    /// RSASSA-PSS: PS256, PS384, PS512.
    Pss(Hash),
    /// ECDSA: ES256, ES384, ES512.
    Ecdsa(Hash),
    /// `EdDSA`, or `Ed25519` by RFC 9864.
    Ed25519,
}

/// The hash function of an [`Algorithm`]. For ECDSA it implies the curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

impl Algorithm {
    /// Returns the algorithm of an `alg`; `None` if it is not supported.
    pub(crate) fn named(name: &str) -> Option<Self> {
        if matches!(name, "EdDSA" | "Ed25519") {
            return Some(Self::Ed25519);
        }
        let (family, bits) = name.split_at_checked(2)?;
        let hash = match bits {
            "256" => Hash::Sha256,
            "384" => Hash::Sha384,
            "512" => Hash::Sha512,
            _ => return None,
        };
        Some(match family {
            "HS" => Self::Hmac(hash),
            "RS" => Self::Rsa(hash),
            "PS" => Self::Pss(hash),
            "ES" => Self::Ecdsa(hash),
            _ => return None,
        })
    }
}

/// Returns whether `secret` signed these bytes with HMAC. The comparison takes constant time.
pub(crate) fn is_hmac(hash: Hash, secret: &[u8], signed: &[u8], tag: &[u8]) -> bool {
    let algorithm = match hash {
        Hash::Sha256 => hmac::HMAC_SHA256,
        Hash::Sha384 => hmac::HMAC_SHA384,
        Hash::Sha512 => hmac::HMAC_SHA512,
    };
    hmac::verify(&hmac::Key::new(algorithm, secret), signed, tag).is_ok()
}

/// The keys of one JWKS that can verify a token.
#[derive(Default)]
pub(crate) struct KeySet {
    keys: Vec<Key>,
    /// The number of distinct usable keys.
    usable: usize,
}

/// A public key for one of the algorithms that it may verify.
struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: Arc<ParsedPublicKey>,
}

/// The fields of a JWK that are used. Others are ignored.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    kid: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
}

impl KeySet {
    /// Parses a set. Omits keys that cannot verify a token, because a set may contain others.
    pub(crate) fn new(jwks: Vec<Value>) -> Self {
        let mut set = Self::default();
        for jwk in jwks {
            let Ok(jwk) = serde_json::from_value::<Jwk>(jwk) else {
                continue;
            };
            let found = jwk.keys();
            set.usable += usize::from(!found.is_empty());
            for (algorithm, key) in found {
                let id = jwk.kid.clone();
                let known = |other: &Key| {
                    (&other.id, other.algorithm) == (&id, algorithm)
                        && other.key.as_ref().as_ref() == key.as_ref()
                };
                if !set.keys.iter().any(known) {
                    let key = Arc::new(key);
                    set.keys.push(Key { id, algorithm, key });
                }
            }
        }
        set
    }

    /// Returns the number of keys that can verify a token.
    pub(crate) fn len(&self) -> usize {
        self.usable
    }

    /// Returns the keys that may have signed a token with this key id and algorithm. Keys without an id are candidates
    /// for every token whose id is not in the set.
    ///
    /// # Errors
    /// If no key matches, or too many do.
    pub(crate) fn candidates(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Vec<Arc<ParsedPublicKey>>, Error> {
        let has_id = id.is_some() && self.keys.iter().any(|key| key.id.as_deref() == id);
        let named = |key: &&Key| match id {
            None => true,
            Some(_) if has_id => key.id.as_deref() == id,
            Some(_) => key.id.is_none(),
        };
        let mut found: Vec<Arc<ParsedPublicKey>> = Vec::new();
        for key in self.keys.iter().filter(named) {
            let is_same =
                |other: &Arc<ParsedPublicKey>| other.as_ref().as_ref() == key.key.as_ref().as_ref();
            if key.algorithm == algorithm && !found.iter().any(is_same) {
                found.push(Arc::clone(&key.key));
            }
        }
        match found.len() {
            0 if has_id => Err(Error::KeyOfAnotherAlgorithm),
            0 if id.is_some() => Err(Error::UnknownKey),
            0 => Err(Error::NoKeyOfAlgorithm),
            count if count > MAX_CANDIDATES => Err(Error::TooManyKeys),
            _ => Ok(found),
        }
    }
}

impl Jwk {
    /// Returns the key once for each algorithm that it may verify; empty if it is not a signature key.
    fn keys(&self) -> Vec<(Algorithm, ParsedPublicKey)> {
        let signs = self.usage.as_deref().is_none_or(|usage| usage == "sig");
        let operations = self.key_ops.as_deref();
        let verifies = operations.is_none_or(|known| known.iter().any(|one| one == "verify"));
        if !(signs && verifies) {
            return Vec::new();
        }
        let declared = |algorithm: Algorithm| {
            let name = self.alg.as_deref();
            name.is_none_or(|name| Algorithm::named(name) == Some(algorithm))
        };
        let parsed = |algorithm: &Algorithm| Some((*algorithm, self.parsed(*algorithm)?));
        let all = self.algorithms();
        let declared = all.iter().filter(|algorithm| declared(**algorithm));
        declared.filter_map(parsed).collect()
    }

    /// Returns the algorithms that a key of this type can verify.
    fn algorithms(&self) -> &'static [Algorithm] {
        use Algorithm::{Ecdsa, Ed25519, Pss, Rsa};
        use Hash::{Sha256, Sha384, Sha512};
        match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => &[
                Rsa(Sha256),
                Rsa(Sha384),
                Rsa(Sha512),
                Pss(Sha256),
                Pss(Sha384),
                Pss(Sha512),
            ],
            ("EC", Some("P-256")) => &[Ecdsa(Sha256)],
            ("EC", Some("P-384")) => &[Ecdsa(Sha384)],
            ("EC", Some("P-521")) => &[Ecdsa(Sha512)],
            ("OKP", Some("Ed25519")) => &[Ed25519],
            _ => &[],
        }
    }

    fn parsed(&self, algorithm: Algorithm) -> Option<ParsedPublicKey> {
        match algorithm {
            Algorithm::Hmac(_) => None,
            Algorithm::Rsa(Hash::Sha256) => self.rsa(&RSA_PKCS1_2048_8192_SHA256),
            Algorithm::Rsa(Hash::Sha384) => self.rsa(&RSA_PKCS1_2048_8192_SHA384),
            Algorithm::Rsa(Hash::Sha512) => self.rsa(&RSA_PKCS1_2048_8192_SHA512),
            Algorithm::Pss(Hash::Sha256) => self.rsa(&RSA_PSS_2048_8192_SHA256),
            Algorithm::Pss(Hash::Sha384) => self.rsa(&RSA_PSS_2048_8192_SHA384),
            Algorithm::Pss(Hash::Sha512) => self.rsa(&RSA_PSS_2048_8192_SHA512),
            Algorithm::Ecdsa(Hash::Sha256) => self.point(&ECDSA_P256_SHA256_FIXED, 32),
            Algorithm::Ecdsa(Hash::Sha384) => self.point(&ECDSA_P384_SHA384_FIXED, 48),
            Algorithm::Ecdsa(Hash::Sha512) => self.point(&ECDSA_P521_SHA512_FIXED, 66),
            Algorithm::Ed25519 => {
                let x = LENIENT.decode(self.x.as_deref()?).ok()?;
                ParsedPublicKey::new(&ED25519, x).ok()
            }
        }
    }

    fn rsa(&self, parameters: &'static RsaParameters) -> Option<ParsedPublicKey> {
        let (n, e) = (integer(self.n.as_deref()?)?, integer(self.e.as_deref()?)?);
        if !RSA_SIZES.contains(&n.len()) {
            return None;
        }
        let components = RsaPublicKeyComponents { n, e };
        components.to_parsed_public_key(parameters).ok()
    }

    /// Returns an uncompressed point, whose coordinates have `size` bytes each.
    fn point(
        &self,
        algorithm: &'static dyn VerificationAlgorithm,
        size: usize,
    ) -> Option<ParsedPublicKey> {
        let mut point = vec![4];
        for coordinate in [&self.x, &self.y] {
            let bytes = integer(coordinate.as_deref()?)?;
            point.resize(point.len() + size.checked_sub(bytes.len())?, 0);
            point.extend(bytes);
        }
        ParsedPublicKey::new(algorithm, point).ok()
    }
}

/// Returns a big-endian integer without its leading zero bytes, whose number differs between identity providers.
fn integer(text: &str) -> Option<Vec<u8>> {
    let bytes = LENIENT.decode(text).ok()?;
    let start = bytes.iter().position(|byte| *byte != 0)?;
    Some(bytes[start..].to_vec())
}
