//! Nango's policy on webhook addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tokio::net::lookup_host;
use url::{Host, Url};

/// Hosts that are rejected by name.
const REFUSED_HOSTS: [&str; 2] = ["localhost", "metadata.google.internal"];

/// Returns Nango's message if it rejects a webhook URL. Nango's own domain is always rejected, private addresses only
/// if `private` is set.
pub(super) fn refusal(url: &Url, private: bool) -> Option<&'static str> {
    let host = host_name(url);
    if host == "nango.dev" || host.ends_with(".nango.dev") {
        return Some("Webhook URLs cannot point to Nango's domain (nango.dev).");
    }
    let blocked = match url.host() {
        Some(Host::Domain(_)) => REFUSED_HOSTS.contains(&host.as_str()),
        Some(Host::Ipv4(address)) => is_blocked_v4(address),
        Some(Host::Ipv6(address)) => is_blocked_v6(address),
        None => true,
    };
    let allowed = matches!(url.scheme(), "http" | "https") && !blocked;
    (private && !allowed).then_some("This webhook URL is not allowed.")
}

/// Returns `true` if a URL's host is a blocked address or resolves to one.
pub(super) async fn resolves_to_blocked(url: &str) -> bool {
    let Ok(url) = Url::parse(url) else {
        return true;
    };
    if refusal(&url, true).is_some() {
        return true;
    }
    let port = url.port_or_known_default().unwrap_or(80);
    match lookup_host((host_name(&url), port)).await {
        Ok(mut addresses) => addresses.any(|address| match address.ip() {
            IpAddr::V4(address) => is_blocked_v4(address),
            IpAddr::V6(address) => is_blocked_v6(address),
        }),
        Err(_unresolved) => true,
    }
}

fn host_name(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.trim_end_matches('.').to_owned()
}

fn is_blocked_v4(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    let shared = first == 100 && (64..=127).contains(&second);
    address.is_loopback() || address.is_private() || address.is_link_local() || first == 0 || shared
}

fn is_blocked_v6(address: Ipv6Addr) -> bool {
    address.to_ipv4_mapped().is_some_and(is_blocked_v4)
        || address.is_loopback()
        || address.is_unspecified()
        || address.is_unique_local()
        || address.is_unicast_link_local()
}
