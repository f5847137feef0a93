//! What a check costs others: their credentials are refreshed to tell a dead grant from a provider that is out of order.

use chrono::TimeDelta;
use futures::future::join_all;
use patchbay::nango::webhook;
use patchbay::service::Believed;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{check, eventually, text};
use crate::house::{House, User};

/// Nango's ids of the connections whose refresh was forced, once for each time.
async fn forced(house: &House) -> Vec<String> {
    let calls = house.control("requests", Method::GET, Value::Null).await;
    let calls = calls.as_array().unwrap().iter();
    let forced = calls.filter(|call| text(call, "query").contains("force_refresh=true"));
    forced
        .filter_map(|call| text(call, "path").strip_prefix("/connections/"))
        .map(str::to_owned)
        .collect()
}

/// So many users who have connected Gmail, with Nango's ids of their connections, some time ago.
async fn with_gmail<'a>(house: &'a House, names: &[String]) -> Vec<(User<'a>, Value)> {
    let mut connected = Vec::new();
    for name in names {
        let user = house.user(name).await;
        let gmail = user.connected("gmail").await;
        connected.push((user, gmail));
    }
    house.pass(TimeDelta::minutes(2));
    connected
}

#[tokio::test]
async fn a_grant_that_is_known_to_be_dead_has_nobody_elses_refreshed() {
    let house = House::new().await;
    let users = with_gmail(&house, &["mallory".to_owned(), "bob".to_owned()]).await;
    let [(mallory, hers), (_, his)] = users.as_slice() else {
        panic!("there are two");
    };
    let revoked = json!({ "connection_id": hers["nango_connection_id"] });
    house.control("revoke", Method::POST, revoked).await;
    let id = text(hers, "id");
    for _ in 0..6 {
        let dead = check(mallory, id).await;
        assert_eq!(dead["status_reason"], "needs_reauthorization");
    }
    let bobs = text(his, "nango_connection_id");
    let forced = forced(&house).await;
    assert_eq!(forced.iter().filter(|id| *id == bobs).count(), 1);
}

#[tokio::test]
async fn in_an_outage_one_failed_refresh_does_not_walk_through_everybodys() {
    let house = House::new().await;
    let names: Vec<String> = (0..12).map(|n| format!("user-{n}")).collect();
    let users = with_gmail(&house, &names).await;
    house.faults(json!({ "refuse_refresh": true })).await;
    let first = text(&users[0].1, "nango_connection_id");
    let path = format!("/connections/{first}?provider_config_key=gmail&force_refresh=true");
    let (status, _) = house.nango(Method::GET, &path).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    // Each webhook is answered when all that it causes has been sent.
    eventually(async || {
        let hooks = house.control("webhooks", Method::GET, Value::Null).await;
        let mut hooks = hooks.as_array().unwrap().iter();
        hooks.all(|hook| {
            hook["attempts"]
                .as_array()
                .is_some_and(|tries| !tries.is_empty())
        })
    })
    .await;
    let asked = forced(&house).await.len() - 1;
    assert!((1..=4).contains(&asked), "{asked}");
}

#[tokio::test]
async fn in_an_outage_all_who_doubt_ask_about_the_same_few() {
    let house = House::new().await;
    let names: Vec<String> = (0..12).map(|n| format!("user-{n}")).collect();
    let users = with_gmail(&house, &names).await;
    let faults = json!({ "refuse_refresh": true, "drop_webhooks": true });
    house.faults(faults).await;
    let checks = users
        .iter()
        .map(|(user, gmail)| check(user, text(gmail, "id")));
    for failing in join_all(checks).await {
        assert_eq!(failing["status"], "connected");
        assert!(failing["failing_since"].is_string(), "{failing}");
    }
    // Each its own, and three others'.
    assert_eq!(forced(&house).await.len(), users.len() + 3);
}

#[tokio::test]
async fn a_webhook_whose_check_came_to_nothing_is_taken_when_it_is_sent_again() {
    let house = House::new().await;
    let names = ["ada".to_owned(), "bob".to_owned()];
    let users = with_gmail(&house, &names).await;
    let (ada, hers) = &users[0];
    house.faults(json!({ "drop_webhooks": true })).await;
    let nango_id = text(hers, "nango_connection_id");
    let revoked = json!({ "connection_id": nango_id });
    house.control("revoke", Method::POST, revoked).await;
    let path = format!("/connections/{nango_id}?provider_config_key=gmail&force_refresh=true");
    house.nango(Method::GET, &path).await;
    let hooks = house.control("webhooks", Method::GET, Value::Null).await;
    let told = &hooks.as_array().unwrap().last().unwrap()["body"];
    assert_eq!(told["operation"], "refresh");
    let event = webhook::parse(told.to_string().as_bytes()).unwrap();

    let service = house.service().await;
    let faults = json!({ "status": 500, "only": "force_refresh" });
    house.faults(faults).await;
    assert!(service.webhook(None, &event).await.is_err());
    house.faults(json!({})).await;
    assert_eq!(
        service.webhook(None, &event).await.unwrap(),
        Believed::Taken
    );
    let dead = ada.connection(text(hers, "id")).await;
    assert_eq!(dead["status_reason"], "needs_reauthorization");
}
