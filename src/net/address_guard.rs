//! Restricts which addresses may be called if another party has chosen them, or if they serve keys that tokens are
//! verified with.
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

/// This machine itself.
const LOOPBACK: [IpNet; 2] = [
    v4(127, 0, 0, 0, 8),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
];

/// What is not a public host's, by IANA's registries of special-purpose addresses.
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
    // Public by its number, but Azure answers its own machines there.
    v4(168, 63, 129, 16, 32),
    v6(0x2001, 0, 23),
    v6(0x2001, 0xdb8, 32),
    // 6to4 leads to the IPv4 address in it.
    v6(0x2002, 0, 16),
    v6(0x3fff, 0, 20),
];

/// All public IPv6 addresses are in it.
const GLOBAL_V6: IpNet = v6(0x2000, 0, 3);

/// A text that is not a list of networks.
#[derive(Debug, thiserror::Error)]
#[error("must list networks such as 10.0.0.0/8, separated by commas, and {0:?} is not one")]
pub struct InvalidNetworkList(String);

/// Private networks that may be called besides the public ones; there also without TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Arc<[IpNet]>);

impl FromStr for Networks {
    type Err = InvalidNetworkList;

    /// Reads networks that are separated by commas.
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
    /// Whether none are allowed besides the public ones.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// These, and this machine itself.
    pub(crate) fn with_loopback(&self) -> Self {
        Self(self.0.iter().copied().chain(LOOPBACK).collect())
    }

    fn allow(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }
}

/// Why an address is not called.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForbiddenAddress {
    /// Neither `https` nor, where it may be, `http`, or with a user or password in it.
    #[error("it must be an https address without a user or password in it")]
    Form,
    /// It is, or leads to, what is not public.
    #[error("{host} leads to {address}, which is in no public network")]
    Private {
        /// What the address names.
        host: String,
        /// What it leads to.
        address: IpAddr,
    },
    /// Without TLS only networks are called that were allowed.
    #[error("{host} leads to {address}: without TLS only allowed networks are called")]
    Plain {
        /// What the address names.
        host: String,
        /// What it leads to.
        address: IpAddr,
    },
}

/// Whether an address says itself that it leads to this machine.
pub(crate) fn is_local(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Whether an address says itself that no browser elsewhere reaches it: a private address, a name of one label as
/// containers have it, or a name of a domain that is reserved for private networks.
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

/// Lets connections only go where they may.
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
    /// For connections with TLS, or `plain` ones.
    pub(crate) fn new(networks: Networks, resolver: Arc<dyn Resolve>, plain: bool) -> Self {
        Self {
            networks,
            resolver,
            plain,
        }
    }

    /// Checks what can be seen of an address without resolving it. An address that is
    /// written as a number is not resolved later, either.
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

/// The system's way to resolve a name.
#[derive(Clone, Copy, Debug)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            // The port is not the resolver's to say: 0 leaves it to the address that is called.
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(Box::new(found.collect::<Vec<_>>().into_iter()) as Addrs)
        })
    }
}

/// The IPv4 address that an IPv6 address stands for, if it is such a one.
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
