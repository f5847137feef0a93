//! Checks that the secrets in the database are encrypted and can be decrypted.

use super::Report;
use crate::clock::Clock;
use crate::config::Config;
use crate::db::Database;
use crate::webhooks::{SecretsAtRest, Webhooks};

/// The remediation that creates a key.
const NEW_KEY: &str =
    "set ENCRYPTION_KEY to the output of `openssl rand -base64 32`, for each replica";

pub(crate) async fn check(report: &mut Report, config: &Config, clock: &Clock) {
    // Other checks report an unreachable database, missing tables and missing privileges.
    let found = secrets(config, clock).await;
    let is_known = found.is_some();
    let found = found.unwrap_or_default();
    let (plain, of_another_key) = (found.plain, found.of_another_key);
    if let Some((endpoint, error)) = found.unreadable.first() {
        report.fail(
            "encryption",
            format!("the secret of the webhook endpoint {endpoint} cannot be read: {error}"),
            "add the key to ENCRYPTION_KEY as the second one, or create a new secret with `patchbay webhooks rotate`",
        );
    } else if !config.encryption.is_enabled() {
        report.warn(
            "encryption",
            format!(
                "secrets in the database are not encrypted: those of {plain} webhook endpoints, and the authorization links in stored responses"
            ),
            NEW_KEY,
        );
    } else if plain + of_another_key > 0 {
        report.warn(
            "encryption",
            format!(
                "{plain} secrets of webhook endpoints are not encrypted, and {of_another_key} are encrypted with the second key"
            ),
            "no action required: the service encrypts them with the first key within a minute of its start",
        );
    } else if is_known {
        report.ok("encryption", "secrets in the database are encrypted");
    } else {
        report.ok(
            "encryption",
            "new secrets are encrypted. The stored ones could not be read",
        );
    }
}

async fn secrets(config: &Config, clock: &Clock) -> Option<SecretsAtRest> {
    let database = Database::connect(&config.database).await.ok()?;
    let (networks, encryption) = (&config.webhook_networks, config.encryption.clone());
    let webhooks = Webhooks::new(database.clone(), clock.clone(), networks, encryption).ok()?;
    let found = webhooks.secrets_at_rest().await.ok();
    database.close().await;
    found
}
