//! Who calls: from a bearer token to a [`Caller`].
//!
//! A token is a JWT (RFC 7519) of the product's identity provider, signed with
//! a shared secret (HS256) or with a key of its JWKS (RS256, ES256, EdDSA).
//! Which key may verify which algorithm is settled by the configuration and by
//! the key itself; the token only chooses among them.

mod jwks;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use reqwest::dns::Resolve;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};
use url::Url;

use crate::clock::Clock;
use crate::networks::{Forbidden, Networks, SystemResolver};
use jwks::Jwks;

/// The longest token that is looked at, in bytes.
const MAX_TOKEN: usize = 8 * 1024;

/// HS256 needs a key at least as long as its digest (RFC 7518, 3.2), in bytes.
const MIN_SECRET: usize = 32;

/// The longest user id, in characters.
const MAX_USER_ID: usize = 255;

/// Which tokens are good.
#[derive(Clone, Debug)]
pub struct Config {
    /// The secrets that HS256 tokens may be signed with, each of at least 32 bytes: one, or two
    /// while it is rotated.
    pub hs256_secrets: Vec<SecretString>,
    /// Where the identity provider publishes its public keys.
    pub jwks_url: Option<Url>,
    /// Private networks that the keys may be fetched from; there also without TLS.
    pub jwks_networks: Networks,
    /// The `iss` that every token must have; any is good when it is not set.
    pub issuer: Option<String>,
    /// An `aud` that every token must have; any is good when it is not set.
    pub audience: Option<String>,
    /// By how much the identity provider's clock may differ from ours.
    pub leeway: Duration,
    /// The claim that names the user.
    pub user_claim: String,
}

impl Config {
    /// Whether keys may be fetched from the JWKS URL, as far as the URL itself tells.
    ///
    /// # Errors
    /// Says why not.
    pub fn check_jwks_url(&self) -> Result<(), Forbidden> {
        match &self.jwks_url {
            Some(url) => jwks::guard(url, &self.jwks_networks, &system_resolver()).map(|_| ()),
            None => Ok(()),
        }
    }
}

fn system_resolver() -> Arc<dyn Resolve> {
    Arc::new(SystemResolver)
}

impl Default for Config {
    /// No key at all, which no [`Authenticator`] accepts; 30 seconds of leeway;
    /// the user is the token's `sub`.
    fn default() -> Self {
        Self {
            hs256_secrets: Vec::new(),
            jwks_url: None,
            jwks_networks: Networks::default(),
            issuer: None,
            audience: None,
            leeway: Duration::from_secs(30),
            user_claim: "sub".to_owned(),
        }
    }
}

/// Why a [`Config`] makes no [`Authenticator`].
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Without a key no token can be good.
    #[error("neither a secret for HS256 nor a JWKS URL is set: no token could be verified")]
    NoKeys,
    /// A secret that could be guessed.
    #[error("the secret for HS256 has fewer than {MIN_SECRET} bytes")]
    ShortSecret,
    /// Keys from there could be anybody's.
    #[error("no keys can be fetched from the JWKS URL: {0}")]
    JwksUrl(#[from] Forbidden),
    /// The HTTP client does not start.
    #[error("the HTTP client for the JWKS cannot be set up")]
    Client(#[from] reqwest::Error),
}

/// Why a token is not accepted. The messages are safe to show to its bearer and
/// may stand in the `error_description` of `WWW-Authenticate` (RFC 6750, 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// More than 8 KiB.
    #[error("the token is longer than 8 KiB")]
    TooLarge,
    /// Not a JWT, or one whose header names an algorithm that verifies nothing.
    #[error("the token is not a signed JWT")]
    Malformed,
    /// Signed in a way that this service has no key for.
    #[error("the token is signed with an algorithm that is not accepted here")]
    AlgorithmNotAllowed,
    /// The identity provider publishes no such key for this algorithm.
    #[error("the token is signed with an unknown key")]
    UnknownKey,
    /// The signature belongs to another token or key.
    #[error("the signature of the token does not match")]
    BadSignature,
    /// No `exp`: it would be good for ever.
    #[error("the token has no expiry")]
    NoExpiry,
    /// `exp` has passed.
    #[error("the token has expired")]
    Expired,
    /// `nbf` or `iat` is still to come.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// `iss` is another, or missing.
    #[error("the token comes from another issuer")]
    WrongIssuer,
    /// `aud` names others, or is missing.
    #[error("the token is meant for another audience")]
    WrongAudience,
    /// The claim that names the user is missing or cannot be a [`UserId`].
    #[error("the token names no user")]
    NoUser,
    /// Not the token's fault: the JWKS could not be fetched, so it is not known
    /// whether the token is good.
    #[error("the keys to verify the token with cannot be fetched at the moment")]
    KeysUnavailable,
}

