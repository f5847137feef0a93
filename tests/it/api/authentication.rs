//! Authentication of every endpoint that requires a token, with each kind of missing or invalid token.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use insta::assert_snapshot;
use jsonwebtoken::{EncodingKey, Header};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{DOCUMENT, TestResponse};
use crate::test_app::{JWT_SECRET, TestApp};

/// Returns every documented operation that requires a token, with an example path.
fn operations() -> Vec<(Method, String)> {
    let mut found = Vec::new();
    for (path, methods) in DOCUMENT["paths"].as_object().unwrap() {
        let path: Vec<String> = path
            .split('/')
            .map(|segment| match segment.starts_with('{') {
                true => Uuid::now_v7().to_string(),
                false => segment.to_owned(),
            })
            .collect();
        for (method, operation) in methods.as_object().unwrap() {
            let requirements = operation["security"].as_array();
            if requirements.is_some_and(|all| !all.is_empty()) {
                let method = method.to_uppercase().parse().unwrap();
                // The callback checks its parameters before it authenticates.
                let path = format!("{}?connection_id={}", path.join("/"), Uuid::now_v7());
                found.push((method, path));
            }
        }
    }
    assert!(found.len() >= 9, "{found:?}");
    found
}

fn token(claims: &Value, secret: &str) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::default(), claims, &key).unwrap()
}

fn unsigned(claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = json!({ "alg": "none", "typ": "JWT" });
    format!("{}.{}.", part(&header), part(claims))
}

/// Returns each rejected `Authorization` header with the challenge in its response.
fn refused(now: i64) -> Vec<(Option<String>, String)> {
    let good = json!({ "sub": "ada", "exp": now + 600 });
    let expired = json!({ "sub": "ada", "exp": now - 31 });
    let headers = [
        None,
        Some("Basic YWRhOnNlY3JldA==".to_owned()),
        Some("Bearer".to_owned()),
        Some("Bearer  ".to_owned()),
        Some(token(&good, JWT_SECRET)),
    ];
    let bearers = [
        (
            "garbage".to_owned(),
            "the token is not a JWT: it does not have three parts with dots between",
        ),
        (unsigned(&good), "the token is not signed: its alg is none"),
        (
            token(&good, &"another secret ".repeat(3)),
            "the signature of the token does not match the shared secret",
        ),
        (token(&expired, JWT_SECRET), "the token has expired"),
        (
            token(&json!({ "sub": "ada" }), JWT_SECRET),
            "the token has no exp",
        ),
        ("x".repeat(17_000), "the token is longer than 16 KiB"),
    ];
    let headers = headers.map(|header| (header, "Bearer".to_owned()));
    let bearers = bearers.map(|(token, why)| {
        let challenge = format!(r#"Bearer error="invalid_token", error_description="{why}""#);
        (Some(format!("Bearer {token}")), challenge)
    });
    headers.into_iter().chain(bearers).collect()
}

#[tokio::test]
async fn unauthenticated_requests_are_rejected_everywhere() {
    let app = TestApp::new().await;
    let refused = refused(app.clock.now().timestamp());
    for (method, path) in operations() {
        for (authorization, challenge) in &refused {
            let url = format!("{}{path}", app.url);
            let mut request = app.client.request(method.clone(), url);
            if let Some(authorization) = authorization {
                request = request.header("authorization", authorization);
            }
            let answer = TestResponse::to(request).await;
            let body = answer.is_problem(401, "unauthenticated");
            assert_eq!(
                answer.header("www-authenticate"),
                Some(challenge.as_str()),
                "{method} {path} {authorization:?}: {body}"
            );
        }
    }
    let rows: i64 = sqlx::query_scalar("select count(*) from user_connector_connection")
        .fetch_one(&mut app.sql().await)
        .await
        .unwrap();
    assert_eq!(rows, 0);
}

#[tokio::test]
async fn rejection_states_reason_in_body_and_challenge() {
    let app = TestApp::new().await;
    let url = format!("{}/api/v1/connectors/connections", app.url);
    assert_snapshot!(TestResponse::to(app.client.get(&url)).await, @r#"
    401 Unauthorized
    www-authenticate: Bearer
    {
      "code": "unauthenticated",
      "detail": "send the user's token as `Authorization: Bearer …`",
      "request_id": "[id]",
      "status": 401,
      "title": "A valid bearer token is needed",
      "type": "urn:patchbay:problem:unauthenticated"
    }
    "#);
    assert_snapshot!(TestResponse::to(app.client.get(&url).bearer_auth("x.y.z")).await, @r#"
    401 Unauthorized
    www-authenticate: Bearer error="invalid_token", error_description="the header of the token is not base64url-encoded JSON with an alg"
    {
      "code": "unauthenticated",
      "detail": "the header of the token is not base64url-encoded JSON with an alg",
      "request_id": "[id]",
      "status": 401,
      "title": "A valid bearer token is needed",
      "type": "urn:patchbay:problem:unauthenticated"
    }
    "#);
    // The scheme's name is not case-sensitive.
    let claims = json!({ "sub": "ada", "exp": app.clock.now().timestamp() + 600 });
    let lower = format!("bearer {}", token(&claims, JWT_SECRET));
    let answer = TestResponse::to(app.client.get(&url).header("authorization", lower)).await;
    assert_snapshot!(answer, @r#"
    200 OK
    {
      "connections": [],
      "next_cursor": null,
      "total_count": 0
    }
    "#);
}

#[tokio::test]
async fn issuer_audience_and_user_claim_are_enforced() {
    let app = TestApp::with(&[
        ("AUTH_ISSUER", "https://id.example.com"),
        ("AUTH_AUDIENCE", "patchbay"),
        ("AUTH_USER_CLAIM", "user"),
    ])
    .await;
    let exp = app.clock.now().timestamp() + 600;
    let url = format!("{}/api/v1/connectors/connections", app.url);
    let ask = async |claims: Value| {
        TestResponse::to(app.client.get(&url).bearer_auth(token(&claims, JWT_SECRET))).await
    };
    let (iss, aud) = ("https://id.example.com", json!(["other", "patchbay"]));
    let good = ask(json!({ "exp": exp, "iss": iss, "aud": aud, "user": "ada" })).await;
    assert_eq!(good.status, 200, "{good}");
    for claims in [
        json!({ "exp": exp, "iss": "https://id.example.org", "aud": aud, "user": "ada" }),
        json!({ "exp": exp, "iss": iss, "aud": "other", "user": "ada" }),
        json!({ "exp": exp, "iss": iss, "aud": aud, "sub": "ada" }),
        json!({ "exp": exp, "iss": iss, "aud": aud, "user": 7.5 }),
        json!({ "exp": exp, "iss": iss, "aud": aud, "user": "" }),
    ] {
        ask(claims).await.is_problem(401, "unauthenticated");
    }
}
