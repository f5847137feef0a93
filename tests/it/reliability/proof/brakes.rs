//! Brakes: many changes within an hour wait for an operator.

use chrono::TimeDelta;
use patchbay::domain::Brake;
use reqwest::Method;
use serde_json::{Value, json};

use super::{app, connected, delete_at_nango, engaged, refuse_refresh, statuses, token};
use crate::reliability::{check, text};

#[tokio::test]
async fn brake_stops_connections_from_going_missing_together() {
    let app = app().await;
    let all = connected(&app, 14).await;
    for (_, connection) in &all[..11] {
        delete_at_nango(&app, connection).await;
    }
    assert_eq!(app.sweep().await.missing, 0);
    assert_eq!(statuses(&all).await, ["connected"; 14]);
    assert_eq!(engaged(&app).await, [Brake::Missing]);
    let (status, code) = token(&app, 0, &all[0].1).await;
    assert_eq!((status, code.as_str()), (503, "provider_unavailable"));
    assert_eq!(token(&app, 13, &all[13].1).await.0, 200);
    assert_eq!(app.sweep().await.missing, 0);

    let service = app.service().await;
    service.brakes().release(Brake::Missing).await.unwrap();
    assert_eq!(engaged(&app).await, []);
    assert_eq!(app.sweep().await.missing, 11);
}

#[tokio::test]
async fn brake_admits_ten_missing_connections_an_hour() {
    let app = app().await;
    let all = connected(&app, 12).await;
    for (_, connection) in &all[..10] {
        delete_at_nango(&app, connection).await;
    }
    assert_eq!(app.sweep().await.missing, 10);
    delete_at_nango(&app, &all[10].1).await;
    assert_eq!(app.sweep().await.missing, 0);
    assert_eq!(engaged(&app).await, [Brake::Missing]);
    let hour = "update brake set engaged_at = null, counted_since = now() - interval '1 hour'";
    sqlx::query(hour)
        .execute(&mut app.sql().await)
        .await
        .unwrap();
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
