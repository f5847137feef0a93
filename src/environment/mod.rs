//! Reads variables one by one, and collects all errors.

mod env_file;
mod value;

use std::fmt;
use std::num::{IntErrorKind, ParseIntError};
use std::str::FromStr;
use std::time::Duration;

use secrecy::SecretString;
use url::Url;

pub use env_file::{EnvFile, EnvFileError};
pub use value::Variable;
pub(crate) use value::is_disguised;
use value::{Kind, Origin, clean, items, secret_items};

/// The value of `NANGO_SECRET_KEY` in `.env.example`, which has the form of a key.
const EXAMPLE_SECRET_KEY: &str = "00000000-0000-4000-8000-000000000000";

/// Reads variables, and collects their names and errors.
pub(crate) struct Environment<'a> {
    lookup: &'a dyn Fn(&str) -> Option<Variable>,
    pub(crate) names: Vec<&'static str>,
    pub(crate) problems: Vec<String>,
}

impl<'a> Environment<'a> {
    pub(crate) fn new(lookup: &'a dyn Fn(&str) -> Option<Variable>) -> Self {
        Self {
            lookup,
            names: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// Returns a variable's value; `None` if it is unset, empty, or invalid. Compose files and hosts pass unset
    /// variables as empty ones.
    fn value(&mut self, name: &'static str, kind: Kind) -> Option<String> {
        self.names.push(name);
        let (text, origin, line) = match (self.lookup)(name)? {
            Variable::Process(text) => (text, Origin::Process, None),
            Variable::File {
                text,
                line,
                is_quoted: true,
            } => (text, Origin::QuotedInFile, Some(line)),
            Variable::File { text, line, .. } => (text, Origin::File, Some(line)),
            Variable::Misnamed(found) => {
                self.problems.push(format!(
                    "{name} is set as {found:?}: remove what is around the name, such as a byte order mark, white space, \
                     a quote or `export`"
                ));
                return None;
            }
        };
        match clean(name, &text, kind, origin) {
            Ok("") => None,
            Ok(text) => Some(text.to_owned()),
            Err(problem) => {
                let place = line.map_or(String::new(), |line| format!(" (.env, line {line})"));
                self.problems.push(format!("{name}{place} {problem}"));
                None
            }
        }
    }

    /// Returns a parsed value. The message of the type's error must complete a sentence that starts with the variable's
    /// name.
    pub(crate) fn optional<T>(&mut self, name: &'static str) -> Option<T>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        match self.value(name, Kind::Plain)?.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.problems.push(format!("{name} {error}"));
                None
            }
        }
    }

    /// Returns a secret, read literally.
    pub(crate) fn secret(&mut self, name: &'static str) -> Option<String> {
        self.value(name, Kind::Secret)
    }

    /// Returns a secret, or several separated by commas, which are all valid during a rotation. Empty if the variable
    /// is unset.
    pub(crate) fn rotatable_secrets(&mut self, name: &'static str) -> Vec<SecretString> {
        let all = self.secret_items(name);
        if let Some(example) = all.iter().find(|secret| is_example(secret)) {
            self.refuse_example(name, example);
        }
        all.into_iter().map(Into::into).collect()
    }

    /// Returns the items of a secret list; empty if the variable is unset.
    pub(crate) fn secret_items(&mut self, name: &'static str) -> Vec<String> {
        let list = self.secret(name);
        let items = list.iter().flat_map(|list| secret_items(list));
        items.map(str::to_owned).collect()
    }

    /// Reports a secret that equals the one of `.env.example`, which is public.
    pub(crate) fn refuse_example(&mut self, name: &str, secret: &str) {
        if is_example(secret) {
            self.problems.push(format!(
                "{name} is still the value of the example file, which is public: replace it"
            ));
        }
    }

    /// Returns the items of a comma-separated list; empty if the variable is unset.
    pub(crate) fn list(&mut self, name: &'static str) -> Vec<String> {
        let list = self.value(name, Kind::Plain).unwrap_or_default();
        let mut items: Vec<String> = match items(&list) {
            Ok(items) => items.into_iter().map(str::to_owned).collect(),
            Err(problem) => {
                self.problems.push(format!("{name}: an item {problem}"));
                return Vec::new();
            }
        };
        items.retain(|item| !item.is_empty());
        // As an empty list, it would silently accept any value.
        if items.is_empty() && !list.is_empty() {
            self.problems.push(format!(
                "{name} has no entry beside its commas: write one, or unset it"
            ));
        }
        if items.iter().any(|item| item.contains(';')) {
            self.problems.push(format!(
                "{name} has a semicolon in it: separate several by commas"
            ));
            return Vec::new();
        }
        items
    }

    pub(crate) fn with_default<T>(&mut self, name: &'static str, default: T) -> T
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        self.optional(name).unwrap_or(default)
    }

