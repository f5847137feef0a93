//! Each row of the setup checklist's table of identity providers, with a token of that provider's shape.

use std::collections::BTreeMap;

use patchbay::auth::Authenticator;
use patchbay::config::Config;
use serde_json::{Value, json};

use super::pairs::Pair;
use super::{NOW, Provider, clock, outcome};

const CHECKLIST: &str = include_str!("../../../docs/NANGO_SETUP_CHECKLIST.md");

/// What stands for each `<placeholder>` of the table, and for the secret that nobody else knows.
const PLACEHOLDER: &str = "acme";
const SECRET: &str = "a secret of the project with more than 32 bytes";

/// A token as a provider signs it, and the user whom it names.
struct Shape {
    provider: &'static str,
    pair: Pair,
    header: Value,
    claims: Value,
    user: &'static str,
}

fn shape(
    provider: &'static str,
    pair: Pair,
    header: Value,
    claims: Value,
    user: &'static str,
) -> Shape {
    Shape {
        provider,
        pair,
        header,
        claims,
        user,
    }
}

/// Without `exp` and `iat`.
fn shapes() -> Vec<Shape> {
    let rsa = || Pair::rsa("RS256");
    let with_kid = || json!({"kid": "k", "typ": "JWT"});
    let groups: Vec<String> = (0..200)
        .map(|n| format!("6f0b0a5e-{n:04}-4c8d-9f5d-0c1f6f3e2a77"))
        .collect();
    vec![
        shape(
            "Auth0",
            rsa(),
            with_kid(),
            json!({
                "iss": "https://acme.auth0.com/", "sub": "auth0|65f0c0de", "azp": "client", "scope": "openid",
                "aud": ["acme", "https://acme.auth0.com/userinfo"],
            }),
            "auth0|65f0c0de",
        ),
        shape(
            "authentik",
            rsa(),
            with_kid(),
            json!({
                "iss": "https://acme/application/o/acme/", "sub": "9b4c0a7d", "aud": "acme", "uid": "x",
            }),
            "9b4c0a7d",
        ),
        shape(
            "Clerk",
            rsa(),
            json!({"cat": "cl_B7d4PD111AAA", "kid": "k", "typ": "JWT"}),
            json!({
                "iss": "https://acme.clerk.accounts.dev", "sub": "user_2abc", "azp": "https://app.example.com",
                "nbf": NOW - 20, "sid": "sess_1", "v": 2,
            }),
            "user_2abc",
        ),
        shape(
            "Cognito",
            rsa(),
            json!({"kid": "k"}),
            json!({
                "iss": "https://cognito-idp.acme.amazonaws.com/acme", "sub": "a1b2", "client_id": "acme",
                "token_use": "access", "username": "ada",
            }),
            "a1b2",
        ),
        shape(
            "Entra",
            rsa(),
            json!({"kid": "k", "x5t": "k", "typ": "JWT"}),
            json!({
                "iss": "https://login.microsoftonline.com/acme/v2.0", "aud": "acme", "oid": "0f3a", "sub": "pairwise",
                "nbf": NOW - 20, "groups": groups, "ver": "2.0",
            }),
            "0f3a",
        ),
        shape(
            "Firebase",
            rsa(),
            with_kid(),
            json!({
                "iss": "https://securetoken.google.com/acme", "aud": "acme", "sub": "fb1", "user_id": "fb1",
                "auth_time": NOW - 50, "firebase": {"sign_in_provider": "password"},
            }),
            "fb1",
        ),
        shape(
            "Google",
            rsa(),
            with_kid(),
            json!({
                "iss": "accounts.google.com", "aud": "acme", "azp": "acme", "sub": "112233445566778899001",
            }),
            "112233445566778899001",
        ),
        shape(
            "Keycloak",
            rsa(),
            with_kid(),
            json!({
                "iss": "https://acme/realms/acme", "aud": ["acme", "account"], "sub": "5c1e", "typ": "Bearer",
                "azp": "web", "jti": "x",
            }),
            "5c1e",
        ),
        shape(
            "Logto",
            Pair::ec("ES384"),
            json!({"kid": "k", "typ": "at+jwt"}),
            json!({
                "iss": "https://acme.logto.app/oidc", "aud": "acme", "sub": "lg1", "client_id": "web", "scope": "",
            }),
            "lg1",
        ),
        shape(
            "Okta",
            rsa(),
            json!({"kid": "k"}),
            json!({
                "iss": "https://acme.okta.com/oauth2/default", "aud": "api://default", "sub": "ada@example.com",
                "uid": "00u1", "cid": "web", "ver": 1,
            }),
            "00u1",
        ),
        shape(
            "Supabase",
            Pair::ec("ES256"),
            with_kid(),
            json!({
                "iss": "https://acme.supabase.co/auth/v1", "aud": "authenticated", "sub": "8d0e", "role": "authenticated",
            }),
            "8d0e",
        ),
        shape(
            "Supabase, legacy secret",
            Pair::hmac("HS256", SECRET),
            with_kid(),
            json!({
                "iss": "https://acme.supabase.co/auth/v1", "aud": "authenticated", "sub": "8d0e", "role": "authenticated",
            }),
            "8d0e",
        ),
        shape(
            "WorkOS",
            rsa(),
            json!({"kid": "k"}),
            json!({
                "iss": "https://api.workos.com/user_management/acme", "sub": "user_01H", "sid": "session_1", "role": "member",
            }),
            "user_01H",
        ),
        shape(
            "WorkOS",
            rsa(),
            json!({"kid": "k"}),
            json!({
                "iss": "https://api.workos.com", "sub": "user_01H", "sid": "session_1", "role": "member",
            }),
            "user_01H",
        ),
    ]
}

