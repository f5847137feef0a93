//! The configuration from the environment, and its error messages.

mod env_file;
mod surroundings;
mod wrong;

use std::collections::HashMap;
use std::time::Duration;

use chrono::TimeDelta;
use patchbay::config::Config;
use patchbay::telemetry::LogFormat;
use secrecy::ExposeSecret;

use wrong::INVALID;

/// All variables without a default.
const REQUIRED: [(&str, &str); 5] = [
    ("PUBLIC_URL", "https://connect.example.com"),
    (
        "DATABASE_URL",
        "postgres://user:hunter2@db.example.com/patchbay",
    ),
    ("NANGO_SECRET_KEY", "6d5b9f0e-6a4f-4c39-9b89-3f0a8c7d2e11"),
    ("NANGO_WEBHOOK_SIGNING_KEY", "a signing key of Nango's"),
    ("AUTH_JWT_SECRET", "a secret that has more than 32 bytes"),
];

/// Reads `REQUIRED` with these changes; `None` unsets.
fn read(changes: &[(&str, Option<&str>)]) -> Result<Config, Vec<String>> {
    let mut environment: HashMap<&str, &str> = REQUIRED.into();
    for (name, value) in changes {
        match value {
            Some(value) => environment.insert(name, value),
            None => environment.remove(name),
        };
    }
    Config::read(&|name| environment.get(name).map(|value| (*value).to_owned()))
        .map_err(|error| error.problems)
}

#[test]
fn missing_variables_are_all_reported() {
    let error = Config::read(&|_| None::<String>).unwrap_err();
    let names: Vec<&str> = error
        .problems
        .iter()
        .map(|problem| problem.split(" is missing: ").next().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "PUBLIC_URL",
            "DATABASE_URL",
            "NANGO_SECRET_KEY",
            "NANGO_WEBHOOK_SIGNING_KEY",
            "AUTH_JWT_SECRET or AUTH_JWKS_URL",
        ]
    );
    let text = error.to_string();
    assert!(names.iter().all(|name| text.contains(name)), "{text}");
}

#[test]
fn empty_value_means_unset() {
    let with_empty: Vec<_> = Config::variables()
        .into_iter()
        .filter(|name| !REQUIRED.iter().any(|(needed, _)| needed == name))
        .map(|name| (name, Some(" ")))
        .collect();
    let config = read(&with_empty).unwrap();
    assert_eq!(config.http.listen.to_string(), "0.0.0.0:8000");
    assert_eq!(config.log_format, LogFormat::Json);
    assert_eq!(config.auth.user_claim, "sub");
    assert_eq!(config.database.startup_timeout, Duration::from_secs(60));
    assert_eq!(
        config.nango.unwrap().client.base_url.as_str(),
        "https://api.nango.dev/"
    );
    assert_eq!(config.retention, TimeDelta::days(400));
    assert_eq!(config.catalog_file, None);

    let problems = read(&[("DATABASE_URL", Some(""))]).unwrap_err();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].starts_with("DATABASE_URL is missing: "));
}

#[test]
fn invalid_values_are_reported_with_variable_name() {
    for (name, value, reported) in INVALID {
        let problems = read(&[(name, Some(value))]).unwrap_err();
        assert_eq!(problems, [*reported], "{name}={value}");
        assert!(!reported.contains("hunter2"));
    }
    let all: HashMap<&str, &str> = INVALID
        .iter()
        .map(|(name, value, _)| (*name, *value))
        .collect();
    let all: Vec<_> = all
        .iter()
        .map(|(name, value)| (*name, Some(*value)))
        .collect();
    assert_eq!(
        read(&all).unwrap_err().len(),
        all.len(),
        "one hides another"
    );
}

#[test]
fn nango_timeout_accepts_maximum() {
    let config = read(&[("NANGO_TIMEOUT_SECONDS", Some("14"))]).unwrap();
    assert_eq!(
        config.nango.unwrap().client.timeout,
        Duration::from_secs(14)
    );
}

#[test]
fn invalid_jwks_url_is_not_reported_as_missing() {
    let problems = read(&[("AUTH_JWT_SECRET", None), ("AUTH_JWKS_URL", Some("keys"))]).unwrap_err();
    assert_eq!(
        problems,
        ["AUTH_JWKS_URL must begin with https:// or http://, such as https://host.example.com"]
    );
}

