//! Receivers that fail, and replicas that share the work.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::StatusCode;
use chrono::TimeDelta;
use patchbay::domain::MessageType;
use patchbay::webhooks::{Endpoint, Shown};
use serde_json::json;

use super::receiver::Receiver;
use super::{
    ALLOWED, add, at_the_systems_time, deny, end, house, only, pass_until, until, webhooks,
};
use crate::house::{House, POOLER};
use crate::pooler::Pooler;
use crate::postgres;

/// What has happened to each connection, as far as it is told, from the history.
async fn happened(house: &House) -> BTreeMap<String, Vec<(i64, String)>> {
    let rows: Vec<(String, i64, String)> = sqlx::query_as(
        "select connection_id::text, version, webhook->>'type' from connection_event \
         where webhook is not null order by id",
    )
    .fetch_all(&mut house.sql().await)
    .await
    .unwrap();
    let mut happened = BTreeMap::<_, Vec<_>>::new();
    for (connection, version, told) in rows {
        happened
            .entry(connection)
            .or_default()
            .push((version, told));
    }
    happened
}

/// Kills the receiver again and again while things happen, and compares in the end.
async fn nothing_is_lost(house: &House) {
    let hooks = webhooks(house).await;
    let mut receiver = Receiver::that_takes(Duration::from_millis(5));
    add(&hooks, &receiver, &[]).await;
    let (ada, ben) = (house.user("ada").await, house.user("ben").await);
    ada.connected("gmail").await;
    receiver.kill();
    ben.connected("gmail").await;
    end(&ada, "gmail").await;
    deny(&ada, "github").await;
    receiver.restart();
    end(&ben, "gmail").await;
    house.pass(TimeDelta::seconds(7));
    ada.connected("gmail").await;
    receiver.kill();
    ada.connected("github").await;
    end(&ada, "github").await;
    deny(&ben, "gmail").await;
    let happened = happened(house).await;
    receiver.restart();
    pass_until(house, TimeDelta::minutes(1), async || {
        receiver.taken() == happened
    })
    .await;
    assert_eq!(receiver.count(), 9);
    until(async || only(&hooks).await.waiting == 0).await;
    assert_eq!(only(&hooks).await.failing_since, None);
    for one in receiver.received() {
        assert!(one.status.is_success(), "{one:?}");
    }
}

#[tokio::test]
async fn a_receiver_that_is_killed_and_restarted_is_told_everything_in_order() {
    nothing_is_lost(&house().await).await;
}

#[tokio::test]
async fn the_same_through_a_pooler() {
    let database = postgres::database().await;
    let Some(pooler) = Pooler::start(&database, POOLER).await else {
        return;
    };
    let house = House::build_over(database, Some(pooler), &ALLOWED, at_the_systems_time).await;
    nothing_is_lost(&house).await;
}

#[tokio::test]
async fn replicas_share_the_work_and_never_send_two_of_one_connection_at_once() {
    let house = house().await;
    let others = [house.replica(&[]).await, house.replica(&[]).await];
    let hooks = webhooks(&house).await;
    // It answers 409 to two messages of one connection at once.
    let receiver = Receiver::that_takes(Duration::from_millis(60));
    add(&hooks, &receiver, &[]).await;
    let mut users = Vec::new();
    for name in ["ada", "ben", "cleo", "dan"] {
        users.push(house.user(name).await);
    }
    for user in &users {
        for connector in ["gmail", "github", "notion"] {
            user.connected(connector).await;
            end(&user.at(&others[0]), connector).await;
            user.connected(connector).await;
        }
    }
    let happened = happened(&house).await;
    until(async || receiver.count() == 36).await;
    assert_eq!(receiver.taken(), happened);
    // Nothing failed, so nothing was sent twice.
    assert_eq!(receiver.received().len(), 36);
}

#[tokio::test]
async fn a_message_that_never_arrives_is_given_up_and_holds_up_only_its_connection() {
    let house = house().await;
    let hooks = webhooks(&house).await;
    let receiver = Receiver::start();
    add(&hooks, &receiver, &[]).await;
    let (ada, ben) = (house.user("ada").await, house.user("ben").await);
    receiver.answers(|one| {
        let poison = one.json["data"]["user_id"] == "ada" && one.told() == "connection.connected";
        if poison {
            StatusCode::INTERNAL_SERVER_ERROR
        } else {
            StatusCode::OK
        }
    });
    ada.connected("gmail").await;
    end(&ada, "gmail").await;
    for _ in 0..3 {
        ben.connected("gmail").await;
        end(&ben, "gmail").await;
    }
    until(async || receiver.count() == 6).await;
    let of_ada = |told: &str| {
        let received = receiver.received();
        let fits = |one: &&super::receiver::Received| {
            one.json["data"]["user_id"] == "ada" && one.told() == told
        };
        received.iter().filter(fits).count()
    };
    assert_eq!(of_ada("connection.disconnected"), 0);
    // Ben's goes on arriving all the while, so that the endpoint is not taken for dead.
    let mut ends = false;
    pass_until(&house, TimeDelta::hours(2), async || {
        sqlx::query("update webhook_endpoint set failing_since = null")
            .execute(&mut house.sql().await)
            .await
            .unwrap();
        ends = of_ada("connection.disconnected") == 1;
        ends
    })
    .await;
    assert_eq!(of_ada("connection.connected"), 12);
    let failed = Shown {
        failed: true,
        limit: 10,
        ..Shown::default()
    };
    let failed = hooks.deliveries(&failed).await.unwrap();
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].outcome.as_deref(), Some("given_up"));
    assert_eq!((failed[0].attempts, failed[0].last_status), (12, Some(500)));
    let days = failed[0].last_attempt_at.unwrap() - failed[0].created_at;
    assert!(days >= TimeDelta::days(5), "{days}");
}

