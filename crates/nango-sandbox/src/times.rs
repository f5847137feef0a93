//! The two ways in which Nango writes a time.

use chrono::{DateTime, SecondsFormat, Utc};

/// As PostgreSQL hands it out: trailing zeros dropped, `+00:00` at the end.
pub(super) fn postgres(time: DateTime<Utc>) -> String {
    let text = time.format("%Y-%m-%dT%H:%M:%S%.3f").to_string();
    format!("{}+00:00", text.trim_end_matches('0').trim_end_matches('.'))
}

/// As JavaScript writes it: always milliseconds, `Z` at the end.
pub(super) fn javascript(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}
