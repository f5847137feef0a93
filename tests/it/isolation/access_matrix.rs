//! Each operation of the document, by each unauthorized caller: the response, its effect, and whether it reveals that
//! something exists.

use std::collections::BTreeSet;

use futures::FutureExt;
use uuid::Uuid;

use super::callers::{Caller, service_keys, unauthenticated_callers};
use super::{
    Access, DOCUMENT, IsolationFixture, ObservedResponse, Operation, all_of, all_rows, markers,
};
use crate::test_app::TestApp;

#[test]
fn documented_operations_have_access_rules() {
    let mut documented = BTreeSet::new();
    for (path, item) in DOCUMENT["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if operation.is_object() && operation.get("responses").is_some() {
                documented.insert((method.to_uppercase(), path.clone()));
            }
        }
    }
    let ruled: BTreeSet<_> = Operation::all()
        .iter()
        .map(|operation| (operation.method.to_string(), operation.path.to_owned()))
        .collect();
    assert_eq!(
        documented, ruled,
        "a new operation needs a row in OPERATIONS"
    );
    // The document's security requirements match the rules.
    for operation in Operation::all() {
        let method = operation.method.as_str().to_lowercase();
        let security = &DOCUMENT["paths"][operation.path][method]["security"];
        let schemes: Vec<&str> = security
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|one| one.as_object().unwrap().keys().map(String::as_str))
            .collect();
        let expected: &[&str] = match operation.access {
            Access::Everybody | Access::Signed => &[],
            Access::Caller | Access::User(_) => &["user", "service"],
            Access::Service(_) | Access::Administrator(_) => &["service"],
        };
        assert_eq!(schemes, expected, "{} {}", operation.method, operation.path);
    }
}

/// Requests ada's connection and a nonexistent one as the caller. Both responses must be the same, with this status and
/// code, and change nothing.
async fn refused(
    fixture: &mut IsolationFixture,
    operation: &Operation,
    caller: &Caller,
    as_what: (u16, &str),
) -> usize {
    let IsolationFixture { app, ids, sql } = fixture;
    let what = format!("{} {} by {}", operation.method, operation.path, caller.name);
    let before = all_rows(sql).await;
    let unknown = Uuid::now_v7().to_string();
    let nobodys = ObservedResponse::of(
        caller.authenticate(operation.request(app, &unknown)),
        &unknown,
    )
    .await;
    assert_eq!(
        (nobodys.status.as_u16(), &*nobodys.code()),
        as_what,
        "{what}: {}",
        nobodys.body
    );
    let ids = if operation.path.contains("{attempt}") || operation.names_one() {
        &ids[..]
    } else {
        &ids[..1]
    };
    for id in ids {
        let theirs =
            ObservedResponse::of(caller.authenticate(operation.request(app, id)), id).await;
        assert_eq!(theirs, nobodys, "{what}: it tells that {id} is there");
    }
    assert_eq!(all_rows(sql).await, before, "{what}: it changed something");
    ids.len() + 1
}

#[tokio::test]
async fn unauthenticated_requests_are_rejected_everywhere() {
    let mut fixture = IsolationFixture::new().await;
    let nobodies = unauthenticated_callers(&fixture.app).await;
    let operations = Operation::all();
    let mut cases = 0;
    for operation in &operations {
        for caller in &nobodies {
            cases += match operation.access {
                Access::Everybody => {
                    let answer = ObservedResponse::of(
                        caller.authenticate(operation.request(&fixture.app, "")),
                        "-",
                    )
                    .await;
                    assert_eq!(answer.status, 200, "{}", operation.path);
                    1
                }
                Access::Signed => {
                    refused(&mut fixture, operation, caller, (401, "invalid_signature")).await
                }
                _ => refused(&mut fixture, operation, caller, (401, "unauthenticated")).await,
            };
        }
    }
    println!(
        "{} operations by {} nobodies: {cases} requests",
        operations.len(),
        nobodies.len()
    );
    assert!(cases >= operations.len() * nobodies.len());
}

#[tokio::test]
async fn service_key_requires_scope_and_user() {
    let mut fixture = IsolationFixture::new().await;
    let mut cases = 0;
    for operation in Operation::all() {
        if let Some(scope) = operation.scope() {
            for user in ["ada", "bob", ""] {
                let caller = Caller::without_scope(scope, user);
                cases += refused(
                    &mut fixture,
                    &operation,
                    &caller,
                    (403, "insufficient_scope"),
                )
                .await;
            }
        }
        if let Access::User(_) | Access::Service(_) = operation.access {
            let caller = Caller::service("");
            cases += refused(&mut fixture, &operation, &caller, (400, "user_required")).await;
        }
        if let Access::Service(_) | Access::Administrator(_) = operation.access {
            // Not even a user's own token.
            for user in ["ada", "bob"] {
                let caller = Caller::user(&fixture.app, user);
                cases += refused(
                    &mut fixture,
                    &operation,
                    &caller,
                    (403, "service_key_required"),
                )
                .await;
            }
        }
    }
    println!(
        "keys without a scope, without a user, and users where keys are needed: {cases} requests"
    );
    assert!(cases >= 22 * 4);
}

