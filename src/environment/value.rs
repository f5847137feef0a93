//! Cleans values of traces of the file that they were copied from: quotes, comments, line ends and others.
//!
//! No message contains a value, because it may be a secret.

use std::net::Ipv6Addr;

use serde::de::IgnoredAny;

use crate::text::is_bidi_control;

/// A variable as the user set it.
pub enum Variable {
    /// A variable of the process. Its launcher may have left quotes and comments in the value.
    Process(String),
    /// An assignment of a `.env` file, without its quotes and comment.
    File {
        /// The value.
        text: String,
        /// The number of the line, from 1.
        line: usize,
        /// `true` if the value was in quotes.
        is_quoted: bool,
    },
    /// The process has the variable under this name, which differs only by characters that are not allowed in a name.
    Misnamed(String),
}

impl From<String> for Variable {
    fn from(text: String) -> Self {
        Self::Process(text)
    }
}

/// The kind of a value, which decides how it is cleaned.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An address, a number, a name, or a list of them.
    Plain,
    /// Literal, apart from surrounding quotes and white space.
    Secret,
}

/// The source of a value, which decides which characters were already removed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Nothing.
    Process,
    /// A comment was removed.
    File,
    /// Quotes and a comment were removed: any others belong to the value.
    QuotedInFile,
}

/// The pairs of quotes that surround values in files.
const QUOTES: [(char, char); 5] = [
    ('"', '"'),
    ('\'', '\''),
    ('`', '`'),
    ('\u{201C}', '\u{201D}'),
    ('\u{2018}', '\u{2019}'),
];

/// A result whose error says what is wrong and what to write instead.
type Checked<'a> = Result<&'a str, &'static str>;

/// Returns a value without surrounding white space and quotes.
///
/// # Errors
/// If the value contains syntax of the file that it was copied from.
pub(crate) fn clean<'a>(name: &str, text: &'a str, kind: Kind, origin: Origin) -> Checked<'a> {
    let text = match origin {
        Origin::QuotedInFile => trim(text),
        Origin::Process | Origin::File => unquoted(trim(text))?,
    };
    if text.contains(char::REPLACEMENT_CHARACTER) {
        return Err("is not UTF-8 text: save the file that sets it as UTF-8");
    }
    if text.contains("-----BEGIN ") {
        return Err(
            "holds a PEM key or certificate, which no variable takes: public keys of users' tokens are fetched from \
             AUTH_JWKS_URL",
        );
    }
    if text.chars().any(|c| c.is_control() && c != '\t') {
        return Err(
            "has a line break or another control character in it: write it on one line, and lists with commas",
        );
    }
    if text.chars().any(is_invisible) {
        return Err("has an invisible character in it: type it again instead of pasting it");
    }
    if begins_with_name(name, text) {
        return Err("begins with its own name: write only what comes after the equals sign");
    }
    if is_placeholder(text) || (kind == Kind::Plain && has_placeholder(text)) {
        return Err(
            "is or has a placeholder that was not replaced: values are read literally, so write the value itself",
        );
    }
    if is_structured(text, kind) {
        return Err(
            "holds JSON or YAML: write the plain value, without brackets, braces, dashes and quotes; lists with commas",
        );
    }
    if origin == Origin::Process && has_comment(text) {
        return Err(
            "ends with a comment, which `docker --env-file` and systemd keep: remove everything from the # on. If the # \
             belongs to a secret, set it in a file named .env, in single quotes",
        );
    }
    if text.starts_with("eyJ") && text.split('.').count() == 3 {
        return Err(
            "holds a token (a JWT), not a value of this variable: copy the key that signs it, or another secret",
        );
    }
    Ok(text)
}

/// Removes white space, byte order marks and invisible characters from both ends.
fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || is_invisible(c) || c == '\0')
}

fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{AD}' | '\u{200B}'..='\u{200D}' | '\u{2060}' | '\u{FEFF}'
    ) || is_bidi_control(c)
}

