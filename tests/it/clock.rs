use chrono::{DateTime, TimeDelta};
use patchbay::clock::Clock;

#[test]
fn clones_of_a_manual_clock_move_together() {
    let start = DateTime::from_timestamp(1_764_000_000, 0).unwrap();
    let clock = Clock::manual(start);
    let clone = clock.clone();
    clock.advance(TimeDelta::minutes(5));
    assert_eq!(clone.now(), start + TimeDelta::minutes(5));
}
