//! Nango's proxy: a call to a provider's API, to which Nango adds the credentials.

use std::time::Duration;

use percent_encoding::percent_decode_str;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Body, Method, Response};

use super::{Error, Nango};

/// How long a call may take as a whole, its body included.
const TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// Headers that say how a message travels on one connection (RFC 9110, 7.6.1).
const HOP_BY_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// A call to a provider's API.
#[derive(Debug)]
pub struct ProxyCall {
    /// The provider's method.
    pub method: Method,
    /// The provider's path as it was written, without a leading slash, and with its query.
    pub path_and_query: String,
    /// Headers for the provider.
    pub headers: HeaderMap,
    /// The body, as it comes.
    pub body: Body,
}

/// A path that would leave the proxy's part of Nango's API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the path may not have `.` or `..` as a segment, nor a backslash")]
pub struct UnsafePath;

impl ProxyCall {
    /// Refuses a path with which the call would reach something else of Nango's than its proxy.
    ///
    /// # Errors
    /// For dot segments and backslashes, however they are encoded: URLs resolve them.
    pub fn check_path(path: &str) -> Result<(), UnsafePath> {
        let unsafe_segment = |segment: &str| {
            let decoded = percent_decode_str(segment).decode_utf8_lossy();
            decoded == "." || decoded == ".." || decoded.contains(['\\', '\0'])
        };
        if path.split('/').any(unsafe_segment) {
            Err(UnsafePath)
        } else {
            Ok(())
        }
    }
}

impl Nango {
    /// Passes a call on. The answer is the provider's, or Nango's own error where there is none.
    ///
    /// Nango passes on the headers that it is given as `Nango-Proxy-<name>`. Nothing is tried twice.
    ///
    /// # Errors
    /// When Nango cannot be reached, or does not answer in time.
    pub async fn proxy(
        &self,
        connection_id: &str,
        integration: &str,
        call: ProxyCall,
    ) -> Result<Response, Error> {
        let base = self.url(&["proxy"]);
        let url = format!("{base}/{}", call.path_and_query);
        let id = HeaderValue::from_str(connection_id).map_err(|_not_an_id| Error::NotFound)?;
        let key =
            HeaderValue::from_str(integration).map_err(|_not_a_key| Error::UnknownIntegration)?;
        let begun = self.0.calls.begin("proxy");
        let answer = self
            .0
            .client
            .request(call.method, url)
            .timeout(TIMEOUT)
            .headers(for_provider(&call.headers))
            .header(AUTHORIZATION, &self.0.authorization)
            .header("connection-id", id)
            .header("provider-config-key", key)
            .body(call.body)
            .send()
            .await
            .map_err(Error::from);
        begun.end(answer.as_ref().err());
        answer
    }
}

/// The caller's headers, in the form in which Nango passes them on. What is meant for us, or for the way, stays here.
fn for_provider(headers: &HeaderMap) -> HeaderMap {
    let mut passed = HeaderMap::new();
    for (name, value) in headers {
        let text = name.as_str();
        let ours = HOP_BY_HOP.contains(&text)
            || [
                "authorization",
                "cookie",
                "host",
                "patchbay-user",
                "x-request-id",
                "forwarded",
            ]
            .contains(&text)
            || text.starts_with("x-forwarded-")
            || text.starts_with("nango-");
        if ours {
            continue;
        }
        if [
            "content-type",
            "content-length",
            "accept",
            "accept-encoding",
        ]
        .contains(&text)
        {
            passed.append(name, value.clone());
        }
        if let Ok(name) = HeaderName::try_from(format!("nango-proxy-{text}")) {
            passed.append(name, value.clone());
        }
    }
    passed
}

/// The answer's headers that are the provider's to say.
#[must_use]
pub fn of_provider(headers: &HeaderMap) -> HeaderMap {
    let passes = |name: &HeaderName| {
        let name = name.as_str();
        !HOP_BY_HOP.contains(&name)
            && name != "set-cookie"
            && !name.starts_with("access-control-")
            && !name.starts_with("x-nango-")
    };
    headers
        .iter()
        .filter(|(name, _)| passes(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}
