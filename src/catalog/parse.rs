//! Parses a manifest file into entries with their positions.
//!
//! Parsing continues after an error, so that an operator sees all errors together.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as ValueError, StrDeserializer};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::parameters::whole;
use super::{AccountRule, AuthMode, Parameter};
use crate::text::displayable;

/// The words of the API's paths. A connector with such a slug would make paths ambiguous, now or after an upgrade.
pub(super) const RESERVED_SLUGS: [&str; 30] = [
    "accesses",
    "account",
    "api",
    "callback",
    "cancel",
    "check",
    "connect",
    "connections",
    "connectors",
    "console",
    "disconnect",
    "docs",
    "events",
    "healthz",
    "history",
    "invalid",
    "list",
    "logo",
    "metrics",
    "nango",
    "oauth",
    "openapi",
    "proxy",
    "readyz",
    "reconnect",
    "token",
    "tokens",
    "users",
    "v1",
    "webhooks",
];

/// The fields of a connector in a manifest file.
const CONNECTOR_FIELDS: [&str; 11] = [
    "slug",
    "name",
    "category",
    "provider",
    "integration_key",
    "auth_mode",
    "enabled",
    "unavailable",
    "note",
    "account",
    "parameters",
];

/// The fields of a connector's parameter.
const PARAMETER_FIELDS: [&str; 8] = [
    "name",
    "title",
    "description",
    "pattern",
    "example",
    "required",
    "prefix",
    "suffix",
];

/// An error in a manifest file, displayed as `path:line:column: message`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestError {
    /// The file's path.
    pub path: PathBuf,
    /// The line, starting at 1.
    pub line: usize,
    /// The character in the line, starting at 1.
    pub column: usize,
    /// The description of the error.
    pub message: String,
}

impl fmt::Display for ManifestError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, line, column) = (self.path.display(), self.line, self.column);
        write!(formatter, "{path}:{line}:{column}: {}", self.message)
    }
}

/// The errors found so far in one file.
pub(crate) struct ManifestErrors<'a> {
    path: &'a Path,
    text: &'a str,
    found: Vec<(usize, String)>,
}

impl<'a> ManifestErrors<'a> {
    pub(crate) fn new(path: &'a Path, text: &'a str) -> Self {
        Self {
            path,
            text,
            found: Vec::new(),
        }
    }

    /// Records an error at a position in the file.
    pub(crate) fn add(&mut self, at: &Range<usize>, message: impl Into<String>) {
        self.found.push((at.start, message.into()));
    }

    /// Returns all errors in the order of the file.
    pub(crate) fn into_sorted(mut self) -> Vec<ManifestError> {
        self.found.sort();
        let Self { path, text, found } = self;
        let problem = |(offset, message): (usize, String)| {
            let before = text.get(..offset).unwrap_or(text);
            let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
            ManifestError {
                path: path.to_owned(),
                line: before.matches('\n').count() + 1,
                column: before[line_start..].chars().count() + 1,
                message,
            }
        };
        found.into_iter().map(problem).collect()
    }
}

/// One `[[connector]]`: its slug, and the valid fields that it names.
pub(crate) struct Entry {
    /// `true` if the entry has an error. A missing field may then be one with an error.
    pub(crate) flawed: bool,
    pub(crate) slug: Spanned<String>,
    pub(crate) name: Option<String>,
    pub(crate) category: Option<String>,
    pub(crate) provider: Option<String>,
    pub(crate) integration_key: Option<Spanned<String>>,
    pub(crate) auth_mode: Option<AuthMode>,
    pub(crate) enabled: Option<bool>,
    pub(crate) unavailable: Option<String>,
    pub(crate) note: Option<String>,
    pub(crate) account: Option<AccountRule>,
    pub(crate) parameters: Option<Vec<Parameter>>,
}

/// Parses a manifest file. If its TOML is malformed, only that is reported, because the rest would be guesses.
pub(crate) fn entries(text: &str, problems: &mut ManifestErrors<'_>) -> Vec<Entry> {
    let (document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        for error in errors {
            problems.add(&error.span().unwrap_or_default(), error.message());
        }
        return Vec::new();
    }
    let mut fields = Fields {
        table: document.get_ref(),
        problems,
    };
    fields.reject_unknown(&["connector"]);
    let list = fields.read("connector", "a list of tables", DeValue::as_array);
    list.into_iter()
        .flat_map(|list| list.into_inner().iter())
        .filter_map(|value| entry(value, problems))
        .collect()
}

fn entry(value: &Spanned<DeValue<'_>>, problems: &mut ManifestErrors<'_>) -> Option<Entry> {
    let Some(table) = value.get_ref().as_table() else {
        problems.add(&value.span(), "a connector must be a table");
        return None;
    };
    let noted_before = problems.found.len();
    let mut fields = Fields { table, problems };
    fields.reject_unknown(&CONNECTOR_FIELDS);
    let slug = fields.slug(&value.span());
    Some(Entry {
        name: fields.shown_text("name"),
        category: fields.shown_text("category"),
        provider: fields.text("provider").map(Spanned::into_inner),
        integration_key: fields.text("integration_key"),
        auth_mode: fields.auth_mode(),
        enabled: fields
            .read("enabled", "true or false", DeValue::as_bool)
            .map(Spanned::into_inner),
        unavailable: fields.shown_text("unavailable"),
        note: fields.shown_text("note"),
        account: fields.account(),
        parameters: fields.parameters(),
        // Last, so that the errors of all other fields are recorded.
        slug: slug?,
        flawed: problems.found.len() > noted_before,
    })
}

