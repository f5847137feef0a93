//! A slow Nango.

use futures::future::join_all;
use tokio::time::Instant;

use super::*;
use crate::eventually::eventually;

/// Starts and grants a connection without a webhook, at a Nango whose list has this latency.
async fn granted_unseen(app: &TestApp, ada: &User<'_>, latency: Duration) -> Value {
    app.faults(json!({ "consent": "allow", "drop_webhooks": true }))
        .await;
    let started = ada.connect("gmail").await;
    app.popup(text(&started, "oauth_url")).await;
    app.faults(json!({
        "drop_webhooks": true, "latency_ms": u64::try_from(latency.as_millis()).unwrap(),
        "only": "GET /connections",
    }))
    .await;
    started
}

#[tokio::test]
async fn slow_poll_connects_a_waiting_user() {
    let (app, _file) = app_with_accounts(&[]).await;
    let ada = app.user("ada").await;
    // Two calls: the list, and the connection with its account.
    let started = granted_unseen(&app, &ada, Duration::from_secs(5)).await;
    let path = format!("/connections/{}?wait=25", text(&started, "connection_id"));
    let waited = ada.get(&path).await;
    assert_eq!(waited["status"], "connected");
    // No second poll started while one was in progress.
    assert!(app.nango_calls("GET", "/connections").await <= 4);
}

#[tokio::test]
async fn slow_poll_is_applied_when_its_callers_have_gone() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let started = granted_unseen(&app, &ada, Duration::from_secs(4)).await;
    let id = text(&started, "connection_id");
    assert_eq!(ada.connection(id).await["status"], "pending");
    until_status(&app, id, "connected").await;
}

#[tokio::test]
async fn slow_poll_of_a_closed_stream_is_applied() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let started = granted_unseen(&app, &ada, Duration::from_secs(4)).await;
    let before = app.nango_calls("GET", "/connections").await;
    let stream = StreamReader::open(&ada, None).await;
    eventually(async || app.nango_calls("GET", "/connections").await > before).await;
    drop(stream);
    until_status(&app, text(&started, "connection_id"), "connected").await;
}

#[tokio::test]
async fn requests_end_within_30_seconds_when_every_call_hangs() {
    let (name, keys) = service_keys();
    let settings = [("NANGO_TIMEOUT_SECONDS", "10"), (name, keys.as_str())];
    let app = TestApp::with(&settings).await;
    let mut connected = Vec::new();
    for name in ["ada", "ben", "cy", "dee", "eve"] {
        let user = app.user(name).await;
        let gmail = user.connected("gmail").await;
        let expired = json!({ "connection_id": gmail["nango_connection_id"] });
        app.control("expire", Method::POST, expired).await;
        connected.push((user, gmail));
    }
    app.advance(TimeDelta::minutes(2));
    // Further checks of rejected connections compare their credentials.
    app.faults(json!({ "refuse_refresh": true, "drop_webhooks": true }))
        .await;
    let check = async |n: usize| {
        let (user, gmail) = &connected[n];
        let path = format!("/connections/{}/check", text(gmail, "id"));
        user.call(Method::POST, &path, None).await
    };
    check(1).await;
    sqlx::query("update user_connector_connection set refusals = array[now()]")
        .execute(&mut app.sql().await)
        .await
        .unwrap();
    app.advance(TimeDelta::minutes(2));
    let other = app.replica(&[]).await;
    app.faults(json!({
        "refuse_refresh": true, "drop_webhooks": true, "latency_ms": 9500,
    }))
    .await;
    // The other replica has not cached the integrations.
    let eve = connected[4].0.at(&other);
    let timed = async |request: futures::future::BoxFuture<'_, ()>| {
        let started = Instant::now();
        request.await;
        started.elapsed()
    };
    let took = join_all([
        timed(Box::pin(async {
            token(&app, &app.url, &connected[0].1).await;
        })),
        timed(Box::pin(async {
            check(1).await;
        })),
        timed(Box::pin(async {
            connected[2].0.disconnect("gmail", "").await;
        })),
        timed(Box::pin(async {
            let user = "dee".to_owned().try_into().unwrap();
            app.service().await.erasure.erase(&user).await.unwrap();
        })),
        timed(Box::pin(async {
            eve.call(Method::POST, "/github/connect", None).await;
        })),
    ])
    .await;
    let longest = took.iter().max().unwrap();
    assert!(*longest < Duration::from_secs(30), "{took:?}");
}
