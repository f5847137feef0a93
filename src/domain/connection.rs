//! A connection and its state.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, IntoStaticStr};
use utoipa::ToSchema;

use super::{ConnectionId, ConnectorId, UserId};

/// A user's connection to one account of a connector.
#[derive(Clone, Debug, PartialEq)]
pub struct Connection {
    /// Ours: a UUIDv7, kept over disconnects and reconnects.
    pub id: ConnectionId,
    /// The owner.
    pub user_id: UserId,
    /// What it connects to.
    pub connector: Arc<ConnectorRef>,
    /// Distinguishes several accounts of one connector; empty for the first.
    pub instance_id: String,
    /// What the user calls it.
    pub label: Option<String>,
    /// Where it stands.
    pub state: State,
    /// When it last became connected.
    pub connected_at: Option<DateTime<Utc>>,
    /// When it was last disconnected.
    pub disconnected_at: Option<DateTime<Utc>>,
    /// When it became connected or a workflow used it, whichever was last.
    pub last_synced_at: Option<DateTime<Utc>>,
    /// When Nango was last asked about it.
    pub last_checked_at: Option<DateTime<Utc>>,
    /// What the product keeps with it: a JSON object.
    pub config: serde_json::Map<String, serde_json::Value>,
    /// The account at the provider, if the provider reports it.
    pub account: Option<Account>,
    /// The other account that a reconnect returned; with [`Reason::AccountMismatch`] only.
    pub pending_account: Option<Account>,
    /// Why the account is not known; `None` while it is, or while the look-up has not failed.
    pub account_unknown_reason: Option<AccountUnknownReason>,
    /// The scopes that the provider granted; `None` if it does not say.
    pub scopes: Option<Vec<String>>,
    /// The scopes that were asked for and not granted; `None` if that is not known.
    pub missing_scopes: Option<Vec<String>>,
    /// Since when its credentials cannot be refreshed, while it is not known whether for good.
    pub failing_since: Option<DateTime<Utc>>,
    /// When the provider refused to refresh its credentials and refreshed others', at least a minute apart. Empty while
    /// they work.
    pub refusals: Vec<DateTime<Utc>>,
    /// When Nango did not have it, at least a minute apart. Empty while Nango has it.
    pub absences: Vec<DateTime<Utc>>,
    /// What last went wrong, for a person to read.
    pub last_error: Option<String>,
    /// How many times in a row it went wrong.
    pub error_count: i32,
    /// Raised by each change.
    pub version: i64,
    /// When the row was made.
    pub created_at: DateTime<Utc>,
    /// When the row was last changed.
    pub updated_at: DateTime<Utc>,
}

/// The connector that a connection belongs to, as its row in the database names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectorRef {
    /// UUIDv5 of the slug.
    pub id: ConnectorId,
    /// The connector's short name.
    pub slug: String,
    /// The connector's name for people.
    pub name: String,
}

impl ConnectorRef {
    /// Whether this is its slug or its id.
    pub(crate) fn is_named(&self, slug_or_id: &str) -> bool {
        self.slug == slug_or_id || slug_or_id.parse() == Ok(self.id)
    }
}

/// An integration at Nango. An attempt and a connection keep the one they were made with; the catalog's is for new
/// connects only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Integration {
    /// Nango's key of it.
    pub key: String,
    /// The provider it uses; `None` if that was not recorded.
    pub provider: Option<String>,
}

/// A connection that Nango holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NangoConnectionRef {
    /// Nango's id of it.
    pub id: String,
    /// When Nango made it. A reconnect keeps it.
    pub created_at: DateTime<Utc>,
    /// Nango's serial number of it, which a reconnect keeps. `None` for a row imported from the FastAPI service.
    pub serial: Option<i64>,
    /// The integration it was made with.
    pub integration: Integration,
}

