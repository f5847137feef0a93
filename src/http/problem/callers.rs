//! Problems of authentication and authorization, with their challenges.

use std::fmt::Display;

use super::{Code, Problem};
use crate::auth;
use crate::auth::service_keys::Scope;

impl From<auth::Error> for Problem {
    fn from(error: auth::Error) -> Self {
        if error == auth::Error::KeysUnavailable {
            tracing::error!(%error, "cannot verify tokens");
            return Self::new(
                Code::KeysUnavailable,
                "the identity provider's keys cannot be fetched",
            )
            .retry_after(5);
        }
        Self::new(Code::Unauthenticated, error.to_string()).challenge(invalid_token(&error))
    }
}

/// Returns the challenge of a token that is not accepted.
fn invalid_token(detail: &dyn Display) -> String {
    format!("Bearer error=\"invalid_token\", error_description=\"{detail}\"")
}

impl Problem {
    /// Adds the challenge, which RFC 9110 (15.5.2) requires with each 401.
    fn challenge(self, challenge: impl Into<Box<str>>) -> Self {
        let challenge = Some(challenge.into());
        Self { challenge, ..self }
    }

    /// Creates the problem of a key without the required scope (RFC 6750, 3.1).
    pub(crate) fn insufficient_scope(scope: Scope) -> Self {
        let detail = format!("the key needs the scope {scope}");
        let challenge = format!("Bearer error=\"insufficient_scope\", scope=\"{scope}\"");
        Self::new(Code::InsufficientScope, detail).challenge(challenge)
    }

    /// Creates the problem of an unknown, expired or revoked service key.
    pub(crate) fn unknown_key() -> Self {
        let detail = "the service key is unknown, expired or revoked";
        Self::new(Code::Unauthenticated, detail).challenge(invalid_token(&detail))
    }

    /// Creates the problem of a webhook without a valid signature. RFC 9110 (15.5.2) requires a challenge with each
    /// 401. No scheme is registered for signed bodies, so the challenge names the signature's header.
    pub(crate) fn invalid_signature(detail: impl Into<String>) -> Self {
        Self::new(Code::InvalidSignature, detail).challenge("X-Nango-Hmac-Sha256")
    }

    /// Creates the problem of a caller without a metrics token.
    pub(crate) fn no_metrics_token() -> Self {
        let detail = "send METRICS_TOKEN as `Authorization: Bearer …`";
        Self::new(Code::Unauthenticated, detail).challenge("Bearer realm=\"metrics\"")
    }

    /// Creates the problem of a request without a bearer token. RFC 6750 requires a challenge without an error code.
    pub(crate) fn no_token() -> Self {
        let detail = "send the user's token as `Authorization: Bearer …`";
        Self::new(Code::Unauthenticated, detail).challenge("Bearer")
    }
}
