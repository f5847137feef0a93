//! Problems of authentication and authorization, with their challenges.

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
        let challenge = format!("Bearer error=\"invalid_token\", error_description=\"{error}\"");
        Self {
            challenge: Some(challenge),
            ..Self::new(Code::Unauthenticated, error.to_string())
        }
    }
}

impl Problem {
    /// Creates the problem of a key without the required scope (RFC 6750, 3.1).
    pub(crate) fn insufficient_scope(scope: Scope) -> Self {
        Self {
            challenge: Some(format!(
                "Bearer error=\"insufficient_scope\", scope=\"{scope}\""
            )),
            ..Self::new(
                Code::InsufficientScope,
                format!("the key needs the scope {scope}"),
            )
        }
    }

    /// Creates the problem of an unknown, expired or revoked service key.
    pub(crate) fn unknown_key() -> Self {
        let detail = "the service key is unknown, expired or revoked";
        Self {
            challenge: Some(format!(
                "Bearer error=\"invalid_token\", error_description=\"{detail}\""
            )),
            ..Self::new(Code::Unauthenticated, detail)
        }
    }

    /// Creates the problem of a webhook without a valid signature. RFC 9110 (15.5.2) requires a challenge with each
    /// 401. No scheme is registered for signed bodies, so the challenge names the signature's header.
    pub(crate) fn invalid_signature(detail: impl Into<String>) -> Self {
        Self {
            challenge: Some("X-Nango-Hmac-Sha256".to_owned()),
            ..Self::new(Code::InvalidSignature, detail)
        }
    }

    /// Creates the problem of a caller without a metrics token.
    pub(crate) fn no_metrics_token() -> Self {
        Self {
            challenge: Some("Bearer realm=\"metrics\"".to_owned()),
            ..Self::new(
                Code::Unauthenticated,
                "send METRICS_TOKEN as `Authorization: Bearer …`",
            )
        }
    }

    /// Creates the problem of a request without a bearer token. RFC 6750 requires a challenge without an error code.
    pub(crate) fn no_token() -> Self {
        Self {
            challenge: Some("Bearer".to_owned()),
            ..Self::new(
                Code::Unauthenticated,
                "send the user's token as `Authorization: Bearer …`",
            )
        }
    }
}
