//! A claim whose transaction started before another replica's lease.

use std::time::Duration;

use crate::eventually::eventually_locked;
use crate::outgoing_webhooks;

use super::*;

/// Locks a table, starts claims that wait for the lock, and meanwhile gives a lease to another replica.
async fn lease_while_claims_wait(app: &TestApp, lock: &'static str, lease: &'static str) {
    let mut other = app.sql().await;
    sqlx::raw_sql(lock).execute(&mut other).await.unwrap();
    let service = app.service().await;
    let claims = tokio::spawn(async move { service.deletions.delete_due().await });
    eventually_locked(&mut other).await;
    sqlx::raw_sql(lease).execute(&mut other).await.unwrap();
    assert_eq!(claims.await.unwrap().unwrap(), 0);
}

#[tokio::test]
async fn deletion_leased_after_a_claim_began_is_not_claimed() {
    let app = app().await;
    connected(&app, 3).await;
    let lock = "insert into upstream_deletion \
           (nango_connection_id, integration_key, reason, next_attempt_at, created_at) \
         values ('00000000-0000-4000-8000-000000000001', 'gmail', 'disconnected', '2000-01-01', '2000-01-01'); \
         begin; lock table upstream_deletion in access exclusive mode";
    let lease = "update upstream_deletion set leased_until = clock_timestamp() + interval '120 seconds'; commit";
    lease_while_claims_wait(&app, lock, lease).await;
    let attempts: i32 = sqlx::query_scalar("select attempts from upstream_deletion")
        .fetch_one(&mut app.sql().await)
        .await
        .unwrap();
    assert_eq!(attempts, 0);
}

#[tokio::test]
async fn webhook_queue_leased_after_a_claim_began_is_not_claimed() {
    let app = TestApp::with(&[("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8")]).await;
    let hooks = outgoing_webhooks::webhooks(&app).await;
    let closed = "http://127.0.0.1:9/".parse().unwrap();
    hooks.add(&closed, &[], false).await.unwrap();
    let lock = "begin; lock table webhook_queue, upstream_deletion in access exclusive mode";
    let lease = "insert into webhook_queue (user_id, connection_id, endpoint_id, next_attempt_at, leased_until) \
           select 'ada', gen_random_uuid(), id, '2000-01-01', clock_timestamp() + interval '60 seconds' \
           from webhook_endpoint; commit";
    lease_while_claims_wait(&app, lock, lease).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let kept: i64 =
        sqlx::query_scalar("select count(*) from webhook_queue where leased_until > now()")
            .fetch_one(&mut app.sql().await)
            .await
            .unwrap();
    // A claim would have removed the queue, because it is empty.
    assert_eq!(kept, 1);
}
