//! The HTTP client for calls to other services.

use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, Response};

use super::address_guard::AddressGuard;

/// The timeout of connecting, with the TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Returns a client that follows no redirect, so that credentials are never sent to a host that is not configured.
/// Requests fail after `timeout`.
pub(crate) fn client(timeout: Duration) -> reqwest::Result<Client> {
    builder(timeout).build()
}

/// Returns a [`client`] for addresses that another party chose. It connects only to addresses that `guard` allows. Call
/// [`AddressGuard::check`] before each request.
pub(crate) fn guarded_client(timeout: Duration, guard: AddressGuard) -> reqwest::Result<Client> {
    // A proxy would resolve the names, and bypass the guard.
    builder(timeout).no_proxy().dns_resolver(guard).build()
}

/// Returns a [`client`] for an address of the operator, from which it must not be redirected elsewhere: it follows one
/// redirect, within the same origin. If the environment sets a proxy, the proxy resolves the name, and `guard` checks
/// the address of the proxy.
pub(crate) fn guarded_or_proxied_client(
    timeout: Duration,
    guard: AddressGuard,
) -> reqwest::Result<Client> {
    let within_origin = Policy::custom(|attempt| match attempt.previous() {
        [first] if first.origin() == attempt.url().origin() => attempt.follow(),
        _ => attempt.stop(),
    });
    builder(timeout)
        .redirect(within_origin)
        .dns_resolver(guard)
        .build()
}

fn builder(timeout: Duration) -> ClientBuilder {
    Client::builder()
        .user_agent(concat!("patchbay/", env!("CARGO_PKG_VERSION")))
        .redirect(Policy::none())
        .connect_timeout(CONNECT_TIMEOUT.min(timeout))
        .timeout(timeout)
}

/// The reason why a body was not read completely.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The body is longer than the limit.
    #[error("the body is longer than {limit} bytes")]
    TooLong {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The connection failed during the read.
    #[error(transparent)]
    Transport(#[from] reqwest::Error),
}

/// Reads the whole body, decompressed, of at most `limit` bytes.
pub(crate) async fn read_body(mut response: Response, limit: usize) -> Result<Vec<u8>, BodyError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > limit {
            return Err(BodyError::TooLong { limit });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The message of rustls for a response that is not TLS.
const NOT_TLS: &str = "received corrupt message of type InvalidContentType";

/// Returns an error with its causes in one line, without the URL.
pub(crate) fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    if text.contains(NOT_TLS) {
        text.push_str(
            ". The server does not speak TLS on this port: correct the port, or try http://",
        );
    }
    text
}
