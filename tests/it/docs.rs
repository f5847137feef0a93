//! The documents: their commands are run, and their facts are compared with the code.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use patchbay::http;
use reqwest::StatusCode;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::process::{Process, new_folder};
use crate::test_app::{TestApp, free_port};
use crate::test_database;

const API: &str = include_str!("../../docs/API.md");
const CHECKLIST: &str = include_str!("../../docs/NANGO_SETUP_CHECKLIST.md");
const OPERATIONS: &str = include_str!("../../docs/OPERATIONS.md");

/// Returns the code blocks of this language, in order.
fn blocks<'a>(document: &'a str, language: &str) -> Vec<&'a str> {
    let begin = format!("```{language}\n");
    let blocks = document.split(begin.as_str()).skip(1);
    blocks
        .map(|block| block.split_once("```").unwrap().0)
        .collect()
}

/// Runs a document's `sh` blocks as one script, against a separate sandbox.
async fn runs(document: &str) {
    let database = test_database::database().await;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = Path::new(env!("CARGO_BIN_EXE_patchbay"));
    let folder = new_folder();
    std::os::unix::fs::symlink(root.join("examples"), folder.join("examples")).unwrap();
    let ports = [free_port(), free_port(), free_port()].map(|port| port.to_string());
    let settings = [
        ("PORT", &*ports[0]),
        ("SANDBOX_PORT", &*ports[1]),
        ("DATABASE_URL", database.url()),
    ];
    let mut process = Process::start_in(&folder, program, &["sandbox"], &settings).unwrap();
    let url = format!("http://localhost:{}", ports[0]);
    process.until_ready_is(&url, StatusCode::OK).await;
    let mut script = "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n".to_owned();
    script.extend(blocks(document, "sh"));
    for (port, own) in ["8000", "8001", "8002"].into_iter().zip(&ports) {
        script = script.replace(port, own);
    }
    process.follows(&script, database.url()).await;
    process.signal("INT").await;
    assert!(process.ended().await.success(), "{}", process.output());
}

#[tokio::test]
async fn api_examples_run() {
    runs(API).await;
}

#[tokio::test]
async fn setup_checklist_steps_run() {
    runs(CHECKLIST).await;
}

#[tokio::test]
async fn runbook_commands_run() {
    runs(OPERATIONS).await;
}

#[tokio::test]
async fn runbook_queries_run() {
    let app = TestApp::new().await;
    let mut sql: PgConnection = app.sql().await;
    let queries = blocks(OPERATIONS, "sql");
    assert!(queries.len() >= 5);
    for query in queries {
        let query = AssertSqlSafe(query.to_owned());
        sqlx::raw_sql(query).fetch_all(&mut sql).await.unwrap();
    }
    sql.close().await.unwrap();
}

/// Returns the cells that `fits` selects from the rows of a document's tables, without quotes.
fn cells(document: &str, fits: impl Fn(&[&str]) -> Option<String>) -> BTreeSet<String> {
    let rows = document.lines().filter(|line| line.starts_with("| "));
    rows.filter_map(|row| {
        let cells: Vec<&str> = row.split('|').skip(1).map(str::trim).collect();
        fits(&cells)
    })
    .collect()
}

#[test]
fn api_tables_match_openapi_document() {
    let document = http::openapi();
    let methods = ["get", "put", "post", "delete", "patch"];
    let mut operations = BTreeSet::new();
    for (path, own) in document["paths"].as_object().unwrap() {
        for method in own.as_object().unwrap().keys() {
            if methods.contains(&method.as_str()) {
                operations.insert(format!("{} `{path}`", method.to_uppercase()));
            }
        }
    }
    let written = cells(API, |cells| {
        let [method, path, ..] = cells else {
            return None;
        };
        let is_method = methods.contains(&method.to_lowercase().as_str());
        is_method.then(|| format!("{method} {path}"))
    });
    assert_eq!(written, operations);
    let (errors, _) = API.split_once("\n## Tokens").unwrap();
    let written = cells(errors, |cells| {
        let [code, status, ..] = cells else {
            return None;
        };
        let is_code = status.parse::<u16>().is_ok();
        is_code.then(|| code.trim_matches('`').to_owned())
    });
    let known = names_of(&document["components"]["schemas"]["KnownProblemCode"]);
    assert_eq!(written, known);
}

