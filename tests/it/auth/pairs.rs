//! Key pairs for every signature algorithm, and tokens with any header.

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair,
    RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384,
    RSA_PSS_SHA512, RsaEncoding, RsaPublicKeyComponents,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::RSA;

/// Signs a message.
type Sign = Box<dyn Fn(&[u8]) -> Vec<u8> + Send + Sync>;

/// A key pair, or a shared secret, with one algorithm.
pub(super) struct Pair {
    pub(super) alg: &'static str,
    /// The public key, without `alg`, `use` and `kid`; null for a secret.
    pub(super) jwk: Value,
    sign: Sign,
}

pub(super) fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Pair {
    pub(super) fn hmac(alg: &'static str, secret: &'static str) -> Self {
        let algorithm = match alg {
            "HS256" => hmac::HMAC_SHA256,
            "HS384" => hmac::HMAC_SHA384,
            _ => hmac::HMAC_SHA512,
        };
        let key = hmac::Key::new(algorithm, secret.as_bytes());
        let sign = move |message: &[u8]| hmac::sign(&key, message).as_ref().to_vec();
        Self {
            alg,
            jwk: Value::Null,
            sign: Box::new(sign),
        }
    }

    pub(super) fn rsa(alg: &'static str) -> Self {
        let encoding: &'static dyn RsaEncoding = match alg {
            "RS256" => &RSA_PKCS1_SHA256,
            "RS384" => &RSA_PKCS1_SHA384,
            "RS512" => &RSA_PKCS1_SHA512,
            "PS256" => &RSA_PSS_SHA256,
            "PS384" => &RSA_PSS_SHA384,
            _ => &RSA_PSS_SHA512,
        };
        let public = RsaPublicKeyComponents::<Vec<u8>>::from(RSA.public_key());
        let sign = move |message: &[u8]| {
            let mut signature = vec![0; RSA.public_modulus_len()];
            RSA.sign(encoding, &SystemRandom::new(), message, &mut signature)
                .unwrap();
            signature
        };
        Self {
            alg,
            jwk: json!({"kty": "RSA", "n": encode(&public.n), "e": encode(&public.e)}),
            sign: Box::new(sign),
        }
    }

    pub(super) fn ec(alg: &'static str) -> Self {
        let (curve, algorithm): (_, &'static EcdsaSigningAlgorithm) = match alg {
            "ES256" => ("P-256", &ECDSA_P256_SHA256_FIXED_SIGNING),
            "ES384" => ("P-384", &ECDSA_P384_SHA384_FIXED_SIGNING),
            _ => ("P-521", &ECDSA_P521_SHA512_FIXED_SIGNING),
        };
        let key = EcdsaKeyPair::generate(algorithm).unwrap();
        let (x, y) = key.public_key().as_ref()[1..].split_at(key.public_key().as_ref().len() / 2);
        let jwk = json!({"kty": "EC", "crv": curve, "x": encode(x), "y": encode(y)});
        let sign = move |message: &[u8]| {
            let signature = key.sign(&SystemRandom::new(), message).unwrap();
            signature.as_ref().to_vec()
        };
        Self {
            alg,
            jwk,
            sign: Box::new(sign),
        }
    }

    /// Creates a pair whose `alg` is `EdDSA` or `Ed25519`.
    pub(super) fn ed25519(alg: &'static str) -> Self {
        let key = Ed25519KeyPair::generate().unwrap();
        let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": encode(key.public_key().as_ref())});
        let sign = move |message: &[u8]| key.sign(message).as_ref().to_vec();
        Self {
            alg,
            jwk,
            sign: Box::new(sign),
        }
    }

    /// Creates a pair for each algorithm with a public key.
    pub(super) fn all_public() -> Vec<Self> {
        let rsa = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"];
        let mut all: Vec<Self> = rsa.into_iter().map(Self::rsa).collect();
        all.extend(["ES256", "ES384", "ES512"].into_iter().map(Self::ec));
        all.extend(["EdDSA", "Ed25519"].into_iter().map(Self::ed25519));
        all
    }

    /// Returns the public key with additional parameters.
    pub(super) fn jwk_with(&self, others: &Value) -> Value {
        let mut jwk = self.jwk.clone();
        let fields = jwk.as_object_mut().unwrap();
        fields.extend(others.as_object().unwrap().clone());
        jwk
    }

    /// Returns a token with this header, in which `alg` is optional.
    pub(super) fn token(&self, mut header: Value, claims: &Value) -> String {
        if header.get("alg").is_none() {
            header["alg"] = self.alg.into();
        }
        let (header, claims) = (header.to_string(), claims.to_string());
        self.signed(&encode(header.as_bytes()), &encode(claims.as_bytes()))
    }

    /// Returns a token of these two parts, even if they are invalid.
    pub(super) fn signed(&self, header: &str, payload: &str) -> String {
        let signed = format!("{header}.{payload}");
        let signature = (self.sign)(signed.as_bytes());
        format!("{signed}.{}", encode(&signature))
    }
}
