//! Forbidden addresses of key sets: a server at such an address could forge every user's token.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::header::CONNECTION;
use chrono::TimeDelta;
use patchbay::auth::{Authenticator, Config, ConfigError, Error};
use patchbay::net::address_guard::ForbiddenAddress;
use serde_json::json;
use tokio::net::TcpListener;
use url::Url;

use super::{NOW, Provider, Signer, ada, claims, claims_with, clock, outcome, with_jwks};
use crate::fake_resolver::{RebindingResolver, rebinding};
use crate::test_server::serve;

/// Returns a configuration that allows fetching keys from these networks.
fn config_allowing(url: &str, networks: &str) -> Config {
    Config {
        jwks_networks: networks.parse().unwrap(),
        ..with_jwks(url.parse().unwrap())
    }
}

fn resolved(config: Config, resolver: &Arc<RebindingResolver>) -> Authenticator {
    let resolver = Arc::clone(resolver);
    Authenticator::with_resolver(config, clock(), &(resolver as _)).unwrap()
}

/// Returns the same URL with another host name.
fn url_of_host(url: &Url, name: &str) -> String {
    format!("http://{name}:{}/", url.port().unwrap())
}

#[test]
fn forbidden_jwks_urls_are_rejected_at_startup() {
    let new =
        |url: &str, networks| Authenticator::new(config_allowing(url, networks), clock()).err();
    let refused = [
        ("http://id.example.com/keys", ""),
        ("ftp://id.example.com/keys", ""),
        ("https://user:word@id.example.com/keys", ""),
        ("http://10.0.0.1/keys", ""),
        ("https://10.0.0.1/keys", ""),
        ("https://169.254.169.254/keys", ""),
        ("https://[::ffff:10.0.0.1]/keys", ""),
        ("https://0xa000001/keys", ""),
        ("http://10.0.0.1/keys", "192.168.0.0/16"),
        ("http://8.8.8.8/keys", "10.0.0.0/8"),
        // A host name that only starts with `localhost` is not loopback.
        ("http://localhost.example.com/keys", ""),
        ("http://0.0.0.0/keys", ""),
    ];
    for (url, networks) in refused {
        let refused = new(url, networks);
        assert!(
            matches!(refused, Some(ConfigError::JwksUrl(_))),
            "{url}: {refused:?}"
        );
    }
    let good = [
        ("https://id.example.com/keys", ""),
        ("http://localhost:9000/keys", ""),
        ("http://id.localhost:9000/keys", ""),
        ("http://127.0.0.1:9000/keys", ""),
        ("https://[::1]:9000/keys", ""),
        ("http://keycloak:8080/keys", "172.16.0.0/12"),
        ("http://10.0.0.1/keys", "10.0.0.0/8"),
        ("https://[fd00::1]/keys", "fd00::/8"),
    ];
    for (url, networks) in good {
        let refused = new(url, networks);
        assert!(refused.is_none(), "{url}: {refused:?}");
    }
    let reported = config_allowing("https://10.0.0.1/keys", "").check_jwks_url();
    assert!(
        matches!(reported, Err(ForbiddenAddress::Private { .. })),
        "{reported:?}"
    );
}

#[tokio::test]
async fn jwks_host_resolving_to_private_address_is_not_contacted() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let token = Signer::p256("p").token(&claims());
    let https = format!("https://id.example.com:{port}/");
    let plain = format!("http://id.example.com:{port}/");
    let localhost = format!("http://localhost:{port}/");
    let tried = [
        (&https, "", "127.0.0.1"),
        (&https, "", "::ffff:127.0.0.1"),
        (&https, "10.0.0.0/8", "127.0.0.1"),
        (&plain, "10.0.0.0/8", "127.0.0.1"),
        (&plain, "10.0.0.0/8", "8.8.8.8"),
        // `localhost` is rejected if it resolves to an address other than loopback.
        (&localhost, "", "10.0.0.1"),
        (&localhost, "", "8.8.8.8"),
    ];
    for (url, networks, leads_to) in tried {
        let resolver = rebinding(&[leads_to]);
        let authenticator = resolved(config_allowing(url, networks), &resolver);
        let refused = outcome(&authenticator, &token).await;
        assert_eq!(refused, Err(Error::KeysUnavailable), "{url} {leads_to}");
        let reported = authenticator
            .published_key_count()
            .await
            .unwrap()
            .unwrap_err();
        assert!(
            reported.contains(" leads to "),
            "{url} {leads_to}: {reported}"
        );
        assert_eq!(resolver.lookups(), 2);
    }
    let accepted = tokio::time::timeout(Duration::from_millis(50), listener.accept());
    assert!(accepted.await.is_err(), "a connection was made");
}

#[tokio::test]
async fn jwks_host_is_checked_at_each_fetch() {
    let signer = Signer::p256("p");
    let (provider, _) = Provider::new(&[&signer]).await;
    let this = provider.clone();
    // Each fetch opens a new connection.
    let answer = move || async move { ([(CONNECTION, "close")], this.answer()) };
    let url = serve(Router::new().fallback(answer)).await;
    let resolver = rebinding(&["127.0.0.1", "10.0.0.1", "127.0.0.1"]);
    let config = config_allowing(&url_of_host(&url, "keys.internal"), "127.0.0.0/8");
    let clock = clock();
    let dynamic = Arc::clone(&resolver) as _;
    let authenticator = Authenticator::with_resolver(config, clock.clone(), &dynamic).unwrap();
    let token = signer.token(&claims_with(&json!({"exp": NOW + 100_000})));
    assert_eq!(outcome(&authenticator, &token).await, ada());
    for (leads_to, fetches) in [("10.0.0.1", 1), ("127.0.0.1", 2)] {
        clock.advance(TimeDelta::minutes(10));
        assert_eq!(outcome(&authenticator, &token).await, ada());
        assert_eq!(provider.fetches(), fetches, "{leads_to}");
    }
    assert_eq!(resolver.lookups(), 3);
}
