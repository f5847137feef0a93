//! What the environment says, and what is said about it when it is wrong.

use std::collections::HashMap;
use std::time::Duration;

use chrono::TimeDelta;
use patchbay::config::{Config, LogFormat};
use secrecy::ExposeSecret;

/// Everything that has no default.
const NEEDED: [(&str, &str); 5] = [
    ("PUBLIC_URL", "https://connect.example.com"),
    (
        "DATABASE_URL",
        "postgres://user:hunter2@db.example.com/patchbay",
    ),
    ("NANGO_SECRET_KEY", "6d5b9f0e-6a4f-4c39-9b89-3f0a8c7d2e11"),
    ("NANGO_WEBHOOK_SIGNING_KEY", "a signing key of Nango's"),
    ("AUTH_JWT_SECRET", "a secret that has more than 32 bytes"),
];

/// Reads `NEEDED` with these changes; `None` unsets.
fn read(changes: &[(&str, Option<&str>)]) -> Result<Config, Vec<String>> {
    let mut environment: HashMap<&str, &str> = NEEDED.into();
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
fn what_is_missing_is_told_all_at_once() {
    let error = Config::read(&|_| None).unwrap_err();
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
fn an_empty_value_counts_as_none() {
    let with_empty: Vec<_> = Config::variables()
        .into_iter()
        .filter(|name| !NEEDED.iter().any(|(needed, _)| needed == name))
        .map(|name| (name, Some(" ")))
        .collect();
    let config = read(&with_empty).unwrap();
    assert_eq!(config.http.listen.to_string(), "0.0.0.0:8000");
    assert_eq!(config.log_format, LogFormat::Json);
    assert_eq!(config.auth.user_claim, "sub");
    assert_eq!(config.auth.leeway, Duration::from_secs(30));
    assert_eq!(config.database.wait, Duration::from_secs(60));
    assert_eq!(
        config.nango.unwrap().client.base_url.as_str(),
        "https://api.nango.dev/"
    );
    assert_eq!(config.history, TimeDelta::days(400));
    assert_eq!(config.catalog_file, None);

    let problems = read(&[("DATABASE_URL", Some(""))]).unwrap_err();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].starts_with("DATABASE_URL is missing: "));
}

const SHORT_SIGNING_KEY: &str = "NANGO_WEBHOOK_SIGNING_KEY must have at least 16 characters, or anybody could sign by guessing it: copy it from Nango's environment settings; a comma stands between two keys";

const INTERNAL_NANGO: &str = "NANGO_PUBLIC_URL is missing: the address at which browsers reach Nango; NANGO_BASE_URL is in a private network, and is not shown to browsers";

const WRONG_NAME: &str = "SERVICE_API_KEYS: an entry is not <name>=<key> or <name>=<key>;<scope> <scope>: a key's name has 1 to 64 letters, digits and characters of . _ : / @ + - (ASCII), and no pbk_ in it";

const WRONG_CHARACTERS: &str =
    "SERVICE_API_KEYS: the key of workflows must have only letters, digits, _ and - (ASCII)";

