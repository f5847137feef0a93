//! Brakes: many changes within an hour require an operator.

use chrono::TimeDelta;
use patchbay::cli::doctor::Level;
use patchbay::domain::Brake;
use reqwest::Method;
use serde_json::{Value, json};

use super::{app, connected, delete_at_nango, engaged, refuse_refresh, statuses, token};
use crate::doctor::run_doctor;
use crate::limits::{METRICS_TOKEN, until_metrics_say};
use crate::reliability::{check, text};
use crate::test_app::{TestApp, User};

#[tokio::test]
async fn brake_stops_connections_from_going_missing_together() {
    let app = app().await;
    let all = connected(&app, 14).await;
    for (_, connection) in &all[..11] {
        delete_at_nango(&app, connection).await;
    }
    assert_eq!(app.sweep_until_missing().await, 0);
    assert_eq!(statuses(&all).await, ["connected"; 14]);
    assert_eq!(engaged(&app).await, [Brake::Missing]);
    let (status, code) = token(&app, 0, &all[0].1).await;
    assert_eq!((status, code.as_str()), (503, "provider_unavailable"));
    assert_eq!(token(&app, 13, &all[13].1).await.0, 200);
    app.advance(TimeDelta::minutes(1));
    assert_eq!(app.sweep().await.missing, 0);

    let service = app.service().await;
    service.core.brakes.release(Brake::Missing).await.unwrap();
    assert_eq!(engaged(&app).await, []);
    app.advance(TimeDelta::minutes(1));
    assert_eq!(app.sweep().await.missing, 11);
}

#[tokio::test]
async fn brake_admits_ten_missing_connections_an_hour() {
    let app = app().await;
    let all = connected(&app, 12).await;
    for (_, connection) in &all[..10] {
        delete_at_nango(&app, connection).await;
    }
    assert_eq!(app.sweep_until_missing().await, 10);
    delete_at_nango(&app, &all[10].1).await;
    assert_eq!(app.sweep_until_missing().await, 0);
    assert_eq!(engaged(&app).await, [Brake::Missing]);
    let hour = "update brake set engaged_at = null, counted_since = now() - interval '1 hour'";
    sqlx::query(hour)
        .execute(&mut app.sql().await)
        .await
        .unwrap();
    app.advance(TimeDelta::minutes(1));
    assert_eq!(app.sweep().await.missing, 1);
}

#[tokio::test]
async fn brake_stops_connections_from_dying_together() {
    let app = app().await;
    let all = connected(&app, 14).await;
    let refused: Vec<&Value> = all[..12].iter().map(|(_, it)| it).collect();
    refuse_refresh(&app, &refused).await;
    for _ in 0..3 {
        for (user, connection) in &all[..12] {
            check(user, text(connection, "id")).await;
        }
        app.advance(TimeDelta::minutes(3));
    }
    let dead = statuses(&all).await;
    assert_eq!(dead.iter().filter(|it| *it == "error").count(), 10);
    assert_eq!(engaged(&app).await, [Brake::Dead]);
    let expire = json!({ "connection_id": all[11].1["nango_connection_id"] });
    app.control("expire", Method::POST, expire).await;
    let (status, code) = token(&app, 11, &all[11].1).await;
    assert_eq!((status, code.as_str()), (503, "provider_unavailable"));
}

/// Connects this many instances of Gmail.
async fn instances(user: &User<'_>, app: &TestApp, count: usize) -> Vec<Value> {
    app.faults(json!({ "consent": "allow" })).await;
    let mut all = Vec::new();
    for number in 0..count {
        let path = format!("/gmail/connect?instance_id={number}");
        let (_, started) = user.call(Method::POST, &path, None).await;
        app.popup(text(&started, "oauth_url")).await;
        all.push(
            user.wait_until(text(&started, "connection_id"), "connected")
                .await,
        );
        app.advance(TimeDelta::seconds(5));
    }
    app.advance(TimeDelta::minutes(5));
    all
}

#[tokio::test]
async fn many_missing_connections_of_one_user_engage_no_brake() {
    const CONNECTIONS: usize = 15;
    let app = app().await;
    let user = app.user("mallory").await;
    // Others identify the Nango environment.
    let others = connected(&app, 3).await;
    for connection in &instances(&user, &app, CONNECTIONS).await {
        delete_at_nango(&app, connection).await;
    }
    assert_eq!(app.sweep_until_missing().await, CONNECTIONS);
    assert_eq!(engaged(&app).await, []);
    let counted = async || -> i64 {
        sqlx::query_scalar("select count(*) from brake_user")
            .fetch_one(&mut app.sql().await)
            .await
            .unwrap()
    };
    assert_eq!(counted().await, 1);
    let erased = "mallory".to_owned().try_into().unwrap();
    app.service().await.erasure.erase(&erased).await.unwrap();
    assert_eq!(counted().await, 0);
    assert_eq!(statuses(&others).await, ["connected"; 3]);
}

#[tokio::test]
async fn many_dead_connections_of_one_user_engage_no_brake() {
    const CONNECTIONS: usize = 12;
    let app = app().await;
    let user = app.user("mallory").await;
    let all = instances(&user, &app, CONNECTIONS).await;
    // The provider works for others.
    connected(&app, 3).await;
    refuse_refresh(&app, &all.iter().collect::<Vec<_>>()).await;
    for _ in 0..4 {
        for connection in &all {
            check(&user, text(connection, "id")).await;
        }
        app.advance(TimeDelta::minutes(3));
    }
    assert_eq!(engaged(&app).await, []);
    for connection in &all {
        let after = user.connection(text(connection, "id")).await;
        assert_eq!(after["status_reason"], "needs_reauthorization");
    }
}

#[tokio::test]
async fn many_late_grants_of_one_user_engage_no_brake() {
    let app = app().await;
    app.faults(json!({ "consent": "allow" })).await;
    let mallory = app.user("mallory").await;
    for connector in ["gmail", "github"] {
        let started = mallory.connect(connector).await;
        mallory.disconnect(connector, "").await;
        for _ in 0..8 {
            app.popup(text(&started, "oauth_url")).await;
        }
    }
    app.wait_for_nango_connections(&[]).await;
    assert_eq!(engaged(&app).await, []);
}

#[tokio::test]
async fn doctor_and_metrics_report_brakes_and_orphans() {
    let app = TestApp::with(&[("METRICS_TOKEN", METRICS_TOKEN)]).await;
    sqlx::raw_sql(
        "update installation set public_url = 'https://old.example.com/', orphans = 3; \
         update brake set engaged_at = now() where kind = 'missing'",
    )
    .execute(&mut app.sql().await)
    .await
    .unwrap();
    let report = run_doctor(&app, &[], None).await;
    let found: Vec<(&str, Level, &str)> = (report.findings.iter())
        .filter(|one| ["brakes", "orphans"].contains(&one.check))
        .map(|one| {
            (
                one.check,
                one.level,
                one.detail.split_whitespace().next().unwrap(),
            )
        })
        .collect();
    assert_eq!(
        found,
        [
            ("brakes", Level::Fail, "database:"),
            ("brakes", Level::Fail, "missing:"),
            ("orphans", Level::Warn, "not"),
        ]
    );
    // The running replica checks the database's identity every two seconds.
    for line in [
        "patchbay_brake_engaged{brake=\"database\"} 1",
        "patchbay_brake_engaged{brake=\"missing\"} 1",
        "patchbay_brake_engaged{brake=\"dead\"} 0",
        "patchbay_orphans 3",
    ] {
        until_metrics_say(&app, line).await;
    }
}
