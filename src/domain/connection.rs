//! A connection and its state.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use strum::{EnumString, IntoStaticStr};
use utoipa::ToSchema;

use super::{ConnectionId, ConnectorId, UserId};

/// A user's connection to one account of a connector.
#[derive(Clone, Debug, PartialEq)]
pub struct Connection {
    /// Patchbay's id, a UUIDv7. It stays the same after disconnects and reconnects.
    pub id: ConnectionId,
    /// The owner.
    pub user_id: UserId,
    /// The connector of the account.
    pub connector: Arc<ConnectorRef>,
    /// Distinguishes several accounts of one connector; empty for the first.
    pub instance_id: String,
    /// The user's name for the connection.
    pub label: Option<String>,
    /// The state.
    pub state: State,
    /// When the connection last became connected.
    pub connected_at: Option<DateTime<Utc>>,
    /// When the connection was last disconnected.
    pub disconnected_at: Option<DateTime<Utc>>,
    /// When the connection last became connected or a workflow last used it.
    pub last_synced_at: Option<DateTime<Utc>>,
    /// When Patchbay last queried Nango about the connection.
    pub last_checked_at: Option<DateTime<Utc>>,
    /// A JSON object that the product stores with the connection.
    pub config: serde_json::Map<String, serde_json::Value>,
    /// The account at the provider, if the provider reports it.
    pub account: Option<Account>,
    /// The different account that a reconnect returned. Only set with [`Reason::AccountMismatch`].
    pub pending_account: Option<Account>,
    /// Why the account is unknown; `None` if it is known, or if its lookup has not failed yet.
    pub account_unknown_reason: Option<AccountUnknownReason>,
    /// The scopes that the provider granted; `None` if it does not report them.
    pub scopes: Option<Vec<String>>,
    /// The requested scopes that were not granted; `None` if unknown.
    pub missing_scopes: Option<Vec<String>>,
    /// The start of refresh failures that may be temporary; `None` while refreshes succeed.
    pub failing_since: Option<DateTime<Utc>>,
    /// The times, at least a minute apart, at which the provider rejected a refresh but refreshed other connections.
    /// Empty while the credentials work.
    pub refusals: Vec<DateTime<Utc>>,
    /// The times, at least a minute apart, at which Nango did not have the connection. Empty while Nango has it.
    pub absences: Vec<DateTime<Utc>>,
    /// The last error, human-readable.
    pub last_error: Option<String>,
    /// The number of consecutive errors.
    pub error_count: i32,
    /// The version, which each change increases by one.
    pub version: i64,
    /// When the row was created.
    pub created_at: DateTime<Utc>,
    /// When the row was last changed.
    pub updated_at: DateTime<Utc>,
}

/// One state of a connection's row, to detect whether the row has changed.
///
/// The time distinguishes versions that repeat, as after a failover that lost a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Revision {
    /// The version of the row.
    pub version: i64,
    /// When the row was last changed.
    pub updated_at: DateTime<Utc>,
}

impl Connection {
    /// Returns the state of the row from which the connection was read.
    pub fn revision(&self) -> Revision {
        Revision {
            version: self.version,
            updated_at: self.updated_at,
        }
    }
}

/// The connector of a connection, from its row in the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectorRef {
    /// UUIDv5 of the slug.
    pub id: ConnectorId,
    /// The connector's name in URLs.
    pub slug: String,
    /// The connector's display name.
    pub name: String,
}

impl ConnectorRef {
    /// Returns whether the text is the connector's slug or id.
    pub(crate) fn is_named(&self, slug_or_id: &str) -> bool {
        self.slug == slug_or_id || slug_or_id.parse() == Ok(self.id)
    }
}

/// An integration at Nango. Attempts and connections keep the integration with which they were created. The catalog's
/// integration applies to new connects only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Integration {
    /// Nango's key of the integration.
    pub key: String,
    /// The provider of the integration; `None` if it was not recorded.
    pub provider: Option<String>,
}

/// A reference to a connection at Nango.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NangoConnectionRef {
    /// Nango's id of the connection.
    pub id: String,
    /// When Nango created the connection. A reconnect does not change it.
    pub created_at: DateTime<Utc>,
    /// Nango's serial number of the connection. A reconnect does not change it. `None` for a row imported from the
    /// FastAPI service.
    pub serial: Option<i64>,
    /// The integration with which it was created.
    pub integration: Integration,
}

impl NangoConnectionRef {
    /// Returns whether Nango created this connection after `other`. Serial numbers decide, because two connections may
    /// have the same time and Nango's clock may be set back. If either has no serial number, the times decide. Equal
    /// times return `false`.
    pub fn is_newer_than(&self, other: &Self) -> bool {
        match (self.serial, other.serial) {
            (Some(serial), Some(other)) => serial > other,
            _ => self.created_at > other.created_at,
        }
    }
}

/// An account at a provider.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Account {
    /// The id of the account at the provider.
    pub id: String,
    /// The name of the account at the provider.
    pub name: Option<String>,
    /// Further details of the account.
    #[serde(flatten)]
    pub details: AccountDetails,
}

/// The details of an account that a provider returns in addition to its id and name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AccountDetails {
    /// The email address.
    pub email: Option<String>,
    /// The address of a picture at the provider. It may expire, or need a sign-in.
    pub avatar_url: Option<String>,
    /// The id of the workspace, team or organization.
    pub workspace_id: Option<String>,
    /// The name of the workspace, team or organization.
    pub workspace_name: Option<String>,
}

