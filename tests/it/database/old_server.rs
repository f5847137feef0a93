//! A server with an unsupported version: a proxy changes the version that a real one reports.

use std::net::{Ipv4Addr, SocketAddr};

use patchbay::cli::doctor::Level;
use patchbay::db::DatabaseError;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use url::Url;

use crate::doctor::{failures, run_doctor};
use crate::test_app::TestApp;
use crate::test_database;

#[tokio::test]
async fn old_server_is_refused_by_start_and_doctor() {
    let app = TestApp::with_system_clock().await;
    let database = test_database::database().await;
    let mut url = Url::parse(database.url()).unwrap();
    let server = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap_or(5432));
    let proxy = report_version_12(server).await;
    url.set_port(Some(proxy.port())).unwrap();
    url.query_pairs_mut().append_pair("sslmode", "disable");

    let refused = test_database::pool(url.as_str(), 3).await.unwrap_err();
    assert!(matches!(refused, DatabaseError::TooOld(12)), "{refused}");
    let report = run_doctor(&app, &[("DATABASE_URL", url.as_str())], None).await;
    let found = failures(&report);
    let (check, level, detail, _) = found[0];
    assert_eq!((check, level), ("database", Level::Fail), "{found:?}");
    assert!(detail.contains("PostgreSQL 12: update it"), "{found:?}");
}

/// Forwards everything unchanged except the major version, which becomes 12.
async fn report_version_12(server: String) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let server = TcpStream::connect(&server).await.unwrap();
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            tokio::spawn(pass_on(from_client, to_server, |_| ()));
            tokio::spawn(pass_on(from_server, to_client, replace_version));
        }
    });
    address
}

async fn pass_on(
    mut from: impl AsyncRead + Unpin,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    change: fn(&mut [u8]),
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        change(&mut buffer[..read]);
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

/// Replaces the version, which follows the parameter's name in a `ParameterStatus` message; both end with a zero byte.
fn replace_version(chunk: &mut [u8]) {
    let name = b"server_version\0";
    let found = chunk.windows(name.len()).position(|part| part == name);
    if let Some(at) = found {
        chunk[at + name.len()..][..2].copy_from_slice(b"12");
    }
}
