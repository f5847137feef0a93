//! Event streams: resumed, unread, ended.

use std::collections::VecDeque;
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
use crate::house::{House, JWT_SECRET, User};
use crate::matrix::killed::replica_process;
use crate::process::Process;

/// How long anything of a stream may take here.
const PATIENCE: Duration = Duration::from_secs(60);

/// Reads an event stream as a browser does.
pub(crate) struct Reader {
    response: Response,
    text: String,
    events: VecDeque<Value>,
    /// What it began with.
    ready: Value,
    /// What a browser sends when it comes again.
    pub(crate) last_id: String,
}

impl Reader {
    /// Opens a stream, after this event if one is named, and waits until it is ready.
    pub(crate) async fn open(user: &User<'_>, last_id: Option<&str>) -> Self {
        let mut request = user.request(Method::GET, "/connections/events");
        if let Some(last_id) = last_id {
            request = request.header("last-event-id", last_id);
        }
        Self::of(request).await
    }

    /// The stream that this request opens, when it is ready.
    async fn of(request: RequestBuilder) -> Self {
        let response = request.timeout(PATIENCE).send().await.unwrap();
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

    /// Takes what has come. `false` at the stream's end.
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

    /// The next event; `None` at the stream's end.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            if !timeout(PATIENCE, self.read()).await.unwrap() {
                return None;
            }
        }
    }
}

/// The ids of all events there are.
async fn ids(house: &House) -> Vec<i64> {
    sqlx::query_scalar("select id from connection_event order by id")
        .fetch_all(&mut house.sql().await)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_reader_who_comes_again_and_again_misses_nothing_of_many_writers() {
    const CHANGES: usize = 12;
    let house = House::new().await;
    let other = house.replica(&[]).await;
    let ada = house.user("ada").await;
    let there = ada.at(&other);
    let connectors = ["gmail", "github", "asana", "box", "bitbucket", "airtable"];
    let mut connections = Vec::new();
    for connector in connectors {
        let connected = ada.connected(connector).await;
        connections.push(text(&connected, "id").to_owned());
    }
    let writing = join_all(connections.iter().enumerate().map(async |(n, id)| {
        for change in 0..CHANGES {
            // Changes within a minute would be one event.
            house.pass(TimeDelta::seconds(61));
            let writer = if (n + change) % 2 == 0 { &ada } else { &there };
            let body = json!({ "label": format!("change {change}") });
            let path = format!("/connections/{id}");
            let (status, told) = writer.call(Method::PATCH, &path, Some(body)).await;
            assert_eq!(status, StatusCode::OK, "{told}");
        }
    }));
    let expected = connectors.len() * (CHANGES + 2);
    let reading = async {
        let (mut seen, mut last_id) = (Vec::new(), "0".to_owned());
        while seen.len() < expected {
            // The connection breaks in the middle of a batch, and the reader comes again elsewhere.
            let replica = if seen.len() % 2 == 0 { &ada } else { &there };
            let mut reader = Reader::open(replica, Some(&last_id)).await;
            for _ in 0..7.min(expected - seen.len()) {
                let event = reader.next().await.expect("the stream goes on");
                seen.push(event["id"].as_i64().unwrap());
            }
            last_id = seen.last().unwrap().to_string();
        }
        seen
    };
    let (seen, _) = tokio::join!(reading, writing);
    assert!(seen.is_sorted_by(|one, next| one < next), "{seen:?}");
    assert_eq!(seen, ids(&house).await);
}

#[tokio::test]
async fn merged_change_is_read_again_by_streams() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let gmail = ada.connected("gmail").await;
    let id = text(&gmail, "id");
    let mut reader = Reader::open(&ada, None).await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        rename(&ada, id).await;
        let event = reader.next().await.expect("the stream goes on");
        assert_eq!(event["kind"], "updated");
        seen.push((event["id"].as_i64().unwrap(), event["version"].clone()));
    }
    assert!(seen.is_sorted_by(|one, next| one.0 < next.0), "{seen:?}");
    assert!(seen.iter().all(|(_, version)| *version == 3), "{seen:?}");
    // A reader from before the last of them is told of it once.
    let mut late = Reader::open(&ada, Some(&seen[1].0.to_string())).await;
    assert_eq!(late.ready["resumed"], json!(false));
    assert_eq!(late.next().await.unwrap()["id"], seen[2].0);
}

