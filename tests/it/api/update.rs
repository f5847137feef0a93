//! Updates of a connection's label and config.

use insta::assert_snapshot;
use reqwest::Method;
use serde_json::{Value, json};

use super::{events, text};
use crate::test_app::TestApp;

#[tokio::test]
async fn update_sets_label_and_config() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let id = text(&ada.connected("gmail").await, "id");
    app.advance(chrono::TimeDelta::seconds(5));
    let body = json!({ "label": " Work ", "config": { "a": 1, "b": { "c": true } } });
    assert_snapshot!(ada.send_patch(&id, body).await, @r#"
    200 OK
    {
      "account": null,
      "account_unknown_reason": "not_offered",
      "attempt": {
        "created_at": "2027-01-15T08:00:00Z",
        "ended_at": "2027-01-15T08:00:00Z",
        "error_code": null,
        "error_message": null,
        "expires_at": "2027-01-15T08:30:00Z",
        "id": "[id]",
        "kind": "connect",
        "outcome": "succeeded",
        "same_browser": null
      },
      "config": {
        "a": 1,
        "b": {
          "c": true
        }
      },
      "connected_at": "2027-01-15T08:00:00Z",
      "connector_id": "2ca8a1b8-0995-578b-b87c-dc39f677e722",
      "connector_name": "Gmail",
      "connector_slug": "gmail",
      "created_at": "2027-01-15T08:00:00Z",
      "disconnected_at": null,
      "error_count": 0,
      "failing_since": null,
      "id": "[id]",
      "instance_id": "",
      "label": "Work",
      "last_checked_at": "2027-01-15T08:00:00Z",
      "last_error": null,
      "last_synced_at": "2027-01-15T08:00:00Z",
      "missing_scopes": null,
      "nango_connection_id": "[id]",
      "pending_account": null,
      "same_account_as": [],
      "scopes": null,
      "status": "connected",
      "status_reason": null,
      "updated_at": "2027-01-15T08:00:05Z",
      "user_id": "ada",
      "version": 3
    }
    "#);
}

#[tokio::test]
async fn update_keeps_omitted_fields_and_null_removes() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let id = text(&ada.connected("gmail").await, "id");
    let body = json!({ "label": "Work", "config": { "a": 1, "b": { "c": true } } });
    ada.send_patch(&id, body).await;
    let body = json!({ "config": { "a": null, "b": { "d": false }, "none": null } });
    let changed = ada.send_patch(&id, body).await.json();
    assert_eq!(changed["label"], "Work");
    assert_eq!(changed["config"], json!({ "b": { "d": false } }));
    let changed = ada.send_patch(&id, json!({ "label": null })).await.json();
    assert_eq!(changed["label"], json!(null));
    assert_eq!(changed["config"], json!({ "b": { "d": false } }));
    assert_eq!(ada.connection(&id).await, changed);
    assert_eq!(
        events(&app, &id).await,
        ["attempt_started", "connected", "updated"]
    );
}

/// Returns the newest event of a connection: its position, version and kind.
async fn newest(app: &TestApp, id: &str) -> (i64, i64, String) {
    sqlx::query_as(
        "select position, version, kind from connection_event where connection_id = $1 order by version desc limit 1",
    )
    .bind(id.parse::<uuid::Uuid>().unwrap())
    .fetch_one(&mut app.sql().await)
    .await
    .unwrap()
}

#[tokio::test]
async fn changes_within_a_minute_are_one_event() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let id = text(&ada.connected("gmail").await, "id");
    let label = async |label: &str| {
        let changed = ada.send_patch(&id, json!({ "label": label })).await;
        changed.json()
    };
    let first = label("one").await;
    let before = newest(&app, &id).await;
    assert_eq!((before.1, before.2.as_str()), (3, "updated"));
    app.advance(chrono::TimeDelta::seconds(59));
    let second = label("two").await;
    assert_eq!(second["label"], "two");
    assert_eq!(ada.connection(&id).await, second);
    assert_ne!(second["updated_at"], first["updated_at"]);
    // The same event, moved behind all events that were read.
    let merged = newest(&app, &id).await;
    assert_eq!((merged.1, merged.2.as_str()), (3, "updated"));
    assert!(merged.0 > before.0);
    // The minute starts with the first change, so continuous changes cause one event a minute.
    app.advance(chrono::TimeDelta::seconds(2));
    label("three").await;
    assert_eq!(newest(&app, &id).await.1, 4);
    // Any other event also ends the merging.
    let reconnect = format!("/connections/{id}/reconnect");
    ada.send_post(&reconnect, json!({})).await;
    label("four").await;
    assert_eq!(newest(&app, &id).await.1, 6);
    assert_eq!(
        events(&app, &id).await,
        [
            "attempt_started",
            "connected",
            "updated",
            "updated",
            "attempt_started",
            "updated"
        ]
    );
}

