//! Each row of the setup checklist's table of identity providers, with a token of that provider's shape.

use std::collections::{BTreeMap, BTreeSet};

use patchbay::auth::Authenticator;
use patchbay::config::Config;
use serde_json::{Value, json};

use super::pairs::Pair;
use super::{NOW, Provider, clock, outcome};

const CHECKLIST: &str = include_str!("../../../docs/NANGO_SETUP_CHECKLIST.md");

/// The value of each `<placeholder>` in the table, and the shared secret.
const PLACEHOLDER: &str = "acme";
const SECRET: &str = "a secret of the project with more than 32 bytes";

/// A provider, its signature algorithm, the header and claims of its tokens, and the expected user. Each token also has
/// `kid`, `iat` and `exp`.
const SHAPES: [(&str, &str, &str, &str, &str); 14] = [
    (
        "Auth0",
        "RS256",
        r#"{"typ":"JWT"}"#,
        r#"{"iss":"https://acme.auth0.com/","sub":"auth0|65f0c0de","azp":"client","scope":"openid",
            "aud":["acme","https://acme.auth0.com/userinfo"]}"#,
        "auth0|65f0c0de",
    ),
    (
        "authentik",
        "RS256",
        r#"{"typ":"JWT"}"#,
        r#"{"iss":"https://acme/application/o/acme/","sub":"9b4c0a7d","aud":"acme","uid":"x"}"#,
        "9b4c0a7d",
    ),
    (
        "Clerk",
        "RS256",
        r#"{"typ":"JWT","cat":"cl_B7d4PD111AAA"}"#,
        r#"{"iss":"https://acme.clerk.accounts.dev","sub":"user_2abc","azp":"https://app.example.com",
            "nbf":1795437816,"sid":"sess_1","v":2}"#,
        "user_2abc",
    ),
    (
        "Cognito",
        "RS256",
        "{}",
        r#"{"iss":"https://cognito-idp.acme.amazonaws.com/acme","sub":"a1b2","client_id":"acme",
            "token_use":"access","username":"ada"}"#,
        "a1b2",
    ),
    (
        "Entra",
        "RS256",
        r#"{"typ":"JWT","x5t":"k"}"#,
        r#"{"iss":"https://login.microsoftonline.com/acme/v2.0","aud":"acme","oid":"0f3a","sub":"pairwise",
            "nbf":1795437816,"ver":"2.0"}"#,
        "0f3a",
    ),
    (
        "Firebase",
        "RS256",
        r#"{"typ":"JWT"}"#,
        r#"{"iss":"https://securetoken.google.com/acme","aud":"acme","sub":"fb1","user_id":"fb1",
            "auth_time":1795437786,"firebase":{"sign_in_provider":"password"}}"#,
        "fb1",
    ),
    (
        "Google",
        "RS256",
        r#"{"typ":"JWT"}"#,
        r#"{"iss":"accounts.google.com","aud":"acme","azp":"acme","sub":"112233445566778899001"}"#,
        "112233445566778899001",
    ),
    (
        "Keycloak",
        "RS256",
        r#"{"typ":"JWT"}"#,
        r#"{"iss":"https://acme/realms/acme","aud":["acme","account"],"sub":"5c1e","typ":"Bearer","azp":"web"}"#,
        "5c1e",
    ),
    (
        "Logto",
        "ES384",
        r#"{"typ":"at+jwt"}"#,
        r#"{"iss":"https://acme.logto.app/oidc","aud":"acme","sub":"lg1","client_id":"web","scope":""}"#,
        "lg1",
    ),
    (
        "Okta",
        "RS256",
        "{}",
        r#"{"iss":"https://acme.okta.com/oauth2/default","aud":"api://default","sub":"ada@example.com",
            "uid":"00u1","cid":"web","ver":1}"#,
        "00u1",
    ),
    (
        "Supabase",
        "ES256",
        r#"{"typ":"JWT"}"#,
        r#"{"iss":"https://acme.supabase.co/auth/v1","aud":"authenticated","sub":"8d0e","role":"authenticated"}"#,
        "8d0e",
    ),
    (
        "Supabase, legacy secret",
        "HS256",
        r#"{"typ":"JWT"}"#,
        r#"{"iss":"https://acme.supabase.co/auth/v1","aud":"authenticated","sub":"8d0e","role":"authenticated"}"#,
        "8d0e",
    ),
    (
        "WorkOS",
        "RS256",
        "{}",
        r#"{"iss":"https://api.workos.com/user_management/acme","sub":"user_01H","sid":"session_1"}"#,
        "user_01H",
    ),
    (
        "WorkOS",
        "RS256",
        "{}",
        r#"{"iss":"https://api.workos.com","sub":"user_01H","sid":"session_1"}"#,
        "user_01H",
    ),
];

/// Returns the variables of each row of the table, by provider.
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

/// Replaces each placeholder in a value.
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

/// Returns an authenticator with the variables of a provider's row and a JWKS of this pair.
async fn configured(variables: &BTreeMap<&str, String>, pair: &Pair) -> Authenticator {
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
        // The set also has an encryption key, like those of Keycloak.
        let own = pair.jwk_with(&json!({"kid": "k", "use": "sig"}));
        let other = pair.jwk_with(&json!({"kid": "e", "use": "enc", "alg": "RSA-OAEP"}));
        *provider.keys.lock().unwrap() = vec![other, own];
        *url = local;
    }
    Authenticator::new(config, clock()).unwrap()
}

#[tokio::test]
async fn tokens_of_every_provider_in_the_checklist_are_accepted() {
    let rows = rows();
    let tried: BTreeSet<&str> = SHAPES.iter().map(|shape| shape.0).collect();
    assert_eq!(rows.keys().copied().collect::<BTreeSet<&str>>(), tried);
    for (provider, alg, header, claims, user) in SHAPES {
        let pair = match alg {
            "RS256" => Pair::rsa("RS256"),
            "HS256" => Pair::hmac("HS256", SECRET),
            curve => Pair::ec(curve),
        };
        let variables = &rows[provider];
        let authenticator = configured(variables, &pair).await;
        let mut header: Value = serde_json::from_str(header).unwrap();
        header["kid"] = json!("k");
        let mut claims: Value = serde_json::from_str(claims).unwrap();
        claims["iat"] = json!(NOW - 10);
        claims["exp"] = json!(NOW + 3600);
        if provider == "Entra" {
            let group = "6f0b0a5e-0000-4c8d-9f5d-0c1f6f3e2a77";
            claims["groups"] = json!(vec![group; 200]);
        }
        let token = pair.token(header.clone(), &claims);
        let found = outcome(&authenticator, &token).await;
        assert_eq!(found.as_deref(), Ok(user), "{provider}");
        // A token of another tenant, or for another product.
        let audience = if claims.get("aud").is_some() {
            "aud"
        } else {
            "client_id"
        };
        for (claim, variable) in [("iss", "AUTH_ISSUER"), (audience, "AUTH_AUDIENCE")] {
            if variables.contains_key(variable) {
                let mut others = claims.clone();
                others[claim] = json!("https://evil.example.com");
                let token = pair.token(header.clone(), &others);
                let refused = outcome(&authenticator, &token).await;
                assert!(refused.is_err(), "{provider} {claim}");
            }
        }
    }
}
