//! Tokens and keys as identity providers issue them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::http::header::LOCATION;
use axum::http::{StatusCode, Uri};
use axum::response::IntoResponse;
use base64::Engine;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use chrono::TimeDelta;
use patchbay::auth::{Authenticator, Config, Error};
use serde_json::{Value, json};
use url::Url;

use super::pairs::{Pair, encode};
use super::{
    NOW, Provider, SECRET, Signer, ada, authenticator, claims, claims_with, clock, outcome,
    with_jwks, with_secret,
};
use crate::test_server::serve;

/// Publishes a JWKS of these keys. Returns its server and address.
pub(super) async fn publishing(keys: Vec<Value>) -> (Provider, Url) {
    let (provider, url) = Provider::new(&[]).await;
    *provider.keys.lock().unwrap() = keys;
    (provider, url)
}

#[tokio::test]
async fn every_supported_algorithm_is_accepted() {
    for pair in Pair::all_public() {
        let declared = pair.jwk_with(&json!({"alg": pair.alg, "use": "sig", "kid": "k"}));
        for jwk in [declared, pair.jwk.clone()] {
            let (_, url) = publishing(vec![jwk.clone()]).await;
            let authenticator = authenticator(with_jwks(url));
            for header in [json!({"kid": "k"}), json!({})] {
                let token = pair.token(header.clone(), &claims());
                let found = outcome(&authenticator, &token).await;
                assert_eq!(found, ada(), "{} {header} {jwk}", pair.alg);
            }
        }
    }
    for alg in ["HS256", "HS384", "HS512"] {
        let token = Pair::hmac(alg, SECRET).token(json!({}), &claims());
        let authenticator = authenticator(with_secret());
        assert_eq!(outcome(&authenticator, &token).await, ada(), "{alg}");
    }
}

#[tokio::test]
async fn ed25519_has_two_names() {
    for (of_key, of_token) in [("EdDSA", "Ed25519"), ("Ed25519", "EdDSA")] {
        let pair = Pair::ed25519(of_token);
        let (_, url) = publishing(vec![pair.jwk_with(&json!({"alg": of_key}))]).await;
        let token = pair.token(json!({}), &claims());
        assert_eq!(outcome(&authenticator(with_jwks(url)), &token).await, ada());
    }
}

#[tokio::test]
async fn key_listed_twice_is_one_key() {
    for pair in [Pair::rsa("RS256"), Pair::ec("ES256")] {
        let named = pair.jwk_with(&json!({"kid": "k"}));
        let renamed = pair.jwk_with(&json!({"kid": "other"}));
        let keys = vec![named.clone(), named, renamed, pair.jwk.clone()];
        let (_, url) = publishing(keys).await;
        let authenticator = authenticator(with_jwks(url));
        for header in [json!({"kid": "k"}), json!({"kid": "other"}), json!({})] {
            let token = pair.token(header.clone(), &claims());
            assert_eq!(outcome(&authenticator, &token).await, ada(), "{header}");
        }
    }
}

/// With two keys of the same id, either may have signed the token.
#[tokio::test]
async fn keys_that_share_an_id_are_both_tried() {
    let (one, other) = (Pair::ec("ES256"), Pair::ec("ES256"));
    let keys = [&one, &other].map(|pair| pair.jwk_with(&json!({"kid": "k"})));
    let (_, url) = publishing(keys.into()).await;
    let authenticator = authenticator(with_jwks(url));
    for pair in [one, other] {
        let token = pair.token(json!({"kid": "k"}), &claims());
        assert_eq!(outcome(&authenticator, &token).await, ada());
    }
}

#[tokio::test]
async fn token_without_key_id_is_tried_with_each_key() {
    let pairs: Vec<Pair> = (0..9).map(|_| Pair::ec("ES256")).collect();
    let named = |(n, pair): (usize, &Pair)| pair.jwk_with(&json!({"kid": format!("{n}")}));
    for (count, expected) in [(8, ada()), (9, Err(Error::TooManyKeys))] {
        let keys = pairs.iter().enumerate().take(count).map(named);
        let (_, url) = publishing(keys.collect()).await;
        let authenticator = authenticator(with_jwks(url));
        for pair in &pairs[..count] {
            let token = pair.token(json!({}), &claims());
            assert_eq!(outcome(&authenticator, &token).await, expected, "{count}");
        }
    }
}

