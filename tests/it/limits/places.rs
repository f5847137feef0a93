//! Who holds places of a replica for long, and what that leaves to others.

use std::time::Duration;

use aws_lc_rs::hmac;
use reqwest::Method;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::{Answer, METRICS_TOKEN, list, until_metrics_say};
use crate::house::{House, PROMPTLY, User};

/// A user's attempt that nobody grants, to be waited for by a request at this path.
async fn open_attempt(user: &User<'_>, seconds: u64) -> String {
    let begun = user.connect("gmail").await;
    let id = begun["connection_id"].as_str().unwrap();
    format!("/connections/{id}?wait={seconds}")
}

/// A request that waits as long as it may.
fn waiting(
    user: &User<'_>,
    path: &str,
) -> tokio::task::JoinHandle<reqwest::Result<reqwest::Response>> {
    tokio::spawn(user.request(Method::GET, path).send())
}

#[tokio::test]
async fn a_user_waits_so_often_at_once_and_is_else_answered_without_a_wait() {
    const WAIT: Duration = Duration::from_secs(25);
    let house = House::with(&[
        ("LIMIT_STREAMS_PER_USER", "2"),
        ("METRICS_TOKEN", METRICS_TOKEN),
    ])
    .await;
    let (ada, bob) = (house.user("ada").await, house.user("bob").await);
    let path = open_attempt(&ada, WAIT.as_secs()).await;
    let held = [waiting(&ada, &path), waiting(&ada, &path)];
    until_metrics_say(&house, "patchbay_http_requests_under_way 2").await;
    for _ in 0..20 {
        let third = timeout(PROMPTLY, ada.get(&path)).await;
        assert_eq!(third.expect("it does not wait")["status"], "pending");
    }
    until_metrics_say(&house, "patchbay_limit_refusals_total{limit=\"waits\"} 20").await;
    // Others wait all the same.
    let bobs = waiting(&bob, &open_attempt(&bob, WAIT.as_secs()).await);
    until_metrics_say(&house, "patchbay_http_requests_under_way 3").await;
    // The place of one who has gone is free.
    for one in held {
        one.abort();
    }
    until_metrics_say(&house, "patchbay_http_requests_under_way 1").await;
    let started = Instant::now();
    let id = path.split('?').next().unwrap();
    assert_eq!(ada.get(&format!("{id}?wait=1")).await["status"], "pending");
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert!(!bobs.is_finished());
}

/// A webhook with a signature of Nango's, of something that is no concern of Patchbay's.
async fn webhook(house: &House) -> Answer {
    let body = r#"{"from":"nango","type":"sync"}"#;
    let key = hmac::Key::new(hmac::HMAC_SHA256, house.signing_key.as_bytes());
    let signature = hex::encode(hmac::sign(&key, body.as_bytes()));
    let url = format!("{}/api/v1/webhooks/nango", house.url);
    let request = house.client.post(url).body(body);
    Answer::to(request.header("x-nango-hmac-sha256", signature)).await
}

#[tokio::test]
async fn nangos_webhooks_are_taken_however_many_others_ask() {
    let house = House::with(&[("MAX_REQUESTS", "1"), ("METRICS_TOKEN", METRICS_TOKEN)]).await;
    let ada = house.user("ada").await;
    let path = open_attempt(&ada, 25).await;
    let waiting = waiting(&ada, &path);
    until_metrics_say(&house, "patchbay_http_requests_under_way 1").await;
    list(&ada).await.is_refused("overloaded", "1");
    let taken = webhook(&house).await;
    assert_eq!(taken.status, 204, "{}", taken.body);
    assert!(!waiting.is_finished());
}

#[tokio::test]
async fn webhooks_without_an_end_take_no_place_but_those_of_webhooks() {
    let house = House::with(&[("MAX_REQUESTS", "1"), ("METRICS_TOKEN", METRICS_TOKEN)]).await;
    let ada = house.user("ada").await;
    let mut socket = TcpStream::connect(house.url.trim_start_matches("http://"))
        .await
        .unwrap();
    let half =
        "POST /api/v1/webhooks/nango HTTP/1.1\r\nhost: patchbay\r\ncontent-length: 10\r\n\r\nhalf";
    socket.write_all(half.as_bytes()).await.unwrap();
    until_metrics_say(&house, "patchbay_http_requests_under_way 1").await;
    webhook(&house).await.is_refused("overloaded", "1");
    let answer = list(&ada).await;
    assert_eq!(
        (answer.status, &answer.body["total_count"]),
        (200, &Value::from(0))
    );
    drop(socket);
    until_metrics_say(&house, "patchbay_http_requests_under_way 0").await;
    assert_eq!(webhook(&house).await.status, 204);
}
