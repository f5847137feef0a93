//! TLS, as the database's address asks for it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{fs, io};

use dev_postgres::{DevPostgres, Durability};
use patchbay::db::{Database, DatabaseError};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use url::Url;

use crate::test_database;

/// A PostgreSQL that speaks TLS, with a certificate for 127.0.0.1 of an authority of its own.
struct TlsServer {
    server: DevPostgres,
    authority: PathBuf,
}

impl TlsServer {
    /// `None` where openssl is not installed.
    async fn start() -> Option<Self> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tls");
        let _ = fs::remove_dir_all(&folder);
        let server = DevPostgres::start(&folder, Durability::Disposable)
            .await
            .unwrap();
        let home = server.folder();
        let authority = home.join("ca.crt");
        let made = make_certificates(home);
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
        // The server reads its settings again in its own time.
        while server.connect("sslmode=require").await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Some(server)
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

/// Makes an authority `ca.crt`, and `server.crt` with `server.key` for 127.0.0.1.
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

/// Makes a key, and a certificate for it.
fn openssl(arguments: &[&str]) -> io::Result<()> {
    let output = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-days",
            "2",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
        ])
        .args(arguments)
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(
        String::from_utf8_lossy(&output.stderr).into_owned(),
    ))
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
        // As Render, Neon and Supabase hand them out, with what only other clients know.
        "sslmode=require",
        "sslmode=require&channel_binding=require",
        "sslmode=require&pgbouncer=true&connection_limit=1",
        &verified,
    ] {
        let database = server.connect(query).await.unwrap();
        let mut tx = database.begin().await.unwrap();
        let encrypted: bool =
            sqlx::query_scalar("select ssl from pg_stat_ssl where pid = pg_backend_pid()")
                .fetch_one(&mut tx)
                .await
                .unwrap();
        assert!(encrypted, "{query}");
    }

    let unknown = server.connect("sslmode=verify-full").await.unwrap_err();
    assert!(matches!(unknown, DatabaseError::Tls(_)), "{unknown:?}");
    let reported = unknown.to_string();
    assert!(
        reported.contains("UnknownIssuer") && reported.contains("sslrootcert"),
        "{reported}"
    );
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
