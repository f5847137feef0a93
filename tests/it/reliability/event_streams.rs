//! Event streams: resumed, unread, and ended.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use chrono::TimeDelta;
use futures::future::join_all;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use patchbay::auth::service_keys::Scope;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::text;
use crate::eventually::eventually;
use crate::fault_table::process_killed::replica_process;
use crate::process::Process;
use crate::test_app::{JWT_SECRET, PROMPT_TIMEOUT, TestApp, User};

/// The timeout of each step.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Reads an event stream as a browser does.
pub(crate) struct StreamReader {
    pub(crate) response: Response,
    text: String,
    events: VecDeque<Value>,
    /// The data of the first event, `ready`.
    pub(crate) ready: Value,
    /// The `Last-Event-ID` of a reconnecting browser.
    pub(crate) last_id: String,
}

impl StreamReader {
    /// Opens a stream, after this event if one is given, and waits for `ready`.
    pub(crate) async fn open(user: &User<'_>, last_id: Option<&str>) -> Self {
        let mut request = user.request(Method::GET, "/connections/events");
        if let Some(last_id) = last_id {
            request = request.header("last-event-id", last_id);
        }
        Self::of(request).await
    }

    /// Opens the stream of this request, and waits for `ready`.
    pub(crate) async fn of(request: RequestBuilder) -> Self {
        let response = request.timeout(TIMEOUT).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let mut reader = Self {
            response,
            text: String::new(),
            events: VecDeque::new(),
            ready: Value::Null,
            last_id: String::new(),
        };
        while reader.last_id.is_empty() {
            assert!(reader.read().await, "it ended before it was ready");
        }
        reader
    }

    /// Reads the available events. Returns `false` at the stream's end.
    async fn read(&mut self) -> bool {
        let Some(chunk) = self.response.chunk().await.unwrap() else {
            return false;
        };
        self.text.push_str(&String::from_utf8_lossy(&chunk));
        while let Some((message, rest)) = self.text.split_once("\n\n") {
            let field = |name: &str| {
                let mut lines = message.lines();
                lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            };
            if let Some(id) = field("id") {
                id.clone_into(&mut self.last_id);
            }
            let data = || serde_json::from_str(field("data").unwrap()).unwrap();
            match field("event") {
                Some("connection") => self.events.push_back(data()),
                Some("ready") => self.ready = data(),
                _ => {}
            }
            self.text = rest.to_owned();
        }
        true
    }

    /// Returns the next event; `None` at the stream's end.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            if !timeout(TIMEOUT, self.read()).await.unwrap() {
                return None;
            }
        }
    }
}

/// The `Last-Event-ID` before the first event.
pub(crate) const FIRST: &str = "00000000-0000-0000-0000-000000000000";

/// Returns the ids of all events, in order.
pub(crate) async fn ids(app: &TestApp) -> Vec<String> {
    sqlx::query_scalar("select id::text from connection_event order by position")
        .fetch_all(&mut app.sql().await)
        .await
        .unwrap()
}

#[tokio::test]
async fn resumed_stream_misses_no_events_of_concurrent_writers() {
    const CHANGES: usize = 12;
    let app = TestApp::new().await;
    let other = app.replica(&[]).await;
    let ada = app.user("ada").await;
    let ada_on_replica = ada.at(&other);
    let connectors = ["gmail", "github", "asana", "box", "bitbucket", "airtable"];
    let mut connections = Vec::new();
    for connector in connectors {
        let connected = ada.connected(connector).await;
        connections.push(text(&connected, "id").to_owned());
    }
    let writing = join_all(connections.iter().enumerate().map(async |(n, id)| {
        for change in 0..CHANGES {
            // Changes within a minute would be one event.
            app.advance(TimeDelta::seconds(61));
            let writer = if (n + change) % 2 == 0 {
                &ada
            } else {
                &ada_on_replica
            };
            let body = json!({ "label": format!("change {change}") });
            let path = format!("/connections/{id}");
            let (status, reported) = writer.call(Method::PATCH, &path, Some(body)).await;
            assert_eq!(status, StatusCode::OK, "{reported}");
        }
    }));
    let expected = connectors.len() * (CHANGES + 2);
    let reading = async {
        let (mut seen, mut last_id) = (Vec::new(), FIRST.to_owned());
        while seen.len() < expected {
            // The connection fails within a batch, and the reader reconnects to another replica.
            let replica = if seen.len() % 2 == 0 {
                &ada
            } else {
                &ada_on_replica
            };
            let mut reader = StreamReader::open(replica, Some(&last_id)).await;
            for _ in 0..7.min(expected - seen.len()) {
                let event = reader.next().await.expect("the stream goes on");
                seen.push(text(&event, "id").to_owned());
            }
            last_id.clone_from(seen.last().unwrap());
        }
        seen
    };
    let (seen, _) = tokio::join!(reading, writing);
    assert_eq!(seen, ids(&app).await);
}

