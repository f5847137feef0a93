//! The callers of the isolation tests: one for each way to be mistaken for another.

use chrono::TimeDelta;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use patchbay::auth::service_keys::Scope;
use reqwest::RequestBuilder;
use secrecy::ExposeSecret;
use serde_json::json;

use super::{READ, TOKENS, WRITE};
use crate::test_app::{JWT_SECRET, TestApp};

/// A key with all scopes, and for each scope a key with all others.
const KEY: &str = "pbk_everything_0123456789abcdef0123456789abcdef";
const KEYS_WITHOUT_SCOPE: [(&str, &str, &str); 3] = [
    (
        TOKENS,
        "pbk_lackstokens_0123456789abcdef0123456789abcdef",
        "connections:read connections:write",
    ),
    (
        READ,
        "pbk_lacksread_0123456789abcdef0123456789abcdef",
        "tokens:read connections:write",
    ),
    (
        WRITE,
        "pbk_lackswrite_0123456789abcdef0123456789abcdef",
        "tokens:read connections:read",
    ),
];

/// The credentials of a request.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// The name of the caller in messages.
    pub(super) name: &'static str,
    headers: Vec<(&'static str, String)>,
}

impl Caller {
    fn new(name: &'static str, authorization: impl Into<String>) -> Self {
        let headers = vec![("authorization", authorization.into())];
        Self { name, headers }
    }

    /// Returns a user with a valid token.
    pub(super) fn user(app: &TestApp, user: &str) -> Self {
        Self::new(
            "a user",
            format!("Bearer {}", token(app, user, JWT_SECRET, 600)),
        )
    }

    /// Returns a service whose key has all scopes, acting for this user, or for no user if `user` is empty.
    pub(super) fn service(user: &str) -> Self {
        Self::new("a service", format!("Bearer {KEY}")).acting_for(user)
    }

    /// Returns a service whose key has all scopes except this one.
    pub(super) fn without_scope(scope: &str, user: &str) -> Self {
        let (_, key, _) = KEYS_WITHOUT_SCOPE
            .into_iter()
            .find(|(lacks, ..)| *lacks == scope)
            .unwrap();
        Self::new("a service without the scope", format!("Bearer {key}")).acting_for(user)
    }

    /// Returns the same caller acting for this user, which applies to services only.
    pub(super) fn acting_for(mut self, user: &str) -> Self {
        if !user.is_empty() {
            self.headers.push(("patchbay-user", user.to_owned()));
        }
        self
    }

    pub(super) fn authenticate(&self, request: RequestBuilder) -> RequestBuilder {
        let add =
            |request: RequestBuilder, (name, value): &(&str, String)| request.header(*name, value);
        self.headers.iter().fold(request, add)
    }
}

/// Returns the value of `SERVICE_API_KEYS` for the services of this module.
pub(super) fn service_keys() -> String {
    let lacking = KEYS_WITHOUT_SCOPE.iter().enumerate();
    let lacking = lacking.map(|(n, (_, key, scopes))| format!(",lacking{n}={key};{scopes}"));
    format!("everything={KEY}{}", lacking.collect::<String>())
}

/// Returns a token of a user that expires after this many seconds.
fn token(app: &TestApp, user: &str, secret: &str, seconds: i64) -> String {
    let now = app.clock.now();
    let claims = json!({
        "sub": user, "iat": (now - TimeDelta::hours(2)).timestamp(), "exp": now.timestamp() + seconds,
    });
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap()
}

/// Returns all unauthenticated callers: their credentials are invalid or expired.
pub(super) async fn unauthenticated_callers(app: &TestApp) -> Vec<Caller> {
    let good = token(app, "ada", JWT_SECRET, 600);
    let (head, signature) = good.rsplit_once('.').unwrap();
    let (_, claims) = head.split_once('.').unwrap();
    let turned: String = signature.chars().rev().collect();
    let service_keys = app.keys().await;
    let all = Scope::ALL.into();
    let revoked = service_keys.create("revoked", &all).await.unwrap();
    service_keys.revoke("revoked").await.unwrap();
    let rotated = service_keys.create("rotated", &all).await.unwrap();
    service_keys
        .rotate("rotated", TimeDelta::zero())
        .await
        .unwrap();
    let unsigned = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
    let bearer = |name, token: &str| Caller::new(name, format!("Bearer {token}"));
    vec![
        Caller {
            name: "without a token",
            headers: Vec::new(),
        },
        Caller {
            name: "only a user's name",
            headers: vec![("patchbay-user", "ada".to_owned())],
        },
        Caller::new("an empty token", "Bearer "),
        Caller::new("another scheme", "Basic YWRhOmFkYQ=="),
        Caller::new("a token without a scheme", good.clone()),
        bearer("a token of nothing", "not.a.token"),
        bearer("a token without a signature", &format!("{head}.")),
        bearer("an unsigned token", &format!("{unsigned}.{claims}.")),
        bearer(
            "a token with another signature",
            &format!("{head}.{turned}"),
        ),
        bearer(
            "another's secret",
            &token(app, "ada", "a secret of somebody else, with 32 bytes", 600),
        ),
        bearer("an expired token", &token(app, "ada", JWT_SECRET, -60)),
        bearer(
            "an unknown key",
            "pbk_nobody_0123456789abcdef0123456789abcdef",
        )
        .acting_for("ada"),
        bearer(
            "a key with another end",
            &format!("{}0", &KEY[..KEY.len() - 1]),
        )
        .acting_for("ada"),
        bearer("a revoked key", revoked.expose_secret()).acting_for("ada"),
        bearer("a rotated key", rotated.expose_secret()).acting_for("ada"),
    ]
}
