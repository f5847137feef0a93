//! Finds the server that accepts writes, and detects a pooler in front of it.

use std::io;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::RootCertStore;
use secrecy::ExposeSecret;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{Connection, PgConnection, Row};

use super::DatabaseConfig;
use super::connection_health::{Outage, timed_out, with_timeout};
use super::database_url::DatabaseUrl;
use super::{DatabaseError, session};

/// The timeout of a connection to a server at startup.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The oldest supported server version, as in `server_version_num`.
pub(crate) const MIN_SERVER_VERSION: u32 = 130_000;

/// The servers of a `DATABASE_URL`, and which of them is the primary.
pub(crate) struct Server {
    /// All servers, the primary first.
    pub(crate) servers: Vec<PgConnectOptions>,
    /// The settings of each session, by name.
    pub(crate) settings: Vec<(String, String)>,
    /// `true` if connections change their server process between transactions.
    pub(crate) switches_servers: bool,
}

impl Server {
    /// Connects to the servers in turn, as libpq does, until one accepts writes.
    pub(crate) async fn find(config: &DatabaseConfig) -> Result<Self, DatabaseError> {
        let url: DatabaseUrl = (config.url.expose_secret().parse()).map_err(DatabaseError::Url)?;
        for name in &url.ignored {
            tracing::warn!(
                parameter = name,
                "DATABASE_URL has a parameter that has no effect"
            );
        }
        let roots = if url.trusts_system {
            system_roots()
        } else {
            String::new()
        };
        let options = |server: &PgConnectOptions| {
            // No column is a float, and poolers reject unknown parameters.
            let options = server
                .clone()
                .application_name("patchbay")
                .extra_float_digits(None);
            if roots.is_empty() {
                options
            } else {
                options.ssl_root_cert_from_pem(roots.clone().into_bytes())
            }
        };
        let mut refused = None;
        for (number, server) in url.servers.iter().enumerate() {
            match probe(&options(server)).await {
                Ok((primary, pooled)) => {
                    let others = url.servers.iter().enumerate();
                    let others = others.filter(|(other, _)| *other != number);
                    let others = others.map(|(_, server)| options(server));
                    return Ok(Self {
                        servers: std::iter::once(primary).chain(others).collect(),
                        settings: url.settings,
                        switches_servers: pooled || url.declares_pooler,
                    });
                }
                // An error that may pass takes precedence: waiting helps if another server is still to be promoted.
                Err(error) if refused.as_ref().is_none_or(|_| error.may_pass()) => {
                    refused = Some(error);
                }
                Err(_) => {}
            }
        }
        Err(refused.unwrap_or_else(|| DatabaseError::Unreachable(timed_out())))
    }
}

/// Returns the CA certificates of the system in PEM, without those that TLS cannot use. sqlx adds them to its public CA
/// certificates.
fn system_roots() -> String {
    let mut pem = String::new();
    for certificate in rustls_native_certs::load_native_certs().certs {
        if RootCertStore::empty().add(certificate.clone()).is_ok() {
            pem.push_str("-----BEGIN CERTIFICATE-----\n");
            let text = STANDARD.encode(&certificate);
            for line in text.as_bytes().chunks(64) {
                pem.push_str(&String::from_utf8_lossy(line));
                pem.push('\n');
            }
            pem.push_str("-----END CERTIFICATE-----\n");
        }
    }
    pem
}

/// Returns the options that reached this server, and whether a transaction-mode pooler is in front of it.
///
/// With `sslmode=prefer`, the default, a failed TLS handshake is followed by an attempt without TLS, as libpq does.
async fn probe(server: &PgConnectOptions) -> Result<(PgConnectOptions, bool), DatabaseError> {
    let error = match probe_once(server).await {
        Err(error @ DatabaseError::Tls(_))
            if matches!(server.get_ssl_mode(), PgSslMode::Prefer) =>
        {
            error
        }
        probed => return Ok((server.clone(), probed?)),
    };
    let plain = server.clone().ssl_mode(PgSslMode::Disable);
    let Ok(pooled) = probe_once(&plain).await else {
        return Err(error);
    };
    tracing::warn!(%error, "connected to the database without TLS: set sslmode=require to refuse that");
    Ok((plain, pooled))
}

async fn probe_once(server: &PgConnectOptions) -> Result<bool, DatabaseError> {
    let probe = async {
        let mut connection = PgConnection::connect_with(server).await?;
        let version = connection.server_version_num();
        let writable = session::can_write(&mut connection).await?;
        connection.close().await?;
        Ok((version, writable, detect_transaction_pooling(server).await?))
    };
    let (version, writable, pooled) = with_timeout(CONNECT_TIMEOUT, probe)
        .await
        .map_err(|error| connect_error(error, server))?;
    match version {
        Some(version) if version < MIN_SERVER_VERSION => {
            Err(DatabaseError::TooOld(version / 10_000))
        }
        _ if !writable => Err(DatabaseError::ReadOnly),
        _ => Ok(pooled),
    }
}

fn connect_error(error: sqlx::Error, options: &PgConnectOptions) -> DatabaseError {
    if Outage::of(&error) == Some(Outage::ReadOnly) {
        return DatabaseError::ReadOnly;
    }
    match &error {
        sqlx::Error::Configuration(error) => DatabaseError::Url(error.to_string()),
        sqlx::Error::Tls(_) => DatabaseError::Tls(error),
        sqlx::Error::Io(io) => match io.kind() {
            // The error kind of a failed TLS handshake.
            io::ErrorKind::InvalidData => DatabaseError::Tls(error),
            // Over TCP, the only files are certificates and keys.
            io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
                if options.get_socket().is_none() =>
            {
                DatabaseError::Tls(error)
            }
            _ => DatabaseError::Unreachable(error),
        },
        sqlx::Error::Database(database) => match database.code().as_deref() {
            // Class 28 is a rejected authentication, 3D000 a database that does not exist, 42501 one to which the role may
            // not connect.
            Some(code) if code.starts_with("28") || matches!(code, "3D000" | "42501") => {
                DatabaseError::AccessDenied(error)
            }
            _ => DatabaseError::Unreachable(error),
        },
        _ => DatabaseError::Unreachable(error),
    }
}

/// Returns whether connections change their server process between transactions.
///
/// Two connections, open together, query repeatedly which server process serves them. A direct connection, or one
/// through a session-mode pooler, keeps its own process. A transaction-mode pooler that assigns the most recently
/// released process gives both connections the same one. A pooler that assigns processes in turn gives a connection
/// two different processes in a row, however many it has, or gives both connections the same one. Other clients may
/// disturb this by chance, but not sixteen times. The query uses the simple protocol, which every pooler supports.
async fn detect_transaction_pooling(options: &PgConnectOptions) -> sqlx::Result<bool> {
    const ROUNDS: usize = 4;
    let mut one = PgConnection::connect_with(options).await?;
    let mut other = PgConnection::connect_with(options).await?;
    let (first, second) = (
        server_process(&mut one).await?,
        server_process(&mut other).await?,
    );
    let mut switches = first == second;
    for _ in 0..ROUNDS {
        if switches {
            break;
        }
        switches = server_process(&mut other).await? != second
            || server_process(&mut one).await? != first
            || server_process(&mut one).await? != first
            || server_process(&mut other).await? != second;
    }
    one.close().await?;
    other.close().await?;
    Ok(switches)
}

async fn server_process(connection: &mut PgConnection) -> sqlx::Result<i32> {
    sqlx::raw_sql("select pg_backend_pid()")
        .fetch_one(connection)
        .await?
        .try_get(0)
}
