//! Behind PgBouncer, which in transaction mode gives a client another server
//! for each transaction.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use std::{env, fs};

use reqwest::StatusCode;
use serde_json::json;
use sqlx::{Connection, PgConnection, Row};
use tokio::task::JoinSet;
use tokio::time::Instant;
use url::Url;
use uuid::Uuid;

use crate::house::{self, House, free_port};
use crate::postgres::{self, TestDatabase};
use crate::truth::streams::Reader;

/// A PgBouncer in front of the test server; it ends with the value.
pub(crate) struct Pooler {
    process: Child,
    folder: PathBuf,
    port: u16,
}

impl Pooler {
    /// Starts one with these lines in its settings; `None` where PgBouncer is not installed.
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
        // It refuses to be root.
        if let Some(nobody) = nobody_for_root() {
            std::os::unix::fs::chown(&folder, Some(nobody), None).unwrap();
            command.uid(nobody);
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
        for _ in 0..250 {
            if tokio::net::TcpStream::connect(("127.0.0.1", self.port))
                .await
                .is_ok()
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let log = fs::read_to_string(self.folder.join("log"));
        panic!("PgBouncer does not listen: {log:?}");
    }

    /// Where a database is when it is reached through the pooler.
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

fn nobody_for_root() -> Option<u32> {
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

/// A connection that sends what this version of PgBouncer understands.
async fn raw(url: &str) -> PgConnection {
    let options: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
    PgConnection::connect_with(&options.extra_float_digits(None))
        .await
        .unwrap()
}

#[tokio::test]
async fn a_pooler_that_switches_servers_is_told_from_one_that_does_not() {
    let database = postgres::database().await;
    let direct = postgres::pool(database.url(), 5).await.unwrap();
    assert!(!direct.switches_servers());
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
        // With as many servers as the probe has connections, or a multiple, taking turns could hide the switching.
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
        let connected = postgres::pool(pooler.url(&database), 5).await.unwrap();
        assert_eq!(
            connected.switches_servers(),
            switches,
            "{settings} with {servers} servers"
        );
        connected.close().await;
    }
}

#[tokio::test]
async fn other_clients_of_the_pooler_do_not_hide_that_it_switches() {
    let database = postgres::database().await;
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
        let connected = postgres::pool(pooler.url(&database), 5).await.unwrap();
        assert!(connected.switches_servers());
        connected.close().await;
    }
    others.abort_all();
}

/// Supabase adds this to the addresses of its pooler: then nothing has to be found out.
#[tokio::test]
async fn an_address_may_say_that_it_is_a_poolers() {
    let database = postgres::database().await;
    let mut url = Url::parse(database.url()).unwrap();
    url.query_pairs_mut().append_pair("pgbouncer", "true");
    let told = postgres::pool(url, 5).await.unwrap();
    assert!(told.switches_servers());
    told.ping().await.unwrap();
}

#[tokio::test]
async fn sixteen_callers_over_four_servers_each_get_their_own_rows() {
    const CALLERS: i64 = 16;
    // Of three queries each: 20,016 in all.
    const ROUNDS: i64 = 417;
    let database = postgres::database().await;
    let settings = "pool_mode = transaction\ndefault_pool_size = 4";
    let Some(pooler) = Pooler::start(&database, settings).await else {
        return;
    };
    let pooled = postgres::pool(pooler.url(&database), 16).await.unwrap();
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let pooled = pooled.clone();
        callers.spawn(async move {
            let mut servers = std::collections::BTreeSet::new();
            for round in 0..ROUNDS {
                let mut tx = pooled.begin().await.unwrap();
                // The statements differ from caller to caller, so that numbered names would mix them up.
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

/// What makes the difference: the same over a direct connection keeps its statements.
#[tokio::test]
async fn without_a_pooler_statements_are_prepared_once() {
    let database = postgres::database().await;
    let direct = postgres::pool(database.url(), 1).await.unwrap();
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
async fn a_transaction_that_breaks_off_leaves_nothing_behind_for_the_next_client() {
    let database = postgres::database().await;
    let settings = "pool_mode = transaction\ndefault_pool_size = 1";
    let Some(pooler) = Pooler::start(&database, settings).await else {
        return;
    };
    let pooled = postgres::pool(pooler.url(&database), 3).await.unwrap();
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
        pooled.ping().await.unwrap();
    }
    let mut tx = pooled.begin().await.unwrap();
    let locks: i64 =
        sqlx::query_scalar("select count(*) from pg_locks where locktype = 'advisory'")
            .fetch_one(&mut tx)
            .await
            .unwrap();
    assert_eq!(locks, 0);
}

#[tokio::test]
async fn the_whole_service_works_behind_it() {
    let database = postgres::database().await;
    let settings = "pool_mode = transaction\ndefault_pool_size = 2";
    let Some(pooler) = Pooler::start(&database, settings).await else {
        return;
    };
    let mut house = House::with(&[("DATABASE_URL", &pooler.url(&database))]).await;
    let mut other = house
        .replica(&[("DATABASE_URL", &pooler.url(&database))])
        .await;
    let ada = house.user("ada").await;
    let connected = ada.connected("gmail").await;
    let seen = ada.at(&other).get("/connections").await;
    assert_eq!(seen["connections"][0]["id"], connected["id"]);
    let (status, ended) = ada.at(&other).disconnect("gmail", "").await;
    assert_eq!(status, StatusCode::OK, "{ended}");
    assert_eq!(house.nango_connections().await, [""; 0]);
    other.stop().await.unwrap();
    house.stop().await.unwrap();
}

#[tokio::test]
async fn what_happens_at_one_replica_reaches_who_waits_at_the_other_without_announcements() {
    let database = postgres::database().await;
    let settings = "pool_mode = transaction\ndefault_pool_size = 4";
    let Some(pooler) = Pooler::start(&database, settings).await else {
        return;
    };
    let url = pooler.url(&database);
    let house = House::with(&[("DATABASE_URL", &url)]).await;
    let other = house.replica(&[("DATABASE_URL", &url)]).await;
    let ada = house.user("ada").await;
    let begun = ada.connect("gmail").await;
    let there = ada.at(&other);
    let mut stream = Reader::open(&there, None).await;
    // The other replica learns nothing from looking at Nango by itself.
    house
        .faults(json!({ "consent": "allow", "only": "tags", "status": 500 }))
        .await;
    let path = format!(
        "/connections/{}?wait=25",
        begun["connection_id"].as_str().unwrap()
    );
    let waiting = async {
        let waited = there.get(&path).await;
        (waited, Instant::now())
    };
    let reading = async {
        let event = stream.next().await.expect("the stream goes on");
        (event, Instant::now())
    };
    let granting = async {
        house.popup(begun["oauth_url"].as_str().unwrap()).await;
        Instant::now()
    };
    let ((waited, ended), (event, read), granted) = tokio::join!(waiting, reading, granting);
    assert_eq!(waited["status"], "connected");
    assert_eq!(event["kind"], "connected");
    for (what, when) in [("the wait", ended), ("the stream", read)] {
        let delay = when.saturating_duration_since(granted);
        assert!(delay < house::PROMPTLY, "{what}: {delay:?}");
    }
}
