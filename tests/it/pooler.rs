//! The service behind PgBouncer, which in transaction mode assigns each transaction to another server connection.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::{env, fs};

use reqwest::StatusCode;
use serde_json::json;
use sqlx::{Connection, PgConnection, Row};
use tokio::task::JoinSet;
use tokio::time::Instant;
use url::Url;
use uuid::Uuid;

use crate::eventually::eventually_value;
use crate::reliability::event_streams::StreamReader;
use crate::test_app::{self, TestApp, free_port};
use crate::test_database::{self, TestDatabase};

/// A PgBouncer in front of the test server. Dropping it stops it.
pub(crate) struct Pooler {
    process: Child,
    folder: PathBuf,
    port: u16,
}

impl Pooler {
    /// Starts a PgBouncer with additional settings; `None` if it is not installed.
    pub(crate) async fn start(database: &TestDatabase, settings: &str) -> Option<Self> {
        let server = Url::parse(database.url()).unwrap();
        let folder = env::temp_dir().join(format!("patchbay-pgbouncer-{}", Uuid::new_v4()));
        fs::create_dir_all(&folder).unwrap();
        let port = free_port();
        let password = server.password().unwrap_or_default();
        let users = format!("\"{}\" \"{password}\"\n", server.username());
        fs::write(folder.join("users"), users).unwrap();
        let settings = format!(
            "[databases]\n* = host={} port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = scram-sha-256\n\
             auth_file = {}\nlogfile = {}\nlog_connections = 0\nlog_disconnections = 0\n{settings}\n",
            server.host_str().unwrap(),
            server.port().unwrap_or(5432),
            folder.join("users").display(),
            folder.join("log").display(),
        );
        fs::write(folder.join("pgbouncer.ini"), settings).unwrap();
        let mut command = Command::new("pgbouncer");
        command
            .arg("-q")
            .arg(folder.join("pgbouncer.ini"))
            .stderr(Stdio::null());
        // PgBouncer refuses to run as root.
        if let Some(uid) = unprivileged_user() {
            std::os::unix::fs::chown(&folder, Some(uid), None).unwrap();
            command.uid(uid);
        }
        let process = match command.spawn() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                eprintln!("SKIPPED: pgbouncer is not installed; scripts/check installs it");
                fs::remove_dir_all(folder).unwrap();
                return None;
            }
            spawned => spawned.unwrap(),
        };
        let pooler = Self {
            process,
            folder,
            port,
        };
        pooler.wait().await;
        Some(pooler)
    }

    async fn wait(&self) {
        let connection = async || {
            let connected = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await;
            connected.map_err(|error| (error, fs::read_to_string(self.folder.join("log"))))
        };
        eventually_value(connection, Result::is_ok).await.unwrap();
    }

    /// Returns a database's URL through the pooler.
    pub(crate) fn url(&self, database: &TestDatabase) -> String {
        let mut url = Url::parse(database.url()).unwrap();
        url.set_host(Some("127.0.0.1")).unwrap();
        url.set_port(Some(self.port)).unwrap();
        url.into()
    }

    /// Makes the pooler hold this many idle server connections.
    async fn warm(&self, database: &TestDatabase, servers: usize) {
        let mut clients = Vec::new();
        for _ in 0..servers {
            let mut client = raw(&self.url(database)).await;
            sqlx::raw_sql("begin").execute(&mut client).await.unwrap();
            clients.push(client);
        }
        for mut client in clients {
            sqlx::raw_sql("commit").execute(&mut client).await.unwrap();
            client.close().await.unwrap();
        }
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let killed = self.process.kill().and_then(|()| self.process.wait());
        let removed = fs::remove_dir_all(&self.folder);
        assert!((killed.is_ok() && removed.is_ok()) || std::thread::panicking());
    }
}

