//! Checks of values that several operations accept.

use utoipa::openapi::schema::{Object, ObjectBuilder, Type};

use crate::http::problem::Problem;
use crate::text::{displayable, is_visible};

/// The longest label, instance id, scope or hint, in characters.
const MAX_NAME_LENGTH: usize = 255;

/// Returns a label as it may be shown, without the white space around it. Rejects one that would show nothing.
pub(super) fn validate_label(label: &str) -> Result<String, Problem> {
    let label = label.trim();
    validate_name("label", label)?;
    let shown: String = displayable(label).collect();
    if !is_visible(&shown) {
        return Err(Problem::invalid(
            "`label` must have a visible character. Omit it, or send null to remove it.",
        ));
    }
    Ok(shown.trim().to_owned())
}

/// Rejects an instance id that Nango would not accept as a tag. Nango counts UTF-16 code units.
pub(super) fn validate_instance_id(instance_id: &str) -> Result<(), Problem> {
    if instance_id.encode_utf16().count() > MAX_NAME_LENGTH {
        return Err(Problem::invalid(format!(
            "`instance_id` must have at most {MAX_NAME_LENGTH} characters. Characters above U+FFFF, such as emoji, count \
             twice."
        )));
    }
    validate_name("instance_id", instance_id)
}

/// Rejects a scope that no provider can grant under this name: scopes are separated by spaces or commas.
pub(super) fn validate_scope(field: &str, scope: &str) -> Result<(), Problem> {
    validate_name(field, scope)?;
    let is_separator = |c: char| c == ',' || c.is_whitespace();
    if scope.is_empty() || scope.contains(is_separator) {
        return Err(Problem::invalid(format!(
            "`{field}` must not contain {scope:?}. Send each scope as a separate item without spaces and commas."
        )));
    }
    Ok(())
}

/// Returns the schema of a scope that [`validate_scope`] accepts.
pub(super) fn scope_schema() -> Object {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(1))
        .max_length(Some(MAX_NAME_LENGTH))
        .pattern(Some(r"^[^\s,\u0000-\u001f\u007f-\u009f]+$"))
        .build()
}

/// Rejects a value that is too long or has control characters.
pub(super) fn validate_name(field: &str, value: &str) -> Result<(), Problem> {
    if value.chars().count() > MAX_NAME_LENGTH {
        return Err(Problem::invalid(format!(
            "`{field}` must have at most {MAX_NAME_LENGTH} characters."
        )));
    }
    if value.chars().any(char::is_control) {
        return Err(Problem::invalid(format!(
            "`{field}` must not have control characters. Remove them."
        )));
    }
    Ok(())
}
