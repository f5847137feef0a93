//! Strict schemas like Nango's: they reject every unknown key and report all issues, in the order of the schema's
//! fields.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::error::{Failure, Issue};
use crate::outbound;

/// Tags of a session or a connection, with lowercase keys and unchanged values.
pub(super) type Tags = BTreeMap<String, String>;

/// The pattern of an integration's key.
const INTEGRATION_KEY: &str = "/^[a-zA-Z0-9~:.@ _-]+$/";

/// A reader of one JSON value, which collects all issues.
#[derive(Default)]
pub(super) struct Reader {
    issues: Vec<Issue>,
}

/// An object and its location in the body.
pub(super) struct Object<'a> {
    map: &'a Map<String, Value>,
    path: Vec<String>,
}

impl Object<'_> {
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.map.keys().map(String::as_str)
    }

    fn path_to(&self, key: &str) -> Vec<String> {
        let mut path = self.path.clone();
        path.push(key.to_owned());
        path
    }
}

impl Reader {
    /// Starts with a body, which must be an object.
    pub(super) fn open(body: Option<&Value>) -> Result<(Self, Object<'_>), Failure> {
        let mut reader = Self::default();
        match reader.object_at(body, Vec::new()) {
            Some(object) => Ok((reader, object)),
            None => Err(Failure::issues("invalid_body", reader.issues)),
        }
    }

    /// Fails if there are issues.
    pub(super) fn finish(self, code: &'static str) -> Result<(), Failure> {
        if self.issues.is_empty() {
            Ok(())
        } else {
            Err(Failure::issues(code, self.issues))
        }
    }

    pub(super) fn issue(&mut self, code: &'static str, message: impl Into<String>, path: &[&str]) {
        let path = path.iter().map(|&part| part.to_owned()).collect();
        self.push(code, message, path);
    }

    fn push(&mut self, code: &'static str, message: impl Into<String>, path: Vec<String>) {
        self.issues.push(Issue {
            code,
            message: message.into(),
            path,
        });
    }

    fn wrong_type(&mut self, expected: &str, found: Option<&Value>, path: Vec<String>) {
        let received = type_name(found);
        let message = format!("Invalid input: expected {expected}, received {received}");
        self.push("invalid_type", message, path);
    }

