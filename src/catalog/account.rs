//! Account identity: rules that read the account of a connection from the provider's responses.
//!
//! A rule reads a document with the keys `raw` (the token response), `id_token` (its claims), `connection_config`,
//! `metadata`, `credentials` (`username` of BASIC only) and `response` (the response to the rule's request).

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::AuthMode;

/// The built-in rules. The first lines of the file describe the format.
const BUILTIN: &str = include_str!("accounts.toml");

/// The keys of the document that a rule reads.
const ROOTS: [&str; 6] = [
    "raw",
    "id_token",
    "connection_config",
    "metadata",
    "credentials",
    "response",
];

/// The characters that are encoded in a path segment: all but the unreserved ones (RFC 3986, 2.3).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A rule that reads the account of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AccountRule {
    /// The provider's documentation.
    #[serde(skip_serializing)]
    pub source: String,
    /// Nango's provider; empty in a catalog file's rule.
    #[serde(skip_serializing)]
    pub provider: String,
    /// The provider's auth mode.
    #[serde(skip_serializing, deserialize_with = "optional_mode")]
    pub auth_mode: Option<AuthMode>,
    /// Other Nango providers to which the rule applies unchanged.
    #[serde(skip_serializing)]
    pub also: Vec<String>,
    /// The document's key that normally contains the id; `None` if the provider offers no id.
    #[serde(
        rename = "from",
        deserialize_with = "source_key",
        skip_serializing_if = "Option::is_none"
    )]
    pub id_source: Option<String>,
    /// The kind of account, such as `user` or `workspace`.
    #[serde(rename = "identifies", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The stable id, which decides whether two accounts are the same.
    #[serde(skip_serializing_if = "AccountValue::is_empty")]
    pub id: AccountValue,
    /// `true` if alternatives of `id` give different texts for one account.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ids_differ: bool,
    /// The name that the account's owner recognises.
    #[serde(skip_serializing_if = "AccountValue::is_empty")]
    pub name: AccountValue,
    /// The email address.
    #[serde(skip_serializing_if = "AccountValue::is_empty")]
    pub email: AccountValue,
    /// The address of a picture.
    #[serde(skip_serializing_if = "AccountValue::is_empty")]
    pub avatar: AccountValue,
    /// The id of the workspace, team or organization.
    #[serde(skip_serializing_if = "AccountValue::is_empty")]
    pub workspace_id: AccountValue,
    /// The workspace's name.
    #[serde(skip_serializing_if = "AccountValue::is_empty")]
    pub workspace: AccountValue,
    /// The method of the request; empty if there is no request.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub method: String,
    /// The request's host, if it is not the one that Nango calls for the provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_url: Option<String>,
    /// The request's path and query; empty if there is no request.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// The request's headers.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// The request's body: a string is sent unchanged, another value as JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
    /// The scopes that the look-up needs; alternatives are separated by `|`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// How the token response writes the granted scopes: `space`, `comma`, `array`, or `none`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub granted_scopes: String,
    /// A pointer to the granted scopes, if they are not at `/raw/scope`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub granted_scopes_at: Option<String>,
    /// Why the provider offers no id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// A note for implementers.
    #[serde(skip_serializing)]
    pub note: String,
}

/// Alternatives for one text, tried in order: JSON pointers (RFC 6901), and templates such as
/// `{/raw/team/id}:{/raw/user/id}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Alternatives")]
pub struct AccountValue(Vec<String>);

#[derive(Deserialize)]
#[serde(untagged)]
enum Alternatives {
    One(String),
    Several(Vec<String>),
}

impl TryFrom<Alternatives> for AccountValue {
    type Error = String;

    fn try_from(alternatives: Alternatives) -> Result<Self, String> {
        let all = match alternatives {
            Alternatives::One(one) => vec![one],
            Alternatives::Several(several) => several,
        };
        for value in &all {
            let pointers: Vec<&str> = pointers(value).collect();
            if pointers.is_empty() {
                return Err(format!(
                    "{value:?} must be a JSON pointer, such as \"/raw/team/id\", or a template with pointers in braces"
                ));
            }
            if let Some(wrong) = pointers.iter().find(|pointer| !is_known_pointer(pointer)) {
                return Err(format!(
                    "{wrong:?} must be a JSON pointer that starts with /{}",
                    ROOTS.join(", /")
                ));
            }
        }
        Ok(Self(all))
    }
}

