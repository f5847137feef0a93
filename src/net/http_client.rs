//! Calling other services over HTTP: what every client of this program shares.

use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, Response};

use super::address_guard::AddressGuard;

/// A handshake that takes longer than this is a host that is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Returns a client that follows no redirect, so that credentials are never sent to a host that is not configured. It
/// gives up on a request after `timeout`.
pub(crate) fn client(timeout: Duration) -> reqwest::Result<Client> {
    builder(timeout).build()
}

/// A [`client`] for addresses that others have chosen: it connects only where `guard` lets it.
/// [`AddressGuard::check`] has to come before each request.
pub(crate) fn guarded_client(timeout: Duration, guard: AddressGuard) -> reqwest::Result<Client> {
    // A proxy would resolve the names, and bypass the guard.
    builder(timeout).no_proxy().dns_resolver(guard).build()
}

/// A [`client`] for an address that the operator has chosen, and that must not lead elsewhere: it follows
/// one redirect, within the same origin. Where the environment names a proxy, the proxy resolves the name,
/// and `guard` is asked about the way to it.
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

/// Why a body was not read to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// More bytes than the caller is ready to hold.
    #[error("the body is longer than {limit} bytes")]
    TooLong {
        /// The caller's bound, in bytes.
        limit: usize,
    },
    /// The connection failed while the body was read.
    #[error(transparent)]
    Transport(#[from] reqwest::Error),
}

/// The whole body, after decompression, unless it is longer than `limit` bytes.
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

/// What went wrong in an exchange, with its causes, in one line without the URL.
pub(crate) fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