#[test]
fn public_url_falls_back_to_render_external_url() {
    let render = ("RENDER_EXTERNAL_URL", Some("https://patchbay.onrender.com"));
    let config = read(&[("PUBLIC_URL", None), render]).unwrap();
    assert_eq!(
        config.http.public_url.as_str(),
        "https://patchbay.onrender.com/"
    );
    let config = read(&[render]).unwrap();
    assert_eq!(
        config.http.public_url.as_str(),
        "https://connect.example.com/"
    );
    let config = read(&[("PUBLIC_URL", Some("https://example.com/connect/"))]).unwrap();
    assert_eq!(
        config.http.public_url.as_str(),
        "https://example.com/connect"
    );
}

/// Only the address for browsers is returned to them, so a private address must be declared as such.
#[test]
fn private_nango_address_needs_one_for_browsers() {
    let private = ("NANGO_BASE_URL", Some("http://nango:3003"));
    let public = ("NANGO_PUBLIC_URL", Some("https://nango.example.com/"));
    let client = read(&[private, public]).unwrap().nango.unwrap().client;
    assert_eq!(client.base_url.as_str(), "http://nango:3003/");
    assert_eq!(client.public_url.as_str(), "https://nango.example.com/");
    // On one machine, browsers reach both addresses.
    let local = ("PUBLIC_URL", Some("http://localhost:8000"));
    let nango = ("NANGO_BASE_URL", Some("http://localhost:3003"));
    let client = read(&[local, nango]).unwrap().nango.unwrap().client;
    assert_eq!(client.public_url.as_str(), "http://localhost:3003/");
    let client = read(&[]).unwrap().nango.unwrap().client;
    assert_eq!(client.public_url.as_str(), "https://api.nango.dev/");
}

#[test]
fn nango_sends_webhooks_to_public_url_by_default() {
    let webhooks_at = |changes: &[_]| {
        let nango = read(changes).unwrap().nango.unwrap();
        nango.webhook_base_url.to_string()
    };
    let public = ("PUBLIC_URL", Some("https://example.com/connect/"));
    assert_eq!(webhooks_at(&[public]), "https://example.com/connect");
    let internal = ("NANGO_WEBHOOK_BASE_URL", Some("http://patchbay:8000/"));
    assert_eq!(webhooks_at(&[public, internal]), "http://patchbay:8000/");
}

#[test]
fn key_set_address_is_taken_literally() {
    for address in [
        "https://id.example.com/jwks/",
        "https://id.example.com/jwks",
        "https://id.example.com/jwks/?apikey=a%2Fb&c",
    ] {
        let config = read(&[("AUTH_JWKS_URL", Some(address))]).unwrap();
        assert_eq!(config.auth.jwks_url.unwrap().as_str(), address);
    }
}

#[test]
fn issuers_and_audiences_are_lists() {
    let config = read(&[
        (
            "AUTH_ISSUER",
            Some("https://a.example.com/, https://b.example.com"),
        ),
        ("AUTH_AUDIENCE", Some("web,ios,")),
    ])
    .unwrap();
    let issuers = ["https://a.example.com/", "https://b.example.com"];
    assert_eq!(config.auth.issuers, issuers);
    assert_eq!(config.auth.audiences, ["web", "ios"]);
}

/// The secrets of `.env.example` are public, so they are rejected.
#[test]
fn secrets_of_the_example_file_are_refused() {
    let lines = include_str!("../../.env.example").lines();
    let set = lines.filter_map(|line| line.split_once('='));
    let secrets: Vec<_> = set
        .filter(|(name, _)| name.starts_with("NANGO_") && name.ends_with("_KEY"))
        .collect();
    assert_eq!(secrets.len(), 2);
    for (name, value) in secrets {
        let problems = read(&[(name, Some(value))]).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with(&format!("{name} is still the value of the example file")));
    }
}