#[tokio::test]
async fn merged_change_is_read_again_by_streams() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let gmail = ada.connected("gmail").await;
    let id = text(&gmail, "id");
    let mut reader = StreamReader::open(&ada, None).await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        rename(&ada, id).await;
        let event = reader.next().await.expect("the stream goes on");
        assert_eq!(event["kind"], "updated");
        assert_eq!(event["version"], 3);
        seen.push(text(&event, "id").to_owned());
    }
    assert!(seen.is_sorted(), "{seen:?}");
    // A reader whose last event precedes the latest change must reload; it then receives each later change.
    let mut late = StreamReader::open(&ada, Some(&seen[1])).await;
    assert_eq!(late.ready["resumed"], json!(false));
    rename(&ada, id).await;
    let event = late.next().await.expect("the stream goes on");
    assert_eq!(event["version"], 3);
    assert!(text(&event, "id") > seen[2].as_str());
    // A reader that has received the latest change resumes after it.
    let last = text(&event, "id");
    let current = StreamReader::open(&ada, Some(last)).await;
    assert_eq!(current.ready["resumed"], json!(true));
}

/// Reopens the stream after the event `last` and makes a change. Returns whether the stream resumed, the id that it
/// starts at, and the kind of the first event.
async fn reconnecting(user: &User<'_>, id: &str, last: Option<&str>) -> (Value, String, Value) {
    let mut reader = StreamReader::open(user, last).await;
    let begins = reader.last_id.clone();
    let resumed = reader.ready["resumed"].clone();
    rename(user, id).await;
    let first = reader.next().await.unwrap();
    (resumed, begins, first["kind"].clone())
}

#[tokio::test]
async fn stream_requests_reload_when_last_event_is_unknown() {
    let app = TestApp::new().await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    let rejected = StreamReader::open(&ada, None).await;
    assert_eq!(
        (&*rejected.last_id, &rejected.ready["resumed"]),
        (FIRST, &json!(false))
    );
    let rejected = StreamReader::open(&ada, Some(FIRST)).await;
    assert_eq!(
        (&*rejected.last_id, &rejected.ready["resumed"]),
        (FIRST, &json!(true))
    );
    let started = ada.connect("gmail").await;
    let id = text(&started, "connection_id");
    bob.connect("gmail").await;
    let began = ids(&app).await;
    let (adas, bobs) = (began[0].as_str(), began[1].as_str());
    let updated = json!("updated");
    let reported = reconnecting(&ada, id, None).await;
    assert_eq!(reported, (json!(false), adas.to_owned(), updated.clone()));
    let reported = reconnecting(&ada, id, Some(adas)).await;
    // The event after that one comes first.
    assert_eq!(reported, (json!(true), adas.to_owned(), updated.clone()));
    // The id of another user's event is treated like an unknown one, as from before a restore: the stream starts at the
    // present.
    let never = uuid::Uuid::now_v7().to_string();
    for unknown in [bobs, &never] {
        let last = ids(&app).await.pop().unwrap();
        let reported = reconnecting(&ada, id, Some(unknown)).await;
        assert_eq!(reported, (json!(false), last, updated.clone()));
    }
}

