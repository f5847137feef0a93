//! Callers that occupy slots of a replica for long, and their effect on others.

use std::time::Duration;

use aws_lc_rs::hmac;
use reqwest::{Method, RequestBuilder};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::{Answer, METRICS_TOKEN, busy, list, until_metrics_say};
use crate::eventually::eventually;
use crate::test_app::{PROMPT_TIMEOUT, TestApp, User};

/// Starts an attempt that stays pending. Returns the path of a long poll for it.
async fn open_attempt(user: &User<'_>, seconds: u64) -> String {
    let started = user.connect("gmail").await;
    let id = started["connection_id"].as_str().unwrap();
    format!("/connections/{id}?wait={seconds}")
}

/// Creates a long poll with the maximum wait.
fn waiting(
    user: &User<'_>,
    path: &str,
) -> tokio::task::JoinHandle<reqwest::Result<reqwest::Response>> {
    tokio::spawn(user.request(Method::GET, path).send())
}

#[tokio::test]
async fn long_poll_limit_answers_excess_requests_immediately() {
    const WAIT: Duration = Duration::from_secs(25);
    let app = TestApp::with(&[
        ("MAX_STREAMS_PER_USER", "2"),
        ("METRICS_TOKEN", METRICS_TOKEN),
    ])
    .await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    let path = open_attempt(&ada, WAIT.as_secs()).await;
    let stored = [waiting(&ada, &path), waiting(&ada, &path)];
    until_metrics_say(&app, "patchbay_http_requests_waiting 2").await;
    for _ in 0..20 {
        let third = timeout(PROMPT_TIMEOUT, ada.get(&path)).await;
        assert_eq!(third.expect("it does not wait")["status"], "pending");
    }
    until_metrics_say(&app, "patchbay_limit_refusals_total{limit=\"waits\"} 20").await;
    // Other users can still wait.
    let bobs = waiting(&bob, &open_attempt(&bob, WAIT.as_secs()).await);
    until_metrics_say(&app, "patchbay_http_requests_waiting 3").await;
    // A client that disconnects returns its slot.
    for one in stored {
        one.abort();
    }
    until_metrics_say(&app, "patchbay_http_requests_waiting 1").await;
    let started = Instant::now();
    let id = path.split('?').next().unwrap();
    assert_eq!(ada.get(&format!("{id}?wait=1")).await["status"], "pending");
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert!(!bobs.is_finished());
}

#[tokio::test]
async fn waiting_requests_occupy_no_permits() {
    let app = TestApp::with(&[
        ("MAX_CONCURRENT_REQUESTS", "1"),
        ("METRICS_TOKEN", METRICS_TOKEN),
    ])
    .await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    let path = open_attempt(&ada, 25).await;
    let waits = [waiting(&ada, &path), waiting(&ada, &path)];
    until_metrics_say(&app, "patchbay_http_requests_waiting 2").await;
    assert_eq!(list(&ada).await.status, 200);
    assert_eq!(list(&bob).await.status, 200);
    let stream = ada.request(Method::GET, "/connections/events");
    let _stream = stream.send().await.unwrap();
    assert_eq!(list(&bob).await.status, 200);
    assert!(waits.iter().all(|wait| !wait.is_finished()));
}

/// Creates a signed webhook about a connection of another application.
fn webhook(app: &TestApp) -> RequestBuilder {
    let body = r#"{"from":"nango","type":"sync"}"#;
    let key = hmac::Key::new(hmac::HMAC_SHA256, app.signing_key.as_bytes());
    let signature = hex::encode(hmac::sign(&key, body.as_bytes()));
    let url = format!("{}/api/v1/webhooks/nango", app.url);
    let request = app.client.post(url).body(body);
    request.header("x-nango-hmac-sha256", signature)
}

/// Sends an unsigned webhook from this address, whose body does not end.
async fn endless_webhook(app: &TestApp, from: &str) -> TcpStream {
    let mut socket = TcpStream::connect(app.url.trim_start_matches("http://"))
        .await
        .unwrap();
    let half = format!(
        "POST /api/v1/webhooks/nango HTTP/1.1\r\nhost: patchbay\r\nx-forwarded-for: {from}\r\n\
         content-length: 10\r\n\r\nhalf"
    );
    socket.write_all(half.as_bytes()).await.unwrap();
    socket
}

#[tokio::test]
async fn nango_webhooks_are_accepted_when_overloaded() {
    let app = TestApp::with(&[
        ("MAX_CONCURRENT_REQUESTS", "1"),
        ("METRICS_TOKEN", METRICS_TOKEN),
    ])
    .await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    let busy = busy(&ada).await;
    list(&bob).await.is_refused("overloaded", "1");
    let taken = Answer::to(webhook(&app)).await;
    assert_eq!(taken.status, 204, "{}", taken.body);
    assert!(!busy.is_finished());
}

#[tokio::test]
async fn unsigned_webhooks_count_from_their_start() {
    let app = TestApp::with(&[
        ("RATE_LIMIT_ADDRESS_PER_MINUTE", "2"),
        ("TRUSTED_PROXY_HOPS", "1"),
    ])
    .await;
    let (stranger, nango) = ("192.0.2.1", "192.0.2.2");
    let from = |address: &str| Answer::to(webhook(&app).header("x-forwarded-for", address));
    let _endless = [
        endless_webhook(&app, stranger).await,
        endless_webhook(&app, stranger).await,
    ];
    eventually(async || from(stranger).await.status == 503).await;
    from(stranger).await.is_refused("overloaded", "30");
    // Any number of signed webhooks is refunded.
    for _ in 0..5 {
        assert_eq!(from(nango).await.status, 204);
    }
}

#[tokio::test]
async fn unsigned_bodies_are_bounded_by_address() {
    let app = TestApp::with(&[
        ("MAX_CONCURRENT_REQUESTS", "20"),
        ("TRUSTED_PROXY_HOPS", "1"),
    ])
    .await;
    let (stranger, nango) = ("192.0.2.1", "192.0.2.2");
    let from = |address: &str| Answer::to(webhook(&app).header("x-forwarded-for", address));
    let mut endless = Vec::new();
    for _ in 0..25 {
        endless.push(endless_webhook(&app, stranger).await);
    }
    eventually(async || from(stranger).await.status == 503).await;
    from(stranger).await.is_refused("overloaded", "1");
    assert_eq!(from(nango).await.status, 204);
    assert_eq!(list(&app.user("ada").await).await.status, 200);
    drop(endless);
    // Webhooks that have ended return their permits.
    eventually(async || from(stranger).await.status == 204).await;
}