/// Some identity providers rotate keys without a key id, and others reuse the id.
#[tokio::test]
async fn replaced_key_is_fetched_when_its_signature_fails() {
    for parameters in [json!({}), json!({"kid": "k"})] {
        let (old, new) = (Pair::ec("ES256"), Pair::ec("ES256"));
        let (provider, url) = publishing(vec![old.jwk_with(&parameters)]).await;
        let clock = clock();
        let authenticator = Authenticator::new(with_jwks(url), clock.clone()).unwrap();
        let [before, after] = [&old, &new].map(|pair| pair.token(parameters.clone(), &claims()));
        assert_eq!(outcome(&authenticator, &before).await, ada());
        *provider.keys.lock().unwrap() = vec![new.jwk_with(&parameters)];
        let refused = outcome(&authenticator, &after).await;
        assert_eq!((refused, provider.fetches()), (Err(Error::AnotherKey), 1));
        clock.advance(TimeDelta::seconds(30));
        assert_eq!(outcome(&authenticator, &after).await, ada());
        let refused = outcome(&authenticator, &before).await;
        assert_eq!((refused, provider.fetches()), (Err(Error::AnotherKey), 2));
    }
}

#[tokio::test]
async fn odd_encodings_of_key_parameters_are_read() {
    let rsa = Pair::rsa("RS256");
    let bytes = |jwk: &Value, name: &str| {
        let text = jwk[name].as_str().unwrap();
        URL_SAFE_NO_PAD.decode(text).unwrap()
    };
    let longer = |jwk: &Value, name: &str| encode(&[&[0], &*bytes(jwk, name)].concat());
    let padded = |jwk: &Value, name: &str| URL_SAFE.encode(bytes(jwk, name));
    // A coordinate that starts with a zero byte, which some identity providers omit.
    let short = std::iter::repeat_with(|| Pair::ec("ES256"))
        .find(|pair| bytes(&pair.jwk, "x")[0] == 0)
        .unwrap();
    let dropped = encode(&bytes(&short.jwk, "x")[1..]);
    let ec = Pair::ec("ES512");
    for (pair, changes) in [
        (
            &rsa,
            json!({"n": longer(&rsa.jwk, "n"), "e": longer(&rsa.jwk, "e")}),
        ),
        (
            &rsa,
            json!({"n": padded(&rsa.jwk, "n"), "e": padded(&rsa.jwk, "e")}),
        ),
        (&rsa, json!({"x5t": 7, "x5c": "not a list", "issuer": null})),
        (
            &rsa,
            json!({"alg": null, "use": null, "kid": null, "key_ops": null}),
        ),
        (
            &ec,
            json!({"x": longer(&ec.jwk, "x"), "y": padded(&ec.jwk, "y")}),
        ),
        (&short, json!({"x": dropped})),
    ] {
        let (_, url) = publishing(vec![pair.jwk_with(&changes)]).await;
        let token = pair.token(json!({}), &claims());
        let found = outcome(&authenticator(with_jwks(url)), &token).await;
        assert_eq!(found, ada(), "{changes}");
    }
}

/// A key of 1024 bits, or with a point that is not on its curve, is ignored.
#[tokio::test]
async fn weak_or_broken_keys_are_left_out_of_the_set() {
    let good = Pair::ec("ES256").jwk;
    let broken = json!({"kty": "EC", "crv": "P-256", "x": good["x"], "y": good["x"]});
    let short = json!({"kty": "RSA", "n": encode(&[0xc5; 128]), "e": "AQAB"});
    let long = json!({"kty": "RSA", "n": encode(&[0xc5; 1025]), "e": "AQAB"});
    let unsupported = json!({"kty": "EC", "crv": "secp256k1", "x": good["x"], "y": good["y"]});
    let keys = vec![
        broken,
        short,
        long,
        unsupported,
        json!(null),
        json!({}),
        good,
    ];
    let (_, url) = publishing(keys).await;
    let usable = authenticator(with_jwks(url)).published_key_count().await;
    assert_eq!(usable.unwrap().unwrap(), 1);
}

