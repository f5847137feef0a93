//! The effect of a check on others: their credentials are refreshed to distinguish a revoked grant from a failing
//! provider.

use chrono::{SecondsFormat, TimeDelta};
use futures::future::join_all;
use patchbay::nango::webhook;
use patchbay::service::WebhookOutcome;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{check, text};
use crate::eventually::eventually;
use crate::test_app::{TestApp, User};

/// Returns Nango's ids of the connections in forced refreshes, one per refresh.
pub(super) async fn force_check(app: &TestApp) -> Vec<String> {
    let calls = app.control("requests", Method::GET, Value::Null).await;
    let calls = calls.as_array().unwrap().iter();
    let forced = calls.filter(|call| text(call, "query").contains("force_refresh=true"));
    forced
        .filter_map(|call| text(call, "path").strip_prefix("/connections/"))
        .map(str::to_owned)
        .collect()
}

/// Creates users who connected Gmail some time ago. Returns them with their connections.
async fn with_gmail<'a>(app: &'a TestApp, names: &[String]) -> Vec<(User<'a>, Value)> {
    let mut connected = Vec::new();
    for name in names {
        let user = app.user(name).await;
        let gmail = user.connected("gmail").await;
        connected.push((user, gmail));
    }
    app.advance(TimeDelta::minutes(2));
    connected
}

#[tokio::test]
async fn dead_grant_check_does_not_refresh_siblings_again() {
    let app = TestApp::new().await;
    let users = with_gmail(&app, &["mallory".to_owned(), "bob".to_owned()]).await;
    let [(mallory, hers), (_, his)] = users.as_slice() else {
        panic!("there are two");
    };
    let revoked = json!({ "connection_id": hers["nango_connection_id"] });
    app.control("revoke", Method::POST, revoked).await;
    let id = text(hers, "id");
    for (time, reason) in [
        (1, Value::Null),
        (2, Value::Null),
        (3, json!("needs_reauthorization")),
        (3, json!("needs_reauthorization")),
    ] {
        for _ in 0..6 {
            let dead = check(mallory, id).await;
            assert_eq!(dead["status_reason"], reason);
            assert_eq!(dead["health"], "refused");
        }
        let bobs = text(his, "nango_connection_id");
        let forced = force_check(&app).await;
        assert_eq!(forced.iter().filter(|id| *id == bobs).count(), time);
        app.advance(TimeDelta::minutes(3));
    }
}

#[tokio::test]
async fn failed_refresh_checks_few_siblings_during_outage() {
    let app = TestApp::new().await;
    let names: Vec<String> = (0..12).map(|n| format!("user-{n}")).collect();
    let users = with_gmail(&app, &names).await;
    app.faults(json!({ "refuse_refresh": true })).await;
    let first = text(&users[0].1, "nango_connection_id");
    let path = format!("/connections/{first}?provider_config_key=gmail&force_refresh=true");
    let (status, _) = app.nango(Method::GET, &path).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    // A webhook is answered after all the calls that it causes.
    eventually(async || {
        let hooks = app.control("webhooks", Method::GET, Value::Null).await;
        let mut hooks = hooks.as_array().unwrap().iter();
        hooks.all(|hook| {
            hook["attempts"]
                .as_array()
                .is_some_and(|tries| !tries.is_empty())
        })
    })
    .await;
    let calls = force_check(&app).await.len() - 1;
    assert!((1..=4).contains(&calls), "{calls}");
}

#[tokio::test]
async fn concurrent_checks_share_siblings_during_outage() {
    let app = TestApp::new().await;
    let names: Vec<String> = (0..12).map(|n| format!("user-{n}")).collect();
    let users = with_gmail(&app, &names).await;
    let faults = json!({ "refuse_refresh": true, "drop_webhooks": true });
    app.faults(faults).await;
    let checks = users
        .iter()
        .map(|(user, gmail)| check(user, text(gmail, "id")));
    for failing in join_all(checks).await {
        assert_eq!(failing["status"], "connected");
        assert!(failing["failing_since"].is_string(), "{failing}");
    }
    // The user's own, and three others'.
    assert_eq!(force_check(&app).await.len(), users.len() + 3);
}