#[tokio::test]
async fn text_that_turns_text_around_is_taken_out_of_labels() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let id = text(&ada.connected("gmail").await, "id");
    let marks = "\u{301}".repeat(60);
    for (label, shown) in [
        ("a\u{202e}b\u{2066}c\u{200f}", "abc".to_owned()),
        (&format!("e{marks}"), format!("e{}", "\u{301}".repeat(4))),
        ("\u{202e} Work \u{202c}", "Work".to_owned()),
    ] {
        let changed = ada.send_patch(&id, json!({ "label": label })).await.json();
        assert_eq!(changed["label"], shown);
        let body = json!({ "label": label });
        let started = ada.send_post("/notion/connect", body).await.json();
        let notion = ada.connection(&text(&started, "connection_id")).await;
        assert_eq!(notion["label"], shown);
    }
    let empty = json!({ "label": "\u{202e}\u{2069}" });
    ada.send_patch(&id, empty)
        .await
        .is_problem(400, "invalid_request");
}

#[tokio::test]
async fn update_without_change_writes_no_event() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let id = text(&ada.connected("gmail").await, "id");
    let set = json!({ "label": "Work", "config": { "a": 1 } });
    let before = ada.send_patch(&id, set.clone()).await.json();
    app.advance(chrono::TimeDelta::seconds(5));
    for body in [
        json!({}),
        set,
        json!({ "label": " Work " }),
        json!({ "config": { "b": null } }),
    ] {
        assert_eq!(ada.send_patch(&id, body).await.json(), before);
    }
    assert_eq!(events(&app, &id).await.len(), 3);
}

#[tokio::test]
async fn update_rejects_invalid_values_and_changes_nothing() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let id = text(&ada.connected("gmail").await, "id");
    let large = |bytes: usize| json!({ "config": { "k": "x".repeat(bytes) } });
    // The largest config that fits: {"k":"…"} is eight bytes more.
    let before = ada.send_patch(&id, large(4 * 1024 - 8)).await.json();
    let refused: [Value; 13] = [
        json!({ "label": "" }),
        json!({ "label": " \t " }),
        json!({ "label": "a\u{0}b" }),
        json!({ "label": "x".repeat(256) }),
        json!({ "label": 7 }),
        json!({ "config": [] }),
        large(4 * 1024 - 7),
        // PostgreSQL stores each number with three hundred digits.
        json!({ "config": { "k": [1e300, 1e300, 1e300, 1e300, 1e300, 1e300, 1e300, 1e300, 1e300, 1e300, 1e300, 1e300, 1e300, 1e300] } }),
        // Each of them fits, but not both.
        json!({ "config": { "another": 1 } }),
        json!({ "config": { "k": "a\u{0}b" } }),
        json!({ "config": { "k": null, "a\u{0}b": 1 } }),
        json!({ "status": "connected" }),
        json!({ "label": "ok", "user_id": "bob" }),
    ];
    for body in refused {
        ada.send_patch(&id, body)
            .await
            .is_problem(400, "invalid_request");
    }
    assert_eq!(ada.connection(&id).await, before);
    assert_eq!(events(&app, &id).await.len(), 3);
}

