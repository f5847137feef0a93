//! Nango's webhooks.

use crate::domain::AttemptId;
use crate::http::openapi::errors;
use crate::http::problem::{Code, Problem};
use axum::body::Bytes;
use axum::extract::{FromRequest, Request, State};
use axum::http::StatusCode;
use serde_json::Value;
use utoipa::ToSchema;

use crate::http::AppState;
use crate::http::extract::Path;
use crate::http::middleware::limits::Unverified;
use crate::nango;
use crate::nango::webhook::{self, Event};
use crate::service::Error;

/// An event of Nango.
#[derive(ToSchema)]
#[schema(value_type = Object)]
#[expect(dead_code, reason = "names the schema in the OpenAPI document")]
pub(crate) struct NangoEvent(Value);

/// A webhook whose signature is Nango's.
pub(crate) struct VerifiedWebhook(Event);

impl FromRequest<AppState> for VerifiedWebhook {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, Problem> {
        let keys = state.signing_keys.clone().ok_or(Error::NangoDisabled)?;
        let signature = request
            .headers()
            .get(webhook::SIGNATURE_HEADER)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        let unverified = request.extensions().get::<Unverified>().cloned();
        let body = Bytes::from_request(request, state).await?;
        keys.verify(&body, signature.as_deref()).map_err(|error| {
            tracing::warn!(%error, "a webhook is not signed with NANGO_WEBHOOK_SIGNING_KEY");
            Problem::invalid_signature(error.to_string())
        })?;
        if let Some(webhook) = unverified {
            state.limits.verified(&webhook);
        }
        let event = webhook::parse(&body).map_err(|error| Problem::invalid(error.to_string()))?;
        Ok(Self(event))
    }
}

/// Receive a webhook of Nango for an attempt.
///
/// Nango sends it to the URL of the attempt's session. The body is only a hint: Nango is queried before anything changes.
/// Nango repeats the webhook after a 5xx status.
#[utoipa::path(post, path = "/api/v1/webhooks/nango/{attempt}", operation_id = "receiveAttemptWebhook", tag = "webhooks",
    params(("attempt" = Uuid, Path, description = "The id of the attempt that the URL belongs to."),
        ("X-Nango-Hmac-Sha256" = String, Header, description = "The HMAC-SHA-256 of the body with Nango's signing key, in hexadecimal.")),
    request_body(content = NangoEvent, description = "An event of Nango."),
    responses((status = 204, description = "Accepted or ignored.")),
    extensions(("x-error-codes" = json!([Code::InvalidSignature, errors::NANGO])))
)]
pub(crate) async fn of_attempt(
    State(state): State<AppState>,
    Path(attempt): Path<AttemptId>,
    VerifiedWebhook(event): VerifiedWebhook,
) -> Result<StatusCode, Problem> {
    handle(&state, Some(attempt), &event).await
}

/// Receive a webhook of Nango.
///
/// Nango sends it to the URL that its environment has. The body is only a hint: Nango is queried before anything changes.
/// Nango repeats the webhook after a 5xx status.
#[utoipa::path(post, path = "/api/v1/webhooks/nango", operation_id = "receiveWebhook", tag = "webhooks",
    params(("X-Nango-Hmac-Sha256" = String, Header, description = "The HMAC-SHA-256 of the body with Nango's signing key, in hexadecimal.")),
    request_body(content = NangoEvent, description = "An event of Nango."),
    responses((status = 204, description = "Accepted or ignored.")),
    extensions(("x-error-codes" = json!([Code::InvalidSignature, errors::NANGO])))
)]
pub(crate) async fn of_environment(
    State(state): State<AppState>,
    VerifiedWebhook(event): VerifiedWebhook,
) -> Result<StatusCode, Problem> {
    handle(&state, None, &event).await
}

async fn handle(
    state: &AppState,
    attempt: Option<AttemptId>,
    event: &Event,
) -> Result<StatusCode, Problem> {
    match state.services.nango_webhooks.handle(attempt, event).await {
        Ok(outcome) => {
            tracing::debug!(?outcome, "a webhook of Nango's");
            Ok(StatusCode::NO_CONTENT)
        }
        // Nango retries after a 5xx only.
        Err(Error::Nango(error @ nango::Error::UnknownIntegration)) => {
            tracing::warn!(%error, "a webhook could not be verified at nango");
            let detail = "the event could not be verified at Nango";
            Err(Problem::new(Code::NangoUnavailable, detail))
        }
        // A value of Nango's that cannot be stored is not the caller's mistake.
        Err(error) if error.concerns_one_row() => Err(Problem::internal(error)),
        Err(error) => Err(error.into()),
    }
}
