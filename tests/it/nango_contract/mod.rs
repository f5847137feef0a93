//! Replays every recording of a real Nango server against the sandbox.
//!
//! Each scenario creates the state that the recordings require, then sends the same requests and compares status,
//! headers and body. The data's README lists the recordings that are not replayed.

mod compare;
pub(crate) mod scenario;
mod scenarios;
mod unrecorded;
pub(crate) mod webhook_receiver;

use std::collections::BTreeSet;

use scenario::data_directory;
use scenarios::SCENARIOS;

#[test]
fn recordings_are_replayed_or_listed_out_of_scope() {
    let readme = std::fs::read_to_string(data_directory().join("README.md")).unwrap();
    let listed = readme
        .lines()
        .filter_map(|line| line.strip_prefix("- `")?.split_once("`: "));
    let out_of_scope: BTreeSet<_> = listed
        .inspect(|(name, reason)| assert!(reason.len() > 20, "{name} needs a reason"))
        .map(|(name, _)| name.to_owned())
        .collect();
    let mut replayed = BTreeSet::new();
    for name in SCENARIOS.iter().copied().flatten() {
        assert!(
            replayed.insert((*name).to_owned()),
            "{name} is in two scenarios"
        );
    }
    let files: BTreeSet<_> = std::fs::read_dir(data_directory())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| name.strip_suffix(".json").map(str::to_owned))
        .collect();
    let both: Vec<_> = replayed.intersection(&out_of_scope).collect();
    assert!(both.is_empty(), "replayed and out of scope: {both:?}");
    let accounted: BTreeSet<_> = replayed.union(&out_of_scope).cloned().collect();
    assert_eq!(files, accounted);
}
