//! What has to be so for browsers to be told apart.

use patchbay::cli::doctor::{Level, Report};
use patchbay::clock::Clock;

use super::{checked, only, wrong};
use crate::house::{House, Setup};

async fn bound(binding: &'static str) -> House {
    let change = |setup: &mut Setup| setup.clock = Clock::System;
    House::build(&[("CONNECT_BINDING", binding)], change).await
}

/// What is said of it: how bad it is, what was found, and what to do.
fn lines(report: &Report) -> Vec<(Level, &str, &str)> {
    let lines = report.lines.iter().filter(|line| line.check == "binding");
    lines
        .map(|line| {
            let mend = line.mend.as_deref().unwrap_or_default();
            (line.level, line.found.as_str(), mend)
        })
        .collect()
}

#[tokio::test]
async fn what_it_needs_is_said_where_it_is_asked_for() {
    for binding in ["ask", "required"] {
        let house = bound(binding).await;
        let own = [("CORS_ALLOWED_ORIGINS", house.url.as_str())];
        let report = checked(&house, &own, None).await;
        assert_eq!(wrong(&report), [], "{report}");
        let needs = lines(&report);
        let [(Level::Ok, found, "")] = needs.as_slice() else {
            panic!("{report}");
        };
        assert!(found.starts_with(binding), "{found}");
        let callback = format!("{}/api/v1/connectors/callback", house.url);
        assert!(found.contains(&callback) && found.contains("same_browser: true"));
        let stops = report.lines.iter().find(|line| line.check == "callback");
        assert!(stops.unwrap().found.contains("stops a browser"), "{report}");
    }
    let off = House::now().await;
    assert_eq!(lines(&checked(&off, &[], None).await), []);
    let disabled = [("CONNECT_BINDING", "ask"), ("NANGO_ENABLED", "false")];
    assert_eq!(lines(&checked(&off, &disabled, None).await), []);
}

#[tokio::test]
async fn a_service_that_is_set_up_otherwise_is_told() {
    for (service, check) in [
        ("off", "ask"),
        ("off", "required"),
        ("required", "ask"),
        ("ask", "required"),
    ] {
        let house = bound(service).await;
        let own = house.url.clone();
        let changes = [("CONNECT_BINDING", check), ("CORS_ALLOWED_ORIGINS", &own)];
        let report = checked(&house, &changes, None).await;
        only(
            &report,
            "callback",
            Level::Fail,
            "does not stop a browser",
            "the same CONNECT_BINDING",
        );
    }
    let house = bound("ask").await;
    let report = checked(&house, &[("CONNECT_BINDING", "off")], None).await;
    only(
        &report,
        "callback",
        Level::Warn,
        "does not lead to",
        "NANGO_BASE_URL",
    );
}

/// `PUBLIC_URL`, the origin of a page, and what is said of the two.
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
        Some("is of another site"),
    ),
    (
        "https://connect.example.invalid",
        "https://badexample.invalid",
        Some("is of another site"),
    ),
    (
        "https://example.invalid",
        "https://invalid",
        Some("is of another site"),
    ),
    (
        "https://connect.example.invalid",
        "http://connect.example.invalid",
        Some("is of another site"),
    ),
    (
        "http://localhost:9",
        "http://app.localhost:5173",
        Some("is of another site"),
    ),
    (
        "http://localhost:9",
        "http://127.0.0.1:8000",
        Some("is of another site"),
    ),
    (
        "https://127.0.0.1:9",
        "https://127.0.0.2:9",
        Some("is of another site"),
    ),
];

#[tokio::test]
async fn a_page_of_another_site_is_told() {
    let house = House::now().await;
    for (public_url, page, expected) in PAGES {
        for (binding, worst) in [("ask", Level::Warn), ("required", Level::Fail)] {
            let changes = [
                ("CONNECT_BINDING", binding),
                ("PUBLIC_URL", public_url),
                ("CORS_ALLOWED_ORIGINS", page),
            ];
            let report = checked(&house, &changes, None).await;
            let told = lines(&report);
            let wrong: Vec<_> = told.iter().filter(|line| line.0 != Level::Ok).collect();
            match (expected, wrong.as_slice()) {
                (None, []) => {}
                (Some(expected), [(level, found, mend)]) => {
                    assert!(found.contains(*expected) && found.contains(page), "{found}");
                    let other = *expected == "is of another site";
                    assert_eq!(*level, if other { worst } else { Level::Warn }, "{found}");
                    assert!(mend.contains(if other {
                        "CONNECT_BINDING=off"
                    } else {
                        "look at it"
                    }));
                }
                _ => panic!("{page} and {public_url}: {told:#?}"),
            }
        }
    }
}
