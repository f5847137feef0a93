//! A new database for every test, on one private server per test process.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use dev_postgres::{DevPostgres, Durability, Error};
use patchbay::db::{Database, DatabaseConfig, DatabaseError};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};
use tokio::sync::OnceCell;
use url::Url;
use uuid::Uuid;

use crate::eventually::eventually;

/// An empty database, which is dropped soon after the value, even with open connections.
pub(crate) struct TestDatabase {
    url: Url,
    server: Url,
}

/// Creates an empty database, on the server of `TEST_DATABASE_URL` or on a private one.
pub(crate) async fn database() -> TestDatabase {
    create("").await
}

/// Creates a database with the current schema and no rows. It is a copy of one that was migrated before.
pub(crate) async fn migrated() -> TestDatabase {
    let template = TEMPLATE.get_or_init(|| Box::pin(create_template())).await;
    create(&format!("template {}", template.name())).await
}

async fn create_template() -> TestDatabase {
    let template = database().await;
    let patchbay = pool(template.url(), 1).await.unwrap();
    Box::pin(patchbay.migrate()).await.unwrap();
    patchbay.close().await;
    template
}

async fn create(options: &str) -> TestDatabase {
    let server = Url::parse(server_url().await).unwrap();
    let name = format!("test_{}", Uuid::new_v4().simple());
    execute(&server, format!("create database {name} {options}")).await;
    let mut url = server.clone();
    url.set_path(&name);
    TestDatabase { url, server }
}

/// Opens a pool of the service to an existing database.
pub(crate) async fn pool(url: impl Into<String>, size: u32) -> Result<Database, DatabaseError> {
    let config = DatabaseConfig {
        url: url.into().into(),
        pool_size: size,
        startup_timeout: Duration::ZERO,
    };
    Database::connect(&config).await
}

/// Runs an empty transaction.
pub(crate) async fn ping(database: &Database) -> sqlx::Result<()> {
    let mut tx = database.begin().await?;
    sqlx::query("select 1").execute(&mut tx).await?;
    tx.commit().await
}

impl TestDatabase {
    /// Returns the database's URL.
    pub(crate) fn url(&self) -> &str {
        self.url.as_str()
    }

    fn name(&self) -> &str {
        self.url.path().trim_start_matches('/')
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let name = self.name().to_owned();
        let server = self.server.clone();
        // On a separate thread without a join: the server waits for connections that are being opened, and this test's
        // runtime could not complete them while it is blocked.
        std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(execute(
                    &server,
                    format!("drop database {name} with (force)"),
                ));
        });
    }
}

/// Lives as long as the process. Statics are not dropped, but the server ends with the process.
static SERVER: OnceCell<DevPostgres> = OnceCell::const_new();
/// Stays on a given server when the tests end, like the databases of killed tests.
static TEMPLATE: OnceCell<TestDatabase> = OnceCell::const_new();
static GIVEN_SERVER_URL: OnceCell<Option<String>> = OnceCell::const_new();

async fn server_url() -> &'static str {
    let given = GIVEN_SERVER_URL.get_or_init(async || std::env::var("TEST_DATABASE_URL").ok());
    match given.await {
        Some(url) => url,
        None => SERVER.get_or_init(start).await.url(),
    }
}

/// Starts a server in the first folder that no other test process uses, in `TEST_POSTGRES_DIR` if that is set.
async fn start() -> DevPostgres {
    let parent = std::env::var("TEST_POSTGRES_DIR");
    let parent = parent.unwrap_or_else(|_| env!("CARGO_TARGET_TMPDIR").to_owned());
    for number in 1.. {
        let folder = Path::new(&parent).join(format!("postgres-{number}"));
        match DevPostgres::start(&folder, Durability::Disposable).await {
            Err(Error::InUse { .. }) => {}
            started => {
                let server = started.unwrap();
                drop_leftovers(&server).await;
                return server;
            }
        }
    }
    unreachable!("some folder is free")
}

/// Drops the databases of killed tests.
async fn drop_leftovers(server: &DevPostgres) {
    let url = Url::parse(server.url()).unwrap();
    let mut connection = connect(server.url()).await;
    let leftovers: Vec<String> =
        sqlx::query_scalar("select datname::text from pg_database where datname like 'test\\_%'")
            .fetch_all(&mut connection)
            .await
            .unwrap();
    for name in leftovers {
        execute(&url, format!("drop database {name} with (force)")).await;
    }
}

async fn execute(server: &Url, statement: String) {
    let mut connection = connect(server.as_str()).await;
    sqlx::query(AssertSqlSafe(statement))
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
}

async fn connect(url: &str) -> sqlx::PgConnection {
    PgConnectOptions::from_str(url)
        .unwrap()
        .disable_statement_logging()
        .connect()
        .await
        .unwrap()
}

#[tokio::test]
async fn test_databases_are_empty_isolated_and_dropped() {
    let (one, other) = (database().await, database().await);
    let mut connection = connect(one.url()).await;
    sqlx::query("create table thing ()")
        .execute(&mut connection)
        .await
        .unwrap();
    let elsewhere: bool = sqlx::query_scalar("select to_regclass('thing') is null")
        .fetch_one(&mut connect(other.url()).await)
        .await
        .unwrap();
    assert!(elsewhere);

    let gone = one.name().to_owned();
    drop(one);
    let mut connection = connect(other.url()).await;
    eventually(async || {
        sqlx::query_scalar("select not exists (select from pg_database where datname = $1)")
            .bind(&gone)
            .fetch_one(&mut connection)
            .await
            .unwrap()
    })
    .await;
}
