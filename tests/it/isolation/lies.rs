//! A second wall: a database that takes one user for another shows and changes nothing all the same.

use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use tokio::time::timeout;

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

/// Begins to connect with an Idempotency-Key that ada uses, too.
async fn connect_once(house: &House, caller: Caller) -> Seen {
    let url = format!("{}/api/v1/connectors/box/connect", house.url);
    let request = house.client.post(url).header("idempotency-key", "of-ada");
    Seen::of(caller.asks(request), "-").await
}

/// Every request by which ADA could get at what is ada's, with what it is called when it fails.
fn attempts(house: &House, ids: &[String]) -> Vec<(String, RequestBuilder)> {
    let mut all = Vec::new();
    for operation in Operation::all() {
        let callers = match operation.access {
            Access::User(_) => vec![Caller::user(house, "ADA"), Caller::service("ADA")],
            Access::Service(_) => vec![Caller::service("ADA")],
            _ => continue,
        };
        for (caller, id) in callers
            .iter()
            .flat_map(|caller| ids.iter().map(move |id| (caller, id)))
        {
            all.push((
                operation.path.to_owned(),
                caller.asks(operation.request(house, id)),
            ));
        }
    }
    for (method, path) in [
        (Method::DELETE, "/connectors/gmail/disconnect"),
        (Method::POST, "/connectors/gmail/token"),
        (Method::GET, "/connectors/connections?connector_id=gmail"),
        (Method::DELETE, "/users/ADA/connections"),
    ] {
        let request = house
            .client
            .request(method, format!("{}/api/v1{path}", house.url));
        all.push((path.to_owned(), Caller::service("ADA").asks(request)));
    }
    all
}

/// What of a stream from the beginning of all events comes at once.
async fn stream(house: &House) -> String {
    const QUIET: Duration = Duration::from_millis(500);
    let url = format!("{}/api/v1/connectors/connections/events", house.url);
    let events = Caller::user(house, "ADA").asks(house.client.get(url));
    let mut events = events.header("last-event-id", "0").send().await.unwrap();
    let mut text = Vec::new();
    while let Ok(Ok(Some(chunk))) = timeout(QUIET, events.chunk()).await {
        text.extend(chunk);
    }
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn nobody_gets_what_the_database_takes_for_theirs() {
    let Home { mut house, ids, .. } = Home::new().await;
    let answer = connect_once(&house, Caller::user(&house, "ada")).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let before = all_of(&house, "ada").await;
    let marks = marks(&house, &ids).await;
    lie(&house).await;
    // One that has prepared no statement yet over the columns as they were.
    let replica = house.replica(&[]).await;
    house.url.clone_from(&replica.url);

    let mut answers = Vec::new();
    for (what, request) in attempts(&house, &ids) {
        // No answer tells an id but the one that was asked for.
        let sent = ids
            .iter()
            .find(|id| format!("{request:?}").contains(id.as_str()));
        let sent = sent.map_or("-", String::as_str);
        answers.push((what, Seen::of(request, sent).await));
    }
    let again = connect_once(&house, Caller::user(&house, "ADA")).await;
    answers.push(("the answer to a key".to_owned(), again));
    for (what, answer) in &answers {
        for mark in &marks {
            assert!(
                !answer.body.contains(mark.as_str()),
                "{what}: {}",
                answer.body
            );
        }
    }
    assert_eq!(stream(&house).await.matches("event: connection").count(), 0);
    // The first wall is down: rows of hers were read for him, and stopped at the second.
    for stopped in [
        "/api/v1/connectors/{connector}/connect",
        "/connectors/gmail/disconnect",
    ] {
        let at_the_second =
            |(what, answer): &&(String, Seen)| what == stopped && answer.status == 500;
        assert!(
            answers.iter().any(|answer| at_the_second(&answer)),
            "{stopped}"
        );
    }
    println!("a database that lies: {} requests", answers.len() + 1);
    assert_eq!(all_of(&house, "ada").await, before);
}
