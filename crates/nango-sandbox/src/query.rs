//! Query strings as Nango reads them: `key=value` and `key[name]=value`.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use std::convert::Infallible;

use crate::error::Failure;
use crate::schema::{Reader, Tags};

/// The decoded parameters of a request, in their original order.
pub(super) struct Query(Vec<(String, String)>);

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let raw = parts.uri.query().unwrap_or_default();
        let pairs = url::form_urlencoded::parse(raw.as_bytes());
        Ok(Self(pairs.into_owned().collect()))
    }
}

impl Query {
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        let found = self.0.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value.as_str())
    }

    pub(super) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        let named = self.0.iter().filter(move |(name, _)| name == key);
        named.map(|(_, value)| value.as_str())
    }

    pub(super) fn pairs(&self) -> &[(String, String)] {
        &self.0
    }

    /// Returns the `key[name]=value` parameters of one key.
    pub(super) fn nested(&self, key: &str) -> Tags {
        let mut found = Tags::new();
        for (name, value) in &self.0 {
            let inner = name
                .strip_prefix(key)
                .and_then(|rest| rest.strip_prefix('[')?.strip_suffix(']'));
            if let Some(inner) = inner {
                found.insert(inner.to_owned(), value.clone());
            }
        }
        found
    }

    /// Rejects every parameter that is not in `allowed`; `tags[a]` counts as `tags`.
    pub(super) fn only(&self, reader: &mut Reader, allowed: &[&str]) {
        let mut unknown: Vec<&str> = Vec::new();
        for (name, _) in &self.0 {
            let base = name.split('[').next().unwrap_or(name);
            if !allowed.contains(&base) && !unknown.contains(&base) {
                unknown.push(base);
            }
        }
        reader.unrecognized(unknown.into_iter(), Vec::new());
    }

    /// Rejects any parameter.
    pub(super) fn none(&self) -> Result<(), Failure> {
        let mut reader = Reader::default();
        self.only(&mut reader, &[]);
        reader.finish("invalid_query_params")
    }

    /// Returns a whole number within bounds; `None` if it is missing or rejected.
    pub(super) fn number(
        &self,
        reader: &mut Reader,
        key: &str,
        least: usize,
        most: usize,
    ) -> Option<usize> {
        let text = self.get(key)?;
        let Ok(number) = text.parse::<i64>() else {
            let message = "Invalid input: expected number, received NaN";
            reader.issue("invalid_type", message, &[key]);
            return None;
        };
        match usize::try_from(number) {
            Ok(number) if number > most => {
                let message = format!("Too big: expected number to be <={most}");
                reader.issue("too_big", message, &[key]);
                None
            }
            Ok(number) if number >= least => Some(number),
            _ => {
                let message = format!("Too small: expected number to be >={least}");
                reader.issue("too_small", message, &[key]);
                None
            }
        }
    }

    /// Returns a flag in any of Nango's spellings; false if it is missing.
    pub(super) fn flag(&self, reader: &mut Reader, key: &str) -> bool {
        const TRUE: [&str; 6] = ["true", "1", "yes", "on", "y", "enabled"];
        const FALSE: [&str; 6] = ["false", "0", "no", "off", "n", "disabled"];
        let Some(text) = self.get(key) else {
            return false;
        };
        let lower = text.to_lowercase();
        if TRUE.contains(&lower.as_str()) {
            return true;
        }
        if !FALSE.contains(&lower.as_str()) {
            let options: Vec<_> = TRUE
                .iter()
                .chain(&FALSE)
                .map(|o| format!("\"{o}\""))
                .collect();
            let message = format!("Invalid option: expected one of {}", options.join("|"));
            reader.issue("invalid_value", message, &[key]);
        }
        false
    }

    /// Returns the required `provider_config_key`.
    pub(super) fn integration(&self, reader: &mut Reader) -> String {
        let key = self.get("provider_config_key");
        if key.is_none() {
            reader.missing_string("provider_config_key");
        }
        key.unwrap_or_default().to_owned()
    }
}
