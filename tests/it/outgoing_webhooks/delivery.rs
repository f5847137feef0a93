//! Failing receivers, and replicas that share deliveries.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use chrono::TimeDelta;
use patchbay::domain::{Brake, MessageType};
use patchbay::webhooks::{DeliveryFilter, Endpoint, Error};
use reqwest::Method;
use serde_json::json;
use tokio::sync::Notify;
use url::Url;

use super::receiver::Receiver;
use super::{
    ALLOWED, add, advance_until, app, deny, end_attempt, only, webhooks, with_system_clock,
};
use crate::database::hung_connections::HangingProxy;
use crate::eventually::{eventually, eventually_value};
use crate::limits::{METRICS_TOKEN, until_metrics_say};
use crate::pooler::Pooler;
use crate::test_app::{POOLER_SETTINGS, TestApp};
use crate::test_database;

/// Returns the version and type of each connection's events with a webhook, from the history.
async fn events_of(app: &TestApp) -> BTreeMap<String, Vec<(i64, String)>> {
    let rows: Vec<(String, i64, String)> = sqlx::query_as(
        "select connection_id::text, version, webhook->>'type' from connection_event \
         where webhook is not null order by position",
    )
    .fetch_all(&mut app.sql().await)
    .await
    .unwrap();
    let mut happened = BTreeMap::<_, Vec<_>>::new();
    for (connection, version, reported) in rows {
        happened
            .entry(connection)
            .or_default()
            .push((version, reported));
    }
    happened
}

/// Repeatedly kills the receiver during changes, and compares all messages in the end.
async fn assert_all_delivered(app: &TestApp) {
    let hooks = webhooks(app).await;
    let mut receiver = Receiver::answering(Duration::from_millis(5));
    add(&hooks, &receiver, &[]).await;
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    ada.connected("gmail").await;
    receiver.kill();
    ben.connected("gmail").await;
    end_attempt(&ada, "gmail").await;
    deny(&ada, "github").await;
    receiver.restart();
    end_attempt(&ben, "gmail").await;
    app.advance(TimeDelta::seconds(7));
    ada.connected("gmail").await;
    receiver.kill();
    ada.connected("github").await;
    end_attempt(&ada, "github").await;
    deny(&ben, "gmail").await;
    let happened = events_of(app).await;
    receiver.restart();
    advance_until(app, TimeDelta::minutes(1), async || {
        receiver.accepted() == happened
    })
    .await;
    assert_eq!(receiver.count(), 9);
    eventually(async || only(&hooks).await.waiting == 0).await;
    assert_eq!(only(&hooks).await.failing_since, None);
    for one in receiver.received() {
        assert!(one.status.is_success(), "{one:?}");
    }
}

#[tokio::test]
async fn messages_survive_receiver_restarts_in_order() {
    assert_all_delivered(&app().await).await;
}

#[tokio::test]
async fn messages_survive_receiver_restarts_behind_pooler() {
    let database = test_database::database().await;
    let Some(pooler) = Pooler::start(&database, POOLER_SETTINGS).await else {
        return;
    };
    let app = TestApp::build_on(database, Some(pooler), &ALLOWED, with_system_clock).await;
    assert_all_delivered(&app).await;
}

#[tokio::test]
async fn replicas_share_delivery_and_keep_order_per_connection() {
    let app = app().await;
    let others = [app.replica(&[]).await, app.replica(&[]).await];
    let hooks = webhooks(&app).await;
    // It responds 409 to concurrent messages of one connection.
    let receiver = Receiver::answering(Duration::from_millis(60));
    add(&hooks, &receiver, &[]).await;
    let mut users = Vec::new();
    for name in ["ada", "ben", "cleo", "dan"] {
        users.push(app.user(name).await);
    }
    for user in &users {
        for connector in ["gmail", "github", "notion"] {
            user.connected(connector).await;
            end_attempt(&user.at(&others[0]), connector).await;
            user.connected(connector).await;
        }
    }
    let happened = events_of(&app).await;
    eventually(async || receiver.count() == 36).await;
    assert_eq!(receiver.accepted(), happened);
    // No delivery failed, so no message was sent twice.
    assert_eq!(receiver.received().len(), 36);
}

