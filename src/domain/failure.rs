//! Why an attempt or a connection failed.

use super::Reason;

/// Why an attempt or a connection failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The reason, of the closed set.
    pub reason: Reason,
    /// The same, for a person to read.
    pub message: String,
}
