//! Nango's own database was restored: it lacks newer connections, and its serial numbers start again below theirs.

use chrono::TimeDelta;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::text;
use crate::eventually::eventually_value;
use crate::test_app::{TestApp, User};

/// Deletes a user's connection at Nango, whose later connections have lower serial numbers.
async fn restore_nango(app: &TestApp, connection: &Value) {
    let nango_id = text(connection, "nango_connection_id");
    let path = format!("/connections/{nango_id}?provider_config_key=gmail");
    let (status, _) = app.nango(Method::DELETE, &path).await;
    assert_eq!(status, StatusCode::OK);
    sqlx::query(
        "update user_connector_connection set nango_serial = nango_serial + 1000 \
         where nango_connection_id = $1",
    )
    .bind(nango_id)
    .execute(&mut app.sql().await)
    .await
    .unwrap();
    // The next attempt starts later than the connection was connected.
    app.advance(TimeDelta::minutes(1));
}

async fn reconnect(user: &User<'_>, id: &str) -> Value {
    let path = format!("/connections/{id}/reconnect");
    let (status, started) = user.call(Method::POST, &path, None).await;
    assert_eq!(status, StatusCode::OK, "{started}");
    started
}

/// Waits until a connection is connected with another grant than `old`.
async fn granted_again(user: &User<'_>, old: &Value) -> Value {
    eventually_value(
        async || user.connection(text(old, "id")).await,
        |last| {
            last["status"] == "connected"
                && last["nango_connection_id"] != old["nango_connection_id"]
        },
    )
    .await
}

#[tokio::test]
async fn reconnect_works_after_nango_was_restored() {
    for is_missing in [false, true] {
        let app = TestApp::new().await;
        let (ada, bob) = (app.user("ada").await, app.user("bob").await);
        bob.connected("gmail").await;
        let old = ada.connected("gmail").await;
        let id = text(&old, "id");
        restore_nango(&app, &old).await;
        if is_missing {
            assert_eq!(app.sweep_until_missing().await, 1);
            assert_eq!(
                ada.connection(id).await["status_reason"],
                "missing_upstream"
            );
        }
        let started = reconnect(&ada, id).await;
        app.popup(text(&started, "oauth_url")).await;
        let new = granted_again(&ada, &old).await;
        assert_eq!(new["attempt"]["outcome"], "succeeded");
        // The replaced connection is deleted, and the new one stays.
        app.sweep().await;
        app.advance(TimeDelta::minutes(11));
        app.service().await.deletions.delete_due().await.unwrap();
        let stored = app.nango_connections().await;
        assert_eq!(stored.len(), 2, "{stored:?}");
        assert_eq!(stored[0], text(&new, "nango_connection_id"));
        assert_eq!(ada.connection(id).await["version"], new["version"]);
    }
}

#[tokio::test]
async fn sweep_applies_grant_that_was_discarded_by_serial() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let old = ada.connected("gmail").await;
    restore_nango(&app, &old).await;
    let started = reconnect(&ada, text(&old, "id")).await;
    app.faults(json!({ "consent": "allow", "drop_webhooks": true }))
        .await;
    app.popup(text(&started, "oauth_url")).await;
    let new = app.nango_connections().await.remove(0);
    let mut sql = app.sql().await;
    sqlx::query(
        "insert into upstream_deletion \
           (nango_connection_id, integration_key, user_id, connection_id, reason, next_attempt_at, created_at) \
         select $1, 'gmail', user_id, id, 'replaced', $2, $2 from user_connector_connection",
    )
    .bind(&new)
    .bind(app.clock.now() + TimeDelta::minutes(10))
    .execute(&mut sql)
    .await
    .unwrap();
    assert_eq!(app.sweep().await.found, 1);
    let granted = granted_again(&ada, &old).await;
    assert_eq!(granted["nango_connection_id"], new.as_str());
    let queued: Vec<String> =
        sqlx::query_scalar("select nango_connection_id from upstream_deletion")
            .fetch_all(&mut sql)
            .await
            .unwrap();
    assert!(!queued.contains(&new), "{queued:?}");
}
