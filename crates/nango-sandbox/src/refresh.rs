//! Refreshes of access tokens before they expire, and their failures.

use axum::http::StatusCode;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use uuid::Uuid;

use crate::connections::{not_found, unknown_integration};
use crate::credentials::{Credentials, is_app};
use crate::error::Failure;
use crate::integrations::StoredIntegration;
use crate::provider::{TokenAnswer, TokenRequest};
use crate::state::{App, Connection, RefreshFailure, State};
use crate::view;
use crate::webhooks::{Event, Operation, Outcome};

/// A token that expires within this time is refreshed when it is fetched.
const MARGIN: TimeDelta = TimeDelta::minutes(15);
/// For this time after a failed refresh, fetching fails without another try.
const BACKOFF: TimeDelta = TimeDelta::seconds(30);

const REFUSED: &str = "The external API returned an error when trying to refresh the access \
     token. Please try again later.";

impl App {
    /// Refreshes a connection whose token expires soon, or any connection if forced.
    ///
    /// One lock is held throughout, so that concurrent requests cause one refresh.
    pub(super) fn refresh_if_due(
        &self,
        id: &str,
        integration: &str,
        force: bool,
    ) -> Result<(), Failure> {
        let now = self.now();
        let mut state = self.lock();
        let connection = state.connection(id, integration).ok_or_else(not_found)?;
        let Credentials::OAuth2 {
            refresh_token: Some(refresh_token),
            expires_at,
            ..
        } = &connection.credentials
        else {
            return Ok(());
        };
        if let (Some(message), false) = (refresh_blocked(connection, now), force) {
            let status = StatusCode::FAILED_DEPENDENCY;
            return Err(invalid_credentials(status, message, &state, connection));
        }
        if !force && expires_at.is_none_or(|it| it - now > MARGIN) {
            return Ok(());
        }
        let integration = state.integration(integration).cloned();
        let integration = integration.ok_or_else(unknown_integration)?;
        let request = TokenRequest {
            grant_type: "refresh_token".into(),
            code: None,
            redirect_uri: None,
            code_verifier: None,
            refresh_token: Some(refresh_token.clone()),
            client_id: integration.credentials.client_id.clone(),
            client_secret: integration.credentials.client_secret.clone(),
        };
        let Some(answer) = state.refreshed(id, &request, now) else {
            let (failure, event) = state.refresh_refused(id, &integration, now)?;
            drop(state);
            self.send_webhook(&event);
            return Err(failure);
        };
        let recovery_webhooks = state.faults.recovery_webhooks;
        let unique_key = &integration.unique_key;
        let connection = state.connection_mut(id, unique_key).ok_or_else(not_found)?;
        connection.credentials = Credentials::granted(&answer, &integration.auth_mode, now);
        connection.refresh_exhausted = false;
        connection.updated_at = now;
        let recovered = connection.refresh_failure.take().is_some() && recovery_webhooks;
        let event = recovered.then(|| Event {
            connection_id: id.to_owned(),
            operation: Operation::Refresh,
            outcome: Outcome::Succeeded,
            end_user: None,
            tags: Some(connection.tags.clone()),
            url_override: connection.webhook_url_override.clone(),
            integration,
        });
        drop(state);
        if let Some(event) = event {
            self.send_webhook(&event);
        }
        Ok(())
    }
}

/// Returns why a connection that could be refreshed is not.
fn refresh_blocked(connection: &Connection, now: DateTime<Utc>) -> Option<&'static str> {
    let failed = connection.refresh_failure.as_ref();
    if connection.refresh_exhausted {
        Some("The refresh limit has been reached for this connection.")
    } else if failed.is_some_and(|it| now - it.at < BACKOFF) {
        Some("A recent refresh attempt failed. Backing off before retrying.")
    } else {
        None
    }
}

fn invalid_credentials(
    status: StatusCode,
    message: &str,
    state: &State,
    connection: &Connection,
) -> Failure {
    let shown = view::connection_body(state, connection, json!({}));
    Failure::new(status, "invalid_credentials")
        .message(message)
        .payload(json!({ "connection": shown }))
}

impl State {
    /// Returns the provider's response to a refresh; `None` if it rejects it.
    fn refreshed(
        &mut self,
        id: &str,
        request: &TokenRequest,
        now: DateTime<Utc>,
    ) -> Option<TokenAnswer> {
        if self.faults.refuse_refresh_of.iter().any(|it| it == id) {
            return None;
        }
        self.provider_token(request, now).ok()
    }

    /// Records that the provider rejected a refresh. Returns the response, and the webhook that reports it.
    fn refresh_refused(
        &mut self,
        id: &str,
        integration: &StoredIntegration,
        now: DateTime<Utc>,
    ) -> Result<(Failure, Event), Failure> {
        let unique_key = &integration.unique_key;
        let connection = self.connection_mut(id, unique_key).ok_or_else(not_found)?;
        let random = Uuid::new_v4().simple().to_string();
        connection.refresh_failure = Some(RefreshFailure {
            at: now,
            log_id: format!("{}_{}", now.timestamp_millis(), &random[..8]),
        });
        let event = Event {
            integration: integration.clone(),
            connection_id: id.to_owned(),
            operation: Operation::Refresh,
            outcome: Outcome::Failed {
                kind: "refresh_token_external_error",
                description: REFUSED.to_owned(),
            },
            end_user: None,
            tags: Some(connection.tags.clone()),
            url_override: connection.webhook_url_override.clone(),
        };
        // As at Nango, the response has the new error, but the times from before this try.
        let connection = self.connection(id, unique_key).ok_or_else(not_found)?;
        let failure = if is_app(&integration.auth_mode) {
            // Nango has no text for the error of an app, and writes the connection into it.
            let shown = view::connection_body(self, connection, json!({}));
            let message = format!(
                "An unhandled error of type 'unhandled_github_app_token_fetch_error' with payload \
                 '{}' has occurred",
                json!({ "connection": shown })
            );
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            invalid_credentials(status, &message, self, connection)
        } else {
            invalid_credentials(StatusCode::BAD_REQUEST, REFUSED, self, connection)
        };
        let connection = self.connection_mut(id, unique_key).ok_or_else(not_found)?;
        connection.updated_at = now;
        connection.last_fetched_at = now;
        Ok((failure, event))
    }
}
