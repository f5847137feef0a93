//! The id of a user of the product.

use std::fmt;

/// The longest user id, in UTF-16 code units: Nango counts them in the tag that has the id.
const MAX_USER_ID_LENGTH: usize = 255;

/// The id of a user of the product, from its identity provider. Ids are compared byte for byte. Texts that HTTP or a
/// client may change in transit are therefore rejected: whitespace at an end, control characters, and the path segments
/// `.` and `..`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserId(String);

/// The reason for which a text is rejected as a user id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidUserId {
    /// The id is empty or longer than 255 UTF-16 code units.
    #[error(
        "a user id must have 1 to {MAX_USER_ID_LENGTH} characters. Characters above U+FFFF count twice"
    )]
    Length,
    /// The id contains a control character.
    #[error("a user id must not contain control characters")]
    Control,
    /// The id starts or ends with whitespace, which HTTP and many clients trim.
    #[error("a user id must not start or end with whitespace")]
    WhiteSpace,
    /// The id is `.` or `..`, which URLs resolve.
    #[error("a user id must not be . or .., which URLs resolve")]
    DotSegment,
}

impl UserId {
    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for UserId {
    type Error = InvalidUserId;

    fn try_from(id: String) -> Result<Self, InvalidUserId> {
        // JavaScript's `trim` also removes the byte order mark.
        let is_space = |c: char| c.is_whitespace() || c == '\u{feff}';
        if !(1..=MAX_USER_ID_LENGTH).contains(&id.encode_utf16().count()) {
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
