//! Start of the program, waiting for the database, losing it, and stopping.

use std::sync::Arc;

use jsonwebtoken::{EncodingKey, Header, encode};
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use url::Url;

use crate::eventually::{eventually, eventually_locked};
use crate::process::Process;
use crate::test_app::{JWT_SECRET, client, free_port};
use crate::test_database;

/// A proxy of the test server that can be stopped and restarted.
struct DatabaseRelay {
    port: u16,
    server: String,
    open: Option<JoinHandle<()>>,
}

impl DatabaseRelay {
    fn new(database_url: &str) -> Self {
        let server = Url::parse(database_url).unwrap();
        let port = server.port().unwrap_or(5432);
        Self {
            port: free_port(),
            server: format!("{}:{port}", server.host_str().unwrap()),
            open: None,
        }
    }

    fn url(&self, database_url: &str) -> String {
        let mut url = Url::parse(database_url).unwrap();
        url.set_host(Some("127.0.0.1")).unwrap();
        url.set_port(Some(self.port)).unwrap();
        url.into()
    }

    async fn open(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
        let server: Arc<str> = self.server.as_str().into();
        self.open = Some(tokio::spawn(async move {
            // The connections end with the task.
            let mut connections = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                let server = server.clone();
                connections.spawn(async move {
                    let mut upstream = TcpStream::connect(&*server).await.unwrap();
                    let _ = copy_bidirectional(&mut client, &mut upstream).await;
                });
            }
        }));
    }

    async fn close(&mut self) {
        let open = self.open.take().unwrap();
        open.abort();
        assert!(open.await.unwrap_err().is_cancelled());
    }
}

/// Starts `serve` without Nango. Returns it with its URL.
pub(crate) fn serve(database_url: &str, settings: &[(&str, &str)]) -> (Process, String) {
    let port = free_port().to_string();
    let url = format!("http://127.0.0.1:{port}");
    let mut all = vec![
        ("HOST", "127.0.0.1"),
        ("PORT", &port),
        ("PUBLIC_URL", &url),
        ("DATABASE_URL", database_url),
        ("NANGO_ENABLED", "false"),
        ("AUTH_JWT_SECRET", JWT_SECRET),
        ("SHUTDOWN_DELAY_SECONDS", "0"),
    ];
    all.extend_from_slice(settings);
    (Process::start(&["serve"], &all), url.clone())
}

pub(crate) async fn list(client: &Client, url: &str) -> Response {
    let claims = json!({ "sub": "ada", "exp": 4_000_000_000_u64 });
    let key = EncodingKey::from_secret(JWT_SECRET.as_bytes());
    let token = encode(&Header::default(), &claims, &key).unwrap();
    client
        .get(format!("{url}/api/v1/connectors/connections"))
        .bearer_auth(token)
        .send()
        .await
        .unwrap()
}

#[tokio::test]
async fn serve_lists_missing_settings_and_suggests_sandbox() {
    let mut process = Process::start(&[], &[]);
    assert_eq!(process.ended().await.code(), Some(1));
    let text = process.output();
    for variable in [
        "PUBLIC_URL",
        "DATABASE_URL",
        "NANGO_SECRET_KEY",
        "NANGO_WEBHOOK_SIGNING_KEY",
        "AUTH_JWT_SECRET",
        "AUTH_JWKS_URL",
    ] {
        assert!(text.contains(variable), "{text}");
    }
    assert!(text.contains("patchbay sandbox"), "{text}");
}

#[tokio::test]
async fn unreadable_env_file_is_reported() {
    let folder = crate::process::new_folder();
    std::fs::write(folder.join(".env"), "PORT='80").unwrap();
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_patchbay"));
    let mut process = Process::start_in(&folder, program, &["serve"], &[]).unwrap();
    assert_eq!(process.ended().await.code(), Some(1));
    assert!(
        process.output().contains(".env cannot be read"),
        "{}",
        process.output()
    );
}

