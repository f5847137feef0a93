//! The environment: lines of `NAME=value`, over one that is complete.
#![no_main]

use std::collections::HashMap;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use patchbay::auth::Authenticator;
use patchbay::clock::Clock;
use patchbay::config::Config;
use patchbay::keys::{KEY_PREFIX, Scope};

static VARIABLES: LazyLock<Vec<&str>> = LazyLock::new(Config::variables);

/// Whose values are nobody's to read.
const SECRETS: [&str; 5] = [
    "AUTH_JWT_SECRET",
    "METRICS_TOKEN",
    "NANGO_SECRET_KEY",
    "NANGO_WEBHOOK_SIGNING_KEY",
    "SERVICE_API_KEYS",
];

/// So long that nothing else says the same by chance.
const LONG: usize = 16;

/// What is complete, and of which all else is said.
const COMPLETE: [(&str, &str); 5] = [
    ("PUBLIC_URL", "https://connect.example.com"),
    ("DATABASE_URL", "postgres://patchbay@localhost/patchbay"),
    ("NANGO_SECRET_KEY", "f0e1d2c3-b4a5-4697-8877-665544332211"),
    ("NANGO_WEBHOOK_SIGNING_KEY", "a signing key of this target"),
    (
        "AUTH_JWT_SECRET",
        "a secret of this target that has 32 bytes and more",
    ),
];

/// What is said of a configuration, whether it is one or not.
fn said(given: &HashMap<&str, &str>) -> String {
    let lookup = |name: &str| given.get(name).map(|value| (*value).to_owned());
    match Config::read(&lookup) {
        Ok(config) => {
            assert!(config.database.pool_size > 0 && config.http.server.connections > 0);
            assert!(matches!(config.http.public_url.scheme(), "http" | "https"));
            let told = format!("{config:?}");
            let mut auth = config.auth;
            assert_eq!(auth.check_jwks_url(), Ok(()));
            // To set up the client that fetches keys takes many times as long as all the rest together.
            let fetches = auth.jwks_url.take().is_some();
            if !(fetches && auth.hs256_secrets.is_empty()) {
                assert!(Authenticator::new(auth, Clock::System).is_ok());
            }
            told
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

/// The parts of a variable's value that are secret.
fn secrets<'a>(name: &str, value: &'a str) -> Vec<&'a str> {
    let entries = value.split(',');
    if name != "SERVICE_API_KEYS" {
        return entries.map(str::trim).collect();
    }
    // The name of a key may be told, unless there is a key in it; so may the scopes that there are.
    let parts = |entry: &'a str| match entry.trim().split_once('=') {
        Some((name, rest)) if !name.contains(KEY_PREFIX) => (name, rest),
        _ => ("", entry),
    };
    let names: Vec<&str> = entries.clone().map(|entry| parts(entry).0).collect();
    entries
        .flat_map(|entry| parts(entry).1.split([';', '=', ' ']))
        .filter(|part| part.parse::<Scope>().is_err())
        .filter(|part| !names.iter().any(|name| name.contains(part)))
        .collect()
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
    let told = said(&given);
    for name in SECRETS {
        for secret in secrets(name, given.get(name).unwrap_or(&"")) {
            // What is wrong is told with the variable's name, which is no secret.
            let own = format!("{name}:").contains(secret);
            if secret.len() < LONG || own || !told.contains(secret) {
                continue;
            }
            // The same is told of another secret, or it stands elsewhere, too.
            let mut other = given.clone();
            other.insert(name, "another=pbk_fedcba9876543210fedcba9876543210");
            assert!(said(&other).contains(secret), "{name} is told: {told}");
        }
    }
});