/// Returns a text without surrounding quotes; unchanged if the quotes belong to the items of a list.
///
/// # Errors
/// If a quote has no counterpart at the other end.
fn unquoted(text: &str) -> Checked<'_> {
    let pair = |at_end: &dyn Fn(char, char) -> bool| QUOTES.iter().find(|(a, b)| at_end(*a, *b));
    let opening = pair(&|open, _| text.starts_with(open));
    let closing = pair(&|_, close| text.ends_with(close));
    match (opening, closing) {
        (None, None) => Ok(text),
        (Some(one), Some(other)) if one == other && text.chars().nth(1).is_some() => {
            if is_list_of_quoted(text) {
                return Ok(text);
            }
            let inner = text
                .strip_prefix(one.0)
                .and_then(|text| text.strip_suffix(one.1));
            Ok(inner.unwrap_or(text).trim())
        }
        _ => Err("begins or ends with a quote that has no counterpart: write it without quotes"),
    }
}

fn is_list_of_quoted(text: &str) -> bool {
    let is_quoted = |item: &str| {
        let has = |(open, close): &(char, char)| {
            item.len() > 1 && item.starts_with(*open) && item.ends_with(*close)
        };
        QUOTES.iter().any(has)
    };
    let mut items = text.split(',').map(str::trim);
    text.contains(',') && items.all(is_quoted)
}

/// Returns the items of a comma-separated list, each without surrounding quotes.
///
/// # Errors
/// If a quote has no counterpart.
pub(crate) fn items(list: &str) -> Result<Vec<&str>, &'static str> {
    list.split(',').map(|item| unquoted(item.trim())).collect()
}

/// Returns the items of a list of secrets. A quote without a counterpart belongs to its secret.
pub(crate) fn secret_items(list: &str) -> Vec<&str> {
    let items = list.split(',').map(str::trim);
    items.map(|item| unquoted(item).unwrap_or(item)).collect()
}

/// Returns `true` if a name equals `name` apart from surrounding characters that are not allowed in one: a byte order
/// mark, white space, quotes, or `export`.
pub(crate) fn is_disguised(found: &str, name: &str) -> bool {
    let plain = found.trim_matches(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let plain = plain.strip_prefix("export").map_or(plain, str::trim_start);
    found != name && plain == name
}

fn begins_with_name(name: &str, text: &str) -> bool {
    let text = text.strip_prefix("export ").unwrap_or(text);
    let rest = text.strip_prefix(name).map(str::trim_start);
    rest.is_some_and(|rest| rest.starts_with(['=', ':', '"', '\'']))
}

/// Returns `true` if the whole text is a placeholder: `${NAME}`, `$NAME`, `$(NAME)`, `{{ name }}`, `<name>`, `%NAME%`.
fn is_placeholder(text: &str) -> bool {
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_uppercase())
            && name
                .bytes()
                .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == b'_')
    };
    let enclosed = [("${", "}"), ("$(", ")"), ("{{", "}}"), ("<", ">")];
    enclosed
        .iter()
        .any(|(start, end)| text.starts_with(start) && text.ends_with(end))
        || text.strip_prefix('$').is_some_and(is_name)
        || text
            .strip_prefix('%')
            .and_then(|text| text.strip_suffix('%'))
            .is_some_and(is_name)
}

/// Returns `true` if an address or a name contains a placeholder, as in `https://<tenant>.example.com`.
fn has_placeholder(text: &str) -> bool {
    let between = |open: &str, close: char| {
        let inner = text.split_once(open).map(|(_, rest)| rest);
        inner.is_some_and(|rest| rest.contains(close))
    };
    between("<", '>')
        || between("${", '}')
        || between("$(", ')')
        || (between("{", '}') && !text.starts_with('{'))
}

fn is_structured(text: &str, kind: Kind) -> bool {
    if kind == Kind::Secret {
        let is_json = || serde_json::from_str::<IgnoredAny>(text).is_ok();
        return text.starts_with(['{', '[']) && is_json();
    }
    let address = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    let is_ipv6 = address.is_some_and(|text| text.parse::<Ipv6Addr>().is_ok());
    text.starts_with("- ") || (text.starts_with(['{', '[']) && !is_ipv6)
}

fn has_comment(text: &str) -> bool {
    let mut before = ' ';
    text.chars().any(|c| {
        let starts = c == '#' && before.is_whitespace();
        before = c;
        starts
    })
}