#[tokio::test]
async fn undeliverable_message_blocks_only_its_connection() {
    let app = app().await;
    let hooks = webhooks(&app).await;
    let receiver = Receiver::start();
    add(&hooks, &receiver, &[]).await;
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    receiver.answers(|one| {
        let poison =
            one.json["data"]["user_id"] == "ada" && one.message() == "connection.connected";
        if poison {
            StatusCode::INTERNAL_SERVER_ERROR
        } else {
            StatusCode::OK
        }
    });
    ada.connected("gmail").await;
    end_attempt(&ada, "gmail").await;
    for _ in 0..3 {
        ben.connected("gmail").await;
        end_attempt(&ben, "gmail").await;
    }
    eventually(async || receiver.count() == 6).await;
    let of_ada = |reported: &str| {
        let received = receiver.received();
        let fits = |one: &&super::receiver::Received| {
            one.json["data"]["user_id"] == "ada" && one.message() == reported
        };
        received.iter().filter(fits).count()
    };
    assert_eq!(of_ada("connection.disconnected"), 0);
    // Ben's messages are still delivered, so that the endpoint is not disabled as dead.
    let mut ends = false;
    advance_until(&app, TimeDelta::hours(2), async || {
        sqlx::query("update webhook_endpoint set failing_since = null")
            .execute(&mut app.sql().await)
            .await
            .unwrap();
        ends = of_ada("connection.disconnected") == 1;
        ends
    })
    .await;
    assert_eq!(of_ada("connection.connected"), 12);
    let failed = DeliveryFilter {
        failed: true,
        limit: 10,
        ..DeliveryFilter::default()
    };
    let failed = hooks.deliveries(&failed).await.unwrap();
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].outcome.as_deref(), Some("given_up"));
    assert_eq!((failed[0].attempts, failed[0].last_status), (12, Some(500)));
    let days = failed[0].last_attempt_at.unwrap() - failed[0].created_at;
    assert!(days >= TimeDelta::days(5), "{days}");
}

#[tokio::test]
async fn endpoint_is_disabled_when_it_answers_410() {
    let app = app().await;
    let hooks = webhooks(&app).await;
    let receiver = Receiver::start();
    let id = add(&hooks, &receiver, &[]).await;
    receiver.answers(|_| StatusCode::GONE);
    let ada = app.user("ada").await;
    ada.connected("gmail").await;
    eventually(async || only(&hooks).await.off.is_some()).await;
    let (_, reason) = only(&hooks).await.off.unwrap();
    assert_eq!(reason, "the endpoint returned 410 Gone");
    end_attempt(&ada, "gmail").await;
    app.advance(TimeDelta::hours(3));
    receiver.answers(|_| StatusCode::OK);
    // A disabled endpoint has no due messages: a delivery to another endpoint shows that the queue was polled.
    let other = Receiver::start();
    add(&hooks, &other, &[]).await;
    deny(&ada, "github").await;
    eventually(async || other.count() == 1).await;
    assert_eq!(receiver.received().len(), 1);
    hooks.enable(&id).await.unwrap();
    eventually(async || receiver.count() == 3).await;
    assert_eq!(receiver.accepted(), events_of(&app).await);
    let refused = &receiver.received()[0].id;
    let again = |one: &super::receiver::Received| one.id == *refused && one.status.is_success();
    assert!(receiver.received().iter().any(again));
}

#[tokio::test]
async fn endpoint_is_disabled_after_days_of_failures() {
    let app = app().await;
    let hooks = webhooks(&app).await;
    let receiver = Receiver::start();
    let id = add(&hooks, &receiver, &[]).await;
    // A redirect is not followed, and counts as a failure.
    receiver.answers(|_| StatusCode::FOUND);
    let ada = app.user("ada").await;
    ada.connected("gmail").await;
    end_attempt(&ada, "gmail").await;
    eventually(async || only(&hooks).await.failing_since.is_some()).await;
    advance_until(&app, TimeDelta::hours(2), async || {
        only(&hooks).await.off.is_some()
    })
    .await;
    let endpoint = only(&hooks).await;
    let (since, reason) = endpoint.off.unwrap();
    assert_eq!(reason, "no message was delivered for five days");
    assert!(since - endpoint.failing_since.unwrap() >= TimeDelta::days(5));
    assert_eq!(endpoint.waiting, 2);
    receiver.answers(|_| StatusCode::OK);
    hooks.enable(&id).await.unwrap();
    eventually(async || receiver.count() == 2).await;
    eventually(async || only(&hooks).await.waiting == 0).await;
    assert_eq!(only(&hooks).await.off, None);
}