/// Returns whether a text is a JSON pointer to a value of the document that is not secret.
fn is_known_pointer(text: &str) -> bool {
    let mut after_tildes = text.split('~').skip(1);
    let mut segments = text.split('/').skip(1);
    let root = segments.next().unwrap_or_default();
    ROOTS.contains(&root)
        && segments.next().is_some()
        && (root != "credentials" || text == "/credentials/username")
        && after_tildes.all(|rest| rest.starts_with(['0', '1']))
}

/// Returns the pointers in a value, which is a pointer or a template.
fn pointers(value: &str) -> impl Iterator<Item = &str> {
    let whole = value.starts_with('/').then_some(value);
    let parts = parts(value).filter(move |_| whole.is_none());
    whole.into_iter().chain(parts.filter_map(Part::pointer))
}

/// A piece of a template.
enum Part<'a> {
    Text(&'a str),
    Pointer(&'a str),
}

impl<'a> Part<'a> {
    fn pointer(self) -> Option<&'a str> {
        match self {
            Self::Pointer(pointer) => Some(pointer),
            Self::Text(_) => None,
        }
    }
}

fn parts(template: &str) -> impl Iterator<Item = Part<'_>> {
    let mut rest = template;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        if let Some(after) = rest.strip_prefix("{/")
            && let Some(end) = after.find('}')
        {
            let pointer = &rest[1..end + 2];
            rest = &after[end + 1..];
            return Some(Part::Pointer(pointer));
        }
        let end = rest[1..].find("{/").map_or(rest.len(), |end| end + 1);
        let (text, after) = rest.split_at(end);
        rest = after;
        Some(Part::Text(text))
    })
}

/// Returns the text or whole number at a pointer; `None` for anything else, and for an empty text. A number beyond 64
/// bits has lost digits in parsing, so that several accounts could appear equal.
fn text_at(document: &Value, pointer: &str) -> Option<String> {
    match document.pointer(pointer)? {
        Value::String(text) if !text.trim().is_empty() => Some(text.clone()),
        Value::Number(number) if !number.is_f64() => Some(number.to_string()),
        _ => None,
    }
}

/// Returns a host or name of `connection_config` in one spelling, because users type them with different case or
/// slashes.
fn canonical(pointer: &str, text: String) -> String {
    if !pointer.starts_with("/connection_config/") {
        return text;
    }
    text.trim().trim_end_matches('/').to_lowercase()
}

impl AccountValue {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the text of the first alternative that gives one. For a name, one part of a template is enough.
    fn evaluate(&self, document: &Value, is_name: bool) -> Option<String> {
        let one = |value: &String| fill(value, is_name, |pointer| text_at(document, pointer));
        self.0.iter().find_map(one)
    }

    /// Returns the id in its canonical spelling.
    fn evaluate_id(&self, document: &Value) -> Option<String> {
        let read = |pointer: &str| Some(canonical(pointer, text_at(document, pointer)?));
        self.0.iter().find_map(|value| fill(value, false, read))
    }

    /// Returns whether an alternative reads the response to the rule's request.
    fn reads_response(&self) -> bool {
        let mut all = self.0.iter().flat_map(|value| pointers(value));
        all.any(|pointer| pointer.starts_with("/response/"))
    }
}

/// Fills a pointer or template. Every part must have a value, unless `one_is_enough`.
fn fill(value: &str, one_is_enough: bool, read: impl Fn(&str) -> Option<String>) -> Option<String> {
    if value.starts_with('/') {
        return read(value);
    }
    let mut filled = String::new();
    let mut found = false;
    for part in parts(value) {
        match part {
            Part::Text(text) => filled.push_str(text),
            Part::Pointer(pointer) => match read(pointer) {
                Some(text) => {
                    found = true;
                    filled.push_str(&text);
                }
                None if one_is_enough => {}
                None => return None,
            },
        }
    }
    let filled = filled.trim();
    (found && !filled.is_empty()).then(|| filled.to_owned())
}

/// An account as a rule reads it from a document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccountFields {
    /// The stable id.
    pub id: Option<String>,
    /// The name.
    pub name: Option<String>,
    /// The email address.
    pub email: Option<String>,
    /// The address of a picture.
    pub avatar: Option<String>,
    /// The workspace's id.
    pub workspace_id: Option<String>,
    /// The workspace's name.
    pub workspace: Option<String>,
}

/// The request of a rule, with its templates filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountRequest {
    /// The host, if it is not the one that Nango calls for the provider.
    pub base_url: Option<String>,
    /// The path without its leading slash.
    pub path: String,
    /// The query.
    pub query: Option<String>,
}

