//! Connections to the database that hang without an error, as after a firewall's timeout or the loss of the host.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::future::{join_all, try_join_all};
use reqwest::{Method, StatusCode};
use serde_json::json;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use url::Url;
use uuid::Uuid;

use crate::eventually::{TIMEOUT, eventually, eventually_locked};
use crate::reliability::event_streams::StreamReader;
use crate::startup::{list, serve};
use crate::test_app::{TestApp, client};
use crate::test_database::{self, TestDatabase};

/// A proxy between the service and PostgreSQL.
pub(crate) struct HangingProxy {
    address: SocketAddr,
    silenced: Arc<Mutex<CancellationToken>>,
    silent: Arc<AtomicBool>,
}

impl HangingProxy {
    pub(crate) async fn in_front_of(database: &TestDatabase) -> Self {
        let options: PgConnectOptions = database.url().parse().unwrap();
        let server = (options.get_host().to_owned(), options.get_port());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let silenced = Arc::new(Mutex::new(CancellationToken::new()));
        let current = silenced.clone();
        let silent = Arc::new(AtomicBool::new(false));
        let is_silent = silent.clone();
        tokio::spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                if is_silent.load(Ordering::SeqCst) {
                    tokio::spawn(async move {
                        let _client = client;
                        std::future::pending::<()>().await;
                    });
                    continue;
                }
                let mut server = TcpStream::connect((server.0.as_str(), server.1))
                    .await
                    .unwrap();
                let silenced = current.lock().unwrap().clone();
                tokio::spawn(async move {
                    let copying = copy_bidirectional(&mut client, &mut server);
                    if silenced.run_until_cancelled(copying).await.is_none() {
                        // Keep both connections open without forwarding data.
                        std::future::pending::<()>().await;
                    }
                });
            }
        });
        Self {
            address,
            silenced,
            silent,
        }
    }

    /// Returns the database's URL through this proxy.
    pub(crate) fn url(&self, database: &TestDatabase) -> String {
        let mut url = Url::parse(database.url()).unwrap();
        url.set_host(Some(&self.address.ip().to_string())).unwrap();
        url.set_port(Some(self.address.port())).unwrap();
        url.into()
    }

    /// Stops forwarding on all connections.
    pub(crate) fn silence(&self) {
        self.silent.store(true, Ordering::SeqCst);
        self.hang();
    }

    /// Stops forwarding on existing connections. New ones work.
    pub(crate) fn hang(&self) {
        let mut silenced = self.silenced.lock().unwrap();
        std::mem::take(&mut *silenced).cancel();
    }
}

/// Starts a test app that reaches its database through a proxy. Returns both with the database's own URL.
async fn app_behind_proxy() -> (TestApp, HangingProxy, String) {
    let database = test_database::database().await;
    let relay = HangingProxy::in_front_of(&database).await;
    let (direct, url) = (database.url().to_owned(), relay.url(&database));
    let settings = [("DATABASE_URL", url.as_str()), ("DATABASE_POOL_SIZE", "20")];
    let app = TestApp::build_on(database, None, &settings, |_| {}).await;
    (app, relay, direct)
}

#[tokio::test]
async fn list_recovers_when_database_connection_hangs() {
    let (app, relay, direct) = app_behind_proxy().await;
    let ada = app.user("ada").await;
    let list = async || {
        let request = ada.request(Method::GET, "/connections");
        request.send().await.unwrap().status()
    };
    let mut sql = PgConnection::connect(&direct).await.unwrap();
    let lock = "begin; lock table user_connector_connection";
    sqlx::raw_sql(lock).execute(&mut sql).await.unwrap();
    let losing = async {
        eventually_locked(&mut sql).await;
        relay.hang();
        sqlx::raw_sql("rollback").execute(&mut sql).await.unwrap();
    };
    let (first, ()) = tokio::join!(list(), losing);
    assert_eq!(first, StatusCode::SERVICE_UNAVAILABLE);
    // The pool's other connections hang, too.
    eventually(async || {
        let status = list().await;
        assert!(
            [StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE].contains(&status),
            "{status}"
        );
        status == StatusCode::OK
    })
    .await;
}