#[tokio::test]
async fn retry_after_replaces_own_pause() {
    let app = app().await;
    let hooks = webhooks(&app).await;
    let (busy, other) = (Receiver::start(), Receiver::start());
    busy.answers(|_| StatusCode::TOO_MANY_REQUESTS);
    busy.postpones("3600");
    let id = add(&hooks, &busy, &[MessageType::AttemptFailed]).await;
    add(&hooks, &other, &[]).await;
    let ada = app.user("ada").await;
    deny(&ada, "github").await;
    let filter = DeliveryFilter {
        endpoint: Some(id),
        connection: None,
        failed: false,
        limit: 1,
    };
    let status = async || hooks.deliveries(&filter).await.unwrap()[0].last_status;
    eventually(async || status().await == Some(429)).await;
    // The queue's own delay of five seconds has passed. Another message shows that the queues have been polled since.
    app.advance(TimeDelta::minutes(59));
    app.user("ada").await.connected("gmail").await;
    eventually(async || other.count() == 2).await;
    assert_eq!(busy.received().len(), 1);
    busy.answers(|_| StatusCode::OK);
    app.advance(TimeDelta::minutes(2));
    eventually(async || busy.count() == 1).await;
}

#[tokio::test]
async fn postponed_messages_are_not_given_up() {
    let app = app().await;
    let hooks = webhooks(&app).await;
    let receiver = Receiver::start();
    receiver.answers(|_| StatusCode::SERVICE_UNAVAILABLE);
    receiver.postpones("1");
    add(&hooks, &receiver, &[]).await;
    deny(&app.user("ada").await, "github").await;
    // More often than a failed message is retried.
    advance_until(&app, TimeDelta::seconds(1), async || {
        receiver.received().len() >= 20
    })
    .await;
    receiver.answers(|_| StatusCode::OK);
    advance_until(&app, TimeDelta::seconds(1), async || receiver.count() == 1).await;
}

#[tokio::test]
async fn slow_endpoints_do_not_delay_others() {
    let app = app().await;
    let hooks = webhooks(&app).await;
    let endless = axum::Router::new().route(
        "/hook",
        axum::routing::post(|| async {
            let chunks =
                futures::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b'x'; 65536]));
            axum::body::Body::from_stream(chunks)
        }),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, endless).await });
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_address = silent.local_addr().unwrap();
    for address in [address, silent_address] {
        let url = format!("http://{address}/hook").parse().unwrap();
        hooks.add(&url, &[], false).await.unwrap();
    }
    let receiver = Receiver::start();
    add(&hooks, &receiver, &[]).await;
    app.user("ada").await.connected("gmail").await;
    eventually(async || receiver.count() == 1).await;
    // The endpoint with the endless body has received it, too; the silent one has not yet.
    eventually(async || {
        let all = hooks.list().await.unwrap();
        let waiting = |port| {
            let is = |one: &&Endpoint| one.url.port() == Some(port);
            all.iter().find(is).unwrap().waiting
        };
        waiting(address.port()) == 0 && waiting(silent_address.port()) == 1
    })
    .await;
}

