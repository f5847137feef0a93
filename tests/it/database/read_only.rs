//! A server that stops accepting writes, like the old primary after a failover.

use std::path::Path;

use dev_postgres::{DevPostgres, Durability};
use patchbay::cli::doctor::Level;
use patchbay::db::{Database, DatabaseError};
use reqwest::{Method, StatusCode};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use url::Url;

use crate::doctor::{failures, run_doctor};
use crate::eventually::{eventually, eventually_value};
use crate::process::Process;
use crate::startup::{list, serve};
use crate::test_app::{TestApp, client};
use crate::test_database;

/// A PostgreSQL of this test, with an empty database.
struct Server {
    postgres: DevPostgres,
    database: String,
}

impl Server {
    async fn start(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let postgres = DevPostgres::start(&folder, Durability::Disposable)
            .await
            .unwrap();
        let server = Self {
            postgres,
            database: format!("test_{}", uuid::Uuid::new_v4().simple()),
        };
        server
            .execute("alter system reset all; select pg_reload_conf()")
            .await;
        server
            .execute(&format!("create database {}", server.database))
            .await;
        server
    }

    /// Executes statements one by one, even while the server is read-only for others.
    async fn execute(&self, statements: &str) {
        let mut sql = PgConnection::connect(self.postgres.url()).await.unwrap();
        for statement in
            std::iter::once("set default_transaction_read_only = off").chain(statements.split("; "))
        {
            let statement = AssertSqlSafe(statement.to_owned());
            sqlx::raw_sql(statement).execute(&mut sql).await.unwrap();
        }
    }

    /// Makes all sessions of the service read-only, or writable again.
    async fn set_read_only(&self, read_only: bool) {
        let value = if read_only { "on" } else { "off" };
        let change = format!(
            "alter system set default_transaction_read_only = {value}; select pg_reload_conf()"
        );
        self.execute(&change).await;
        eventually(async || {
            let mut new = PgConnection::connect(self.postgres.url()).await.unwrap();
            let now: String = sqlx::query_scalar("show default_transaction_read_only")
                .fetch_one(&mut new)
                .await
                .unwrap();
            now == value
        })
        .await;
    }

    fn url(&self) -> Url {
        let mut url = Url::parse(self.postgres.url()).unwrap();
        url.set_path(&self.database);
        url
    }
}

async fn write(database: &Database) -> sqlx::Result<i32> {
    let mut tx = database.begin().await?;
    sqlx::query("insert into job (name) values ('written') on conflict (name) do update set finished_at = now()")
        .execute(&mut tx)
        .await?;
    let port: i32 = sqlx::query_scalar("select inet_server_port()")
        .fetch_one(&mut tx)
        .await?;
    tx.commit().await?;
    Ok(port)
}

#[tokio::test]
async fn read_only_server_is_unavailable_until_it_accepts_writes() {
    let server = Server::start("read-only").await;
    let (url, app) = (server.url().to_string(), TestApp::with_system_clock().await);
    let (mut process, service) = serve(&url, &[]);
    process.until_ready_is(&service, StatusCode::OK).await;
    assert_eq!(list(&client(), &service).await.status(), StatusCode::OK);

    server.set_read_only(true).await;
    let unready = process
        .until_ready_is(&service, StatusCode::SERVICE_UNAVAILABLE)
        .await;
    assert_eq!(unready["code"], "database_unavailable");
    assert!(
        unready["detail"].as_str().unwrap().contains("read-only"),
        "{unready}"
    );
    let (mut starting, _) = serve(&url, &[("DATABASE_STARTUP_TIMEOUT_SECONDS", "1")]);
    assert_eq!(starting.ended().await.code(), Some(1));
    let output = starting.output();
    assert!(output.contains("read-only"), "{output}");
    let report = run_doctor(&app, &[("DATABASE_URL", &url)], None).await;
    let found = failures(&report);
    assert_eq!(
        (found[0].0, found[0].1),
        ("database", Level::Fail),
        "{found:?}"
    );
    assert!(found[0].2.contains("read-only"), "{found:?}");
    let (mut waiting, address) = serve(&url, &[]);
    waiting
        .until_ready_is(&address, StatusCode::SERVICE_UNAVAILABLE)
        .await;
    eventually(async || waiting.output().contains("waiting for the database")).await;

    server.set_read_only(false).await;
    process.until_ready_is(&service, StatusCode::OK).await;
    waiting.until_ready_is(&address, StatusCode::OK).await;
}

#[tokio::test]
async fn refused_write_is_retryable_and_closes_the_connection() {
    let server = Server::start("refused-write").await;
    let url = server.url().to_string();
    let app = TestApp::build_on(
        test_database::database().await,
        None,
        &[("DATABASE_URL", &url)],
        |_| {},
    )
    .await;
    let ada = app.user("ada").await;
    let started = ada.connect("gmail").await;
    let path = format!(
        "/connections/{}",
        started["connection_id"].as_str().unwrap()
    );
    server.set_read_only(true).await;
    for _ in 0..10 {
        let request = ada
            .request(Method::PATCH, &path)
            .json(&json!({ "label": "x" }));
        let refused = request.send().await.unwrap();
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(refused.headers().contains_key("retry-after"));
    }
    server.set_read_only(false).await;
    for _ in 0..10 {
        let (status, body) = ada
            .call(Method::PATCH, &path, Some(json!({ "label": "x" })))
            .await;
        assert_eq!(status, StatusCode::OK, "{body}");
    }
}

#[tokio::test]
async fn pool_follows_the_primary_among_several_hosts() {
    let servers = [
        Server::start("first-host").await,
        Server::start("second-host").await,
    ];
    let ports = [0, 1].map(|number: usize| servers[number].url().port().unwrap());
    for (server, port) in servers.iter().zip(ports) {
        // The same user and database on both servers.
        server
            .execute("drop database if exists app; drop role if exists app")
            .await;
        server
            .execute("create role app superuser login password 'app'; create database app")
            .await;
        let url = format!("postgres://app:app@127.0.0.1:{port}/app");
        test_database::pool(url, 1)
            .await
            .unwrap()
            .migrate()
            .await
            .unwrap();
    }
    servers[0].set_read_only(true).await;
    let url = format!(
        "postgres://app:app@127.0.0.1:{},127.0.0.1:{}/app?target_session_attrs=read-write&sslmode=disable",
        ports[0], ports[1]
    );
    let patchbay = test_database::pool(url.clone(), 3).await.unwrap();
    assert_eq!(write(&patchbay).await.unwrap(), i32::from(ports[1]));

    servers[1].set_read_only(true).await;
    let none = test_database::pool(url, 3).await.err();
    assert!(matches!(none, Some(DatabaseError::ReadOnly)), "{none:?}");
    servers[0].set_read_only(false).await;
    let written = eventually_value(async || write(&patchbay).await, Result::is_ok).await;
    assert_eq!(written.unwrap(), i32::from(ports[0]));
    patchbay.check_ready().await.unwrap();
}

#[tokio::test]
async fn migrate_command_names_the_read_only_server() {
    let server = Server::start("read-only-migrate").await;
    server.set_read_only(true).await;
    let mut process = Process::start(&["migrate"], &[("DATABASE_URL", server.url().as_str())]);
    assert_eq!(process.ended().await.code(), Some(1));
    assert!(
        process.output().contains("read-only"),
        "{}",
        process.output()
    );
}
