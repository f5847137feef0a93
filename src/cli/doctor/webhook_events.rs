//! Checks whether Nango's webhooks of new and deleted connections arrive.

use super::Report;
use crate::db::{Database, DatabaseConfig, WebhookActivity};

/// The page of the webhook settings in Nango's dashboard.
const SWITCHES: &str = "in Nango: Environment settings, Webhooks";

/// Compares recorded connects and disconnects with the arrival times of Nango's webhooks.
pub(crate) async fn check(report: &mut Report, config: &DatabaseConfig) {
    // Other checks report an unreachable database or missing tables.
    let Ok(database) = Database::connect(config).await else {
        return;
    };
    if let Ok(activity) = database.webhook_activity().await {
        creation(report, &activity);
        deletion(report, &activity);
    }
    database.close().await;
}

fn creation(report: &mut Report, activity: &WebhookActivity) {
    const CHECK: &str = "webhook events";
    let remediation = format!(
        "enable \"Send New Connection Creation Webhooks\" and \"Send Auth Refresh Error Webhooks\" ({SWITCHES}). In a \
         self-hosted Nango, both are off in the initial environments dev and prod"
    );
    match (activity.last_connect, activity.creation) {
        (None, None) => report.ok(
            CHECK,
            format!(
                "not known before the first connect. \"Send New Connection Creation Webhooks\" and \"Send Auth Refresh \
                 Error Webhooks\" must be enabled ({SWITCHES})"
            ),
        ),
        (Some(connect), None) => report.warn(
            CHECK,
            format!(
                "an account was connected at {}, but no webhook of a new connection has ever arrived: Nango's webhook events \
                 are off, or its webhooks do not reach this service. Connects are detected by polling, denials when the session \
                 expires",
                connect.format("%F %T")
            ),
            remediation,
        ),
        (Some(connect), Some(webhook)) if webhook + WebhookActivity::GRANULARITY < connect => {
            report.warn(
                CHECK,
                format!(
                    "an account was connected at {}, but the last webhook of a new connection arrived at {}: Nango's webhook \
                     events are off, or its webhooks no longer reach this service",
                    connect.format("%F %T"),
                    webhook.format("%F %T")
                ),
                remediation,
            );
        }
        (_, Some(webhook)) => report.ok(
            CHECK,
            format!(
                "the last webhook of a new connection arrived at {}",
                webhook.format("%F %T")
            ),
        ),
    }
}

/// Reports missing deletion webhooks. The level is never a warning, because the sweep also detects deletions, and Nango
/// before 0.72 has no such webhook.
fn deletion(report: &mut Report, activity: &WebhookActivity) {
    const CHECK: &str = "deletion events";
    let detail = match (activity.last_disconnect, activity.deletion) {
        (_, Some(webhook)) => format!(
            "the last webhook of a deletion arrived at {}",
            webhook.format("%F %T")
        ),
        (Some(_), None) => format!(
            "off: accounts were disconnected, but no webhook of a deletion has ever arrived. The next sweep detects deletions at \
             Nango. From Nango 0.72 on, the event \"Connection deleted\" reports them within a second ({SWITCHES})"
        ),
        (None, None) => format!(
            "not known before the first disconnect. From 0.72 on, Nango has the event \"Connection deleted\" ({SWITCHES})"
        ),
    };
    report.ok(CHECK, detail);
}