fn unprivileged_user() -> Option<u32> {
    let id = |arguments: &[&str]| {
        let output = Command::new("id").args(arguments).output().unwrap();
        String::from_utf8(output.stdout)
            .unwrap()
            .trim()
            .parse::<u32>()
            .unwrap()
    };
    (id(&["-u"]) == 0).then(|| id(&["-u", "nobody"]))
}

/// Opens a connection with only the parameters that this version of PgBouncer supports.
async fn raw(url: &str) -> PgConnection {
    let options: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
    PgConnection::connect_with(&options.extra_float_digits(None))
        .await
        .unwrap()
}

#[tokio::test]
async fn transaction_mode_pooler_is_detected() {
    let database = test_database::database().await;
    let direct = test_database::pool(database.url(), 5).await.unwrap();
    assert!(!direct.is_transaction_pooled());
    let session = "pool_mode = session\ndefault_pool_size = 10";
    let transaction = "pool_mode = transaction\ndefault_pool_size =";
    let round_robin = "server_round_robin = 1\npool_mode = transaction\ndefault_pool_size =";
    let cases = [
        (session.to_owned(), 0, false),
        (format!("{transaction} 1"), 0, true),
        (format!("{transaction} 1"), 1, true),
        (format!("{transaction} 20"), 0, true),
        (format!("{transaction} 20"), 4, true),
        (format!("{round_robin} 20"), 0, true),
        // With as many servers as the probe has connections, or a multiple, round robin could hide the switching.
        (format!("{round_robin} 20"), 2, true),
        (format!("{round_robin} 20"), 3, true),
        (format!("{round_robin} 20"), 4, true),
        (format!("{round_robin} 20"), 5, true),
        (format!("{round_robin} 20"), 8, true),
    ];
    for (settings, servers, switches) in cases {
        let Some(pooler) = Pooler::start(&database, &settings).await else {
            return;
        };
        pooler.warm(&database, servers).await;
        let connected = test_database::pool(pooler.url(&database), 5).await.unwrap();
        assert_eq!(
            connected.is_transaction_pooled(),
            switches,
            "{settings} with {servers} servers"
        );
        connected.close().await;
    }
}

#[tokio::test]
async fn pooler_detection_works_with_other_clients() {
    let database = test_database::database().await;
    let settings = "pool_mode = transaction\ndefault_pool_size = 4\nserver_round_robin = 1";
    let Some(pooler) = Pooler::start(&database, settings).await else {
        return;
    };
    let mut others = JoinSet::new();
    for _ in 0..3 {
        let url = pooler.url(&database);
        others.spawn(async move {
            let mut client = raw(&url).await;
            loop {
                sqlx::raw_sql("select 1")
                    .execute(&mut client)
                    .await
                    .unwrap();
            }
        });
    }
    for _ in 0..25 {
        let connected = test_database::pool(pooler.url(&database), 5).await.unwrap();
        assert!(connected.is_transaction_pooled());
        connected.close().await;
    }
    others.abort_all();
}

/// Supabase adds this parameter to the URLs of its pooler, which makes the probe unnecessary.
#[tokio::test]
async fn pooler_can_be_declared_in_database_url() {
    let database = test_database::database().await;
    let mut url = Url::parse(database.url()).unwrap();
    url.query_pairs_mut().append_pair("pgbouncer", "true");
    let reported = test_database::pool(url, 5).await.unwrap();
    assert!(reported.is_transaction_pooled());
    test_database::ping(&reported).await.unwrap();
}