impl AccountRule {
    /// Returns the built-in rule of a provider.
    pub fn of_provider(provider: &str) -> Option<&'static Self> {
        static BY_PROVIDER: LazyLock<HashMap<&str, &AccountRule>> = LazyLock::new(|| {
            let mut by_provider = HashMap::new();
            for rule in AccountRule::builtin().values() {
                let also = rule.also.iter().map(String::as_str);
                for provider in std::iter::once(&*rule.provider).chain(also) {
                    by_provider.insert(provider, rule);
                }
            }
            by_provider.remove("");
            by_provider
        });
        BY_PROVIDER.get(provider).copied()
    }

    /// Returns all built-in rules, by slug, or by provider where the catalog has no connector for it.
    pub fn builtin() -> &'static BTreeMap<String, Self> {
        static RULES: LazyLock<BTreeMap<String, AccountRule>> =
            LazyLock::new(|| toml::from_str(BUILTIN).expect("a test reads the embedded rules"));
        &RULES
    }

    /// Returns the rule for a provider without a known rule: OAuth 2 token responses contain the granted scopes (RFC
    /// 6749, 5.1).
    pub fn scopes_only() -> Self {
        Self {
            granted_scopes: "space".to_owned(),
            ..Self::default()
        }
    }

    /// Returns whether the token response has the granted scopes.
    pub fn has_scopes(&self) -> bool {
        !matches!(self.granted_scopes.as_str(), "none" | "")
    }

    /// Returns whether the provider offers an id.
    pub fn identifies_account(&self) -> bool {
        !self.id.0.is_empty()
    }

    /// Reads the account from a document.
    pub fn read(&self, document: &Value) -> AccountFields {
        let text = |value: &AccountValue| value.evaluate(document, false);
        AccountFields {
            id: self.id.evaluate_id(document),
            name: self.name.evaluate(document, true),
            email: text(&self.email),
            avatar: text(&self.avatar),
            workspace_id: text(&self.workspace_id),
            workspace: text(&self.workspace),
        }
    }

    /// Returns whether the rule's request may add values that `read` lacks.
    pub fn needs_request(&self, read: &AccountFields) -> bool {
        let missing = [
            (&self.id, &read.id),
            (&self.name, &read.name),
            (&self.email, &read.email),
            (&self.avatar, &read.avatar),
        ];
        !self.path.is_empty()
            && missing
                .into_iter()
                .any(|(value, read)| read.is_none() && value.reads_response())
    }

    /// Returns the request, with its templates filled in from a document.
    ///
    /// # Errors
    /// The first pointer at which the document has no text.
    pub fn request(&self, document: &Value) -> Result<AccountRequest, String> {
        let filled = |template: &str| {
            let mut filled = String::new();
            for part in parts(template) {
                match part {
                    Part::Text(text) => filled.push_str(text),
                    Part::Pointer(pointer) => {
                        let text = text_at(document, pointer).ok_or_else(|| pointer.to_owned())?;
                        filled.extend(utf8_percent_encode(&text, SEGMENT));
                    }
                }
            }
            Ok::<_, String>(filled)
        };
        let target = filled(self.path.trim_start_matches('/'))?;
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path.to_owned(), Some(query.to_owned())),
            None => (target, None),
        };
        let base_url = self.base_url.as_deref().map(filled).transpose()?;
        Ok(AccountRequest {
            base_url,
            path,
            query,
        })
    }

    /// Returns the granted scopes in a document; `None` if the provider does not report them.
    pub fn granted_scopes(&self, document: &Value) -> Option<Vec<String>> {
        if !self.has_scopes() {
            return None;
        }
        let pointer = self.granted_scopes_at.as_deref().unwrap_or("/raw/scope");
        super::scopes::read(document.pointer(pointer)?)
    }

    /// Returns the scopes that the look-up needs and an integration does not request, alternatives separated by `|`.
    pub fn scopes_not_in(&self, asked: &[String]) -> Vec<&str> {
        let is_asked = |needed: &&String| {
            needed.split('|').any(|one| {
                let one = [one.to_owned()];
                super::scopes::missing(&one, asked).is_empty()
            })
        };
        let needed = self.scopes.iter().filter(|needed| !is_asked(needed));
        needed.map(String::as_str).collect()
    }
}

fn source_key<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    Ok(Some(text).filter(|text| text != "none"))
}

fn optional_mode<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<AuthMode>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    let mode = serde::de::value::StrDeserializer::<D::Error>::new(&text);
    AuthMode::deserialize(mode).map(Some)
}

#[cfg(test)]
mod tests;
