//! Authentication: from a bearer token to a [`Caller`].
//!
//! A token is a JWT (RFC 7519) of the product's identity provider, signed with
//! a shared secret (HMAC) or with a key of its JWKS (RSA, ECDSA, Ed25519).
//! The configuration and the key itself decide which algorithms a key may verify; the token only selects among them.

mod browser_binding;
mod config;
mod error;
mod jwks;
mod jws;
mod keys;
pub mod service_keys;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::dns::Resolve;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Number, Value};
use url::Url;

use self::jwks::Jwks;
use self::jws::Jws;
use self::keys::{Algorithm, Hash};
use crate::clock::Clock;
use crate::domain::{InvalidUserId, UserId};
use crate::net::address_guard::{ForbiddenAddress, Networks, SystemResolver};

pub use browser_binding::BrowserToken;
pub use error::Error;

/// The maximum length of a token, in bytes. A token with 200 groups has 12 KB.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// The maximum difference between the identity provider's clock and ours.
pub(crate) const LEEWAY: Duration = Duration::from_secs(30);

/// The minimum length of a secret, in bytes: HS256 needs a key at least as long as its digest (RFC 7518, 3.2).
const MIN_SECRET_BYTES: usize = 32;

/// The two spellings of Google's issuer. Google signs with either.
const GOOGLE: [&str; 2] = ["https://accounts.google.com", "accounts.google.com"];

/// The rules by which tokens are accepted.
#[derive(Clone, Debug)]
pub struct Config {
    /// The secrets that may have signed HS256, HS384 and HS512 tokens, each of at least 32 bytes; several during a
    /// rotation.
    pub hmac_secrets: Vec<SecretString>,
    /// The URL at which the identity provider publishes its public keys.
    pub jwks_url: Option<Url>,
    /// Private networks from which the keys may be fetched, also without TLS.
    pub jwks_networks: Networks,
    /// The accepted values of `iss`. Empty accepts any issuer.
    pub issuers: Vec<String>,
    /// The accepted values of `aud`, or of `client_id` in a token without `aud`. Empty accepts any audience.
    pub audiences: Vec<String>,
    /// The claim that names the user.
    pub user_claim: String,
}

impl Config {
    /// Checks that keys may be fetched from the JWKS URL. Does not resolve its host.
    ///
    /// # Errors
    /// The reason if the URL is forbidden.
    pub fn check_jwks_url(&self) -> Result<(), ForbiddenAddress> {
        match &self.jwks_url {
            Some(url) => {
                jwks::address_guard(url, &self.jwks_networks, &system_resolver()).map(|_| ())
            }
            None => Ok(()),
        }
    }

    /// Returns `true` if the keys of a JWKS are accepted for any issuer and any audience. An identity provider may sign
    /// for several products with the same keys.
    pub fn is_unbound(&self) -> bool {
        self.jwks_url.is_some() && self.issuers.is_empty() && self.audiences.is_empty()
    }
}

fn system_resolver() -> Arc<dyn Resolve> {
    Arc::new(SystemResolver)
}

impl Default for Config {
    /// Returns a configuration without keys, which no [`Authenticator`] accepts; the user is the token's `sub`.
    fn default() -> Self {
        Self {
            hmac_secrets: Vec::new(),
            jwks_url: None,
            jwks_networks: Networks::default(),
            issuers: Vec::new(),
            audiences: Vec::new(),
            user_claim: "sub".to_owned(),
        }
    }
}

/// The reason for which a [`Config`] is rejected.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Without a key, no token can be verified.
    #[error("neither a shared secret nor a JWKS URL is set: no token could be verified")]
    NoKeys,
    /// A secret that can be guessed.
    #[error("the shared secret has fewer than {MIN_SECRET_BYTES} bytes")]
    ShortSecret,
    /// An attacker could supply keys at this URL.
    #[error("no keys can be fetched from the JWKS URL: {0}")]
    JwksUrl(#[from] ForbiddenAddress),
    /// The HTTP client could not be created.
    #[error("the HTTP client for the JWKS cannot be set up")]
    Client(#[from] reqwest::Error),
}

/// The authenticated user of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The token's user.
    pub user_id: UserId,
    /// The time until the token expires.
    pub valid_for: Duration,
}

