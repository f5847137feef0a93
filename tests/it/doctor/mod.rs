//! The doctor: every check passes against the sandbox, and fails for its own fault.

mod accounts;
mod brakes;
mod browser_binding;
mod database;
mod nango;
mod tokens;
mod web;

use chrono::TimeDelta;
use patchbay::cli::doctor::{self, Finding, Level, Report};
use patchbay::clock::Clock;
use reqwest::Method;
use serde_json::Value;

use crate::process::Process;
use crate::test_app::TestApp;

/// Runs the doctor with the test app's variables and these changes.
pub(crate) async fn run_doctor(
    app: &TestApp,
    changes: &[(&'static str, &str)],
    token: Option<&str>,
) -> Report {
    let settings = app.settings(changes);
    let lookup = |name: &str| {
        let found = settings.iter().rev().find(|(key, _)| *key == name);
        found.map(|(_, value)| value.clone())
    };
    let report = doctor::run(&lookup, token, &Clock::System).await;
    for one in failures(&report) {
        let is_ok = |line: &&Finding| line.check == one.0 && line.level == Level::Ok;
        assert_eq!(report.findings.iter().find(is_ok), None, "{report}");
    }
    report
}

/// Returns the findings that are not OK: check, severity, detail and remediation. Omits the brake that another
/// `PUBLIC_URL` engages, and its effect on the count of orphans, which have their own tests.
pub(crate) fn failures(report: &Report) -> Vec<(&str, Level, &str, &str)> {
    let lines = report
        .findings
        .iter()
        .filter(|line| line.level != Level::Ok && !line.detail.starts_with("database: PUBLIC_URL"))
        .filter(|line| !line.detail.starts_with("not known: the brake database"));
    lines
        .map(|line| {
            let remediation = line
                .remediation
                .as_deref()
                .expect("a problem has a remediation");
            (line.check, line.level, line.detail.as_str(), remediation)
        })
        .collect()
}

/// Asserts that this is the only finding that is not OK.
pub(crate) fn single_finding(
    report: &Report,
    check: &str,
    level: Level,
    found: &str,
    remediation: &str,
) {
    let all = failures(report);
    let [one] = all.as_slice() else {
        panic!("not one thing is wrong but {all:#?}");
    };
    assert_eq!((one.0, one.1), (check, level), "{one:?}");
    assert!(one.2.contains(found), "{one:?}");
    assert!(one.3.contains(remediation), "{one:?}");
    let has_brake = report
        .findings
        .iter()
        .any(|line| line.check == "brakes" && line.level == Level::Fail);
    assert_eq!(report.passes(), level != Level::Fail && !has_brake);
}

#[tokio::test]
async fn doctor_passes_against_sandbox_and_changes_nothing() {
    let app = TestApp::with_system_clock().await;
    let ada = app.user("ada").await;
    ada.connected("gmail").await;
    let before = ada.get("/connections").await;
    let report = run_doctor(&app, &[], Some(&ada.token)).await;
    assert_eq!(failures(&report), [], "{report}");
    let checks: Vec<&str> = report.findings.iter().map(|line| line.check).collect();
    assert_eq!(
        checks,
        [
            "configuration",
            "database",
            "migrations",
            "database clock",
            "database write",
            "rows",
            "pooler",
            "encryption",
            "nango",
            "nango key",
            "nango scopes",
            "connectors",
            "nango session",
            "accounts",
            "nango clock",
            "public url",
            "cors",
            "reachable",
            "webhooks",
            "callback",
            "webhook events",
            "deletion events",
            "brakes",
            "orphans",
            "tokens",
            "token alg",
            "token typ",
            "token iss",
            "token aud",
            "token exp",
            "token iat",
            "token user",
            "token",
        ],
        "{report}"
    );
    let last = report.findings.last().unwrap();
    assert_eq!(last.detail, "the token is valid: its user is ada");
    assert_eq!(ada.get("/connections").await, before);
    let sessions = app.control("requests", Method::GET, Value::Null).await;
    let made = |call: &&Value| {
        call["method"] != "GET" && call["status"].as_u64().is_some_and(|status| status < 300)
    };
    // The session of the user's connect, and the deleted one of the doctor.
    assert_eq!(sessions.as_array().unwrap().iter().filter(made).count(), 2);
}

#[tokio::test]
async fn doctor_prints_table_or_json_and_sets_exit_code() {
    let app = TestApp::with_system_clock().await;
    let settings = app.settings(&[]);
    let settings: Vec<(&str, &str)> = settings
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let mut table = Process::start(&["doctor"], &settings);
    assert!(table.ended().await.success(), "{}", table.output());
    let text = table.output();
    assert!(
        text.contains("ok    database         PostgreSQL "),
        "{text}"
    );
    assert!(text.ends_with(" passed, 0 warnings, 0 failed\n"), "{text}");
    assert!(!text.contains(&app.secret_key) && !text.contains(&app.signing_key));

    let mut broken = settings.clone();
    broken.push(("NANGO_SECRET_KEY", &app.signing_key));
    let mut json = Process::start(&["doctor", "--json"], &broken);
    assert_eq!(json.ended().await.code(), Some(1));
    let report: Value = serde_json::from_str(&json.output()).unwrap();
    let lines = report["findings"].as_array().unwrap();
    let line = lines.iter().find(|line| line["check"] == "nango key");
    assert_eq!(line.unwrap()["level"], "fail");
    assert!(line.unwrap()["remediation"].is_string());
}

#[tokio::test]
async fn doctor_checks_database_when_other_settings_are_missing() {
    let app = TestApp::with_system_clock().await;
    let report = run_doctor(&app, &[("PUBLIC_URL", ""), ("PORT", "x")], None).await;
    let all = failures(&report);
    assert_eq!(all.len(), 2, "{all:#?}");
    assert!(all[0].2.starts_with("PORT is not a whole number"));
    assert!(all[1].2.starts_with("PUBLIC_URL is missing"));
    assert!(
        report
            .findings
            .iter()
            .any(|line| line.check == "migrations")
    );
}

#[tokio::test]
async fn doctor_warns_about_clock_skew() {
    let app = TestApp::with_system_clock().await;
    let settings = app.settings(&[]);
    let lookup = |name: &str| {
        let found = settings.iter().rev().find(|(key, _)| *key == name);
        found.map(|(_, value)| value.clone())
    };
    let late = Clock::manual(Clock::System.now() - TimeDelta::minutes(5));
    let report = doctor::run(&lookup, None, &late).await;
    let reported: Vec<(&str, Level)> = failures(&report).iter().map(|it| (it.0, it.1)).collect();
    assert_eq!(
        reported,
        [
            ("database clock", Level::Fail),
            ("nango clock", Level::Warn)
        ]
    );
    assert!(
        failures(&report)[0].2.contains("differs by 300 s"),
        "{report}"
    );
}
