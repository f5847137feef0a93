//! An attempt to authorize a connection.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use strum::{Display, EnumString, IntoStaticStr};
use utoipa::ToSchema;

use super::{AttemptId, ConnectionId, Failure};

/// The purpose of an attempt.
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
pub enum AttemptKind {
    /// Make a new connection at Nango.
    Connect,
    /// Authorize Nango's existing connection again.
    Reconnect,
}

impl AttemptKind {
    /// The name in the database and in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// How an attempt ended.
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
pub enum Outcome {
    /// The user granted access.
    Succeeded,
    /// It was denied or broke.
    Failed,
    /// The authorization was not completed in time.
    Expired,
    /// A later attempt or a disconnect took its place.
    Superseded,
    /// The user canceled it. A new connection that it still brings about at Nango is deleted there.
    Canceled,
}

impl Outcome {
    /// The name in the database and in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// One time that a user set out to connect or reconnect.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// A UUIDv7; the connection at Nango carries it as a tag.
    pub id: AttemptId,
    /// The connection it is for.
    pub connection_id: ConnectionId,
    /// What it sets out to do.
    pub kind: AttemptKind,
    /// Until when Nango lets the user begin.
    pub expires_at: DateTime<Utc>,
    /// How it ended; `None` while it is open.
    pub outcome: Option<Outcome>,
    /// Why it did not succeed.
    pub error: Option<Failure>,
    /// `true` if a disconnect followed: a grant of this attempt no longer connects.
    pub invalidated: bool,
    /// Whether the browser that began it came back from the provider; `None` where that is not known.
    pub returned: Option<bool>,
    /// When it began.
    pub created_at: DateTime<Utc>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
}