#[test]
fn allowed_origins_are_normalized() {
    let list = "https://App.example.com/, http://localhost:5173,https://b.example.com:443";
    let config = read(&[("CORS_ALLOWED_ORIGINS", Some(list))]).unwrap();
    assert_eq!(
        config.http.allowed_origins,
        [
            "https://app.example.com",
            "http://localhost:5173",
            "https://b.example.com"
        ]
    );
}

#[test]
fn allowed_headers_are_names_and_no_star() {
    let config = read(&[("CORS_ALLOWED_HEADERS", Some("X-Tenant,, x-locale "))]).unwrap();
    assert_eq!(config.http.allowed_headers, ["x-tenant", "x-locale"]);
    let problems = read(&[("CORS_ALLOWED_HEADERS", Some("X-Good, *, bad name"))]).unwrap_err();
    assert_eq!(
        problems,
        [
            "CORS_ALLOWED_HEADERS holds \"*\", which is not the name of a header such as X-CSRF-Token",
            "CORS_ALLOWED_HEADERS holds \"bad name\", which is not the name of a header such as X-CSRF-Token",
        ]
    );
}

#[test]
fn signing_keys_are_both_accepted_during_rotation() {
    let config = read(&[(
        "NANGO_WEBHOOK_SIGNING_KEY",
        Some("the old signing key, the new signing key"),
    )])
    .unwrap();
    let keys = config.nango.unwrap().signing_keys;
    let body = b"{}";
    // HMAC-SHA256 of the body under either key, by openssl.
    let old = "84ac1698c0d57410bd7b30cae10ece0a2d2ea142f6290067880a37382e293ace";
    let new = "661b55a3f90c1becef42c14dabcb6608c40ea6d46c8a1da3406ed2b7b97044b0";
    assert!(keys.verify(body, Some(old)).is_ok());
    assert!(keys.verify(body, Some(new)).is_ok());
    assert!(keys.verify(b"{ }", Some(new)).is_err());
}

#[test]
fn nango_keys_are_optional_when_nango_is_disabled() {
    let config = read(&[
        ("NANGO_ENABLED", Some("false")),
        ("NANGO_SECRET_KEY", None),
        ("NANGO_WEBHOOK_SIGNING_KEY", None),
    ])
    .unwrap();
    assert!(config.nango.is_none());
}

#[test]
fn debug_output_contains_no_secrets() {
    let key = crate::test_app::ENCRYPTION_KEY;
    let config = read(&[("ENCRYPTION_KEY", Some(key))]).unwrap();
    assert_eq!(config.database.url.expose_secret(), REQUIRED[1].1);
    let printed = format!("{config:?}");
    for secret in [
        "hunter2",
        &key[..16],
        REQUIRED[2].1,
        REQUIRED[3].1,
        REQUIRED[4].1,
    ] {
        assert!(!printed.contains(secret), "{printed}");
    }
}

/// Returns the variables of the program, the sandbox and the logs.
fn documented() -> Vec<String> {
    let mut names: Vec<String> = Config::variables()
        .iter()
        .map(ToString::to_string)
        .collect();
    names.push("SANDBOX_PORT".to_owned());
    names.sort();
    names
}

/// Returns the variable that a line of the example sets, or would set if uncommented.
fn assignment(line: &str) -> Option<&str> {
    let (name, _) = line.strip_prefix("# ").unwrap_or(line).split_once('=')?;
    is_name(name).then_some(name)
}

fn is_name(text: &str) -> bool {
    text.chars()
        .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

#[test]
fn env_example_documents_every_variable() {
    let lines: Vec<&str> = include_str!("../../.env.example").lines().collect();
    let mut names = Vec::new();
    for pair in lines.windows(2) {
        if let Some(name) = assignment(pair[1]) {
            names.push(name);
            assert!(
                pair[0].starts_with("# ") && assignment(pair[0]).is_none(),
                "{name}"
            );
        }
    }
    names.sort_unstable();
    assert_eq!(names, documented());
}

#[test]
fn configuration_page_lists_every_variable_once() {
    let text = include_str!("../../docs/CONFIGURATION.md");
    let first_cells = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let mut names: Vec<&str> = first_cells
        .map(|(name, _)| name)
        .filter(|name| is_name(name))
        .collect();
    names.sort_unstable();
    assert_eq!(names, documented());
}
