//! What happened to a connection: the history, the stream, and what the product is told.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Details, EventKind, Reason, Status, UnknownName};

/// One change of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Event {
    /// Grows with each event of a user. A change of the label or config within a minute of the last gives its event a
    /// new id and leaves the version.
    pub id: i64,
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

/// What a webhook's message tells the product of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageType {
    /// It became connected, was authorized again, or is another account's by its user's decision.
    Connected,
    /// Its user ended it.
    Disconnected,
    /// It does not work until its user does something; the reason says why.
    NeedsReauthorization,
    /// It works again.
    Recovered,
    /// An attempt ended without a grant. A connection that worked still does.
    AttemptFailed,
}

impl MessageType {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Connected,
        Self::Disconnected,
        Self::NeedsReauthorization,
        Self::Recovered,
        Self::AttemptFailed,
    ];

    /// The message's `type`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "connection.connected",
            Self::Disconnected => "connection.disconnected",
            Self::NeedsReauthorization => "connection.needs_reauthorization",
            Self::Recovered => "connection.recovered",
            Self::AttemptFailed => "connection.attempt_failed",
        }
    }

    /// The type of the message that tells of a change; `None` if nothing is told of it.
    #[must_use]
    pub fn of(kind: EventKind) -> Option<Self> {
        match kind {
            EventKind::Connected | EventKind::Reauthorized | EventKind::AccountAccepted => {
                Some(Self::Connected)
            }
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

impl FromStr for MessageType {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| UnknownName {
                kind: "type of a webhook",
                name: text.to_owned(),
            })
    }
}

/// A webhook's body, in the form of the Standard Webhooks specification.
#[derive(Debug, Serialize)]
pub(super) struct Message {
    /// The connection's config, where an endpoint asks for it; it is stored beside the body.
    #[serde(skip)]
    pub(super) config: Option<Value>,
    #[serde(rename = "type")]
    pub(super) kind: MessageType,
    /// When it happened, however late it is told.
    pub(super) timestamp: DateTime<Utc>,
    pub(super) data: MessageData,
}

/// The connection as the API showed it then, but for its config, and what had changed.
#[derive(Debug, Serialize)]
pub(super) struct MessageData {
    #[serde(flatten, serialize_with = "Details::serialize_without_config")]
    pub(super) connection: Details,
    /// Of two messages of a connection, the one with the higher version is the later.
    pub(super) version: i64,
    /// The change's name in the history.
    pub(super) change: EventKind,
    /// Why it does not work, or why the attempt failed.
    pub(super) reason: Option<Reason>,
}
