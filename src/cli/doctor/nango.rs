//! Checks Nango: whether it responds, the permissions of its key, and which connectors can be connected.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::Method;
use reqwest::header::HeaderMap;

use super::database::MAX_CLOCK_SKEW_SECONDS;
use super::{Report, accounts, session};
use crate::catalog::{Availability, Catalog};
use crate::clock::Clock;
use crate::config::Config;
use crate::nango::proxy::ProxyCall;
use crate::nango::{
    Error, IntegrationDefaults, ListConnections, Nango, NangoConfig, Refresh, SessionRequest,
};
use crate::net::http_client;

/// An id that does not exist at Nango. Requests with it find and change nothing.
const NONEXISTENT_ID: &str = "patchbay-doctor-nobody";

/// The page of keys in Nango's dashboard.
const KEYS_PAGE: &str = "in Nango: Environment settings, API keys";

pub(crate) async fn check(report: &mut Report, config: &Config, catalog: &Catalog, clock: &Clock) {
    let Some(config) = &config.nango else {
        report.warn(
            "nango",
            "Nango is disabled: no account can be connected",
            "set NANGO_ENABLED=true",
        );
        return;
    };
    let nango = match Nango::new(config.client.clone()) {
        Ok(nango) => nango,
        Err(error) => {
            let remediation = "correct NANGO_BASE_URL or NANGO_SECRET_KEY";
            report.fail("nango", error.to_string(), remediation);
            return;
        }
    };
    let integrations = match nango.integrations().await {
        Ok(integrations) => integrations,
        Err(error @ Error::Unauthorized { status: 401, .. }) => {
            let remediation = format!(
                "copy the secret key of the right environment to NANGO_SECRET_KEY ({KEYS_PAGE})"
            );
            report.fail("nango key", error.to_string(), remediation);
            return;
        }
        Err(error @ Error::Unauthorized { .. }) => {
            report.fail(
                "nango scopes",
                error.to_string(),
                scope_remediation("list integrations"),
            );
            return;
        }
        Err(error) => {
            let remediation = "start Nango, or set NANGO_BASE_URL to the URL of Nango's API";
            report.fail("nango", error.to_string(), remediation);
            return;
        }
    };
    report.ok("nango", format!("{} responds", config.client.base_url));
    report.ok("nango key", "Nango accepts NANGO_SECRET_KEY");
    scopes(report, &nango).await;
    let configured: HashMap<&str, &str> = integrations
        .iter()
        .map(|one| (one.unique_key.as_str(), one.provider.as_str()))
        .collect();
    connectors(report, catalog, &configured);
    session::check(
        report,
        &nango,
        &config.webhook_base_url,
        catalog,
        &configured,
    )
    .await;
    accounts::check_scopes(report, &nango, catalog, &integrations).await;
    time(report, config, clock).await;
}

fn scope_remediation(what: &str) -> String {
    format!(
        "grant NANGO_SECRET_KEY the scope to {what}, or use a key with all scopes ({KEYS_PAGE})"
    )
}

