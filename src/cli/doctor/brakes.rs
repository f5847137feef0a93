//! Reports engaged brakes with their reasons, and orphans at Nango.

use super::Report;
use crate::clock::Clock;
use crate::config::Config;
use crate::db::Database;
use crate::domain::Brake;
use crate::nango::Nango;
use crate::service::brakes::{Brakes, EngagedBrake};

pub(crate) async fn check(report: &mut Report, config: &Config, clock: &Clock) {
    // Other checks report that the database or Nango is unreachable.
    let Ok(database) = Database::connect(&config.database).await else {
        return;
    };
    let nango = config.nango.as_ref();
    let nango = nango.and_then(|nango| Nango::new(nango.client.clone()).ok());
    let public_url = config.http.public_url.clone();
    let brakes = Brakes::new(database.clone(), nango, public_url, clock.clone());
    let _ = brakes.probe().await;
    // Before the first start, neither the schema nor a brake exists.
    if let Ok(engaged) = brakes.engaged().await {
        report_engaged(report, &engaged);
        if let Ok(orphans) = brakes.orphans().await {
            report_orphans(report, &engaged, orphans);
        }
    }
    database.close().await;
}

fn report_engaged(report: &mut Report, engaged: &[EngagedBrake]) {
    for one in engaged {
        report.fail(
            "brakes",
            format!("{}: {}", one.brake, one.reason),
            remediation(one),
        );
    }
    report.ok("brakes", "no brake is engaged");
}

fn remediation(engaged: &EngagedBrake) -> &'static str {
    match engaged.brake {
        Brake::Database if engaged.reason.contains("PUBLIC_URL") => {
            "if PUBLIC_URL was changed, or the database restored or moved: `patchbay brake release database`. If it is a copy: \
             add --copy. Or correct PUBLIC_URL"
        }
        Brake::Database => {
            "if the database was restored or moved: `patchbay brake release database`. If it is a copy: add --copy"
        }
        Brake::Nango => {
            "correct NANGO_SECRET_KEY. If the environment is right: `patchbay brake release nango`"
        }
        _ => {
            "find the cause (docs/OPERATIONS.md). If the changes are correct: `patchbay brake release`"
        }
    }
}

/// Reports the orphans that the last sweep counted. While a brake stops the sweeps, their number is not known.
fn report_orphans(report: &mut Report, engaged: &[EngagedBrake], orphans: i64) {
    let stops_sweeps = |one: &&EngagedBrake| matches!(one.brake, Brake::Database | Brake::Nango);
    if let Some(engaged) = engaged.iter().find(stops_sweeps) {
        report.warn(
            "orphans",
            format!(
                "not known: the brake {} stops the sweeps, which count them. The last sweep found {orphans}",
                engaged.brake
            ),
            "`patchbay orphans list` shows them",
        );
    } else if orphans > 0 {
        report.warn(
            "orphans",
            format!("{orphans} connections of this installation at Nango belong to no row"),
            "`patchbay orphans list` shows them, `restore` restores them, `delete` deletes them at Nango",
        );
    } else {
        report.ok(
            "orphans",
            "every connection of this installation at Nango belongs to a row",
        );
    }
}
