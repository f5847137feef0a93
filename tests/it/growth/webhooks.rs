//! Endpoints that are numerous, unreachable, or removed during a delivery.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chrono::TimeDelta;
use patchbay::webhooks::DeliveryFilter;
use sqlx::Connection;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use url::Url;

use super::copy_connection;
use crate::eventually::{eventually, eventually_locked, eventually_value};
use crate::outgoing_webhooks::receiver::Receiver;
use crate::outgoing_webhooks::{add, app, webhooks};
use crate::test_app::TestApp;

/// Queues every stored message for an endpoint.
async fn queue_all(app: &TestApp, endpoint: &str) {
    let mut sql = app.sql().await;
    let mut tx = sql.begin().await.unwrap();
    sqlx::query(
        "insert into webhook_delivery (user_id, endpoint_id, connection_id, event_id, created_at) \
         select user_id, $1, connection_id, id, now() from connection_event where webhook is not null",
    )
    .bind(endpoint)
    .execute(&mut *tx)
    .await
    .unwrap();
    sqlx::query(
        "insert into webhook_queue (user_id, connection_id, endpoint_id, next_attempt_at) \
         select distinct user_id, connection_id, $1, $2 from webhook_delivery where endpoint_id = $1 and ended_at is null \
         on conflict do nothing",
    )
    .bind(endpoint)
    .bind(app.clock.now())
    .execute(&mut *tx)
    .await
    .unwrap();
    tx.commit().await.unwrap();
}

/// Starts an app with an event that has a message, and copies of both for other users.
async fn app_with_messages(copies: i32, events: i32) -> TestApp {
    let app = app().await;
    let hooks = webhooks(&app).await;
    let nowhere: Url = "http://127.0.0.1:9/".parse().unwrap();
    let (id, _) = hooks.add(&nowhere, &[], false).await.unwrap();
    hooks.disable(&id).await.unwrap();
    app.user("ada").await.connected("gmail").await;
    copy_connection(&mut app.sql().await, "ada", copies, events).await;
    hooks.remove(&id).await.unwrap();
    app
}