/// A key set without usable keys is an error of its publisher, so the previous keys stay valid.
#[tokio::test]
async fn empty_key_set_does_not_replace_good_keys() {
    let pair = Pair::ec("ES256");
    let for_encryption = pair.jwk_with(&json!({"use": "enc"}));
    for empty in [
        vec![],
        vec![for_encryption],
        vec![json!({"kty": "oct", "k": "AAAA"})],
    ] {
        let (provider, url) = publishing(vec![pair.jwk.clone()]).await;
        let clock = clock();
        let authenticator = Authenticator::new(with_jwks(url), clock.clone()).unwrap();
        let token = pair.token(json!({}), &claims_with(&json!({"exp": NOW + 100_000})));
        assert_eq!(outcome(&authenticator, &token).await, ada());
        *provider.keys.lock().unwrap() = empty;
        clock.advance(TimeDelta::minutes(59));
        assert_eq!(outcome(&authenticator, &token).await, ada());
        assert_eq!(provider.fetches(), 2);
        clock.advance(TimeDelta::minutes(1));
        let refused = outcome(&authenticator, &token).await;
        assert_eq!(refused, Err(Error::KeysUnavailable));
        let reported = authenticator
            .published_key_count()
            .await
            .unwrap()
            .unwrap_err();
        assert!(reported.contains("has no key"), "{reported}");
    }
}

#[tokio::test]
async fn key_set_is_fetched_over_one_redirect_within_its_origin() {
    let signer = Signer::p256("p");
    let (provider, elsewhere) = Provider::new(&[&signer]).await;
    let hops = Arc::new(AtomicUsize::new(0));
    let count = hops.clone();
    let router = Router::new().fallback(move |uri: Uri| async move {
        let to = match uri.path() {
            "/jwks" => "/jwks/".to_owned(),
            "/twice" => "/jwks".to_owned(),
            "/elsewhere" => elsewhere.to_string(),
            "/relative" => "jwks/".to_owned(),
            "/loop" => "/loop".to_owned(),
            _ => return provider.answer(),
        };
        count.fetch_add(1, Ordering::SeqCst);
        (StatusCode::FOUND, [(LOCATION, to)]).into_response()
    });
    let url = serve(router).await;
    let token = signer.token(&claims());
    let unavailable = || Err(Error::KeysUnavailable);
    for (path, expected, redirects) in [
        ("jwks/", ada(), 0),
        ("jwks", ada(), 1),
        ("relative", ada(), 1),
        ("twice", unavailable(), 2),
        ("loop", unavailable(), 2),
        ("elsewhere", unavailable(), 1),
    ] {
        hops.store(0, Ordering::SeqCst);
        let authenticator = authenticator(with_jwks(url.join(path).unwrap()));
        assert_eq!(outcome(&authenticator, &token).await, expected, "{path}");
        assert_eq!(hops.load(Ordering::SeqCst), redirects, "{path}");
    }
}

#[tokio::test]
async fn typ_is_that_of_a_token_for_an_api() {
    let authenticator = authenticator(with_secret());
    let pair = Pair::hmac("HS256", SECRET);
    let good = [
        "JWT",
        "jwt",
        "at+jwt",
        "AT+JWT",
        "application/at+jwt",
        "application/jwt",
    ];
    for typ in good.map(Value::from).into_iter().chain([Value::Null]) {
        let token = pair.token(json!({"typ": typ}), &claims());
        assert_eq!(outcome(&authenticator, &token).await, ada(), "{typ}");
    }
    let failures = [
        "logout+jwt",
        "dpop+jwt",
        "oauth-authz-req+jwt",
        "secevent+jwt",
        "JOSE",
        "",
    ];
    for typ in failures {
        let token = pair.token(json!({"typ": typ}), &claims());
        let refused = outcome(&authenticator, &token).await;
        assert_eq!(refused, Err(Error::WrongType), "{typ}");
    }
}

