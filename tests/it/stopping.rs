//! How a replica ends: it tells, goes on for a while, and leaves nobody without an answer.

use std::time::Duration;

use chrono::TimeDelta;
use patchbay::service::Pace;
use reqwest::{Method, StatusCode};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::house::{House, client};

/// How long any of this may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

async fn connect(url: &str) -> std::io::Result<TcpStream> {
    TcpStream::connect(url.trim_start_matches("http://")).await
}

/// All that comes until the other side ends the connection.
async fn rest(client: &mut TcpStream) -> String {
    let mut text = String::new();
    let read = timeout(PATIENCE, client.read_to_string(&mut text)).await;
    read.expect("the connection stays open").unwrap();
    text
}

#[tokio::test]
async fn balancers_are_told_first_and_all_is_answered_meanwhile() {
    let mut house = House::with(&[("SHUTDOWN_DELAY_SECONDS", "4")]).await;
    let url = house.url.clone();
    let token = house.user("ada").await.token;
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
        let told = loop {
            let answer = client.get(format!("{url}/readyz")).send().await.unwrap();
            if answer.status() == StatusCode::SERVICE_UNAVAILABLE {
                break answer;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        assert_eq!(told.headers()["connection"], "close");
        assert_eq!(told.json::<Value>().await.unwrap()["code"], "stopping");
        // The answer is as it always was, and the connection it came on is used no more.
        let list = request("/api/v1/connectors/connections");
        kept.write_all(list.as_bytes()).await.unwrap();
        let answer = rest(&mut kept).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
        assert!(answer.contains("\"total_count\":0"), "{answer}");
        // A stream goes on until the end, and then says when to come again.
        let events = rest(&mut stream).await;
        let (_, goodbye) = events.split_once("event: ready").unwrap();
        assert!(goodbye.contains(": this replica stops"), "{goodbye}");
        let retry = goodbye.rsplit_once("retry: ").unwrap().1;
        let retry: u64 = retry.lines().next().unwrap().trim().parse().unwrap();
        assert!((500..=2500).contains(&retry), "{retry}");
    };
    let (stopped, ()) = tokio::join!(timeout(PATIENCE, house.stop()), meanwhile);
    stopped.expect("nothing holds it up").unwrap();
    assert!(connect(&url).await.is_err());
}

#[tokio::test]
async fn a_request_that_has_been_sent_is_answered_even_if_it_comes_in_pieces() {
    let mut house = House::new().await;
    let url = house.url.clone();
    let mut early = connect(&url).await.unwrap();
    let half = b"GET /healthz HTTP/1.1\r\nhost: x\r\n";
    early.write_all(half).await.unwrap();
    let rest_of_it = async {
        // Until nothing new is taken any more.
        while connect(&url).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        early.write_all(b"\r\n").await.unwrap();
        rest(&mut early).await
    };
    let (stopped, answer) = tokio::join!(timeout(PATIENCE, house.stop()), rest_of_it);
    stopped.expect("nothing holds it up").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("ok\n"), "{answer}");
}

#[tokio::test]
async fn a_sweep_is_given_back_and_another_replica_takes_it_up_at_once() {
    let house = House::new().await;
    sqlx::query("update job set finished_at = now() - interval '2 hours'")
        .execute(&mut house.sql().await)
        .await
        .unwrap();
    let service = house.service().await;
    house.faults(json!({ "latency_ms": 60_000 })).await;
    let (stop, hourly) = (
        CancellationToken::new(),
        Pace::every(Duration::from_secs(3600)),
    );
    let sweep = service.sweep(hourly, &stop);
    let stopped = async {
        while house.nango_calls("GET", "/connections").await == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stop.cancel();
    };
    let (swept, ()) = tokio::join!(timeout(PATIENCE, sweep), stopped);
    assert_eq!(swept.expect("it ends at once").unwrap(), None);
    house.faults(json!({})).await;
    let other = house.service().await;
    let swept = other.sweep(hourly, &CancellationToken::new()).await;
    assert!(swept.unwrap().is_some(), "it is still claimed");
}

#[tokio::test]
async fn what_was_used_last_is_written_down_before_the_end() {
    let mut house = House::new().await;
    let scopes = [patchbay::auth::service_keys::Scope::TokensRead].into();
    let key = house.keys().await.create("engine", &scopes).await.unwrap();
    {
        let ada = house.user("ada").await;
        ada.connected("gmail").await;
        house.pass(TimeDelta::seconds(1));
        for _ in 0..20 {
            let url = format!("{}/api/v1/connectors/gmail/token", house.url);
            let asked = house.client.request(Method::POST, url);
            let asked = asked.bearer_auth(key.expose_secret());
            let answer = asked.header("patchbay-user", "ada").send().await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK);
        }
    }
    house.stop().await.unwrap();
    let used: i64 = sqlx::query_scalar("select sum(times) from token_use")
        .fetch_one(&mut house.sql().await)
        .await
        .unwrap();
    assert_eq!(used, 20);
}
