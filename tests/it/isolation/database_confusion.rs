//! Defense in depth: even a database that mistakes one user for another reveals and changes nothing.

use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use tokio::time::timeout;

use super::callers::Caller;
use super::{Access, IsolationFixture, ObservedResponse, Operation, all_of, markers};
use crate::test_app::TestApp;

/// Makes the database treat ADA as ada, as by a collation of the operator, or by a statement without its condition.
async fn corrupt_reads(app: &TestApp) {
    sqlx::raw_sql(
        "create collation careless (provider = icu, locale = 'und-u-ks-level2', deterministic = false); \
         alter table user_connector_connection alter column user_id type text collate careless; \
         alter table connection_event alter column user_id type text collate careless; \
         alter table idempotency_key alter column user_id type text collate careless; \
         alter table connect_attempt alter column user_id type text collate careless; \
         alter table token_access alter column user_id type text collate careless;",
    )
    .execute(&mut app.sql().await)
    .await
    .unwrap();
}

/// Starts a connection with an Idempotency-Key that ada uses, too.
async fn connect_once(app: &TestApp, caller: Caller) -> ObservedResponse {
    let url = format!("{}/api/v1/connectors/box/connect", app.url);
    let request = app.client.post(url).header("idempotency-key", "of-ada");
    ObservedResponse::of(caller.authenticate(request), "-").await
}

/// Returns every request by which ADA could reach ada's data, with its name in messages.
fn attempts(app: &TestApp, ids: &[String]) -> Vec<(String, RequestBuilder)> {
    let mut all = Vec::new();
    for operation in Operation::all() {
        let callers = match operation.access {
            Access::User(_) => vec![Caller::user(app, "ADA"), Caller::service("ADA")],
            Access::Service(_) => vec![Caller::service("ADA")],
            _ => continue,
        };
        for (caller, id) in callers
            .iter()
            .flat_map(|caller| ids.iter().map(move |id| (caller, id)))
        {
            all.push((
                operation.path.to_owned(),
                caller.authenticate(operation.request(app, id)),
            ));
        }
    }
    for (method, path) in [
        (Method::DELETE, "/connectors/gmail/disconnect"),
        (Method::POST, "/connectors/gmail/token"),
        (Method::GET, "/connectors/connections?connector_id=gmail"),
        (Method::DELETE, "/users/ADA/connections"),
    ] {
        let request = app
            .client
            .request(method, format!("{}/api/v1{path}", app.url));
        all.push((
            path.to_owned(),
            Caller::service("ADA").authenticate(request),
        ));
    }
    all
}

/// Returns the immediate content of a stream from the first event.
async fn stream(app: &TestApp) -> String {
    const QUIET_PERIOD: Duration = Duration::from_millis(500);
    let url = format!("{}/api/v1/connectors/connections/events", app.url);
    let events = Caller::user(app, "ADA").authenticate(app.client.get(url));
    let mut events = events
        .header("last-event-id", crate::reliability::event_streams::FIRST)
        .send()
        .await
        .unwrap();
    let mut text = Vec::new();
    while let Ok(Ok(Some(chunk))) = timeout(QUIET_PERIOD, events.chunk()).await {
        text.extend(chunk);
    }
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn rows_of_other_users_are_withheld_when_database_confuses_them() {
    let IsolationFixture { mut app, ids, .. } = IsolationFixture::new().await;
    let answer = connect_once(&app, Caller::user(&app, "ada")).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let before = all_of(&app, "ada").await;
    let marks = markers(&app, &ids).await;
    corrupt_reads(&app).await;
    // A new replica has prepared no statement with the previous columns.
    let replica = app.replica(&[]).await;
    app.url.clone_from(&replica.url);

    let mut answers = Vec::new();
    for (what, request) in attempts(&app, &ids) {
        // No response contains an id other than the requested one.
        let sent = ids
            .iter()
            .find(|id| format!("{request:?}").contains(id.as_str()));
        let sent = sent.map_or("-", String::as_str);
        answers.push((what, ObservedResponse::of(request, sent).await));
    }
    let again = connect_once(&app, Caller::user(&app, "ADA")).await;
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
    let events = stream(&app).await;
    for mark in &marks {
        assert!(!events.contains(mark.as_str()), "{events}");
    }
    // The first check has failed: ada's rows were read for ADA, and the second check rejected them.
    for stopped in [
        "/api/v1/connectors/{connector}/connect",
        "/connectors/gmail/disconnect",
    ] {
        let at_the_second =
            |(what, answer): &&(String, ObservedResponse)| what == stopped && answer.status == 500;
        assert!(
            answers.iter().any(|answer| at_the_second(&answer)),
            "{stopped}: {answers:?}"
        );
    }
    println!("a database that lies: {} requests", answers.len() + 1);
    assert_eq!(all_of(&app, "ada").await, before);
}
