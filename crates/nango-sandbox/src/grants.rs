//! Stores the result of an authorization, of any kind.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};

use crate::credentials::Credentials;
use crate::integrations::StoredIntegration;
use crate::state::{Connection, EndUser, Session, State};
use crate::webhooks::{Event, Operation, Outcome};

impl State {
    /// Stores the credentials of an authorization in a new or existing connection.
    ///
    /// A reconnect replaces the tags, even by none, but keeps the end user and the webhook URL if the session has none.
    pub(super) fn grant(
        &mut self,
        session: &Session,
        connection_id: &str,
        integration: &StoredIntegration,
        (config, credentials): (Map<String, Value>, Credentials),
        now: DateTime<Utc>,
    ) -> Event {
        let existing = self.connection_mut(connection_id, &integration.unique_key);
        let operation = if let Some(connection) = existing {
            connection.credentials = credentials;
            connection.tags = session.tags.clone();
            connection.refresh_failure = None;
            connection.refresh_exhausted = false;
            if session.end_user.is_some() {
                connection.end_user = session.end_user.clone();
            }
            if session.webhook_url_override.is_some() {
                connection.webhook_url_override = session.webhook_url_override.clone();
            }
            connection.connection_config.extend(config);
            Operation::Override
        } else {
            let (id, now) = self.next_connection(now);
            self.connections.push(Connection {
                id,
                connection_id: connection_id.to_owned(),
                integration: integration.unique_key.clone(),
                end_user: session.end_user.clone(),
                tags: session.tags.clone(),
                metadata: None,
                connection_config: config,
                webhook_url_override: session.webhook_url_override.clone(),
                credentials,
                refresh_failure: None,
                refresh_exhausted: false,
                created_at: now,
                updated_at: now,
                last_fetched_at: now,
            });
            Operation::Creation
        };
        let stored = self.connection(connection_id, &integration.unique_key);
        Event {
            integration: integration.clone(),
            connection_id: connection_id.to_owned(),
            operation,
            outcome: Outcome::Succeeded,
            end_user: session.end_user.as_ref().map(webhook_end_user),
            tags: Some(session.tags.clone()),
            url_override: stored.and_then(|it| it.webhook_url_override.clone()),
        }
    }
}

/// Returns an end user in the form of webhooks.
fn webhook_end_user(end_user: &EndUser) -> Value {
    let mut shown = json!({
        "endUserEmail": end_user.email,
        "endUserId": end_user.id,
        "tags": end_user.tags.clone().unwrap_or_default(),
    });
    if let Some(organization) = &end_user.organization {
        shown["organizationId"] = organization.id.as_str().into();
    }
    shown
}
