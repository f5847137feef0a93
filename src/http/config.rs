//! The configuration of the HTTP API.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use axum::http::HeaderName;
use url::Url;

use crate::environment::Environment;
use crate::server::ServerConfig;

/// The headers that many frontends add to all requests: CSRF tokens and trace headers.
const DEFAULT_HEADERS: &str =
    "X-CSRF-Token, X-Requested-With, sentry-trace, baggage, traceparent, tracestate";

/// The configuration of the HTTP API.
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
    /// `CONNECT_BINDING`: the handling of a grant that returns in another browser than the one that started it.
    pub connect_binding: ConnectBinding,
    /// `CONSOLE`: the console; `None` if it is disabled.
    pub console: Option<ConsoleConfig>,
    /// The configuration of client connections.
    pub server: ServerConfig,
}

/// The handling of a grant that returns in another browser than the one that started it. A different browser is
/// detected only if providers return to this service, and if the product's page is on the same site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectBinding {
    /// Browsers are not distinguished.
    Off,
    /// The user is warned and has to confirm; the grant is marked.
    Ask,
    /// The grant is rejected.
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

/// The console: this service's own pages, on which users manage their connections.
#[derive(Clone, Debug, Default)]
pub struct ConsoleConfig {
    /// The address of the sandbox's demo users and faults. No variable sets it.
    pub controls: Option<Url>,
}

impl Environment<'_> {
    pub(crate) fn http(&mut self, trusted_hops: u8) -> Option<HttpConfig> {
        let listen = self.listen(Ipv4Addr::UNSPECIFIED.into());
        let problems = self.problems.len();
        let given = self.base_url("PUBLIC_URL");
        // Render sets this variable to the web service's own address.
        let own = self.base_url("RENDER_EXTERNAL_URL");
        let public_url = given.or(own);
        if public_url.is_none() && self.problems.len() == problems {
            self.missing(
                "PUBLIC_URL",
                "the address at which browsers and Nango reach this service",
            );
        }
        let allowed_origins = self.origins();
        let headers: Option<String> = self.optional("CORS_ALLOWED_HEADERS");
        let allowed_headers = self.headers(headers.as_deref().unwrap_or(DEFAULT_HEADERS));
        let connect_binding = self.with_default("CONNECT_BINDING", ConnectBinding::Off);
        let console = self.flag("CONSOLE", false).then(ConsoleConfig::default);
        let server = self.server(trusted_hops);
        Some(HttpConfig {
            listen,
            public_url: public_url?,
            allowed_origins,
            allowed_headers,
            connect_binding,
            console,
            server,
        })
    }

    /// Reads `HOST` and `PORT`.
    pub(crate) fn listen(&mut self, default: IpAddr) -> SocketAddr {
        let host = self.with_default("HOST", Host(default));
        SocketAddr::new(host.0, self.number("PORT", 8000))
    }

    fn headers(&mut self, list: &str) -> Vec<HeaderName> {
        let mut headers = Vec::new();
        for text in list
            .split(',')
            .map(str::trim)
            .filter(|text| !text.is_empty())
        {
            match text.parse() {
                // In CORS, `*` does not cover `Authorization`, and with credentials it is the name of a header.
                Ok(name) if text != "*" => headers.push(name),
                _ => self.problems.push(format!(
                    "CORS_ALLOWED_HEADERS holds {text:?}, which is not the name of a header such as X-CSRF-Token"
                )),
            }
        }
        headers
    }

    fn origins(&mut self) -> Vec<String> {
        const NAME: &str = "CORS_ALLOWED_ORIGINS";
        let mut origins = Vec::new();
        for text in self.list(NAME) {
            match origin(&text) {
                Ok(origin) => origins.push(origin),
                Err(problem) if text.contains('@') => self
                    .problems
                    .push(format!("{NAME} has an entry with an @, which {problem}")),
                Err(problem) => self
                    .problems
                    .push(format!("{NAME} has the entry {text:?}, which {problem}")),
            }
        }
        origins
    }
}

/// The IP address to listen on.
struct Host(IpAddr);

impl FromStr for Host {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let inner = text
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'));
        inner.unwrap_or(text).parse().map(Self).map_err(|_not_an_address| {
            "must be an IP address to listen on, without a port: 0.0.0.0 or :: for all, 127.0.0.1 for this machine only"
        })
    }
}

/// Reads an origin as browsers send it.
///
/// # Errors
/// Says why browsers never send this origin, and what to write instead.
fn origin(text: &str) -> Result<String, String> {
    const EXAMPLE: &str = "such as https://app.example.com";
    if text.contains('*') {
        return Err(format!(
            "matches no browser's origin: name each origin without a *, {EXAMPLE}"
        ));
    }
    if text.contains(char::is_whitespace) {
        return Err("has white space in it: separate origins by commas".to_owned());
    }
    if !text.contains("://") {
        return Err(format!("has no scheme: write an origin {EXAMPLE}"));
    }
    let url = Url::parse(text).ok();
    let url = url.filter(|url| matches!(url.scheme(), "http" | "https"));
    let Some(url) = url else {
        return Err(format!("is not an origin {EXAMPLE}"));
    };
    let origin = url.origin().ascii_serialization();
    let is_bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    if is_bare && url.username().is_empty() && url.password().is_none() {
        Ok(origin)
    } else {
        Err(format!(
            "has more than a scheme, a host and a port, which no browser sends: write {origin}"
        ))
    }
}
