//! Each operation of the document, by each caller who may not ask it: what is answered, what it
//! does, and whether it tells that something is there.

use std::collections::BTreeSet;

use futures::FutureExt;
use uuid::Uuid;

use super::callers::{Caller, nobodies, service_keys};
use super::{Access, DOCUMENT, Home, Operation, Seen, all_of, everything, marks};
use crate::house::House;

#[test]
fn every_operation_of_the_document_has_its_rule() {
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
    // What the document says of tokens is what the rules say.
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
            Access::Caller | Access::User(_) => &["service", "user"],
            Access::Service(_) | Access::Administrator(_) => &["service"],
        };
        assert_eq!(schemes, expected, "{} {}", operation.method, operation.path);
    }
}

/// Asks by the caller for ada's connection and for one that is not there: both answers have to be
/// the same, with this status and code, and nothing is to have changed.
async fn refused(
    home: &mut Home,
    operation: &Operation,
    caller: &Caller,
    as_what: (u16, &str),
) -> usize {
    let Home { house, ids, sql } = home;
    let what = format!("{} {} by {}", operation.method, operation.path, caller.name);
    let before = everything(sql).await;
    let unknown = Uuid::now_v7().to_string();
    let nobodys = Seen::of(caller.asks(operation.request(house, &unknown)), &unknown).await;
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
        let theirs = Seen::of(caller.asks(operation.request(house, id)), id).await;
        assert_eq!(theirs, nobodys, "{what}: it tells that {id} is there");
    }
    assert_eq!(
        everything(sql).await,
        before,
        "{what}: it changed something"
    );
    ids.len() + 1
}

#[tokio::test]
async fn who_is_nobody_is_refused_everywhere_and_changes_nothing() {
    let mut home = Home::new().await;
    let nobodies = nobodies(&home.house).await;
    let operations = Operation::all();
    let mut cases = 0;
    for operation in &operations {
        for caller in &nobodies {
            cases += match operation.access {
                Access::Everybody => {
                    let answer =
                        Seen::of(caller.asks(operation.request(&home.house, "")), "-").await;
                    assert_eq!(answer.status, 200, "{}", operation.path);
                    1
                }
                Access::Signed => {
                    refused(&mut home, operation, caller, (401, "invalid_signature")).await
                }
                _ => refused(&mut home, operation, caller, (401, "unauthenticated")).await,
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
async fn a_key_opens_what_its_scopes_say_and_names_its_user() {
    let mut home = Home::new().await;
    let mut cases = 0;
    for operation in Operation::all() {
        if let Some(scope) = operation.scope() {
            for user in ["ada", "bob", ""] {
                let caller = Caller::lacking(scope, user);
                cases += refused(&mut home, &operation, &caller, (403, "insufficient_scope")).await;
            }
        }
        if let Access::User(_) | Access::Service(_) = operation.access {
            let caller = Caller::service("");
            cases += refused(&mut home, &operation, &caller, (400, "user_required")).await;
        }
        if let Access::Service(_) | Access::Administrator(_) = operation.access {
            // Not even one's own.
            for user in ["ada", "bob"] {
                let caller = Caller::user(&home.house, user);
                cases += refused(&mut home, &operation, &caller, (403, "service_key_needed")).await;
            }
        }
    }
    println!(
        "keys without a scope, without a user, and users where keys are needed: {cases} requests"
    );
    assert!(cases >= 22 * 4);
}

#[tokio::test]
async fn another_users_connection_is_one_that_is_not_there() {
    let mut home = Home::new().await;
    let mut cases = 0;
    for operation in Operation::all()
        .iter()
        .filter(|operation| operation.names_one())
    {
        let callers = match operation.access {
            Access::User(_) => bobs(&home.house),
            _ => vec![Caller::service("bob")],
        };
        for caller in callers {
            cases += refused(&mut home, operation, &caller, (404, "connection_not_found")).await;
        }
    }
    // The return from the popup is known by Nango's id, too.
    let callback = Operation::all()
        .into_iter()
        .find(|one| one.path.ends_with("/callback"))
        .unwrap();
    home.ids = home.house.nango_connections().await;
    assert_eq!(home.ids.len(), 1);
    let bob = Caller::user(&home.house, "bob");
    cases += refused(&mut home, &callback, &bob, (404, "connection_not_found")).await;
    println!("another user's connections: {cases} requests");
    assert!(cases >= 16 * 4);
}

/// Bob by himself, in ada's name, which counts for services only, and by a service.
fn bobs(house: &House) -> Vec<Caller> {
    vec![
        Caller::user(house, "bob"),
        Caller::user(house, "bob").acting_for("ada"),
        Caller::service("bob"),
    ]
}

#[tokio::test]
async fn what_names_no_connection_shows_and_changes_the_callers_own_only() {
    let Home { house, ids, .. } = Home::new().await;
    let before = all_of(&house, "ada").await;
    let nango_ids = house.nango_connections().await;
    let adas = marks(&house, &ids).await;
    let mut cases = 0;
    for operation in Operation::all() {
        let callers = match operation.access {
            Access::User(_) => bobs(&house),
            Access::Service(_) => vec![Caller::service("bob")],
            _ => continue,
        };
        if operation.names_one() {
            continue;
        }
        for caller in callers {
            let answer = Seen::of(caller.asks(operation.request(&house, "")), "-").await;
            let expected = match operation.access {
                // Bob has no token to give.
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
    // By what is left out, and by an event that bob has not seen.
    let bob = Caller::user(&house, "bob");
    for (method, path) in [
        ("DELETE", "/gmail/disconnect"),
        ("DELETE", "/gmail/disconnect?instance_id="),
        ("GET", "/connections?connector_id=gmail"),
        ("GET", "/connections?status=connected&limit=500"),
        ("GET", &format!("/connections?cursor={}", ids[2])),
    ] {
        let url = format!("{}/api/v1/connectors{path}", house.url);
        let request = house.client.request(method.parse().unwrap(), url);
        let answer = Seen::of(bob.asks(request), &ids[2]).await;
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
    assert_eq!(all_of(&house, "ada").await, before);
    assert_eq!(house.nango_connections().await[..], nango_ids[..]);
}

#[tokio::test]
async fn a_stream_that_another_opened_never_has_ones_events() {
    let house = House::with(&[("SERVICE_API_KEYS", &service_keys())]).await;
    let (ada, bob) = (house.user("ada").await, house.user("bob").await);
    ada.connected("gmail").await;
    let url = format!("{}/api/v1/connectors/connections/events", house.url);
    let mut streams = Vec::new();
    // From now on, from the beginning of all events, and in the name of a user.
    for (caller, after) in [
        (Caller::user(&house, "bob"), None),
        (Caller::user(&house, "bob"), Some("0")),
        (Caller::service("bob"), Some("0")),
    ] {
        let request = caller.asks(house.client.get(&url));
        let request = match after {
            Some(id) => request.header("last-event-id", id),
            None => request,
        };
        streams.push(request.send().await.unwrap());
    }
    for connector in ["github", "notion"] {
        ada.connected(connector).await;
    }
    // What bob does is the last of his events: whatever was there for him has come before.
    let last = bob.connect("airtable").await;
    let last = last["attempt_id"].as_str().unwrap();
    for mut stream in streams {
        let mut text = Vec::new();
        while !String::from_utf8_lossy(&text).contains(last) {
            text.extend(stream.chunk().await.unwrap().unwrap());
        }
        // And what has come besides, by now.
        while let Some(Ok(Some(more))) = stream.chunk().now_or_never() {
            text.extend(more);
        }
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text.matches("event: connection").count(), 1, "{text}");
    }
}
