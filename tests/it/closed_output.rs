//! Commands whose output is closed early, as in `patchbay keys list 2>&1 | head -1`.

use reqwest::StatusCode;

use crate::process::Process;
use crate::test_app::{TestApp, client, free_port};

/// Returns the exit code of a command whose outputs are closed; 101 would mean a panic.
async fn spawn_unread(arguments: &[&str], settings: &[(&str, &str)]) -> Option<i32> {
    Process::start_with_closed_output(arguments, settings)
        .ended()
        .await
        .code()
}

fn args_of<'a>(settings: &'a [(&'static str, String)]) -> Vec<(&'static str, &'a str)> {
    let pairs = settings.iter();
    pairs.map(|(name, value)| (*name, value.as_str())).collect()
}

#[tokio::test]
async fn commands_complete_when_output_is_closed() {
    let app = TestApp::with_system_clock().await;
    let settings = app.settings(&[("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8")]);
    let settings = args_of(&settings);
    let closed_url = format!("http://127.0.0.1:{}/hook", free_port());
    let mut added = Process::start(&["webhooks", "add", &closed_url], &settings);
    assert!(added.ended().await.success(), "{}", added.output());
    let text = added.output();
    let endpoint = text.lines().next().unwrap();
    for (command, code) in [
        ("openapi", 0),
        ("migrate", 0),
        ("doctor", 0),
        ("doctor --json", 0),
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
        assert_eq!(
            spawn_unread(&arguments, &settings).await,
            Some(code),
            "{command}"
        );
    }
    let mut listed = Process::start(&["keys", "list"], &settings);
    assert!(listed.ended().await.success(), "{}", listed.output());
    assert_eq!(listed.output().matches("  reports  ").count(), 2);
    let broken = [("DATABASE_URL", "no address")];
    assert_eq!(spawn_unread(&["migrate"], &broken).await, Some(1));
    assert_eq!(spawn_unread(&["serve"], &broken).await, Some(1));
}

#[tokio::test]
async fn service_keeps_running_when_log_output_is_closed() {
    let app = TestApp::with_system_clock().await;
    let (port, endpoint) = (free_port().to_string(), "http://127.0.0.1:9");
    let mut settings = app.settings(&[("PORT", &port), ("SHUTDOWN_DELAY_SECONDS", "0")]);
    settings.push(("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.to_owned()));
    let url = format!("http://127.0.0.1:{port}");
    let mut service = Process::start_with_closed_output(&["serve"], &args_of(&settings));
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
