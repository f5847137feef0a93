//! Timing side channels: a request for another user's data costs the same as one for nonexistent data. The tests
//! compare statements and calls to Nango instead of time, which varies on a busy machine.

use std::collections::HashMap;
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

/// The texts of statements, in order of execution.
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

/// Forwards one client's messages. The first message has no type; each other one has a type and a length.
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
        // In one write, because small ones would be delayed.
        let mut message = Vec::with_capacity(body.len() + 5);
        message.extend((kind != 0).then_some(kind));
        message.extend(length.to_be_bytes());
        message.extend(&body);
        server.write_all(&message).await?;
        kind = client.read_u8().await?;
    }
}

/// The statements and calls of a request.
#[derive(Debug, PartialEq, Eq)]
struct QueryTrace {
    statements: Vec<String>,
    nango: Vec<String>,
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
    let mut statements = std::mem::take(&mut *statements.lock().unwrap());
    // Background jobs also begin and end transactions, and poll the webhook queue.
    let of_jobs = |text: &str| {
        matches!(text, "begin" | "COMMIT" | "ROLLBACK") || text.contains("webhook_queue")
    };
    statements.retain(|text| !of_jobs(text));
    let all = fixture
        .app
        .control("requests", Method::GET, Value::Null)
        .await;
    let nango = all.as_array().unwrap()[before..]
        .iter()
        .map(|call| format!("{} {}", call["method"], call["path"]).replace(id, "[id]"))
        .collect();
    QueryTrace { statements, nango }
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
                // A background job may run a statement between two requests. A real difference appears in every try.
                let mut ways = None;
                for _ in 0..ROUNDS {
                    let theirs = trace_queries(&fixture, &statements, &caller, operation, id).await;
                    let unknown = Uuid::now_v7().to_string();
                    let nobodys =
                        trace_queries(&fixture, &statements, &caller, operation, &unknown).await;
                    let same = theirs == nobodys;
                    ways = Some((theirs, nobodys));
                    if same {
                        break;
                    }
                }
                let (theirs, nobodys) = ways.unwrap();
                assert_eq!(
                    theirs, nobodys,
                    "{} {} {id}",
                    operation.method, operation.path
                );
                assert!(!theirs.statements.is_empty(), "{operation:?}");
                cases += 1;
            }
        }
    }
    println!("ways to answers: {cases} pairs");
    assert!(cases >= 16 * ids.len());
}
