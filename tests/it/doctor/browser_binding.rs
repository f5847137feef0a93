//! The doctor's checks of the requirements of browser binding.

use patchbay::cli::doctor::{Level, Report};
use patchbay::clock::Clock;

use super::{failures, run_doctor, single_finding};
use crate::test_app::{Setup, TestApp};

async fn with_binding(binding: &'static str) -> TestApp {
    let change = |setup: &mut Setup| setup.clock = Clock::System;
    TestApp::build(&[("CONNECT_BINDING", binding)], change).await
}

/// Returns the findings of the binding: severity, detail and remediation.
fn lines(report: &Report) -> Vec<(Level, &str, &str)> {
    let lines = report
        .findings
        .iter()
        .filter(|line| line.check == "binding");
    lines
        .map(|line| {
            let remediation = line.remediation.as_deref().unwrap_or_default();
            (line.level, line.detail.as_str(), remediation)
        })
        .collect()
}

#[tokio::test]
async fn binding_check_reports_requirements_when_enabled() {
    for binding in ["ask", "required"] {
        let app = with_binding(binding).await;
        let own = [("CORS_ALLOWED_ORIGINS", app.url.as_str())];
        let report = run_doctor(&app, &own, None).await;
        assert_eq!(failures(&report), [], "{report}");
        let needs = lines(&report);
        let [(Level::Ok, found, "")] = needs.as_slice() else {
            panic!("{report}");
        };
        assert!(found.starts_with(binding), "{found}");
        let callback = format!("{}/api/v1/connectors/callback", app.url);
        assert!(found.contains(&callback) && found.contains("same_browser: true"));
        let stops = report.findings.iter().find(|line| line.check == "callback");
        assert!(
            stops.unwrap().detail.contains("stops a browser"),
            "{report}"
        );
    }
    let off = TestApp::with_system_clock().await;
    assert_eq!(lines(&run_doctor(&off, &[], None).await), []);
    let disabled = [("CONNECT_BINDING", "ask"), ("NANGO_ENABLED", "false")];
    assert_eq!(lines(&run_doctor(&off, &disabled, None).await), []);
}

#[tokio::test]
async fn binding_check_detects_differently_configured_service() {
    for (service, check) in [
        ("off", "ask"),
        ("off", "required"),
        ("required", "ask"),
        ("ask", "required"),
    ] {
        let app = with_binding(service).await;
        let own = app.url.clone();
        let changes = [("CONNECT_BINDING", check), ("CORS_ALLOWED_ORIGINS", &own)];
        let report = run_doctor(&app, &changes, None).await;
        single_finding(
            &report,
            "callback",
            Level::Fail,
            "does not stop a browser",
            "the same CONNECT_BINDING",
        );
    }
    let app = with_binding("ask").await;
    let report = run_doctor(&app, &[("CONNECT_BINDING", "off")], None).await;
    single_finding(
        &report,
        "callback",
        Level::Warn,
        "does not redirect to",
        "NANGO_BASE_URL",
    );
}

/// `PUBLIC_URL`, the origin of a page, and the expected finding.
const PAGES: &[(&str, &str, Option<&str>)] = &[
    (
        "https://connect.example.invalid",
        "https://connect.example.invalid",
        None,
    ),
    (
        "https://connect.example.invalid",
        "https://connect.example.invalid:8443",
        None,
    ),
    (
        "https://connect.example.invalid",
        "https://example.invalid",
        None,
    ),
    (
        "https://example.invalid/patchbay",
        "https://app.example.invalid",
        None,
    ),
    ("http://localhost:9", "http://localhost:5173", None),
    ("http://[::1]:9", "http://[::1]:5173", None),
    (
        "https://connect.example.invalid",
        "https://app.example.invalid",
        Some("if example.invalid is a domain of your own"),
    ),
    (
        "https://a.b.example.invalid",
        "https://c.b.example.invalid",
        Some("if b.example.invalid is"),
    ),
    (
        "https://shop.co.invalid",
        "https://connect.co.invalid",
        Some("if co.invalid is a domain of your own"),
    ),
    (
        "https://connect-1.onrender.invalid",
        "https://app-1.onrender.invalid",
        Some("if onrender.invalid is"),
    ),
    (
        "https://connect.example.invalid",
        "https://app.sample.invalid",
        Some("is on another site"),
    ),
    (
        "https://connect.example.invalid",
        "https://badexample.invalid",
        Some("is on another site"),
    ),
    (
        "https://example.invalid",
        "https://invalid",
        Some("is on another site"),
    ),
    (
        "https://connect.example.invalid",
        "http://connect.example.invalid",
        Some("is on another site"),
    ),
    (
        "http://localhost:9",
        "http://app.localhost:5173",
        Some("is on another site"),
    ),
    (
        "http://localhost:9",
        "http://127.0.0.1:8000",
        Some("is on another site"),
    ),
    (
        "https://127.0.0.1:9",
        "https://127.0.0.2:9",
        Some("is on another site"),
    ),
];

#[tokio::test]
async fn binding_check_reports_cross_site_origins() {
    let app = TestApp::with_system_clock().await;
    for (public_url, page, expected) in PAGES {
        for (binding, worst) in [("ask", Level::Warn), ("required", Level::Fail)] {
            let changes = [
                ("CONNECT_BINDING", binding),
                ("PUBLIC_URL", public_url),
                ("CORS_ALLOWED_ORIGINS", page),
            ];
            let report = run_doctor(&app, &changes, None).await;
            let reported = lines(&report);
            let failures: Vec<_> = reported.iter().filter(|line| line.0 != Level::Ok).collect();
            match (expected, failures.as_slice()) {
                (None, []) => {}
                (Some(expected), [(level, found, remediation)]) => {
                    assert!(found.contains(*expected) && found.contains(page), "{found}");
                    let other = *expected == "is on another site";
                    assert_eq!(*level, if other { worst } else { Level::Warn }, "{found}");
                    assert!(remediation.contains(if other {
                        "CONNECT_BINDING=off"
                    } else {
                        "check it"
                    }));
                }
                _ => panic!("{page} and {public_url}: {reported:#?}"),
            }
        }
    }
}
