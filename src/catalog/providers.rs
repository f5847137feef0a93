//! Data about Nango's providers, for connectors of configured integrations.

use serde::Deserialize;
use serde::de::value::{Error as ValueError, StrDeserializer};

use super::{AuthMode, Parameter};

/// One provider per line; the first lines describe the format. The text itself is searched, so that startup parses
/// nothing.
const PROVIDERS: &str = include_str!("providers.tsv");

/// The data about a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    /// Nango's display name.
    pub display_name: &'static str,
    /// How it authenticates.
    pub auth_mode: Option<AuthMode>,
    /// Nango's categories, separated by spaces.
    pub categories: &'static str,
    /// The parameters that a user has to give besides the authorization.
    pub parameters: Vec<Parameter>,
}

impl Provider {
    /// Returns the data about a provider; `None` if it is newer than this list.
    pub fn find(provider: &str) -> Option<Self> {
        let mut lines = PROVIDERS.lines().filter(|line| !line.starts_with('#'));
        let line = lines.find(|line| line.split('\t').next() == Some(provider))?;
        let mut columns = line.split('\t').skip(1);
        let mut next = || columns.next().unwrap_or_default();
        let (display_name, mode, categories, parameters) = (next(), next(), next(), next());
        Some(Self {
            display_name,
            auth_mode: AuthMode::deserialize(StrDeserializer::<ValueError>::new(mode)).ok(),
            categories,
            parameters: parameters.split_whitespace().map(parameter).collect(),
        })
    }
}

/// Parses a parameter: `name`, `name?` or `name=default`, optionally followed by `:format`.
fn parameter(text: &str) -> Parameter {
    let (text, format) = match text.rsplit_once(':') {
        Some((text, format)) => (text, format),
        None => (text, ""),
    };
    let (name, default) = match text.split_once('=') {
        Some((name, default)) => (name, Some(default).filter(|text| !text.is_empty())),
        None => (text, None),
    };
    let is_optional = name.ends_with('?') || text.contains('=');
    let name = name.trim_end_matches('?');
    Parameter {
        name: name.to_owned(),
        title: title(name),
        description: None,
        pattern: pattern(format).map(str::to_owned),
        example: default.map(str::to_owned),
        required: !is_optional,
        prefix: None,
        suffix: None,
    }
}

fn pattern(format: &str) -> Option<&'static str> {
    match format {
        "hostname" => Some(
            r"[A-Za-z0-9]([A-Za-z0-9\-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9\-]*[A-Za-z0-9])?)+(:[0-9]{1,5})?",
        ),
        "uuid" => Some("[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"),
        "uri" => Some(r"https?://\S+"),
        "email" => Some(r"[^@\s]+@[^@\s]+"),
        _ => None,
    }
}

/// Converts a parameter's name to words: `accountName` and `account_name` become "Account name".
fn title(name: &str) -> String {
    let mut title = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        let after_word = title
            .chars()
            .last()
            .is_some_and(|last| last.is_ascii_lowercase());
        match c {
            '_' | '-' | '.' => title.push(' '),
            c if title.is_empty() => title.extend(c.to_uppercase()),
            c if c.is_ascii_uppercase() && after_word => {
                title.push(' ');
                title.push(c.to_ascii_lowercase());
            }
            c => title.push(c),
        }
    }
    title
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_provider_can_be_read() {
        let lines = PROVIDERS.lines().filter(|line| !line.starts_with('#'));
        let names: Vec<&str> = lines.filter_map(|line| line.split('\t').next()).collect();
        assert_eq!(names.len(), 981);
        assert!(names.is_sorted());
        for name in names {
            let provider = Provider::find(name).expect("it is in the list");
            assert!(provider.auth_mode.is_some(), "{name}");
            assert!(!provider.display_name.is_empty(), "{name}");
            for parameter in &provider.parameters {
                assert!(!parameter.name.contains(['?', '=', ':', '(']), "{name}");
                let example = parameter.example.as_ref();
                assert!(
                    example.is_none_or(|example| parameter.accepts(example)),
                    "{name}"
                );
            }
        }
        assert_eq!(Provider::find("no-such-provider"), None);
        assert_eq!(
            Provider::find("slack").map(|slack| slack.display_name),
            Some("Slack")
        );
    }

    #[test]
    fn parameter_has_format_and_title() {
        let host = parameter("snowflake_account_url:hostname");
        assert_eq!(
            (&*host.name, &*host.title, host.required),
            ("snowflake_account_url", "Snowflake account url", true)
        );
        assert!(host.accepts("acme.snowflakecomputing.com"));
        assert!(!host.accepts("https://acme.example"));
        let region = parameter("hostName=app.clio.com:hostname");
        assert_eq!((&*region.title, region.required), ("Host name", false));
        assert_eq!(region.example.as_deref(), Some("app.clio.com"));
        assert!(!parameter("domain?").required);
    }
}
