//! The doctor's checks of Nango: whether it responds, the permissions of its key, and its integrations.

use patchbay::cli::doctor::{Level, Report};
use patchbay::clock::Clock;
use serde_json::json;
use uuid::Uuid;

use super::{failures, run_doctor, single_finding};
use crate::eventually::eventually;
use crate::test_app::{TestApp, User};

#[tokio::test]
async fn nango_check_reports_each_problem() {
    let app = TestApp::with_system_clock().await;
    let report = run_doctor(&app, &[("NANGO_ENABLED", "false")], None).await;
    single_finding(
        &report,
        "nango",
        Level::Warn,
        "disabled",
        "NANGO_ENABLED=true",
    );
    let another = Uuid::new_v4().to_string();
    let report = run_doctor(&app, &[("NANGO_SECRET_KEY", &another)], None).await;
    single_finding(
        &report,
        "nango key",
        Level::Fail,
        "unknown_account",
        "NANGO_SECRET_KEY",
    );
    let nowhere = "http://127.0.0.1:9";
    let changes = [("NANGO_BASE_URL", nowhere), ("NANGO_PUBLIC_URL", nowhere)];
    let report = run_doctor(&app, &changes, None).await;
    let all = failures(&report);
    assert_eq!((all[0].0, all[0].1), ("nango", Level::Fail));
    assert!(all[0].3.contains("NANGO_BASE_URL"));
    // The running service redirects callbacks to its own Nango.
    assert_eq!((all[1].0, all[1].1), ("callback", Level::Warn));
    assert_eq!(all.len(), 2);

    for (call, found) in [
        ("GET /integrations", "forbidden"),
        ("POST /connect/sessions?", "may not create connect sessions"),
        ("/sessions/reconnect", "may not create reconnect sessions"),
        ("DELETE /connections", "may not delete connections"),
        ("GET /connections?limit", "may not list connections"),
        ("force_refresh", "may not read connections' credentials"),
        ("/proxy/", "may not call providers through the proxy"),
    ] {
        app.faults(json!({ "only": call, "status": 403 })).await;
        let report = run_doctor(&app, &[], None).await;
        single_finding(&report, "nango scopes", Level::Fail, found, "the scope to");
    }
    app.faults(json!({ "only": "DELETE /connections", "status": 500 }))
        .await;
    let report = run_doctor(&app, &[], None).await;
    single_finding(
        &report,
        "nango scopes",
        Level::Warn,
        "it is unknown whether",
        "again",
    );
}

#[tokio::test]
async fn connector_check_reports_missing_and_wrong_integrations() {
    let app = TestApp::build(&[], |nango| {
        nango.clock = Clock::System;
        let missing = ["gmail", "notion"];
        nango
            .integrations
            .retain(|one| !missing.contains(&one.unique_key.as_str()));
        for one in &mut nango.integrations {
            if one.unique_key == "github" {
                "gitlab".clone_into(&mut one.provider);
            }
        }
    })
    .await;
    let report = run_doctor(&app, &[], None).await;
    let all = failures(&report);
    assert_eq!(all.len(), 2, "{all:#?}");
    let (check, level, found, _) = all[0];
    assert_eq!((check, level), ("connector", Level::Fail));
    assert!(found.starts_with("github: "), "{found}");
    assert!(found.contains("of the provider \"gitlab\""), "{found}");
    let (check, level, found, remediation) = all[1];
    assert_eq!((check, level), ("connector", Level::Warn));
    assert!(found.contains("no integration for 2 of "), "{found}");
    assert!(found.ends_with("not configured: gmail, notion"), "{found}");
    assert!(remediation.contains("disable the others"), "{remediation}");

    let bare = TestApp::build(&[], |nango| {
        nango.clock = Clock::System;
        nango.integrations.clear();
    })
    .await;
    let report = run_doctor(&bare, &[], None).await;
    let all = failures(&report);
    let last = all.last().unwrap();
    assert_eq!((last.0, last.1), ("connectors", Level::Fail));
}

#[tokio::test]
async fn session_check_reports_refused_webhook_address() {
    let app = TestApp::with_system_clock().await;
    let session = "POST /connect/sessions";
    for (fault, found, remediation) in [
        (
            "refuse_private_webhook_urls",
            "not allowed",
            "NANGO_OUTBOUND_URL_POLICY",
        ),
        (
            "refuse_webhook_url_override",
            "rejects the session's webhook URL",
            "update Nango",
        ),
    ] {
        app.faults(json!({ fault: true })).await;
        let report = run_doctor(&app, &[], None).await;
        single_finding(&report, "nango session", Level::Warn, found, remediation);
    }
    app.faults(json!({ "only": session, "status": 500 })).await;
    let report = run_doctor(&app, &[], None).await;
    let all = failures(&report);
    let last = all.last().unwrap();
    assert_eq!((last.0, last.1), ("nango session", Level::Fail), "{report}");
}

#[tokio::test]
async fn switched_off_webhook_events_are_reported() {
    let app = TestApp::with_system_clock().await;
    let ada: User<'_> = app.user("ada").await;
    let off = json!({ "consent": "allow", "webhook_events_off": true });
    let events = |report: &Report, check: &str| {
        let found = report.findings.iter().find(|one| one.check == check);
        found.unwrap().clone()
    };
    let report = run_doctor(&app, &[], None).await;
    let unknown = events(&report, "webhook events");
    assert_eq!(unknown.level, Level::Ok);
    assert!(unknown.detail.starts_with("not known"), "{unknown:?}");

    app.faults(off).await;
    let started = ada.connect("gmail").await;
    app.popup(started["oauth_url"].as_str().unwrap()).await;
    let id = started["connection_id"].as_str().unwrap();
    ada.get(&format!("/connections/{id}?wait=10")).await;
    let report = run_doctor(&app, &[], None).await;
    single_finding(
        &report,
        "webhook events",
        Level::Warn,
        "no webhook of a new connection has ever arrived",
        "Send New Connection Creation Webhooks",
    );

    ada.connected("notion").await;
    let arrived = async || {
        let report = run_doctor(&app, &[], None).await;
        events(&report, "webhook events").level == Level::Ok
    };
    eventually(arrived).await;
    ada.disconnect("notion", "").await;
    let deletion = events(&run_doctor(&app, &[], None).await, "deletion events");
    assert!(deletion.detail.starts_with("off"), "{deletion:?}");
    app.faults(json!({ "consent": "allow", "deletion_webhooks": true }))
        .await;
    ada.connected("github").await;
    app.faults(json!({ "deletion_webhooks": true })).await;
    ada.disconnect("github", "").await;
    let arrived = async || {
        let report = run_doctor(&app, &[], None).await;
        let deletion = events(&report, "deletion events");
        deletion.detail.starts_with("the last webhook")
    };
    eventually(arrived).await;

    // The connectors have been disabled since.
    let mut sql = app.sql().await;
    sqlx::raw_sql("update nango_webhook set received_at = received_at - interval '1 day'")
        .execute(&mut sql)
        .await
        .unwrap();
    let report = run_doctor(&app, &[], None).await;
    single_finding(
        &report,
        "webhook events",
        Level::Warn,
        "the last webhook of a new connection arrived at",
        "Send New Connection Creation Webhooks",
    );
}
