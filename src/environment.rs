//! Reading variables one by one, and remembering what is wrong with them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use secrecy::SecretString;
use url::Url;

/// The value of `NANGO_SECRET_KEY` in `.env.example`, which has the form of a key.
const EXAMPLE_SECRET_KEY: &str = "00000000-0000-4000-8000-000000000000";

/// Reads variables, and remembers their names and what was wrong with them.
pub(crate) struct Environment<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    pub(crate) names: Vec<&'static str>,
    pub(crate) problems: Vec<String>,
}

impl<'a> Environment<'a> {
    pub(crate) fn new(lookup: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self {
            lookup,
            names: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// An empty value counts as none: that is how hosts and compose files hand out unset variables.
    pub(crate) fn optional<T>(&mut self, name: &'static str) -> Option<T>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        self.names.push(name);
        let value = (self.lookup)(name).filter(|value| !value.trim().is_empty())?;
        match value.trim().parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.problems
                    .push(format!("{name} cannot be read: {error}"));
                None
            }
        }
    }

    /// A secret, or several that are all good while it is rotated, with commas between. None where
    /// the variable is not set.
    pub(crate) fn rotatable_secrets(&mut self, name: &'static str) -> Vec<SecretString> {
        let list: Option<String> = self.optional(name);
        let all: Vec<&str> = list
            .iter()
            .flat_map(|list| list.split(','))
            .map(str::trim)
            .collect();
        if let Some(example) = all.iter().find(|secret| is_example(secret)) {
            self.refuse_example(name, example);
        }
        all.into_iter().map(Into::into).collect()
    }

    /// Notes a problem if a secret is the one of `.env.example`, which everybody knows.
    pub(crate) fn refuse_example(&mut self, name: &str, secret: &str) {
        if is_example(secret) {
            self.problems.push(format!(
                "{name} is still the example's, which anybody can read: put your own in its place"
            ));
        }
    }

    /// Texts with commas between; none where the variable is not set.
    pub(crate) fn list(&mut self, name: &'static str) -> Vec<String> {
        let list: Option<String> = self.optional(name);
        let list = list.unwrap_or_default();
        let all = list.split(',').map(str::trim);
        all.filter(|text| !text.is_empty())
            .map(str::to_owned)
            .collect()
    }

    pub(crate) fn with_default<T>(&mut self, name: &'static str, default: T) -> T
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        self.optional(name).unwrap_or(default)
    }

    /// A number that may not be zero.
    pub(crate) fn positive<T>(&mut self, name: &'static str, default: T) -> T
    where
        T: FromStr + Default + PartialEq,
        T::Err: fmt::Display,
    {
        let value = self.with_default(name, default);
        if value == T::default() {
            self.problems.push(format!("{name} must be at least 1"));
        }
        value
    }

    /// Whole seconds that may not be none.
    pub(crate) fn positive_seconds(&mut self, name: &'static str, default: u32) -> Duration {
        Duration::from_secs(self.positive(name, default).into())
    }

    /// Whole seconds; a number that would not fit into any clock is refused.
    pub(crate) fn seconds(&mut self, name: &'static str, default: u32) -> Duration {
        Duration::from_secs(self.with_default(name, default).into())
    }

    pub(crate) fn required(&mut self, name: &'static str, what: &str) -> Option<String> {
        let value = self.optional(name);
        if value.is_none() {
            self.missing(name, what);
        }
        value
    }

    pub(crate) fn missing(&mut self, name: &str, what: &str) {
        self.problems.push(format!("{name} is missing: {what}"));
    }

    /// An address that paths are added to, without a slash at its end. It is logged and shown, so it has no password.
    pub(crate) fn http_url(&mut self, name: &str, url: Url) -> Option<Url> {
        let mut url = self.http_address(name, url)?;
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

    /// An address that is called as it is.
    pub(crate) fn http_address(&mut self, name: &str, url: Url) -> Option<Url> {
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            self.problems
                .push(format!("{name} must be an http or https address"));
            return None;
        }
        Some(url)
    }
}

/// Whether a secret is one of `.env.example`.
pub(crate) fn is_example(secret: &str) -> bool {
    secret.starts_with("change-me") || secret == EXAMPLE_SECRET_KEY
}
