//! Forbidden addresses of webhooks, also by names that resolve to them.

use std::net::Ipv4Addr;
use std::sync::Arc;

use patchbay::clock::Clock;
use patchbay::encryption::Encryption;
use patchbay::net::address_guard::Networks;
use patchbay::webhooks::{Error, Webhooks};
use reqwest::dns::Resolve;
use tokio::net::TcpListener;

use super::address;
use crate::fake_resolver::rebinding;
use crate::test_database::{self, TestDatabase};

async fn webhooks_with(
    database: &TestDatabase,
    networks: &str,
    resolver: Arc<dyn Resolve>,
) -> Webhooks {
    let database = test_database::pool(database.url(), 2).await.unwrap();
    database.migrate().await.unwrap();
    let networks: Networks = networks.parse().unwrap();
    let encryption = Encryption::default();
    Webhooks::with_resolver(database, Clock::System, &networks, encryption, &resolver).unwrap()
}

/// Private addresses in different notations.
const PRIVATE_ADDRESSES: &[&str] = &[
    "https://127.0.0.1/",
    "https://127.1/",
    "https://2130706433/",
    "https://0x7f.0.0.1/",
    "https://0x7f000001/",
    "https://0177.0.0.1/",
    "https://017700000001/",
    "https://127.0.0.1./",
    "https://%31%32%37.0.0.1/",
    "https://\u{ff11}\u{ff12}\u{ff17}.0.0.1/",
    "https://\u{2460}\u{2461}\u{2466}\u{3002}0\u{3002}0\u{3002}1/",
    "https://0xa9fea9fe/latest/meta-data",
    "https://0251.0376.0251.0376/",
    "https://0.0.0.0/",
    "https://0/",
    "https://0.1.2.3/",
    "https://10.1.2.3/",
    "https://100.64.0.1/",
    "https://100.100.100.200/",
    "https://169.254.169.254/latest/meta-data",
    "https://168.63.129.16/",
    "https://172.16.0.1/",
    "https://172.31.255.255/",
    "https://192.168.1.1/",
    "https://192.0.0.192/",
    "https://192.0.2.1/",
    "https://192.88.99.1/",
    "https://198.51.100.1/",
    "https://203.0.113.1/",
    "https://240.0.0.1/",
    "https://198.18.0.1/",
    "https://224.0.0.1/",
    "https://255.255.255.255/",
    "https://[::1]/",
    "https://[::]/",
    "https://[::127.0.0.1]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:7f00:1]/",
    "https://[::ffff:0:127.0.0.1]/",
    "https://[::ffff:169.254.169.254]/",
    "https://[64:ff9b::10.0.0.1]/",
    "https://[64:ff9b::a9fe:a9fe]/",
    "https://[64:ff9b:1::1]/",
    "https://[2002:7f00:1::]/",
    "https://[2002:a9fe:a9fe::1]/",
    "https://[2001:0:7f00:1::]/",
    "https://[2001:20::1]/",
    "https://[3fff::1]/",
    "https://[100::1]/",
    "https://[5f00::1]/",
    "https://[fc00::1]/",
    "https://[fec0::1]/",
    "https://[fd00:ec2::254]/",
    "https://[fe80::1]/",
    "https://[ff02::1]/",
    "https://[2001:db8::1]/",
];

#[tokio::test]
async fn non_public_addresses_are_rejected_in_every_notation() {
    let database = test_database::database().await;
    let hooks = webhooks_with(&database, "", rebinding(&["127.0.0.1"])).await;
    for url in PRIVATE_ADDRESSES {
        let refused = hooks.add(&address(url), &[], false).await.unwrap_err();
        assert!(matches!(refused, Error::Address(_)), "{url}: {refused}");
    }
    for url in [
        "http://example.com/",
        "ftp://example.com/",
        "https://user@example.com/",
    ] {
        let refused = hooks.add(&address(url), &[], false).await.unwrap_err();
        assert!(matches!(refused, Error::Address(_)), "{url}: {refused}");
    }
    for url in [
        "https://172.32.0.1/",
        "https://100.63.255.255/",
        "https://100.128.0.1/",
        "https://169.253.255.255/",
        "https://[64:ff9b::8.8.8.8]/",
        "https://[::ffff:8.8.8.8]/",
        "https://[2606:4700::1111]/",
        "https://example.com/hook?token=x",
    ] {
        hooks.add(&address(url), &[], false).await.expect(url);
    }
}

#[tokio::test]
async fn host_is_checked_by_resolved_address_at_send_time() {
    let database = test_database::database().await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // An earlier lookup of the name would have returned a public address.
    let resolver = rebinding(&["127.0.0.1", "::ffff:127.0.0.1", "10.0.0.1", "fd00::1"]);
    let hooks = webhooks_with(&database, "", resolver.clone()).await;
    let url = format!("https://rebinding.example.com:{port}/hook");
    let (id, _) = hooks.add(&address(&url), &[], false).await.unwrap();
    for leads_to in ["127.0.0.1", "127.0.0.1", "10.0.0.1", "fd00::1"] {
        let refused = hooks.test(&id).await.unwrap().unwrap_err().to_string();
        let why = format!("leads to {leads_to}, which is in no public network");
        assert!(refused.contains(&why), "{refused}");
    }
    assert_eq!(resolver.lookups(), 4);
    let accepted = tokio::time::timeout(std::time::Duration::from_millis(50), listener.accept());
    assert!(accepted.await.is_err(), "a connection was made");
}

#[tokio::test]
async fn plain_http_is_limited_to_allowed_networks() {
    let database = test_database::database().await;
    let resolver = rebinding(&["127.0.0.1", "203.0.114.1", "10.0.0.1"]);
    let hooks = webhooks_with(&database, "127.0.0.0/8, fd00::/8", resolver).await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let app = axum::Router::new().route("/", axum::routing::post(|| async { "taken" }));
    tokio::spawn(async move { axum::serve(listener, app).await });
    let url = format!("http://hooks.internal:{port}/");
    let (id, _) = hooks.add(&address(&url), &[], false).await.unwrap();
    assert_eq!(hooks.test(&id).await.unwrap(), Ok(200));
    // The first connection is reused, so another endpoint causes the next lookup.
    let other = address(&format!("http://other.internal:{port}/"));
    let (other, _) = hooks.add(&other, &[], false).await.unwrap();
    let public = hooks.test(&other).await.unwrap().unwrap_err().to_string();
    assert!(public.contains("without TLS"), "{public}");
    let private = hooks.test(&other).await.unwrap().unwrap_err().to_string();
    assert!(private.contains("no public network"), "{private}");
    let literal = hooks.add(&address("http://10.0.0.1/"), &[], false).await;
    assert!(matches!(literal, Err(Error::Address(_))));
}

#[test]
fn network_list_is_parsed_or_rejected() {
    for invalid in [
        "10.0.0.0",
        "10.0.0.0/33",
        "::1/129",
        "private",
        "10.0.0.0/-1",
    ] {
        let refused = invalid.parse::<Networks>().unwrap_err();
        assert!(refused.to_string().contains(invalid), "{refused}");
    }
    assert!("".parse::<Networks>().unwrap().is_empty());
    assert!(!"0.0.0.0/0,::/0".parse::<Networks>().unwrap().is_empty());
}
