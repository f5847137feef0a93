//! Lenient deserialization: a field in an unexpected form does not invalidate the rest of the value.

use std::collections::BTreeMap;

use secrecy::SecretString;
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// The maximum length of an id, in characters.
const MAX_ID: usize = 255;

/// Reads an id that can be stored and sent back: it is neither empty nor too long, and has no control characters.
pub(crate) fn id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let id = String::deserialize(deserializer)?;
    if id.is_empty() || id.chars().count() > MAX_ID || id.chars().any(char::is_control) {
        return Err(D::Error::custom("an id that cannot be used"));
    }
    Ok(id)
}

/// Reads the texts of an object and omits its other values. Returns none for anything but an object.
pub(crate) fn texts<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    let fields = match Value::deserialize(deserializer)? {
        Value::Object(fields) => fields,
        _ => return Ok(BTreeMap::new()),
    };
    let text = |(name, value)| match value {
        Value::String(text) => Some((name, text)),
        _ => None,
    };
    Ok(fields.into_iter().filter_map(text).collect())
}

/// Reads the items of a list and omits those of another form. Returns none for anything but a list.
pub(crate) fn items<'de, D: Deserializer<'de>, T: serde::de::DeserializeOwned>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    let items = match Value::deserialize(deserializer)? {
        Value::Array(items) => items,
        _ => return Ok(Vec::new()),
    };
    let item = |item| serde_json::from_value(item).ok();
    Ok(items.into_iter().filter_map(item).collect())
}

/// Reads a text; any other value is written as JSON, and null is empty.
pub(crate) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::String(text) => text,
        Value::Null => String::new(),
        other => other.to_string(),
    })
}

/// Reads a secret. A number becomes its text, because some providers have numeric tokens.
pub(crate) fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretString, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::String(text) => Ok(text.into()),
        Value::Number(number) => Ok(number.to_string().into()),
        _ => Err(D::Error::custom(
            "a token that is neither text nor a number",
        )),
    }
}
