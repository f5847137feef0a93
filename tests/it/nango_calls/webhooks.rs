//! The number of calls that Nango's signed webhooks cause.

use futures::future::join_all;
use patchbay::nango::webhook;

use super::*;

const LIMIT: u32 = 200;

/// Returns a webhook about a failed refresh of a connection.
fn refresh_failure(nango_id: &str) -> webhook::Event {
    let body = json!({
        "type": "auth", "operation": "refresh", "success": false, "connectionId": nango_id,
        "providerConfigKey": "gmail", "provider": "google-mail", "authMode": "OAUTH2",
        "environment": "dev", "from": "nango", "tags": {},
        "error": { "type": "refresh_token_external_error", "description": "refused" },
    });
    webhook::parse(body.to_string().as_bytes()).unwrap()
}

#[tokio::test]
async fn outage_of_a_provider_leaves_the_calls_to_others() {
    let app = TestApp::build(&[], |nango| nango.rate_limit = LIMIT).await;
    let mut ids = Vec::new();
    for n in 0..30 {
        let gmail = app
            .user(&format!("user-{n}"))
            .await
            .connected("gmail")
            .await;
        ids.push(text(&gmail, "nango_connection_id").to_owned());
        if n % 10 == 9 {
            app.advance(TimeDelta::seconds(62));
        }
    }
    app.advance(TimeDelta::minutes(3));
    let faults = json!({ "refuse_refresh": true, "drop_webhooks": true, "consent": "allow" });
    app.faults(faults).await;
    let service = app.service().await;
    let before = calls(&app).await;
    // Each webhook is repeated, like by a Nango that received a 503.
    for _ in 0..10 {
        let events: Vec<_> = ids.iter().map(|id| refresh_failure(id)).collect();
        join_all(
            events
                .iter()
                .map(|event| service.nango_webhooks.handle(None, event)),
        )
        .await;
    }
    let spent = calls(&app).await - before;
    // One check, with three other connections of the connector for comparison.
    assert!((1..=5).contains(&spent), "{spent}");
    let ada = app.user("ada").await;
    let started = ada.connect("github").await;
    assert!(started["oauth_url"].is_string());
}

/// The number of users who connect at the same time.
const USERS: usize = 40;

/// Returns the number of calls to a Nango with this rate limit for the webhooks of all users, who are then connected.
async fn calls_for_webhooks(rate_limit: u32) -> usize {
    let app = TestApp::build(&[], |nango| nango.rate_limit = rate_limit).await;
    app.faults(json!({ "consent": "allow", "drop_webhooks": true }))
        .await;
    let mut started = Vec::new();
    for n in 0..USERS {
        let one = app.user(&format!("user-{n}")).await.connect("gmail").await;
        app.popup(text(&one, "oauth_url")).await;
        started.push(one);
    }
    let sent = app.control("webhooks", Method::GET, Value::Null).await;
    let events: Vec<webhook::Event> = (sent.as_array().unwrap().iter())
        .map(|hook| webhook::parse(hook["body"].to_string().as_bytes()).unwrap())
        .collect();
    assert_eq!(events.len(), USERS);
    let (service, before) = (app.service().await, calls(&app).await);
    // The first response contains the rate limit.
    let first = service.nango_webhooks.handle(None, &events[0]).await;
    first.unwrap();
    let handled = join_all(
        events[1..]
            .iter()
            .map(|event| service.nango_webhooks.handle(None, event)),
    )
    .await;
    assert!(handled.iter().all(Result::is_ok));
    let spent = calls(&app).await - before;
    for one in &started {
        assert_eq!(status(&app, text(one, "connection_id")).await, "connected");
    }
    spent
}

#[tokio::test]
async fn webhooks_of_many_grants_share_calls() {
    let spent = calls_for_webhooks(200).await;
    assert!(spent <= 6, "{spent}");
}

#[tokio::test]
async fn webhooks_are_confirmed_separately_within_a_great_limit() {
    assert_eq!(calls_for_webhooks(1_000_000).await, USERS);
}