/// Starts an endpoint that answers the first message with `late` once `release` is notified, and the others with `prompt`
/// immediately. Returns its URL and the number of requests.
async fn overtaken_endpoint(
    late: StatusCode,
    prompt: StatusCode,
    release: Arc<Notify>,
) -> (Url, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    let hook = axum::routing::post(move || async move {
        if counter.fetch_add(1, Ordering::SeqCst) > 0 {
            return prompt;
        }
        release.notified().await;
        late
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    tokio::spawn(
        async move { axum::serve(listener, axum::Router::new().route("/hook", hook)).await },
    );
    (url.parse().unwrap(), count)
}

#[tokio::test]
async fn outcome_is_ignored_when_lease_was_lost() {
    const RESPONSES: [(StatusCode, StatusCode); 3] = [
        (StatusCode::OK, StatusCode::INTERNAL_SERVER_ERROR),
        (StatusCode::INTERNAL_SERVER_ERROR, StatusCode::OK),
        (StatusCode::GONE, StatusCode::OK),
    ];
    for (late, prompt) in RESPONSES {
        let app = app().await;
        let hooks = webhooks(&app).await;
        let release = Arc::new(Notify::new());
        let (url, count) = overtaken_endpoint(late, prompt, release.clone()).await;
        hooks.add(&url, &[], false).await.unwrap();
        app.user("ada").await.connected("gmail").await;
        eventually(async || count.load(Ordering::SeqCst) == 1).await;
        sqlx::query("update webhook_queue set leased_until = now() - interval '1 second'")
            .execute(&mut app.sql().await)
            .await
            .unwrap();
        let state = async || {
            let filter = DeliveryFilter {
                limit: 1,
                ..DeliveryFilter::default()
            };
            let delivery = hooks.deliveries(&filter).await.unwrap().remove(0);
            let endpoint = only(&hooks).await;
            (
                (delivery.attempts, delivery.last_status, delivery.outcome),
                (endpoint.waiting, endpoint.failing_since, endpoint.off),
            )
        };
        let status = i16::try_from(prompt.as_u16()).unwrap();
        eventually(async || state().await.0.1 == Some(status)).await;
        let recorded = state().await;
        release.notify_one();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(state().await, recorded, "{late}, {prompt}");
        assert_eq!(recorded.0.0, 1);
    }
}

#[tokio::test]
async fn erased_and_expired_messages_are_not_sent() {
    let app = app().await;
    let hooks = webhooks(&app).await;
    let mut receiver = Receiver::start();
    add(
        &hooks,
        &receiver,
        &[MessageType::Connected, MessageType::Disconnected],
    )
    .await;
    receiver.kill();
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    ada.connected("gmail").await;
    ben.connected("gmail").await;
    assert_eq!(only(&hooks).await.waiting, 2);
    app.service()
        .await
        .erasure
        .erase(&"ada".to_owned().try_into().unwrap())
        .await
        .unwrap();
    assert_eq!(only(&hooks).await.waiting, 1);
    app.advance(TimeDelta::days(31));
    // The running replica prunes as well, and may delete the message first.
    eventually(async || {
        hooks.prune_deliveries().await.unwrap();
        only(&hooks).await.waiting == 0
    })
    .await;
    let endpoint = only(&hooks).await;
    receiver.restart();
    // A retry after the retention time may have disabled the endpoint before the message was deleted.
    hooks.enable(&endpoint.id).await.unwrap();
    // The empty queue is removed, and the next message creates it again.
    let ben = app.user("ben").await;
    app.faults(json!({ "consent": "allow" })).await;
    end_attempt(&ben, "gmail").await;
    eventually(async || receiver.count() == 1).await;
    assert_eq!(receiver.received()[0].message(), "connection.disconnected");
}

#[tokio::test]
async fn restored_or_copied_database_sends_nothing_until_released() {
    let settings = [ALLOWED[0], ("METRICS_TOKEN", METRICS_TOKEN)];
    let app = TestApp::build(&settings, with_system_clock).await;
    let hooks = webhooks(&app).await;
    let receiver = Receiver::start();
    add(&hooks, &receiver, &[]).await;
    sqlx::query("update installation set table_oid = table_oid + 1")
        .execute(&mut app.sql().await)
        .await
        .unwrap();
    // The running replica checks the database's identity every two seconds.
    until_metrics_say(&app, "patchbay_brake_engaged{brake=\"database\"} 1").await;
    app.user("ada").await.connected("gmail").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((receiver.count(), only(&hooks).await.waiting), (0, 1));
    let service = app.service().await;
    service.core.brakes.release(Brake::Database).await.unwrap();
    eventually(async || receiver.count() == 1).await;
}

#[tokio::test]
async fn messages_are_sent_after_database_connections_hang() {
    let database = test_database::database().await;
    let proxy = HangingProxy::in_front_of(&database).await;
    let url = proxy.url(&database);
    let settings = [ALLOWED[0], ("DATABASE_URL", url.as_str())];
    let app = TestApp::build_on(database, None, &settings, with_system_clock).await;
    let receiver = Receiver::start();
    add(&webhooks(&app).await, &receiver, &[]).await;
    proxy.hang();
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "allow" })).await;
    let connect = async || ada.call(Method::POST, "/gmail/connect", None).await;
    let (_, started) = eventually_value(connect, |(code, _)| *code == StatusCode::OK).await;
    app.popup(started["oauth_url"].as_str().unwrap()).await;
    eventually(async || receiver.count() > 0).await;
}

#[tokio::test]
async fn deliveries_of_unknown_endpoint_are_an_error() {
    let app = app().await;
    let filter = DeliveryFilter {
        endpoint: Some("nosuch".to_owned()),
        limit: 50,
        ..DeliveryFilter::default()
    };
    let refused = webhooks(&app).await.deliveries(&filter).await.unwrap_err();
    assert!(matches!(refused, Error::NotFound(_)), "{refused}");
}
