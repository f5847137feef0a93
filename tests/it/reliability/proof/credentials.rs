//! Credentials are dead only after their provider has rejected them for some time.

use chrono::TimeDelta;
use reqwest::Method;
use serde_json::{Value, json};

use super::{app, connected, kinds, refuse_refresh, statuses, token};
use crate::reliability::{check, text};

#[tokio::test]
async fn refusal_of_a_moment_tells_nobody() {
    let app = app().await;
    let all = connected(&app, 4).await;
    let refused: Vec<&Value> = all[..2].iter().map(|(_, it)| it).collect();
    refuse_refresh(&app, &refused).await;
    for _ in 0..3 {
        let (user, connection) = &all[0];
        let checked = check(user, text(connection, "id")).await;
        assert_eq!(
            (text(&checked, "status"), text(&checked, "health")),
            ("connected", "refused")
        );
        assert!(checked["failing_since"].is_string());
    }
    let code = "provider_unavailable".to_owned();
    assert_eq!(app.sweep().await.missing, 0);
    let expire = json!({ "connection_id": all[0].1["nango_connection_id"] });
    app.control("expire", Method::POST, expire).await;
    assert_eq!(token(&app, 0, &all[0].1).await, (503, code));
    app.faults(json!({})).await;
    app.advance(TimeDelta::minutes(2));
    app.sweep().await;
    assert_eq!(statuses(&all).await, ["connected"; 4]);
    let (user, connection) = &all[0];
    let recovered = user.connection(text(connection, "id")).await;
    assert_eq!(recovered["failing_since"], Value::Null);
    assert_eq!(token(&app, 0, connection).await.0, 200);
}

#[tokio::test]
async fn dead_credentials_recover_by_themselves() {
    let app = app().await;
    let all = connected(&app, 2).await;
    let (user, connection) = &all[0];
    let id = text(connection, "id");
    refuse_refresh(&app, &[connection]).await;
    for expected in ["connected", "connected", "error"] {
        app.sweep().await;
        check(user, id).await;
        assert_eq!(user.connection(id).await["status"], expected);
        app.advance(TimeDelta::minutes(3));
    }
    assert_eq!(
        token(&app, 0, connection).await,
        (409, "needs_reauthorization".to_owned())
    );
    // Nango still lists the error of its last try.
    app.faults(json!({})).await;
    app.advance(TimeDelta::minutes(10));
    app.sweep().await;
    let recovered = user.connection(id).await;
    assert_eq!(recovered["status"], "connected");
    let kinds = kinds(user, id).await;
    assert_eq!(
        kinds[2..],
        ["credentials_failing", "needs_reauthorization", "recovered"]
    );
}

#[tokio::test]
async fn token_request_retries_dead_credentials() {
    let app = app().await;
    let all = connected(&app, 2).await;
    let (user, connection) = &all[0];
    refuse_refresh(&app, &[connection]).await;
    for _ in 0..3 {
        check(user, text(connection, "id")).await;
        app.advance(TimeDelta::minutes(3));
    }
    assert_eq!(statuses(&all).await, ["error", "connected"]);
    app.faults(json!({})).await;
    app.advance(TimeDelta::minutes(10));
    assert_eq!(token(&app, 0, connection).await.0, 200);
    assert_eq!(statuses(&all).await, ["connected"; 2]);
}
