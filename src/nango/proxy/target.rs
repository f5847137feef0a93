//! The address of a proxied call: it contains nothing that Nango evaluates, and stays within Nango's proxy.
//!
//! Nango's proxy uses the path and query as they arrive, without decoding them. It replaces `${…}` by the connection's
//! credentials, splits at `||`, renames `connectionConfig`, and resolves the result as a URL. A reverse proxy in front
//! of Nango may first decode the path, once or repeatedly, and resolve dot segments.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

/// The characters that are encoded: all but the unreserved ones (RFC 3986, 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A word that Nango replaces, and the same word with an encoded letter, which Nango does not replace.
const RENAMED: [&str; 2] = ["connectionConfig", "connectionConfi%67"];

/// The reason for which a provider's path is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnsafePath {
    /// The path has bytes that are not UTF-8, to which Nango responds with an internal error.
    #[error("the provider's path must be UTF-8, percent-encoded")]
    NotUtf8,
    /// The path has a control character, encoded any number of times.
    #[error("the provider's path must not have control characters")]
    ControlCharacter,
    /// The path has a backslash, which some servers read as a slash.
    #[error("the provider's path must not have a backslash")]
    Backslash,
    /// A segment changes the directory when the path is resolved.
    #[error("the provider's path must not have `.` or `..` as a segment, also not encoded")]
    DotSegment,
    /// The path names a host.
    #[error(
        "the provider's path must be relative: omit the host, and do not start it with `/`, `http:` or `https:`"
    )]
    Absolute,
    /// The path has a template, which Nango would evaluate after a reverse proxy has decoded the path.
    #[error("the provider's path must not have `${{` or `||`, also not encoded")]
    Template,
}

/// A provider's path and query, encoded so that they reach the provider unchanged in meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyTarget(String);

impl ProxyTarget {
    /// Builds the path and query of a call from those of a caller, without the leading slash and the question mark.
    /// Segments and pairs are decoded once and encoded again.
    ///
    /// # Errors
    /// If the path may leave the proxy, or Nango may evaluate it, after repeated decoding.
    pub fn new(path: &str, query: Option<&str>) -> Result<Self, UnsafePath> {
        check(path)?;
        let mut segments: Vec<String> = path.split('/').map(encoded_again).collect();
        if let [_, .., last] = &mut segments[..] {
            keep_custom_method(last);
        }
        let mut target = segments.join("/");
        let pairs = query.unwrap_or_default().split('&');
        let pairs = pairs.filter(|pair| !pair.is_empty()).map(encoded_pair);
        for (index, pair) in pairs.enumerate() {
            target.push(if index == 0 { '?' } else { '&' });
            target.push_str(&pair);
        }
        let [word, encoded] = RENAMED;
        Ok(Self(target.replace(word, encoded)))
    }

    /// Returns the encoded path, relative to the provider's base, and the query.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Rejects an unsafe path, by its form after repeated decoding.
fn check(path: &str) -> Result<(), UnsafePath> {
    let is_utf8 = path
        .split('/')
        .all(|segment| percent_decode_str(segment).decode_utf8().is_ok());
    let decoded = decoded_repeatedly(path);
    let (true, Ok(decoded)) = (is_utf8, str::from_utf8(&decoded)) else {
        return Err(UnsafePath::NotUtf8);
    };
    // Some servers treat the text after a semicolon as a parameter of the segment.
    let is_dots = |segment: &str| matches!(segment.split(';').next(), Some("." | ".."));
    let start = decoded.trim_start().to_ascii_lowercase();
    if decoded.contains(char::is_control) {
        Err(UnsafePath::ControlCharacter)
    } else if decoded.contains('\\') {
        Err(UnsafePath::Backslash)
    } else if decoded.split('/').any(is_dots) {
        Err(UnsafePath::DotSegment)
    } else if ["/", "http:", "https:"]
        .iter()
        .any(|absolute| start.starts_with(absolute))
    {
        Err(UnsafePath::Absolute)
    } else if decoded.contains("${") || decoded.contains("||") {
        Err(UnsafePath::Template)
    } else {
        Ok(())
    }
}

/// Decodes until no `%XX` is left, in one pass: a decoded byte may complete another `%XX`.
fn decoded_repeatedly(text: &str) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    for byte in text.bytes() {
        decoded.push(byte);
        while let [.., b'%', high, low] = decoded[..]
            && let (Some(high), Some(low)) = (hexadecimal(high), hexadecimal(low))
        {
            decoded.truncate(decoded.len() - 3);
            decoded.push(high << 4 | low);
        }
    }
    decoded
}

fn hexadecimal(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16)?.try_into().ok()
}

fn encoded_again(text: &str) -> String {
    let decoded: Cow<'_, [u8]> = percent_decode_str(text).into();
    percent_encode(&decoded, RESERVED).to_string()
}

/// Encodes a pair of a query, in which a plus sign is a space.
fn encoded_pair(pair: &str) -> String {
    let encoded = |text: &str| encoded_again(&text.replace('+', " "));
    match pair.split_once('=') {
        Some((name, value)) => format!("{}={}", encoded(name), encoded(value)),
        None => encoded(pair),
    }
}

/// Keeps the colon before a Google custom method (`values/A1:append`), because Google looks for it before it decodes
/// the path. The caller omits the first segment, which would look like a URL with a scheme.
fn keep_custom_method(segment: &mut String) {
    if let Some((resource, method)) = segment.rsplit_once("%3A")
        && !method.is_empty()
        && method.bytes().all(|byte| byte.is_ascii_alphabetic())
    {
        *segment = format!("{resource}:{method}");
    }
}
