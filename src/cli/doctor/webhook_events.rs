//! Checks which of Nango's webhooks have arrived, and which are disabled.

use super::Report;
use crate::db::{Database, DatabaseConfig, WebhookActivity};

/// The page of the webhook settings in Nango's dashboard.
const SWITCHES: &str = "in Nango: Environment settings, Webhooks";

/// Compares recorded changes with the webhooks that should have reported them.
pub(crate) async fn check(report: &mut Report, config: &DatabaseConfig) {
    // If the database does not answer or has no tables yet, its own checks report it.
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
        "switch on \"Send New Connection Creation Webhooks\" and \"Send Auth Refresh Error Webhooks\" ({SWITCHES}). A \
         self-hosted Nango has both off in the environments dev and prod that it starts with"
    );
    match (activity.last_connect, activity.creation) {
        (None, None) => report.ok(
            CHECK,
            format!(
                "not known before the first connect: \"Send New Connection Creation Webhooks\" and \"Send Auth Refresh \
                 Error Webhooks\" have to be on ({SWITCHES})"
            ),
        ),
        (Some(connect), None) => report.warn(
            CHECK,
            format!(
                "an account was connected at {}, but no webhook of a new connection has ever arrived: Nango's webhook events \
                 are off, or its webhooks do not reach this service. Connects are found by polling, denials when the session \
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
                     events are off, or its webhooks do not reach this service any more",
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

/// Reports missing deletion webhooks. This is no warning: the sweep also finds deletions, and Nango before 0.72 has no
/// such webhook.
fn deletion(report: &mut Report, activity: &WebhookActivity) {
    const CHECK: &str = "deletion events";
    let detail = match (activity.last_disconnect, activity.deletion) {
        (_, Some(webhook)) => format!(
            "the last webhook of a deletion arrived at {}",
            webhook.format("%F %T")
        ),
        (Some(_), None) => format!(
            "off: accounts were disconnected, and no webhook of a deletion has ever arrived. Deletions at Nango show after the \
             next sweep; from 0.72 on, the event \"Connection deleted\" makes them show within a second ({SWITCHES})"
        ),
        (None, None) => format!(
            "not known before the first disconnect: from 0.72 on, Nango has the event \"Connection deleted\" ({SWITCHES})"
        ),
    };
    report.ok(CHECK, detail);
}
