//! The limits of the config that a product stores with a connection.

use serde_json::{Map, Value};

use super::{Error, Result};

/// The maximum nesting depth of a config. JSON parsers commonly reject documents beyond a hundred levels, so a deeper
/// config would make a whole list unreadable.
const MAX_DEPTH: usize = 32;

/// The maximum size of a connection's config, in bytes of JSON.
const MAX_CONFIG_BYTES: usize = 4 * 1024;

/// The maximum number of values in a config, including nested ones. In memory, each takes many times its bytes of JSON.
const MAX_VALUES: usize = 500;

/// Merges changes into a config by key; null removes a key.
///
/// # Errors
/// [`Error::Invalid`] if the config would be too large, be nested too deeply, have too many values or
/// contain a NUL.
pub(crate) fn merge(config: &mut Map<String, Value>, changes: &Map<String, Value>) -> Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    if changes
        .values()
        .any(|value| exceeds_depth(value, MAX_DEPTH - 1))
    {
        return Err(Error::Invalid(format!(
            "`config` must be nested at most {MAX_DEPTH} levels deep"
        )));
    }
    let with_nul = |(key, value): &(&String, &Value)| key.contains('\0') || contains_nul(value);
    if let Some((key, _)) = changes.iter().find(with_nul) {
        return Err(Error::Invalid(format!(
            "`config` must not contain the character U+0000. Remove it from the value of {key:?} or from this key."
        )));
    }
    for (key, value) in changes {
        if value.is_null() {
            config.remove(key);
        } else {
            config.insert(key.clone(), value.clone());
        }
    }
    let json = serde_json::to_vec(config).map_or(usize::MAX, |json| json.len());
    let size = json.saturating_add(config.values().map(extra_digits).sum());
    if size > MAX_CONFIG_BYTES {
        return Err(Error::Invalid(format!(
            "`config` must have at most {MAX_CONFIG_BYTES} bytes of JSON, and would have {size}. Numbers count with all \
             their digits."
        )));
    }
    let values: usize = config.values().map(count_values).sum();
    if values > MAX_VALUES {
        return Err(Error::Invalid(format!(
            "`config` must have at most {MAX_VALUES} values, and would have {values}"
        )));
    }
    Ok(())
}

/// Returns the number of bytes by which PostgreSQL's text of the numbers in a value exceeds their JSON: it writes 1e300
/// with all its digits.
fn extra_digits(value: &Value) -> usize {
    match value {
        Value::Number(number) if number.is_f64() => {
            let digits = number.as_f64().map_or(0, |float| float.to_string().len());
            digits.saturating_sub(number.to_string().len())
        }
        Value::Array(items) => items.iter().map(extra_digits).sum(),
        Value::Object(fields) => fields.values().map(extra_digits).sum(),
        _ => 0,
    }
}

/// Returns whether a text in a value has a NUL, which PostgreSQL cannot store.
fn contains_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(contains_nul),
        Value::Object(fields) => fields
            .iter()
            .any(|(key, value)| key.contains('\0') || contains_nul(value)),
        _ => false,
    }
}

/// Returns the number of values in a value, including itself.
fn count_values(value: &Value) -> usize {
    let inner: usize = match value {
        Value::Array(items) => items.iter().map(count_values).sum(),
        Value::Object(fields) => fields.values().map(count_values).sum(),
        _ => 0,
    };
    1 + inner
}

/// Returns whether a value has more than `levels` levels of arrays and objects.
fn exceeds_depth(value: &Value, levels: usize) -> bool {
    let deeper = |inner: &Value| exceeds_depth(inner, levels - 1);
    match value {
        Value::Array(items) => levels == 0 || items.iter().any(deeper),
        Value::Object(fields) => levels == 0 || fields.values().any(deeper),
        _ => false,
    }
}