/// Returns the values of an enum.
fn names_of(schema: &Value) -> BTreeSet<String> {
    let values = schema["enum"].as_array().unwrap().iter();
    values
        .map(|value| value.as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn runbook_has_one_section_per_alert() {
    let rules = include_str!("../../docs/monitoring/alerts.yaml");
    let alerts: BTreeSet<&str> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    let (_, pages) = OPERATIONS.split_once("\n## Alerts\n").unwrap();
    let (pages, _) = pages.split_once("\n## ").unwrap();
    let pages: BTreeSet<&str> = pages
        .lines()
        .filter_map(|line| line.strip_prefix("### "))
        .collect();
    assert_eq!(pages, alerts);
}

/// Every `module::test` in the threat model exists in the file of its module.
#[test]
fn threat_model_references_existing_tests() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let threats = include_str!("../../docs/THREAT_MODEL.md");
    let named = threats.split('`').skip(1).step_by(2);
    let (mut seen, mut missing) = (BTreeSet::new(), BTreeSet::new());
    for name in named.filter(|name| name.contains("::")) {
        let (module, test) = name.rsplit_once("::").unwrap();
        let module = module.replace("::", "/");
        let files = [format!("{module}.rs"), format!("{module}/mod.rs")];
        let is_there = files.iter().any(|file| {
            let source = fs::read_to_string(tests.join(file)).unwrap_or_default();
            let is_test = |(before, after): (&str, &str)| {
                let attribute = before.trim_end().lines().last().unwrap_or_default();
                after.starts_with('(') && attribute.contains("test")
            };
            let written = [format!("\nfn {test}"), format!("\nasync fn {test}")];
            let mut found = written
                .iter()
                .filter_map(|text| source.split_once(text.as_str()));
            found.any(is_test)
        });
        seen.insert(name);
        if !is_there {
            missing.insert(name);
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(seen.len() >= 60, "{}", seen.len());
    let mut is_tested = false;
    for line in threats.lines().filter(|line| !line.starts_with("|-")) {
        let is_row = line.starts_with("| ");
        assert!(!(is_row && is_tested) || line.ends_with("` |"), "{line}");
        is_tested = is_row && (is_tested || line.ends_with("| Test |"));
    }
}

/// Links between the documents lead to existing files and headings.
#[test]
fn document_links_resolve() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = fs::read_dir(root.join("docs")).unwrap();
    let mut documents: Vec<_> = folder.map(|entry| entry.unwrap().path()).collect();
    documents.extend(
        [
            "README.md",
            "SECURITY.md",
            "CHANGELOG.md",
            "CONTRIBUTING.md",
        ]
        .map(|name| root.join(name)),
    );
    documents.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    for document in documents {
        let text = fs::read_to_string(&document).unwrap();
        for link in text.split("](").skip(1) {
            let link = link.split_once(')').unwrap().0;
            if link.contains("://") {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => document.clone(),
                file => document.parent().unwrap().join(file),
            };
            let shown = document.display();
            assert!(target.exists(), "{shown}: {link} leads nowhere");
            if !heading.is_empty() {
                let text = fs::read_to_string(&target).unwrap();
                let headings = text.lines().filter(|line| line.starts_with('#'));
                let is = |line: &str| anchor(line) == heading;
                assert!(
                    headings.into_iter().any(is),
                    "{shown}: {link} has no heading"
                );
            }
        }
    }
}

/// Returns a heading's anchor, as renderers derive it.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text
        .chars()
        .filter(|one| one.is_alphanumeric() || matches!(one, ' ' | '-' | '_'));
    kept.map(|one| if one == ' ' { '-' } else { one }).collect()
}