#[tokio::test]
async fn service_waits_for_database_and_survives_its_loss() {
    let database = test_database::database().await;
    let mut way = DatabaseRelay::new(database.url());
    let (mut process, url) = serve(&way.url(database.url()), &[]);

    let starting = process
        .until_ready_is(&url, StatusCode::SERVICE_UNAVAILABLE)
        .await;
    assert_eq!(starting["code"], "starting");
    let alive = client().get(format!("{url}/healthz")).send().await.unwrap();
    assert_eq!(alive.status(), StatusCode::OK);
    assert_eq!(
        list(&client(), &url).await.status(),
        StatusCode::SERVICE_UNAVAILABLE
    );

    way.open().await;
    process.until_ready_is(&url, StatusCode::OK).await;
    assert_eq!(list(&client(), &url).await.status(), StatusCode::OK);

    way.close().await;
    let lost = process
        .until_ready_is(&url, StatusCode::SERVICE_UNAVAILABLE)
        .await;
    assert_eq!(lost["code"], "database_unavailable");
    let refused = list(&client(), &url).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.headers().contains_key("retry-after"));
    let problem: Value = refused.json().await.unwrap();
    assert_eq!(problem["code"], "database_unavailable");
    let alive = client().get(format!("{url}/healthz")).send().await.unwrap();
    assert_eq!(alive.status(), StatusCode::OK);

    way.open().await;
    process.until_ready_is(&url, StatusCode::OK).await;
    assert_eq!(list(&client(), &url).await.status(), StatusCode::OK);
    process.signal("TERM").await;
    assert!(process.ended().await.success(), "{}", process.output());
}

#[tokio::test]
async fn start_fails_when_database_startup_timeout_expires() {
    let database = test_database::database().await;
    let way = DatabaseRelay::new(database.url());
    let (mut process, _) = serve(
        &way.url(database.url()),
        &[("DATABASE_STARTUP_TIMEOUT_SECONDS", "1")],
    );
    assert_eq!(process.ended().await.code(), Some(1));
    let text = process.output();
    assert!(
        text.contains("the database of DATABASE_URL cannot be reached"),
        "{text}"
    );
    assert!(text.contains("waiting for the database"), "{text}");
}

#[tokio::test]
async fn service_stops_while_waiting_for_database() {
    let database = test_database::database().await;
    let way = DatabaseRelay::new(database.url());
    let (mut process, url) = serve(&way.url(database.url()), &[]);
    process
        .until_ready_is(&url, StatusCode::SERVICE_UNAVAILABLE)
        .await;
    process.signal("TERM").await;
    assert!(process.ended().await.success(), "{}", process.output());
}

#[tokio::test]
async fn permanent_database_errors_fail_immediately() {
    let database = test_database::database().await;
    let mut wrong_password = Url::parse(database.url()).unwrap();
    wrong_password.set_password(Some("hunter2")).unwrap();
    let mut wrong_database = Url::parse(database.url()).unwrap();
    wrong_database.set_path("nowhere");
    let mut no_tls = Url::parse(database.url()).unwrap();
    no_tls.set_query(Some("sslmode=require"));
    for (url, reported) in [
        (wrong_password, "password authentication failed"),
        (wrong_database, "database \"nowhere\" does not exist"),
        (no_tls, "server does not support TLS"),
    ] {
        let password = url.password().unwrap().to_owned();
        let (mut process, _) = serve(url.as_str(), &[]);
        assert_eq!(process.ended().await.code(), Some(1));
        let text = process.output();
        assert!(
            text.contains(reported) && text.contains("DATABASE_URL"),
            "{text}"
        );
        assert!(!text.contains(&password), "{text}");
    }
}

#[tokio::test]
async fn port_in_use_is_reported_clearly() {
    let database = test_database::database().await;
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (mut process, _) = serve(database.url(), &[("PORT", &port)]);
    assert_eq!(process.ended().await.code(), Some(1));
    let text = process.output();
    let reported = format!("cannot listen on 127.0.0.1:{port}: Address already in use");
    assert!(text.contains(&reported), "{text}");
    assert!(text.contains("set PORT to another one"), "{text}");
}

#[tokio::test]
async fn host_of_another_machine_is_reported_clearly() {
    let database = test_database::database().await;
    // No machine has an address of RFC 5737.
    let (mut process, _) = serve(database.url(), &[("HOST", "192.0.2.1")]);
    assert_eq!(process.ended().await.code(), Some(1));
    let text = process.output();
    assert!(
        text.contains("HOST is not an address of this machine"),
        "{text}"
    );
    assert!(!text.contains("set PORT"), "{text}");
}

