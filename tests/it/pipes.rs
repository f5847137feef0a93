//! What becomes of a command whose output nobody reads to its end, as in `patchbay keys list 2>&1 | head -1`.

use reqwest::StatusCode;

use crate::house::{House, client, free_port};
use crate::process::Process;

/// The code that a command ends with when its outputs are closed; 101 would be a panic's.
async fn unread(arguments: &[&str], settings: &[(&str, &str)]) -> Option<i32> {
    Process::start_unread(arguments, settings)
        .ended()
        .await
        .code()
}

fn borrowed<'a>(settings: &'a [(&'static str, String)]) -> Vec<(&'static str, &'a str)> {
    let pairs = settings.iter();
    pairs.map(|(name, value)| (*name, value.as_str())).collect()
}

#[tokio::test]
async fn a_command_that_nobody_reads_does_what_it_is_to_do() {
    let house = House::now().await;
    let settings = house.settings(&[("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8")]);
    let settings = borrowed(&settings);
    let nobody = format!("http://127.0.0.1:{}/hook", free_port());
    let mut added = Process::start(&["webhooks", "add", &nobody], &settings);
    assert!(added.ended().await.success(), "{}", added.said());
    let said = added.said();
    let endpoint = said.lines().next().unwrap();
    for (command, code) in [
        ("openapi", 0),
        ("migrate", 0),
        ("check", 0),
        ("check --json", 0),
        ("keys create reports --scope tokens:read", 0),
        ("keys list", 0),
        ("keys rotate reports", 0),
        ("keys revoke nobody", 1),
        ("webhooks list", 0),
        ("webhooks test", 1),
        ("webhooks disable", 0),
        ("webhooks enable", 0),
        ("webhooks rotate", 0),
        ("webhooks replay --since 2026-01-01", 0),
        ("webhooks deliveries", 0),
        ("webhooks remove", 0),
        ("--help", 0),
        ("no-such-command", 2),
    ] {
        let mut arguments: Vec<&str> = command.split(' ').collect();
        if arguments[0] == "webhooks" && arguments[1] != "list" {
            arguments.insert(2, endpoint);
        }
        assert_eq!(unread(&arguments, &settings).await, Some(code), "{command}");
    }
    let mut listed = Process::start(&["keys", "list"], &settings);
    assert!(listed.ended().await.success(), "{}", listed.said());
    assert_eq!(listed.said().matches("  reports  ").count(), 2);
    let broken = [("DATABASE_URL", "no address")];
    assert_eq!(unread(&["migrate"], &broken).await, Some(1));
    assert_eq!(unread(&["serve"], &broken).await, Some(1));
}

#[tokio::test]
async fn a_service_whose_log_nobody_reads_any_more_goes_on() {
    let house = House::now().await;
    let (port, endpoint) = (free_port().to_string(), "http://127.0.0.1:9");
    let mut settings = house.settings(&[("PORT", &port), ("SHUTDOWN_DELAY_SECONDS", "0")]);
    settings.push(("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.to_owned()));
    let url = format!("http://127.0.0.1:{port}");
    let mut service = Process::start_unread(&["serve"], &borrowed(&settings));
    service.until_ready_is(&url, StatusCode::OK).await;
    for _ in 0..3 {
        let answer = client()
            .get(format!("{url}/api/v1/connectors"))
            .send()
            .await;
        assert_eq!(answer.unwrap().status(), StatusCode::UNAUTHORIZED);
    }
    service.signal("TERM").await;
    assert!(service.ended().await.success());
}
