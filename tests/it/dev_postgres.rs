use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use dev_postgres::{DevPostgres, Durability, Error};
use sqlx::{Connection, PgConnection};

use crate::eventually::eventually;

/// The variable with the folder for the helper at the end of this file.
const FOLDER: &str = "PATCHBAY_TEST_POSTGRES_FOLDER";

async fn start(folder: &Path) -> Result<DevPostgres, Error> {
    DevPostgres::start(folder, Durability::Disposable).await
}

/// Returns an empty folder of the test.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("local-postgres-{name}"));
    let _ = fs::remove_dir_all(&folder);
    folder
}

async fn execute(url: &str, statement: &'static str) -> sqlx::Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::query(statement).execute(&mut connection).await?;
    connection.close().await
}

async fn wait_until_gone(url: &str) {
    eventually(async || PgConnection::connect(url).await.is_err()).await;
}

#[tokio::test]
async fn data_persists_across_restarts() {
    let folder = folder("reused");
    let first = start(&folder).await.unwrap();
    execute(first.url(), "create table kept ()").await.unwrap();
    let url = first.url().to_owned();
    first.stop().await;
    assert!(PgConnection::connect(&url).await.is_err());

    let second = start(&folder).await.unwrap();
    execute(second.url(), "drop table kept").await.unwrap();
    second.stop().await;
}

#[tokio::test]
async fn server_requires_password_and_listens_on_loopback_only() {
    let server = start(&folder("guarded")).await.unwrap();
    let mut url = url::Url::parse(server.url()).unwrap();
    let mut connection = PgConnection::connect(url.as_str()).await.unwrap();
    let encoding: String = sqlx::query_scalar("show server_encoding")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    let listens: String = sqlx::query_scalar("show listen_addresses")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    let sockets: String = sqlx::query_scalar("show unix_socket_directories")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(
        (&*encoding, &*listens, &*sockets),
        ("UTF8", "127.0.0.1", "")
    );

    url.set_password(Some("guessed")).unwrap();
    let refused = PgConnection::connect(url.as_str()).await.unwrap_err();
    let code = refused.as_database_error().unwrap().code().unwrap();
    assert_eq!(code, "28P01");
}

#[tokio::test]
async fn start_fails_when_folder_is_in_use() {
    let folder = folder("contended");
    let server = start(&folder).await.unwrap();
    let error = start(&folder).await.err().unwrap();
    assert!(matches!(error, Error::InUse { .. }), "{error}");
    execute(server.url(), "select 1").await.unwrap();
}

#[tokio::test]
async fn server_stops_when_dropped() {
    let server = start(&folder("dropped")).await.unwrap();
    let url = server.url().to_owned();
    drop(server);
    wait_until_gone(&url).await;
}

#[tokio::test]
async fn start_recovers_from_crash_leftovers() {
    let folder = folder("crashed");
    let first = DevPostgres::start(&folder, Durability::Durable)
        .await
        .unwrap();
    execute(first.url(), "create table kept ()").await.unwrap();
    let (url, home) = (first.url().to_owned(), first.folder().to_owned());
    let data = fs::read_dir(&home)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.join("postmaster.pid").exists())
        .unwrap();
    let pid_file = fs::read_to_string(data.join("postmaster.pid")).unwrap();
    let killed = Command::new("kill")
        .args(["-KILL", pid_file.lines().next().unwrap()])
        .status();
    assert!(killed.unwrap().success());
    wait_until_gone(&url).await;
    drop(first);

    // As after a reboot: another process of the same user has the old server's process id.
    let mut lines: Vec<&str> = pid_file.lines().collect();
    let other = std::process::id().to_string();
    lines[0] = &other;
    fs::write(data.join("postmaster.pid"), lines.join("\n")).unwrap();
    // As after a crash during the first start.
    fs::create_dir_all(home.join("data.new/base")).unwrap();

    let second = DevPostgres::start(&folder, Durability::Durable)
        .await
        .unwrap();
    execute(second.url(), "drop table kept").await.unwrap();
    second.stop().await;
}

#[tokio::test]
async fn server_stops_when_its_process_is_killed() {
    let folder = folder("killed");
    let (mut process, url) = start_in_another_process(&folder);
    execute(&url, "create table kept ()").await.unwrap();
    // A connection that stays open must not keep the server alive.
    let stored = PgConnection::connect(&url).await.unwrap();
    process.kill().unwrap();
    process.wait().unwrap();

    let second = start(&folder).await.unwrap();
    assert!(PgConnection::connect(&url).await.is_err());
    execute(second.url(), "drop table kept").await.unwrap();
    second.stop().await;
    drop(stored);
}

/// Runs the helper below as a separate process until it reports its server's URL.
fn start_in_another_process(folder: &Path) -> (Child, String) {
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "dev_postgres::helper", "--ignored"])
        .arg("--nocapture")
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let url = lines
        .find_map(|line| line.unwrap().strip_prefix("url=").map(ToOwned::to_owned))
        .unwrap();
    (process, url)
}

#[tokio::test]
#[ignore = "not a test: the process that the test above kills"]
async fn helper() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let server = start(Path::new(&folder)).await.unwrap();
    println!("\nurl={}", server.url());
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn start_falls_back_when_folder_cannot_be_created() {
    let blocked = folder("blocked");
    fs::write(&blocked, "a file where the folder should be").unwrap();
    let server = start(&blocked).await.unwrap();
    let home = server.folder().to_owned();
    assert!(home.starts_with("/var/tmp"), "{}", home.display());
    server.stop().await;
    fs::remove_dir_all(home).unwrap();
    fs::remove_file(blocked).unwrap();
}
