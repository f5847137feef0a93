//! Webhooks to the product: every message is delivered eventually, in order per connection.

mod address_guard;
mod delivery;
mod endpoints;
mod examples;
pub(crate) mod receiver;

use chrono::TimeDelta;
use patchbay::clock::Clock;
use patchbay::db::Database;
use patchbay::domain::MessageType;

use patchbay::webhooks::{Endpoint, Webhooks};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use url::Url;

use crate::eventually::eventually;
use crate::test_app::{Setup, TestApp, User, read};
use receiver::Receiver;

const ALLOWED: [(&str, &str); 1] = [("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8")];

/// Starts a test app that may send webhooks to this machine, with the system's clock until it is advanced.
pub(crate) async fn app() -> TestApp {
    TestApp::build(&ALLOWED, with_system_clock).await
}

fn with_system_clock(setup: &mut Setup) {
    setup.clock = Clock::manual(Clock::System.now());
}

/// Returns the endpoints of the same database, like the command opens them.
pub(crate) async fn webhooks(app: &TestApp) -> Webhooks {
    let config = read(&app.settings(&[]));
    let database = Database::connect(&config.database).await.unwrap();
    Webhooks::new(
        database,
        app.clock.clone(),
        &config.webhook_networks,
        config.encryption,
    )
    .unwrap()
}

/// Adds an endpoint, whose messages the receiver verifies from now on.
pub(crate) async fn add(
    webhooks: &Webhooks,
    receiver: &Receiver,
    events: &[MessageType],
) -> String {
    let (id, secret) = webhooks.add(&receiver.url(), events, false).await.unwrap();
    receiver.verify_with(&secret);
    id
}

async fn only(webhooks: &Webhooks) -> Endpoint {
    let mut all = webhooks.list().await.unwrap();
    assert_eq!(all.len(), 1);
    all.remove(0)
}

/// Advances the clock in steps until a condition holds.
async fn advance_until(app: &TestApp, step: TimeDelta, mut holds: impl AsyncFnMut() -> bool) {
    eventually(async || {
        let is_over = holds().await;
        if !is_over {
            app.advance(step);
        }
        is_over
    })
    .await;
}

/// Disconnects a user's connection.
async fn end_attempt(user: &User<'_>, connector: &str) {
    let (status, ended) = user.disconnect(connector, "").await;
    assert_eq!(status, 200, "{ended}");
}

/// Starts an attempt that the user denies. Returns the connection's id.
async fn deny(user: &User<'_>, connector: &str) -> String {
    user.app.faults(json!({ "consent": "deny" })).await;
    let started = user.connect(connector).await;
    let popup = started["oauth_url"].as_str().unwrap();
    user.app.popup(popup).await;
    let id = started["connection_id"].as_str().unwrap().to_owned();
    user.wait_until(&id, "error").await;
    id
}

fn text(secret: &SecretString) -> &str {
    secret.expose_secret()
}

fn address(text: &str) -> Url {
    text.parse().unwrap()
}
