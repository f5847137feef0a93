//! Parameters: values that a provider needs of an account besides the authorization.

use std::collections::BTreeMap;

use regex::Regex;
use serde::Serialize;
use utoipa::ToSchema;

use super::Connector;

/// The maximum length of a value, in characters.
const MAX_VALUE: usize = 255;

/// A value that a provider needs of each account, such as the subdomain of a help desk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ConnectorParameter)]
pub struct Parameter {
    /// Nango's name of the parameter.
    pub name: String,
    /// The label of its form field.
    pub title: String,
    /// An explanation of the value and of where to find it.
    pub description: Option<String>,
    /// A regular expression that the whole value must match.
    pub pattern: Option<String>,
    /// A value that matches.
    pub example: Option<String>,
    /// `true` if the account cannot be connected without it.
    pub required: bool,
    /// The text before the value in the provider's address.
    pub prefix: Option<String>,
    /// The text after the value in the provider's address.
    pub suffix: Option<String>,
}

impl Parameter {
    /// Returns whether a value is valid.
    pub(crate) fn accepts(&self, value: &str) -> bool {
        let pattern = self.pattern.as_deref();
        let matches = |pattern| whole(pattern).is_some_and(|regex| regex.is_match(value));
        !value.is_empty()
            && value.chars().count() <= MAX_VALUE
            && !value.chars().any(char::is_control)
            && pattern.is_none_or(matches)
    }

    /// Returns a description of the valid values.
    fn expectation(&self) -> String {
        let expected = match &self.pattern {
            Some(pattern) => format!("match `{pattern}`"),
            None => format!("have 1 to {MAX_VALUE} characters and no control characters"),
        };
        match &self.example {
            Some(example) => format!("{expected}, as {example:?} does"),
            None => expected,
        }
    }
}

/// Returns the regular expression for a whole value; `None` if the pattern is not valid.
pub(crate) fn whole(pattern: &str) -> Option<Regex> {
    Regex::new(&format!("^(?:{pattern})$")).ok()
}

impl Connector {
    /// Checks the parameters that a user gives.
    ///
    /// # Errors
    /// If the connector has no such parameter or the value is not valid; the text names both.
    pub fn check_parameters(&self, given: &BTreeMap<String, String>) -> Result<(), String> {
        for (name, value) in given {
            let Some(parameter) = self.parameters.iter().find(|it| it.name == *name) else {
                let known: Vec<&str> = self.parameters.iter().map(|it| &*it.name).collect();
                let known = match known.join(", ") {
                    none if none.is_empty() => "none".to_owned(),
                    known => known,
                };
                let connector = &self.name;
                return Err(format!(
                    "`parameters.{name}` is not a parameter of {connector}. It has: {known}."
                ));
            };
            if !parameter.accepts(value) {
                let expectation = parameter.expectation();
                return Err(format!("`parameters.{name}` must {expectation}."));
            }
        }
        Ok(())
    }

    /// Removes parameters that the connector no longer has, or whose values are no longer valid.
    pub fn retain_parameters(&self, stored: &mut BTreeMap<String, String>) {
        stored.retain(|name, value| {
            let mut parameters = self.parameters.iter();
            parameters.any(|it| it.name == *name && it.accepts(value))
        });
    }

    /// Returns whether all required parameters are given.
    pub fn has_required_parameters(&self, given: &BTreeMap<String, String>) -> bool {
        let mut required = self.parameters.iter().filter(|it| it.required);
        required.all(|it| given.contains_key(&it.name))
    }
}
