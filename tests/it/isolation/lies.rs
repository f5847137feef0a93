//! A second wall: a database that takes one user for another shows and changes nothing all the same.

use serde_json::json;

use super::callers::Caller;
use super::{Access, Home, Operation, Seen, all_of, marks};
use crate::house::House;

/// To the database, ADA is ada from now on: so it might be by a collation that an operator has
/// chosen, or by a statement that lost its condition.
async fn lie(house: &House) {
    sqlx::raw_sql(
        "create collation careless (provider = icu, locale = 'und-u-ks-level2', deterministic = false); \
         alter table user_connector_connection alter column user_id type text collate careless; \
         alter table connection_event alter column user_id type text collate careless; \
         alter table idempotency_key alter column user_id type text collate careless; \
         alter table token_use alter column user_id type text collate careless;",
    )
    .execute(&mut house.sql().await)
    .await
    .unwrap();
}

#[tokio::test]
async fn nobody_gets_what_the_database_takes_for_theirs() {
    let Home { house, ids, .. } = Home::new().await;
    let ada = house.user("ada").await;
    let connect = |user: Caller| {
        let url = format!("{}/api/v1/connectors/box/connect", house.url);
        let request = house.client.post(url).header("idempotency-key", "of-ada");
        Seen::of(user.asks(request), "-")
    };
    let answer = connect(Caller::user(&house, "ada")).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let before = (all_of(&house, "ada").await, ada.get("/connections").await);
    let marks = marks(&house, &ids).await;
    lie(&house).await;
    let fooled: i64 =
        sqlx::query_scalar("select count(*) from user_connector_connection where user_id = 'ADA'")
            .fetch_one(&mut house.sql().await)
            .await
            .unwrap();
    assert_eq!(fooled, 4);

    let mut cases = 0;
    let mut check = |operation: &str, answer: &Seen| {
        for mark in &marks {
            assert!(
                !answer.body.contains(mark.as_str()),
                "{operation}: {}",
                answer.body
            );
        }
        cases += 1;
    };
    for operation in Operation::all() {
        let callers = match operation.access {
            Access::User(_) => vec![Caller::user(&house, "ADA"), Caller::service("ADA")],
            Access::Service(_) => vec![Caller::service("ADA")],
            _ => continue,
        };
        for caller in callers {
            for id in &ids {
                let answer = Seen::of(caller.asks(operation.request(&house, id)), id).await;
                check(operation.path, &answer);
            }
        }
    }
    check(
        "the answer of a key",
        &connect(Caller::user(&house, "ADA")).await,
    );
    for (method, path) in [
        ("DELETE", "/connectors/gmail/disconnect"),
        ("POST", "/connectors/gmail/token"),
        ("GET", "/connectors/connections?connector_id=gmail"),
        ("DELETE", "/users/ADA/connections"),
    ] {
        let request = house.client.request(
            method.parse().unwrap(),
            format!("{}/api/v1{path}", house.url),
        );
        check(
            path,
            &Seen::of(Caller::service("ADA").asks(request), "-").await,
        );
    }
    let events = house.client.get(format!(
        "{}/api/v1/connectors/connections/events",
        house.url
    ));
    let events = Caller::user(&house, "ADA")
        .asks(events)
        .header("last-event-id", "0");
    let mut events = events.send().await.unwrap();
    let mut beginning = String::new();
    let quiet = std::time::Duration::from_millis(500);
    while let Ok(Ok(Some(chunk))) = tokio::time::timeout(quiet, events.chunk()).await {
        beginning.push_str(&String::from_utf8(chunk.to_vec()).unwrap());
    }
    assert_eq!(
        beginning.matches("event: connection").count(),
        0,
        "{beginning}"
    );
    println!("a database that lies: {cases} requests");
    house.faults(json!({})).await;
    let after = (all_of(&house, "ada").await, ada.get("/connections").await);
    assert_eq!(after, before);
}