/// Verifies tokens.
pub struct Authenticator {
    secrets: Vec<SecretString>,
    jwks: Option<Jwks>,
    issuers: Vec<String>,
    audiences: Vec<String>,
    user_claim: String,
    clock: Clock,
}

impl Authenticator {
    /// Creates an authenticator. It fetches the JWKS when a token first needs it.
    ///
    /// # Errors
    /// If the configuration would accept no token, or any token.
    pub fn new(config: Config, clock: Clock) -> Result<Self, ConfigError> {
        Self::with_resolver(config, clock, &system_resolver())
    }

    /// Creates an authenticator that resolves the JWKS host with `resolver`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_resolver(
        config: Config,
        clock: Clock,
        resolver: &Arc<dyn Resolve>,
    ) -> Result<Self, ConfigError> {
        if config.hmac_secrets.is_empty() && config.jwks_url.is_none() {
            return Err(ConfigError::NoKeys);
        }
        let is_short = |secret: &SecretString| secret.expose_secret().len() < MIN_SECRET_BYTES;
        if config.hmac_secrets.iter().any(is_short) {
            return Err(ConfigError::ShortSecret);
        }
        let networks = &config.jwks_networks;
        let jwks = config.jwks_url;
        let jwks = jwks.map(|url| Jwks::new(url, networks, resolver, clock.clone()));
        Ok(Self {
            secrets: config.hmac_secrets,
            jwks: jwks.transpose()?,
            issuers: with_spellings(config.issuers),
            audiences: config.audiences,
            user_claim: config.user_claim,
            clock,
        })
    }

    /// Returns the caller that this token identifies: the part of the `Authorization` header after `Bearer`.
    ///
    /// # Errors
    /// If the token is not valid, or [`Error::KeysUnavailable`] if it cannot be verified.
    pub async fn authenticate(&self, bearer: &str) -> Result<Caller, Error> {
        if bearer.len() > MAX_TOKEN_BYTES {
            return Err(Error::TooLarge);
        }
        let token = Jws::parse(bearer)?;
        match token.algorithm {
            Algorithm::Hmac(hash) => self.verify_hmac(&token, hash)?,
            _ => self.verify_public(&token).await?,
        }
        self.caller(&token.claims()?)
    }

    fn verify_hmac(&self, token: &Jws<'_>, hash: Hash) -> Result<(), Error> {
        if self.secrets.is_empty() {
            return Err(Error::NoSecret);
        }
        let signed_by = |secret: &SecretString| {
            let secret = secret.expose_secret().as_bytes();
            keys::is_hmac(hash, secret, token.signed, &token.signature)
        };
        if self.secrets.iter().any(signed_by) {
            Ok(())
        } else {
            Err(Error::AnotherSecret)
        }
    }

    async fn verify_public(&self, token: &Jws<'_>) -> Result<(), Error> {
        let jwks = self.jwks.as_ref().ok_or(Error::NoKeySet)?;
        let (id, algorithm) = (token.key_id.as_deref(), token.algorithm);
        if token.is_signed_by_one(&jwks.candidates(id, algorithm, jwks::CACHE_TTL).await?)
            || token.is_signed_by_one(&jwks.candidates(id, algorithm, Duration::ZERO).await?)
        {
            Ok(())
        } else {
            Err(Error::AnotherKey)
        }
    }

    /// Fetches the JWKS and returns the number of keys that can verify tokens, or the reason for the failure; `None` if
    /// no JWKS is configured.
    pub async fn published_key_count(&self) -> Option<Result<usize, String>> {
        Some(self.jwks.as_ref()?.count().await)
    }

    fn caller(&self, claims: &Map<String, Value>) -> Result<Caller, Error> {
        let good_for = self.check_times(claims)?;
        self.check_issuer(claims)?;
        self.check_audience(claims)?;
        let user_id = user_id(claims.get(&self.user_claim))?;
        Ok(Caller {
            user_id,
            valid_for: good_for,
        })
    }

    /// Checks that a token with these claims comes from an accepted issuer.
    pub(crate) fn check_issuer(&self, claims: &Map<String, Value>) -> Result<(), Error> {
        if self.issuers.is_empty() {
            return Ok(());
        }
        match claims.get("iss") {
            None | Some(Value::Null) => Err(Error::NoIssuer),
            Some(issuer) if self.issuers.iter().any(|one| issuer == one) => Ok(()),
            Some(_) => Err(Error::WrongIssuer),
        }
    }

    /// Checks that a token with these claims is for an accepted audience.
    pub(crate) fn check_audience(&self, claims: &Map<String, Value>) -> Result<(), Error> {
        if self.audiences.is_empty() {
            return Ok(());
        }
        let accepted = |named: &Value| self.audiences.iter().any(|one| named == one);
        let present = |name: &str| claims.get(name).filter(|value| !value.is_null());
        // Access tokens of Amazon Cognito have a `client_id` and no `aud`.
        let named = match present("aud").or_else(|| present("client_id")) {
            None => return Err(Error::NoAudience),
            Some(Value::Array(several)) => several.iter().any(accepted),
            Some(one) => accepted(one),
        };
        if named {
            Ok(())
        } else {
            Err(Error::WrongAudience)
        }
    }

    /// Checks the time claims. Returns the time until the token expires.
    fn check_times(&self, claims: &Map<String, Value>) -> Result<Duration, Error> {
        let (now, leeway) = (seconds(self.clock.now()), LEEWAY.as_secs_f64());
        let expiry = numeric_date(claims, "exp").map_err(|NotANumber| Error::ExpiryNotANumber)?;
        let remaining = expiry.ok_or(Error::NoExpiry)? + leeway - now;
        if remaining <= 0.0 {
            return Err(Error::Expired);
        }
        let start = numeric_date(claims, "nbf").map_err(|NotANumber| Error::StartNotANumber)?;
        if start.is_some_and(|start| now + leeway < start) {
            return Err(Error::NotYetValid);
        }
        let issued =
            numeric_date(claims, "iat").map_err(|NotANumber| Error::IssueTimeNotANumber)?;
        if issued.is_some_and(|issued| now + leeway < issued) {
            return Err(Error::IssuedInTheFuture);
        }
        // A time beyond the range of a `Duration` counts as unlimited.
        Ok(Duration::try_from_secs_f64(remaining).unwrap_or(Duration::MAX))
    }
}

