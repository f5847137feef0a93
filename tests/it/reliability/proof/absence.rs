//! Connections that Nango does not have at a moment: only absence over time proves that they are gone.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use patchbay::domain::Brake;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{app, connected, delete_at_nango, engaged, kinds, statuses, token};
use crate::reliability::{check, text};
use crate::test_app::{IMMEDIATE_SWEEP, TestApp, User};

const MINUTE: TimeDelta = TimeDelta::minutes(1);

/// Lists and look-ups at Nango do not have these connections.
async fn hide(app: &TestApp, hidden: &[(User<'_>, Value)]) {
    let ids: Vec<&Value> = hidden
        .iter()
        .map(|(_, it)| &it["nango_connection_id"])
        .collect();
    app.faults(json!({ "hide_connections": ids })).await;
}

/// How many absences the row of a connection has.
async fn absences(app: &TestApp, connection: &Value) -> i32 {
    let id: uuid::Uuid = text(connection, "id").parse().unwrap();
    sqlx::query_scalar("select cardinality(absences) from user_connector_connection where id = $1")
        .bind(id)
        .fetch_one(&mut app.sql().await)
        .await
        .unwrap()
}

/// What the service does with absent connections: a restarted replica sweeps, looks them up, and is asked about them.
/// Nango may be one that is not recognized.
async fn use_all(app: &TestApp, all: &[(User<'_>, Value)]) {
    let (service, stop) = (app.service().await, CancellationToken::new());
    let _ = service.sweeper.sweep(IMMEDIATE_SWEEP, &stop).await;
    let _ = service.sweeper.check_absences().await;
    for (number, (user, connection)) in all.iter().enumerate() {
        let path = format!("/connections/{}/check", text(connection, "id"));
        let (status, body) = user.call(Method::POST, &path, None).await;
        assert!([200, 503].contains(&status.as_u16()), "{status} {body}");
        let (status, code) = token(app, number, connection).await;
        assert!([200, 503].contains(&status), "{status} {code}");
    }
}

async fn assert_nothing_happened(app: &TestApp, all: &[(User<'_>, Value)]) {
    assert_eq!(statuses(all).await, vec!["connected"; all.len()]);
    for (number, (user, connection)) in all.iter().enumerate() {
        assert_eq!(token(app, number, connection).await.0, 200);
        let kinds = kinds(user, text(connection, "id")).await;
        assert_eq!(kinds, ["attempt_started", "connected"]);
    }
}

#[tokio::test]
async fn absence_of_a_moment_changes_no_status() {
    let app = TestApp::with(&[
        ("SERVICE_API_KEYS", &format!("workflow={}", super::KEY)),
        ("TOKEN_CACHE_TTL_SECONDS", "0"),
    ])
    .await;
    let all = connected(&app, 6).await;
    // A third, one, and all of them; for 25 s and for four minutes.
    for count in [2, 1, 6] {
        for pause in [TimeDelta::seconds(5), TimeDelta::seconds(48)] {
            hide(&app, &all[..count]).await;
            for _ in 0..5 {
                use_all(&app, &all).await;
                app.advance(pause);
            }
            use_all(&app, &all).await;
            assert_eq!(statuses(&all).await, ["connected"; 6]);
            app.faults(json!({})).await;
            use_all(&app, &all).await;
            assert_nothing_happened(&app, &all).await;
            app.advance(MINUTE);
        }
    }
    assert_eq!(engaged(&app).await, []);
}

#[tokio::test]
async fn absence_in_a_small_product_changes_no_status() {
    for count in [1, 2] {
        let app = app().await;
        let all = connected(&app, count).await;
        for _ in 0..3 {
            hide(&app, &all).await;
            for _ in 0..5 {
                use_all(&app, &all).await;
                app.advance(TimeDelta::seconds(48));
            }
            app.faults(json!({})).await;
            use_all(&app, &all).await;
            app.advance(MINUTE);
        }
        assert_nothing_happened(&app, &all).await;
    }
}

#[tokio::test]
async fn absent_connection_is_looked_up_once_a_minute() {
    let app = app().await;
    let all = connected(&app, 4).await;
    hide(&app, &all[..1]).await;
    let absent = text(&all[0].1, "nango_connection_id");
    let lookups = async || {
        let calls = app.control("requests", Method::GET, Value::Null).await;
        let calls = calls.as_array().unwrap().iter();
        let is_lookup = |call: &&Value| call.to_string().contains(absent);
        calls.filter(is_lookup).count()
    };
    let before = lookups().await;
    app.sweep().await;
    let once = lookups().await;
    assert!(once > before);
    app.sweep().await;
    assert_eq!(lookups().await, once);
    app.advance(MINUTE);
    app.sweep().await;
    assert!(lookups().await > once);
}

#[tokio::test]
async fn deleted_connection_is_missing_after_five_minutes() {
    for count in [1, 2, 4] {
        let app = app().await;
        let all = connected(&app, count).await;
        let (user, connection) = &all[0];
        let id = text(connection, "id");
        delete_at_nango(&app, connection).await;
        // One sweep is enough: the second look comes by itself.
        assert_eq!(app.sweep().await.missing, 0);
        for _ in 0..5 {
            assert_eq!(
                app.service().await.sweeper.check_absences().await.unwrap(),
                0
            );
            let checked = check(user, id).await;
            assert_eq!(
                (text(&checked, "status"), text(&checked, "health")),
                ("connected", "missing")
            );
            let refused = token(&app, 0, connection).await;
            assert_eq!(refused, (503, "provider_unavailable".to_owned()));
            app.advance(MINUTE);
        }
        assert_eq!(
            app.service().await.sweeper.check_absences().await.unwrap(),
            1
        );
        assert_eq!(
            user.connection(id).await["status_reason"],
            "missing_upstream"
        );
        assert_eq!(absences(&app, connection).await, 0);
        let refused = token(&app, 0, connection).await;
        assert_eq!(refused, (409, "needs_reauthorization".to_owned()));
        assert_eq!(check(user, id).await["health"], "missing");
        assert_eq!(engaged(&app).await, []);
        let again = user.connected("gmail").await;
        assert_eq!(again["id"], connection["id"]);
    }
}

#[tokio::test]
async fn absent_connection_can_be_connected_again() {
    let app = app().await;
    let all = connected(&app, 2).await;
    let paths = [
        "/gmail/connect".to_owned(),
        format!("/connections/{}/reconnect", text(&all[1].1, "id")),
    ];
    for ((user, connection), path) in all.iter().zip(paths) {
        delete_at_nango(&app, connection).await;
        app.sweep().await;
        let (status, started) = user.call(Method::POST, &path, None).await;
        assert_eq!(status, StatusCode::OK, "{started}");
        app.faults(json!({ "consent": "allow" })).await;
        app.popup(text(&started, "oauth_url")).await;
        app.sweep().await;
        let now = user.connection(text(connection, "id")).await;
        assert_eq!(now["status"], "connected");
        assert_ne!(
            now["nango_connection_id"],
            connection["nango_connection_id"]
        );
        assert_eq!(absences(&app, connection).await, 0);
    }
}

#[tokio::test]
async fn any_sighting_ends_an_absence() {
    let app = TestApp::with(&[
        ("SERVICE_API_KEYS", &format!("workflow={}", super::KEY)),
        ("TOKEN_CACHE_TTL_SECONDS", "0"),
    ])
    .await;
    let all = connected(&app, 3).await;
    let (user, connection) = &all[0];
    let mut seen = BTreeSet::new();
    for sighting in ["sweep", "look-up", "token", "check", "webhook"] {
        hide(&app, &all[..1]).await;
        for expected in 1..5 {
            app.sweep().await;
            assert_eq!(absences(&app, connection).await, expected);
            app.advance(MINUTE);
        }
        // The fifth look-up would be enough a minute later.
        app.faults(json!({})).await;
        match sighting {
            "sweep" => assert_eq!(app.sweep().await.missing, 0),
            "look-up" => assert_eq!(
                app.service().await.sweeper.check_absences().await.unwrap(),
                0
            ),
            "token" => assert_eq!(token(&app, 0, connection).await.0, 200),
            "check" => {
                let checked = check(user, text(connection, "id")).await;
                assert_eq!(checked["health"], "working");
            }
            _ => {
                // Nango sends the webhook of the grant again.
                let service = app.service().await;
                let hooks = app.control("webhooks", Method::GET, Value::Null).await;
                let hooks = hooks.as_array().unwrap().iter();
                for hook in hooks {
                    let body = hook["body"].to_string();
                    let event = patchbay::nango::webhook::parse(body.as_bytes()).unwrap();
                    service.nango_webhooks.handle(None, &event).await.unwrap();
                }
            }
        }
        assert_eq!(absences(&app, connection).await, 0, "{sighting}");
        seen.insert(sighting);
        hide(&app, &all[..1]).await;
        app.advance(MINUTE);
        app.sweep().await;
        app.advance(MINUTE);
        assert_eq!(app.sweep().await.missing, 0, "{sighting}");
        app.faults(json!({})).await;
        app.sweep().await;
    }
    assert_eq!(seen.len(), 5);
    assert_nothing_happened(&app, &all).await;
}

#[tokio::test]
async fn absence_starts_over_after_a_clock_jump() {
    let app = app().await;
    let all = connected(&app, 3).await;
    hide(&app, &all[..1]).await;
    for _ in 0..4 {
        app.sweep().await;
        app.advance(MINUTE);
    }
    app.clock.correct(TimeDelta::hours(1));
    assert_eq!(app.sweep().await.missing, 0);
    assert_eq!(absences(&app, &all[0].1).await, 1);
    app.clock.correct(-TimeDelta::minutes(30));
    assert_eq!(app.sweep().await.missing, 0);
    assert_eq!(absences(&app, &all[0].1).await, 1);
    assert_eq!(statuses(&all).await, ["connected"; 3]);
    assert_eq!(app.sweep_until_missing().await, 1);
}

#[tokio::test]
async fn absence_of_a_restored_database_does_not_count() {
    let app = app().await;
    let all = connected(&app, 3).await;
    let connection = &all[0].1;
    hide(&app, &all[..1]).await;
    for _ in 0..4 {
        app.sweep().await;
        app.advance(MINUTE);
    }
    let restored = "update installation set table_oid = table_oid + 1";
    sqlx::query(restored)
        .execute(&mut app.sql().await)
        .await
        .unwrap();
    let service = app.service().await;
    let user = "user-0".to_owned().try_into().unwrap();
    let id = text(connection, "id").parse().unwrap();
    for _ in 0..3 {
        let (_, health) = service.connections.check(&user, id).await.unwrap();
        assert_eq!(health, Some(patchbay::service::Health::Missing));
        assert_eq!(service.sweeper.check_absences().await.unwrap(), 0);
        app.advance(MINUTE);
    }
    assert_eq!(absences(&app, connection).await, 4);
    service.core.brakes.release(Brake::Database).await.unwrap();
    assert_eq!(absences(&app, connection).await, 0);
    assert_eq!(app.sweep().await.missing, 0);
    assert_eq!(statuses(&all).await, ["connected"; 3]);
}

#[tokio::test]
async fn other_environment_is_recognized_in_a_small_product() {
    for count in [1, 2] {
        let app = app().await;
        let mut all = connected(&app, count).await;
        let before = app.nango_connections().await;
        app.faults(json!({ "environment": "staging", "consent": "allow" }))
            .await;
        for _ in 0..8 {
            use_all(&app, &all).await;
            app.advance(MINUTE);
        }
        assert_eq!(statuses(&all).await, vec!["connected"; count]);
        for (user, connection) in &all {
            let path = format!("/connections/{}/reconnect", text(connection, "id"));
            let (status, _) = user.call(Method::POST, &path, None).await;
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        }
        let (user, _) = all.pop().unwrap();
        let (_, ended) = user.disconnect("gmail", "").await;
        assert_eq!(ended["upstream_deleted"], false);
        app.faults(json!({})).await;
        assert_eq!(app.nango_connections().await, before);
        app.advance(TimeDelta::minutes(11));
        use_all(&app, &all).await;
        assert_nothing_happened(&app, &all).await;
        assert_eq!(engaged(&app).await, []);
        app.service().await.deletions.delete_due().await.unwrap();
        assert_eq!(app.nango_connections().await.len(), count - 1);
    }
}

#[tokio::test]
async fn reconnect_verifies_environment_that_start_could_not() {
    let app = app().await;
    let all = connected(&app, 1).await;
    for failure in [json!({ "status": 429 }), json!({ "status": 500 })] {
        let mut faults = failure.clone();
        faults["environment"] = json!("staging");
        app.faults(faults).await;
        let replica = app.replica(&[]).await;
        app.faults(json!({ "environment": "staging" })).await;
        // Nango's rate limit blocks calls until the next minute.
        app.advance(MINUTE);
        let (user, connection) = &all[0];
        let path = format!("/connections/{}/reconnect", text(connection, "id"));
        let (status, problem) = user.at(&replica).call(Method::POST, &path, None).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{failure}");
        let detail = text(&problem, "detail");
        assert!(
            detail.starts_with("Nango does not have the connections"),
            "{failure}: {detail}"
        );
    }
    app.faults(json!({})).await;
    app.advance(MINUTE);
    assert_nothing_happened(&app, &all).await;
}

#[tokio::test]
async fn operator_confirms_another_environment_of_one_connection() {
    let app = app().await;
    let all = connected(&app, 1).await;
    app.faults(json!({ "environment": "new" })).await;
    let service = app.service().await;
    let stop = CancellationToken::new();
    assert!(service.sweeper.sweep(IMMEDIATE_SWEEP, &stop).await.is_err());
    service.core.brakes.release(Brake::Nango).await.unwrap();
    assert_eq!(app.sweep_until_missing().await, 1);
    assert_eq!(statuses(&all).await, ["error"]);
    let again = all[0].0.connected("gmail").await;
    assert_eq!(again["id"], all[0].1["id"]);
}

#[tokio::test]
async fn deleted_integration_leaves_the_environment_known() {
    let app = app().await;
    let all = connected(&app, 1).await;
    let deleted = app.nango(Method::DELETE, "/integrations/gmail").await;
    assert_eq!(deleted.0, StatusCode::OK);
    assert_eq!(app.sweep_until_missing().await, 1);
    assert_eq!(statuses(&all).await, ["error"]);
    assert_eq!(engaged(&app).await, []);
}
