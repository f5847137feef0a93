//! A connection as the API and the webhooks show it.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Account, Attempt, AttemptKind, Connection, Outcome, Reason, Status};

/// A connection and how the last attempt to authorize it went.
#[derive(Clone, Debug)]
pub struct Details {
    /// The connection.
    pub connection: Connection,
    /// The newest attempt.
    pub attempt: Option<Attempt>,
    /// The user's other connections to the same account.
    pub same_account_as: Vec<Uuid>,
}

/// Which account a connection is known to be of, unless its user has ended it.
#[derive(Clone, Debug)]
pub(super) struct KnownAccount {
    pub(super) connection: Uuid,
    pub(super) connector: Uuid,
    pub(super) account_id: String,
}

impl KnownAccount {
    /// That of a connection, if it is known.
    pub(super) fn of(connection: &Connection) -> Option<Self> {
        let account = connection.account.as_ref()?;
        let there = connection.state.status() != Status::Disconnected;
        there.then(|| Self {
            connection: connection.id,
            connector: connection.connector.id,
            account_id: account.id.clone(),
        })
    }
}

impl Details {
    /// A connection and its newest attempt, beside all known accounts of its user.
    pub(super) fn new(
        connection: Connection,
        attempt: Option<Attempt>,
        accounts: &[KnownAccount],
    ) -> Self {
        let same = |other: &&KnownAccount| {
            other.connection != connection.id
                && other.connector == connection.connector.id
                && connection
                    .account
                    .as_ref()
                    .is_some_and(|account| account.id == other.account_id)
        };
        let same_account_as = accounts
            .iter()
            .filter(same)
            .map(|other| other.connection)
            .collect();
        Self {
            connection,
            attempt,
            same_account_as,
        }
    }
}

/// A connection.
#[derive(Debug, Serialize, ToSchema)]
pub struct ConnectionBody {
    id: Uuid,
    user_id: String,
    connector_id: Uuid,
    connector_slug: String,
    connector_name: String,
    /// Tells several accounts of one connector apart; empty for the first.
    instance_id: String,
    /// What the user calls it.
    label: Option<String>,
    /// Nango's connection, while it holds one.
    nango_connection_id: Option<String>,
    status: Status,
    /// Why it is not connected; null while it is.
    status_reason: Option<Reason>,
    connected_at: Option<DateTime<Utc>>,
    disconnected_at: Option<DateTime<Utc>>,
    /// When a workflow last used it.
    last_synced_at: Option<DateTime<Utc>>,
    /// When Nango was last asked about it.
    last_checked_at: Option<DateTime<Utc>>,
    /// What the product keeps with it.
    #[schema(value_type = Object)]
    config: Map<String, Value>,
    /// Whose account it is, where the provider tells.
    account: Option<Account>,
    /// With `account_mismatch`: the account that it came back as.
    found_account: Option<Account>,
    /// The user's other connections to the same account.
    same_account_as: Vec<Uuid>,
    /// Since when its credentials cannot be refreshed, while that may pass.
    failing_since: Option<DateTime<Utc>>,
    /// What last went wrong, for a person to read.
    last_error: Option<String>,
    /// How many times in a row it went wrong.
    error_count: i32,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
    /// The newest attempt to authorize it.
    attempt: Option<AttemptBody>,
}

/// An attempt to authorize a connection.
#[derive(Debug, Serialize, ToSchema)]
pub struct AttemptBody {
    id: Uuid,
    kind: AttemptKind,
    /// How it ended; null while it is under way.
    outcome: Option<Outcome>,
    /// Why it did not succeed.
    error_code: Option<Reason>,
    /// The same for a person to read.
    error_message: Option<String>,
    /// Of a grant: whether it came back in the browser in which it was begun. False where it may be another person's;
    /// null where that is not known (`CONNECT_BINDING`).
    same_browser: Option<bool>,
    /// Until when the user may begin.
    expires_at: DateTime<Utc>,
    created_at: DateTime<Utc>,
    ended_at: Option<DateTime<Utc>>,
}

impl From<Attempt> for AttemptBody {
    fn from(attempt: Attempt) -> Self {
        let same_browser = attempt.returned.filter(|_| attempt.grant_was_taken());
        let (error_code, error_message) = match attempt.error {
            Some(failure) => (Some(failure.reason), Some(failure.message)),
            None => (None, None),
        };
        Self {
            id: attempt.id,
            kind: attempt.kind,
            outcome: attempt.outcome,
            error_code,
            error_message,
            same_browser,
            expires_at: attempt.expires_at,
            created_at: attempt.created_at,
            ended_at: attempt.ended_at,
        }
    }
}

impl From<Details> for ConnectionBody {
    fn from(details: Details) -> Self {
        let Details {
            connection,
            attempt,
            same_account_as,
        } = details;
        let mut config = connection.config;
        if !connection.instance_id.is_empty() {
            // Where the predecessor's clients look for it.
            config.insert(
                "instance_id".to_owned(),
                connection.instance_id.clone().into(),
            );
        }
        Self {
            id: connection.id,
            user_id: connection.user_id.as_str().to_owned(),
            connector_id: connection.connector.id,
            connector_slug: connection.connector.slug,
            connector_name: connection.connector.name,
            instance_id: connection.instance_id,
            label: connection.label,
            nango_connection_id: connection
                .state
                .upstream()
                .map(|upstream| upstream.id.clone()),
            status: connection.state.status(),
            status_reason: connection.state.reason(),
            connected_at: connection.connected_at,
            disconnected_at: connection.disconnected_at,
            last_synced_at: connection.last_synced_at,
            last_checked_at: connection.last_checked_at,
            config,
            account: connection.account,
            found_account: connection.found_account,
            same_account_as,
            failing_since: connection.failing_since,
            last_error: connection.last_error,
            error_count: connection.error_count,
            created_at: connection.created_at,
            updated_at: connection.updated_at,
            attempt: attempt.map(AttemptBody::from),
        }
    }
}
