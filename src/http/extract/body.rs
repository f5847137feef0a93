//! Bodies that are JSON objects.

use axum::extract::FromRequest;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_ENCODING;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::http::AppState;
use crate::http::problem::{Code, Problem};

/// A body that is a JSON object.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<AppState> for Json<T> {
    type Rejection = Problem;

    async fn from_request(
        request: axum::extract::Request,
        state: &AppState,
    ) -> Result<Self, Problem> {
        check_content_encoding(request.headers())?;
        let axum::Json(text) = axum::Json::<Box<RawValue>>::from_request(request, state).await?;
        Ok(Self(object(text.get().as_bytes())?))
    }
}

/// Parses a JSON object. Rejects an array, which serde would read as the object's fields in order.
fn object<T: DeserializeOwned>(text: &[u8]) -> Result<T, Problem> {
    if text.trim_ascii_start().starts_with(b"{") {
        Ok(axum::Json::from_bytes(text)?.0)
    } else {
        Err(Problem::invalid("the body must be a JSON object"))
    }
}

/// A body that is a JSON object, or null, or left out.
pub(crate) struct OptionalJson<T>(pub(crate) T);

impl<T: DeserializeOwned + Default> FromRequest<AppState> for OptionalJson<T> {
    type Rejection = Problem;

    async fn from_request(
        request: axum::extract::Request,
        state: &AppState,
    ) -> Result<Self, Problem> {
        check_content_encoding(request.headers())?;
        let bytes = axum::body::Bytes::from_request(request, state).await?;
        if matches!(bytes.trim_ascii(), b"" | b"null") {
            return Ok(Self(T::default()));
        }
        Ok(Self(object(&bytes)?))
    }
}

/// Rejects a body with a `Content-Encoding`, such as gzip. `identity` means that there is none.
fn check_content_encoding(headers: &HeaderMap) -> Result<(), Problem> {
    let encodings = headers.get_all(CONTENT_ENCODING).iter();
    let mut names = encodings.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let is_plain = |name: &[u8]| {
        let name = name.trim_ascii();
        name.is_empty() || name.eq_ignore_ascii_case(b"identity")
    };
    if names.all(is_plain) {
        return Ok(());
    }
    Err(Problem::new(
        Code::UnsupportedMediaType,
        "Bodies with a Content-Encoding are not supported. Send the JSON without compression.",
    ))
}
