//! The doctor's checks of the public address, the allowed origins and webhooks.

use axum::Router;
use axum::routing::get;
use patchbay::cli::doctor::Level;
use patchbay::clock::Clock;

use super::{failures, run_doctor, single_finding};
use crate::test_app::TestApp;
use crate::test_server::serve;

#[tokio::test]
async fn public_url_check_reports_each_problem() {
    let app = TestApp::with_system_clock().await;
    let gone = "http://127.0.0.1:9";
    let report = run_doctor(&app, &[("PUBLIC_URL", gone)], None).await;
    single_finding(
        &report,
        "reachable",
        Level::Fail,
        "/healthz",
        "start the service",
    );
    let other = serve(Router::new().route("/healthz", get(async || "hello"))).await;
    let report = run_doctor(&app, &[("PUBLIC_URL", other.as_str())], None).await;
    single_finding(
        &report,
        "reachable",
        Level::Fail,
        "not as this service does",
        "correct PUBLIC_URL",
    );
    let deaf = serve(Router::new().route("/healthz", get(async || "ok\n"))).await;
    let report = run_doctor(&app, &[("PUBLIC_URL", deaf.as_str())], None).await;
    let all = failures(&report);
    let reported: Vec<_> = all.iter().map(|it| (it.0, it.1)).collect();
    assert_eq!(
        reported,
        [
            ("cors", Level::Fail),
            ("webhooks", Level::Fail),
            ("callback", Level::Warn)
        ]
    );

    let changes = [("PUBLIC_URL", "http://connect.invalid")];
    let report = run_doctor(&app, &changes, None).await;
    let (check, level, found, remediation) = failures(&report)[0];
    assert_eq!((check, level), ("public url", Level::Fail));
    assert!(found.contains("not https") && remediation.contains("certificate"));
    // A Nango on another machine cannot reach this machine's loopback address.
    let changes = [("NANGO_BASE_URL", "http://nango.invalid")];
    let report = run_doctor(&app, &changes, None).await;
    let all = failures(&report);
    let local = all.iter().find(|line| line.0 == "public url").unwrap();
    assert!(local.2.contains("which Nango cannot reach"), "{local:?}");
}

#[tokio::test]
async fn webhook_address_check_reports_each_problem() {
    let app = TestApp::with_system_clock().await;
    let gone = ("NANGO_WEBHOOK_BASE_URL", "http://127.0.0.1:9");
    let report = run_doctor(&app, &[gone], None).await;
    single_finding(
        &report,
        "webhooks",
        Level::Fail,
        "http://127.0.0.1:9/api/v1/webhooks/nango/",
        "correct NANGO_WEBHOOK_BASE_URL",
    );
    // Webhooks then have another address than PUBLIC_URL, which may be local although Nango is not.
    let changes = [
        ("NANGO_BASE_URL", "http://nango.invalid"),
        ("NANGO_WEBHOOK_BASE_URL", "http://patchbay.invalid"),
    ];
    let report = run_doctor(&app, &changes, None).await;
    let all = failures(&report);
    assert!(all.iter().all(|line| line.0 != "public url"), "{all:?}");
}

#[tokio::test]
async fn origin_check_reports_each_problem() {
    let app = TestApp::with_system_clock().await;
    let report = run_doctor(&app, &[("CORS_ALLOWED_ORIGINS", "")], None).await;
    single_finding(
        &report,
        "cors",
        Level::Warn,
        "no origin",
        "CORS_ALLOWED_ORIGINS",
    );
    let open = [(
        "CORS_ALLOWED_ORIGINS",
        "http://localhost:5173, http://app.example.com",
    )];
    let report = run_doctor(&app, &open, None).await;
    let other = failures(&report);
    assert_eq!((other[1].0, other[1].1), ("cors", Level::Fail), "{report}");
    assert!(
        other[1]
            .2
            .contains("does not let pages of http://localhost:5173 call")
    );
    let app = TestApp::build(&open, |nango| nango.clock = Clock::System).await;
    let report = run_doctor(&app, &[], None).await;
    single_finding(
        &report,
        "cors",
        Level::Warn,
        "http://app.example.com is not https",
        "https",
    );
}

#[tokio::test]
async fn webhook_check_detects_wrong_signing_key() {
    let app = TestApp::with_system_clock().await;
    let report = run_doctor(
        &app,
        &[("NANGO_WEBHOOK_SIGNING_KEY", "another signing key")],
        None,
    )
    .await;
    single_finding(
        &report,
        "webhooks",
        Level::Fail,
        "rejects webhooks signed",
        "the same NANGO_WEBHOOK_SIGNING_KEY",
    );
    let same = app.secret_key.clone();
    let report = run_doctor(&app, &[("NANGO_WEBHOOK_SIGNING_KEY", &same)], None).await;
    let all = failures(&report);
    assert_eq!((all[0].0, all[0].1), ("webhook key", Level::Warn));
    assert!(all[0].3.contains("Environment settings, Webhooks"));
    // The running service has another signing key.
    assert_eq!((all[1].0, all[1].1), ("webhooks", Level::Fail));
}

#[tokio::test]
async fn shared_secret_and_signing_key_is_a_warning() {
    let key = "f0e1d2c3-b4a5-4697-8877-665544332211";
    let settings = [
        ("NANGO_SECRET_KEY", key),
        ("NANGO_WEBHOOK_SIGNING_KEY", key),
    ];
    let app = TestApp::build(&settings, |nango| {
        nango.clock = Clock::System;
        nango.secret_key = key.into();
        nango.webhook_signing_key = key.into();
    })
    .await;
    let report = run_doctor(&app, &[], None).await;
    single_finding(
        &report,
        "webhook key",
        Level::Warn,
        "is the secret key",
        "rotate the signing key",
    );
    let webhooks = report.findings.iter().find(|one| one.check == "webhooks");
    assert_eq!(webhooks.unwrap().level, Level::Ok);
}
