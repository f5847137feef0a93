//! Deletions that are paused, kept back, or in progress.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::eventually::eventually;
use crate::outgoing_webhooks;
use crate::outgoing_webhooks::receiver::Receiver;

async fn run_sql(app: &TestApp, statements: &'static str) {
    let mut sql = app.sql().await;
    sqlx::raw_sql(statements).execute(&mut sql).await.unwrap();
}

/// Starts a reconnect and cancels it.
async fn cancel_reconnect(user: &User<'_>, id: &str) {
    for action in ["reconnect", "cancel"] {
        let path = format!("/connections/{id}/{action}");
        let (status, body) = user.call(Method::POST, &path, Some(json!({}))).await;
        assert_eq!(status, StatusCode::OK, "{action}: {body}");
    }
}

#[tokio::test]
async fn disconnect_is_accepted_in_unknown_environment_without_nango() {
    let app = app().await;
    let all = connected(&app, 4).await;
    app.faults(json!({ "environment": "staging" })).await;
    let (service, stop) = (app.service().await, CancellationToken::new());
    assert!(service.sweeper.sweep(IMMEDIATE_SWEEP, &stop).await.is_err());
    let path = format!("/connections/{}/check", text(&all[3].1, "id"));
    assert_eq!(all[3].0.call(Method::POST, &path, None).await.0, 503);
    app.faults(json!({ "environment": "staging", "hang_up": true }))
        .await;
    let (status, ended) = all[0].0.disconnect("gmail", "").await;
    assert_eq!(
        (status.as_u16(), &ended["upstream_deleted"]),
        (200, &json!(false))
    );
    let user = "user-1".to_owned().try_into().unwrap();
    let erased = service.erasure.erase(&user).await.unwrap();
    assert_eq!(
        (erased.upstream_pending, erased.upstream_deleted),
        (1, false)
    );
    app.faults(json!({})).await;
    app.advance(TimeDelta::minutes(11));
    app.service().await.deletions.delete_due().await.unwrap();
    eventually(async || app.nango_connections().await.len() == 2).await;
}

#[tokio::test]
async fn nangos_own_id_is_deleted_without_proof_of_environment() {
    let app = app().await;
    let all = connected(&app, 2).await;
    // The other connection and the integrations prove nothing.
    delete_at_nango(&app, &all[1].1).await;
    run_sql(&app, "update installation set nango_integrations = null").await;
    app.faults(json!({ "hang_up": true })).await;
    let replica = app.replica(&[]).await;
    app.faults(json!({})).await;
    for (user, _) in &all {
        let (_, ended) = user.at(&replica).disconnect("gmail", "").await;
        assert_eq!(ended["upstream_deleted"], true);
    }
    assert_eq!(app.nango_connections().await, [""; 0]);
}

#[tokio::test]
async fn cancel_keeps_replaced_grant() {
    let app = app().await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "allow" })).await;
    let started = ada.connect("gmail").await;
    let id = text(&started, "connection_id");
    // Two grants of one session: the newer one replaces the older one.
    app.popup(text(&started, "oauth_url")).await;
    ada.wait_until(id, "connected").await;
    app.popup(text(&started, "oauth_url")).await;
    app.sweep().await;
    assert_eq!(app.nango_connections().await.len(), 2);
    cancel_reconnect(&ada, id).await;
    assert_eq!(app.nango_connections().await.len(), 2);

    run_sql(
        &app,
        "update brake set engaged_at = now() where kind = 'deletions'",
    )
    .await;
    app.advance(TimeDelta::minutes(11));
    cancel_reconnect(&ada, id).await;
    assert_eq!(app.nango_connections().await.len(), 2);
    // The brake does not stop what the user requests.
    let (_, ended) = ada.disconnect("gmail", "").await;
    assert_eq!(ended["upstream_deleted"], true);
    assert_eq!(app.nango_connections().await, [""; 0]);
}

#[tokio::test]
async fn orphan_that_is_being_deleted_is_not_restored() {
    let app = app().await;
    let all = connected(&app, 2).await;
    restore_backup_without(&app, &all).await;
    let service = app.service().await;
    let orphans = Orphans::new(service.core.clone());
    let listed = orphans.list().await.unwrap();
    // A restored database, in which no worker deletes anything.
    run_sql(&app, "update installation set table_oid = table_oid + 1").await;
    for orphan in &listed {
        orphans.delete(orphan).await.unwrap();
    }
    run_sql(
        &app,
        "update upstream_deletion set leased_until = now() + interval '60 seconds'",
    )
    .await;
    let refused = orphans.restore(&listed[0]).await.unwrap_err();
    assert!(refused.to_string().contains("being deleted"), "{refused}");
    run_sql(&app, "update upstream_deletion set leased_until = null").await;
    orphans.restore(&listed[0]).await.unwrap();
    service.core.brakes.release(Brake::Database).await.unwrap();
    service.deletions.delete_due().await.unwrap();
    let kept = listed[0].nango.id.as_str();
    app.wait_for_nango_connections(&[kept]).await;
}

#[tokio::test]
async fn swapped_database_sends_no_message() {
    let app = outgoing_webhooks::app().await;
    let hooks = Arc::new(outgoing_webhooks::webhooks(&app).await);
    let receiver = Receiver::start();
    let endpoint = outgoing_webhooks::add(&hooks, &receiver, &[]).await;
    hooks.disable(&endpoint).await.unwrap();
    app.user("ada").await.connected("gmail").await;
    // The service has just compared the database, and caches the result.
    let service = app.service().await;
    assert!(!service.core.is_database_foreign().await);
    run_sql(&app, "update installation set table_oid = table_oid + 1").await;
    hooks.enable(&endpoint).await.unwrap();
    let stop = CancellationToken::new();
    let sender = hooks.run(&stop, &*service.core);
    tokio::join!(sender, async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        stop.cancel();
    });
    assert_eq!(receiver.count(), 0);
    service.core.brakes.release(Brake::Database).await.unwrap();
    eventually(async || receiver.count() == 1).await;
}
