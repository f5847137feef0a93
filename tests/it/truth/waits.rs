//! A crowd that waits.

use std::time::Duration;

use chrono::TimeDelta;
use futures::future::join_all;
use patchbay::service::Pace;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::text;
use crate::house::{self, House};

/// How many calls for a list of connections Nango has had.
async fn lists(house: &House) -> usize {
    let one = house.nango_calls("GET", "/connections/").await;
    house.nango_calls("GET", "/connections").await - one
}

#[tokio::test]
async fn fifty_who_wait_cost_two_calls_a_second_and_each_sees_the_grant() {
    const USERS: usize = 50;
    const SECONDS: usize = 5;
    let house = House::new().await;
    let names: Vec<String> = (0..USERS).map(|n| format!("user-{n}")).collect();
    let users = join_all(names.iter().map(|name| house.user(name))).await;
    let faults = json!({ "consent": "allow", "drop_webhooks": true });
    house.faults(faults).await;
    let begun = join_all(users.iter().map(|user| user.connect("gmail"))).await;
    let path = |n: usize, wait: usize| {
        let id = text(&begun[n], "connection_id");
        format!("/connections/{id}?wait={wait}")
    };

    let (before, started) = (lists(&house).await, Instant::now());
    let waited = join_all((0..USERS).map(async |n| users[n].get(&path(n, SECONDS)).await)).await;
    assert!(waited.iter().all(|one| one["status"] == "pending"));
    let (calls, took) = (lists(&house).await - before, started.elapsed());
    // Two a second, and a few that may come at once after a pause.
    let allowed = 2 * (took.as_secs_f64().ceil() as usize) + 4;
    assert!(calls <= allowed, "{calls} calls in {took:?}");

    let last = USERS - 1;
    let everybody = join_all((0..USERS).map(async |n| {
        let waited = users[n].get(&path(n, if n == last { 25 } else { 4 })).await;
        (waited, Instant::now())
    }));
    let granting = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        house.popup(text(&begun[last], "oauth_url")).await;
        Instant::now()
    };
    let (waited, granted) = tokio::join!(everybody, granting);
    let (connection, told) = &waited[last];
    assert_eq!(connection["status"], "connected");
    let delay = told.saturating_duration_since(granted);
    assert!(delay < house::PROMPTLY, "{delay:?}");
}

#[tokio::test]
async fn of_many_open_attempts_the_newest_are_looked_for_and_the_others_found_by_the_sweep() {
    const ATTEMPTS: usize = 25;
    let house = House::new().await;
    let ada = house.user("ada").await;
    let faults = json!({ "consent": "allow", "drop_webhooks": true });
    house.faults(faults).await;
    let mut begun = Vec::new();
    for n in 0..ATTEMPTS {
        let path = format!("/gmail/connect?instance_id={n}");
        let (status, body) = ada.call(Method::POST, &path, None).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        begun.push(body);
        house.pass(TimeDelta::seconds(1));
    }
    let (oldest, newest) = (&begun[0], &begun[ATTEMPTS - 1]);
    for one in [oldest, newest] {
        house.popup(text(one, "oauth_url")).await;
    }
    let status = |list: &Value, begun: &Value| {
        let all = list["connections"].as_array().unwrap();
        let same = all.iter().find(|one| one["id"] == begun["connection_id"]);
        text(same.unwrap(), "status").to_owned()
    };
    let list = ada.get("/connections").await;
    assert_eq!(list["total_count"], ATTEMPTS);
    assert_eq!(status(&list, newest), "connected");
    assert_eq!(status(&list, oldest), "pending");
    assert_eq!(house.sweep().await.found, 1);
    let list = ada.get("/connections").await;
    assert_eq!(status(&list, oldest), "connected");
}

#[tokio::test]
async fn lost_grants_are_found_one_right_after_the_other() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let faults = json!({ "consent": "allow", "drop_webhooks": true });
    house.faults(faults).await;
    for connector in ["gmail", "github", "asana"] {
        let begun = ada.connect(connector).await;
        house.popup(text(&begun, "oauth_url")).await;
    }
    let slow = Pace {
        every: Duration::ZERO,
        pause: Duration::from_secs(3600),
    };
    let (service, stop) = (house.service().await, CancellationToken::new());
    let sweep = tokio::time::timeout(Duration::from_secs(60), service.sweep(slow, &stop));
    let swept = sweep.await.expect("it waits for nothing").unwrap().unwrap();
    assert_eq!(swept.found, 3);
}
