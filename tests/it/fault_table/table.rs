//! Compares the table of docs/RELIABILITY.md with these tests.

use std::collections::BTreeSet;
use std::path::Path;

const ROWS: [&str; 16] = [
    "webhook_lost",
    "webhook_twice",
    "webhook_late",
    "webhook_forged",
    "nango_down",
    "nango_slow",
    "nango_429",
    "nango_500",
    "answer_lost",
    "database_lost",
    "process_killed",
    "tab_closed",
    "consent_denied",
    "consent_never_given",
    "two_tabs",
    "two_grants",
];

const COLUMNS: [&str; 4] = ["connect", "reconnect", "refresh", "disconnect"];

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Returns the names of all tests of the table, from the files next to this one.
fn tests() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for file in [
        "webhooks",
        "nango",
        "database",
        "process_killed",
        "user_behaviour",
    ] {
        let source = read(&format!("tests/it/fault_table/{file}.rs"));
        for test in source.split("#[tokio::test]\nasync fn ").skip(1) {
            names.insert(test.split('(').next().unwrap().to_owned());
        }
    }
    names
}

#[test]
fn fault_table_cells_match_tests() {
    let document = read("docs/RELIABILITY.md");
    let table: Vec<Vec<&str>> = document
        .lines()
        .filter(|line| line.starts_with("| **"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    assert_eq!(table.len(), ROWS.len());
    let mut named = BTreeSet::new();
    for (cells, row) in table.iter().zip(ROWS) {
        assert_eq!(cells.len(), 1 + COLUMNS.len(), "{row}");
        for (cell, column) in cells[1..].iter().zip(COLUMNS) {
            let name = format!("{column}_{row}");
            if *cell == "—" {
                continue;
            }
            assert!(cell.ends_with(&format!("`{name}`")), "{name}: {cell}");
            named.insert(name);
        }
    }
    assert_eq!(named, tests());
}