/// Returns the issuers, with both spellings of those that have two.
fn with_spellings(mut issuers: Vec<String>) -> Vec<String> {
    let is_google = |issuer: &String| GOOGLE.contains(&issuer.as_str());
    if issuers.iter().any(is_google) {
        issuers.extend(GOOGLE.map(str::to_owned));
    }
    issuers
}

/// Returns the user that a claim names: a text, or a whole number as decimal text.
fn user_id(claim: Option<&Value>) -> Result<UserId, Error> {
    let id = match claim {
        None | Some(Value::Null) => return Err(Error::NoUser),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) if is_exact(number) => number.to_string(),
        Some(_) => return Err(Error::UserNotText),
    };
    UserId::try_from(id).map_err(Error::InvalidUser)
}

/// Returns whether a number was parsed without rounding. With rounding, two users could have the same id.
fn is_exact(number: &Number) -> bool {
    number.is_u64() || number.is_i64()
}

/// The error of a time claim that is not a number.
struct NotANumber;

/// Returns a `NumericDate` (RFC 7519, 2): seconds since the epoch, possibly with a fraction. Null counts as missing.
fn numeric_date(claims: &Map<String, Value>, name: &str) -> Result<Option<f64>, NotANumber> {
    match claims.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or(NotANumber),
    }
}

/// Returns seconds since the epoch. Exact: microseconds fit an `f64` until the year 2255.
fn seconds(time: DateTime<Utc>) -> f64 {
    time.timestamp_micros() as f64 / 1e6
}
