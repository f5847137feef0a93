//! The layers of `docs/ARCHITECTURE.md`, checked in the source code.

use std::fs;
use std::path::{Path, PathBuf};

/// The modules of `src/`, from the lowest layer to the highest. Modules of one layer do not import each other.
const LAYERS: [&[&str]; 14] = [
    &["clock", "encryption", "text"],
    &["environment", "net"],
    &["telemetry"],
    &["domain"],
    &["catalog", "views"],
    &["auth"],
    &["nango"],
    &["db"],
    &["webhooks"],
    &["service"],
    &["server"],
    &["http", "worker"],
    &["config"],
    &["app", "cli", "lib", "main"],
];

/// The crates that the domain may import.
const PURE: [&str; 8] = [
    "std",
    "chrono",
    "serde",
    "serde_json",
    "strum",
    "thiserror",
    "utoipa",
    "uuid",
];

/// Returns the module of `src/` that a file belongs to.
fn module(file: &Path) -> String {
    let below = file.strip_prefix("src").unwrap();
    let first = below.components().next().unwrap();
    let name = first.as_os_str().to_str().unwrap();
    name.trim_end_matches(".rs").to_owned()
}

fn layer(module: &str) -> usize {
    let found = LAYERS.iter().position(|layer| layer.contains(&module));
    found.unwrap_or_else(|| panic!("src/{module} has no layer: add it to LAYERS"))
}

fn sources(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Returns each source file with its lines of code, without comments.
fn code() -> Vec<(PathBuf, Vec<String>)> {
    let mut files = Vec::new();
    sources(Path::new("src"), &mut files);
    assert!(files.len() > 50, "the test runs in the package's folder");
    let lines = |file: &PathBuf| {
        let text = fs::read_to_string(file).unwrap();
        let code = text
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        code.map(str::to_owned).collect()
    };
    files
        .into_iter()
        .map(|file| {
            let lines = lines(&file);
            (file, lines)
        })
        .collect()
}

/// Returns the modules that a line imports as `crate::<module>`.
fn named(line: &str) -> impl Iterator<Item = &str> {
    line.split("crate::").skip(1).filter_map(|rest| {
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_')?;
        Some(&rest[..end]).filter(|name| !name.is_empty())
    })
}

#[test]
fn modules_import_only_from_layers_below() {
    let mut failures = Vec::new();
    for (file, lines) in code() {
        let own = module(&file);
        for line in &lines {
            for used in named(line).filter(|used| *used != own) {
                let known = LAYERS.iter().any(|layer| layer.contains(&used));
                if known && layer(used) >= layer(&own) && layer(&own) < LAYERS.len() - 1 {
                    failures.push(format!("{}: {}", file.display(), line.trim()));
                }
            }
            assert!(
                !line.contains("use crate::{"),
                "{}: name each module in a `use` of its own",
                file.display()
            );
        }
    }
    assert!(
        failures.is_empty(),
        "imports from above:\n{}",
        failures.join("\n")
    );
}

#[test]
fn sql_statements_stand_in_db_only() {
    let queries = ["sqlx::query", "sqlx::raw_sql", "query_as(", "query_scalar("];
    for (file, lines) in code() {
        if module(&file) == "db" {
            continue;
        }
        let has = |line: &&String| queries.iter().any(|query| line.contains(query));
        let found = lines.iter().find(has);
        assert!(found.is_none(), "{}: {found:?}", file.display());
    }
}

#[test]
fn domain_imports_no_io_and_no_database() {
    for (file, lines) in code() {
        if module(&file) != "domain" {
            continue;
        }
        let imports = lines
            .iter()
            .filter_map(|line| line.trim().strip_prefix("use "));
        for import in imports {
            let root = import.split("::").next().unwrap();
            let own = ["crate", "super", "self"].contains(&root);
            assert!(own || PURE.contains(&root), "{}: {import}", file.display());
        }
    }
}
