//! The URL of a call for any path and query. `fuzz/fuzz_targets/proxy.rs` checks the same with more inputs.

use std::time::Duration;

use patchbay::nango::proxy::ProxyTarget;
use patchbay::nango::{Config, Nango};
use percent_encoding::percent_decode_str;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{self, TestRunner};
use url::form_urlencoded;

const CASES: u32 = 20_000;

/// The start of the path.
const BASE: &str = "/base/proxy/";

/// Parts of attacks, and ordinary ones.
const PIECES: [&str; 40] = [
    ".",
    "..",
    "/",
    "//",
    "\\",
    "%",
    "%2",
    "%25",
    "%2e",
    "%2E",
    "%252e",
    "%2f",
    "%252F",
    "%5c",
    "%255c",
    "${",
    "$",
    "{",
    "}",
    "||",
    "|",
    "%24%7B",
    "%7c",
    "%00",
    "%0a",
    "%ff",
    "%c0%ae",
    ";",
    ":",
    "@",
    "http:",
    "https:",
    "?",
    "&",
    "=",
    "+",
    "connectionConfig",
    "a",
    "é",
    "5",
];

fn nango() -> Nango {
    let config = Config {
        base_url: "https://nango.example.com/base".parse().unwrap(),
        secret_key: "a-key".into(),
        public_url: "https://nango.example.com/base".parse().unwrap(),
        timeout: Duration::from_secs(1),
    };
    Nango::new(config).unwrap()
}

/// Decodes until nothing changes, like a chain of reverse proxies might.
fn decoded_repeatedly(text: &str) -> Vec<u8> {
    let mut text = text.as_bytes().to_vec();
    loop {
        let decoded: Vec<u8> = percent_encoding::percent_decode(&text).collect();
        if decoded == text {
            return decoded;
        }
        text = decoded;
    }
}

/// Returns `true` if a path never goes above its start.
fn stays_below(path: &str) -> bool {
    let mut depth = 0_i32;
    path.split(['/', '\\']).all(|segment| {
        depth += match segment {
            ".." => -1,
            "" | "." => 0,
            _ => 1,
        };
        depth >= 0
    })
}

fn check(nango: &Nango, path: &str, query: &str) -> Result<(), TestCaseError> {
    let Ok(target) = ProxyTarget::new(path, Some(query)) else {
        return Ok(());
    };
    let url = nango.proxy_url(&target);
    prop_assert_eq!(url.host_str(), Some("nango.example.com"));
    let rest = url.path().strip_prefix(BASE);
    prop_assert!(rest.is_some(), "{}", url);
    let rest = rest.unwrap();
    // The URL parser resolved no dot segments.
    prop_assert_eq!(
        url.as_str(),
        format!("https://nango.example.com{BASE}{}", target.as_str())
    );
    let twice = |text: &str| percent_decode_str(text).collect::<Vec<u8>>();
    prop_assert_eq!(twice(rest), twice(path), "{}", url);
    let whole = String::from_utf8(decoded_repeatedly(rest));
    prop_assert!(whole.is_ok(), "{}", url);
    let whole = whole.unwrap();
    prop_assert!(stays_below(&whole) && !whole.starts_with('/'), "{}", url);
    prop_assert!(!whole.contains("${") && !whole.contains("||"), "{}", url);
    prop_assert!(!whole.contains(char::is_control), "{}", url);
    let reached = target.as_str();
    prop_assert!(!reached.contains("connectionConfig"), "{}", url);
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._~%/:?&=".contains(c);
    prop_assert!(reached.chars().all(allowed), "{}", url);
    let pairs = |query: &str| {
        form_urlencoded::parse(query.as_bytes())
            .into_owned()
            .collect::<Vec<_>>()
    };
    prop_assert_eq!(
        pairs(url.query().unwrap_or_default()),
        pairs(query),
        "{}",
        url
    );
    Ok(())
}

#[test]
fn url_stays_below_proxy_and_means_the_same() {
    let nango = nango();
    let piece = prop_oneof![
        6 => select(&PIECES[..]).prop_map(str::to_owned),
        1 => any::<char>().prop_map(|c| c.to_string()),
        1 => any::<u8>().prop_map(|byte| format!("%{byte:02x}")),
    ];
    let text = || vec(piece.clone(), 0..8).prop_map(|pieces| pieces.concat());
    let config = test_runner::Config {
        cases: CASES,
        failure_persistence: None,
        ..test_runner::Config::default()
    };
    let rng = test_runner::TestRng::deterministic_rng(test_runner::RngAlgorithm::ChaCha);
    let inputs = (text(), text());
    let checked = TestRunner::new_with_rng(config, rng)
        .run(&inputs, |(path, query)| check(&nango, &path, &query));
    checked.unwrap();
}