#[tokio::test]
async fn foreign_connection_looks_nonexistent() {
    let mut fixture = IsolationFixture::new().await;
    let mut cases = 0;
    for operation in Operation::all()
        .iter()
        .filter(|operation| operation.names_one())
    {
        let callers = match operation.access {
            Access::User(_) => ids_of_bob(&fixture.app),
            _ => vec![Caller::service("bob")],
        };
        for caller in callers {
            cases += refused(
                &mut fixture,
                operation,
                &caller,
                (404, "connection_not_found"),
            )
            .await;
        }
    }
    // The callback also accepts Nango's id.
    let callback = Operation::all()
        .into_iter()
        .find(|one| one.path.ends_with("/callback"))
        .unwrap();
    fixture.ids = fixture.app.nango_connections().await;
    assert_eq!(fixture.ids.len(), 1);
    let bob = Caller::user(&fixture.app, "bob");
    cases += refused(&mut fixture, &callback, &bob, (404, "connection_not_found")).await;
    println!("another user's connections: {cases} requests");
    assert!(cases >= 16 * 4);
}

/// Returns bob as a user, bob with ada in `Patchbay-User`, which applies to services only, and a service for bob.
fn ids_of_bob(app: &TestApp) -> Vec<Caller> {
    vec![
        Caller::user(app, "bob"),
        Caller::user(app, "bob").acting_for("ada"),
        Caller::service("bob"),
    ]
}

#[tokio::test]
async fn unscoped_operations_affect_only_caller() {
    let IsolationFixture { app, ids, .. } = IsolationFixture::new().await;
    let before = all_of(&app, "ada").await;
    let nango_ids = app.nango_connections().await;
    let adas = markers(&app, &ids).await;
    let mut cases = 0;
    for operation in Operation::all() {
        let callers = match operation.access {
            Access::User(_) => ids_of_bob(&app),
            Access::Service(_) => vec![Caller::service("bob")],
            _ => continue,
        };
        if operation.names_one() {
            continue;
        }
        for caller in callers {
            let answer =
                ObservedResponse::of(caller.authenticate(operation.request(&app, "")), "-").await;
            let expected = match operation.access {
                // Bob has no connection with a token.
                Access::Service(_) => 404,
                _ => 200,
            };
            assert_eq!(answer.status, expected, "{operation:?}: {}", answer.body);
            for secret in &adas {
                assert!(
                    !answer.body.contains(secret.as_str()),
                    "{operation:?}: {}",
                    answer.body
                );
            }
            cases += 1;
        }
    }
    // With parameters omitted, and with the id of an event that bob has not seen.
    let bob = Caller::user(&app, "bob");
    for (method, path) in [
        ("DELETE", "/gmail/disconnect"),
        ("DELETE", "/gmail/disconnect?instance_id="),
        ("GET", "/connections?connector_id=gmail"),
        ("GET", "/connections?status=connected&limit=500"),
        ("GET", &format!("/connections?cursor={}", ids[2])),
    ] {
        let url = format!("{}/api/v1/connectors{path}", app.url);
        let request = app.client.request(method.parse().unwrap(), url);
        let answer = ObservedResponse::of(bob.authenticate(request), &ids[2]).await;
        for secret in &adas {
            assert!(
                !answer.body.contains(secret.as_str()),
                "{path}: {}",
                answer.body
            );
        }
        cases += 1;
    }
    println!("operations that name no connection: {cases} requests");
    assert_eq!(all_of(&app, "ada").await, before);
    assert_eq!(app.nango_connections().await[..], nango_ids[..]);
}

#[tokio::test]
async fn event_stream_contains_no_events_of_other_users() {
    let app = TestApp::with(&[("SERVICE_API_KEYS", &service_keys())]).await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    ada.connected("gmail").await;
    let url = format!("{}/api/v1/connectors/connections/events", app.url);
    let mut streams = Vec::new();
    // From now on, from the first event, and with a user's header.
    for (caller, after) in [
        (Caller::user(&app, "bob"), None),
        (
            Caller::user(&app, "bob"),
            Some(crate::reliability::event_streams::FIRST),
        ),
        (
            Caller::service("bob"),
            Some(crate::reliability::event_streams::FIRST),
        ),
    ] {
        let request = caller.authenticate(app.client.get(&url));
        let request = match after {
            Some(id) => request.header("last-event-id", id),
            None => request,
        };
        streams.push(request.send().await.unwrap());
    }
    for connector in ["github", "notion"] {
        ada.connected(connector).await;
    }
    // Bob's own change is the last event, so any event of others would come before it.
    let last = bob.connect("airtable").await;
    let last = last["attempt_id"].as_str().unwrap();
    for mut stream in streams {
        let mut text = Vec::new();
        while !String::from_utf8_lossy(&text).contains(last) {
            text.extend(stream.chunk().await.unwrap().unwrap());
        }
        // Also reads everything that has arrived since.
        while let Some(Ok(Some(more))) = stream.chunk().now_or_never() {
            text.extend(more);
        }
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text.matches("event: connection").count(), 1, "{text}");
    }
}
