//! The doctor's checks of authentication, and of one token claim by claim.

use axum::Router;
use axum::routing::get;
use patchbay::cli::doctor::Level;
use serde_json::{Value, json};
use url::Url;

use super::{failures, run_doctor, single_finding};
use crate::test_app::{JWT_SECRET, TestApp};
use crate::test_server::serve;

/// Serves two key sets: one with a usable key, and one without. Returns their URL.
async fn key_sets() -> Url {
    const ONE: &str = r#"{"keys":[{"kty":"RSA","n":"AQAB"},{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
    let router = Router::new()
        .route("/jwks", get(async || ONE))
        .route("/none", get(async || r#"{"keys":[]}"#));
    serve(router).await
}

#[tokio::test]
async fn token_check_reports_jwks_issuer_and_audience_problems() {
    let app = TestApp::with_system_clock().await;
    let keys = key_sets().await;
    let with = |path: &str, others: &[(&'static str, &'static str)]| {
        // Only a key set.
        let mut changes = vec![
            ("AUTH_JWKS_URL", format!("{keys}{path}")),
            ("AUTH_JWT_SECRET", String::new()),
        ];
        changes.extend(
            others
                .iter()
                .map(|(name, value)| (*name, (*value).to_owned())),
        );
        changes
    };
    let named = [
        ("AUTH_ISSUER", "https://id.example.com/"),
        ("AUTH_AUDIENCE", "patchbay"),
    ];
    for (changes, expected) in [
        (with("jwks", &named), None),
        (
            with("none", &named),
            Some(("jwks", Level::Fail, "has no key", "asymmetric keys")),
        ),
        (
            with("gone", &named),
            Some(("jwks", Level::Fail, "404", "AUTH_JWKS_URL")),
        ),
        (
            with("jwks", &named[1..]),
            Some(("issuer", Level::Warn, "any issuer", "AUTH_ISSUER")),
        ),
        (
            with("jwks", &named[..1]),
            Some(("audience", Level::Warn, "another service", "AUTH_AUDIENCE")),
        ),
    ] {
        let changes: Vec<(&'static str, &str)> = changes
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        let report = run_doctor(&app, &changes, None).await;
        match expected {
            Some((check, level, found, remediation)) => {
                single_finding(&report, check, level, found, remediation);
            }
            None => {
                assert_eq!(failures(&report), []);
                let found = &report
                    .findings
                    .iter()
                    .find(|line| line.check == "jwks")
                    .unwrap()
                    .detail;
                assert_eq!(found, "1 usable keys are published");
            }
        }
    }
}

#[tokio::test]
async fn token_check_warns_about_secret_beside_jwks() {
    let app = TestApp::with_system_clock().await;
    let keys = format!("{}jwks", key_sets().await);
    let changes = [
        ("AUTH_JWKS_URL", &*keys),
        ("AUTH_ISSUER", "https://id.example.com/"),
        ("AUTH_AUDIENCE", "patchbay"),
    ];
    let report = run_doctor(&app, &changes, None).await;
    let (found, remediation) = (
        "in addition to the identity provider's",
        "remove AUTH_JWT_SECRET",
    );
    single_finding(&report, "tokens", Level::Warn, found, remediation);
}

#[tokio::test]
async fn token_check_detects_service_with_another_secret() {
    let app = TestApp::with_system_clock().await;
    let both = format!("{JWT_SECRET},another secret that has more than 32 bytes");
    let report = run_doctor(&app, &[("AUTH_JWT_SECRET", &both)], None).await;
    let all = failures(&report);
    let refused = "rejects a token signed with secret 2 of AUTH_JWT_SECRET";
    assert_eq!((all[0].0, all[0].1), ("tokens", Level::Fail), "{report}");
    assert!(all[0].2.contains(refused), "{report}");
    assert!(all[0].3.contains("the same AUTH_JWT_SECRET"), "{report}");
    assert!(!report.to_string().contains(JWT_SECRET));
}

/// Returns a token with additional claims, signed with this secret.
fn token(claims: &Value, secret: &str) -> String {
    let mut all = json!({ "sub": "ada", "exp": 4_000_000_000_u64 });
    all.as_object_mut()
        .unwrap()
        .extend(claims.as_object().unwrap().clone());
    let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &all, &key).unwrap()
}

#[tokio::test]
async fn token_check_explains_each_claim() {
    let app = TestApp::with_system_clock().await;
    let changes = [
        ("AUTH_ISSUER", "https://id.example.com/"),
        ("AUTH_AUDIENCE", "patchbay"),
    ];
    let good = json!({ "iss": "https://id.example.com/", "aud": ["other", "patchbay"] });
    let with = |claims: Value| {
        let mut all = good.clone();
        all.as_object_mut()
            .unwrap()
            .extend(claims.as_object().unwrap().clone());
        token(&all, JWT_SECRET)
    };
    let report = run_doctor(&app, &changes, Some(&with(json!({})))).await;
    assert_eq!(failures(&report), [], "{report}");
    for (bad, lines) in [
        (
            with(json!({ "iss": "https://other.example.com/" })),
            &["token iss", "token"][..],
        ),
        (with(json!({ "aud": "other" })), &["token aud", "token"]),
        (
            with(json!({ "exp": 1_000_000_000 })),
            &["token exp", "token"],
        ),
        (with(json!({ "exp": null })), &["token exp", "token"]),
        (
            with(json!({ "nbf": 3_999_999_999_u64 })),
            &["token nbf", "token"],
        ),
        (with(json!({ "sub": true })), &["token"]),
        (
            with(json!({ "exp": "4000000000" })),
            &["token exp", "token"],
        ),
        (with(json!({ "nbf": "0" })), &["token nbf", "token"]),
        (
            with(json!({ "aud": null, "client_id": "other" })),
            &["token aud", "token"],
        ),
        (
            token(&good, "another secret that has more than 32 bytes"),
            &["token"],
        ),
        ("not.a.token".to_owned(), &["token"]),
    ] {
        let report = run_doctor(&app, &changes, Some(&bad)).await;
        let reported: Vec<&str> = failures(&report).iter().map(|line| line.0).collect();
        assert_eq!(reported, lines, "{report}");
        assert!(!report.passes());
        assert!(!report.to_string().contains(&bad), "it is a secret");
    }
    let report = run_doctor(&app, &changes, Some("pbk_sandbox_0123456789abcdef")).await;
    single_finding(
        &report,
        "token",
        Level::Warn,
        "a service key",
        "patchbay keys list",
    );
}
