//! Rotation of secrets without downtime: replicas with the old secret, with both, and with the new one run side by
//! side.

use aws_lc_rs::hmac;
use jsonwebtoken::{EncodingKey, Header};
use reqwest::{RequestBuilder, StatusCode};
use serde_json::json;

use crate::test_app::{JWT_SECRET, TestApp};

/// Returns which callers each replica accepts: its variable has the old secret, then both, in either order, then the
/// new one.
async fn exchange(
    app: &TestApp,
    variable: &'static str,
    [old, new]: [&str; 2],
    ask: impl Fn(&str, &str) -> RequestBuilder,
) {
    let (before, after) = (format!("{old},{new}"), format!("{new}, {old}"));
    let steps = [
        (old, [true, false]),
        (&before, [true, true]),
        (&after, [true, true]),
        (new, [false, true]),
    ];
    let mut replicas = Vec::new();
    for (value, _) in steps {
        replicas.push(app.replica(&[(variable, value)]).await);
    }
    for (replica, (value, expected)) in replicas.iter().zip(steps) {
        let mut let_in = Vec::new();
        for secret in [old, new] {
            let answer = ask(&replica.url, secret).send().await.unwrap();
            let status = answer.status();
            let refused = status == StatusCode::UNAUTHORIZED;
            assert!(refused || status.is_success(), "{variable}: {status}");
            let_in.push(!refused);
        }
        assert_eq!(let_in, expected, "{variable}={value}");
    }
}

#[tokio::test]
async fn jwt_secret_rotation_accepts_both_secrets() {
    let app = TestApp::new().await;
    let claims = json!({ "sub": "ada", "exp": app.clock.now().timestamp() + 600 });
    let next = "the next secret of the tests with more than 32 bytes";
    exchange(
        &app,
        "AUTH_JWT_SECRET",
        [JWT_SECRET, next],
        |url, secret| {
            let key = EncodingKey::from_secret(secret.as_bytes());
            let token = jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap();
            let connections = format!("{url}/api/v1/connectors/connections");
            app.client.get(connections).bearer_auth(token)
        },
    )
    .await;
}

#[tokio::test]
async fn environment_service_key_rotation_accepts_both_keys() {
    let app = TestApp::new().await;
    let entries = [
        "workflows=pbk_old_0123456789abcdef0123456789abcdef",
        "workflows=pbk_new_0123456789abcdef0123456789abcdef;connections:read",
    ];
    exchange(&app, "SERVICE_API_KEYS", entries, |url, entry| {
        let key = entry.split(['=', ';']).nth(1).unwrap();
        let connections = format!("{url}/api/v1/connectors/connections");
        let request = app.client.get(connections).bearer_auth(key);
        request.header("patchbay-user", "ada")
    })
    .await;
}

#[tokio::test]
async fn nango_signing_key_rotation_accepts_both_keys() {
    let app = TestApp::new().await;
    let keys = [app.signing_key.as_str(), "the next signing key"];
    exchange(&app, "NANGO_WEBHOOK_SIGNING_KEY", keys, |url, key| {
        let body = r#"{"type":"sync"}"#;
        let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
        let signature = hex::encode(hmac::sign(&key, body.as_bytes()));
        let webhooks = format!("{url}/api/v1/webhooks/nango");
        let request = app.client.post(webhooks).body(body);
        request.header("x-nango-hmac-sha256", signature)
    })
    .await;
}

#[tokio::test]
async fn metrics_token_rotation_accepts_both_tokens() {
    let app = TestApp::new().await;
    let tokens = ["what Prometheus has sent", "what it sends from now on"];
    exchange(&app, "METRICS_TOKEN", tokens, |url, token| {
        app.client.get(format!("{url}/metrics")).bearer_auth(token)
    })
    .await;
}
