//! The URL of a proxied call. The query follows the first line.
#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use axum::http::Uri;
use libfuzzer_sys::fuzz_target;
use patchbay::nango::proxy::ProxyTarget;
use patchbay::nango::{Config, Nango};
use percent_encoding::{percent_decode, percent_decode_str};
use url::form_urlencoded;

/// The start of every call's path.
const BASE: &str = "/base/proxy/";

static NANGO: LazyLock<Nango> = LazyLock::new(|| {
    let config = Config {
        base_url: "https://nango.example.com/base".parse().unwrap(),
        secret_key: "a-key".into(),
        timeout: Duration::from_secs(1),
    };
    Nango::new(config).unwrap()
});

/// Decodes until nothing changes, like a chain of reverse proxies might.
fn decoded_repeatedly(text: &str) -> Vec<u8> {
    let mut text = text.as_bytes().to_vec();
    loop {
        let decoded: Vec<u8> = percent_decode(&text).collect();
        if decoded == text {
            return decoded;
        }
        text = decoded;
    }
}

/// Returns `true` if a path never goes above its start, with either slash.
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

fuzz_target!(|data: &[u8]| {
    let mut target = b"/".to_vec();
    target.extend(data.iter().map(|byte| if *byte == b'\n' { b'?' } else { *byte }));
    // The server rejects these before they reach a handler.
    let Ok(uri) = Uri::try_from(target) else {
        return;
    };
    let Some(path) = uri.path().strip_prefix('/') else {
        return;
    };
    let Ok(target) = ProxyTarget::new(path, uri.query()) else {
        return;
    };
    let url = NANGO.proxy_url(&target);
    assert_eq!(url.host_str(), Some("nango.example.com"));
    assert_eq!(
        url.as_str(),
        format!("https://nango.example.com{BASE}{}", target.as_str())
    );
    let rest = url.path().strip_prefix(BASE).expect("it stays below the proxy");
    let once = |text: &str| percent_decode_str(text).collect::<Vec<u8>>();
    assert_eq!(once(rest), once(path));
    let whole = String::from_utf8(decoded_repeatedly(rest)).expect("it is UTF-8");
    assert!(stays_below(&whole) && !whole.starts_with('/'), "{whole}");
    assert!(!whole.contains("${") && !whole.contains("||"), "{whole}");
    assert!(!whole.contains(char::is_control), "{whole:?}");
    assert!(!target.as_str().contains("connectionConfig"));
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._~%/:?&=".contains(c);
    assert!(target.as_str().chars().all(allowed), "{url}");
    let pairs = |query: Option<&str>| {
        let query = query.unwrap_or_default().as_bytes();
        form_urlencoded::parse(query).into_owned().collect::<Vec<_>>()
    };
    assert_eq!(pairs(url.query()), pairs(uri.query()));
});
