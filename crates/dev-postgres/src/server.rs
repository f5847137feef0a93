//! The server's process, which ends with this process.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};

use crate::account::OsUser;
use crate::home::DataDir;
use crate::programs::Binaries;
use crate::{Durability, Error};

/// Runs the server until the pipe on standard input closes. Exits with the server's status.
///
/// `$0` is the log, and the arguments are the server's command line. The shell opens the log, so that the server's user
/// owns it. The reader of the pipe ends with the server, because the server's process id may be reused after that.
const SUPERVISOR: &str = r#"
trap '' HUP
exec 3<&0 </dev/null 2>"$0"
"$@" 3<&- &
server=$!
{ read -r _; kill -INT "$server"; } <&3 &
reader=$!
exec 3<&-
wait "$server"
status=$?
kill "$reader"
exit "$status"
"#;

/// How long the server may take until it accepts connections. After a crash it replays its log first.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The maximum number of ports to try: another process may bind a free port before the server does.
const MAX_PORT_ATTEMPTS: usize = 3;

/// Starts the server. Returns its process and the URL of its database `patchbay`.
pub(super) async fn start(
    programs: &Binaries,
    account: &OsUser,
    data_dir: &DataDir,
    durability: Durability,
) -> Result<(Child, String), Error> {
    let password = data_dir.password()?;
    for _ in 0..MAX_PORT_ATTEMPTS {
        let port = free_port().map_err(Error::system("find a free port"))?;
        let mut child = spawn(programs, account, data_dir, durability, port)?;
        let url = |database| {
            format!("postgres://patchbay:{password}@127.0.0.1:{port}/{database}?sslmode=disable")
        };
        if let Some(connection) = connect(&url("postgres"), &mut child, data_dir).await? {
            create_database(connection)
                .await
                .map_err(|source| connection_refused(data_dir, source))?;
            return Ok((child, url("patchbay")));
        }
    }
    Err(not_started(data_dir))
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

fn spawn(
    programs: &Binaries,
    account: &OsUser,
    data_dir: &DataDir,
    durability: Durability,
    port: u16,
) -> Result<Child, Error> {
    let mut command = account.command("/bin/sh");
    command
        .args(["-c", SUPERVISOR])
        .arg(data_dir.log())
        .arg(programs.bin.join("postgres"))
        .arg("-D")
        .arg(data_dir.data(programs))
        .args(["-p", &port.to_string(), "-N", "300"])
        .args(["-c", "listen_addresses=127.0.0.1"])
        .args(["-c", "unix_socket_directories="]);
    if durability == Durability::Disposable {
        command.args(["-c", "fsync=off", "-c", "full_page_writes=off"]);
        command.args(["-c", "synchronous_commit=off"]);
    }
    command
        .stdin(Stdio::piped())
        .stdout(data_dir.server_lock()?)
        .stderr(Stdio::null())
        // In its own process group, so that Ctrl-C in a terminal reaches only this process, which then stops the
        // server.
        .process_group(0)
        .spawn()
        .map_err(Error::system("start PostgreSQL"))
}

/// Connects as soon as the server accepts connections; `None` if it has ended.
async fn connect(
    url: &str,
    child: &mut Child,
    data_dir: &DataDir,
) -> Result<Option<PgConnection>, Error> {
    let options = PgConnectOptions::from_str(url)
        .map_err(|source| connection_refused(data_dir, source))?
        .disable_statement_logging();
    let since = Instant::now();
    loop {
        match PgConnection::connect_with(&options).await {
            Ok(connection) => return Ok(Some(connection)),
            Err(sqlx::Error::Io(_)) => {}
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(STARTING_UP) => {}
            Err(source) => return Err(connection_refused(data_dir, source)),
        }
        let ended = child
            .try_wait()
            .map_err(Error::system("watch PostgreSQL"))?;
        if ended.is_some() {
            return Ok(None);
        }
        if since.elapsed() > START_TIMEOUT {
            return Err(not_started(data_dir));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// SQLSTATE `cannot_connect_now`: the server is starting.
const STARTING_UP: &str = "57P03";

async fn create_database(mut connection: PgConnection) -> sqlx::Result<()> {
    let exists: bool =
        sqlx::query_scalar("select exists (select from pg_database where datname = 'patchbay')")
            .fetch_one(&mut connection)
            .await?;
    if !exists {
        sqlx::query("create database patchbay")
            .execute(&mut connection)
            .await?;
    }
    connection.close().await
}

fn connection_refused(data_dir: &DataDir, source: sqlx::Error) -> Error {
    Error::Refused {
        folder: data_dir.path().to_owned(),
        source,
    }
}

fn not_started(data_dir: &DataDir) -> Error {
    let log = fs::read(data_dir.log()).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<&str> = log.lines().collect();
    Error::NotStarted {
        folder: data_dir.path().to_owned(),
        log: data_dir.log(),
        log_end: lines[lines.len().saturating_sub(5)..].join("\n"),
    }
}