#[tokio::test]
async fn stream_requests_reload_after_erase() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    ada.connect("gmail").await;
    let reader = StreamReader::open(&ada, None).await;
    app.service()
        .await
        .erasure
        .erase(&"ada".to_owned().try_into().unwrap())
        .await
        .unwrap();
    let again = StreamReader::open(&ada, Some(&reader.last_id)).await;
    assert_eq!(
        (&*again.last_id, &again.ready["resumed"]),
        (FIRST, &json!(false))
    );
}

#[tokio::test]
async fn stream_ends_after_restore_of_the_database() {
    let app = TestApp::new().await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    let gmail = ada.connected("gmail").await;
    let his = bob.connected("gmail").await;
    let mut reader = StreamReader::open(&ada, None).await;
    let mut unaffected = StreamReader::open(&bob, None).await;
    rename(&ada, text(&gmail, "id")).await;
    assert_eq!(reader.next().await.unwrap()["kind"], "updated");
    // The restored database lacks the event, and assigns its position again.
    sqlx::raw_sql(
        "delete from connection_event where kind = 'updated'; \
         select setval(pg_get_serial_sequence('connection_event', 'position'), max(position)) \
         from connection_event; \
         select pg_terminate_backend(pid) from pg_stat_activity \
         where datname = current_database() and query ilike 'listen%'",
    )
    .execute(&mut app.sql().await)
    .await
    .unwrap();
    assert_eq!(reader.next().await, None);
    let again = StreamReader::open(&ada, Some(&reader.last_id)).await;
    assert_eq!(again.ready["resumed"], json!(false));
    rename(&bob, text(&his, "id")).await;
    assert_eq!(unaffected.next().await.unwrap()["kind"], "updated");
}

#[tokio::test]
async fn unread_stream_uses_bounded_memory_and_blocks_no_writer() {
    /// The number of events. Each takes about 400 bytes in a stream.
    const EVENTS: i64 = 100_000;
    const MAX_BUFFERED: u64 = 16 * 1024 * 1024;
    // The program uses the system's clock, so the user's token must, too.
    let app = TestApp::with_system_clock().await;
    let ada = app.user("ada").await;
    let started = ada.connect("gmail").await;
    let id = text(&started, "connection_id");
    let (process, url) = replica_process(&app).await;
    let ada_on_replica = ada.at_url(&url);
    let mut socket = unread_stream(&url, &ada.token).await;
    // Excludes the allocations of a first request from the measurement.
    rename(&ada_on_replica, id).await;
    let before = memory(&process);
    let mut sql = app.sql().await;
    sqlx::query(
        "insert into connection_event (user_id, id, connection_id, version, kind, status, created_at) \
         select user_id, gen_random_uuid(), id, n, 'updated', status, now() \
         from user_connector_connection, generate_series(1000, 999 + $1) n",
    )
    .bind(EVENTS)
    .execute(&mut sql)
    .await
    .unwrap();
    sqlx::query("select pg_notify('patchbay_event', 'ada')")
        .execute(&mut sql)
        .await
        .unwrap();
    let mut most = before;
    for _ in 0..20 {
        timeout(PROMPT_TIMEOUT, rename(&ada_on_replica, id))
            .await
            .expect("a writer does not wait for readers");
        tokio::time::sleep(Duration::from_millis(100)).await;
        most = most.max(memory(&process));
    }
    let grown = most - before;
    assert!(grown < MAX_BUFFERED, "{grown} bytes more");
    // No events are lost: the reader continues where it stopped.
    let mut read = String::new();
    while read.matches("event: connection").count() < 500 {
        let mut bytes = vec![0; 64 * 1024];
        let n = socket.read(&mut bytes).await.unwrap();
        read.push_str(&String::from_utf8_lossy(&bytes[..n]));
    }
    let all = ids(&app).await;
    let all = all.iter().zip(0..);
    let places: HashMap<&str, u32> = all.map(|(id, place)| (id.as_str(), place)).collect();
    // An event with a later merged change has another id by then.
    let read = read.lines().filter_map(|line| line.strip_prefix("id: "));
    let read: Vec<u32> = read.filter_map(|id| places.get(id).copied()).collect();
    assert!(read.len() >= 490, "{read:?}");
    assert!(
        read.windows(2).all(|pair| pair[0] + 1 == pair[1]),
        "{read:?}"
    );
}