#[tokio::test]
async fn concurrent_queries_through_pooler_return_own_rows() {
    const CALLERS: i64 = 16;
    // Three queries each: 20,016 in all.
    const ROUNDS: i64 = 417;
    let database = test_database::database().await;
    let settings = "pool_mode = transaction\ndefault_pool_size = 4";
    let Some(pooler) = Pooler::start(&database, settings).await else {
        return;
    };
    let pooled = test_database::pool(pooler.url(&database), 16)
        .await
        .unwrap();
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let pooled = pooled.clone();
        callers.spawn(async move {
            let mut servers = std::collections::BTreeSet::new();
            for round in 0..ROUNDS {
                let mut waits = 0;
                let mut tx = loop {
                    match pooled.begin().await {
                        // On a busy machine, opening a connection can take longer than the pool waits.
                        Err(sqlx::Error::PoolTimedOut) if waits < 20 => waits += 1,
                        transaction => break transaction.unwrap(),
                    }
                };
                // Statements differ by caller, so that reused statement names would mix them up.
                let (number, server): (i64, i32) = match caller % 2 {
                    0 => sqlx::query_as("select $1, pg_backend_pid()"),
                    _ => sqlx::query_as("select $1 + 0, pg_backend_pid()"),
                }
                .bind(caller * ROUNDS + round)
                .fetch_one(&mut tx)
                .await
                .unwrap();
                let text: String = sqlx::query_scalar("select $1::text || $2::text")
                    .bind(caller)
                    .bind("!")
                    .fetch_one(&mut tx)
                    .await
                    .unwrap();
                let kept: i64 = sqlx::query_scalar("select count(*) from pg_prepared_statements")
                    .fetch_one(&mut tx)
                    .await
                    .unwrap();
                tx.commit().await.unwrap();
                assert_eq!(number, caller * ROUNDS + round);
                assert_eq!(text, format!("{caller}!"));
                assert_eq!(kept, 0, "a statement was left with a name");
                servers.insert(server);
            }
            servers
        });
    }
    let mut servers = std::collections::BTreeSet::new();
    while let Some(seen) = callers.join_next().await {
        servers.extend(seen.unwrap());
    }
    assert_eq!(servers.len(), 4);
}

/// The counterpart: a direct connection keeps its prepared statements.
#[tokio::test]
async fn statements_are_prepared_once_without_pooler() {
    let database = test_database::database().await;
    let direct = test_database::pool(database.url(), 1).await.unwrap();
    for _ in 0..3 {
        let mut tx = direct.begin().await.unwrap();
        sqlx::query("select $1::int8")
            .bind(1_i64)
            .execute(&mut tx)
            .await
            .unwrap();
        let kept = sqlx::raw_sql("select count(*) from pg_prepared_statements")
            .fetch_one(&mut tx)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        assert_eq!(kept.try_get_unchecked::<&str, _>(0).unwrap(), "1");
    }
}

#[tokio::test]
async fn failed_transaction_leaves_no_state_in_pooled_server() {
    let database = test_database::database().await;
    let settings = "pool_mode = transaction\ndefault_pool_size = 1";
    let Some(pooler) = Pooler::start(&database, settings).await else {
        return;
    };
    let pooled = test_database::pool(pooler.url(&database), 3).await.unwrap();
    pooled.migrate().await.unwrap();
    for _ in 0..10 {
        let mut broken = pooled.begin().await.unwrap();
        let error = sqlx::query("select 1 / $1::int8")
            .bind(0_i64)
            .execute(&mut broken)
            .await
            .unwrap_err();
        assert!(error.as_database_error().is_some());
        drop(broken);
        test_database::ping(&pooled).await.unwrap();
    }
    let mut tx = pooled.begin().await.unwrap();
    // `pg_locks` also lists the locks of the databases of other tests.
    let locks = "select count(*) from pg_locks where locktype = 'advisory' and database = \
                (select oid from pg_database where datname = current_database())";
    let locks: i64 = sqlx::query_scalar(locks).fetch_one(&mut tx).await.unwrap();
    assert_eq!(locks, 0);
}

