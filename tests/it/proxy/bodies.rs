//! Request bodies and headers: they arrive byte for byte.

use reqwest::{Body, Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Caller, KEY, body};
use crate::test_app::PROMPT_TIMEOUT;

const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";

/// `hello`, compressed with gzip.
const GZIPPED: &[u8] = &[
    0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 0xff, 0xcb, 0x48, 0xcd, 0xc9, 0xc9, 7, 0, 0x86, 0xa6, 0x10,
    0x36, 5, 0, 0, 0,
];

#[tokio::test]
async fn bodies_arrive_unchanged() {
    let caller = Caller::new().await;
    let multipart = "--x\r\ncontent-disposition: form-data; name=\"a\"; filename=\"b\"\r\n\r\n\0\u{e9}\r\n--x--\r\n";
    let cases: &[(&str, &[u8])] = &[
        (JSON, br#"{"a": 1, "b" : [ ]}"#),
        (JSON, br#"{"a":"\u00e9"}"#),
        (JSON, "{\"a\":\"é\"}".as_bytes()),
        (JSON, br#"{"a":1.0,"b":1e20,"c":12345678901234567890}"#),
        (JSON, b"{}"),
        (JSON, b""),
        (JSON, b"null"),
        (JSON, b"not JSON"),
        ("application/json; charset=utf-8", b"[1]"),
        ("application/vnd.api+json", br#"{"a": 1}"#),
        (FORM, b"a=1&a=2&b%5Bc%5D=d+e&f"),
        ("multipart/form-data; boundary=x", multipart.as_bytes()),
        ("text/plain", "grüße".as_bytes()),
        ("text/xml", b"<a/>"),
        ("application/octet-stream", &[0, 255, 128, 10]),
        ("no-known-type", b"x"),
    ];
    for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
        for (kind, sent) in cases {
            let request = caller
                .request(method.clone(), "inspect")
                .header("content-type", *kind);
            let seen = caller.inspected(request.body(sent.to_vec())).await;
            let text = String::from_utf8_lossy(sent);
            assert_eq!(seen["method"], method.as_str());
            assert_eq!(body(&seen), *sent, "{method} {kind}: {text}");
            assert_eq!(
                seen["headers"]["content-type"], *kind,
                "{method} {kind}: {text}"
            );
        }
    }
}

#[tokio::test]
async fn compressed_body_arrives_compressed() {
    let caller = Caller::new().await;
    let request = caller
        .request(Method::POST, "inspect")
        .header("content-type", JSON)
        .header("content-encoding", "gzip")
        .body(GZIPPED);
    let seen = caller.inspected(request).await;
    assert_eq!(seen["headers"]["content-encoding"], "gzip");
    assert_eq!(body(&seen), GZIPPED);
}

#[tokio::test]
async fn body_without_type_is_not_called_a_form() {
    let caller = Caller::new().await;
    let seen = caller
        .inspected(caller.request(Method::POST, "inspect").body("x"))
        .await;
    assert_eq!(seen["headers"]["content-type"], "application/octet-stream");
    assert_eq!(body(&seen), b"x");
    let seen = caller
        .inspected(caller.request(Method::POST, "inspect"))
        .await;
    assert_eq!(body(&seen), b"");
}

#[tokio::test]
async fn get_with_body_is_answered_without_it() {
    let caller = Caller::new().await;
    for _ in 0..3 {
        let request = caller
            .request(Method::GET, "inspect")
            .header("content-type", JSON);
        let seen = caller.inspected(request.body(r#"{"a": 1}"#)).await;
        assert_eq!((&seen["method"], body(&seen)), (&json!("GET"), Vec::new()));
    }
}

#[tokio::test]
async fn multipart_without_boundary_is_rejected() {
    let caller = Caller::new().await;
    let request = caller
        .request(Method::POST, "inspect")
        .header("content-type", "multipart/form-data")
        .body("x");
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    let problem: Value = answer.json().await.unwrap();
    assert!(
        problem["detail"].as_str().unwrap().contains("boundary"),
        "{problem}"
    );
}

#[tokio::test]
async fn body_of_20_mb_is_streamed_both_ways() {
    let caller = Caller::new().await;
    let piece: Vec<u8> = (0..100_000_u32).map(|n| (n % 251) as u8).collect();
    let pieces = std::iter::repeat_n(piece.clone(), 200).map(std::io::Result::Ok);
    let request = caller
        .request(Method::POST, "echo")
        .header("content-type", "video/mp4")
        .body(Body::wrap_stream(futures::stream::iter(pieces)));
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["content-type"], "video/mp4");
    assert_eq!(answer.bytes().await.unwrap(), piece.repeat(200));
}

#[tokio::test]
async fn only_headers_for_provider_arrive() {
    let caller = Caller::new().await;
    let request = caller
        .request(Method::POST, "inspect")
        .header("content-type", JSON)
        .header("x-custom", "first")
        .header("x-custom", "second")
        .header(
            "x-latin",
            reqwest::header::HeaderValue::from_bytes(&[0xe9]).unwrap(),
        )
        .header("accept", "text/csv")
        .header("accept-encoding", "zstd")
        .header("user-agent", "workflow/1")
        .header("range", "bytes=0-1")
        .header("connection", "keep-alive, x-hop")
        .header("x-hop", "1")
        .header("cookie", "a=b")
        .header("via", "1.1 x")
        .header("x-forwarded-for", "10.0.0.1")
        .header("base-url-override", "http://evil.example")
        .header("nango-proxy-authorization", "Bearer forged")
        .header("nango-is-sync", "true")
        .body("{}");
    let seen = caller.inspected(request).await;
    let headers = seen["headers"].as_object().unwrap();
    for (name, value) in [
        ("accept", "text/csv"),
        ("user-agent", "workflow/1"),
        ("range", "bytes=0-1"),
        ("x-custom", "first, second"),
        ("content-length", "2"),
    ] {
        assert_eq!(headers[name], value, "{name}");
    }
    let authorization = headers["authorization"].as_str().unwrap();
    assert!(
        authorization.starts_with("Bearer sandbox_access_"),
        "{authorization}"
    );
    let address = caller.app.sandbox.address().port().to_string();
    assert!(
        headers["host"].as_str().unwrap().ends_with(&address),
        "{headers:?}"
    );
    for name in [
        "cookie",
        "via",
        "x-hop",
        "x-forwarded-for",
        "patchbay-user",
        "x-request-id",
        "nango-is-sync",
    ] {
        assert!(!headers.contains_key(name), "{name}: {headers:?}");
    }
    assert_ne!(headers.get("accept-encoding"), Some(&json!("zstd")));
}

#[tokio::test]
async fn stalled_upload_is_408_and_not_504() {
    let caller = Caller::with(&[("NANGO_TIMEOUT_SECONDS", "1")]).await;
    let address = caller.app.url.trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {KEY}\r\n\
         patchbay-user: ada\r\ncontent-length: 10\r\n\r\nhalf",
        caller.path("inspect")
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = timeout(PROMPT_TIMEOUT, stream.read_to_string(&mut answer)).await;
    read.expect("an answer in time").unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("request_timeout"), "{answer}");
}