/// The variables of each row of the table, by provider.
fn rows() -> BTreeMap<&'static str, BTreeMap<&'static str, String>> {
    let (_, table) = CHECKLIST.split_once("\n| Identity provider |").unwrap();
    let (table, _) = table.split_once("\n\n").unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| **"));
    let row = |line: &'static str| {
        let (_, rest) = line.split_once("**").unwrap();
        let (provider, rest) = rest.split_once("**").unwrap();
        let spans = rest.split('`').skip(1).step_by(2);
        let variables = spans.filter_map(|span| span.split_once('='));
        let variables = variables.filter(|(name, _)| name.starts_with("AUTH_"));
        (
            provider,
            variables
                .map(|(name, value)| (name, filled(value)))
                .collect(),
        )
    };
    rows.map(row).collect()
}

/// A value with each placeholder replaced.
fn filled(value: &str) -> String {
    let mut parts = value.split('<');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once('>').unwrap();
        text += if name == "the legacy JWT secret" {
            SECRET
        } else {
            PLACEHOLDER
        };
        text += rest;
    }
    text
}

#[tokio::test]
async fn tokens_of_every_provider_in_the_checklist_are_accepted() {
    let rows = rows();
    let mut tried: Vec<&str> = shapes().iter().map(|shape| shape.provider).collect();
    tried.dedup();
    let mut listed: Vec<&str> = rows.keys().copied().collect();
    listed.sort_by_key(|name| name.to_lowercase());
    assert_eq!(listed, tried);
    for shape in shapes() {
        let variables = &rows[shape.provider];
        let config = Config::read(&|name| {
            let needed = match name {
                "PUBLIC_URL" => Some("https://connect.example.com"),
                "DATABASE_URL" => Some("postgres://patchbay@db.example.com/patchbay"),
                "NANGO_ENABLED" => Some("false"),
                _ => None,
            };
            variables.get(name).cloned().or(needed.map(str::to_owned))
        });
        let mut config = config.unwrap().auth;
        if let Some(url) = &mut config.jwks_url {
            let (provider, local) = Provider::new(&[]).await;
            // Beside a key for encryption, as Keycloak publishes one.
            let own = shape.pair.jwk_with(&json!({"kid": "k", "use": "sig"}));
            let other = shape
                .pair
                .jwk_with(&json!({"kid": "e", "use": "enc", "alg": "RSA-OAEP"}));
            *provider.keys.lock().unwrap() = vec![other, own];
            *url = local;
        }
        let authenticator = Authenticator::new(config, clock()).unwrap();
        let mut claims = shape.claims.clone();
        claims["iat"] = json!(NOW - 10);
        claims["exp"] = json!(NOW + 3600);
        let token = shape.pair.token(shape.header.clone(), &claims);
        let found = outcome(&authenticator, &token).await;
        assert_eq!(found.as_deref(), Ok(shape.user), "{}", shape.provider);
        // Of another tenant, or for another product.
        for name in ["iss", "aud", "client_id"] {
            let accepted = match name {
                "iss" => "AUTH_ISSUER",
                _ => "AUTH_AUDIENCE",
            };
            let counts = name != "client_id" || claims.get("aud").is_none();
            if variables.contains_key(accepted) && claims.get(name).is_some() && counts {
                let mut others = claims.clone();
                others[name] = json!("https://evil.example.com");
                let token = shape.pair.token(shape.header.clone(), &others);
                let refused = outcome(&authenticator, &token).await;
                assert!(refused.is_err(), "{} {name}", shape.provider);
            }
        }
    }
}