#[tokio::test]
async fn update_rejection_explains_remedy() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let id = text(&ada.connected("gmail").await, "id");
    let large = json!({ "config": { "k": "x".repeat(20_000) } });
    assert_snapshot!(ada.send_patch(&id, json!({ "label": " " })).await, @r#"
    400 Bad Request
    {
      "code": "invalid_request",
      "detail": "`label` must have a visible character. Omit it, or send null to remove it.",
      "request_id": "[id]",
      "status": 400,
      "title": "The request is not valid",
      "type": "urn:patchbay:problem:invalid_request"
    }
    "#);
    assert_snapshot!(ada.send_patch(&id, json!({ "colour": "red" })).await, @r#"
    400 Bad Request
    {
      "code": "invalid_request",
      "detail": "Failed to deserialize the JSON body into the target type: colour: unknown field `colour`, expected `label` or `config` at line 1 column 9",
      "request_id": "[id]",
      "status": 400,
      "title": "The request is not valid",
      "type": "urn:patchbay:problem:invalid_request"
    }
    "#);
    assert_snapshot!(ada.send_patch(&id, large).await, @r#"
    400 Bad Request
    {
      "code": "invalid_request",
      "detail": "`config` must have at most 4096 bytes of JSON, and would have 20008. Numbers count with all their digits.",
      "request_id": "[id]",
      "status": 400,
      "title": "The request is not valid",
      "type": "urn:patchbay:problem:invalid_request"
    }
    "#);
    assert_snapshot!(ada.send_patch(&id, json!({ "config": { "k": "\u{0}" } })).await, @r#"
    400 Bad Request
    {
      "code": "invalid_request",
      "detail": "`config` must not contain the character U+0000. Remove it from the value of \"k\" or from this key.",
      "request_id": "[id]",
      "status": 400,
      "title": "The request is not valid",
      "type": "urn:patchbay:problem:invalid_request"
    }
    "#);
}

#[tokio::test]
async fn update_rejects_malformed_json_and_changes_nothing() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let before = ada.connected("gmail").await;
    let id = text(&before, "id");
    let path = format!("/connections/{id}");
    let raw = async |kind: &str, body: &'static str| {
        let request = ada
            .request(Method::PATCH, &path)
            .header("content-type", kind)
            .body(body);
        super::TestResponse::to(request).await
    };
    let json = "application/json";
    raw("text/plain", "{}")
        .await
        .is_problem(415, "unsupported_media_type");
    raw(json, "{").await.is_problem(400, "invalid_request");
    raw(json, "").await.is_problem(400, "invalid_request");
    raw(json, r#"{"config":{"a":"\ud800"}}"#)
        .await
        .is_problem(400, "invalid_request");
    raw(json, r#"{"config":{"a":1e999}}"#)
        .await
        .is_problem(400, "invalid_request");
    raw(json, r#"{"label":"a","label":"b"}"#)
        .await
        .is_problem(400, "invalid_request");
    assert_eq!(ada.connection(&id).await, before);
}

#[tokio::test]
async fn config_round_trips_unusual_values() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let id = text(&ada.connected("gmail").await, "id");
    let config = json!({
        "greatest": f64::MAX,
        "least": f64::MIN,
        "smallest": f64::MIN_POSITIVE,
        "nearest to nothing": 5e-324,
        "whole": [u64::MAX, i64::MIN, 0],
        "\u{fd}\u{9a}\u{10fffd}": "\u{1f}\u{7f}\u{feff}\\u0000",
        "": { "'; drop table connector; --": [[], {}, null, true] },
    });
    let answer = ada.send_patch(&id, json!({ "config": config })).await;
    assert_eq!(answer.status, 200, "{answer}");
    let connections = ada.get("/connections").await;
    assert_eq!(connections["connections"][0]["config"], config);
    assert_eq!(ada.connection(&id).await["config"], config);
}

#[tokio::test]
async fn request_body_must_be_an_object() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    let id = text(&connected, "id");
    for body in [
        json!(["Work", {}]),
        json!([null, null]),
        json!("Work"),
        json!(1),
    ] {
        let refused = ada.send_patch(&id, body.clone()).await;
        refused.is_problem(400, "invalid_request");
        for path in [
            "/notion/connect".to_owned(),
            format!("/connections/{id}/reconnect"),
            format!("/connections/{id}/account"),
        ] {
            let refused = ada.send_post(&path, body.clone()).await;
            refused.is_problem(400, "invalid_request");
        }
    }
    assert_eq!(ada.connection(&id).await, connected);
    assert_eq!(ada.count().await, 1);
    // `null` has the same meaning as no body.
    let started = ada.send_post("/notion/connect", Value::Null).await;
    assert_eq!(started.status, 200, "{started}");
}
