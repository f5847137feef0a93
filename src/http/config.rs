//! Where and how HTTP is served.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use axum::http::HeaderName;
use url::Url;

use crate::environment::Environment;
use crate::server::ServerConfig;

/// What frontends often add to all their requests: a token against forged requests, and trace headers.
const DEFAULT_HEADERS: &str =
    "X-CSRF-Token, X-Requested-With, sentry-trace, baggage, traceparent, tracestate";

/// Where and how HTTP is served.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// `HOST` and `PORT`: the address to listen on.
    pub listen: SocketAddr,
    /// `PUBLIC_URL`: how browsers and Nango reach this service, without a trailing slash in its path.
    pub public_url: Url,
    /// `CORS_ALLOWED_ORIGINS`: the product's own origins, for CORS and for the popup's messages.
    pub allowed_origins: Vec<String>,
    /// `CORS_ALLOWED_HEADERS`: the headers that the product's frontend adds to its requests.
    pub allowed_headers: Vec<HeaderName>,
    /// `CONNECT_BINDING`: what becomes of a grant that comes back in another browser than it was begun in.
    pub connect_binding: ConnectBinding,
    /// `CONSOLE`: the console, where it is served.
    pub console: Option<ConsoleConfig>,
    /// How connections of clients are served.
    pub server: ServerConfig,
}

/// What becomes of a grant that comes back in another browser than it was begun in. It is seen only where
/// providers return to this service, and where the product's page is of the same site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectBinding {
    /// Browsers are not told apart.
    Off,
    /// Whoever sits there is told what may be going on, and asked; the grant is marked.
    Ask,
    /// Nothing comes of it.
    Required,
}

impl FromStr for ConnectBinding {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" => Ok(Self::Off),
            "ask" => Ok(Self::Ask),
            "required" => Ok(Self::Required),
            _ => Err("must be off, ask or required"),
        }
    }
}

/// The console: pages of this service's own, on which a user manages their connections.
#[derive(Clone, Debug, Default)]
pub struct ConsoleConfig {
    /// Where users to try it as, and faults to try, are found. No variable names it.
    pub controls: Option<Url>,
}

impl Environment<'_> {
    pub(crate) fn http(&mut self, trusted_hops: u8) -> Option<HttpConfig> {
        let host = self.with_default("HOST", IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let port = self.with_default("PORT", 8000);
        let problems = self.problems.len();
        let given: Option<Url> = self.optional("PUBLIC_URL");
        // Render names a web service's own address in this variable.
        let own: Option<Url> = self.optional("RENDER_EXTERNAL_URL");
        let public_url = given.or(own);
        if public_url.is_none() && self.problems.len() == problems {
            self.missing(
                "PUBLIC_URL",
                "the address at which browsers and Nango reach this service",
            );
        }
        let origins: Option<String> = self.optional("CORS_ALLOWED_ORIGINS");
        let allowed_origins = self.origins(&origins.unwrap_or_default());
        let headers: Option<String> = self.optional("CORS_ALLOWED_HEADERS");
        let allowed_headers = self.headers(headers.as_deref().unwrap_or(DEFAULT_HEADERS));
        let connect_binding = self.with_default("CONNECT_BINDING", ConnectBinding::Off);
        let console = self
            .with_default("CONSOLE", false)
            .then(ConsoleConfig::default);
        let server = self.server(trusted_hops);
        Some(HttpConfig {
            listen: SocketAddr::new(host, port),
            public_url: self.http_url("PUBLIC_URL", public_url?)?,
            allowed_origins,
            allowed_headers,
            connect_binding,
            console,
            server,
        })
    }

    fn headers(&mut self, list: &str) -> Vec<HeaderName> {
        let mut headers = Vec::new();
        for text in list
            .split(',')
            .map(str::trim)
            .filter(|text| !text.is_empty())
        {
            match text.parse() {
                // Browsers take a star for any header but `Authorization`, and for a header of this name where cookies go along.
                Ok(name) if text != "*" => headers.push(name),
                _ => self.problems.push(format!(
                    "CORS_ALLOWED_HEADERS holds {text:?}, which is not the name of a header such as X-CSRF-Token"
                )),
            }
        }
        headers
    }

    fn origins(&mut self, list: &str) -> Vec<String> {
        let mut origins = Vec::new();
        for text in list
            .split(',')
            .map(str::trim)
            .filter(|text| !text.is_empty())
        {
            match Url::parse(text) {
                Ok(url) if url.origin().is_tuple() => origins.push(url.origin().ascii_serialization()),
                _ => self.problems.push(format!(
                    "CORS_ALLOWED_ORIGINS holds {text:?}, which is not an origin such as https://app.example.com"
                )),
            }
        }
        origins
    }
}