/// Opens a stream without reading it.
async fn unread_stream(url: &str, token: &str) -> TcpStream {
    let mut socket = TcpStream::connect(url.trim_start_matches("http://"))
        .await
        .unwrap();
    let request = format!(
        "GET /api/v1/connectors/connections/events HTTP/1.1\r\nhost: patchbay\r\n\
         authorization: Bearer {token}\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 15];
    socket.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    socket
}

/// Returns the memory of a process, in bytes.
fn memory(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes: u64 = line
        .and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok())
        .unwrap();
    kilobytes * 1024
}

async fn rename(user: &User<'_>, id: &str) {
    let label = uuid::Uuid::new_v4().to_string();
    let path = format!("/connections/{id}");
    let body = json!({ "label": label });
    let (status, reported) = user.call(Method::PATCH, &path, Some(body)).await;
    assert_eq!(status, StatusCode::OK, "{reported}");
}

#[tokio::test]
async fn stream_ends_when_token_expires() {
    let app = TestApp::new().await;
    let mut ada = app.user("ada").await;
    // Accepted for two more seconds, of the 30 seconds that the clocks may differ.
    let claims = json!({ "sub": "ada", "exp": app.clock.now().timestamp() - 28 });
    let secret = EncodingKey::from_secret(JWT_SECRET.as_bytes());
    ada.token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &secret).unwrap();
    let mut reader = StreamReader::open(&ada, None).await;
    assert_eq!(reader.next().await, None);
}

#[tokio::test]
async fn stream_ends_when_service_key_is_revoked() {
    let app = TestApp::new().await;
    let keys = app.keys().await;
    let scopes = [Scope::ConnectionsRead].into();
    let key = keys.create("dashboard", &scopes).await.unwrap();
    let mut service = app.user("ada").await;
    service.token = key.expose_secret().to_owned();
    let request = service.request(Method::GET, "/connections/events");
    let mut reader = StreamReader::of(request.header("patchbay-user", "ada")).await;
    keys.revoke("dashboard").await.unwrap();
    assert_eq!(reader.next().await, None);
}

#[tokio::test]
async fn stream_ends_when_its_key_is_narrowed() {
    let app = TestApp::new().await;
    let keys = app.keys().await;
    let scopes = [Scope::ConnectionsRead, Scope::TokensRead].into();
    let key = keys.create("dashboard", &scopes).await.unwrap();
    let mut service = app.user("ada").await;
    service.token = key.expose_secret().to_owned();
    let open = || {
        let request = service.request(Method::GET, "/connections/events");
        request.header("patchbay-user", "ada")
    };
    let mut reader = StreamReader::of(open()).await;
    let scopes = [Scope::TokensRead].into();
    keys.set_scopes("dashboard", &scopes).await.unwrap();
    assert_eq!(reader.next().await, None);
    let refused = open().send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn shutdown_ends_streams_and_answers_long_polls() {
    let mut app = TestApp::new().await;
    let started = app.user("ada").await.connect("gmail").await;
    let path = format!("/connections/{}?wait=30", text(&started, "connection_id"));
    let (mut reader, waiting) = {
        let ada = app.user("ada").await;
        let waiting = ada.request(Method::GET, &path).send();
        (StreamReader::open(&ada, None).await, tokio::spawn(waiting))
    };
    eventually(async || app.nango_calls("GET", "/connections").await > 0).await;
    let stopped = timeout(PROMPT_TIMEOUT, app.stop());
    let (event, answer, stopped) = tokio::join!(reader.next(), waiting, stopped);
    assert_eq!(event, None);
    let answer = answer.unwrap().unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.json::<Value>().await.unwrap()["status"], "pending");
    stopped.expect("nothing holds the service up").unwrap();
}
