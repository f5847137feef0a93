//! Another user's connection is one that does not exist.

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Answer, events, text};
use crate::house::{House, User};

/// Every request that names a connection, with the body that it takes.
fn requests(id: &str) -> Vec<(Method, String, Option<Value>)> {
    let label = json!({ "label": "mine now", "config": { "a": 1 } });
    vec![
        (Method::GET, format!("/connections/{id}"), None),
        (Method::PATCH, format!("/connections/{id}"), Some(label)),
        (Method::POST, format!("/connections/{id}/reconnect"), None),
        (
            Method::DELETE,
            format!("/gmail/disconnect?connection_id={id}"),
            None,
        ),
        (Method::GET, format!("/callback?connection_id={id}"), None),
    ]
}

fn without_request_id(answer: &Answer) -> Value {
    let mut body = answer.is_problem(404, "connection_not_found");
    body.as_object_mut().unwrap().remove("request_id");
    body
}

async fn same(user: &User<'_>, id: &str, unknown: &str) {
    for (theirs, nobodys) in requests(id).into_iter().zip(requests(unknown)) {
        let (method, path, body) = theirs;
        let theirs = user.ask(method.clone(), &path, body).await;
        let (_, _, body) = nobodys.clone();
        let nobodys = user.ask(method, &nobodys.1, body).await;
        assert_eq!(
            without_request_id(&theirs),
            without_request_id(&nobodys),
            "{path}"
        );
        let names = |answer: &Answer| {
            let mut names: Vec<_> = answer.headers.keys().map(ToString::to_string).collect();
            names.sort();
            names
        };
        assert_eq!(names(&theirs), names(&nobodys), "{path}");
    }
}

#[tokio::test]
async fn another_users_connection_cannot_be_told_from_one_that_is_not_there() {
    let house = House::new().await;
    let (ada, bob) = (house.user("ada").await, house.user("bob").await);
    let connected = ada.connected("gmail").await;
    let pending = text(&ada.connect("github").await, "connection_id");
    let id = text(&connected, "id");
    let before = (
        ada.get("/connections").await,
        events(&house, &id).await,
        events(&house, &pending).await,
    );
    let unknown = Uuid::now_v7().to_string();
    same(&bob, &id, &unknown).await;
    same(&bob, &pending, &unknown).await;
    // By Nango's id, too.
    let nango_id = text(&connected, "nango_connection_id");
    let theirs = bob
        .ask_get(&format!("/callback?connection_id={nango_id}"))
        .await;
    let nobodys = bob
        .ask_get(&format!("/callback?connection_id={}", Uuid::new_v4()))
        .await;
    assert_eq!(without_request_id(&theirs), without_request_id(&nobodys));
    bob.ask_delete("/gmail/disconnect")
        .await
        .is_problem(404, "connection_not_found");

    let after = (
        ada.get("/connections").await,
        events(&house, &id).await,
        events(&house, &pending).await,
    );
    assert_eq!(after, before);
    assert_eq!(bob.count().await, 0);
    assert_eq!(house.nango_connections().await, [nango_id]);
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_an_error_for_its_own_user_only() {
    let house = House::new().await;
    let (ada, bob) = (house.user("ada").await, house.user("bob").await);
    ada.connect("gmail").await;
    bob.connect("gmail").await;
    house.faults(json!({ "only": "tags", "status": 500 })).await;
    sqlx::query(
        "update user_connector_connection set status = 'error', status_reason = 'of another version' \
         where user_id = 'ada'",
    )
    .execute(&mut house.sql().await)
    .await
    .unwrap();
    // At the same time, so that they share statements.
    let list = async |user: &User<'_>| user.call(Method::GET, "/connections", None).await.0;
    let all = futures::future::join_all((0..40).map(async |_| {
        let (adas, bobs) = tokio::join!(list(&ada), list(&bob));
        (adas.as_u16(), bobs.as_u16())
    }))
    .await;
    assert!(all.iter().all(|both| *both == (500, 200)), "{all:?}");
}
