//! What happened to a connection: the history, the stream, and what the product is told.

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{EventKind, Reason, Status};

/// One change of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Event {
    /// Grows with each event of a user.
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
