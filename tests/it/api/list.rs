//! The list of connections: pages, filters, and invalid parameters.

use futures::future::join_all;
use insta::assert_snapshot;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use super::text;
use crate::test_app::{TestApp, User};

fn ids(page: &Value) -> Vec<String> {
    let connections = page["connections"].as_array().unwrap();
    connections.iter().map(|one| text(one, "id")).collect()
}

/// Starts this many connections. Returns their ids, newest first.
async fn start_attempt(user: &User<'_>, connector: &str, count: usize) -> Vec<String> {
    let begin = async |number: usize| {
        let path = format!("/{connector}/connect?instance_id={number}");
        text(
            &user.send_post(&path, json!({})).await.json(),
            "connection_id",
        )
    };
    let mut ids = join_all((0..count).map(begin)).await;
    ids.sort_by(|a, b| b.cmp(a));
    ids
}

#[tokio::test]
async fn pagination_has_no_gaps_or_duplicates() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let all = start_attempt(&ada, "gmail", 23).await;
    for limit in [1, 5, 23, 500] {
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = ada
                .get(&format!("/connections?limit={limit}{cursor}"))
                .await;
            assert_eq!(page["total_count"], 23);
            seen.extend(ids(&page));
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert_eq!(seen, all, "pages of {limit}");
    }
    // A connection created during pagination does not shift the pages.
    let first = ada.get("/connections?limit=10").await;
    ada.connect("github").await;
    let next = text(&first, "next_cursor");
    let second = ada
        .get(&format!("/connections?limit=10&cursor={next}"))
        .await;
    assert_eq!(ids(&second), all[10..20]);
    assert_eq!(second["total_count"], 24);
}

#[tokio::test]
async fn filters_accept_slugs_ids_and_statuses() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    let pending = start_attempt(&ada, "github", 2).await;
    let all = [pending.clone(), vec![text(&connected, "id")]].concat();
    let gmail = text(&connected, "connector_id");
    let upper = gmail.to_uppercase();
    let unknown = Uuid::new_v4();
    let cases: [(&str, &[String]); 12] = [
        ("", &all),
        ("connector_id=gmail", &all[2..]),
        (&format!("connector_id={gmail}"), &all[2..]),
        (&format!("connector_id={upper}"), &all[2..]),
        ("connector_id=github", &pending),
        ("connector_id=nope", &[]),
        (&format!("connector_id={unknown}"), &[]),
        ("status=pending", &pending),
        ("status=connected&connector_id=gmail", &all[2..]),
        ("status=connected&connector_id=github", &[]),
        ("status=error", &[]),
        ("skip=1&page=3&user_id=bob&unknown", &all),
    ];
    for (query, expected) in cases {
        let page = ada.get(&format!("/connections?{query}")).await;
        assert_eq!(ids(&page), expected, "{query}");
        assert_eq!(page["total_count"], expected.len(), "{query}");
        assert_eq!(page["next_cursor"], json!(null), "{query}");
    }
    let bob = app.user("bob").await;
    assert_snapshot!(bob.send_get("/connections?connector_id=gmail").await, @r#"
    200 OK
    {
      "connections": [],
      "next_cursor": null,
      "total_count": 0
    }
    "#);
}

#[tokio::test]
async fn list_rejects_invalid_parameters() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    for query in [
        "limit=0",
        "limit=501",
        "limit=-5",
        "limit=",
        "limit=1e3",
        "limit=99999999999999999999",
        "cursor=abc",
        "cursor=",
        "status=Connected",
        "status=broken",
        "status=pending&status=error",
    ] {
        let answer = ada.send_get(&format!("/connections?{query}")).await;
        answer.is_problem(400, "invalid_request");
    }
    assert_snapshot!(ada.send_get("/connections?status=broken").await, @r#"
    400 Bad Request
    {
      "code": "invalid_request",
      "detail": "Failed to deserialize query string: status: unknown variant `broken`, expected one of `pending`, `connected`, `disconnected`, `error`",
      "request_id": "[id]",
      "status": 400,
      "title": "The request is not valid",
      "type": "urn:patchbay:problem:invalid_request"
    }
    "#);
    assert_snapshot!(ada.send_get("/connections?limit=0").await, @r#"
    400 Bad Request
    {
      "code": "invalid_request",
      "detail": "limit must be 1 to 500",
      "request_id": "[id]",
      "status": 400,
      "title": "The request is not valid",
      "type": "urn:patchbay:problem:invalid_request"
    }
    "#);
    let answer = ada.send_get("/connections/not-a-uuid").await;
    answer.is_problem(400, "invalid_request");
}

#[tokio::test]
async fn list_shows_changes_made_at_other_replicas() {
    let app = TestApp::new().await;
    let replica = app.replica(&[]).await;
    let ada = app.user("ada").await;
    let ada_on_replica = ada.at(&replica);
    let gmail = ada.connected("gmail").await;
    let path = format!("/connections/{}", text(&gmail, "id"));
    let both = async || {
        [
            ada.get("/connections").await,
            ada_on_replica.get("/connections").await,
        ]
    };
    for round in 0..20 {
        let [here, there_too] = both().await;
        assert_eq!(here, there_too);
        let label = json!(format!("number {round}"));
        let one = if round % 2 == 0 {
            &ada
        } else {
            &ada_on_replica
        };
        let changed = one.call(Method::PATCH, &path, Some(json!({ "label": label })));
        assert_eq!(changed.await.0, StatusCode::OK);
        for list in both().await {
            assert_eq!(list["connections"][0]["label"], label, "{list}");
        }
    }
    ada_on_replica.disconnect("gmail", "").await;
    for list in both().await {
        assert_eq!(list["connections"][0]["status"], "disconnected", "{list}");
    }
    assert_eq!(
        app.user("bob").await.get("/connections").await["total_count"],
        0
    );
}
