//! The `health` command: a health check for images without a shell or an HTTP client.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use super::{Failure, variable};
use crate::config::Config;

/// The timeout of each step of the request: connect, write, and each read.
const STEP_TIMEOUT: Duration = Duration::from_secs(2);

/// Checks that the service at this environment's `HOST` and `PORT` returns 200 for `/healthz`.
pub(crate) fn run() -> Result<(), Failure> {
    let listen = Config::read_listen(&variable)?;
    // A service that listens on all addresses also listens on loopback.
    let host = match listen.ip() {
        IpAddr::V4(host) if host.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(host) if host.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        host => host,
    };
    let address = SocketAddr::new(host, listen.port());
    let response =
        request_health(address).map_err(|error| format!("{address} does not respond: {error}"))?;
    if response.starts_with(b"HTTP/1.1 200") || response.starts_with(b"HTTP/1.0 200") {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&response);
    Err(format!(
        "{address} responded with {:?}",
        text.lines().next().unwrap_or_default()
    )
    .into())
}

/// Sends the request. Returns at most the first KiB of the response, which contains the status line.
fn request_health(address: SocketAddr) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, STEP_TIMEOUT)?;
    stream.set_read_timeout(Some(STEP_TIMEOUT))?;
    stream.set_write_timeout(Some(STEP_TIMEOUT))?;
    let request = format!("GET /healthz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut response = Vec::new();
    stream.take(1024).read_to_end(&mut response)?;
    Ok(response)
}