/// A variable, a value that it cannot have, and what is said of it.
const WRONG: &[(&str, &str, &str)] = &[
    (
        "HOST",
        "localhost",
        "HOST cannot be read: invalid IP address syntax",
    ),
    (
        "PORT",
        "80000",
        "PORT cannot be read: number too large to fit in target type",
    ),
    (
        "PUBLIC_URL",
        "connect.example.com",
        "PUBLIC_URL cannot be read: relative URL without a base",
    ),
    (
        "PUBLIC_URL",
        "ftp://connect.example.com",
        "PUBLIC_URL must be an http or https address",
    ),
    (
        "CORS_ALLOWED_ORIGINS",
        "https://a.example.com, nonsense",
        "CORS_ALLOWED_ORIGINS holds \"nonsense\", which is not an origin such as https://app.example.com",
    ),
    (
        "CORS_ALLOWED_ORIGINS",
        "data:text",
        "CORS_ALLOWED_ORIGINS holds \"data:text\", which is not an origin such as https://app.example.com",
    ),
    (
        "DATABASE_URL",
        "db.example.com/patchbay",
        "DATABASE_URL cannot be read: relative URL without a base; it looks like postgres://user:password@host:5432/database",
    ),
    (
        "DATABASE_URL",
        "mysql://user:hunter2@db.example.com/patchbay",
        "DATABASE_URL cannot be read: it is not a PostgreSQL's; it looks like postgres://user:password@host:5432/database",
    ),
    (
        "DATABASE_URL",
        "postgres://user:hunter2@db.example.com/patchbay?sslmode=strict",
        "DATABASE_URL cannot be read: unknown value \"strict\" for `ssl_mode`; it looks like postgres://user:password@host:5432/database",
    ),
    (
        "DATABASE_POOL_SIZE",
        "0",
        "DATABASE_POOL_SIZE must be at least 1",
    ),
    (
        "DATABASE_POOL_SIZE",
        "-1",
        "DATABASE_POOL_SIZE cannot be read: invalid digit found in string",
    ),
    (
        "ENCRYPTION_KEY",
        "hunter2",
        "ENCRYPTION_KEY must be 32 bytes in base64 or hexadecimal digits, as `openssl rand -base64 32` prints them; a comma stands between two",
    ),
    (
        "ENCRYPTION_KEY",
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=,",
        "ENCRYPTION_KEY must be 32 bytes in base64 or hexadecimal digits, as `openssl rand -base64 32` prints them; a comma stands between two",
    ),
    (
        "ENCRYPTION_KEY",
        "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=,AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=,AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        "ENCRYPTION_KEY may hold 2 keys at the most: the first encrypts, both decrypt",
    ),
    (
        "DATABASE_WAIT_SECONDS",
        "99999999999",
        "DATABASE_WAIT_SECONDS cannot be read: number too large to fit in target type",
    ),
    (
        "NANGO_ENABLED",
        "yes",
        "NANGO_ENABLED cannot be read: provided string was not `true` or `false`",
    ),
    (
        "NANGO_BASE_URL",
        "file:///nango",
        "NANGO_BASE_URL must be an http or https address",
    ),
    (
        "NANGO_TIMEOUT_SECONDS",
        "0",
        "NANGO_TIMEOUT_SECONDS must be at least 1",
    ),
    (
        "NANGO_TIMEOUT_SECONDS",
        "15",
        "NANGO_TIMEOUT_SECONDS must be at most 14: a request may need four calls, and is given 60 seconds",
    ),
    (
        "NANGO_WEBHOOK_SIGNING_KEY",
        "change-me",
        "NANGO_WEBHOOK_SIGNING_KEY is still the example's, which anybody can read: put your own in its place",
    ),
    ("NANGO_WEBHOOK_SIGNING_KEY", ",", SHORT_SIGNING_KEY),
    ("NANGO_WEBHOOK_SIGNING_KEY", "k", SHORT_SIGNING_KEY),
    (
        "NANGO_WEBHOOK_SIGNING_KEY",
        "a signing key of Nango's,k",
        SHORT_SIGNING_KEY,
    ),
    (
        "NANGO_SECRET_KEY",
        "00000000-0000-4000-8000-000000000000",
        "NANGO_SECRET_KEY is still the example's, which anybody can read: put your own in its place",
    ),
    (
        "NANGO_SECRET_KEY",
        "change-me",
        "NANGO_SECRET_KEY is still the example's, which anybody can read: put your own in its place",
    ),
    (
        "NANGO_PUBLIC_URL",
        "nango.example.com",
        "NANGO_PUBLIC_URL cannot be read: relative URL without a base",
    ),
    (
        "NANGO_PUBLIC_URL",
        "https://ada:hunter2@nango.example.com",
        "NANGO_PUBLIC_URL must not have a user or a password in it: the address is logged and shown",
    ),
    ("NANGO_BASE_URL", "http://nango:3003", INTERNAL_NANGO),
    ("NANGO_BASE_URL", "http://10.0.0.7", INTERNAL_NANGO),
    ("NANGO_BASE_URL", "http://[fd00::7]:3003", INTERNAL_NANGO),
    ("NANGO_BASE_URL", "http://127.0.0.1:3003", INTERNAL_NANGO),
    ("NANGO_BASE_URL", "http://nango.default.svc", INTERNAL_NANGO),
    (
        "NANGO_BASE_URL",
        "http://nango.railway.internal:3003",
        INTERNAL_NANGO,
    ),
    (
        "NANGO_BASE_URL",
        "https://ada:hunter2@nango.example.com",
        "NANGO_BASE_URL must not have a user or a password in it: the address is logged and shown",
    ),
    (
        "PUBLIC_URL",
        "https://ada:hunter2@connect.example.com",
        "PUBLIC_URL must not have a user or a password in it: the address is logged and shown",
    ),
    (
        "PUBLIC_URL",
        "https://ada@connect.example.com",
        "PUBLIC_URL must not have a user or a password in it: the address is logged and shown",
    ),
    (
        "PUBLIC_URL",
        "https://connect.example.com/?token=hunter2",
        "PUBLIC_URL must not have a query or a fragment: paths are added to it",
    ),
    (
        "PUBLIC_URL",
        "https://connect.example.com/#a",
        "PUBLIC_URL must not have a query or a fragment: paths are added to it",
    ),
    (
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "https://ada:hunter2@collector.example.com",
        "OTEL_EXPORTER_OTLP_ENDPOINT must not have a user or a password in it: the address is logged and shown",
    ),
    (
        "AUTH_JWT_SECRET",
        "change-me-to-at-least-32-random-bytes",
        "AUTH_JWT_SECRET is still the example's, which anybody can read: put your own in its place",
    ),
    (
        "AUTH_JWT_SECRET",
        "a secret that has more than 32 bytes,change-me-to-at-least-32-random-bytes",
        "AUTH_JWT_SECRET is still the example's, which anybody can read: put your own in its place",
    ),
    (
        "AUTH_JWT_SECRET",
        "too short",
        "AUTH_JWT_SECRET must have at least 32 bytes; a comma stands between two secrets",
    ),
    (
        "AUTH_JWT_SECRET",
        "a secret that has more than 32 bytes,and a comma",
        "AUTH_JWT_SECRET must have at least 32 bytes; a comma stands between two secrets",
    ),
    (
        "METRICS_TOKEN",
        "a token that cannot be guessed,",
        "METRICS_TOKEN must have at least 16 characters; a comma stands between two tokens",
    ),
    (
        "AUTH_JWKS_URL",
        "/keys",
        "AUTH_JWKS_URL cannot be read: relative URL without a base",
    ),
    (
        "AUTH_JWKS_URL",
        "http://id.example.com/keys",
        "AUTH_JWKS_URL: it must be an https address without a user or password in it; AUTH_JWKS_ALLOWED_NETWORKS allows private networks, and there http",
    ),
    (
        "AUTH_JWKS_URL",
        "https://10.0.0.1/keys",
        "AUTH_JWKS_URL: 10.0.0.1 leads to 10.0.0.1, which is in no public network; AUTH_JWKS_ALLOWED_NETWORKS allows private networks, and there http",
    ),
    (
        "AUTH_JWKS_ALLOWED_NETWORKS",
        "private",
        "AUTH_JWKS_ALLOWED_NETWORKS cannot be read: \"private\" is not a network such as 10.0.0.0/8",
    ),
    (
        "AUTH_LEEWAY_SECONDS",
        "soon",
        "AUTH_LEEWAY_SECONDS cannot be read: invalid digit found in string",
    ),
    (
        "SWEEP_INTERVAL_SECONDS",
        "0",
        "SWEEP_INTERVAL_SECONDS must be at least 1",
    ),
    (
        "TOKEN_CACHE_SECONDS",
        "-1",
        "TOKEN_CACHE_SECONDS cannot be read: invalid digit found in string",
    ),
    (
        "SERVICE_API_KEYS",
        "workflows=pbk_short",
        "SERVICE_API_KEYS: the key of workflows must begin with pbk_ and have at least 36 characters",
    ),
    (
        "SERVICE_API_KEYS",
        "workflows=sk_0123456789abcdef0123456789abcdef",
        "SERVICE_API_KEYS: the key of workflows must begin with pbk_ and have at least 36 characters",
    ),
    (
        "SERVICE_API_KEYS",
        "work\u{1b}[2Jflows=pbk_short",
        WRONG_NAME,
    ),
    (
        "SERVICE_API_KEYS",
        "work\u{202e}flows=pbk_short",
        WRONG_NAME,
    ),
    (
        "SERVICE_API_KEYS",
        "=pbk_hunter2hunter2hunter2hunter2hunter2",
        WRONG_NAME,
    ),
    (
        "SERVICE_API_KEYS",
        "pbk_hunter2=pbk_0123456789abcdef0123456789abcdef",
        WRONG_NAME,
    ),
    (
        "SERVICE_API_KEYS",
        "\"workflows=pbk_0123456789abcdef0123456789abcdef\"",
        WRONG_NAME,
    ),
    (
        "SERVICE_API_KEYS",
        "workflows=\"pbk_0123456789abcdef0123456789abcdef\"",
        "SERVICE_API_KEYS: the key of workflows must begin with pbk_ and have at least 36 characters",
    ),
    (
        "SERVICE_API_KEYS",
        "workflows=pbk_0123456789abcdef0123456789abcdef\"",
        WRONG_CHARACTERS,
    ),
    (
        "SERVICE_API_KEYS",
        "workflows=pbk_0123456789abcdef 0123456789abcdef",
        WRONG_CHARACTERS,
    ),
    (
        "SERVICE_API_KEYS",
        "workflows=pbk_0123456789abcdéf0123456789abcdef",
        WRONG_CHARACTERS,
    ),
    (
        "SERVICE_API_KEYS",
        "workflows=pbk_hunter2hunter2hunter2hunter2hunter2",
        "SERVICE_API_KEYS: the key of workflows can be guessed: it has fewer than 8 different characters. Make one: pbk_ and the output of `openssl rand -hex 32`",
    ),
    (
        "SERVICE_API_KEYS",
        "workflows=pbk_sandbox_0123456789abcdef0123456789abcdef",
        "SERVICE_API_KEYS: the key of workflows is the one of `patchbay sandbox`, which the README shows: make your own with `patchbay keys create`",
    ),
    (
        "SERVICE_API_KEYS",
        "a=pbk_0123456789abcdef0123456789abcdef,b=pbk_0123456789abcdef0123456789abcdef;tokens:read",
        "SERVICE_API_KEYS: a and b have the same key: give each service its own",
    ),
    (
        "SERVICE_API_KEYS",
        "workflows:pbk_hunter2hunter2hunter2hunter2hunter2=",
        WRONG_NAME,
    ),
    (
        "SERVICE_API_KEYS",
        "pbk_hunter2hunter2hunter2hunter2hunter2",
        "SERVICE_API_KEYS: an entry is not <name>=<key> or <name>=<key>;<scope> <scope>",
    ),
    ("MAX_CONNECTIONS", "0", "MAX_CONNECTIONS must be at least 1"),
    (
        "CLIENT_TIMEOUT_SECONDS",
        "0",
        "CLIENT_TIMEOUT_SECONDS must be at least 1",
    ),
    (
        "KEEP_ALIVE_SECONDS",
        "0",
        "KEEP_ALIVE_SECONDS must be at least 1",
    ),
    (
        "TRUSTED_PROXY_HOPS",
        "all",
        "TRUSTED_PROXY_HOPS cannot be read: invalid digit found in string",
    ),
    (
        "LIMIT_USER_PER_MINUTE",
        "-1",
        "LIMIT_USER_PER_MINUTE cannot be read: invalid digit found in string",
    ),
    (
        "METRICS_TOKEN",
        "guess me",
        "METRICS_TOKEN must have at least 16 characters; a comma stands between two tokens",
    ),
    ("HISTORY_DAYS", "0", "HISTORY_DAYS must be at least 1"),
    (
        "LOG_FORMAT",
        "xml",
        "LOG_FORMAT cannot be read: must be json or pretty",
    ),
];