    fn object_at<'a>(&mut self, value: Option<&'a Value>, path: Vec<String>) -> Option<Object<'a>> {
        match value {
            Some(Value::Object(map)) => Some(Object { map, path }),
            other => {
                self.wrong_type("object", other, path);
                None
            }
        }
    }

    /// Reads a required object.
    pub(super) fn object<'a>(&mut self, of: &Object<'a>, key: &str) -> Option<Object<'a>> {
        self.object_at(of.map.get(key), of.path_to(key))
    }

    /// Reads an optional object.
    pub(super) fn optional_object<'a>(&mut self, of: &Object<'a>, key: &str) -> Option<Object<'a>> {
        let value = of.map.get(key)?;
        self.object_at(Some(value), of.path_to(key))
    }

    /// Reads a required string of at least one character.
    pub(super) fn string(&mut self, of: &Object<'_>, key: &str) -> Option<String> {
        match of.map.get(key) {
            Some(Value::String(text)) => {
                if text.is_empty() {
                    let message = "Too small: expected string to have >=1 characters";
                    self.push("too_small", message, of.path_to(key));
                }
                Some(text.clone())
            }
            other => {
                self.wrong_type("string", other, of.path_to(key));
                None
            }
        }
    }

    /// Reads an optional string.
    pub(super) fn optional_string(&mut self, of: &Object<'_>, key: &str) -> Option<String> {
        match of.map.get(key)? {
            Value::String(text) => Some(text.clone()),
            other => {
                self.wrong_type("string", Some(other), of.path_to(key));
                None
            }
        }
    }

    /// Reads an optional email address of at least five characters.
    pub(super) fn optional_email(&mut self, of: &Object<'_>, key: &str) -> Option<String> {
        let email = self.optional_string(of, key)?;
        let well_formed = email.split_once('@').is_some_and(|(name, domain)| {
            !name.is_empty() && domain.contains('.') && !email.contains(char::is_whitespace)
        });
        if !well_formed {
            self.push("invalid_format", "Invalid email address", of.path_to(key));
        }
        if email.len() < 5 {
            let message = "Too small: expected string to have >=5 characters";
            self.push("too_small", message, of.path_to(key));
        }
        Some(email)
    }

    /// Reads an optional absolute URL to which webhooks may be sent. An empty text counts as none.
    pub(super) fn webhook_url(
        &mut self,
        of: &Object<'_>,
        key: &str,
        refuse_private: bool,
    ) -> Option<String> {
        let text = of.map.get(key)?.as_str();
        if text == Some("") {
            return None;
        }
        let Some(url) = text.and_then(|text| url::Url::parse(text).ok()) else {
            self.push("invalid_union", "Invalid input", of.path_to(key));
            return None;
        };
        if let Some(message) = outbound::refusal(&url, refuse_private) {
            self.push("custom", message, of.path_to(key));
        }
        text.map(str::to_owned)
    }

    /// Reads an optional list of integration keys; empty if it is missing.
    pub(super) fn integration_keys(&mut self, of: &Object<'_>, key: &str) -> Vec<String> {
        let items = match of.map.get(key) {
            None => return Vec::new(),
            Some(Value::Array(items)) => items,
            other => {
                self.wrong_type("array", other, of.path_to(key));
                return Vec::new();
            }
        };
        let mut keys = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let mut path = of.path_to(key);
            path.push(index.to_string());
            match item.as_str() {
                None => self.wrong_type("string", Some(item), path),
                Some(text) if !is_integration_key(text) => {
                    let message = format!("Invalid string: must match pattern {INTEGRATION_KEY}");
                    self.push("invalid_format", message, path);
                }
                Some(text) => keys.push(text.to_owned()),
            }
        }
        keys
    }

    /// Reads tags, with lowercased keys; `None` if they are missing.
    pub(super) fn tags(&mut self, of: &Object<'_>, key: &str) -> Option<Tags> {
        let value = of.map.get(key)?;
        let Value::Object(map) = value else {
            self.wrong_type("record", Some(value), of.path_to(key));
            return None;
        };
        let mut tags = Tags::new();
        for (name, value) in map {
            let mut path = of.path_to(key);
            path.push(name.clone());
            if !is_tag_key(name) {
                self.push("invalid_key", "Invalid key in record", path);
                continue;
            }
            match value.as_str() {
                None => self.wrong_type("string", Some(value), path),
                // JavaScript counts UTF-16 code units.
                Some(text) if text.encode_utf16().count() > 255 => {
                    self.push("too_big", "Tag values must be at most 255 characters", path);
                }
                Some(text) => {
                    tags.insert(name.to_lowercase(), text.to_owned());
                }
            }
        }
        Some(tags)
    }

    /// Reads a free-form object; `None` if it is missing.
    pub(super) fn optional_record(
        &mut self,
        of: &Object<'_>,
        key: &str,
    ) -> Option<Map<String, Value>> {
        let value = of.map.get(key)?;
        self.record_value(Some(value), of.path_to(key))
    }

    /// Reads a required free-form object.
    pub(super) fn record(&mut self, of: &Object<'_>, key: &str) -> Option<Map<String, Value>> {
        self.record_value(of.map.get(key), of.path_to(key))
    }

    fn record_value(
        &mut self,
        value: Option<&Value>,
        path: Vec<String>,
    ) -> Option<Map<String, Value>> {
        match value {
            Some(Value::Object(map)) => Some(map.clone()),
            other => {
                self.wrong_type("record", other, path);
                None
            }
        }
    }

    /// Rejects every key that is not in `allowed`.
    pub(super) fn only(&mut self, of: &Object<'_>, allowed: &[&str]) {
        let unknown = of.map.keys().filter(|key| !allowed.contains(&key.as_str()));
        self.unrecognized(unknown.map(String::as_str), of.path.clone());
    }

    /// Reports unknown query parameters.
    pub(super) fn unrecognized<'k>(
        &mut self,
        keys: impl Iterator<Item = &'k str>,
        path: Vec<String>,
    ) {
        let quoted: Vec<_> = keys.map(|key| format!("\"{key}\"")).collect();
        let noun = match quoted.len() {
            0 => return,
            1 => "key",
            _ => "keys",
        };
        let message = format!("Unrecognized {noun}: {}", quoted.join(", "));
        self.push("unrecognized_keys", message, path);
    }

    /// Reports that a query or header lacks a required string.
    pub(super) fn missing_string(&mut self, key: &str) {
        self.wrong_type("string", None, vec![key.to_owned()]);
    }
}

fn type_name(value: Option<&Value>) -> &'static str {
    match value {
        None => "undefined",
        Some(Value::Null) => "null",
        Some(Value::Bool(_)) => "boolean",
        Some(Value::Number(_)) => "number",
        Some(Value::String(_)) => "string",
        Some(Value::Array(_)) => "array",
        Some(Value::Object(_)) => "object",
    }
}

pub(super) fn is_integration_key(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "~:.@ _-".contains(c);
    !text.is_empty() && text.chars().all(allowed)
}

/// Returns `true` for a letter followed by letters, digits and a few separators, at most 64 characters.
fn is_tag_key(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_-./".contains(c);
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.len() <= 64
        && text.chars().all(allowed)
}