#[tokio::test]
async fn endpoint_is_removed_while_its_queue_is_locked() {
    let mut app = app_with_messages(3, 1).await;
    app.stop().await.unwrap();
    let hooks = webhooks(&app).await;
    let nowhere: Url = "http://127.0.0.1:9/".parse().unwrap();
    let (id, _) = hooks.add(&nowhere, &[], false).await.unwrap();
    queue_all(&app, &id).await;
    // A replica locks in this order after a delivery: the queue, then the message.
    let mut sender = app.sql().await;
    let mut tx = sender.begin().await.unwrap();
    sqlx::query("select from webhook_queue where user_id = 'copy 1' for update")
        .execute(&mut *tx)
        .await
        .unwrap();
    let sending = async {
        eventually_locked(&mut app.sql().await).await;
        sqlx::query(
            "update webhook_delivery set outcome = 'delivered', ended_at = now() where user_id = 'copy 1'",
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await
    };
    let (removed, sent) = tokio::join!(hooks.remove(&id), sending);
    sent.unwrap();
    removed.unwrap();
    let left: i64 = sqlx::query_scalar(
        "select (select count(*) from webhook_queue) + (select count(*) from webhook_delivery) \
           + (select count(*) from webhook_endpoint)",
    )
    .fetch_one(&mut app.sql().await)
    .await
    .unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn removed_endpoint_is_sent_nothing_twice() {
    let app = app_with_messages(100, 3).await;
    let hooks = webhooks(&app).await;
    let receiver = Receiver::answering(Duration::from_millis(20));
    let id = add(&hooks, &receiver, &[]).await;
    queue_all(&app, &id).await;
    eventually(async || receiver.received().len() > 20).await;
    hooks.remove(&id).await.unwrap();
    // Deliveries in progress complete; no others start.
    let new_ones = async || {
        let before = receiver.received().len();
        tokio::time::sleep(Duration::from_secs(1)).await;
        receiver.received().len() - before
    };
    eventually_value(new_ones, |count| *count == 0).await;
    let received = receiver.received();
    let count = received.len();
    assert!(count < 300, "everything was sent before the removal");
    let ids: HashSet<String> = received.into_iter().map(|one| one.id).collect();
    assert_eq!(ids.len(), count, "a message was sent twice");
    assert!(hooks.list().await.unwrap().is_empty());
}

/// Accepts connections and never responds. Counts the concurrent ones.
async fn silent_endpoint() -> (Url, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (open, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let highest = most.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let now = open.fetch_add(1, Ordering::SeqCst) + 1;
            highest.fetch_max(now, Ordering::SeqCst);
            let open = open.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
                open.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    (url.parse().unwrap(), most)
}

#[tokio::test]
async fn dead_endpoints_occupy_bounded_sends() {
    let app = app().await;
    let hooks = webhooks(&app).await;
    let (url, most) = silent_endpoint().await;
    sqlx::query(
        "insert into webhook_endpoint (id, url, secret, created_at) \
         select 'whe_silent' || n, $1, 'whsec_' || encode(sha256('x'), 'base64'), now() from generate_series(1, 800) n",
    )
    .bind(url.as_str())
    .execute(&mut app.sql().await)
    .await
    .unwrap();
    let ada = app.user("ada").await;
    ada.connected("gmail").await;
    eventually(async || most.load(Ordering::SeqCst) >= 64).await;
    // A working endpoint still gets its messages.
    let receiver = Receiver::start();
    add(&hooks, &receiver, &[]).await;
    ada.connected("github").await;
    eventually(async || receiver.count() == 1).await;
    assert_eq!(ada.get("/connections").await["total_count"], 2);
    let most = most.load(Ordering::SeqCst);
    assert!(most <= 64 + 512, "{most} sends at once");
}

#[tokio::test]
async fn enabled_endpoint_gets_all_attempts_for_many_queues() {
    let mut app = app_with_messages(2500, 1).await;
    app.stop().await.unwrap();
    let hooks = webhooks(&app).await;
    let nowhere: Url = "http://127.0.0.1:9/".parse().unwrap();
    let (id, _) = hooks.add(&nowhere, &[], false).await.unwrap();
    hooks.disable(&id).await.unwrap();
    queue_all(&app, &id).await;
    let mut sql = app.sql().await;
    sqlx::raw_sql(
        "update webhook_delivery set attempts = 3; \
         update webhook_queue set next_attempt_at = next_attempt_at \
           + case when hashtext(user_id) % 2 = 0 then interval '1 day' else interval '-1 day' end",
    )
    .execute(&mut sql)
    .await
    .unwrap();
    hooks.enable(&id).await.unwrap();
    let (due, attempts): (i64, i64) = sqlx::query_as(
        "select (select count(*) from webhook_queue where next_attempt_at = $1), \
           (select sum(attempts) from webhook_delivery)",
    )
    .bind(app.clock.now())
    .fetch_one(&mut sql)
    .await
    .unwrap();
    assert!(due >= 2500, "{due} queues are due");
    assert_eq!(attempts, 0);
}

#[tokio::test]
async fn replay_begins_at_the_first_event_since_then() {
    let app = app_with_messages(50, 4).await;
    let hooks = webhooks(&app).await;
    app.advance(TimeDelta::hours(2));
    let since = app.clock.now();
    let receiver = Receiver::start();
    let id = add(&hooks, &receiver, &[]).await;
    app.user("ben").await.connected("gmail").await;
    eventually(async || receiver.count() == 1).await;
    assert_eq!(hooks.replay(&id, since, None).await.unwrap(), 1);
    eventually(async || receiver.count() == 2).await;
    let everything = since - TimeDelta::days(1);
    let replayed = hooks.replay(&id, everything, None).await.unwrap();
    assert_eq!(replayed, 202, "200 copies, ada's and ben's");
    let of_ben = |failed| DeliveryFilter {
        connection: receiver.received()[0].connection().parse().ok(),
        failed,
        limit: 10,
        ..DeliveryFilter::default()
    };
    eventually(async || hooks.deliveries(&of_ben(false)).await.unwrap().len() == 3).await;
    assert!(hooks.deliveries(&of_ben(true)).await.unwrap().is_empty());
}
