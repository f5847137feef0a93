//! The sandbox's features without recordings: its provider, its faults, its own pages.

mod controls;
mod faults;
mod pages;
mod provider;
mod proxy;
mod webhooks;

use nango_sandbox::{Config, Integration};
use serde_json::Value;

use crate::nango_contract::scenario::Scenario;

/// Starts a sandbox with a changed configuration.
async fn configured(change: impl FnOnce(&mut Config)) -> Scenario {
    let named = |key: &str, auth_mode: &str| Integration {
        unique_key: key.to_owned(),
        provider: key.to_owned(),
        display_name: format!("The {key}"),
        auth_mode: auth_mode.to_owned(),
    };
    Scenario::without_integrations(&[], |config| {
        config.integrations = vec![
            named("github", "OAUTH2"),
            named("trello", "OAUTH1"),
            named("stripe", "API_KEY"),
            named("jira", "BASIC"),
        ];
        change(config);
    })
    .await
}

/// Returns the `code` of an error response.
fn code(body: &Value) -> &str {
    body["error"]["code"].as_str().unwrap_or_default()
}
