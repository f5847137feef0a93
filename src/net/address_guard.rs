//! Restricts outgoing connections to addresses that another party chose, or that serve the keys for verifying tokens.
//!
//! An address or a host name that a user enters may lead into the private network that this program runs in. The guard
//! checks the addresses that a name resolves to at connection time, so that a change after an earlier check has no
//! effect.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix))
}

const fn v6(a: u16, b: u16, prefix: u8) -> IpNet {
    let address = Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0);
    IpNet::V6(Ipv6Net::new_assert(address, prefix))
}

/// The loopback networks.
const LOOPBACK: [IpNet; 2] = [
    v4(127, 0, 0, 0, 8),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
];

/// The networks that are not public, by IANA's registries of special-purpose addresses.
const SPECIAL_PURPOSE_NETWORKS: [IpNet; 19] = [
    v4(0, 0, 0, 0, 8),
    v4(10, 0, 0, 0, 8),
    v4(100, 64, 0, 0, 10),
    v4(127, 0, 0, 0, 8),
    v4(169, 254, 0, 0, 16),
    v4(172, 16, 0, 0, 12),
    v4(192, 0, 0, 0, 24),
    v4(192, 0, 2, 0, 24),
    v4(192, 88, 99, 0, 24),
    v4(192, 168, 0, 0, 16),
    v4(198, 18, 0, 0, 15),
    v4(198, 51, 100, 0, 24),
    v4(203, 0, 113, 0, 24),
    v4(224, 0, 0, 0, 3),
    // A public address, but Azure serves its virtual machines on it.
    v4(168, 63, 129, 16, 32),
    v6(0x2001, 0, 23),
    v6(0x2001, 0xdb8, 32),
    // A 6to4 address contains an IPv4 address, to which it routes.
    v6(0x2002, 0, 16),
    v6(0x3fff, 0, 20),
];

/// The network of all public IPv6 addresses.
const GLOBAL_V6: IpNet = v6(0x2000, 0, 3);

/// A text that is not a comma-separated list of networks.
#[derive(Debug, thiserror::Error)]
#[error("must list networks such as 10.0.0.0/8, separated by commas, and {0:?} is not one")]
pub struct InvalidNetworkList(String);

/// Private networks that are allowed besides the public ones, also without TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Arc<[IpNet]>);

impl FromStr for Networks {
    type Err = InvalidNetworkList;

