//! The failure of an attempt or a connection.

use super::Reason;

/// The failure of an attempt or a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The reason, for programs.
    pub reason: Reason,
    /// The human-readable message.
    pub message: String,
}