/// Behind the pooler, the statement runs unnamed, in a transaction whose commit checks the constraint.
#[tokio::test]
async fn single_statement_is_committed_behind_pooler() {
    let database = test_database::database().await;
    let settings = "pool_mode = transaction\ndefault_pool_size = 1";
    let Some(pooler) = Pooler::start(&database, settings).await else {
        return;
    };
    let direct = test_database::pool(database.url(), 1).await.unwrap();
    let create = "create table checked (id bigint unique deferrable initially deferred)";
    sqlx::query(create).execute(&direct).await.unwrap();
    for database in [
        direct,
        test_database::pool(pooler.url(&database), 1).await.unwrap(),
    ] {
        let is_pooled = database.is_transaction_pooled();
        let insert = "insert into checked values ($1) returning id";
        let id = i64::from(is_pooled);
        let insert = || sqlx::query_scalar(insert).bind(id);
        let first: i64 = insert().fetch_one(&database).await.unwrap();
        assert_eq!(first, id);
        let count: i64 = sqlx::query_scalar("select count(*) from checked")
            .fetch_one(&database)
            .await
            .unwrap();
        assert_eq!(count, id + 1);
        let one: sqlx::Result<i64> = insert().fetch_one(&database).await;
        let all: sqlx::Result<Vec<i64>> = insert().fetch_all(&database).await;
        for error in [one.unwrap_err(), all.unwrap_err()] {
            let error = error.into_database_error().unwrap();
            assert!(error.is_unique_violation(), "{error}");
        }
        let stored = "select count(*) from pg_prepared_statements";
        let stored: Vec<i64> = sqlx::query_scalar(stored)
            .fetch_all(&database)
            .await
            .unwrap();
        assert_eq!(stored[0] == 0, is_pooled, "{stored:?}");
    }
}

#[tokio::test]
async fn service_works_behind_pooler() {
    let database = test_database::database().await;
    let settings = "pool_mode = transaction\ndefault_pool_size = 2";
    let Some(pooler) = Pooler::start(&database, settings).await else {
        return;
    };
    let mut app = TestApp::with(&[("DATABASE_URL", &pooler.url(&database))]).await;
    let mut other = app
        .replica(&[("DATABASE_URL", &pooler.url(&database))])
        .await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    let seen = ada.at(&other).get("/connections").await;
    assert_eq!(seen["connections"][0]["id"], connected["id"]);
    let (status, ended) = ada.at(&other).disconnect("gmail", "").await;
    assert_eq!(status, StatusCode::OK, "{ended}");
    assert_eq!(app.nango_connections().await, [""; 0]);
    other.stop().await.unwrap();
    app.stop().await.unwrap();
}

#[tokio::test]
async fn changes_reach_other_replica_by_polling_behind_pooler() {
    let database = test_database::database().await;
    let settings = "pool_mode = transaction\ndefault_pool_size = 4";
    let Some(pooler) = Pooler::start(&database, settings).await else {
        return;
    };
    let url = pooler.url(&database);
    let app = TestApp::with(&[("DATABASE_URL", &url)]).await;
    let other = app.replica(&[("DATABASE_URL", &url)]).await;
    let ada = app.user("ada").await;
    let started = ada.connect("gmail").await;
    let ada_on_replica = ada.at(&other);
    let mut stream = StreamReader::open(&ada_on_replica, None).await;
    // The other replica cannot find the change by polling Nango.
    app.faults(json!({ "consent": "allow", "only": "tags", "status": 500 }))
        .await;
    let path = format!(
        "/connections/{}?wait=25",
        started["connection_id"].as_str().unwrap()
    );
    let waiting = async {
        let waited = ada_on_replica.get(&path).await;
        (waited, Instant::now())
    };
    let reading = async {
        let event = stream.next().await.expect("the stream goes on");
        (event, Instant::now())
    };
    let granting = async {
        app.popup(started["oauth_url"].as_str().unwrap()).await;
        Instant::now()
    };
    let ((waited, ended), (event, read), granted) = tokio::join!(waiting, reading, granting);
    assert_eq!(waited["status"], "connected");
    assert_eq!(event["kind"], "connected");
    for (what, when) in [("the wait", ended), ("the stream", read)] {
        let delay = when.saturating_duration_since(granted);
        assert!(delay < test_app::PROMPT_TIMEOUT, "{what}: {delay:?}");
    }
}