/// What a reader who comes again after this event is told, and what comes first once something has happened: whether it
/// has missed nothing, the id that it begins at, and the kind of the first event.
async fn coming_again(user: &User<'_>, id: &str, last: Option<i64>) -> (Value, i64, Value) {
    let last = last.map(|last| last.to_string());
    let mut reader = Reader::open(user, last.as_deref()).await;
    let begins = reader.last_id.parse().unwrap();
    let resumed = reader.ready["resumed"].clone();
    rename(user, id).await;
    let first = reader.next().await.unwrap();
    (resumed, begins, first["kind"].clone())
}

#[tokio::test]
async fn who_comes_after_an_event_that_is_not_there_is_told_to_read_anew() {
    let house = House::new().await;
    let (ada, bob) = (house.user("ada").await, house.user("bob").await);
    let nobody = Reader::open(&ada, None).await;
    assert_eq!(
        (&*nobody.last_id, &nobody.ready["resumed"]),
        ("0", &json!(false))
    );
    let nobody = Reader::open(&ada, Some("0")).await;
    assert_eq!(
        (&*nobody.last_id, &nobody.ready["resumed"]),
        ("0", &json!(true))
    );
    let begun = ada.connect("gmail").await;
    let id = text(&begun, "connection_id");
    bob.connect("gmail").await;
    let began = ids(&house).await;
    let (adas, bobs) = (began[0], began[1]);
    let updated = json!("updated");
    let told = coming_again(&ada, id, None).await;
    assert_eq!(told, (json!(false), adas, updated.clone()));
    let told = coming_again(&ada, id, Some(adas)).await;
    assert_eq!(told, (json!(true), adas, updated.clone()));
    // Another's tells as much as none.
    let told = coming_again(&ada, id, Some(bobs)).await;
    assert_eq!(told, (json!(false), bobs, updated.clone()));
    // A reader from before a backup was restored, in which the ids had come farther.
    let last = *ids(&house).await.last().unwrap();
    let told = coming_again(&ada, id, Some(90_000)).await;
    assert_eq!(told, (json!(false), last, updated));
}

#[tokio::test]
async fn who_was_erased_is_told_to_read_anew() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    ada.connect("gmail").await;
    let reader = Reader::open(&ada, None).await;
    house
        .service()
        .await
        .erase(&"ada".to_owned().try_into().unwrap())
        .await
        .unwrap();
    let again = Reader::open(&ada, Some(&reader.last_id)).await;
    assert_eq!(
        (&*again.last_id, &again.ready["resumed"]),
        ("0", &json!(false))
    );
}

