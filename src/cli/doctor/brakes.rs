//! Checks the brakes, and reports why they are engaged.

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
    // Before the first start there is no schema, and no brake.
    if let Ok(engaged) = brakes.engaged().await {
        for one in &engaged {
            let remediation = match one.brake {
                Brake::Database => {
                    "restored or moved: `patchbay brake release database`; a copy: add --copy"
                }
                Brake::Nango => {
                    "correct NANGO_SECRET_KEY; if the environment is right: `patchbay brake release nango`"
                }
                _ => {
                    "find out what happened (docs/OPERATIONS.md); if it is correct: `patchbay brake release`"
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
                "`patchbay orphans list` shows them, `restore` brings them back, `delete` deletes them at Nango",
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
