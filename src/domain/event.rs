//! What happened to a connection: the history, the stream, and what the product is told.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde::{Serialize, Serializer};
use strum::Display;
use strum::EnumString;
use strum::IntoStaticStr;
use strum::VariantNames;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Reason, Status};

/// What a change of a connection was.
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
pub enum EventKind {
    /// An attempt began.
    AttemptStarted,
    /// An attempt ended without a grant.
    AttemptFailed,
    /// The connection became connected.
    Connected,
    /// A working connection was authorized again.
    Reauthorized,
    /// The user disconnected it.
    Disconnected,
    /// Its label or config was changed.
    Updated,
    /// Its credentials could not be refreshed, which may pass.
    CredentialsFailing,
    /// Its credentials no longer work.
    NeedsReauthorization,
    /// Nango no longer holds it.
    MissingUpstream,
    /// It works again.
    Recovered,
    /// A reconnect came back as another account.
    AccountMismatched,
    /// The user took the other account.
    AccountAccepted,
    /// A workflow said that a token was refused, and it was refreshed.
    TokenRefreshed,
    /// It was taken over from the predecessor's table.
    Adopted,
    /// An operator restored it from what Nango held of it.
    Restored,
}

impl EventKind {
    /// The name in the database and in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// One change of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Event {
    /// A UUIDv7. It never repeats, even after a backup was restored. An event that comes to stand for one more change gets
    /// a new one.
    pub id: Uuid,
    /// Orders the events of one user by commit. Internal: a restored database assigns the same numbers again.
    #[serde(skip)]
    pub position: i64,
    /// The connection that changed.
    pub connection_id: Uuid,
    /// The connection's version by it: one more than that of the event before.
    pub version: i64,
    /// What changed.
    pub kind: EventKind,
    /// Where the connection stood then.
    pub status: Status,
    /// Why it was not connected.
    pub status_reason: Option<Reason>,
    /// The attempt that brought the change.
    pub attempt_id: Option<Uuid>,
    /// What went wrong, for a person to read.
    pub detail: Option<String>,
    /// When it was.
    pub created_at: DateTime<Utc>,
}

/// The type of an outgoing webhook message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Display, EnumString, IntoStaticStr, VariantNames)]
pub enum MessageType {
    /// The connection became connected, was reauthorized, or its user accepted another account.
    #[strum(serialize = "connection.connected")]
    Connected,
    /// The user disconnected it.
    #[strum(serialize = "connection.disconnected")]
    Disconnected,
    /// It does not work until its user acts; the reason says why.
    #[strum(serialize = "connection.needs_reauthorization")]
    NeedsReauthorization,
    /// It works again.
    #[strum(serialize = "connection.recovered")]
    Recovered,
    /// An attempt ended without a grant. A connection that worked still does.
    #[strum(serialize = "connection.attempt_failed")]
    AttemptFailed,
}

impl MessageType {
    /// The message's `type`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The type of the message that tells of a change; `None` if nothing is told of it.
    #[must_use]
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
            EventKind::AttemptFailed => Some(Self::AttemptFailed),
            EventKind::AttemptStarted
            | EventKind::Updated
            | EventKind::CredentialsFailing
            | EventKind::TokenRefreshed
            | EventKind::Adopted => None,
        }
    }
}

impl Serialize for MessageType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