impl NangoConnectionRef {
    /// Whether Nango made this connection after `other`. Serial numbers decide, because two connections may have
    /// the same time and Nango's clock may be set back. Where one has no serial number, a tie means `false`.
    #[must_use]
    pub fn is_newer_than(&self, other: &Self) -> bool {
        match (self.serial, other.serial) {
            (Some(ours), Some(theirs)) => ours > theirs,
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
    /// More about the account.
    #[serde(flatten)]
    pub details: AccountDetails,
}

/// What a provider says of an account beside its id and name.
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
    /// Returns the account with the fields that it lacks taken from what was known of the same account.
    #[must_use]
    pub fn or_known(&self, known: Option<&Self>) -> Self {
        let mut account = self.clone();
        if let Some(known) = known.filter(|known| known.id == account.id) {
            let (details, older) = (&mut account.details, &known.details);
            for (field, older) in [
                (&mut account.name, &known.name),
                (&mut details.email, &older.email),
                (&mut details.avatar_url, &older.avatar_url),
                (&mut details.workspace_id, &older.workspace_id),
                (&mut details.workspace_name, &older.workspace_name),
            ] {
                if field.is_none() {
                    field.clone_from(older);
                }
            }
        }
        account
    }
}

/// Why the account of a connection is not known.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    ToSchema,
    Display,
    EnumString,
    IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum AccountUnknownReason {
    /// The provider offers no id of the account.
    NotOffered,
    /// The provider refused the look-up, which needs scopes that were not granted.
    MissingScope,
    /// The provider refused the look-up.
    Refused,
    /// The provider's answer has no id.
    NotInAnswer,
    /// Nango lacks a value that the look-up needs, such as a site's id.
    MissingConfig,
    /// The provider does not answer. The look-up is repeated.
    ProviderUnavailable,
    /// Nango does not let the service look up accounts: an operator has to change its key or its settings.
    NangoMisconfigured,
}

impl AccountUnknownReason {
    /// The name in the database and in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

impl Account {
    /// What a person calls it: its name, or else its id.
    #[must_use]
    pub fn label(&self) -> String {
        self.name.as_ref().unwrap_or(&self.id).clone()
    }
}

/// Where a connection stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// An authorization is in progress; `previous` is the connection that Nango still stores from before.
    Pending {
        /// A connection whose credentials had failed, which a reconnect repairs.
        previous: Option<NangoConnectionRef>,
    },
    /// Nango holds working credentials.
    Connected {
        /// The connection at Nango.
        upstream: NangoConnectionRef,
    },
    /// The user ended it. Nothing of it is left at Nango, or is being deleted there.
    Disconnected {
        /// Why it ended.
        reason: Reason,
    },
    /// It does not work, and `reason` says why.
    Error {
        /// Why it does not work.
        reason: Reason,
        /// What Nango still holds of it.
        upstream: Option<NangoConnectionRef>,
    },
}

impl State {
    /// The state without its data: the `status` column.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            Self::Pending { .. } => Status::Pending,
            Self::Connected { .. } => Status::Connected,
            Self::Disconnected { .. } => Status::Disconnected,
            Self::Error { .. } => Status::Error,
        }
    }

    /// Why the connection is not connected: the `status_reason` column.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Pending { .. } => Some(Reason::AwaitingAuthorization),
            Self::Connected { .. } => None,
            Self::Disconnected { reason } | Self::Error { reason, .. } => Some(*reason),
        }
    }

    /// What Nango holds of the connection.
    #[must_use]
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
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    ToSchema,
    Display,
    EnumString,
    IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Status {
    /// An authorization is in progress.
    Pending,
    /// Nango holds working credentials.
    Connected,
    /// The user ended it.
    Disconnected,
    /// It does not work.
    Error,
}

impl Status {
    /// The name in the database and in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// Why a connection is not connected, or why an attempt failed.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    ToSchema,
    Display,
    EnumString,
    IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Reason {
    /// The user has not yet finished in the popup.
    AwaitingAuthorization,
    /// The user, or the provider for them, said no.
    AuthorizationDenied,
    /// The provider or Nango could not complete the authorization.
    AuthorizationFailed,
    /// The authorization was not completed in time.
    AttemptExpired,
    /// Nango could not be asked for an authorization.
    NangoUnavailable,
    /// Nango refused to begin an authorization.
    NangoRefused,
    /// The stored credentials no longer work; the user has to authorize again.
    NeedsReauthorization,
    /// Nango no longer holds the connection.
    MissingUpstream,
    /// A reconnect came back as another account; the user has to decide.
    AccountMismatch,
    /// The user disconnected it.
    UserDisconnected,
    /// The user canceled the reauthorization of a connection that did not work.
    AuthorizationCanceled,
    /// The user removed it from the list, or canceled its first authorization.
    Removed,
}

impl Reason {
    /// The name in the database and in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
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
