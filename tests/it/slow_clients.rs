//! Connections of slow or obstructive clients are closed.

use std::time::Duration;

use reqwest::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::eventually::{eventually, eventually_value};
use crate::test_app::TestApp;

/// The timeout of each step, for a busy machine.
const TIMEOUT: Duration = Duration::from_secs(25);

const METRICS_TOKEN: &str = "a token that only Prometheus has";

async fn app() -> TestApp {
    TestApp::with(&[
        ("CLIENT_READ_TIMEOUT_SECONDS", "1"),
        ("KEEP_ALIVE_SECONDS", "2"),
        ("METRICS_TOKEN", METRICS_TOKEN),
    ])
    .await
}

async fn connect(app: &TestApp) -> TcpStream {
    let address = app.url.trim_start_matches("http://");
    TcpStream::connect(address).await.unwrap()
}

/// Reads until the connection is closed.
async fn read_to_end(client: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let read = timeout(TIMEOUT, client.read_to_end(&mut text)).await;
    // A reset also ends a connection.
    let _ = read.expect("the connection stays open");
    String::from_utf8_lossy(&text).into_owned()
}

/// Reads until this text arrives.
async fn wait_until(client: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.contains(end) {
        let read = timeout(TIMEOUT, client.read(&mut buffer)).await;
        let count = read.expect("nothing comes").unwrap();
        assert!(count > 0, "it ended after {text:?}");
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    text
}

#[tokio::test]
async fn connection_closes_when_request_head_is_too_slow() {
    let app = app().await;
    let mut silent = connect(&app).await;
    let mut slow = connect(&app).await;
    slow.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-slow: ")
        .await
        .unwrap();
    // Single bytes do not extend the timeout.
    let (mut reading, mut writing) = slow.split();
    let drip = async {
        loop {
            let wrote = writing.write_all(b"a").await;
            if wrote.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let mut answer = Vec::new();
    tokio::select! {
        () = drip => unreachable!("it drips on"),
        read = timeout(TIMEOUT, reading.read_to_end(&mut answer)) => {
            let _ = read.expect("the connection stays open");
        }
    }
    assert_eq!(String::from_utf8_lossy(&answer), "");
    assert_eq!(read_to_end(&mut silent).await, "");
}

#[tokio::test]
async fn slow_request_body_times_out() {
    let app = app().await;
    let ada = app.user("ada").await;
    let started = ada.connect("gmail").await;
    let path = format!(
        "/api/v1/connectors/connections/{}",
        started["connection_id"].as_str().unwrap()
    );
    for (method, path) in [("PATCH", path.as_str()), ("POST", "/api/v1/webhooks/nango")] {
        let mut slow = connect(&app).await;
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\ncontent-length: 100\r\n\r\n{{\"label\":",
            ada.token
        );
        slow.write_all(head.as_bytes()).await.unwrap();
        let answer = read_to_end(&mut slow).await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert!(answer.contains("request_timeout"), "{answer}");
    }
}

#[tokio::test]
async fn dripping_body_is_cut_off() {
    let app = app().await;
    let ada = app.user("ada").await;
    let mut slow = connect(&app).await;
    let head = format!(
        "POST /api/v1/connectors/gmail/connect HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: 1000\r\n\r\n{{\"config\":",
        ada.token
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    let (mut reading, mut writing) = slow.split();
    // Each byte arrives in time, but the whole body would take minutes.
    let drip = async {
        while writing.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        std::future::pending::<()>().await;
    };
    let mut answer = vec![0; 12];
    tokio::select! {
        () = drip => unreachable!("it drips on"),
        read = timeout(TIMEOUT, reading.read_exact(&mut answer)) => {
            read.expect("it is answered").unwrap();
        }
    }
    assert_eq!(answer, b"HTTP/1.1 408");
}

#[tokio::test]
async fn one_address_cannot_hold_all_connections() {
    let app = TestApp::with(&[("MAX_CLIENT_CONNECTIONS", "40")]).await;
    let from = async |address: &str| {
        let socket = TcpSocket::new_v4().unwrap();
        socket
            .bind(format!("{address}:0").parse().unwrap())
            .unwrap();
        let replica = app.url.trim_start_matches("http://").parse().unwrap();
        socket.connect(replica).await.unwrap()
    };
    let mut idle = Vec::new();
    for _ in 0..10 {
        idle.push(from("127.0.0.5").await);
    }
    let mut beyond = from("127.0.0.5").await;
    assert_eq!(read_to_end(&mut beyond).await, "");
    let request = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let mut other = from("127.0.0.6").await;
    other.write_all(request).await.unwrap();
    assert!(read_to_end(&mut other).await.contains("ok\n"));
    drop(idle);
    eventually(async || {
        let mut again = from("127.0.0.5").await;
        again.write_all(request).await.is_ok() && read_to_end(&mut again).await.contains("ok\n")
    })
    .await;
}

#[tokio::test]
async fn idle_connection_closes_but_active_one_stays_open() {
    let app = app().await;
    let mut client = connect(&app).await;
    for _ in 0..3 {
        let request = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
        client.write_all(request).await.unwrap();
        assert!(
            wait_until(&mut client, "ok\n")
                .await
                .starts_with("HTTP/1.1 200")
        );
    }
    assert_eq!(read_to_end(&mut client).await, "");

    // A long poll may take longer than all of these timeouts together.
    let ada = app.user("ada").await;
    let started = ada.connect("gmail").await;
    let id = started["connection_id"].as_str().unwrap();
    let path = format!("/connections/{id}?wait=5");
    let (status, body) = ada.call(Method::GET, &path, None).await;
    assert_eq!((status.as_u16(), &body["status"]), (200, &"pending".into()));
}

/// Returns the number of open connections, including its own.
async fn open_connections(app: &TestApp) -> String {
    let request = app.client.get(format!("{}/metrics", app.url));
    let answer = request.bearer_auth(METRICS_TOKEN).send().await.unwrap();
    let text = answer.text().await.unwrap();
    let line = text
        .lines()
        .find(|line| line.starts_with("patchbay_http_connections "));
    line.unwrap().rsplit(' ').next().unwrap().to_owned()
}

#[tokio::test]
async fn connection_closes_when_client_reads_no_response() {
    let app = app().await;
    let mut deaf = connect(&app).await;
    let request = b"GET /api/v1/openapi.json HTTP/1.1\r\nhost: x\r\n\r\n";
    // More responses than fit into the buffers.
    let ask = async { while deaf.write_all(request).await.is_ok() {} };
    timeout(TIMEOUT, ask)
        .await
        .expect("it is answered on and on");
    eventually_value(async || open_connections(&app).await, |open| open == "1").await;
}

#[tokio::test]
async fn excess_connections_wait_for_free_slot() {
    // Behind trusted proxies, one address may have all connections.
    let app = TestApp::with(&[("MAX_CLIENT_CONNECTIONS", "2"), ("TRUSTED_PROXY_HOPS", "1")]).await;
    let request = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let (first, _second) = (connect(&app).await, connect(&app).await);
    let mut third = connect(&app).await;
    third.write_all(request).await.unwrap();
    let mut byte = [0];
    let early = timeout(Duration::from_millis(300), third.read(&mut byte)).await;
    drop(first);
    if early.is_err() {
        assert!(read_to_end(&mut third).await.contains("ok\n"));
    } else {
        panic!("it was answered though both places were taken");
    }
}

#[tokio::test]
async fn http2_is_supported_and_idle_connections_close() {
    let app = app().await;
    let client = reqwest::Client::builder()
        .http2_prior_knowledge()
        .build()
        .unwrap();
    let answer = client.get(format!("{}/healthz", app.url)).send().await;
    assert_eq!(answer.unwrap().version(), reqwest::Version::HTTP_2);
    eventually_value(async || open_connections(&app).await, |open| open == "1").await;
}
