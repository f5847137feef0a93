//! Bytes that no HTTP client would send: each gets a response or is cut off, and other clients are served.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::test_app::TestApp;

/// The timeout of each step, for a busy machine.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);

/// The description and the bytes of an attack.
type Attack = (&'static str, Vec<u8>);

/// Starts a test app with short timeouts.
pub(super) async fn app() -> TestApp {
    TestApp::with(&[
        ("CLIENT_READ_TIMEOUT_SECONDS", "1"),
        ("KEEP_ALIVE_SECONDS", "2"),
    ])
    .await
}

pub(super) async fn connect(app: &TestApp) -> TcpStream {
    let address = app.url.trim_start_matches("http://");
    TcpStream::connect(address).await.unwrap()
}

/// Sends these bytes until the connection is closed. Returns all received bytes.
pub(super) async fn exchange(app: &TestApp, bytes: &[u8]) -> Vec<u8> {
    let (mut reading, mut writing) = connect(app).await.into_split();
    let sending = async {
        // The server may close the connection during the write.
        let _ = writing.write_all(bytes).await;
        std::future::pending::<()>().await;
    };
    let mut answer = Vec::new();
    tokio::select! {
        () = sending => unreachable!("it waits for the end of the answer"),
        read = timeout(TIMEOUT, reading.read_to_end(&mut answer)) => {
            // A reset also ends a connection.
            let _ = read.expect("the connection stays open");
        }
    }
    answer
}

/// Returns the statuses of all responses in these bytes.
fn statuses(answers: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(answers);
    let lines = text.split("HTTP/1.1 ").skip(1);
    lines.map(|line| line[..3].parse().unwrap()).collect()
}

/// Checks that another client with a valid request gets a response.
pub(super) async fn assert_other_clients_are_served(app: &TestApp) {
    let ada = app.user("ada").await;
    let list = timeout(TIMEOUT, ada.get("/connections"))
        .await
        .expect("an answer in time");
    assert!(list["connections"].is_array());
}

/// Sends all attacks concurrently. Fails unless each gets at most one response, which must be an error.
async fn assert_rejected(app: &TestApp, attacks: &[Attack]) {
    let sent = attacks
        .iter()
        .map(|(what, bytes)| async move { (what, exchange(app, bytes).await) });
    let (answers, ()) = tokio::join!(
        futures::future::join_all(sent),
        assert_other_clients_are_served(app)
    );
    for (what, answer) in answers {
        let statuses = statuses(&answer);
        let refused = statuses.iter().all(|status| (400..500).contains(status));
        assert!(
            refused && statuses.len() <= 1,
            "{what}: {}",
            String::from_utf8_lossy(&answer)
        );
    }
    assert_other_clients_are_served(app).await;
    println!(
        "{} requests of bytes, each refused or cut off",
        attacks.len()
    );
}

fn get(head: &str) -> Vec<u8> {
    format!("GET /nothing HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{head}\r\n").into_bytes()
}

fn odd_headers() -> Vec<Attack> {
    let many: String = (0..20_000)
        .map(|number| format!("x-{number}: y\r\n"))
        .collect();
    let same: String = "x-same: y\r\n".repeat(20_000);
    vec![
        ("many headers", get(&many)),
        ("one header many times", get(&same)),
        (
            "a huge header",
            get(&format!("x: {}\r\n", "y".repeat(2 << 20))),
        ),
        (
            "a huge name",
            get(&format!("{}: y\r\n", "x".repeat(2 << 20))),
        ),
        ("a folded header", get("x: a\r\n b: c\r\n")),
        ("a space before the colon", get("x : a\r\n")),
        ("no colon", get("x\r\n")),
        ("an empty name", get(": a\r\n")),
        ("a NUL in a header", get("x: a\0b\r\n")),
        ("a bare CR in a header", get("x: a\rb: c\r\n")),
    ]
}

fn odd_lines() -> Vec<Attack> {
    let line = |line: &[u8]| [line, b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"].concat();
    vec![
        (
            "a huge path",
            line(format!("GET /{}", "a".repeat(2 << 20)).as_bytes()),
        ),
        (
            "a huge method",
            line(format!("{} /", "A".repeat(2 << 20)).as_bytes()),
        ),
        ("no path", line(b"GET")),
        ("a space in the path", line(b"GET /a b")),
        ("a control character in the path", line(b"GET /a\x01b")),
        ("a DEL in the path", line(b"GET /a\x7fb")),
        ("bytes that are no text in the path", line(b"GET /\xff\xfe")),
        (
            "escaped bytes that are no text",
            line(b"GET /api/v1/connectors/%ff%fe"),
        ),
        (
            "escapes that are none",
            line(b"GET /api/v1/connectors/%zz%"),
        ),
        (
            "another version",
            b"GET / HTTP/3.0\r\nhost: x\r\n\r\n".to_vec(),
        ),
        ("no version", b"GET /nothing\r\nhost: x\r\n\r\n".to_vec()),
        (
            "TLS",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".repeat(50),
        ),
        ("nothing but lines", b"\r\n".repeat(1 << 20)),
        ("zeros", vec![0; 1 << 20]),
        (
            "any bytes",
            (0..1_u32 << 16)
                .map(|number| ((number * 31) >> 3) as u8)
                .collect(),
        ),
    ]
}

#[tokio::test]
async fn malformed_request_heads_are_rejected() {
    let app = app().await;
    assert_rejected(&app, &odd_headers()).await;
    assert_rejected(&app, &odd_lines()).await;
}

#[tokio::test]
async fn head_size_limit_does_not_depend_on_packet_boundaries() {
    let app = app().await;
    let head = |length: usize| {
        let filler = "y".repeat(length);
        format!("POST /nothing HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx: {filler}\r\n\r\n")
    };
    for (length, status) in [(20 << 10, 404), (40 << 10, 431)] {
        let head = head(length);
        assert_eq!(statuses(&exchange(&app, head.as_bytes()).await), [status]);
        // Until more bytes arrive, these could be the start of HTTP/2.
        let mut client = connect(&app).await;
        client.write_all(&head.as_bytes()[..1]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let _ = client.write_all(&head.as_bytes()[1..]).await;
        let mut answer = Vec::new();
        let read = timeout(TIMEOUT, client.read_to_end(&mut answer)).await;
        let _ = read.expect("the connection stays open");
        assert_eq!(statuses(&answer), [status], "its first letter alone");
    }
}

#[tokio::test]
async fn unusual_methods_and_targets_are_rejected() {
    let app = app().await;
    let of = |method: &str, target: &str| {
        format!("{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").into_bytes()
    };
    let api = "/api/v1/connectors/connections";
    let attacks = [
        ("TRACE", of("TRACE", api)),
        ("TRACK", of("TRACK", api)),
        ("CONNECT to somewhere", of("CONNECT", "169.254.169.254:80")),
        ("CONNECT to a path", of("CONNECT", api)),
        ("PROPFIND", of("PROPFIND", api)),
        ("a method of signs", of("!#$%&'*+-.^_`|~", api)),
        ("a lower-case method", of("get", api)),
        (
            "an address elsewhere",
            of("GET", "http://169.254.169.254/latest/meta-data"),
        ),
        ("a file", of("GET", "file:///etc/passwd")),
        ("a star", of("GET", "*")),
        ("a way out", of("GET", "/api/v1/../../../../etc/passwd")),
        (
            "an escaped way out",
            of("GET", "/docs/..%2f..%2f..%2fetc/passwd"),
        ),
        ("two slashes", of("GET", "//evil.example/api/v1/connectors")),
        ("a user in the address", of("GET", "http://a:b@x/nothing")),
    ];
    assert_rejected(&app, &attacks).await;
}

#[tokio::test]
async fn request_smuggling_is_rejected() {
    let app = app().await;
    let inner = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    let length = inner.len();
    let post = |head: &str, body: &str| {
        format!("POST /api/v1/webhooks/nango HTTP/1.1\r\nhost: x\r\n{head}\r\n{body}").into_bytes()
    };
    let chunked = format!("0\r\n\r\n{inner}");
    let long = chunked.len();
    let attacks = [
        ("two lengths", post(&format!("content-length: 0\r\ncontent-length: {length}\r\n"), inner)),
        ("two lengths in one", post(&format!("content-length: 0, {length}\r\n"), inner)),
        ("a negative length", post("content-length: -1\r\n", inner)),
        ("a signed length", post(&format!("content-length: +{length}\r\n"), inner)),
        ("a length in hexadecimal", post("content-length: 0x10\r\n", inner)),
        ("a length beyond numbers", post("content-length: 99999999999999999999\r\n", inner)),
        ("an encoding that is none", post("transfer-encoding: xchunked\r\n", &chunked)),
        ("an encoding on another line", post("transfer-encoding:\r\n chunked\r\n", &chunked)),
        ("chunked, and then not", post("transfer-encoding: chunked, identity\r\n", &chunked)),
        ("chunked in an old version", format!(
            "POST /api/v1/webhooks/nango HTTP/1.0\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{chunked}"
        ).into_bytes()),
        ("a length within chunks", post(
            &format!("content-length: {long}\r\ntransfer-encoding: chunked\r\nconnection: close\r\n"), &chunked,
        )),
        ("a chunk of no size", post("transfer-encoding: chunked\r\n", &format!("\r\n{chunked}"))),
        ("a chunk of any size", post("transfer-encoding: chunked\r\n", &format!("ffffffffffffffff1\r\n{chunked}"))),
        ("a chunk of a negative size", post("transfer-encoding: chunked\r\n", &format!("-1\r\n{chunked}"))),
        ("endless extensions", post("transfer-encoding: chunked\r\n", &format!("1;{}", "a".repeat(1 << 20)))),
        ("lines that end in LF only", b"POST /api/v1/webhooks/nango HTTP/1.1\nhost: x\nconnection: close\n\n".to_vec()),
    ];
    assert_rejected(&app, &attacks).await;
}

/// `{"label":"unpacked"}` and 100,000 spaces.
const PACKED: &str = concat!(
    "1f8b0800000000000203edc1b10d80300c00b05750cee09b503a1121964e15bff78d0eb667545ebde28cf17ed99e7ec7",
    "7f0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000",
    "000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000",
    "0000db5abbf57995b4860100",
);

/// The head of a PATCH request for a connection, to combine with oversized or malformed bodies.
struct Patch {
    head: String,
}

impl Patch {
    fn with(&self, head: &str, body: &[u8]) -> Vec<u8> {
        [self.head.as_bytes(), head.as_bytes(), b"\r\n", body].concat()
    }

    fn exact(&self, body: &[u8]) -> Vec<u8> {
        self.with(&format!("content-length: {}\r\n", body.len()), body)
    }

    fn chunked(&self, body: &[u8]) -> Vec<u8> {
        self.with("transfer-encoding: chunked\r\n", body)
    }

    fn endless(&self) -> Vec<Attack> {
        let chunk = [b"10000\r\n", "x".repeat(0x10000).as_bytes(), b"\r\n"].concat();
        let trailers = [&b"0\r\n"[..], &b"x: y\r\n".repeat(200_000)].concat();
        let shorter = self.with("content-length: 9999999999\r\n", &vec![b'x'; 1 << 20]);
        let packed = hex::decode(PACKED).unwrap();
        let length = packed.len();
        let packed_head = format!("content-encoding: gzip\r\ncontent-length: {length}\r\n");
        vec![
            ("a long body", self.exact(&vec![b'x'; 8 << 20])),
            ("a longer one than it says", shorter),
            ("chunks without end", self.chunked(&chunk.repeat(64))),
            ("tiny chunks", self.chunked(&b"1\r\nx\r\n".repeat(300_000))),
            ("trailers without end", self.chunked(&trailers)),
            ("a packed body", self.with(&packed_head, &packed)),
        ]
    }

    fn unreadable(&self) -> Vec<Attack> {
        let config = |value: &str| self.exact(format!("{{\"config\":{value}}}").as_bytes());
        let arrays = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        let objects = format!("{}1{}", "{\"a\":".repeat(40_000), "}".repeat(40_000));
        let fields: Vec<String> = (0..20_000).map(|n| format!("\"{n}\":1")).collect();
        vec![
            ("deep arrays", config(&arrays)),
            ("deep objects", config(&objects)),
            ("arrays that do not end", config(&"[".repeat(200_000))),
            ("many fields", config(&format!("{{{}}}", fields.join(",")))),
            (
                "a long number",
                config(&format!("{{\"a\":{}}}", "9".repeat(200_000))),
            ),
            (
                "bytes that are no text",
                self.exact(b"{\"label\":\"\xff\xfe\"}"),
            ),
            ("half a character", self.exact(b"{\"label\":\"\xe2\x82\"}")),
            ("half a pair", self.exact(b"{\"label\":\"\\ud800\"}")),
        ]
    }
}

#[tokio::test]
async fn endless_and_compressed_bodies_are_rejected() {
    let app = app().await;
    let mallory = app.user("mallory").await;
    let started = mallory.connect("gmail").await;
    let id = started["connection_id"].as_str().unwrap();
    let head = format!(
        "PATCH /api/v1/connectors/connections/{id} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
         connection: close\r\ncontent-type: application/json\r\n",
        mallory.token
    );
    let patch = Patch { head };
    assert_rejected(&app, &patch.endless()).await;
    assert_rejected(&app, &patch.unreadable()).await;
    let connection = mallory.connection(id).await;
    assert_eq!(connection["config"], serde_json::json!({}));
    assert_eq!(connection["label"], serde_json::Value::Null);
}

#[tokio::test]
async fn callback_redirect_escapes_unusual_query_bytes() {
    let app = app().await;
    for query in [
        &b"state=a\x7fb"[..],
        b"state=\xc3\xa9",
        b"state=%00%0d%0ax:y",
        b"state=a&code=\"<>`{}|",
    ] {
        let request = [
            b"GET /api/v1/connectors/callback?",
            query,
            b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        ];
        let answer = exchange(&app, &request.concat()).await;
        let text = String::from_utf8_lossy(&answer).into_owned();
        let status = statuses(&answer)[0];
        assert!(status == 308 || status == 400, "{text}");
        let location = text.lines().find(|line| line.starts_with("location: "));
        assert!(
            location.is_none_or(|line| line
                .bytes()
                .all(|byte| byte.is_ascii_graphic() || byte == b' ')),
            "{text}"
        );
    }
}