/// A user of the product, as its identity provider names them: 1 to 255
/// characters, none of them a control character.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(String);

/// A text that cannot name a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a user id has 1 to {MAX_USER_ID} characters and no control characters")]
pub struct InvalidUserId;

impl UserId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for UserId {
    type Error = InvalidUserId;

    fn try_from(id: String) -> Result<Self, InvalidUserId> {
        let fits = (1..=MAX_USER_ID).contains(&id.chars().count());
        if fits && !id.chars().any(char::is_control) {
            Ok(Self(id))
        } else {
            Err(InvalidUserId)
        }
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who a request comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The user whose token it is.
    pub user_id: UserId,
    /// For how long from now on the token is good.
    pub good_for: Duration,
}

/// Verifies tokens.
pub struct Authenticator {
    secrets: Vec<DecodingKey>,
    jwks: Option<Jwks>,
    issuer: Option<String>,
    audience: Option<String>,
    leeway: f64,
    user_claim: String,
    clock: Clock,
}

impl Authenticator {
    /// An authenticator; the JWKS is fetched when a token first needs it.
    ///
    /// # Errors
    /// When the configuration could accept no token, or any.
    pub fn new(config: Config, clock: Clock) -> Result<Self, ConfigError> {
        Self::with_resolver(config, clock, &system_resolver())
    }

    /// An authenticator that has the name in the JWKS's address resolved by `resolver`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_resolver(
        config: Config,
        clock: Clock,
        resolver: &Arc<dyn Resolve>,
    ) -> Result<Self, ConfigError> {
        if config.hs256_secrets.is_empty() && config.jwks_url.is_none() {
            return Err(ConfigError::NoKeys);
        }
        let key = |secret: &SecretString| match secret.expose_secret().as_bytes() {
            short if short.len() < MIN_SECRET => Err(ConfigError::ShortSecret),
            secret => Ok(DecodingKey::from_secret(secret)),
        };
        let networks = &config.jwks_networks;
        let jwks = config.jwks_url;
        let jwks = jwks.map(|url| Jwks::new(url, networks, resolver, clock.clone()));
        Ok(Self {
            secrets: config
                .hs256_secrets
                .iter()
                .map(key)
                .collect::<Result<_, _>>()?,
            jwks: jwks.transpose()?,
            issuer: config.issuer,
            audience: config.audience,
            leeway: config.leeway.as_secs_f64(),
            user_claim: config.user_claim,
            clock,
        })
    }