#[tokio::test]
async fn refresh_webhook_retry_is_applied_after_failed_check() {
    let app = TestApp::new().await;
    let names = ["ada".to_owned(), "bob".to_owned()];
    let users = with_gmail(&app, &names).await;
    let (ada, hers) = &users[0];
    app.faults(json!({ "drop_webhooks": true })).await;
    let nango_id = text(hers, "nango_connection_id");
    let revoked = json!({ "connection_id": nango_id });
    app.control("revoke", Method::POST, revoked).await;
    let path = format!("/connections/{nango_id}?provider_config_key=gmail&force_refresh=true");
    app.nango(Method::GET, &path).await;
    let hooks = app.control("webhooks", Method::GET, Value::Null).await;
    let reported = &hooks.as_array().unwrap().last().unwrap()["body"];
    assert_eq!(reported["operation"], "refresh");
    let event = webhook::parse(reported.to_string().as_bytes()).unwrap();

    let service = app.service().await;
    let faults = json!({ "status": 500, "only": "force_refresh" });
    app.faults(faults).await;
    assert!(service.nango_webhooks.handle(None, &event).await.is_err());
    app.faults(json!({})).await;
    assert_eq!(
        service.nango_webhooks.handle(None, &event).await.unwrap(),
        WebhookOutcome::Applied
    );
    let failing = ada.connection(text(hers, "id")).await;
    assert!(failing["failing_since"].is_string(), "{failing}");
}

#[tokio::test]
async fn each_check_records_its_time() {
    let app = TestApp::new().await;
    let users = with_gmail(&app, &["mallory".to_owned(), "bob".to_owned()]).await;
    let (mallory, connected) = &users[0];
    let revoked = json!({ "connection_id": connected["nango_connection_id"] });
    let id = text(connected, "id");
    // The last check finds what is known already.
    for n in 0..5 {
        if n == 1 {
            app.control("revoke", Method::POST, revoked.clone()).await;
        }
        app.advance(TimeDelta::minutes(3));
        let checked = check(mallory, id).await;
        let now = app.clock.now().to_rfc3339_opts(SecondsFormat::Secs, true);
        assert_eq!(checked["last_checked_at"], now, "{n}: {checked}");
    }
    let after = mallory.connection(id).await;
    assert_eq!(after["status_reason"], "needs_reauthorization");
}

#[tokio::test]
async fn check_is_not_applied_to_repeated_version() {
    let app = TestApp::new().await;
    let users = with_gmail(&app, &["ada".to_owned(), "bob".to_owned()]).await;
    let (ada, hers) = &users[0];
    let revoked = json!({ "connection_id": hers["nango_connection_id"] });
    app.control("revoke", Method::POST, revoked).await;
    app.faults(json!({ "only": "force_refresh", "hold_answers_ms": 60_000 }))
        .await;
    let path = format!("/connections/{}/check", text(hers, "id"));
    let asked = tokio::spawn(ada.request(Method::POST, &path).send());
    eventually(async || !force_check(&app).await.is_empty()).await;
    app.faults(json!({})).await;
    // After a failover that lost a commit, another change has the same version.
    sqlx::query(
        "update user_connector_connection set updated_at = updated_at + interval '1 second' \
         where user_id = 'ada'",
    )
    .execute(&mut app.sql().await)
    .await
    .unwrap();
    app.control("release", Method::POST, Value::Null).await;
    assert_eq!(asked.await.unwrap().unwrap().status(), StatusCode::OK);
    let unchanged = ada.connection(text(hers, "id")).await;
    assert_eq!(unchanged["version"], hers["version"]);
    assert_eq!(unchanged["failing_since"], Value::Null);
}
