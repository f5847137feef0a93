//! Calls to providers through Nango's proxy: the provider's request and the caller's response.

mod answers;
mod bodies;
mod paths;
mod property;
mod refusals;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::test_app::{PROMPT_TIMEOUT, TestApp};

/// A service key in the environment with all scopes.
const KEY: &str = "pbk_workflow_0123456789abcdef0123456789abcdef";

/// The maximum size of a forwarded body.
const MAX_BODY: usize = 64 << 20;

/// A service with one connected user, and a service key.
struct Caller {
    app: TestApp,
    /// The id of ada's connection.
    id: String,
    /// Its id at Nango.
    nango_id: String,
}

impl Caller {
    async fn new() -> Self {
        Self::with(&[]).await
    }

    async fn with(settings: &[(&'static str, &str)]) -> Self {
        let keys = format!("workflow={KEY}");
        let settings = [&[("SERVICE_API_KEYS", keys.as_str())], settings].concat();
        let app = TestApp::with(&settings).await;
        let gmail = app.user("ada").await.connected("gmail").await;
        let text = |field: &str| gmail[field].as_str().unwrap().to_owned();
        let (id, nango_id) = (text("id"), text("nango_connection_id"));
        Self { app, id, nango_id }
    }

    fn path(&self, path: &str) -> String {
        format!("/api/v1/connectors/connections/{}/proxy/{path}", self.id)
    }

    /// Creates a call to a path that the client's library does not change.
    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}{}", self.app.url, self.path(path));
        let request = self.app.client.request(method, url).bearer_auth(KEY);
        request.header("patchbay-user", "ada")
    }

    /// Sends a call to the provider's API `inspect`, which returns the request that it received.
    async fn inspected(&self, request: RequestBuilder) -> Value {
        let answer = request.send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert_eq!(status, StatusCode::OK, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Sends a GET byte for byte. Returns the response's status, and its body if it is JSON.
    async fn raw(&self, path: &str) -> (u16, Value) {
        let mut stream = TcpStream::connect(self.app.url.trim_start_matches("http://"))
            .await
            .unwrap();
        let head = format!(
            "GET {} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {KEY}\r\n\
             patchbay-user: ada\r\n\r\n",
            self.path(path)
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let read = timeout(4 * PROMPT_TIMEOUT, stream.read_to_end(&mut answer)).await;
        read.expect("an answer in time").unwrap();
        let text = String::from_utf8(answer).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").expect("an answer");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or_default())
    }

    /// Returns the paths and queries of the calls to Nango's proxy.
    async fn received(&self) -> Vec<String> {
        let calls = self.app.control("requests", Method::GET, Value::Null).await;
        let calls = calls.as_array().unwrap().iter().map(|call| {
            let text = |field: &str| call[field].as_str().unwrap();
            format!("{}?{}", text("path"), text("query"))
        });
        calls.filter(|call| call.starts_with("/proxy")).collect()
    }
}

/// Returns the body that the provider received.
fn body(inspected: &Value) -> Vec<u8> {
    STANDARD
        .decode(inspected["body_base64"].as_str().unwrap())
        .unwrap()
}

/// Starts a Nango that reads requests and never responds. Its task returns the size of the first call of the proxy.
async fn silent_nango() -> (String, tokio::task::JoinHandle<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
    let taking = tokio::spawn(async move {
        loop {
            tokio::select! {
                Some(taken) = receiver.recv() => return taken,
                accepted = listener.accept() => {
                    let (stream, sender) = (accepted.unwrap().0, sender.clone());
                    tokio::spawn(async move {
                        if let Some(taken) = proxied(stream).await {
                            let _ = sender.send(taken).await;
                        }
                    });
                }
            }
        }
    });
    (url, taking)
}

/// Reads a connection until it is closed. Returns the size of a call of the proxy, and `None` for others.
async fn proxied(mut stream: TcpStream) -> Option<usize> {
    let (mut buffer, mut taken, mut is_proxy) = (vec![0; 1 << 20], 0, false);
    // A reset also ends a connection.
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        is_proxy |= taken == 0 && buffer.starts_with(b"POST /proxy");
        taken += count;
    }
    is_proxy.then_some(taken)
}

/// Sends these pieces until the connection is closed. Returns the response's status and body.
async fn exchange(url: &str, pieces: impl IntoIterator<Item = Vec<u8>>) -> (u16, Value) {
    let address = url.trim_start_matches("http://");
    let (mut reading, mut writing) = TcpStream::connect(address).await.unwrap().into_split();
    let sending = async {
        for piece in pieces {
            if writing.write_all(&piece).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    let mut answer = Vec::new();
    tokio::select! {
        () = sending => unreachable!("it waits for the end of the answer"),
        read = timeout(4 * PROMPT_TIMEOUT, reading.read_to_end(&mut answer)) => {
            // A reset also ends a connection.
            let _ = read.expect("an answer in time");
        }
    }
    let text = String::from_utf8(answer).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect("an answer");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap())
}

#[tokio::test]
async fn body_over_64_mib_is_rejected_or_aborted() {
    let app = TestApp::with(&[("SERVICE_API_KEYS", &format!("workflow={KEY}"))]).await;
    let gmail = app.user("ada").await.connected("gmail").await;
    let (nango, taking) = silent_nango().await;
    let replica = app.replica(&[("NANGO_BASE_URL", &nango)]).await;
    let head = |length: &str| {
        let id = gmail["id"].as_str().unwrap();
        let path = format!("/api/v1/connectors/connections/{id}/proxy/files");
        let head = format!(
            "{} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {KEY}\r\n\
             patchbay-user: ada\r\n{length}\r\n\r\n",
            Method::POST
        );
        head.into_bytes()
    };
    // A request with a known length is rejected before its body is read.
    let reported = head(&format!("content-length: {}", MAX_BODY + 1));
    let (status, problem) = exchange(&replica.url, [reported]).await;
    assert_eq!(
        (status, &problem["code"]),
        (413, &"payload_too_large".into())
    );

    let chunk = [&b"100000\r\n"[..], &vec![7; 1 << 20], b"\r\n"].concat();
    let chunks = std::iter::repeat_n(chunk, 66);
    let pieces = std::iter::once(head("transfer-encoding: chunked")).chain(chunks);
    let (status, problem) = exchange(&replica.url, pieces).await;
    assert_eq!(
        (status, &problem["code"]),
        (413, &"payload_too_large".into())
    );
    let taken = timeout(PROMPT_TIMEOUT, taking)
        .await
        .expect("it is broken off")
        .unwrap();
    // Including the overhead of chunks and head.
    assert!(taken < MAX_BODY + (1 << 20), "{taken} bytes were passed on");
    assert!(taken > MAX_BODY / 2, "{taken} bytes were passed on");
}