impl Account {
    /// Returns the account with its missing fields filled from `previous`, if `previous` has the same id.
    #[must_use]
    pub fn or_known(&self, previous: Option<&Self>) -> Self {
        let mut account = self.clone();
        if let Some(previous) = previous.filter(|previous| previous.id == account.id) {
            let (details, earlier) = (&mut account.details, &previous.details);
            for (field, value) in [
                (&mut account.name, &previous.name),
                (&mut details.email, &earlier.email),
                (&mut details.avatar_url, &earlier.avatar_url),
                (&mut details.workspace_id, &earlier.workspace_id),
                (&mut details.workspace_name, &earlier.workspace_name),
            ] {
                if field.is_none() {
                    field.clone_from(value);
                }
            }
        }
        account
    }
}

/// Why the account of a connection is not known.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, EnumString, IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum AccountUnknownReason {
    /// The provider has no endpoint or field with the account's id.
    NotOffered,
    /// The provider rejected the lookup, which requires scopes that were not granted.
    MissingScope,
    /// The provider rejected the lookup.
    Refused,
    /// The provider's response has no id.
    NotInAnswer,
    /// Nango lacks a value that the lookup needs, such as a site's id.
    MissingConfig,
    /// The provider does not respond. The lookup is retried.
    ProviderUnavailable,
    /// Nango rejects the service's account lookups. An operator has to change the key or Nango's settings.
    NangoMisconfigured,
}

impl Account {
    /// Returns the account's name, or its id if it has no name.
    pub fn label(&self) -> String {
        self.name.as_ref().unwrap_or(&self.id).clone()
    }
}

/// The state of a connection, with its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// An authorization is in progress.
    Pending {
        /// The connection that Nango still stores, if the user reconnects one that did not work.
        previous: Option<NangoConnectionRef>,
    },
    /// Nango has working credentials.
    Connected {
        /// The connection at Nango.
        upstream: NangoConnectionRef,
    },
    /// The user disconnected, removed or canceled it. Its connection at Nango is deleted, or queued for deletion.
    Disconnected {
        /// Why the connection is disconnected.
        reason: Reason,
    },
    /// The connection does not work.
    Error {
        /// Why the connection does not work.
        reason: Reason,
        /// The connection at Nango; `None` if Nango has none.
        upstream: Option<NangoConnectionRef>,
    },
}

impl State {
    /// Returns the state without its data: the `status` column.
    pub fn status(&self) -> Status {
        match self {
            Self::Pending { .. } => Status::Pending,
            Self::Connected { .. } => Status::Connected,
            Self::Disconnected { .. } => Status::Disconnected,
            Self::Error { .. } => Status::Error,
        }
    }

    /// Returns why the connection is not connected: the `status_reason` column.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Pending { .. } => Some(Reason::AwaitingAuthorization),
            Self::Connected { .. } => None,
            Self::Disconnected { reason } | Self::Error { reason, .. } => Some(*reason),
        }
    }

    /// Returns the reference to the connection at Nango.
    pub fn upstream(&self) -> Option<&NangoConnectionRef> {
        match self {
            Self::Pending { previous } => previous.as_ref(),
            Self::Connected { upstream } => Some(upstream),
            Self::Disconnected { .. } => None,
            Self::Error { upstream, .. } => upstream.as_ref(),
        }
    }
}

/// The state of a connection. A closed set.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, EnumString, IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Status {
    /// An authorization is in progress.
    Pending,
    /// Nango has working credentials.
    Connected,
    /// The user disconnected, removed or canceled it.
    Disconnected,
    /// The connection does not work.
    Error,
}

/// Why a connection is not connected, or why an attempt failed.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, EnumString, IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Reason {
    /// The user has not completed the popup yet.
    AwaitingAuthorization,
    /// The user or the provider denied access.
    AuthorizationDenied,
    /// The provider or Nango could not complete the authorization.
    AuthorizationFailed,
    /// The authorization was not completed in time.
    AttemptExpired,
    /// Nango was unavailable at the start of the authorization.
    NangoUnavailable,
    /// Nango rejected the start of the authorization.
    NangoRefused,
    /// The stored credentials no longer work; the user has to authorize again.
    NeedsReauthorization,
    /// Nango no longer has the connection.
    MissingUpstream,
    /// A reconnect returned a different account. The user has to accept it or to reconnect.
    AccountMismatch,
    /// The user disconnected it.
    UserDisconnected,
    /// The user canceled the reauthorization of a connection that does not work.
    AuthorizationCanceled,
    /// The user removed it from the list, or canceled its first authorization.
    Removed,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(id: &str, seconds: i64, serial: Option<i64>) -> NangoConnectionRef {
        NangoConnectionRef {
            id: id.to_owned(),
            created_at: DateTime::from_timestamp(1_800_000_000 + seconds, 0).expect("a valid time"),
            serial,
            integration: Integration {
                key: "gmail".to_owned(),
                provider: None,
            },
        }
    }

    #[test]
    fn serial_number_orders_grants_before_time_and_id() {
        let (first, second) = (upstream("z", 60, Some(7)), upstream("a", 0, Some(8)));
        assert!(second.is_newer_than(&first));
        assert!(!first.is_newer_than(&second));
    }

    #[test]
    fn time_orders_grants_without_serial_and_tie_is_not_newer() {
        let (imported, later) = (upstream("z", 0, None), upstream("a", 1, Some(1)));
        assert!(later.is_newer_than(&imported));
        assert!(!imported.is_newer_than(&later));
        let same_time = upstream("a", 0, Some(1));
        assert!(!imported.is_newer_than(&same_time));
        assert!(!same_time.is_newer_than(&imported));
    }
}