    /// The caller whose token this is: the part of the `Authorization` header
    /// after `Bearer`.
    ///
    /// # Errors
    /// When the token is not good, or [`Error::KeysUnavailable`] when that
    /// cannot be told.
    pub async fn authenticate(&self, bearer: &str) -> Result<Caller, Error> {
        if bearer.len() > MAX_TOKEN {
            return Err(Error::TooLarge);
        }
        let header = jsonwebtoken::decode_header(bearer).map_err(|_not_a_jwt| Error::Malformed)?;
        if header.crit.is_some() {
            // Whatever it demands to be understood (RFC 7515, 4.1.11) is not.
            return Err(Error::Malformed);
        }
        let algorithm = header.alg;
        let claims = match (algorithm, &self.jwks) {
            (Algorithm::HS256, _) => self.claims_by_secret(bearer)?,
            (Algorithm::RS256 | Algorithm::ES256 | Algorithm::EdDSA, Some(jwks)) => {
                let key = jwks.key(header.kid.as_deref(), algorithm).await?;
                verified_claims(bearer, &key, algorithm)?
            }
            _ => return Err(Error::AlgorithmNotAllowed),
        };
        self.caller(&claims)
    }

    /// The claims of a token that one of the secrets has signed.
    fn claims_by_secret(&self, bearer: &str) -> Result<Map<String, Value>, Error> {
        let mut refused = Err(Error::AlgorithmNotAllowed);
        for secret in &self.secrets {
            match verified_claims(bearer, secret, Algorithm::HS256) {
                Err(Error::BadSignature) => refused = Err(Error::BadSignature),
                known => return known,
            }
        }
        refused
    }

    /// How many keys the identity provider publishes that tokens can be verified with, or why that is
    /// not known; `None` where no JWKS is configured.
    pub async fn published_keys(&self) -> Option<Result<usize, String>> {
        Some(self.jwks.as_ref()?.count().await)
    }

    fn caller(&self, claims: &Map<String, Value>) -> Result<Caller, Error> {
        let good_for = self.check_times(claims)?;
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        if self.issuer.is_some() && self.issuer.as_deref() != text("iss") {
            return Err(Error::WrongIssuer);
        }
        if let Some(audience) = &self.audience {
            let named = match claims.get("aud") {
                Some(Value::Array(several)) => several.iter().any(|one| one == audience),
                Some(one) => one == audience,
                None => false,
            };
            if !named {
                return Err(Error::WrongAudience);
            }
        }
        let user_id = text(&self.user_claim).ok_or(Error::NoUser)?.to_owned();
        let user_id = UserId::try_from(user_id).map_err(|InvalidUserId| Error::NoUser)?;
        Ok(Caller { user_id, good_for })
    }

    /// The library compares with the system's clock, so this is done here. Says for how long the token is good.
    fn check_times(&self, claims: &Map<String, Value>) -> Result<Duration, Error> {
        let now = seconds(self.clock.now());
        let expiry = time(claims, "exp")?.ok_or(Error::NoExpiry)?;
        let left = expiry + self.leeway - now;
        if left <= 0.0 {
            return Err(Error::Expired);
        }
        for start in [time(claims, "nbf")?, time(claims, "iat")?] {
            if start.is_some_and(|start| now + self.leeway < start) {
                return Err(Error::NotYetValid);
            }
        }
        // What ends later than any time there is does not end.
        Ok(Duration::try_from_secs_f64(left).unwrap_or(Duration::MAX))
    }
}

/// The claims of a token that `key` has signed with `algorithm`, not checked.
fn verified_claims(
    token: &str,
    key: &DecodingKey,
    algorithm: Algorithm,
) -> Result<Map<String, Value>, Error> {
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    match jsonwebtoken::decode(token, key, &validation) {
        Ok(token) => Ok(token.claims),
        Err(error) => Err(match error.kind() {
            ErrorKind::InvalidSignature => Error::BadSignature,
            ErrorKind::InvalidAlgorithm => Error::AlgorithmNotAllowed,
            _ => Error::Malformed,
        }),
    }
}

/// A `NumericDate` (RFC 7519, 2): seconds since the epoch, possibly a fraction.
fn time(claims: &Map<String, Value>, name: &str) -> Result<Option<f64>, Error> {
    match claims.get(name) {
        None => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or(Error::Malformed),
    }
}

/// Exact: microseconds fit an `f64` until the year 2255.
fn seconds(time: DateTime<Utc>) -> f64 {
    time.timestamp_micros() as f64 / 1e6
}
