//! The audit trail of tokens: who was given which token when, written before the answer.

use chrono::{DateTime, Utc};

/// What a token was used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// It was issued.
    Token,
    /// A call was made with it.
    Proxy,
}

impl Purpose {
    /// The name in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Proxy => "proxy",
        }
    }
}

/// A use that was written down.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct PastUse {
    /// Grows with each use.
    pub id: i64,
    /// Who used the connection.
    pub service: String,
    /// `token` or `proxy`.
    pub purpose: String,
    /// How often, within that second.
    pub times: i32,
    /// When, the last time.
    pub used_at: DateTime<Utc>,
}
