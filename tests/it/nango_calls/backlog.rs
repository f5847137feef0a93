//! Backlogs: abandoned attempts, and the deletions at Nango of an erased user.

use patchbay::clock::Clock;
use tokio::time::Instant;

use super::*;
use crate::eventually::eventually_value;
use crate::test_app::Replica;

#[tokio::test]
async fn abandoned_attempts_expire_with_few_calls() {
    const ATTEMPTS: usize = 60;
    let app = TestApp::new().await;
    app.faults(json!({ "consent": "allow", "drop_webhooks": true }))
        .await;
    let mut ids = Vec::new();
    for n in 0..ATTEMPTS {
        let started = app.user(&format!("user-{n}")).await.connect("gmail").await;
        if n == 7 {
            app.popup(text(&started, "oauth_url")).await;
        }
        ids.push(text(&started, "connection_id").to_owned());
    }
    app.advance(TimeDelta::minutes(31));
    let before = calls(&app).await;
    let expired = app.service().await.expiry.run().await.unwrap();
    assert_eq!(expired, ATTEMPTS - 1);
    assert!(calls(&app).await - before <= 2);
    for (n, id) in ids.iter().enumerate() {
        let expected = if n == 7 { "connected" } else { "error" };
        assert_eq!(status(&app, id).await, expected, "{n}");
    }
}

#[tokio::test]
async fn grants_dated_before_their_attempts_are_found_on_later_pages() {
    const ATTEMPTS: usize = 5;
    let app = TestApp::new().await;
    let ahead = Clock::manual(app.clock.now() + TimeDelta::minutes(2));
    let other = Replica::start(&app.settings(&[("PORT", "0")]), ahead).await;
    app.faults(json!({ "consent": "allow", "drop_webhooks": true, "list_page_size": 1 }))
        .await;
    for n in 0..ATTEMPTS {
        let user = app.user(&format!("user-{n}")).await;
        let started = user.at(&other).connect("gmail").await;
        if n < 2 {
            app.popup(text(&started, "oauth_url")).await;
        }
    }
    app.advance(TimeDelta::minutes(40));
    let expired = app.service().await.expiry.run().await.unwrap();
    assert_eq!(expired, ATTEMPTS - 2);
}

#[tokio::test]
async fn ended_attempts_of_a_full_batch_do_not_delay_others() {
    let app = TestApp::new().await;
    app.user("ada").await.connect("gmail").await;
    let ended = "insert into attempt_owner (attempt_id, due_at, kept_until) \
         select gen_random_uuid(), timestamptz '2000-01-01', timestamptz '2000-01-01' from generate_series(1, 500)";
    sqlx::query(ended)
        .execute(&mut app.sql().await)
        .await
        .unwrap();
    app.advance(TimeDelta::minutes(31));
    assert_eq!(app.service().await.expiry.run().await.unwrap(), 1);
}

#[tokio::test]
async fn abandoned_reconnects_expire_one_by_one() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let gmail = ada.connected("gmail").await;
    app.advance(TimeDelta::minutes(10));
    let path = format!("/connections/{}/reconnect", text(&gmail, "id"));
    let (_, started) = ada.call(Method::POST, &path, None).await;
    app.faults(json!({ "consent": "allow", "drop_webhooks": true }))
        .await;
    app.popup(text(&started, "oauth_url")).await;
    app.advance(TimeDelta::minutes(31));
    assert_eq!(app.service().await.expiry.run().await.unwrap(), 0);
    let after = app.user("ada").await.connection(text(&gmail, "id")).await;
    assert_eq!(after["attempt"]["outcome"], "succeeded");
}

/// Connects this many instances of Gmail.
async fn connect_many(app: &TestApp, count: usize) {
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "allow" })).await;
    for n in 0..count {
        let path = format!("/gmail/connect?instance_id={n}");
        let (_, started) = ada.call(Method::POST, &path, None).await;
        app.popup(text(&started, "oauth_url")).await;
        until_status(app, text(&started, "connection_id"), "connected").await;
        app.advance(TimeDelta::seconds(5));
    }
}

#[tokio::test]
async fn erasure_of_many_connections_runs_in_parallel() {
    const CONNECTIONS: usize = 40;
    let app = TestApp::new().await;
    connect_many(&app, CONNECTIONS).await;
    app.faults(json!({ "latency_ms": 4000, "only": "DELETE" }))
        .await;
    let (service, user) = (app.service().await, "ada".to_owned().try_into().unwrap());
    let in_progress = async || {
        let calls = app.control("requests", Method::GET, Value::Null).await;
        let calls = calls.as_array().unwrap().iter();
        let is_open = |call: &&Value| call["method"] == "DELETE" && call["status"].is_null();
        calls.filter(is_open).count()
    };
    let parallel = eventually_value(in_progress, |count| *count >= 4);
    let (erased, _) = tokio::join!(service.erasure.erase(&user), parallel);
    let erased = erased.unwrap();
    app.faults(json!({})).await;
    assert_eq!(erased.connections, CONNECTIONS);
    assert_eq!(erased.upstream_deleted, erased.upstream_pending == 0);
    app.wait_for_nango_connections(&[]).await;
}

#[tokio::test]
async fn erasure_beyond_the_rate_limit_is_answered_at_once() {
    const CONNECTIONS: usize = 60;
    let app = TestApp::build(&[], |nango| nango.rate_limit = 100).await;
    connect_many(&app, CONNECTIONS).await;
    app.advance(TimeDelta::seconds(62));
    let (service, user) = (app.service().await, "ada".to_owned().try_into().unwrap());
    let started = Instant::now();
    let erased = service.erasure.erase(&user).await.unwrap();
    assert!(
        started.elapsed() < Duration::from_secs(15),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(
        (erased.connections, erased.upstream_deleted),
        (CONNECTIONS, false)
    );
    assert!(erased.upstream_pending > 0, "{erased:?}");
    let rows: i64 = sqlx::query_scalar("select count(*) from user_connector_connection")
        .fetch_one(&mut app.sql().await)
        .await
        .unwrap();
    assert_eq!(rows, 0);
    // The service's own worker claims deletions as well, so some may still be running after a round.
    let waiting = async || -> Vec<(i32, Option<String>)> {
        app.advance(TimeDelta::seconds(62));
        while service.deletions.delete_due().await.unwrap() > 0 {}
        sqlx::query_as("select attempts, last_error from upstream_deletion")
            .fetch_all(&mut app.sql().await)
            .await
            .unwrap()
    };
    eventually_value(waiting, Vec::is_empty).await;
    app.advance(TimeDelta::seconds(62));
    app.wait_for_nango_connections(&[]).await;
}
