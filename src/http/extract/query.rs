//! The parameters of a query.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;

use crate::http::problem::Problem;

/// A query's parameters; unknown ones are ignored. Rejects a query that is not UTF-8.
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        check_encoding(parts.uri.query().unwrap_or_default())?;
        Ok(Self(axum::extract::Query::try_from_uri(&parts.uri)?.0))
    }
}

/// Rejects a query with a name or a value that is not percent-encoded UTF-8. axum would replace its bytes by U+FFFD, so
/// that different values would become equal.
pub(crate) fn check_encoding(query: &str) -> Result<(), Problem> {
    let is_utf8 = |text: &str| percent_decode_str(text).decode_utf8().is_ok();
    for parameter in query.split('&') {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if !is_utf8(name) {
            return Err(Problem::invalid(format!(
                "The name of the query parameter `{name}` is not UTF-8. Percent-encode it as UTF-8."
            )));
        }
        if !is_utf8(value) {
            let name = percent_decode_str(name).decode_utf8_lossy();
            return Err(Problem::invalid(format!(
                "The value of the query parameter `{name}` is not UTF-8. Percent-encode it as UTF-8."
            )));
        }
    }
    Ok(())
}
