//! A Nango that ignores the filters of its list of connections.

use chrono::TimeDelta;
use nango_sandbox::Integration;
use reqwest::Method;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::text;
use crate::test_app::{IMMEDIATE_SWEEP, TestApp, User};

/// Connects a user to Gmail. Returns Nango's id and the connection.
async fn connected(user: &User<'_>) -> (String, Value) {
    let gmail = user.connected("gmail").await;
    (text(&gmail, "nango_connection_id").to_owned(), gmail)
}

async fn ignore_filters(app: &TestApp, others: Value) {
    let mut faults = json!({ "consent": "allow", "ignore_filters": true });
    for (name, value) in others.as_object().unwrap() {
        faults[name] = value.clone();
    }
    app.faults(faults).await;
}

#[tokio::test]
async fn erasure_deletes_nothing_of_others() {
    let app = TestApp::new().await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    let (_, hers) = connected(&ada).await;
    let (his, of_bob) = connected(&bob).await;
    // Connections of another product in the same environment, and of another installation of Patchbay.
    app.import_with(json!({})).await;
    app.import_with(json!({ "end_user_id": "ada", "patchbay_installation": uuid::Uuid::new_v4() }))
        .await;
    // A grant of hers without a row is deleted, too.
    let unheard = json!({ "consent": "allow", "drop_webhooks": true });
    app.faults(unheard).await;
    let started = ada.connect("github").await;
    app.popup(text(&started, "oauth_url")).await;
    assert_eq!(app.nango_connections().await.len(), 5);
    ignore_filters(&app, json!({})).await;
    let user = "ada".to_owned().try_into().unwrap();
    let erased = app.service().await.erasure.erase(&user).await.unwrap();
    assert_eq!((erased.connections, erased.upstream_deleted), (2, true));
    app.faults(json!({})).await;
    let left = app.nango_connections().await;
    assert_eq!(left.len(), 3);
    assert!(left.contains(&his) && !left.contains(&text(&hers, "nango_connection_id").to_owned()));
    assert_eq!(
        bob.connection(text(&of_bob, "id")).await["status"],
        "connected"
    );
    let queued: i64 = sqlx::query_scalar("select count(*) from upstream_deletion")
        .fetch_one(&mut app.sql().await)
        .await
        .unwrap();
    assert_eq!(queued, 0);
}

#[tokio::test]
async fn erasure_leaves_what_another_users_row_uses() {
    let app = TestApp::new().await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    ada.connected("gmail").await;
    let (his, _) = connected(&bob).await;
    // Nango has the connection of his row with her tags.
    let tags = json!({ "tags": { "end_user_id": "ada", "patchbay_installation": installation(&app).await } });
    let url = format!(
        "http://{}/connections/{his}?provider_config_key=gmail",
        app.sandbox.address()
    );
    let patched = app.client.patch(url).bearer_auth(&app.secret_key);
    assert_eq!(patched.json(&tags).send().await.unwrap().status(), 200);
    let user = "ada".to_owned().try_into().unwrap();
    app.service().await.erasure.erase(&user).await.unwrap();
    app.wait_for_nango_connections(&[&his]).await;
}

async fn installation(app: &TestApp) -> String {
    sqlx::query_scalar("select id::text from installation")
        .fetch_one(&mut app.sql().await)
        .await
        .unwrap()
}

#[tokio::test]
async fn grants_and_denials_are_those_of_their_attempt() {
    let app = TestApp::new().await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    let (his, _) = connected(&bob).await;
    // A webhook of any grant would cause the deletion of the orphan without its grace period.
    let (orphan, _) = connected(&app.user("cem").await).await;
    sqlx::query("delete from user_connector_connection where user_id = 'cem'")
        .execute(&mut app.sql().await)
        .await
        .unwrap();
    ignore_filters(&app, json!({ "consent": "deny" })).await;
    let started = ada.connect("gmail").await;
    app.popup(text(&started, "oauth_url")).await;
    let id = text(&started, "connection_id");
    assert_eq!(
        ada.wait_until(id, "error").await["status_reason"],
        "authorization_denied"
    );
    ignore_filters(&app, json!({})).await;
    let started = ada.connect("gmail").await;
    app.popup(text(&started, "oauth_url")).await;
    let hers = ada.wait_until(id, "connected").await["nango_connection_id"].clone();
    app.service().await.deletions.delete_due().await.unwrap();
    app.faults(json!({})).await;
    let stored = app.nango_connections().await;
    assert_eq!(stored, [hers.as_str().unwrap(), &orphan, &his]);
}

#[tokio::test]
async fn connection_that_is_gone_is_missing_though_others_are_listed() {
    let app = TestApp::new().await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    let (stored, gmail) = connected(&ada).await;
    let (_, his) = connected(&bob).await;
    let path = format!("/connections/{stored}?provider_config_key=gmail");
    app.nango(Method::DELETE, &path).await;
    ignore_filters(&app, json!({})).await;
    app.advance(TimeDelta::minutes(2));
    assert_eq!(app.sweep_until_missing().await, 1);
    let gone = ada.connection(text(&gmail, "id")).await;
    assert_eq!(gone["status_reason"], "missing_upstream");
    let his = bob.connection(text(&his, "id")).await;
    assert_eq!(his["status"], "connected");
}

#[tokio::test]
async fn deletion_asks_for_no_connection_but_its_own() {
    let app = TestApp::build(&[], |nango| {
        let gmail = (nango.integrations.iter()).find(|one| one.unique_key == "gmail");
        let production = Integration {
            unique_key: "gmail-production".to_owned(),
            ..gmail.unwrap().clone()
        };
        nango.integrations.push(production);
    })
    .await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    let (stored, _) = connected(&ada).await;
    bob.connected("github").await;
    // A foreign import with the id of her connection, in another integration.
    let body = json!({
        "provider_config_key": "gmail-production", "connection_id": stored,
        "credentials": { "type": "OAUTH2", "access_token": "imported" },
        "tags": { "patchbay_installation": uuid::Uuid::new_v4() },
    });
    app.import(body).await;
    let path = format!("/connections/{stored}?provider_config_key=gmail");
    app.nango(Method::DELETE, &path).await;
    ignore_filters(&app, json!({})).await;
    let before = app.nango_calls("DELETE", "/connections/").await;
    let (_, ended) = ada.disconnect("gmail", "").await;
    assert_eq!(ended["upstream_deleted"], true);
    // The deletion in its own integration, which Nango no longer has.
    let deletions = app.nango_calls("DELETE", "/connections/").await - before;
    assert!(deletions <= 1, "{deletions}");
    app.faults(json!({})).await;
    assert_eq!(app.nango_connections().await.len(), 2);
}

#[tokio::test]
async fn sweep_ends_when_pages_do_not() {
    let app = TestApp::new().await;
    let (_, gmail) = connected(&app.user("ada").await).await;
    for _ in 0..20 {
        futures::future::join_all((0..50).map(|_| app.import_with(json!({})))).await;
    }
    app.advance(TimeDelta::minutes(5));
    app.faults(json!({ "list_ignores_page": true })).await;
    let service = app.service().await;
    let stop = CancellationToken::new();
    let report = tokio::time::timeout(
        crate::eventually::TIMEOUT,
        service.sweeper.sweep(IMMEDIATE_SWEEP, &stop),
    );
    assert!(report.await.expect("it comes to its end").is_err());
    let ada = app.user("ada").await;
    let kept = ada.connection(text(&gmail, "id")).await;
    assert_eq!(kept["status"], "connected");
}
