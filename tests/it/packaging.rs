//! The files for deployment.

use std::collections::BTreeSet;
use std::process::Command;

use patchbay::config::Config;
use reqwest::StatusCode;

use crate::process::Process;
use crate::test_app::{TestApp, free_port};

/// Returns the names in capitals before a colon, or after `key:`.
fn names(text: &str) -> BTreeSet<&str> {
    text.lines()
        .filter_map(|line| {
            let line = line.trim();
            match line.strip_prefix("- key: ") {
                Some(key) => Some(key),
                None => line.split_once(": ").map(|(key, _)| key),
            }
        })
        .filter(|key| {
            key.bytes()
                .all(|byte| byte.is_ascii_uppercase() || byte == b'_')
        })
        .collect()
}

#[test]
fn blueprint_and_compose_set_known_variables() {
    let known: BTreeSet<&str> = Config::variables().into_iter().collect();
    let blueprint = names(include_str!("../../render.yaml"));
    let unknown: Vec<_> = blueprint.difference(&known).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    let needed = [
        "DATABASE_URL",
        "NANGO_SECRET_KEY",
        "NANGO_WEBHOOK_SIGNING_KEY",
        "AUTH_JWT_SECRET",
    ];
    for name in needed {
        assert!(blueprint.contains(name), "{name}");
    }
    let (_, compose) = include_str!("../../compose.yaml")
        .split_once("  patchbay:\n")
        .unwrap();
    let (service, _) = compose.split_once("\n  postgres:\n").unwrap();
    let unknown: Vec<_> = names(service).difference(&known).copied().collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[tokio::test]
async fn health_command_reports_running_process() {
    let mut app = TestApp::new().await;
    let port = app.url.rsplit(':').next().unwrap().to_owned();
    let mut healthy = Process::start(&["health"], &[("PORT", &port)]);
    assert!(healthy.ended().await.success(), "{}", healthy.output());
    let mut healthy = Process::start(&["health"], &[("PORT", &port), ("HOST", "0.0.0.0")]);
    assert!(healthy.ended().await.success(), "{}", healthy.output());
    app.stop().await.unwrap();
    let mut failing = Process::start(&["health"], &[("PORT", &port)]);
    assert_eq!(failing.ended().await.code(), Some(1));
    assert!(
        failing.output().contains("does not respond"),
        "{}",
        failing.output()
    );
    let mut other = Process::start(&["health"], &[("HOST", "no address")]);
    assert!(!other.ended().await.success());
    assert!(
        other.output().contains("HOST must be an IP address"),
        "{}",
        other.output()
    );
}

/// While the service waits for its database, it is alive and not ready.
#[tokio::test]
async fn health_command_succeeds_while_waiting_for_database() {
    let (port, unused_port) = (free_port().to_string(), free_port());
    let database = format!("postgres://nobody@127.0.0.1:{unused_port}/nothing");
    let settings = [
        ("PORT", &*port),
        ("HOST", "127.0.0.1"),
        ("PUBLIC_URL", "http://localhost"),
        ("DATABASE_URL", &*database),
        ("NANGO_ENABLED", "false"),
        ("AUTH_JWT_SECRET", crate::test_app::JWT_SECRET),
    ];
    let mut process = Process::start(&["serve"], &settings);
    let url = format!("http://127.0.0.1:{port}");
    process
        .until_ready_is(&url, StatusCode::SERVICE_UNAVAILABLE)
        .await;
    let health_check = Command::new(env!("CARGO_BIN_EXE_patchbay"))
        .arg("health")
        .env("PORT", &port)
        .status();
    assert!(health_check.unwrap().success());
}
