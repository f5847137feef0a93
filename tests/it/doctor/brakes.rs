//! The doctor's checks of the brakes and of orphans.

use patchbay::cli::doctor::{Finding, Level, Report};

use super::run_doctor;
use crate::test_app::TestApp;

/// Returns the only finding of a check.
fn finding<'a>(report: &'a Report, check: &str) -> &'a Finding {
    let mut found = report.findings.iter().filter(|one| one.check == check);
    let one = found.next().unwrap();
    assert_eq!(found.next(), None, "{report}");
    one
}

#[tokio::test]
async fn doctor_does_not_know_orphans_while_sweeps_stop() {
    let app = TestApp::with_system_clock().await;
    let report = run_doctor(&app, &[], None).await;
    assert_eq!(finding(&report, "orphans").level, Level::Ok);
    // As after a restore.
    sqlx::query("update installation set database_oid = 1, orphans = 0")
        .execute(&mut app.sql().await)
        .await
        .unwrap();
    let report = run_doctor(&app, &[], None).await;
    let orphans = finding(&report, "orphans");
    assert_eq!(orphans.level, Level::Warn);
    let expected = "not known: the brake database stops the sweeps";
    assert!(orphans.detail.starts_with(expected), "{report}");
    let remediation = orphans.remediation.as_deref().unwrap();
    assert!(remediation.contains("patchbay orphans list"), "{report}");
    let brake = finding(&report, "brakes").remediation.as_deref();
    assert!(!brake.unwrap().contains("PUBLIC_URL"), "{report}");
}

#[tokio::test]
async fn changed_public_url_can_be_released_or_corrected() {
    let app = TestApp::with_system_clock().await;
    let changed = [("PUBLIC_URL", "http://localhost:9")];
    let report = run_doctor(&app, &changed, None).await;
    let brake = finding(&report, "brakes");
    assert!(brake.detail.contains("PUBLIC_URL was"), "{report}");
    let remediation = brake.remediation.as_deref().unwrap();
    for way in ["brake release database", "--copy", "Or correct PUBLIC_URL"] {
        assert!(remediation.contains(way), "{report}");
    }
}