#[tokio::test]
async fn a_reader_who_reads_nothing_holds_little_and_nobody_up() {
    /// What the events take as a stream is about 400 bytes each.
    const EVENTS: i64 = 100_000;
    const ALLOWED: u64 = 16 * 1024 * 1024;
    // The program's time is the system's, and so has to be that of the user's token.
    let house = House::now().await;
    let ada = house.user("ada").await;
    let begun = ada.connect("gmail").await;
    let id = text(&begun, "connection_id");
    let (process, url) = replica_process(&house).await;
    let there = ada.at_url(&url);
    let mut socket = unread_stream(&url, &ada.token).await;
    // So that what a first request allocates is not counted.
    rename(&there, id).await;
    let before = memory(&process);
    let mut sql = house.sql().await;
    sqlx::query(
        "insert into connection_event (connection_id, user_id, version, kind, status, created_at) \
         select id, user_id, n, 'updated', status, now() \
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
        timeout(Duration::from_secs(5), rename(&there, id))
            .await
            .expect("a writer waits for nobody");
        tokio::time::sleep(Duration::from_millis(100)).await;
        most = most.max(memory(&process));
    }
    let grown = most - before;
    assert!(grown < ALLOWED, "{grown} bytes more");
    // Nothing is lost for it either: what it reads at last begins where it stopped.
    let mut read = String::new();
    while read.matches("event: connection").count() < 500 {
        let mut bytes = vec![0; 64 * 1024];
        let n = socket.read(&mut bytes).await.unwrap();
        read.push_str(&String::from_utf8_lossy(&bytes[..n]));
    }
    let ids: Vec<i64> = read
        .lines()
        .filter_map(|line| line.strip_prefix("id: ")?.parse().ok())
        .take(500)
        .collect();
    assert!(ids.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{ids:?}");
}

/// A stream that is opened and then not read.
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

/// How much memory a process has, in bytes.
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
    let (status, told) = user.call(Method::PATCH, &path, Some(body)).await;
    assert_eq!(status, StatusCode::OK, "{told}");
}

#[tokio::test]
async fn a_stream_ends_with_the_token_that_opened_it() {
    let house = House::with(&[("AUTH_LEEWAY_SECONDS", "0")]).await;
    let mut ada = house.user("ada").await;
    let claims = json!({ "sub": "ada", "exp": house.clock.now().timestamp() + 2 });
    let secret = EncodingKey::from_secret(JWT_SECRET.as_bytes());
    ada.token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &secret).unwrap();
    let mut reader = Reader::open(&ada, None).await;
    assert_eq!(reader.next().await, None);
}

#[tokio::test]
async fn a_stream_ends_when_the_key_that_opened_it_is_revoked() {
    let house = House::new().await;
    let keys = house.keys().await;
    let scopes = [Scope::ConnectionsRead].into();
    let key = keys.create("dashboard", &scopes).await.unwrap();
    let mut service = house.user("ada").await;
    service.token = key.expose_secret().to_owned();
    let request = service.request(Method::GET, "/connections/events");
    let mut reader = Reader::of(request.header("patchbay-user", "ada")).await;
    keys.revoke("dashboard").await.unwrap();
    assert_eq!(reader.next().await, None);
}

#[tokio::test]
async fn stream_ends_when_its_key_is_narrowed() {
    let house = House::new().await;
    let keys = house.keys().await;
    let scopes = [Scope::ConnectionsRead, Scope::TokensRead].into();
    let key = keys.create("dashboard", &scopes).await.unwrap();
    let mut service = house.user("ada").await;
    service.token = key.expose_secret().to_owned();
    let open = || {
        let request = service.request(Method::GET, "/connections/events");
        request.header("patchbay-user", "ada")
    };
    let mut reader = Reader::of(open()).await;
    let scopes = [Scope::TokensRead].into();
    keys.set_scopes("dashboard", &scopes).await.unwrap();
    assert_eq!(reader.next().await, None);
    let refused = open().send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_service_that_stops_ends_its_streams_and_answers_who_waits() {
    let mut house = House::new().await;
    let begun = house.user("ada").await.connect("gmail").await;
    let path = format!("/connections/{}?wait=30", text(&begun, "connection_id"));
    let (mut reader, waiting) = {
        let ada = house.user("ada").await;
        let waiting = ada.request(Method::GET, &path).send();
        (Reader::open(&ada, None).await, tokio::spawn(waiting))
    };
    super::eventually(async || house.nango_calls("GET", "/connections").await > 0).await;
    let stopped = timeout(Duration::from_secs(10), house.stop());
    let (event, answer, stopped) = tokio::join!(reader.next(), waiting, stopped);
    assert_eq!(event, None);
    let answer = answer.unwrap().unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.json::<Value>().await.unwrap()["status"], "pending");
    stopped.expect("nothing holds the service up").unwrap();
}
