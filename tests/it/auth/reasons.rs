//! Each cause of a rejection has its own message, so that the message identifies the cause.

use patchbay::auth::{Config, Error};
use serde_json::{Value, json};

use super::algorithms::publishing;
use super::pairs::{Pair, encode};
use super::{NOW, SECRET, authenticator, claims, outcome, with_jwks, with_secret};

/// Returns a header as the first part of a token.
fn header(header: &Value) -> String {
    encode(header.to_string().as_bytes())
}

#[tokio::test]
async fn malformed_tokens_are_told_apart() {
    let authenticator = authenticator(with_secret());
    let pair = Pair::hmac("HS256", SECRET);
    let good = pair.token(json!({}), &claims());
    let parts: Vec<&str> = good.split('.').collect();
    let rest = format!("{}.{}", parts[1], parts[2]);
    let with = |value: Value| format!("{}.{rest}", header(&value));
    let not_json = encode(b"not json");
    for (token, expected) in [
        ("opaque".to_owned(), Error::NotAJwt),
        (rest.clone(), Error::NotAJwt),
        ("a.b.c.d".to_owned(), Error::NotAJwt),
        ("a..b.c.d".to_owned(), Error::Encrypted),
        ("a.b.c".to_owned(), Error::BadHeader),
        (format!("{not_json}.{rest}"), Error::BadHeader),
        (with(json!({"typ": "JWT"})), Error::BadHeader),
        (with(json!({"alg": "HS256", "kid": 7})), Error::BadHeader),
        (with(json!(["HS256", null, null, null])), Error::BadHeader),
        (
            pair.signed(&header(&json!(["HS256", null, null, null])), parts[1]),
            Error::BadHeader,
        ),
        (with(json!({"alg": "none"})), Error::Unsigned),
        (with(json!({"alg": "ES256K"})), Error::UnsupportedAlgorithm),
        (
            with(json!({"alg": "HS256", "crit": ["b64"]})),
            Error::CriticalHeader,
        ),
        (
            with(json!({"alg": "HS256", "typ": "dpop+jwt"})),
            Error::WrongType,
        ),
        (
            format!("{}.{}.=", parts[0], parts[1]),
            Error::BadSignatureEncoding,
        ),
        (format!("{}.{}.", parts[0], parts[1]), Error::AnotherSecret),
        (pair.signed(parts[0], &encode(b"[1]")), Error::BadClaims),
        (pair.signed(parts[0], &not_json), Error::BadClaims),
        (pair.signed(parts[0], "="), Error::BadClaims),
    ] {
        let refused = outcome(&authenticator, &token).await;
        assert_eq!(refused, Err(expected), "{token}");
    }
    let token = pair.token(json!({}), &json!({"exp": NOW + 9, "sub": null}));
    let refused = outcome(&authenticator, &token).await;
    assert_eq!(refused, Err(Error::NoUser));
}

#[tokio::test]
async fn missing_and_wrong_keys_are_told_apart() {
    let (hs, es) = (Pair::hmac("HS256", SECRET), Pair::ec("ES256"));
    let (_, url) = publishing(vec![es.jwk_with(&json!({"kid": "k"}))]).await;
    let both = authenticator(Config {
        jwks_url: Some(url.clone()),
        ..with_secret()
    });
    let only_secret = authenticator(with_secret());
    let only_keys = authenticator(with_jwks(url));
    let (named, other) = (json!({"kid": "k"}), json!({"kid": "z"}));
    let (of_another_curve, forger) = (Pair::ec("ES384"), Pair::ec("ES256"));
    for (authenticator, pair, header, expected) in [
        (&only_keys, &hs, json!({}), Error::NoSecret),
        (&only_secret, &es, named.clone(), Error::NoKeySet),
        (&both, &es, other, Error::UnknownKey),
        (
            &both,
            &of_another_curve,
            named.clone(),
            Error::KeyOfAnotherAlgorithm,
        ),
        (&both, &of_another_curve, json!({}), Error::NoKeyOfAlgorithm),
        (&both, &forger, named, Error::AnotherKey),
        (&both, &forger, json!({}), Error::AnotherKey),
    ] {
        let token = pair.token(header.clone(), &claims());
        let refused = outcome(authenticator, &token).await;
        assert_eq!(refused, Err(expected), "{} {header}", pair.alg);
    }
}