#[tokio::test]
async fn what_is_gone_is_switched_off_and_loses_nothing() {
    let house = house().await;
    let hooks = webhooks(&house).await;
    let receiver = Receiver::start();
    let id = add(&hooks, &receiver, &[]).await;
    receiver.answers(|_| StatusCode::GONE);
    let ada = house.user("ada").await;
    ada.connected("gmail").await;
    until(async || only(&hooks).await.off.is_some()).await;
    let (_, reason) = only(&hooks).await.off.unwrap();
    assert_eq!(reason, "it answered 410, Gone");
    end(&ada, "gmail").await;
    house.pass(TimeDelta::hours(3));
    receiver.answers(|_| StatusCode::OK);
    // Whoever looks for what is due finds nothing: another house's worth of looks goes by.
    let other = Receiver::start();
    add(&hooks, &other, &[]).await;
    deny(&ada, "github").await;
    until(async || other.count() == 1).await;
    assert_eq!(receiver.received().len(), 1);
    hooks.enable(&id).await.unwrap();
    until(async || receiver.count() == 3).await;
    assert_eq!(receiver.taken(), happened(&house).await);
    let refused = &receiver.received()[0].id;
    let again = |one: &super::receiver::Received| one.id == *refused && one.status.is_success();
    assert!(receiver.received().iter().any(again));
}

#[tokio::test]
async fn where_nothing_arrives_for_days_is_switched_off_and_loses_nothing() {
    let house = house().await;
    let hooks = webhooks(&house).await;
    let receiver = Receiver::start();
    let id = add(&hooks, &receiver, &[]).await;
    // A redirect is not followed, and is no success.
    receiver.answers(|_| StatusCode::FOUND);
    let ada = house.user("ada").await;
    ada.connected("gmail").await;
    end(&ada, "gmail").await;
    until(async || only(&hooks).await.failing_since.is_some()).await;
    pass_until(&house, TimeDelta::hours(2), async || {
        only(&hooks).await.off.is_some()
    })
    .await;
    let endpoint = only(&hooks).await;
    let (since, reason) = endpoint.off.unwrap();
    assert_eq!(reason, "nothing has arrived there for days");
    assert!(since - endpoint.failing_since.unwrap() >= TimeDelta::days(5));
    assert_eq!(endpoint.waiting, 2);
    receiver.answers(|_| StatusCode::OK);
    hooks.enable(&id).await.unwrap();
    until(async || receiver.count() == 2).await;
    until(async || only(&hooks).await.waiting == 0).await;
    assert_eq!(only(&hooks).await.off, None);
}

#[tokio::test]
async fn a_body_without_end_and_an_answer_that_never_comes_hold_nobody_up() {
    let house = house().await;
    let hooks = webhooks(&house).await;
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
    house.user("ada").await.connected("gmail").await;
    until(async || receiver.count() == 1).await;
    // The one of the body without end has taken it, too; the silent one has not yet.
    until(async || {
        let all = hooks.list().await.unwrap();
        let waiting = |port| {
            let is = |one: &&Endpoint| one.url.port() == Some(port);
            all.iter().find(is).unwrap().waiting
        };
        waiting(address.port()) == 0 && waiting(silent_address.port()) == 1
    })
    .await;
}

#[tokio::test]
async fn what_is_erased_or_old_is_not_told_any_more() {
    let house = house().await;
    let hooks = webhooks(&house).await;
    let mut receiver = Receiver::start();
    add(
        &hooks,
        &receiver,
        &[MessageType::Connected, MessageType::Disconnected],
    )
    .await;
    receiver.kill();
    let (ada, ben) = (house.user("ada").await, house.user("ben").await);
    ada.connected("gmail").await;
    ben.connected("gmail").await;
    assert_eq!(only(&hooks).await.waiting, 2);
    house
        .service()
        .await
        .erase(&"ada".to_owned().try_into().unwrap())
        .await
        .unwrap();
    assert_eq!(only(&hooks).await.waiting, 1);
    house.pass(TimeDelta::days(31));
    assert_eq!(hooks.forget_old().await.unwrap(), 1);
    let endpoint = only(&hooks).await;
    assert_eq!(endpoint.waiting, 0);
    receiver.restart();
    // The message may have been tried after those days, before it was forgotten: then the endpoint is switched off.
    hooks.enable(&endpoint.id).await.unwrap();
    // The empty queue is taken away, and does not stand in the way of the next message.
    let ben = house.user("ben").await;
    house.faults(json!({ "consent": "allow" })).await;
    end(&ben, "gmail").await;
    until(async || receiver.count() == 1).await;
    assert_eq!(receiver.received()[0].told(), "connection.disconnected");
}
