//! The error responses of each operation, by their codes.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Callers;
use crate::http::problem::Code;

/// The extension in which a handler declares its own codes, as a list that may contain lists.
const CODES: &str = "x-error-codes";

/// The codes of a call to Nango.
pub(crate) const NANGO: [Code; 6] = [
    Code::NangoDisabled,
    Code::NangoError,
    Code::NangoMisconfigured,
    Code::NangoRateLimited,
    Code::NangoTimeout,
    Code::NangoUnavailable,
];

/// The codes of an operation with an `Idempotency-Key`.
pub(crate) const IDEMPOTENCY: [Code; 2] =
    [Code::IdempotencyKeyReused, Code::IdempotencyKeyInProgress];

/// The codes of every operation that the limits apply to.
const LIMITED: [Code; 5] = [
    Code::DatabaseUnavailable,
    Code::Internal,
    Code::Overloaded,
    Code::RequestTimeout,
    Code::Starting,
];

/// The codes of every operation with a bearer token.
const AUTHENTICATED: [Code; 3] = [
    Code::KeysUnavailable,
    Code::RateLimited,
    Code::Unauthenticated,
];

/// Adds the responses for the codes of a handler and of the middleware around it.
pub(super) fn complete(callers: Callers, path: &str, operation: &mut Value) {
    let declared = operation.as_object_mut().and_then(|it| it.remove(CODES));
    // Every operation rejects a repeated header.
    let mut codes = vec![Code::InvalidRequest];
    flatten(&declared.unwrap_or_default(), &mut codes);
    if path.starts_with("/api/") {
        codes.extend(LIMITED);
    }
    if callers != Callers::Anyone {
        codes.extend(AUTHENTICATED);
    }
    match callers {
        Callers::Anyone | Callers::UsersAndServices => {}
        Callers::Users | Callers::AnyoneOrUsers => {
            codes.extend([Code::InsufficientScope, Code::UserRequired]);
        }
        Callers::ServicesForUser => codes.extend([
            Code::InsufficientScope,
            Code::ServiceKeyRequired,
            Code::UserRequired,
        ]),
        Callers::Services => codes.extend([Code::InsufficientScope, Code::ServiceKeyRequired]),
    }
    if operation.get("requestBody").is_some() {
        codes.push(Code::PayloadTooLarge);
    }
    let mut by_status: BTreeMap<u16, BTreeMap<&str, &str>> = BTreeMap::new();
    for code in codes {
        let causes = by_status.entry(code.status().as_u16()).or_default();
        causes.insert(code.as_str(), code.cause());
    }
    for (status, causes) in by_status {
        operation["responses"][status.to_string()] = response(&causes);
    }
}

/// Reads codes from nested lists of them.
fn flatten(declared: &Value, codes: &mut Vec<Code>) {
    match declared {
        Value::Array(several) => several.iter().for_each(|one| flatten(one, codes)),
        one => codes.extend(Code::ALL.iter().filter(|code| one == code.as_str())),
    }
}

/// Returns the response of one status, with the cause of each of its codes.
fn response(causes: &BTreeMap<&str, &str>) -> Value {
    let lines: Vec<String> = causes
        .iter()
        .map(|(code, cause)| format!("- `{code}`: {cause}"))
        .collect();
    json!({
        "description": lines.join("\n"),
        "content": { "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_is_one_line_and_ends_with_a_period() {
        for code in Code::ALL {
            let cause = code.cause();
            assert!(cause.ends_with('.') && !cause.contains('\n'), "{cause}");
        }
    }
}
