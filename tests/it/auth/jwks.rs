//! Fetching, caching and selecting the identity provider's keys.

use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::IntoResponse;
use chrono::TimeDelta;
use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use patchbay::auth::{Authenticator, Error};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::{
    NOW, Provider, Signer, ada, authenticator, claims, claims_with, clock, outcome, with_jwks,
};
use crate::test_server::serve;

#[tokio::test]
async fn jwks_refetch_adds_new_and_drops_removed_key() {
    let (old, new) = (Signer::p256("old"), Signer::ed25519("new"));
    let (provider, url) = Provider::new(&[&old]).await;
    let clock = clock();
    let authenticator = Authenticator::new(with_jwks(url), clock.clone()).unwrap();
    let (old_token, new_token) = (old.token(&claims()), new.token(&claims()));
    assert_eq!(outcome(&authenticator, &old_token).await, ada());
    provider.publish(&[&new]);

    // Too soon after the last fetch for an unknown key to cause another.
    clock.advance(TimeDelta::seconds(29));
    assert_eq!(
        outcome(&authenticator, &new_token).await,
        Err(Error::UnknownKey)
    );
    assert_eq!(provider.fetches(), 1);
    clock.advance(TimeDelta::seconds(1));
    assert_eq!(outcome(&authenticator, &new_token).await, ada());
    assert_eq!(provider.fetches(), 2);
    assert_eq!(
        outcome(&authenticator, &old_token).await,
        Err(Error::UnknownKey)
    );
    assert_eq!(provider.fetches(), 2);
}

#[tokio::test]
async fn jwks_accepts_all_published_keys() {
    let (old, new) = (Signer::p256("old"), Signer::p256("new"));
    let (provider, url) = Provider::new(&[&old]).await;
    let clock = clock();
    let authenticator = Authenticator::new(with_jwks(url), clock.clone()).unwrap();
    let claims = claims_with(&json!({"exp": NOW + 100_000}));
    let tokens = [old.token(&claims), new.token(&claims)];
    let unknown = Err(Error::UnknownKey);
    let steps: [(&[&Signer], _); 3] = [
        (&[&old], [ada(), unknown.clone()]),
        (&[&old, &new], [ada(), ada()]),
        (&[&new], [unknown, ada()]),
    ];
    for (published, expected) in steps {
        provider.publish(published);
        clock.advance(TimeDelta::minutes(10));
        for (token, expected) in tokens.iter().zip(expected) {
            assert_eq!(outcome(&authenticator, token).await, expected);
        }
    }
}

#[tokio::test]
async fn jwks_is_refetched_after_ttl() {
    let signer = Signer::p256("p");
    let (provider, url) = Provider::new(&[&signer]).await;
    let clock = clock();
    let authenticator = Authenticator::new(with_jwks(url), clock.clone()).unwrap();
    let token = signer.token(&claims_with(&json!({"exp": NOW + 100_000})));
    for (minutes, fetches) in [(0, 1), (9, 1), (1, 2), (9, 2), (1, 3)] {
        clock.advance(TimeDelta::minutes(minutes));
        assert_eq!(outcome(&authenticator, &token).await, ada());
        assert_eq!(provider.fetches(), fetches, "after {minutes} more minutes");
    }
}

#[tokio::test]
async fn concurrent_callers_share_one_jwks_fetch() {
    let signer = Signer::p256("p");
    let (provider, url) = Provider::new(&[&signer]).await;
    let clock = clock();
    let authenticator = Authenticator::new(with_jwks(url), clock.clone()).unwrap();
    let token = signer.token(&claims());
    let answers = join_all((0..50).map(|_| outcome(&authenticator, &token))).await;
    assert!(answers.iter().all(|answer| *answer == ada()));
    assert_eq!(provider.fetches(), 1);

    clock.advance(TimeDelta::seconds(30));
    let unknown = Signer::p256("unknown").token(&claims());
    let answers = join_all((0..50).map(|_| outcome(&authenticator, &unknown))).await;
    assert!(
        answers
            .iter()
            .all(|answer| *answer == Err(Error::UnknownKey))
    );
    assert_eq!(provider.fetches(), 2);
}

