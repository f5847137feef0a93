//! The id of a user of the product.

use std::fmt;

/// The longest user id, in characters.
const MAX_USER_ID_LENGTH: usize = 255;

/// A user of the product, as its identity provider names them. Ids are compared byte for byte, so
/// that every text is refused that HTTP or a client would change on its way: white space at an end,
/// control characters, and the path segments `.` and `..`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(String);

/// Why a text cannot be a user id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUserId {
    /// Empty, or longer than 255 characters.
    #[error("a user id has 1 to {MAX_USER_ID_LENGTH} characters")]
    Length,
    /// A control character.
    #[error("a user id has no control characters")]
    Control,
    /// HTTP removes it from a header, and many clients do from any text.
    #[error("a user id has no white space at its beginning or end")]
    WhiteSpace,
    /// URLs drop it.
    #[error("a user id is neither . nor .., which no URL can carry")]
    DotSegment,
}

impl UserId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for UserId {
    type Error = InvalidUserId;

    fn try_from(id: String) -> Result<Self, InvalidUserId> {
        // What JavaScript trims: the byte order mark, too.
        let is_space = |c: char| c.is_whitespace() || c == '\u{feff}';
        if !(1..=MAX_USER_ID_LENGTH).contains(&id.chars().count()) {
            Err(InvalidUserId::Length)
        } else if id.chars().any(char::is_control) {
            Err(InvalidUserId::Control)
        } else if id.starts_with(is_space) || id.ends_with(is_space) {
            Err(InvalidUserId::WhiteSpace)
        } else if matches!(id.as_str(), "." | "..") {
            Err(InvalidUserId::DotSegment)
        } else {
            Ok(Self(id))
        }
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
