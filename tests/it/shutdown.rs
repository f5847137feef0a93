//! Graceful shutdown: a replica fails its readiness check, serves for a while, then drains open requests.

use std::time::Duration;

use chrono::TimeDelta;
use patchbay::service::SweepSchedule;
use reqwest::{Method, Response, StatusCode};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::eventually::{eventually, eventually_value};
use crate::test_app::{TestApp, client};

/// The timeout of each step, for a busy machine.
const TIMEOUT: Duration = Duration::from_secs(30);

async fn connect(url: &str) -> std::io::Result<TcpStream> {
    TcpStream::connect(url.trim_start_matches("http://")).await
}

/// Reads until the connection is closed.
async fn read_to_end(client: &mut TcpStream) -> String {
    let mut text = String::new();
    let read = timeout(TIMEOUT, client.read_to_string(&mut text)).await;
    read.expect("the connection stays open").unwrap();
    text
}

#[tokio::test]
async fn readiness_fails_first_and_requests_are_served_while_draining() {
    let mut app = TestApp::with(&[("SHUTDOWN_DELAY_SECONDS", "4")]).await;
    let url = app.url.clone();
    let token = app.user("ada").await.token;
    let request = |path: &str| {
        format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n\r\n")
    };
    let mut kept = connect(&url).await.unwrap();
    let mut stream = connect(&url).await.unwrap();
    let events = request("/api/v1/connectors/connections/events");
    stream.write_all(events.as_bytes()).await.unwrap();
    let mut head = [0; 15];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");

    let meanwhile = async {
        let client = client();
        let ready = async || client.get(format!("{url}/readyz")).send().await.unwrap();
        let fails = |answer: &Response| answer.status() == StatusCode::SERVICE_UNAVAILABLE;
        let reported = eventually_value(ready, fails).await;
        assert_eq!(reported.headers()["connection"], "close");
        assert_eq!(reported.json::<Value>().await.unwrap()["code"], "stopping");
        // The response is complete, and the connection is closed after it.
        let list = request("/api/v1/connectors/connections");
        kept.write_all(list.as_bytes()).await.unwrap();
        let answer = read_to_end(&mut kept).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
        assert!(answer.contains("\"total_count\":0"), "{answer}");
        // A stream continues until the end, and then sends a reconnect delay.
        let events = read_to_end(&mut stream).await;
        let (_, goodbye) = events.split_once("event: ready").unwrap();
        assert!(
            goodbye.contains(": this replica is shutting down"),
            "{goodbye}"
        );
        let retry = goodbye.rsplit_once("retry: ").unwrap().1;
        let retry: u64 = retry.lines().next().unwrap().trim().parse().unwrap();
        assert!((500..=2500).contains(&retry), "{retry}");
    };
    let (stopped, ()) = tokio::join!(timeout(TIMEOUT, app.stop()), meanwhile);
    stopped.expect("nothing holds it up").unwrap();
    assert!(connect(&url).await.is_err());
}

#[tokio::test]
async fn partially_sent_request_is_answered_during_shutdown() {
    let mut app = TestApp::new().await;
    let url = app.url.clone();
    let mut early = connect(&url).await.unwrap();
    let half = b"GET /healthz HTTP/1.1\r\nhost: x\r\n";
    early.write_all(half).await.unwrap();
    let rest_of_it = async {
        // Until no more connections are accepted.
        eventually(async || connect(&url).await.is_err()).await;
        early.write_all(b"\r\n").await.unwrap();
        read_to_end(&mut early).await
    };
    let (stopped, answer) = tokio::join!(timeout(TIMEOUT, app.stop()), rest_of_it);
    stopped.expect("nothing holds it up").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("ok\n"), "{answer}");
}

#[tokio::test]
async fn interrupted_sweep_releases_lease_for_other_replica() {
    let app = TestApp::new().await;
    sqlx::query("update job set finished_at = now() - interval '2 hours'")
        .execute(&mut app.sql().await)
        .await
        .unwrap();
    let service = app.service().await;
    app.faults(json!({ "latency_ms": 60_000 })).await;
    let (stop, hourly) = (
        CancellationToken::new(),
        SweepSchedule::every(Duration::from_secs(3600)),
    );
    let sweep = service.sweeper.sweep(hourly, &stop);
    let stopped = async {
        eventually(async || app.nango_calls("GET", "/connections").await > 0).await;
        stop.cancel();
    };
    let (report, ()) = tokio::join!(timeout(TIMEOUT, sweep), stopped);
    assert_eq!(report.expect("it ends at once").unwrap(), None);
    app.faults(json!({})).await;
    let other = app.service().await;
    let report = other.sweeper.sweep(hourly, &CancellationToken::new()).await;
    assert!(report.unwrap().is_some(), "it is still claimed");
}

#[tokio::test]
async fn pending_token_accesses_are_flushed_at_shutdown() {
    let mut app = TestApp::new().await;
    let scopes = [patchbay::auth::service_keys::Scope::TokensRead].into();
    let key = app.keys().await.create("engine", &scopes).await.unwrap();
    {
        let ada = app.user("ada").await;
        ada.connected("gmail").await;
        app.advance(TimeDelta::seconds(1));
        for _ in 0..20 {
            let url = format!("{}/api/v1/connectors/gmail/token", app.url);
            let asked = app.client.request(Method::POST, url);
            let asked = asked.bearer_auth(key.expose_secret());
            let answer = asked.header("patchbay-user", "ada").send().await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK);
        }
    }
    app.stop().await.unwrap();
    let used: i64 = sqlx::query_scalar("select sum(count) from token_access")
        .fetch_one(&mut app.sql().await)
        .await
        .unwrap();
    assert_eq!(used, 20);
}
