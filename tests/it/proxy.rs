//! Bodies that go through the proxy: streamed, and bounded.

use reqwest::Method;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::house::{House, PROMPTLY};

/// A key of the environment's that allows everything.
const KEY: &str = "pbk_workflow_0123456789abcdef0123456789abcdef";

/// The largest body that is passed on.
const MAX_BODY: usize = 64 << 20;

/// A Nango that takes whatever it is sent and answers nothing; it tells how much that was.
async fn silent_nango() -> (String, tokio::task::JoinHandle<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let taking = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (mut buffer, mut taken) = (vec![0; 1 << 20], 0);
        // A reset is an end, too.
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            taken += count;
        }
        taken
    });
    (url, taking)
}

/// Sends as much of these pieces as is taken, and gives the answer: its status and its body.
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
        read = timeout(4 * PROMPTLY, reading.read_to_end(&mut answer)) => {
            // A reset ends a connection, too.
            let _ = read.expect("an answer in time");
        }
    }
    let text = String::from_utf8(answer).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect("an answer");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap())
}

#[tokio::test]
async fn a_body_beyond_the_bound_is_refused_or_broken_off() {
    let house = House::with(&[("SERVICE_API_KEYS", &format!("workflow={KEY}"))]).await;
    let gmail = house.user("ada").await.connected("gmail").await;
    let (nango, taking) = silent_nango().await;
    let replica = house.replica(&[("NANGO_BASE_URL", &nango)]).await;
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
    // One that says how long it is does not even begin.
    let told = head(&format!("content-length: {}", MAX_BODY + 1));
    let (status, problem) = exchange(&replica.url, [told]).await;
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
    let taken = timeout(PROMPTLY, taking)
        .await
        .expect("it is broken off")
        .unwrap();
    // With what the chunks and the head take themselves.
    assert!(taken < MAX_BODY + (1 << 20), "{taken} bytes were passed on");
    assert!(taken > MAX_BODY / 2, "{taken} bytes were passed on");
}
