//! Events of a connection: the history, the stream, and the webhook messages.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use strum::{EnumString, IntoStaticStr, VariantNames};
use utoipa::ToSchema;

use super::{AttemptId, ConnectionId, EventId, Reason, Status};

/// The kind of a change of a connection.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, EnumString, IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum EventKind {
    /// An attempt started.
    AttemptStarted,
    /// An attempt ended without a grant.
    AttemptFailed,
    /// The user canceled an attempt.
    AttemptCanceled,
    /// The connection became connected.
    Connected,
    /// A working connection was authorized again.
    Reauthorized,
    /// The user disconnected it.
    Disconnected,
    /// The user removed it from the list.
    Removed,
    /// The label or config was changed.
    Updated,
    /// The credentials could not be refreshed. The failure may be temporary.
    CredentialsFailing,
    /// The credentials no longer work.
    NeedsReauthorization,
    /// Nango no longer has the connection.
    MissingUpstream,
    /// The connection works again.
    Recovered,
    /// A reconnect returned a different account.
    AccountMismatched,
    /// The user accepted the different account.
    AccountAccepted,
    /// A lookup identified the account, or found further details of it.
    AccountIdentified,
    /// A workflow reported a rejected token, and the token was refreshed.
    TokenRefreshed,
    /// The connection was imported from the FastAPI service's table.
    Adopted,
    /// An operator restored the connection from Nango's data.
    Restored,
}

/// Who caused a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Actor {
    /// The connection's user.
    User,
    /// A service, for the user.
    Service,
    /// Patchbay itself, which detected the change.
    System,
}

/// A change of a connection's label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rename {
    /// The label before; null if it had none.
    pub from: Option<String>,
    /// The label after; null if it was removed.
    pub to: Option<String>,
}

/// Additional data of an event: the `context` column.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct EventContext {
    /// Who caused the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<Actor>,
    /// The provider's name of the account at that time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// The change of the label.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rename: Option<Rename>,
}

/// One change of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ConnectionEvent)]
pub struct Event {
    /// A UUIDv7. It never repeats, even after a backup was restored. An event that absorbs a further change gets a new id.
    #[schema(value_type = Uuid)]
    pub id: EventId,
    /// Orders the events of one user by commit. Internal: a restored database assigns the same numbers again.
    #[serde(skip)]
    pub position: i64,
    /// The connection that changed.
    #[schema(value_type = Uuid)]
    pub connection_id: ConnectionId,
    /// The version of the connection after the change, one more than before.
    pub version: i64,
    /// The kind of the change.
    pub kind: EventKind,
    /// The state of the connection after the change.
    pub status: Status,
    /// Why the connection was not connected; null if it was.
    pub status_reason: Option<Reason>,
    /// The attempt that caused the change.
    #[schema(value_type = Option<Uuid>)]
    pub attempt_id: Option<AttemptId>,
    /// A human-readable reason of a failure.
    pub detail: Option<String>,
    /// Who caused the change; null if that was not recorded.
    pub actor: Option<Actor>,
    /// The provider's name of the account at that time; null if it is unknown.
    pub account: Option<String>,
    /// The change of the label, with `updated`; null if it did not change.
    pub rename: Option<Rename>,
    /// When the change happened.
    pub created_at: DateTime<Utc>,
}

/// The type of an outgoing webhook message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, EnumString, IntoStaticStr, VariantNames)]
#[serde(into = "&'static str")]
pub enum MessageType {
    /// The connection became connected, was reauthorized, or its user accepted another account.
    #[strum(serialize = "connection.connected")]
    Connected,
    /// The user disconnected it.
    #[strum(serialize = "connection.disconnected")]
    Disconnected,
    /// The connection does not work until its user acts. The message contains the reason.
    #[strum(serialize = "connection.needs_reauthorization")]
    NeedsReauthorization,
    /// The connection works again.
    #[strum(serialize = "connection.recovered")]
    Recovered,
    /// An attempt ended without a grant. A working connection remains usable.
    #[strum(serialize = "connection.attempt_failed")]
    AttemptFailed,
}

impl MessageType {
    /// Returns the message type of a change; `None` if the change sends no message.
    pub fn of(kind: EventKind) -> Option<Self> {
        match kind {
            EventKind::Connected
            | EventKind::Reauthorized
            | EventKind::AccountAccepted
            | EventKind::Restored => Some(Self::Connected),
            EventKind::Disconnected => Some(Self::Disconnected),
            EventKind::NeedsReauthorization
            | EventKind::MissingUpstream
            | EventKind::AccountMismatched => Some(Self::NeedsReauthorization),
            EventKind::Recovered => Some(Self::Recovered),
            EventKind::AttemptFailed | EventKind::AttemptCanceled => Some(Self::AttemptFailed),
            EventKind::AttemptStarted
            | EventKind::Removed
            | EventKind::Updated
            | EventKind::CredentialsFailing
            | EventKind::AccountIdentified
            | EventKind::TokenRefreshed
            | EventKind::Adopted => None,
        }
    }
}
