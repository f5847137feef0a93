use std::time::Duration;

use chrono::{DateTime, TimeDelta};
use patchbay::clock::Clock;

#[test]
fn manual_clock_clones_share_time() {
    let start = DateTime::from_timestamp(1_764_000_000, 0).unwrap();
    let clock = Clock::manual(start);
    let clone = clock.clone();
    clock.advance(TimeDelta::minutes(5));
    assert_eq!(clone.now(), start + TimeDelta::minutes(5));
}

#[test]
fn monotonic_reading_ignores_corrections() {
    let clock = Clock::manual(DateTime::from_timestamp(1_764_000_000, 0).unwrap());
    let start = clock.now();
    clock.correct(TimeDelta::hours(-1));
    assert_eq!(clock.now(), start - TimeDelta::hours(1));
    assert_eq!(clock.monotonic(), Duration::ZERO);
    clock.advance(TimeDelta::minutes(5));
    assert_eq!(clock.monotonic(), Duration::from_secs(300));
}