#[tokio::test]
async fn jwks_outage_returns_keys_unavailable() {
    let signer = Signer::p256("p");
    let (provider, url) = Provider::new(&[&signer]).await;
    provider.down.store(true, Ordering::SeqCst);
    let clock = clock();
    let authenticator = Authenticator::new(with_jwks(url), clock.clone()).unwrap();
    let token = signer.token(&claims());
    assert_eq!(
        outcome(&authenticator, &token).await,
        Err(Error::KeysUnavailable)
    );
    provider.down.store(false, Ordering::SeqCst);
    clock.advance(TimeDelta::seconds(4));
    assert_eq!(
        outcome(&authenticator, &token).await,
        Err(Error::KeysUnavailable)
    );
    assert_eq!(provider.fetches(), 1);
    clock.advance(TimeDelta::seconds(1));
    assert_eq!(outcome(&authenticator, &token).await, ada());
    assert_eq!(provider.fetches(), 2);
}

#[tokio::test]
async fn cached_keys_stay_valid_for_one_hour_of_outage() {
    let signer = Signer::p256("p");
    let (provider, url) = Provider::new(&[&signer]).await;
    let clock = clock();
    let authenticator = Authenticator::new(with_jwks(url), clock.clone()).unwrap();
    let token = signer.token(&claims_with(&json!({"exp": NOW + 100_000})));
    let unknown = Signer::p256("unknown").token(&claims_with(&json!({"exp": NOW + 100_000})));
    assert_eq!(outcome(&authenticator, &token).await, ada());
    provider.down.store(true, Ordering::SeqCst);

    clock.advance(TimeDelta::minutes(59));
    assert_eq!(outcome(&authenticator, &token).await, ada());
    assert_eq!(provider.fetches(), 2);
    // The key may be new, but the identity provider is unreachable.
    assert_eq!(
        outcome(&authenticator, &unknown).await,
        Err(Error::KeysUnavailable)
    );
    clock.advance(TimeDelta::minutes(1));
    assert_eq!(
        outcome(&authenticator, &token).await,
        Err(Error::KeysUnavailable)
    );
    provider.down.store(false, Ordering::SeqCst);
    clock.advance(TimeDelta::seconds(5));
    assert_eq!(outcome(&authenticator, &token).await, ada());
    assert_eq!(
        outcome(&authenticator, &unknown).await,
        Err(Error::UnknownKey)
    );
}

#[tokio::test]
async fn waiters_of_a_hanging_fetch_are_bounded() {
    const MOST: usize = 256;
    let hanging = Router::new().fallback(async || pending::<()>().await);
    let authenticator = authenticator(with_jwks(serve(hanging).await));
    let token = Signer::p256("p").token(&claims());
    let mut asking: FuturesUnordered<_> = (0..MOST + 40)
        .map(|_| outcome(&authenticator, &token))
        .collect();
    // Requests above the limit fail before the fetch times out.
    for _ in 0..40 {
        let refused = timeout(Duration::from_secs(3), asking.next()).await;
        assert_eq!(refused.unwrap(), Some(Err(Error::KeysUnavailable)));
    }
    let waiting = timeout(Duration::from_millis(300), asking.next()).await;
    assert!(waiting.is_err(), "it does not wait: {waiting:?}");
}

#[tokio::test]
async fn corrected_clock_does_not_delay_the_next_fetch() {
    let (old, new) = (Signer::p256("old"), Signer::p256("new"));
    let (provider, url) = Provider::new(&[&old]).await;
    let clock = clock();
    let authenticator = Authenticator::new(with_jwks(url), clock.clone()).unwrap();
    let claims = claims_with(&json!({"exp": NOW + 100_000}));
    clock.correct(TimeDelta::hours(1));
    assert_eq!(outcome(&authenticator, &old.token(&claims)).await, ada());
    clock.correct(TimeDelta::hours(-1));
    provider.publish(&[&new]);
    clock.advance(TimeDelta::seconds(30));
    assert_eq!(outcome(&authenticator, &new.token(&claims)).await, ada());
    assert_eq!(
        outcome(&authenticator, &old.token(&claims)).await,
        Err(Error::UnknownKey)
    );
}

