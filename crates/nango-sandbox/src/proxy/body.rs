//! The body of a proxied call, as changed by Nango's parsers and its HTTP client.

use axum::body::Bytes;
use axum::http::{HeaderMap, Method, StatusCode, header};
use serde_json::{Map, Number, Value, json};
use url::form_urlencoded;

use crate::error::Failure;

/// Types whose bytes Nango forwards unchanged.
const RAW: [&str; 9] = [
    "application/",
    "audio/",
    "font/",
    "image/",
    "message/",
    "model/",
    "multipart/",
    "text/",
    "video/",
];

/// A body that Nango has read.
pub(super) enum Data {
    /// No body, or one of a type that Nango does not read.
    None,
    /// The unchanged bytes.
    Raw(Bytes),
    /// A parsed body.
    Parsed(Value),
}

/// Parses a body by its own content type, not by the provider's.
pub(super) fn read(headers: &HeaderMap, bytes: Bytes) -> Result<Data, Failure> {
    let has_body = headers.contains_key(header::CONTENT_LENGTH)
        || headers.contains_key(header::TRANSFER_ENCODING);
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    let kind = kind
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default();
    let kind = kind.trim().to_ascii_lowercase();
    Ok(match kind.as_str() {
        _ if !has_body => Data::None,
        "application/json" if bytes.is_empty() => Data::Parsed(json!({})),
        "application/json" => Data::Parsed(parsed(&bytes)?),
        "application/x-www-form-urlencoded" => Data::Parsed(form(&bytes)),
        kind if RAW.iter().any(|raw| kind.starts_with(raw)) => Data::Raw(bytes),
        _ => Data::None,
    })
}

impl Data {
    /// Returns the bytes for the provider, and the type to send if the caller set none.
    pub(super) fn into_bytes(
        self,
        method: &Method,
        kind: Option<&str>,
    ) -> Option<(Bytes, &'static str)> {
        const FORM: &str = "application/x-www-form-urlencoded";
        if matches!(*method, Method::GET | Method::HEAD) {
            return None;
        }
        match self {
            Self::None => None,
            Self::Raw(bytes) => Some((bytes, FORM)),
            Self::Parsed(value) if kind.is_some_and(|kind| kind.contains(FORM)) => {
                Some((written_form(&value).into(), FORM))
            }
            Self::Parsed(value) => Some((value.to_string().into(), "application/json")),
        }
    }
}

/// Parses JSON like JavaScript: only objects and arrays, with every number a float.
fn parsed(bytes: &[u8]) -> Result<Value, Failure> {
    let refused =
        |message: String| Failure::new(StatusCode::BAD_REQUEST, "invalid_json").message(message);
    let mut value: Value =
        serde_json::from_slice(bytes).map_err(|error| refused(error.to_string()))?;
    if !value.is_object() && !value.is_array() {
        return Err(refused("Unexpected token".to_owned()));
    }
    round(&mut value);
    Ok(value)
}

fn round(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(round),
        Value::Object(fields) => fields.values_mut().for_each(round),
        Value::Number(number) => {
            let float = number.as_f64().unwrap_or_default();
            let is_integer = float.fract() == 0.0 && float.abs() < 1e15;
            // Exact, because floats represent integers up to 2^53 exactly.
            let integer = is_integer
                .then(|| format!("{float:.0}").parse::<i64>().ok())
                .flatten();
            if let Some(rounded) = integer.map(Number::from).or(Number::from_f64(float)) {
                *number = rounded;
            }
        }
        _ => {}
    }
}

/// Parses a form. A repeated name becomes a list.
fn form(bytes: &[u8]) -> Value {
    let mut fields: Map<String, Value> = Map::new();
    for (name, value) in form_urlencoded::parse(bytes) {
        let value = Value::from(value.into_owned());
        match fields.get_mut(name.as_ref()) {
            Some(Value::Array(values)) => values.push(value),
            Some(first) => *first = json!([first.take(), value]),
            None => {
                fields.insert(name.into_owned(), value);
            }
        }
    }
    fields.into()
}

fn written_form(value: &Value) -> String {
    let mut written = form_urlencoded::Serializer::new(String::new());
    for (name, value) in value.as_object().into_iter().flatten() {
        match value {
            Value::Array(values) => {
                let values = values.iter().filter_map(Value::as_str);
                written.extend_pairs(values.map(|value| (format!("{name}[]"), value)));
            }
            value => {
                written.append_pair(name, value.as_str().unwrap_or_default());
            }
        }
    }
    written.finish()
}