/// The fields of one table.
struct Fields<'t, 'p, 'f> {
    table: &'t DeTable<'t>,
    problems: &'p mut ManifestErrors<'f>,
}

impl<'t> Fields<'t, '_, '_> {
    fn reject_unknown(&mut self, allowed: &[&str]) {
        for key in self.table.keys() {
            if !allowed.contains(&key.get_ref().as_ref()) {
                let (key, at) = (key.get_ref(), key.span());
                let allowed = allowed.join(", ");
                self.problems
                    .add(&at, format!("unknown field {key:?}, expected {allowed}"));
            }
        }
    }

    /// Returns a field of the right type; `None` if it is missing. Records an error for another type.
    fn read<T>(
        &mut self,
        key: &str,
        expected: &str,
        convert: impl FnOnce(&'t DeValue<'t>) -> Option<T>,
    ) -> Option<Spanned<T>> {
        let value = self.table.get(key)?;
        let converted = convert(value.get_ref());
        if converted.is_none() {
            self.problems
                .add(&value.span(), format!("{key} must be {expected}"));
        }
        Some(Spanned::new(value.span(), converted?))
    }

    /// Returns a text that is not empty.
    fn text(&mut self, key: &str) -> Option<Spanned<String>> {
        self.read(key, "a text that is not empty", |value| {
            let text = value.as_str()?;
            (!text.trim().is_empty()).then(|| text.to_owned())
        })
    }

    /// Returns a text without characters that cannot be displayed.
    fn shown_text(&mut self, key: &str) -> Option<String> {
        let text = self.text(key)?;
        Some(displayable(text.get_ref()).collect())
    }

    fn slug(&mut self, entry: &Range<usize>) -> Option<Spanned<String>> {
        if !self.table.contains_key("slug") {
            self.problems.add(entry, "the connector has no slug");
        }
        let slug = self.text("slug")?;
        let text = slug.get_ref();
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let problem = if text.len() > 63 || text.starts_with('-') || !text.chars().all(allowed) {
            "must be 1 to 63 of a-z, 0-9 and '-', the first not '-'"
        } else if RESERVED_SLUGS.contains(&text.as_str()) {
            "is reserved, the API has a path of that name"
        } else {
            return Some(slug);
        };
        self.problems
            .add(&slug.span(), format!("slug {text:?} {problem}"));
        None
    }

    fn auth_mode(&mut self) -> Option<AuthMode> {
        let text = self.text("auth_mode")?;
        let deserializer = StrDeserializer::<ValueError>::new(text.get_ref());
        AuthMode::deserialize(deserializer)
            .map_err(|error| {
                self.problems
                    .add(&text.span(), format!("auth_mode: {error}"));
            })
            .ok()
    }

    fn account(&mut self) -> Option<AccountRule> {
        let table = self.read("account", "a table with an id", DeValue::as_table)?;
        let value = self.table.get("account")?.clone();
        let rule = AccountRule::deserialize(value.into_deserializer());
        match rule {
            Ok(rule) if rule.identifies_account() => Some(rule),
            Ok(_) => {
                self.problems.add(&table.span(), "account has no id");
                None
            }
            Err(error) => {
                let at = error.span().unwrap_or(table.span());
                self.problems
                    .add(&at, format!("account: {}", error.message()));
                None
            }
        }
    }

    fn parameters(&mut self) -> Option<Vec<Parameter>> {
        let list = self.read("parameters", "a list of tables", DeValue::as_array)?;
        let values = list.into_inner().iter();
        let parameter = |value| self.parameter(value);
        Some(values.filter_map(parameter).collect())
    }

    fn parameter(&mut self, value: &'t Spanned<DeValue<'t>>) -> Option<Parameter> {
        let Some(table) = value.get_ref().as_table() else {
            self.problems
                .add(&value.span(), "a parameter must be a table");
            return None;
        };
        for key in ["name", "title"] {
            if !table.contains_key(key) {
                let message = format!("the parameter has no {key}");
                self.problems.add(&value.span(), message);
            }
        }
        let mut fields = Fields {
            table,
            problems: &mut *self.problems,
        };
        fields.reject_unknown(&PARAMETER_FIELDS);
        let mut text = |key: &str| fields.text(key).map(Spanned::into_inner);
        let parameter = Parameter {
            name: text("name")?,
            title: text("title")?,
            description: text("description"),
            example: text("example"),
            prefix: text("prefix"),
            suffix: text("suffix"),
            pattern: fields.pattern(),
            required: fields
                .read("required", "true or false", DeValue::as_bool)
                .is_none_or(Spanned::into_inner),
        };
        let example = parameter.example.as_ref();
        if example.is_some_and(|example| !parameter.accepts(example)) {
            let message = "the example of the parameter does not match its pattern";
            self.problems.add(&value.span(), message);
        }
        Some(parameter)
    }

    fn pattern(&mut self) -> Option<String> {
        self.read("pattern", "a regular expression", |value| {
            let text = value.as_str().filter(|text| whole(text).is_some())?;
            Some(text.to_owned())
        })
        .map(Spanned::into_inner)
    }
}
