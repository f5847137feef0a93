//! Nango's templates: `${name}` is replaced by a field of the connection or of its credentials.
//!
//! The proxy also evaluates them in the caller's path and query, before it parses the URL.

use serde_json::Value;

/// Evaluates a text. Of alternatives, separated by `||`, the second one applies if nothing in the first one could be
/// replaced.
pub(super) fn evaluate(text: &str, fields: &Value) -> String {
    if !text.contains("${") {
        return text.to_owned();
    }
    let mut alternatives = text.split("||").map(str::trim);
    let first = alternatives.next().unwrap_or_default();
    let evaluated = replaced(first, fields);
    match alternatives.next() {
        Some(second) if evaluated.is_empty() || evaluated == first => replaced(second, fields),
        _ => evaluated,
    }
}

/// Replaces each `${path.to.field}` whose field exists.
fn replaced(text: &str, fields: &Value) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        result.push_str(before);
        let end = after
            .find(['{', '}'])
            .filter(|end| after[*end..].starts_with('}'));
        let name = end.map(|end| &after[..end]);
        let value = name.and_then(|name| field(fields, name));
        match (end, value) {
            (Some(end), Some(value)) => {
                result.push_str(&value);
                rest = &after[end + 1..];
            }
            _ => {
                result.push_str("${");
                rest = after;
            }
        }
    }
    result + rest
}

fn field(fields: &Value, path: &str) -> Option<String> {
    match path
        .split('.')
        .try_fold(fields, |value, name| value.get(name))?
    {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}
