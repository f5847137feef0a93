//! The query of the return from the popup.
#![no_main]

#[path = "../rendered.rs"]
mod rendered;

use std::sync::LazyLock;
use std::time::Duration;

use axum::extract::Query;
use axum::http::{HeaderValue, Uri};
use libfuzzer_sys::fuzz_target;
use patchbay::http::{CallbackQuery, Problem};
use patchbay::nango::{Config, Nango};
use rendered::check_problem;
use url::Url;

static NANGO: LazyLock<Nango> = LazyLock::new(|| {
    let config = Config {
        base_url: "http://nango:3003".parse().unwrap(),
        public_url: "https://nango.example.com/base".parse().unwrap(),
        secret_key: "a-key".into(),
        timeout: Duration::from_secs(1),
    };
    Nango::new(config).unwrap()
});

fuzz_target!(|data: &[u8]| {
    let mut target = b"/api/v1/connectors/callback?".to_vec();
    target.extend_from_slice(data);
    // The server rejects these before they reach a handler.
    let Ok(uri) = Uri::try_from(target) else {
        return;
    };
    if let Err(rejection) = Query::<CallbackQuery>::try_from_uri(&uri) {
        check_problem(Problem::from(rejection));
    }
    let raw = uri.query().unwrap_or_default();
    let location = NANGO.oauth_callback_url(raw);
    HeaderValue::from_str(&location).expect("a header can carry it");
    let there = Url::parse(&location).expect("it is an address");
    assert_eq!(there.host_str(), Some("nango.example.com"));
    assert_eq!(there.path(), "/base/oauth/callback");
    let sent: Vec<_> = there.query_pairs().collect();
    let whole = Url::parse(&format!("http://x/?{raw}")).unwrap();
    assert_eq!(sent, whole.query_pairs().collect::<Vec<_>>());
});
