//! TLS, as the database's URL requires it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fs, io};

use dev_postgres::{DevPostgres, Durability};
use patchbay::db::{Database, DatabaseError};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use url::Url;

use crate::eventually::eventually;
use crate::process::Process;
use crate::test_database;

/// A PostgreSQL with TLS, whose certificate for 127.0.0.1 is signed by its own authority.
struct TlsServer {
    server: DevPostgres,
    authority: PathBuf,
}

impl TlsServer {
    /// Starts the server; `None` if openssl is not installed.
    async fn start() -> Option<Self> {
        Self::start_with("tls", make_certificates).await
    }

    async fn start_with(name: &str, certify: fn(&Path) -> io::Result<()>) -> Option<Self> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&folder);
        let server = DevPostgres::start(&folder, Durability::Disposable)
            .await
            .unwrap();
        let home = server.folder();
        let authority = home.join("ca.crt");
        let made = certify(home);
        match made {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                eprintln!("SKIPPED: openssl is not installed");
                return None;
            }
            made => made.unwrap(),
        }
        let owner = fs::metadata(home).unwrap();
        for file in ["server.crt", "server.key"] {
            std::os::unix::fs::chown(home.join(file), Some(owner.uid()), Some(owner.gid()))
                .unwrap();
        }
        let mut sql = PgConnection::connect(server.url()).await.unwrap();
        for setting in [
            format!(
                "alter system set ssl_cert_file = '{}'",
                home.join("server.crt").display()
            ),
            format!(
                "alter system set ssl_key_file = '{}'",
                home.join("server.key").display()
            ),
            "alter system set ssl = on".to_owned(),
            "select pg_reload_conf()".to_owned(),
        ] {
            sqlx::raw_sql(AssertSqlSafe(setting))
                .execute(&mut sql)
                .await
                .unwrap();
        }
        let server = Self { server, authority };
        // The server reloads its settings asynchronously.
        eventually(async || server.speaks_tls().await).await;
        Some(server)
    }

    /// Returns `true` if the server accepts a request for TLS (`SSLRequest`).
    async fn speaks_tls(&self) -> bool {
        let url = Url::parse(self.server.url()).unwrap();
        let mut stream = TcpStream::connect(("127.0.0.1", url.port().unwrap()))
            .await
            .unwrap();
        stream
            .write_all(&[0, 0, 0, 8, 4, 210, 22, 47])
            .await
            .unwrap();
        stream.read_u8().await.is_ok_and(|answer| answer == b'S')
    }

    async fn connect(&self, query: &str) -> Result<Database, DatabaseError> {
        let mut url = Url::parse(self.server.url()).unwrap();
        url.set_query(Some(query));
        test_database::pool(url, 3).await
    }

    async fn connect_as(&self, host: &str, query: &str) -> Result<Database, DatabaseError> {
        let mut url = Url::parse(self.server.url()).unwrap();
        url.set_query(Some(query));
        url.set_host(Some(host)).unwrap();
        test_database::pool(url, 3).await
    }
}

/// Creates an authority `ca.crt`, and `server.crt` with `server.key` for 127.0.0.1.
fn make_certificates(home: &Path) -> io::Result<()> {
    let path = |name: &str| home.join(name).to_str().unwrap().to_owned();
    let (authority, key) = (path("ca.crt"), path("ca.key"));
    openssl(&[
        "-subj",
        "/CN=An authority of the tests",
        "-out",
        &authority,
        "-keyout",
        &key,
    ])?;
    openssl(&[
        "-subj",
        "/CN=database",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
        "-CA",
        &authority,
        "-CAkey",
        &key,
        "-out",
        &path("server.crt"),
        "-keyout",
        &path("server.key"),
    ])
}

/// Creates `server.crt` of X.509 version 1, signed by its own key `server.key`.
fn make_old_certificate(home: &Path) -> io::Result<()> {
    let path = |name: &str| home.join(name).to_str().unwrap().to_owned();
    let (request, key) = (path("server.csr"), path("server.key"));
    run_openssl(&[
        "req",
        "-new",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=database",
        "-out",
        &request,
        "-keyout",
        &key,
    ])?;
    run_openssl(&[
        "x509",
        "-req",
        "-days",
        "2",
        "-in",
        &request,
        "-signkey",
        &key,
        "-out",
        &path("server.crt"),
    ])
}

