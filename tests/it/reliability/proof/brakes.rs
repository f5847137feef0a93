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
use crate::test_app::TestApp;

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
            ("orphans", Level::Warn, "3"),
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
