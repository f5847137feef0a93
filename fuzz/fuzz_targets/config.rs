//! The environment: lines of `NAME=value`, over one that is complete.
#![no_main]

use std::collections::HashMap;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use patchbay::config::Config;

static VARIABLES: LazyLock<Vec<&str>> = LazyLock::new(Config::variables);

/// Whose values are nobody's to read.
const SECRETS: [&str; 5] = [
    "AUTH_JWT_SECRET",
    "METRICS_TOKEN",
    "NANGO_SECRET_KEY",
    "NANGO_WEBHOOK_SIGNING_KEY",
    "SERVICE_API_KEYS",
];

/// So long that nothing of ours says the same by chance.
const LONG: usize = 16;

fuzz_target!(|text: &str| {
    let mut given = HashMap::from([
        ("PUBLIC_URL", "https://connect.example.com"),
        ("DATABASE_URL", "postgres://patchbay@localhost/patchbay"),
        ("NANGO_SECRET_KEY", "f0e1d2c3-b4a5-4697-8877-665544332211"),
        ("NANGO_WEBHOOK_SIGNING_KEY", "a signing key of this target"),
        ("AUTH_JWT_SECRET", "a secret of this target that has 32 bytes and more"),
    ]);
    for line in text.lines() {
        if let Some((name, value)) = line.split_once('=')
            && VARIABLES.contains(&name)
        {
            given.insert(name, value);
        }
    }
    let lookup = |name: &str| given.get(name).map(|value| (*value).to_owned());
    let said = match Config::read(&lookup) {
        Ok(config) => {
            assert!(config.database.pool_size > 0 && config.http.server.connections > 0);
            assert!(config.auth.hs256_secret.is_some() || config.auth.jwks_url.is_some());
            assert!(matches!(config.http.public_url.scheme(), "http" | "https"));
            format!("{config:?}")
        }
        Err(error) => {
            for problem in &error.problems {
                let named = VARIABLES.iter().any(|name| problem.starts_with(name));
                assert!(named, "{problem:?} names no variable");
                assert!(!problem.chars().any(char::is_control), "{problem:?}");
            }
            error.to_string()
        }
    };
    for name in SECRETS {
        for part in given.get(name).unwrap_or(&"").split([',', '=', ';']) {
            let part = part.trim();
            let elsewhere = given.iter().any(|(other, value)| *other != name && value.contains(part));
            let known = !SECRETS.contains(&part) && (elsewhere || part.contains("SERVICE") || NAMES.contains(part));
            assert!(part.len() < LONG || known || !said.contains(part), "{name} is told: {said}");
        }
    }
});

/// All that is said of any configuration.
static NAMES: LazyLock<String> = LazyLock::new(|| {
    let nothing = Config::read(&|_| None).unwrap_err();
    format!("{nothing} {}", VARIABLES.join(" "))
});
