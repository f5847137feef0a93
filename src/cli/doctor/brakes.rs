//! Reports engaged brakes with their reasons, and orphans at Nango.

use super::Report;
use crate::clock::Clock;
use crate::config::Config;
use crate::db::Database;
use crate::domain::Brake;
use crate::nango::Nango;
use crate::service::brakes::Brakes;

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
        for one in &engaged {
            let remediation = match one.brake {
                Brake::Database => {
                    "if the database was restored or moved: `patchbay brake release database`. If it is a copy: add --copy"
                }
                Brake::Nango => {
                    "correct NANGO_SECRET_KEY. If the environment is right: `patchbay brake release nango`"
                }
                _ => {
                    "find the cause (docs/OPERATIONS.md). If the changes are correct: `patchbay brake release`"
                }
            };
            report.fail(
                "brakes",
                format!("{}: {}", one.brake, one.reason),
                remediation,
            );
        }
        if engaged.is_empty() {
            report.ok("brakes", "no brake is engaged");
        }
    }
    if let Ok(orphans) = brakes.orphans().await {
        if orphans > 0 {
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
    database.close().await;
}
