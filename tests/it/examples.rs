//! The examples, run like their readers would.

use std::path::PathBuf;
use std::process::Stdio;

use chrono::TimeDelta;
use reqwest::Method;
use serde_json::json;
use tokio::process::Command;

use crate::test_app::TestApp;

const KEY: &str = "pbk_example_0123456789abcdef0123456789abcdef";

/// Returns the commands of the examples in Rust and Python.
async fn examples() -> [Vec<String>; 2] {
    let root = env!("CARGO_MANIFEST_DIR");
    let this: PathBuf = std::env::current_exe().unwrap();
    let folder = this.ancestors().nth(2).unwrap();
    // `cargo test` has built it already, unless it ran only some test targets.
    let building = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--example", "workflow", "--target-dir"])
        .arg(folder.parent().unwrap())
        .current_dir(root)
        // `scripts/repeat` sets it for the test program. Cargo would build everything again.
        .env_remove("RUSTC_BOOTSTRAP")
        .status();
    assert!(building.await.unwrap().success());
    let built = folder.join("examples/workflow");
    let python = format!("{root}/examples/workflow.py");
    [
        vec![built.to_str().unwrap().to_owned()],
        vec!["python3".to_owned(), python],
    ]
}

/// Runs an example with additional settings. Returns its exit code and output.
async fn run(
    app: &TestApp,
    example: &[String],
    settings: &[(&str, &str)],
) -> (Option<i32>, String) {
    let mut command = Command::new(&example[0]);
    command
        .args(&example[1..])
        .env("PATCHBAY_URL", &app.url)
        .env("PATCHBAY_KEY", KEY)
        .env("PATCHBAY_USER", "ada")
        .env(
            "PROVIDER_API",
            format!("http://{}/provider/userinfo", app.sandbox.address()),
        )
        .envs(settings.iter().copied())
        .stdin(Stdio::null());
    let output = command.output().await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

/// Runs both examples. Asserts the exit code and the output of each.
async fn run_both(app: &TestApp, settings: &[(&str, &str)], code: i32, says: &[&str]) {
    for example in examples().await {
        let (ended, output) = run(app, &example, settings).await;
        assert_eq!(ended, Some(code), "{output}");
        assert!(!output.contains("Traceback"), "{output}");
        assert!(says.iter().all(|part| output.contains(part)), "{output}");
    }
}

#[tokio::test]
async fn workflow_example_uses_token_and_reports_dead_connection() {
    let app = TestApp::with(&[("SERVICE_API_KEYS", &format!("example={KEY}"))]).await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    run_both(&app, &[], 2, &["ada has not connected gmail"]).await;

    let first = ada.connected("gmail").await;
    bob.connected("gmail").await;
    run_both(&app, &[], 0, &["gmail answers ada", "Ada Lovelace"]).await;

    let (_, started) = ada
        .call(Method::POST, "/gmail/connect?instance_id=second", None)
        .await;
    app.popup(started["oauth_url"].as_str().unwrap()).await;
    ada.wait_until(started["connection_id"].as_str().unwrap(), "connected")
        .await;
    run_both(&app, &[], 2, &["several accounts"]).await;
    let second = [("ACCOUNT", "second")];
    run_both(&app, &second, 0, &["gmail answers ada"]).await;

    // The provider revokes the token early: the workflow reports it and gets another.
    let named = json!({ "connection_id": first["nango_connection_id"] });
    app.control("expire", Method::POST, named.clone()).await;
    ada.disconnect("gmail", "?instance_id=second").await;
    run_both(&app, &[], 0, &["gmail answers ada"]).await;

    app.control("revoke", Method::POST, named).await;
    let path = format!("/connections/{}/check", first["id"].as_str().unwrap());
    for _ in 0..2 {
        ada.call(Method::POST, &path, None).await;
        app.advance(TimeDelta::minutes(3));
    }
    let (_, dead) = ada.call(Method::POST, &path, None).await;
    assert_eq!(dead["status_reason"], "needs_reauthorization");
    run_both(&app, &[], 2, &["needs_reauthorization", "/reconnect"]).await;
}

#[tokio::test]
async fn workflow_example_distinguishes_transient_errors() {
    let app = TestApp::with(&[("SERVICE_API_KEYS", &format!("example={KEY}"))]).await;
    app.user("ada").await.connected("gmail").await;
    let missing_user = [(
        "PATCHBAY_KEY",
        "pbk_nobody_0123456789abcdef0123456789abcdef",
    )];
    run_both(&app, &missing_user, 78, &["unauthenticated"]).await;
    let replica = app.replica(&[("NANGO_ENABLED", "false")]).await;
    let off = [("PATCHBAY_URL", &*replica.url)];
    run_both(&app, &off, 78, &["nango_disabled"]).await;
    // An id that a header must encode.
    let odd = [("PATCHBAY_USER", "adèle, 100%")];
    run_both(&app, &odd, 2, &["adèle, 100% has not connected gmail"]).await;
    let nowhere = [("PATCHBAY_URL", "http://127.0.0.1:9")];
    run_both(&app, &nowhere, 75, &["127.0.0.1:9"]).await;
}