#[tokio::test]
async fn numbers_that_name_users_are_decimal_text() {
    let authenticator = authenticator(with_secret());
    let pair = Pair::hmac("HS256", SECRET);
    // A number is compared as written in the token, because parsing as a float would change it.
    let judged = async |sub: &str| {
        let payload = format!(r#"{{"sub":{sub},"exp":{}}}"#, NOW + 600);
        let header = encode(br#"{"alg":"HS256"}"#);
        let token = pair.signed(&header, &encode(payload.as_bytes()));
        outcome(&authenticator, &token).await
    };
    for number in ["7", "0", "-7", "9007199254740993", "18446744073709551615"] {
        assert_eq!(judged(number).await, Ok(number.to_owned()));
    }
    let rounded = [
        "18446744073709551616",
        "7.0",
        "7.5",
        "1e3",
        "-0",
        "-9223372036854775809",
    ];
    for failures in rounded
        .into_iter()
        .chain(["true", "[\"ada\"]", "{\"id\":7}"])
    {
        assert_eq!(
            judged(failures).await,
            Err(Error::UserNotText),
            "{failures}"
        );
    }
}

#[tokio::test]
async fn null_times_count_as_missing() {
    let pair = Pair::hmac("HS256", SECRET);
    let authenticator = authenticator(with_secret());
    for (changes, expected) in [
        (json!({"iat": Value::Null, "nbf": Value::Null}), ada()),
        (json!({"exp": "1795438000"}), Err(Error::ExpiryNotANumber)),
        (
            json!({"iat": "1795437000"}),
            Err(Error::IssueTimeNotANumber),
        ),
        (json!({"nbf": "1795437000"}), Err(Error::StartNotANumber)),
    ] {
        let mut all = claims();
        let fields = all.as_object_mut().unwrap();
        fields.extend(changes.as_object().unwrap().clone());
        let token = pair.token(json!({}), &all);
        assert_eq!(outcome(&authenticator, &token).await, expected, "{changes}");
    }
    let token = pair.token(json!({}), &json!({"sub": "ada", "exp": Value::Null}));
    let refused = outcome(&authenticator, &token).await;
    assert_eq!(refused, Err(Error::NoExpiry));
}

#[tokio::test]
async fn several_issuers_and_audiences_are_accepted() {
    let config = Config {
        issuers: vec![
            "https://a.example.com/".into(),
            "accounts.google.com".into(),
        ],
        audiences: vec!["web".into(), "ios".into()],
        ..with_secret()
    };
    let authenticator = authenticator(config);
    let pair = Pair::hmac("HS256", SECRET);
    let judged = async |claims: Value| {
        let token = pair.token(json!({}), &claims_with(&claims));
        outcome(&authenticator, &token).await
    };
    let issuer = "https://a.example.com/";
    for good in [
        json!({"iss": issuer, "aud": "web"}),
        json!({"iss": issuer, "aud": ["other", "ios"]}),
        // Amazon Cognito's access tokens.
        json!({"iss": issuer, "client_id": "ios"}),
        json!({"iss": issuer, "aud": null, "client_id": "ios"}),
        // Google uses two forms of its issuer.
        json!({"iss": "https://accounts.google.com", "aud": "web"}),
        json!({"iss": "accounts.google.com", "aud": "web"}),
    ] {
        assert_eq!(judged(good.clone()).await, ada(), "{good}");
    }
    for (bad, expected) in [
        (json!({"aud": "web"}), Error::NoIssuer),
        (
            json!({"iss": "https://a.example.com", "aud": "web"}),
            Error::WrongIssuer,
        ),
        (json!({"iss": [issuer], "aud": "web"}), Error::WrongIssuer),
        (json!({"iss": issuer}), Error::NoAudience),
        (
            json!({"iss": issuer, "aud": "android"}),
            Error::WrongAudience,
        ),
        (json!({"iss": issuer, "aud": []}), Error::WrongAudience),
        (
            json!({"iss": issuer, "client_id": "android"}),
            Error::WrongAudience,
        ),
        // `client_id` applies only without `aud`.
        (
            json!({"iss": issuer, "aud": "android", "client_id": "web"}),
            Error::WrongAudience,
        ),
    ] {
        assert_eq!(judged(bad.clone()).await, Err(expected), "{bad}");
    }
}