#[test]
fn every_wrong_value_is_told_with_its_variable() {
    for (name, value, told) in WRONG {
        let problems = read(&[(name, Some(value))]).unwrap_err();
        assert_eq!(problems, [*told], "{name}={value}");
        assert!(!told.contains("hunter2"));
    }
    let all: HashMap<&str, &str> = WRONG
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
fn nango_may_take_as_long_as_requests_can_wait_for_it() {
    let config = read(&[("NANGO_TIMEOUT_SECONDS", Some("14"))]).unwrap();
    assert_eq!(
        config.nango.unwrap().client.timeout,
        Duration::from_secs(14)
    );
}

#[test]
fn a_key_set_that_cannot_be_read_does_not_count_as_missing() {
    let problems = read(&[("AUTH_JWT_SECRET", None), ("AUTH_JWKS_URL", Some("keys"))]).unwrap_err();
    assert_eq!(
        problems,
        ["AUTH_JWKS_URL cannot be read: relative URL without a base"]
    );
}

#[test]
fn render_tells_the_public_address_where_nobody_else_does() {
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

/// Only the address for browsers is shown, so a private one has to be named as such.
#[test]
fn private_nango_address_needs_one_for_browsers() {
    let private = ("NANGO_BASE_URL", Some("http://nango:3003"));
    let public = ("NANGO_PUBLIC_URL", Some("https://nango.example.com/"));
    let client = read(&[private, public]).unwrap().nango.unwrap().client;
    assert_eq!(client.base_url.as_str(), "http://nango:3003/");
    assert_eq!(client.public_url.as_str(), "https://nango.example.com/");
    // On one machine, browsers reach both.
    let local = ("PUBLIC_URL", Some("http://localhost:8000"));
    let nango = ("NANGO_BASE_URL", Some("http://localhost:3003"));
    let client = read(&[local, nango]).unwrap().nango.unwrap().client;
    assert_eq!(client.public_url.as_str(), "http://localhost:3003/");
    let client = read(&[]).unwrap().nango.unwrap().client;
    assert_eq!(client.public_url.as_str(), "https://api.nango.dev/");
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

/// Every secret that `.env.example` sets is refused: it can be read by everybody.
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
        assert!(problems[0].starts_with(&format!("{name} is still the example's")));
    }
}

#[test]
fn origins_are_what_browsers_call_so() {
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
fn while_a_signing_key_is_rotated_both_are_good() {
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
fn without_nango_its_keys_are_not_needed() {
    let config = read(&[
        ("NANGO_ENABLED", Some("false")),
        ("NANGO_SECRET_KEY", None),
        ("NANGO_WEBHOOK_SIGNING_KEY", None),
    ])
    .unwrap();
    assert!(config.nango.is_none());
}

#[test]
fn no_secret_is_printed() {
    let key = crate::house::ENCRYPTION_KEY;
    let config = read(&[("ENCRYPTION_KEY", Some(key))]).unwrap();
    assert_eq!(config.database.url.expose_secret(), NEEDED[1].1);
    let printed = format!("{config:?}");
    for secret in ["hunter2", &key[..16], NEEDED[2].1, NEEDED[3].1, NEEDED[4].1] {
        assert!(!printed.contains(secret), "{printed}");
    }
}

/// The program's variables, and those of the sandbox and the logs.
fn documented() -> Vec<String> {
    let mut names: Vec<String> = Config::variables()
        .iter()
        .map(ToString::to_string)
        .collect();
    names.extend(["SANDBOX_PORT".to_owned(), "RUST_LOG".to_owned()]);
    names.sort();
    names
}

/// The variable that a line of the example sets, or would set without its comment sign.
fn assigned(line: &str) -> Option<&str> {
    let (name, _) = line.strip_prefix("# ").unwrap_or(line).split_once('=')?;
    is_name(name).then_some(name)
}

fn is_name(text: &str) -> bool {
    text.chars()
        .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

#[test]
fn the_example_has_every_variable_once_with_a_line_about_it() {
    let lines: Vec<&str> = include_str!("../../.env.example").lines().collect();
    let mut names = Vec::new();
    for pair in lines.windows(2) {
        if let Some(name) = assigned(pair[1]) {
            names.push(name);
            assert!(
                pair[0].starts_with("# ") && assigned(pair[0]).is_none(),
                "{name}"
            );
        }
    }
    names.sort_unstable();
    assert_eq!(names, documented());
}

#[test]
fn the_readme_has_every_variable_once() {
    let text = include_str!("../../README.md");
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
