//! The connection parameters that Nango's provider templates require.

use serde_json::{Map, Value};

/// One provider per line, of those that require something: its required parameters, the authorization URL if it
/// contains parameters, and the parameters of the token URL.
const REQUIREMENTS: &str = include_str!("requirements.csv");

/// The parameters that a provider's template requires.
#[derive(Clone, Copy, Default)]
pub(super) struct Requirements {
    required: &'static str,
    authorization_url: &'static str,
    token: &'static str,
}

impl Requirements {
    /// Returns the requirements of a provider; none for a provider that is not listed.
    pub(super) fn of(provider: &str) -> Self {
        let mut lines = REQUIREMENTS.lines().map(|line| line.split(','));
        let line = lines.find_map(|mut fields| (fields.next()? == provider).then_some(fields));
        let Some(mut fields) = line else {
            return Self::default();
        };
        let mut field = || fields.next().unwrap_or_default();
        Self {
            required: field(),
            authorization_url: field(),
            token: field(),
        }
    }

    /// Returns the required parameters that `config` lacks.
    pub(super) fn missing(self, config: &Map<String, Value>) -> Vec<&'static str> {
        let names = self.required.split_whitespace();
        names.filter(|name| lacks(config, name)).collect()
    }

    /// Returns Nango's message if `config` lacks a parameter of the authorization URL.
    pub(super) fn authorization_error(self, config: &Map<String, Value>) -> Option<String> {
        let names = self.authorization_url.split('{').skip(1);
        let mut names = names.filter_map(|rest| rest.split('}').next());
        if !names.any(|name| lacks(config, name)) {
            return None;
        }
        let url = self.authorization_url.replace('{', "${connectionConfig.");
        let given = Value::Object(config.clone());
        Some(format!(
            "Missing Connection Config param(s) in Auth request to interpolate url {url}. \
             Provided Connection Config: {given}"
        ))
    }

    /// Returns `true` if `config` lacks a parameter of the token URL.
    pub(super) fn lacks_token_url(self, config: &Map<String, Value>) -> bool {
        let mut names = self.token.split_whitespace();
        names.any(|name| lacks(config, name))
    }
}

fn lacks(config: &Map<String, Value>, name: &str) -> bool {
    config.get(name).is_none_or(Value::is_null)
}