#[tokio::test]
async fn jwks_fetch_survives_cancelled_caller() {
    let signer = Signer::p256("p");
    let (provider, _) = Provider::new(&[&signer]).await;
    let (asked, answer) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (has_asked, may_answer) = (asked.clone(), answer.clone());
    let asks = Arc::new(AtomicUsize::new(0));
    let count = asks.clone();
    let router = Router::new().fallback(move || async move {
        count.fetch_add(1, Ordering::SeqCst);
        has_asked.notify_one();
        may_answer.notified().await;
        provider.answer()
    });
    let authenticator = Arc::new(authenticator(with_jwks(serve(router).await)));
    let token = signer.token(&claims());
    let impatient = tokio::spawn({
        let (authenticator, token) = (authenticator.clone(), token.clone());
        async move { outcome(&authenticator, &token).await }
    });
    asked.notified().await;
    impatient.abort();
    assert!(impatient.await.unwrap_err().is_cancelled());
    answer.notify_one();
    assert_eq!(outcome(&authenticator, &token).await, ada());
    assert_eq!(asks.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn unsuitable_keys_are_ignored() {
    let (p256, named) = (Signer::p256("p"), Signer::p256("named"));
    let (provider, url) = Provider::new(&[]).await;
    let encryption = with(named.jwk(), &json!({"use": "enc"}));
    let signing_only = with(named.jwk(), &json!({"key_ops": ["sign"]}));
    let other_algorithm = with(named.jwk(), &json!({"alg": "ES384"}));
    let symmetric = json!({"kty": "oct", "kid": "named", "alg": "HS256", "k": "c2VjcmV0"});
    let other_curve = with(named.jwk(), &json!({"crv": "P-384"}));
    let strange = json!({"kty": "XYZ", "kid": "named"});
    let not_a_key = json!("named");
    let good = p256.jwk();
    *provider.keys.lock().unwrap() = vec![
        encryption,
        signing_only,
        other_algorithm,
        symmetric,
        other_curve,
        strange,
        not_a_key,
        good,
    ];
    let authenticator = authenticator(with_jwks(url));
    assert_eq!(outcome(&authenticator, &p256.token(&claims())).await, ada());
    let refused = outcome(&authenticator, &named.token(&claims())).await;
    assert_eq!(refused, Err(Error::UnknownKey));
}

fn with(mut object: Value, changes: &Value) -> Value {
    for (name, value) in changes.as_object().unwrap() {
        object[name] = value.clone();
    }
    object
}

#[tokio::test]
async fn invalid_jwks_response_returns_keys_unavailable() {
    let signer = Signer::p256("p");
    let (_, elsewhere) = Provider::new(&[&signer]).await;
    let set = json!({"keys": [signer.jwk()], "pad": "x".repeat(256 * 1024)});
    let redirect = (StatusCode::FOUND, [(LOCATION, elsewhere.to_string())]);
    let answers = [
        redirect.into_response(),
        axum::Json(set).into_response(),
        "<html></html>".into_response(),
        axum::Json(json!({"jwks": []})).into_response(),
    ];
    let token = signer.token(&claims());
    for answer in answers {
        let answer = Arc::new(Mutex::new(Some(answer)));
        let router = Router::new().fallback(move || async move {
            let answer = answer.lock().unwrap().take();
            match answer {
                Some(answer) => answer,
                None => pending().await,
            }
        });
        let authenticator = authenticator(with_jwks(serve(router).await));
        let refused = outcome(&authenticator, &token).await;
        assert_eq!(refused, Err(Error::KeysUnavailable));
    }
}