    /// Returns `true` or `false`. Accepts the same values as pydantic, so that the FastAPI service's variables stay
    /// valid.
    pub(crate) fn flag(&mut self, name: &'static str, default: bool) -> bool {
        let Some(text) = self.value(name, Kind::Plain) else {
            return default;
        };
        match text.to_ascii_lowercase().as_str() {
            "true" | "t" | "yes" | "y" | "on" | "1" => true,
            "false" | "f" | "no" | "n" | "off" | "0" => false,
            _ => {
                self.problems.push(format!(
                    "{name} must be true or false, without anything else"
                ));
                default
            }
        }
    }

    /// Returns a whole number.
    pub(crate) fn number<T>(&mut self, name: &'static str, default: T) -> T
    where
        T: FromStr<Err = ParseIntError> + fmt::Display,
    {
        self.optional_number(name, &default).unwrap_or(default)
    }

    /// Returns a whole number if the variable is set. Errors contain the example.
    pub(crate) fn optional_number<T>(&mut self, name: &'static str, example: &T) -> Option<T>
    where
        T: FromStr<Err = ParseIntError> + fmt::Display,
    {
        match self.value(name, Kind::Plain)?.parse() {
            Ok(number) => Some(number),
            Err(error) => {
                let wrong = match error.kind() {
                    IntErrorKind::PosOverflow => "is too large: write a smaller number",
                    _ => "is not a whole number: write digits only, without a unit",
                };
                self.problems
                    .push(format!("{name} {wrong}, such as {example}"));
                None
            }
        }
    }

    /// Returns a whole number that is not zero.
    pub(crate) fn positive<T>(&mut self, name: &'static str, default: T) -> T
    where
        T: FromStr<Err = ParseIntError> + fmt::Display + Default + PartialEq,
    {
        let value = self.number(name, default);
        if value == T::default() {
            self.problems.push(format!("{name} must be at least 1"));
        }
        value
    }

    /// Returns whole seconds, at least one.
    pub(crate) fn positive_seconds(&mut self, name: &'static str, default: u32) -> Duration {
        Duration::from_secs(self.positive(name, default).into())
    }

    /// Returns whole seconds. A number that exceeds the clock's range is invalid.
    pub(crate) fn seconds(&mut self, name: &'static str, default: u32) -> Duration {
        Duration::from_secs(self.number(name, default).into())
    }

    /// Returns a required secret. `what` describes it.
    pub(crate) fn required(&mut self, name: &'static str, what: &str) -> Option<String> {
        let problems = self.problems.len();
        let value = self.secret(name);
        if value.is_none() && self.problems.len() == problems {
            self.missing(name, what);
        }
        value
    }

    pub(crate) fn missing(&mut self, name: &str, what: &str) {
        self.problems.push(format!("{name} is missing: {what}"));
    }

    /// Returns an address to which paths are appended, without a trailing slash. It must not contain a password,
    /// because it is logged and displayed.
    pub(crate) fn base_url(&mut self, name: &'static str) -> Option<Url> {
        let mut url = self.url(name)?;
        if !url.username().is_empty() || url.password().is_some() {
            self.problems.push(format!(
                "{name} must not have a user or a password in it: the address is logged and shown"
            ));
            return None;
        }
        if url.query().is_some() || url.fragment().is_some() {
            self.problems.push(format!(
                "{name} must not have a query or a fragment: paths are added to it"
            ));
            return None;
        }
        let path = url.path().trim_end_matches('/').to_owned();
        url.set_path(&path);
        Some(url)
    }

    /// Returns an http or https address, which is called unchanged.
    pub(crate) fn url(&mut self, name: &'static str) -> Option<Url> {
        let text = self.value(name, Kind::Plain)?;
        match parse_http_url(&text) {
            Ok(url) => Some(url),
            Err(problem) => {
                self.problems.push(format!("{name} {problem}"));
                None
            }
        }
    }
}

/// Parses an http or https address.
///
/// # Errors
/// Says why it is invalid and what to write instead. The message does not contain the address, which may contain a
/// password.
pub(crate) fn parse_http_url(text: &str) -> Result<Url, String> {
    let lower = text.to_ascii_lowercase();
    if !lower.starts_with("http://") && !lower.starts_with("https://") {
        return Err(
            "must begin with https:// or http://, such as https://host.example.com".to_owned(),
        );
    }
    if text.contains(char::is_whitespace) {
        return Err("must be one address, without white space".to_owned());
    }
    let url = Url::parse(text).map_err(|error| format!("is not an address: {error}"))?;
    let host = url.host_str().unwrap_or_default();
    if matches!(host, "http" | "https") {
        return Err("has http:// or https:// twice: write it once".to_owned());
    }
    if host.contains([',', ';', '*']) {
        return Err(
            "must be one address, without a comma, a semicolon or a * in its host".to_owned(),
        );
    }
    Ok(url)
}

/// Returns `true` if a secret is one of those in `.env.example`.
pub(crate) fn is_example(secret: &str) -> bool {
    secret.starts_with("change-me") || secret == EXAMPLE_SECRET_KEY
}