/// Creates `server.crt`, signed by its own key `server.key`.
fn make_self_signed(home: &Path) -> io::Result<()> {
    let path = |name: &str| home.join(name).to_str().unwrap().to_owned();
    openssl(&[
        "-subj",
        "/CN=database",
        "-out",
        &path("server.crt"),
        "-keyout",
        &path("server.key"),
    ])
}

/// Creates a key and its certificate.
fn openssl(arguments: &[&str]) -> io::Result<()> {
    let new = [
        "req",
        "-x509",
        "-days",
        "2",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ];
    run_openssl(&[&new, arguments].concat())
}

fn run_openssl(arguments: &[&str]) -> io::Result<()> {
    let output = Command::new("openssl").args(arguments).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(
        String::from_utf8_lossy(&output.stderr).into_owned(),
    ))
}

async fn is_encrypted(database: &Database) -> bool {
    let mut tx = database.begin().await.unwrap();
    sqlx::query_scalar("select ssl from pg_stat_ssl where pid = pg_backend_pid()")
        .fetch_one(&mut tx)
        .await
        .unwrap()
}

#[tokio::test]
async fn default_sslmode_accepts_any_certificate() {
    let Some(server) = TlsServer::start_with("tls-self-signed", make_self_signed).await else {
        return;
    };
    assert!(is_encrypted(&server.connect("").await.unwrap()).await);
    server.server.stop().await;

    let old = TlsServer::start_with("tls-old", make_old_certificate)
        .await
        .unwrap();
    for query in ["", "sslmode=prefer", "sslmode=allow", "ssl=prefer"] {
        let database = old.connect(query).await.unwrap();
        is_encrypted(&database).await;
    }
    // Newer versions of openssl only create certificates of version 3, which work.
    if let Err(refused) = old.connect("sslmode=require").await {
        assert!(matches!(refused, DatabaseError::Tls(_)), "{refused:?}");
        assert!(refused.to_string().contains("version 1"), "{refused}");
    }
    old.server.stop().await;
}

#[tokio::test]
async fn tls_mode_follows_sslmode() {
    let Some(server) = TlsServer::start().await else {
        return;
    };
    let verified = format!(
        "sslmode=verify-full&sslrootcert={}",
        server.authority.display()
    );
    for query in [
        // URLs of Render, Neon and Supabase, with parameters that only other clients support.
        "sslmode=require",
        "sslmode=require&channel_binding=prefer",
        "sslmode=require&pgbouncer=true&connection_limit=1",
        &verified,
    ] {
        let database = server.connect(query).await.unwrap();
        assert!(is_encrypted(&database).await, "{query}");
    }

    let unknown = server.connect("sslmode=verify-full").await.unwrap_err();
    assert!(matches!(unknown, DatabaseError::Tls(_)), "{unknown:?}");
    let reported = unknown.to_string();
    assert!(
        reported.contains("UnknownIssuer") && reported.contains("sslrootcert"),
        "{reported}"
    );
    // Authorities of the operating system are trusted, too.
    let mut url = Url::parse(server.server.url()).unwrap();
    url.set_query(Some("sslmode=verify-full&sslrootcert=system"));
    let settings = [
        ("DATABASE_URL", url.as_str()),
        ("SSL_CERT_FILE", server.authority.to_str().unwrap()),
    ];
    let mut migrated = Process::start(&["migrate"], &settings);
    assert!(migrated.ended().await.success(), "{}", migrated.output());
    let other_name = server.connect_as("localhost", &verified).await.unwrap_err();
    assert!(
        matches!(other_name, DatabaseError::Tls(_)),
        "{other_name:?}"
    );
    let no_file = server
        .connect("sslmode=verify-full&sslrootcert=/nowhere.crt")
        .await
        .unwrap_err();
    assert!(matches!(no_file, DatabaseError::Tls(_)), "{no_file:?}");
    server.server.stop().await;
}
