//! The environment: lines of `NAME=value`, applied to a complete configuration.
#![no_main]

use std::collections::HashMap;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use patchbay::auth::Authenticator;
use patchbay::clock::Clock;
use patchbay::config::Config;
use patchbay::auth::service_keys::KEY_PREFIX;

static VARIABLES: LazyLock<Vec<&str>> = LazyLock::new(Config::variables);

/// Variables whose whole value is secret.
const SECRETS: [&str; 4] = [
    "AUTH_JWT_SECRET",
    "METRICS_TOKEN",
    "NANGO_SECRET_KEY",
    "NANGO_WEBHOOK_SIGNING_KEY",
];

/// Minimum length of a key: the service rejects shorter keys.
const KEY_LENGTH: usize = 36;

/// Replaces the letters and digits of a secret. It occurs in no text of the service.
const MASK: char = 'Z';

/// A run of `MASK` that is too long to occur by chance.
const MASKED: &str = "ZZZZZZZZ";

/// A complete configuration, to which the fuzz input is applied.
const COMPLETE: [(&str, &str); 5] = [
    ("PUBLIC_URL", "https://connect.example.com"),
    ("DATABASE_URL", "postgres://patchbay@localhost/patchbay"),
    ("NANGO_SECRET_KEY", "f0e1d2c3-b4a5-4697-8877-665544332211"),
    ("NANGO_WEBHOOK_SIGNING_KEY", "signing-key-0123456789abcdef"),
    ("AUTH_JWT_SECRET", "0123456789abcdef0123456789abcdef"),
];

/// Returns the debug output of the configuration, or its error messages.
fn said(lookup: &dyn Fn(&str) -> Option<String>) -> String {
    match Config::read(lookup) {
        Ok(config) => {
            assert!(config.database.pool_size > 0 && config.http.server.connections > 0);
            assert!(matches!(config.http.public_url.scheme(), "http" | "https"));
            let reported = format!("{config:?}");
            let mut auth = config.auth;
            assert_eq!(auth.check_jwks_url(), Ok(()));
            // Setting up the client that fetches keys takes much longer than the rest.
            let fetches = auth.jwks_url.take().is_some();
            if !(fetches && auth.hmac_secrets.is_empty()) {
                assert!(Authenticator::new(auth, Clock::System).is_ok());
            }
            reported
        }
        Err(error) => {
            for problem in &error.problems {
                let named = VARIABLES.iter().any(|name| problem.starts_with(name));
                assert!(named, "{problem:?} names no variable");
                assert!(!problem.chars().any(char::is_control), "{problem:?}");
            }
            error.to_string()
        }
    }
}

/// Returns a secret of the same length and punctuation, with each letter and digit masked.
fn masked(secret: &str) -> String {
    let mask = |c: char| if c.is_ascii_alphanumeric() { MASK } else { c };
    secret.chars().map(mask).collect()
}

/// Returns `SERVICE_API_KEYS` with each key masked. A key starts with the prefix, extends to the next
/// comma or semicolon and has at least the minimum length. Names, scopes and other text are not secret.
fn with_masked_keys(value: &str) -> String {
    let mut hidden = String::new();
    let mut rest = value;
    while let Some(start) = rest.find(KEY_PREFIX) {
        let (before, key) = rest.split_at(start);
        let (key, after) = key.split_at(key.find([',', ';']).unwrap_or(key.len()));
        let (prefix, secret) = key.split_at(KEY_PREFIX.len());
        hidden += before;
        hidden += prefix;
        if key.len() < KEY_LENGTH {
            rest = &rest[start + prefix.len()..];
        } else {
            hidden += &masked(secret);
            rest = after;
        }
    }
    hidden + rest
}

fuzz_target!(|text: &str| {
    let mut given = HashMap::from(COMPLETE);
    for line in text.lines() {
        if let Some((name, value)) = line.split_once('=')
            && VARIABLES.contains(&name)
        {
            given.insert(name, value);
        }
    }
    said(&|name| given.get(name).map(|value| (*value).to_owned()));
    // A secret may equal part of a message, a name or an address. Its masked form does not, so a masked
    // value in the output proves that the secret would be exposed.
    if text.contains(MASKED) {
        return;
    }
    let message = said(&|name| {
        let value = given.get(name)?;
        Some(match name {
            "SERVICE_API_KEYS" => with_masked_keys(value),
            _ if SECRETS.contains(&name) => masked(value),
            _ => (*value).to_owned(),
        })
    });
    assert!(!message.contains(MASKED), "a secret is exposed: {message}");
});
