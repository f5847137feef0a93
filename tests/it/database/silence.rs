//! Connections to the database that die without a word, as a firewall's do, or those to a server whose host is gone.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use reqwest::{Method, StatusCode};
use serde_json::json;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use url::Url;
use uuid::Uuid;

use crate::house::House;
use crate::postgres::{self, TestDatabase};
use crate::truth::eventually;
use crate::truth::streams::Reader;

/// Stands between the service and PostgreSQL.
struct Relay {
    address: SocketAddr,
    silenced: Arc<Mutex<CancellationToken>>,
}

impl Relay {
    async fn before(database: &TestDatabase) -> Self {
        let options: PgConnectOptions = database.url().parse().unwrap();
        let server = (options.get_host().to_owned(), options.get_port());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let silenced = Arc::new(Mutex::new(CancellationToken::new()));
        let current = silenced.clone();
        tokio::spawn(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let mut server = TcpStream::connect((server.0.as_str(), server.1))
                    .await
                    .unwrap();
                let silenced = current.lock().unwrap().clone();
                tokio::spawn(async move {
                    let copying = copy_bidirectional(&mut client, &mut server);
                    if silenced.run_until_cancelled(copying).await.is_none() {
                        // Neither side is told.
                        std::future::pending::<()>().await;
                    }
                });
            }
        });
        Self { address, silenced }
    }

    /// The database's address by this way.
    fn url(&self, database: &TestDatabase) -> String {
        let mut url = Url::parse(database.url()).unwrap();
        url.set_host(Some(&self.address.ip().to_string())).unwrap();
        url.set_port(Some(self.address.port())).unwrap();
        url.into()
    }

    /// Nothing passes any more on the connections that there are. New ones work.
    fn silence(&self) {
        let mut silenced = self.silenced.lock().unwrap();
        std::mem::take(&mut *silenced).cancel();
    }
}

/// A house that reaches its database through a relay, and the database's own address.
async fn house_behind_a_relay() -> (House, Relay, String) {
    let database = postgres::database().await;
    let relay = Relay::before(&database).await;
    let (direct, url) = (database.url().to_owned(), relay.url(&database));
    let settings = [("DATABASE_URL", url.as_str()), ("DATABASE_POOL_SIZE", "20")];
    let house = House::build_over(database, None, &settings, |_| {}).await;
    (house, relay, direct)
}

#[tokio::test]
async fn a_list_is_answered_again_after_its_statement_got_no_answer() {
    let (house, relay, direct) = house_behind_a_relay().await;
    let ada = house.user("ada").await;
    let list = async || {
        let request = ada.request(Method::GET, "/connections");
        request.send().await.unwrap().status()
    };
    let mut sql = PgConnection::connect(&direct).await.unwrap();
    let lock = "begin; lock table user_connector_connection";
    sqlx::raw_sql(lock).execute(&mut sql).await.unwrap();
    let losing = async {
        let waits = "select exists (select from pg_locks where not granted and database = \
                     (select oid from pg_database where datname = current_database()))";
        eventually(async || sqlx::query_scalar(waits).fetch_one(&mut sql).await.unwrap()).await;
        relay.silence();
        sqlx::raw_sql("rollback").execute(&mut sql).await.unwrap();
    };
    let (first, ()) = tokio::join!(list(), losing);
    assert_eq!(first, StatusCode::SERVICE_UNAVAILABLE);
    // The pool's other connections are as dead.
    for _ in 0..10 {
        match list().await {
            StatusCode::OK => return,
            status => assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE),
        }
    }
    panic!("no list is answered");
}

#[tokio::test]
async fn a_stream_has_its_events_after_the_listener_was_cut_off() {
    let (house, relay, direct) = house_behind_a_relay().await;
    let elsewhere = house.replica(&[("DATABASE_URL", &direct)]).await;
    let ada = house.user("ada").await;
    let begun = ada.connect("gmail").await;
    let path = format!("/connections/{}", begun["connection_id"].as_str().unwrap());
    let there = ada.at(&elsewhere);
    let rename = async || {
        let label = json!({ "label": Uuid::new_v4() });
        let (status, told) = there.call(Method::PATCH, &path, Some(label)).await;
        assert_eq!(status, StatusCode::OK, "{told}");
    };
    let mut reader = Reader::open(&ada, None).await;
    relay.silence();
    rename().await;
    let event = match reader.next().await {
        Some(event) => event,
        // It was reading just then. The next has to be told of something, too.
        None => {
            reader = Reader::open(&ada, None).await;
            rename().await;
            reader.next().await.expect("the stream goes on")
        }
    };
    assert_eq!(event["kind"], "updated");
}

#[tokio::test]
async fn a_connection_that_got_no_answer_gives_its_place_in_the_pool_back() {
    let database = postgres::database().await;
    let relay = Relay::before(&database).await;
    // Three places, of which each is in use when the server falls silent.
    let patchbay = postgres::pool(relay.url(&database), 3).await.unwrap();
    let mut used = Vec::new();
    for _ in 0..3 {
        let mut tx = patchbay.begin_single().await.unwrap();
        sqlx::query("select 1").execute(&mut tx).await.unwrap();
        used.push(tx);
    }
    relay.silence();
    drop(used);
    for _ in 0..5 {
        if patchbay.ping().await.is_ok() {
            return;
        }
    }
    panic!("the pool has no place");
}
