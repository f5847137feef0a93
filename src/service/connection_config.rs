//! The bounds of what a product stores with a connection.

use serde_json::{Map, Value};

use super::{Error, Result};

/// How deep a config may be nested: readers of JSON give up somewhere beyond a hundred levels, and
/// what is deeper would make a whole list unreadable to them.
const MAX_DEPTH: usize = 32;

/// How large a connection's config may become, in bytes of JSON.
const MAX_CONFIG_BYTES: usize = 4 * 1024;

/// How many values a config may have, those in others included: in memory each takes many times its bytes of JSON.
const MAX_VALUES: usize = 500;

/// Merges into a config by key, where null removes one; refuses what would become too large, too deep or too many.
pub(crate) fn merge(config: &mut Map<String, Value>, changes: &Map<String, Value>) -> Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    if changes
        .values()
        .any(|value| exceeds_depth(value, MAX_DEPTH - 1))
    {
        return Err(Error::Invalid(format!(
            "config: at most {MAX_DEPTH} levels deep"
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
    let size = json.saturating_add(config.values().map(unfolded).sum());
    if size > MAX_CONFIG_BYTES {
        return Err(Error::Invalid(format!(
            "`config` must have at most {MAX_CONFIG_BYTES} bytes of JSON, and would have {size}. Numbers count with all their digits."
        )));
    }
    let values: usize = config.values().map(count_values).sum();
    if values > MAX_VALUES {
        return Err(Error::Invalid(format!(
            "config: at most {MAX_VALUES} values, and it would have {values}"
        )));
    }
    Ok(())
}

/// Returns how many bytes more than JSON PostgreSQL needs for the numbers in a value: it writes 1e300 with all its digits.
fn unfolded(value: &Value) -> usize {
    match value {
        Value::Number(number) if number.is_f64() => {
            let digits = number.as_f64().map_or(0, |float| float.to_string().len());
            digits.saturating_sub(number.to_string().len())
        }
        Value::Array(items) => items.iter().map(unfolded).sum(),
        Value::Object(fields) => fields.values().map(unfolded).sum(),
        _ => 0,
    }
}

/// How many values a value is, with those in it.
fn count_values(value: &Value) -> usize {
    let inner: usize = match value {
        Value::Array(items) => items.iter().map(count_values).sum(),
        Value::Object(fields) => fields.values().map(count_values).sum(),
        _ => 0,
    };
    1 + inner
}

/// Whether a value has more levels of arrays and objects than this.
fn exceeds_depth(value: &Value, levels: usize) -> bool {
    let deeper = |inner: &Value| exceeds_depth(inner, levels - 1);
    match value {
        Value::Array(items) => levels == 0 || items.iter().any(deeper),
        Value::Object(fields) => levels == 0 || fields.values().any(deeper),
        _ => false,
    }
}