/// Tests each required permission of the key with a request for a nonexistent id. Returns the errors by permission.
async fn probe_permissions(nango: &Nango) -> [(&'static str, Option<Error>); 5] {
    let session = SessionRequest {
        reconnects: None,
        integration: NONEXISTENT_ID.to_owned(),
        tags: [("patchbay_doctor".to_owned(), NONEXISTENT_ID.to_owned())].into(),
        webhook_url_override: None,
        defaults: IntegrationDefaults::default(),
    };
    let reconnect = SessionRequest {
        reconnects: Some(NONEXISTENT_ID.to_owned()),
        ..session.clone()
    };
    [
        (
            "create connect sessions",
            nango.session(&session).await.err(),
        ),
        (
            "create reconnect sessions",
            nango.session(&reconnect).await.err(),
        ),
        (
            "delete connections",
            nango
                .delete_connection(NONEXISTENT_ID, NONEXISTENT_ID)
                .await
                .err(),
        ),
        (
            "read connections' credentials",
            // Nango refuses a forced refresh without the permission before it looks for the connection.
            nango
                .connection(NONEXISTENT_ID, NONEXISTENT_ID, Refresh::Force)
                .await
                .err(),
        ),
        (
            "call providers through the proxy (environment:proxy)",
            proxy_error(nango).await,
        ),
    ]
}

/// Returns the error of a proxied call to a nonexistent integration, which reveals a missing scope of the key.
async fn proxy_error(nango: &Nango) -> Option<Error> {
    let call = ProxyCall::new(Method::GET, (NONEXISTENT_ID, None), &HeaderMap::new());
    let call = call.expect("a plain segment is a safe path");
    nango
        .proxy(NONEXISTENT_ID, NONEXISTENT_ID, call)
        .await
        .err()
}

async fn scopes(report: &mut Report, nango: &Nango) {
    let first = ListConnections {
        limit: Some(1),
        ..ListConnections::default()
    };
    let list_error = nango.connections(&first).await.err();
    let before = report.findings.len();
    let probes = probe_permissions(nango).await;
    for (what, error) in probes.into_iter().chain([("list connections", list_error)]) {
        match error {
            Some(Error::Unauthorized { detail, .. }) => report.fail(
                "nango scopes",
                format!("the key may not {what}: {detail}"),
                scope_remediation(what),
            ),
            Some(error) if error.is_transient() => report.warn(
                "nango scopes",
                format!("it is unknown whether the key may {what}: {error}"),
                "run the command again",
            ),
            _ => {}
        }
    }
    if report.findings.len() == before {
        report.ok(
            "nango scopes",
            "the key may list, connect, reconnect, delete and call the proxy",
        );
    }
}

/// Compares each enabled connector with Nango's integration of its key.
fn connectors(report: &mut Report, catalog: &Catalog, integrations: &HashMap<&str, &str>) {
    let mut offered = 0;
    let mut configured = 0;
    let mut missing: Vec<String> = Vec::new();
    for connector in catalog.iter() {
        if connector.availability() != Availability::Available {
            continue;
        }
        offered += 1;
        let (slug, key) = (&connector.slug, &connector.integration_key);
        let wanted = connector.provider.as_deref().unwrap_or_default();
        match integrations.get(key.as_str()) {
            Some(provider) if *provider == wanted => configured += 1,
            Some(provider) => report.fail(
                "connector",
                format!("{slug}: Nango's integration {key:?} is of the provider {provider:?}, not {wanted:?}"),
                format!("recreate {key:?} in Nango with {wanted:?}, or name another integration_key in CATALOG_FILE"),
            ),
            None if key == slug => missing.push(slug.clone()),
            None => missing.push(format!("{slug} ({key})")),
        }
    }
    // Reported as one finding, because an operator usually offers only some of Patchbay's connectors.
    if !missing.is_empty() {
        let (count, names) = (missing.len(), missing.join(", "));
        report.warn(
            "connector",
            format!("Nango has no integration for {count} of {offered} connectors, which users see as not configured: {names}"),
            "in Nango, add an integration for each connector that you offer. Its provider is in GET /api/v1/connectors. Its key is the slug, or the key in parentheses. In CATALOG_FILE, disable the others (enabled = false)",
        );
    }
    let found = format!("{configured} connectors have an integration at Nango");
    if configured > 0 {
        report.ok("connectors", found);
    } else {
        report.fail(
            "connectors",
            found,
            "add integrations in Nango, each with its connector's slug as key, or correct NANGO_SECRET_KEY if the environment is wrong",
        );
    }
}

/// Compares this machine's clock with the `Date` header of a response from Nango.
async fn time(report: &mut Report, config: &NangoConfig, clock: &Clock) {
    let Ok(client) = http_client::client(config.client.timeout) else {
        return;
    };
    let sent_at = clock.now();
    let Ok(response) = client.get(config.client.base_url.clone()).send().await else {
        return;
    };
    let date = response
        .headers()
        .get("date")
        .and_then(|at| at.to_str().ok());
    let date = date.and_then(|at| DateTime::parse_from_rfc2822(at).ok());
    let Some(date) = date.map(DateTime::<Utc>::from) else {
        return;
    };
    // The header has whole seconds. The tolerance includes the duration of the request.
    let skew = (date - sent_at + TimeDelta::milliseconds(500)).num_seconds();
    if skew.abs() > MAX_CLOCK_SKEW_SECONDS + config.client.timeout.as_secs().cast_signed() {
        report.warn(
            "nango clock",
            format!("Nango's clock differs by {skew} s from this machine's"),
            "synchronize this machine's clock with NTP. Nango's timestamps decide which grant is the newest",
        );
    } else {
        report.ok("nango clock", "Nango's clock agrees with this machine's");
    }
}