    /// Parses a comma-separated list of networks.
    fn from_str(text: &str) -> Result<Self, InvalidNetworkList> {
        let parts = text.split(',').map(str::trim);
        parts
            .filter(|part| !part.is_empty())
            .map(|part| {
                part.parse()
                    .map_err(|_invalid| InvalidNetworkList(part.to_owned()))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl Networks {
    /// Returns `true` if no private networks are allowed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns these networks and the loopback networks.
    pub(crate) fn with_loopback(&self) -> Self {
        Self(self.0.iter().copied().chain(LOOPBACK).collect())
    }

    fn allow(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }
}

/// The reason why an address is forbidden.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForbiddenAddress {
    /// The scheme is neither `https` nor an allowed `http`, or the address contains a user or password.
    #[error("it must be an https address without a user or password in it")]
    Form,
    /// The host is or resolves to an address that is not public.
    #[error("{host} leads to {address}, which is in no public network")]
    Private {
        /// The host in the address.
        host: String,
        /// The resolved IP address.
        address: IpAddr,
    },
    /// Plain `http` is limited to allowed networks.
    #[error("{host} leads to {address}: without TLS only allowed networks are called")]
    Plain {
        /// The host in the address.
        host: String,
        /// The resolved IP address.
        address: IpAddr,
    },
}

/// Returns `true` if a URL names a loopback address or `localhost`.
pub(crate) fn is_local(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Returns `true` if a URL is not reachable from elsewhere by its form: a private address, a name with one label as in
/// container networks, or a name in a domain that is reserved for private networks.
pub(crate) fn is_internal(url: &Url) -> bool {
    const DOMAINS: [&str; 5] = [".internal", ".local", ".localhost", ".home.arpa", ".svc"];
    match url.host() {
        Some(Host::Domain(name)) => {
            !name.contains('.') || DOMAINS.iter().any(|domain| name.ends_with(domain))
        }
        Some(Host::Ipv4(address)) => !is_public(address.into()),
        Some(Host::Ipv6(address)) => !is_public(embedded_ipv4(address.into())),
        None => false,
    }
}

/// A resolver that allows connections to permitted addresses only.
#[derive(Clone)]
pub(crate) struct AddressGuard {
    networks: Networks,
    resolver: Arc<dyn Resolve>,
    plain: bool,
}

impl fmt::Debug for AddressGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("networks", &self.networks)
            .field("plain", &self.plain)
            .finish_non_exhaustive()
    }
}

impl AddressGuard {
    /// Creates a guard of connections with TLS, or of `plain` ones.
    pub(crate) fn new(networks: Networks, resolver: Arc<dyn Resolve>, plain: bool) -> Self {
        Self {
            networks,
            resolver,
            plain,
        }
    }

    /// Checks an address without resolving its name. The client does not resolve numeric addresses, so this is their
    /// only check.
    pub(crate) fn check(&self, url: &Url) -> Result<(), ForbiddenAddress> {
        let scheme = if self.plain { "http" } else { "https" };
        let has_user = !url.username().is_empty() || url.password().is_some();
        if url.scheme() != scheme || has_user || (self.plain && self.networks.is_empty()) {
            return Err(ForbiddenAddress::Form);
        }
        let (host, address) = match url.host() {
            Some(Host::Ipv4(address)) => (address.to_string(), IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => (address.to_string(), IpAddr::V6(address)),
            Some(Host::Domain(_)) => return Ok(()),
            None => return Err(ForbiddenAddress::Form),
        };
        self.check_address(&host, address)
    }

    fn check_address(&self, host: &str, address: IpAddr) -> Result<(), ForbiddenAddress> {
        let address = embedded_ipv4(address);
        if self.networks.allow(address) {
            return Ok(());
        }
        let host = host.to_owned();
        match (is_public(address), self.plain) {
            (true, false) => Ok(()),
            (true, true) => Err(ForbiddenAddress::Plain { host, address }),
            (false, _) => Err(ForbiddenAddress::Private { host, address }),
        }
    }
}

impl Resolve for AddressGuard {
    fn resolve(&self, name: Name) -> Resolving {
        let this = self.clone();
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let found = this.resolver.resolve(name).await?;
            let mut admitted: Vec<SocketAddr> = Vec::new();
            let mut forbidden = None;
            for address in found {
                match this.check_address(&host, address.ip()) {
                    Ok(()) => admitted.push(address),
                    Err(why) => forbidden = Some(why),
                }
            }
            match forbidden {
                Some(why) if admitted.is_empty() => Err(why.into()),
                _ => Ok(Box::new(admitted.into_iter()) as Addrs),
            }
        })
    }
}

/// The resolver of the operating system.
#[derive(Clone, Copy, Debug)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            // A resolver does not set the port: with 0, the client uses the port of the URL.
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(Box::new(found.collect::<Vec<_>>().into_iter()) as Addrs)
        })
    }
}

/// Returns the IPv4 address that is embedded in an IPv6 address, otherwise the address itself.
fn embedded_ipv4(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else {
        return address;
    };
    match v6.segments() {
        // Mapped (RFC 4291), and translated (RFC 6052).
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)).into()
        }
        _ => address,
    }
}

fn is_public(address: IpAddr) -> bool {
    let global = address.is_ipv4() || GLOBAL_V6.contains(&address);
    global
        && !SPECIAL_PURPOSE_NETWORKS
            .iter()
            .any(|network| network.contains(&address))
}
