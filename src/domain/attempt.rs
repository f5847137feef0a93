//! An attempt to authorize a connection.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use strum::{EnumString, IntoStaticStr};
use utoipa::ToSchema;

use super::{AttemptId, ConnectionId, Failure};

/// The purpose of an attempt.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, EnumString, IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum AttemptKind {
    /// Creates a connection at Nango.
    Connect,
    /// Reauthorizes Nango's existing connection.
    Reconnect,
}

/// How an attempt ended.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, EnumString, IntoStaticStr,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Outcome {
    /// The user granted access.
    Succeeded,
    /// The user denied access, or the authorization failed.
    Failed,
    /// The authorization was not completed in time.
    Expired,
    /// A later attempt or a disconnect replaced the attempt.
    Superseded,
    /// The user canceled the attempt. If it still creates a connection at Nango, that connection is deleted.
    Canceled,
}

/// One authorization by a user, from the request to its outcome.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// A UUIDv7. It is also a tag of the connection at Nango.
    pub id: AttemptId,
    /// The id of the connection to authorize.
    pub connection_id: ConnectionId,
    /// The purpose of the attempt.
    pub kind: AttemptKind,
    /// When the authorization link expires.
    pub expires_at: DateTime<Utc>,
    /// The outcome; `None` while the attempt is open.
    pub outcome: Option<Outcome>,
    /// The failure of an attempt that failed or expired; `None` otherwise.
    pub error: Option<Failure>,
    /// `true` if a disconnect invalidated the attempt. Its grant then no longer connects.
    pub invalidated: bool,
    /// `true` if the browser that started the attempt returned from the provider; `None` if no browser was recorded.
    pub returned: Option<bool>,
    /// When the attempt started.
    pub created_at: DateTime<Utc>,
    /// When the attempt ended; `None` while it is open.
    pub ended_at: Option<DateTime<Utc>>,
}
