//! Checks that integrations request the scopes of account lookups, and reports connections whose account is unknown.

use super::Report;
use crate::catalog::{Catalog, ConfiguredIntegration};
use crate::db::{self, Database, DatabaseConfig};
use crate::nango::{Integration, Nango};

/// The maximum number of integrations whose scopes are read. Each read counts toward Nango's rate limit.
const MAX_INTEGRATIONS: usize = 100;

/// Compares the scopes of each configured integration with those that the lookup of its accounts requires.
pub(crate) async fn check_scopes(
    report: &mut Report,
    nango: &Nango,
    catalog: &Catalog,
    integrations: &[Integration],
) {
    let configured: Vec<ConfiguredIntegration> = integrations
        .iter()
        .map(|integration| ConfiguredIntegration {
            key: integration.unique_key.clone(),
            provider: integration.provider.clone(),
            display_name: integration.display_name.clone(),
        })
        .collect();
    let catalog = catalog.with_integrations(&configured);
    let keys: Vec<&str> = configured.iter().map(|it| it.key.as_str()).collect();
    let mut identified = 0;
    let mut checked = 0;
    let offered = catalog
        .iter()
        .filter(|it| it.enabled && keys.contains(&&*it.integration_key));
    for connector in offered {
        let Some(rule) = connector
            .account_rule()
            .filter(|rule| rule.identifies_account())
        else {
            continue;
        };
        identified += 1;
        if rule.scopes.is_empty() || checked >= MAX_INTEGRATIONS {
            continue;
        }
        checked += 1;
        // An integration without configured scopes requests the provider's defaults.
        let requested = match nango.integration_scopes(&connector.integration_key).await {
            Ok(Some(requested)) if !requested.is_empty() => requested,
            _ => continue,
        };
        let missing = rule.scopes_not_in(&requested);
        if !missing.is_empty() {
            let missing = missing.join(", ").replace('|', " or ");
            report.warn(
                "accounts",
                format!("{}: the lookup of the account needs scopes that the integration does not request: {missing}", connector.slug),
                format!("add {missing} to the scopes of the integration {:?} in Nango", connector.integration_key),
            );
        }
    }
    report.ok(
        "accounts",
        format!("{identified} configured connectors identify their account"),
    );
}

/// Reports connections whose account is unknown, by connector and reason.
pub(crate) async fn check_connections(report: &mut Report, config: &DatabaseConfig) {
    let unknown = async {
        let database = Database::connect(config).await.ok()?;
        let unknown = db::unknown_accounts(&database).await.ok()?;
        database.close().await;
        Some(unknown)
    };
    // A database that cannot be read is reported by its own check.
    for (connector, reason, count) in unknown.await.unwrap_or_default() {
        if reason == "not_offered" {
            continue;
        }
        let connections = match count {
            1 => "1 connection".to_owned(),
            count => format!("{count} connections"),
        };
        report.warn(
            "accounts",
            format!("{connector}: the account of {connections} is not known ({reason})"),
            "docs/OPERATIONS.md explains the reasons. A reconnect repeats the lookup",
        );
    }
}
