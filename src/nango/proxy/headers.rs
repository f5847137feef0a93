//! Filters the headers of a proxied call, in both directions.

use reqwest::header::{CONNECTION, ETAG, HeaderMap, HeaderName, HeaderValue};

/// The prefix of headers that Nango forwards to the provider.
const PREFIX: &str = "nango-proxy-";

/// Request headers that are not forwarded: credentials for Patchbay, headers of one connection (RFC 9110, 7.6.1) or of
/// proxies on the way here, and headers that Nango's HTTP client computes. Nango would forward a wrong `content-length`
/// unchanged.
const NOT_FOR_PROVIDER: [&str; 21] = [
    "accept-encoding",
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "max-forwards",
    "patchbay-user",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-real-ip",
    "x-request-id",
];

/// Response headers that are forwarded. All others are Nango's own, describe a connection, or would change how a
/// browser treats this origin.
const FROM_PROVIDER: [&str; 17] = [
    "accept-ranges",
    "allow",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-range",
    "content-type",
    "deprecation",
    "last-modified",
    "link",
    "location",
    "mcp-session-id",
    "retry-after",
    "sunset",
    "www-authenticate",
];

/// Returns the caller's headers as Nango forwards them. Nango keeps only the last of several with one name, so they are
/// joined.
pub(crate) fn request_headers(headers: &HeaderMap) -> HeaderMap {
    let connection: Vec<String> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    let passes = |name: &str| {
        !NOT_FOR_PROVIDER.contains(&name)
            && !name.starts_with("x-forwarded-")
            && !name.starts_with("nango-")
            && !connection.iter().any(|listed| listed == name)
    };
    let mut forwarded = HeaderMap::new();
    for name in headers.keys().filter(|name| passes(name.as_str())) {
        let values: Vec<&[u8]> = headers
            .get_all(name)
            .iter()
            .map(HeaderValue::as_bytes)
            .collect();
        let forwarded_name = HeaderName::try_from(format!("{PREFIX}{name}"));
        if let (Ok(name), Ok(value)) = (
            forwarded_name,
            HeaderValue::from_bytes(&values.join(&b", "[..])),
        ) {
            forwarded.insert(name, value);
        }
    }
    forwarded
}

/// Returns the provider's headers of a response.
pub(crate) fn from_provider(headers: &HeaderMap) -> HeaderMap {
    let passes = |name: &HeaderName, value: &HeaderValue| {
        FROM_PROVIDER.contains(&name.as_str()) || (name == ETAG && !is_computed_by_nango(value))
    };
    let passed = headers.iter().filter(|(name, value)| passes(name, value));
    passed
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// Returns whether an `ETag` has the form of one that Nango computes for a buffered body: `W/"<length>-<digest>"`, with
/// 27 characters of base64. It would differ from the one with which the provider compares `If-Match`.
fn is_computed_by_nango(value: &HeaderValue) -> bool {
    let text = value.to_str().unwrap_or_default();
    let inner = text
        .strip_prefix("W/\"")
        .and_then(|rest| rest.strip_suffix('"'));
    inner
        .and_then(|inner| inner.split_once('-'))
        .is_some_and(|(length, digest)| {
            digest.len() == 27
                && !length.is_empty()
                && length.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
}
