//! Authentication of tokens, with keys made for the test and a JWKS over HTTP.

mod algorithms;
mod jwks;
mod jwks_address;
mod jwt;
mod pairs;
mod providers;
mod reasons;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair,
};
use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::DateTime;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use patchbay::auth::{Authenticator, Config, Error};
use patchbay::clock::Clock;
use serde_json::{Value, json};
use url::Url;

use crate::test_server::serve;

const SECRET: &str = "a secret that is long enough for HS256";

/// The test's time, in seconds since the epoch.
const NOW: i64 = 1_795_437_836;

fn clock() -> Clock {
    Clock::manual(DateTime::from_timestamp(NOW, 0).unwrap())
}

fn claims() -> Value {
    json!({"sub": "ada", "exp": NOW + 600, "iat": NOW - 10})
}

/// Returns valid claims with some replaced, or removed by a null.
fn claims_with(changes: &Value) -> Value {
    let mut claims = claims();
    for (name, value) in changes.as_object().unwrap() {
        let all = claims.as_object_mut().unwrap();
        if value.is_null() {
            all.remove(name);
        } else {
            all.insert(name.clone(), value.clone());
        }
    }
    claims
}

/// A key of the identity provider.
struct Signer {
    algorithm: Algorithm,
    kid: Option<&'static str>,
    key: EncodingKey,
}

impl Signer {
    fn secret(secret: &[u8]) -> Self {
        Self {
            algorithm: Algorithm::HS256,
            kid: None,
            key: EncodingKey::from_secret(secret),
        }
    }

    fn rsa(kid: &'static str) -> Self {
        Self {
            algorithm: Algorithm::RS256,
            kid: Some(kid),
            key: EncodingKey::from_rsa_pem(
                pem("PRIVATE", RSA.as_der().unwrap().as_ref()).as_bytes(),
            )
            .unwrap(),
        }
    }

    fn p256(kid: &'static str) -> Self {
        let rng = SystemRandom::new();
        let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &rng).unwrap();
        Self {
            algorithm: Algorithm::ES256,
            kid: Some(kid),
            key: EncodingKey::from_ec_der(key.as_ref()),
        }
    }

    fn ed25519(kid: &'static str) -> Self {
        let key = Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new()).unwrap();
        Self {
            algorithm: Algorithm::EdDSA,
            kid: Some(kid),
            key: EncodingKey::from_ed_der(key.as_ref()),
        }
    }

    fn token(&self, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = self.kid.map(str::to_owned);
        jsonwebtoken::encode(&header, claims, &self.key).unwrap()
    }

    fn jwk(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.key, self.algorithm).unwrap();
        jwk.common.key_id = self.kid.map(str::to_owned);
        serde_json::to_value(jwk).unwrap()
    }
}

/// A key that all tests share, because generating an RSA key takes long.
static RSA: LazyLock<RsaKeyPair> =
    LazyLock::new(|| RsaKeyPair::generate(KeySize::Rsa2048).unwrap());

fn pem(kind: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    format!("-----BEGIN {kind} KEY-----\n{body}\n-----END {kind} KEY-----\n")
}

/// An identity provider's JWKS, whose keys and faults the test sets.
#[derive(Clone, Default)]
struct Provider {
    keys: Arc<Mutex<Vec<Value>>>,
    down: Arc<AtomicBool>,
    fetches: Arc<AtomicUsize>,
}

impl Provider {
    async fn new(signers: &[&Signer]) -> (Self, Url) {
        let provider = Self::default();
        provider.publish(signers);
        let this = provider.clone();
        let url = serve(Router::new().fallback(move || async move { this.answer() })).await;
        (provider, url)
    }

    fn publish(&self, signers: &[&Signer]) {
        *self.keys.lock().unwrap() = signers.iter().map(|signer| signer.jwk()).collect();
    }

    fn answer(&self) -> Response {
        self.fetches.fetch_add(1, Ordering::SeqCst);
        if self.down.load(Ordering::SeqCst) {
            return StatusCode::BAD_GATEWAY.into_response();
        }
        axum::Json(json!({"keys": *self.keys.lock().unwrap()})).into_response()
    }

    fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }
}

fn with_secret() -> Config {
    Config {
        hmac_secrets: vec![SECRET.into()],
        ..Config::default()
    }
}

fn with_jwks(url: Url) -> Config {
    Config {
        jwks_url: Some(url),
        ..Config::default()
    }
}

fn authenticator(config: Config) -> Authenticator {
    Authenticator::new(config, clock()).unwrap()
}

async fn outcome(authenticator: &Authenticator, token: &str) -> Result<String, Error> {
    let caller = authenticator.authenticate(token).await?;
    Ok(caller.user_id.to_string())
}

fn ada() -> Result<String, Error> {
    Ok("ada".to_owned())
}