#[tokio::test]
async fn stream_receives_events_when_listener_connection_hangs() {
    let (app, relay, direct) = app_behind_proxy().await;
    let elsewhere = app.replica(&[("DATABASE_URL", &direct)]).await;
    let ada = app.user("ada").await;
    let started = ada.connect("gmail").await;
    let path = format!(
        "/connections/{}",
        started["connection_id"].as_str().unwrap()
    );
    let ada_on_replica = ada.at(&elsewhere);
    let rename = async || {
        let label = json!({ "label": Uuid::new_v4() });
        let (status, reported) = ada_on_replica.call(Method::PATCH, &path, Some(label)).await;
        assert_eq!(status, StatusCode::OK, "{reported}");
    };
    let mut reader = StreamReader::open(&ada, None).await;
    relay.hang();
    rename().await;
    let event = match reader.next().await {
        Some(event) => event,
        // The hang interrupted a read in progress and ended the stream. The next stream needs a change of its own.
        None => {
            reader = StreamReader::open(&ada, None).await;
            rename().await;
            reader.next().await.expect("the stream goes on")
        }
    };
    assert_eq!(event["kind"], "updated");
}

#[tokio::test]
async fn hung_connections_return_their_pool_slots() {
    let database = test_database::database().await;
    let relay = HangingProxy::in_front_of(&database).await;
    // Three connections, all in use when the server hangs: in a statement, or on the return to the pool.
    let patchbay = test_database::pool(relay.url(&database), 3).await.unwrap();
    let finished = Arc::new(AtomicUsize::new(0));
    let mut callers = JoinSet::new();
    for _ in 0..3 {
        let (patchbay, finished) = (patchbay.clone(), finished.clone());
        callers.spawn(async move {
            while sqlx::query("select 1").execute(&patchbay).await.is_ok() {
                finished.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    eventually(async || finished.load(Ordering::SeqCst) > 100).await;
    relay.hang();
    callers.shutdown().await;
    let begin_three = || try_join_all((0..3).map(|_| patchbay.begin()));
    eventually(async || begin_three().await.is_ok()).await;
}

#[tokio::test]
async fn abandoned_statement_closes_its_connection() {
    let database = test_database::database().await;
    let patchbay = test_database::pool(database.url(), 1).await.unwrap();
    let server = async || -> i32 {
        let pid = sqlx::query_scalar("select pg_backend_pid()");
        pid.fetch_one(&patchbay).await.unwrap()
    };
    let first = server().await;
    assert_eq!(server().await, first);
    let endless = sqlx::query("select pg_sleep(60)").execute(&patchbay);
    let abandoned = tokio::time::timeout(Duration::from_millis(100), endless).await;
    abandoned.expect_err("the statement has not ended");
    assert_ne!(server().await, first);
}

#[tokio::test]
async fn transactions_fail_and_close_when_connections_hang() {
    let database = test_database::database().await;
    let proxy = HangingProxy::in_front_of(&database).await;
    let patchbay = test_database::pool(proxy.url(&database), 3).await.unwrap();
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(patchbay.begin().await.unwrap());
    }
    proxy.hang();
    let started = Instant::now();
    let statements = open.into_iter().map(async |mut tx| {
        let result = sqlx::query("select 1").execute(&mut tx).await;
        result.expect_err("the server does not answer");
        // Dropping it returns its connection to the pool.
    });
    join_all(statements).await;
    // Without a timeout of its own, a statement waits until TCP gives up, after 15 minutes.
    assert!(started.elapsed() < TIMEOUT);
    for _ in 0..3 {
        test_database::ping(&patchbay).await.unwrap();
    }
}

#[tokio::test]
async fn service_stops_in_time_when_database_is_silent() {
    let database = test_database::database().await;
    let proxy = HangingProxy::in_front_of(&database).await;
    let (mut process, url) = serve(&proxy.url(&database), &[]);
    process.until_ready_is(&url, StatusCode::OK).await;
    proxy.silence();
    let waiting = tokio::spawn({
        let url = url.clone();
        async move { list(&client(), &url).await.status() }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    process.signal("TERM").await;
    let started = Instant::now();
    assert!(process.ended().await.success(), "{}", process.output());
    // The stop itself may take 23 seconds.
    assert!(started.elapsed() < Duration::from_secs(40));
    assert_eq!(waiting.await.unwrap(), StatusCode::SERVICE_UNAVAILABLE);
}