#[tokio::test]
async fn disabled_nango_is_logged_at_start() {
    let database = test_database::database().await;
    let (mut process, url) = serve(database.url(), &[]);
    process.until_ready_is(&url, StatusCode::OK).await;
    let text = process.output();
    let logged = text.matches("nango is disabled (NANGO_ENABLED=false)");
    assert_eq!(logged.count(), 1, "{text}");
}

#[tokio::test]
async fn in_flight_requests_complete_before_shutdown() {
    let database = test_database::database().await;
    let (mut process, url) = serve(database.url(), &[]);
    process.until_ready_is(&url, StatusCode::OK).await;
    let mut blocker = PgConnection::connect(database.url()).await.unwrap();
    sqlx::raw_sql("begin; lock table user_connector_connection in access exclusive mode")
        .execute(&mut blocker)
        .await
        .unwrap();
    let slow = tokio::spawn({
        let url = url.clone();
        async move { list(&client(), &url).await.status() }
    });
    eventually_locked(&mut blocker).await;

    process.signal("TERM").await;
    let address = url.trim_start_matches("http://");
    eventually(async || TcpStream::connect(address).await.is_err()).await;
    assert!(!slow.is_finished());
    sqlx::raw_sql("rollback")
        .execute(&mut blocker)
        .await
        .unwrap();
    assert_eq!(slow.await.unwrap(), StatusCode::OK);
    assert!(process.ended().await.success(), "{}", process.output());
}

#[tokio::test]
async fn migrate_command_needs_only_database_url() {
    let database = test_database::database().await;
    for _ in 0..2 {
        let mut process = Process::start(&["migrate"], &[("DATABASE_URL", database.url())]);
        assert!(process.ended().await.success(), "{}", process.output());
    }
    let mut connection = PgConnection::connect(database.url()).await.unwrap();
    let tables: i64 = sqlx::query_scalar(
        "select count(*) from pg_tables where schemaname = 'public' and tablename = 'connector'",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert_eq!(tables, 1);
}

#[tokio::test]
async fn serve_refuses_published_and_guessable_secrets_by_name() {
    let settings = [
        ("PUBLIC_URL", "http://localhost:8000"),
        ("DATABASE_URL", "postgres://patchbay@127.0.0.1:9/patchbay"),
        ("AUTH_JWT_SECRET", JWT_SECRET),
        ("NANGO_SECRET_KEY", "3b1f0c52-8a44-4d2e-9a55-0d8e1c6f7b21"),
        (
            "NANGO_WEBHOOK_SIGNING_KEY",
            "c9a1f6f0-5a0e-4c1c-9f0e-0a2f4b8d7e63",
        ),
    ];
    for (name, value, reported) in [
        (
            "SERVICE_API_KEYS",
            "sandbox=pbk_sandbox_0123456789abcdef0123456789abcdef",
            "the one of `patchbay sandbox`",
        ),
        (
            "NANGO_SECRET_KEY",
            "00000000-0000-4000-8000-000000000000",
            "still the value of the example file",
        ),
        ("NANGO_WEBHOOK_SIGNING_KEY", "k", "at least 16 characters"),
        (
            "PUBLIC_URL",
            "https://ada:hunter2@connect.example.com",
            "must not have a user or a password",
        ),
    ] {
        let mut settings = settings.to_vec();
        settings.push((name, value));
        let mut process = Process::start(&["serve"], &settings);
        assert_eq!(process.ended().await.code(), Some(1), "{name}");
        let text = process.output();
        assert!(text.contains(name) && text.contains(reported), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[tokio::test]
async fn serve_warns_of_keys_for_any_issuer_and_audience() {
    let database = test_database::database().await;
    let warning = "AUTH_ISSUER and AUTH_AUDIENCE are not set";
    for (others, warns) in [
        (&[][..], true),
        (&[("AUTH_ISSUER", "https://id.example.com/")], false),
        (&[("AUTH_AUDIENCE", "patchbay")], false),
    ] {
        let mut settings = vec![("AUTH_JWKS_URL", "https://id.example.com/keys")];
        settings.extend_from_slice(others);
        let (mut process, url) = serve(database.url(), &settings);
        process.until_ready_is(&url, StatusCode::OK).await;
        assert_eq!(process.output().contains(warning), warns, "{others:?}");
    }
    let (mut process, url) = serve(database.url(), &[]);
    process.until_ready_is(&url, StatusCode::OK).await;
    assert!(!process.output().contains(warning));
}
