//! Checks that a connect session can be created and deleted.

use std::collections::HashMap;

use url::Url;
use uuid::Uuid;

use super::{Report, url_below};
use crate::catalog::{Availability, Catalog};
use crate::nango::{Error, IntegrationDefaults, Nango, Session, SessionRequest};

/// Creates a session with its own webhook URL, like `serve`, and deletes it. `configured` maps the keys of Nango's
/// integrations to their providers.
pub(crate) async fn check(
    report: &mut Report,
    nango: &Nango,
    webhook_base_url: &Url,
    catalog: &Catalog,
    configured: &HashMap<&str, &str>,
) {
    let is_offered = |key: &str| {
        let mut connectors = catalog.iter();
        connectors
            .any(|one| one.integration_key == key && one.availability() == Availability::Available)
    };
    // The check of the connectors reports that no connector has an integration.
    let Some(integration) = configured.keys().copied().find(|key| is_offered(key)) else {
        return;
    };
    let probe = Uuid::now_v7();
    let address = url_below(webhook_base_url, &format!("/api/v1/webhooks/nango/{probe}"));
    let mut request = SessionRequest {
        reconnects: None,
        integration: integration.to_owned(),
        tags: [("patchbay_doctor".to_owned(), probe.to_string())].into(),
        webhook_url_override: address.parse().ok(),
        defaults: IntegrationDefaults::default(),
    };
    match nango.session(&request).await {
        Ok(session) => {
            report.ok(
                "nango session",
                "Nango creates a session with its own webhook URL",
            );
            delete(report, nango, &session).await;
        }
        Err(error) if error.is_refusal() => {
            request.webhook_url_override = None;
            match nango.session(&request).await {
                Ok(session) => {
                    refused_address(report, webhook_base_url, &error);
                    delete(report, nango, &session).await;
                }
                Err(error) => fail(report, integration, &error),
            }
        }
        Err(error) => fail(report, integration, &error),
    }
}

fn refused_address(report: &mut Report, webhook_base_url: &Url, error: &Error) {
    let remediation = if error.to_string().contains("not allowed") {
        "set PUBLIC_URL or NANGO_WEBHOOK_BASE_URL to a public address, or let a self-hosted Nango call private ones \
         (NANGO_OUTBOUND_URL_POLICY={\"blockPrivateIps\":false}; loopback addresses are always rejected)"
    } else {
        "update Nango to a version that supports webhook_url_override"
    };
    report.warn(
        "nango session",
        format!(
            "Nango rejects the session's webhook URL below {webhook_base_url}: {error}. Authorizations are detected by polling, \
             denials when the session expires"
        ),
        remediation,
    );
}

fn fail(report: &mut Report, integration: &str, error: &Error) {
    if matches!(error, Error::Unauthorized { .. }) {
        // The check of the scopes has reported this error.
        return;
    }
    let remediation = "check the integration in Nango, and Nango's log of the request";
    report.fail(
        "nango session",
        format!("Nango cannot create a session for the integration {integration:?}: {error}"),
        remediation,
    );
}

async fn delete(report: &mut Report, nango: &Nango, session: &Session) {
    if let Err(error) = nango.delete_session(session).await {
        report.warn(
            "nango session",
            format!("the session of this check could not be deleted: {error}"),
            "no action required: it expires in 30 minutes and connects nothing",
        );
    }
}
