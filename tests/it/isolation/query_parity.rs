//! A request for another user's connection runs the same statements and calls to Nango as a request for a missing one, so
//! that response times reveal nothing. Times themselves are not compared: they depend on the machine's load.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use reqwest::Method;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpListener, TcpStream};
use url::Url;
use uuid::Uuid;

use super::callers::Caller;
use super::{Access, IsolationFixture, ObservedResponse, Operation};
use crate::test_database::{self, TestDatabase};

/// The texts of statements, in the order in which they were run.
pub(crate) type Statements = Arc<Mutex<Vec<String>>>;

/// Returns the URL of a proxy to the database that records the statements, and the recorded statements.
pub(crate) async fn with_statement_log(database: &TestDatabase) -> (String, Statements) {
    let mut url = Url::parse(database.url()).unwrap();
    let server = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap_or(5432));
    let (port, statements) = record_statements(server).await;
    url.set_host(Some("127.0.0.1")).unwrap();
    url.set_port(Some(port)).unwrap();
    (url.into(), statements)
}

/// Forwards all traffic to PostgreSQL and records the statements.
async fn record_statements(server: String) -> (u16, Statements) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let statements = Statements::default();
    let notes = statements.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&server).await.unwrap();
            let (mut answers, requests) = server.into_split();
            let (asks, mut hears) = client.into_split();
            tokio::spawn(async move { copy(&mut answers, &mut hears).await });
            tokio::spawn(forward(asks, requests, notes.clone()));
        }
    });
    (port, statements)
}

/// One client's messages: the first has no type, each other has one and its length.
async fn forward(
    mut client: OwnedReadHalf,
    mut server: impl AsyncWriteExt + Unpin,
    statements: Statements,
) -> std::io::Result<()> {
    let mut prepared: HashMap<Vec<u8>, String> = HashMap::new();
    let mut kind = 0;
    loop {
        let length = client.read_u32().await?;
        let mut body = vec![0; usize::try_from(length).unwrap() - 4];
        client.read_exact(&mut body).await?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut parts = body.split(|byte| *byte == 0);
        let mut part = || parts.next().unwrap_or_default();
        match kind {
            b'P' => {
                let name = part().to_vec();
                prepared.insert(name, text(part()));
            }
            b'B' => {
                let _portal = part();
                let statement = prepared.get(part()).cloned().unwrap_or_default();
                statements.lock().unwrap().push(statement);
            }
            b'Q' => statements.lock().unwrap().push(text(part())),
            _ => {}
        }
        // In one piece: the system would hold small ones back for each other.
        let mut message = Vec::with_capacity(body.len() + 5);
        message.extend((kind != 0).then_some(kind));
        message.extend(length.to_be_bytes());
        message.extend(&body);
        server.write_all(&message).await?;
        kind = client.read_u8().await?;
    }
}

/// How often each statement and each call to Nango was made during a request.
#[derive(Debug, PartialEq, Eq)]
struct QueryTrace(BTreeMap<String, usize>);

impl QueryTrace {
    /// Keeps what both traces have: the service's jobs run at the same time, but not in every round.
    fn intersect(&mut self, other: &Self) {
        self.0.retain(|text, count| {
            *count = (*count).min(other.0.get(text).copied().unwrap_or_default());
            *count > 0
        });
    }
}

async fn trace_queries(
    fixture: &IsolationFixture,
    statements: &Statements,
    caller: &Caller,
    operation: &Operation,
    id: &str,
) -> QueryTrace {
    let calls = async || {
        let calls = fixture
            .app
            .control("requests", Method::GET, Value::Null)
            .await;
        calls.as_array().unwrap().len()
    };
    let before = calls().await;
    statements.lock().unwrap().clear();
    let answer =
        ObservedResponse::of(caller.authenticate(operation.request(&fixture.app, id)), id).await;
    assert_eq!(answer.code(), "connection_not_found", "{operation:?}");
    let mut trace = QueryTrace(BTreeMap::new());
    let statements = std::mem::take(&mut *statements.lock().unwrap());
    for text in statements {
        if !text.starts_with("begin") && !text.eq_ignore_ascii_case("commit") {
            *trace.0.entry(text).or_default() += 1;
        }
    }
    let all = fixture
        .app
        .control("requests", Method::GET, Value::Null)
        .await;
    for call in &all.as_array().unwrap()[before..] {
        let text = format!("{} {}", call["method"], call["path"]).replace(id, "[id]");
        *trace.0.entry(text).or_default() += 1;
    }
    trace
}

#[tokio::test]
async fn foreign_and_missing_connections_run_the_same_queries() {
    const ROUNDS: usize = 20;
    let database = test_database::database().await;
    let (url, statements) = with_statement_log(&database).await;
    let fixture = IsolationFixture::over(database, &[("DATABASE_URL", &url)]).await;
    let mut ids = fixture.ids.clone();
    ids.extend(fixture.app.nango_connections().await);
    let mut cases = 0;
    for operation in Operation::all().iter().filter(|one| one.names_one()) {
        let mut callers = vec![Caller::service("bob")];
        if let Access::User(_) = operation.access {
            callers.push(Caller::user(&fixture.app, "bob"));
        }
        for caller in callers {
            for id in &ids {
                let mut traces: Option<(QueryTrace, QueryTrace)> = None;
                for _ in 0..ROUNDS {
                    let foreign =
                        trace_queries(&fixture, &statements, &caller, operation, id).await;
                    let unknown = Uuid::now_v7().to_string();
                    let missing =
                        trace_queries(&fixture, &statements, &caller, operation, &unknown).await;
                    match &mut traces {
                        None => traces = Some((foreign, missing)),
                        Some(traces) => {
                            traces.0.intersect(&foreign);
                            traces.1.intersect(&missing);
                        }
                    }
                    if traces
                        .as_ref()
                        .is_some_and(|(foreign, missing)| foreign == missing)
                    {
                        break;
                    }
                }
                let (foreign, missing) = traces.unwrap();
                assert_eq!(
                    foreign, missing,
                    "{} {} {id}",
                    operation.method, operation.path
                );
                assert!(!foreign.0.is_empty(), "{operation:?}");
                cases += 1;
            }
        }
    }
    println!("compared {cases} pairs");
    assert!(cases >= 16 * ids.len());
}
