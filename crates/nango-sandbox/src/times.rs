//! Nango's two formats of a time.

use chrono::{DateTime, SecondsFormat, Utc};

/// Formats a time like PostgreSQL: without trailing zeros, and with `+00:00` at the end.
pub(super) fn postgres(time: DateTime<Utc>) -> String {
    let text = time.format("%Y-%m-%dT%H:%M:%S%.3f").to_string();
    format!("{}+00:00", text.trim_end_matches('0').trim_end_matches('.'))
}

/// Formats a time like JavaScript: always with milliseconds, and with `Z` at the end.
pub(super) fn javascript(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}
