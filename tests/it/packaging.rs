//! What it is deployed with.

use std::collections::BTreeSet;
use std::process::Command;

use patchbay::config::Config;
use reqwest::StatusCode;

use crate::house::{House, free_port};
use crate::process::Process;

/// The names that stand in capitals before a colon, or after `key:`.
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
fn what_the_blueprint_and_the_compose_file_set_is_read() {
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
async fn a_container_is_healthy_while_the_process_runs() {
    let mut house = House::new().await;
    let port = house.url.rsplit(':').next().unwrap().to_owned();
    let mut healthy = Process::start(&["health"], &[("PORT", &port)]);
    assert!(healthy.ended().await.success(), "{}", healthy.said());
    let mut healthy = Process::start(&["health"], &[("PORT", &port), ("HOST", "0.0.0.0")]);
    assert!(healthy.ended().await.success(), "{}", healthy.said());
    house.stop().await.unwrap();
    let mut dead = Process::start(&["health"], &[("PORT", &port)]);
    assert_eq!(dead.ended().await.code(), Some(1));
    assert!(dead.said().contains("does not answer"), "{}", dead.said());
    let mut other = Process::start(&["health"], &[("HOST", "no address")]);
    assert!(!other.ended().await.success());
    assert!(
        other.said().contains("HOST cannot be read"),
        "{}",
        other.said()
    );
}

/// While it waits for its database, the process is alive and not ready.
#[tokio::test]
async fn a_container_that_waits_for_its_database_is_healthy() {
    let (port, nobody) = (free_port().to_string(), free_port());
    let database = format!("postgres://nobody@127.0.0.1:{nobody}/nothing");
    let settings = [
        ("PORT", &*port),
        ("HOST", "127.0.0.1"),
        ("PUBLIC_URL", "http://localhost"),
        ("DATABASE_URL", &*database),
        ("NANGO_ENABLED", "false"),
        ("AUTH_JWT_SECRET", crate::house::JWT_SECRET),
    ];
    let mut process = Process::start(&["serve"], &settings);
    let url = format!("http://127.0.0.1:{port}");
    process
        .until_ready_is(&url, StatusCode::SERVICE_UNAVAILABLE)
        .await;
    let asked = Command::new(env!("CARGO_BIN_EXE_patchbay"))
        .arg("health")
        .env("PORT", &port)
        .status();
    assert!(asked.unwrap().success());
}
