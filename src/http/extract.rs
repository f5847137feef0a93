//! What handlers are given: axum's extractors with our errors, and the caller.

use aws_lc_rs::digest::{SHA256, digest};
use axum::extract::{FromRequest, FromRequestParts};
use axum::http::header::{ACCEPT, AUTHORIZATION};
use axum::http::request::Parts;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::AppState;
use super::error::Problem;
use crate::auth::Caller;
use crate::connections::service::Idempotency;

/// A path's parameters.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(Problem))]
pub(super) struct Path<T>(pub(super) T);

/// A query's parameters; unknown ones are ignored.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(Problem))]
pub(super) struct Query<T>(pub(super) T);

/// A JSON body.
#[derive(FromRequest)]
#[from_request(via(axum::Json), rejection(Problem))]
pub(super) struct Json<T>(pub(super) T);

/// A JSON body that may be left out.
pub(super) struct OptionalJson<T>(pub(super) T);

impl<T: DeserializeOwned + Default> FromRequest<AppState> for OptionalJson<T> {
    type Rejection = Problem;

    async fn from_request(
        request: axum::extract::Request,
        state: &AppState,
    ) -> Result<Self, Problem> {
        let bytes = axum::body::Bytes::from_request(request, state).await?;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self(T::default()));
        }
        Ok(Self(axum::Json::from_bytes(&bytes)?.0))
    }
}

impl FromRequestParts<AppState> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        let header = parts
            .headers
            .get(AUTHORIZATION)
            .ok_or_else(Problem::no_token)?;
        // RFC 9110: the scheme's name is not case-sensitive.
        let token = header
            .to_str()
            .ok()
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .filter(|token| !token.is_empty())
            .ok_or_else(Problem::no_token)?;
        Ok(state.auth.authenticate(token).await?)
    }
}

/// Whether the answer is for a person's browser rather than a program.
pub(super) struct WantsPage(pub(super) bool);

impl FromRequestParts<AppState> for WantsPage {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, Self::Rejection> {
        let accept = parts
            .headers
            .get(ACCEPT)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        Ok(Self(accept.contains("text/html")))
    }
}

/// The `Idempotency-Key` header, if there is one.
pub(super) struct IdempotencyKey(Option<String>);

impl IdempotencyKey {
    /// The key, with a digest of what is asked for.
    pub(super) fn of(self, request: &impl Serialize) -> Option<Idempotency> {
        let key = self.0?;
        let request = serde_json::to_vec(request).unwrap_or_default();
        Some(Idempotency {
            key,
            fingerprint: digest(&SHA256, &request).as_ref().to_vec(),
        })
    }
}

impl FromRequestParts<AppState> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &AppState) -> Result<Self, Problem> {
        let Some(key) = parts.headers.get("idempotency-key") else {
            return Ok(Self(None));
        };
        let key = key.to_str().unwrap_or_default();
        if !(1..=255).contains(&key.len()) {
            return Err(Problem::invalid(
                "Idempotency-Key has to have 1 to 255 visible ASCII characters",
            ));
        }
        Ok(Self(Some(key.to_owned())))
    }
}
