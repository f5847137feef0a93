//! Bodies that name unknown fields or values that can never work are rejected and change nothing.

use reqwest::Method;
use serde_json::{Value, json};

use super::{TestResponse, text};
use crate::test_app::{TestApp, User};

/// Fails unless a body is rejected with a message that contains a text.
async fn is_refused(user: &User<'_>, path: &str, body: Value, named: &str) {
    let refused = user.send_post(path, body.clone()).await;
    let problem = refused.is_problem(400, "invalid_request");
    assert!(
        text(&problem, "detail").contains(named),
        "{body}: {refused}"
    );
}

#[tokio::test]
async fn unknown_body_field_is_rejected() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let before = ada.connected("gmail").await;
    let id = text(&before, "id");
    for path in [
        "/notion/connect".to_owned(),
        format!("/connections/{id}/reconnect"),
        format!("/connections/{id}/cancel"),
    ] {
        for (body, field) in [
            (json!({ "lable": "Work" }), "lable"),
            (json!({ "instance_id": "work" }), "instance_id"),
        ] {
            is_refused(&ada, &path, body, field).await;
        }
    }
    let account = json!({ "account_id": "x", "acount": "y" });
    is_refused(
        &ada,
        &format!("/connections/{id}/account"),
        account,
        "acount",
    )
    .await;
    assert_eq!(ada.count().await, 1);
    assert_eq!(ada.connection(&id).await, before);
}

/// The original frontend sends the instance in the query, and no body or an empty one.
#[tokio::test]
async fn original_connect_requests_are_accepted() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let json = "application/json";
    for (n, (kind, body)) in [
        (None, ""),
        (Some(json), ""),
        (Some(json), "null"),
        (Some(json), "{}"),
        (Some("application/x-www-form-urlencoded"), ""),
    ]
    .into_iter()
    .enumerate()
    {
        let path = format!("/gmail/connect?instance_id=work-{n}");
        let mut request = ada.request(Method::POST, &path).body(body);
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        let request = request.header("x-csrf-token", "a token");
        let started = TestResponse::to(request).await;
        assert_eq!(started.status, 200, "{started}");
        let connection = ada
            .connection(&text(&started.json(), "connection_id"))
            .await;
        assert_eq!(connection["instance_id"], format!("work-{n}"));
    }
}

#[tokio::test]
async fn scope_with_separator_is_rejected() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let before = ada.connected("gmail").await;
    let id = text(&before, "id");
    for scope in ["a b", "a,b", "", " ", "a ", ",", "a\u{a0}b", "a\u{2003}b"] {
        let body = json!({ "scopes": ["good", scope] });
        let named = format!("`scopes` must not contain {scope:?}");
        for path in [
            "/notion/connect".to_owned(),
            format!("/connections/{id}/reconnect"),
        ] {
            is_refused(&ada, &path, body.clone(), &named).await;
        }
    }
    assert_eq!(ada.count().await, 1);
    assert_eq!(ada.connection(&id).await, before);
    let unusual = [
        "https://www.googleapis.com/auth/gmail.readonly",
        "users:read",
        "twf.organisationUser",
        ".default",
        "repo/status+x;y|z",
    ];
    let body = json!({ "scopes": unusual });
    let started = ada.send_post("/notion/connect", body).await;
    assert_eq!(started.status, 200, "{started}");
}

#[tokio::test]
async fn label_without_visible_character_is_rejected() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let before = ada.connected("gmail").await;
    let id = text(&before, "id");
    for label in [
        "\u{200b}",
        "\u{200d}\u{200d}",
        "\u{feff}",
        "\u{3164}",
        "\u{ad}",
        "\u{e0041}\u{e007f}",
        "\u{200b} \u{2060}\u{3000}\u{115f}",
        "\u{2800}",
        "\u{fe0f}",
        "\u{202e}\u{200b}",
    ] {
        let body = json!({ "label": label });
        is_refused(&ada, "/notion/connect", body.clone(), "`label`").await;
        let refused = ada.send_patch(&id, body).await;
        refused.is_problem(400, "invalid_request");
    }
    assert_eq!(ada.count().await, 1);
    assert_eq!(ada.connection(&id).await, before);
    for label in [
        "\u{1f469}\u{200d}\u{1f467}",
        "a\u{ad}b",
        "\u{645}\u{200c}\u{62e}",
    ] {
        let shown = ada.send_patch(&id, json!({ "label": label })).await.json();
        assert_eq!(shown["label"], label);
    }
}

#[tokio::test]
async fn config_with_nul_is_rejected_by_name() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let before = ada.connected("gmail").await;
    let id = text(&before, "id");
    for config in [
        json!({ "folder": "a\0b" }),
        json!({ "folder": { "deep": ["a\0b"] } }),
        json!({ "folder": { "a\0b": 1 } }),
        json!({ "folder\0": null }),
    ] {
        let body = json!({ "config": config });
        for named in ["`config`", "folder"] {
            is_refused(&ada, "/notion/connect", body.clone(), named).await;
        }
        let refused = ada.send_patch(&id, body).await;
        assert!(refused.text.contains("`config`"), "{refused}");
    }
    assert_eq!(ada.count().await, 1);
    assert_eq!(ada.connection(&id).await, before);
    let refused = ada.send_get("/callback?connection_id=a%00b").await;
    let problem = refused.is_problem(400, "invalid_request");
    assert!(text(&problem, "detail").contains("`connection_id`"));
}

/// Nango counts the UTF-16 code units of a tag: an emoji has two.
#[tokio::test]
async fn instance_id_is_limited_in_utf16_units() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let encoded = |count: usize| format!("?instance_id={}", "%F0%9F%90%B1".repeat(count));
    let path = format!("/gmail/connect{}", encoded(128));
    is_refused(&ada, &path, json!({}), "`instance_id`").await;
    let path = format!("/gmail/disconnect{}", encoded(128));
    ada.send_delete(&path)
        .await
        .is_problem(400, "invalid_request");
    assert_eq!(ada.count().await, 0);
    let path = format!("/gmail/connect{}", encoded(127));
    let started = ada.send_post(&path, json!({})).await;
    assert_eq!(started.status, 200, "{started}");
    for (count, status) in [(127, 201), (128, 400)] {
        let url = format!("http://{}/connect/sessions", app.sandbox.address());
        let tags = json!({ "tags": { "patchbay_instance": "\u{1f431}".repeat(count) } });
        let request = app.client.post(url).bearer_auth(&app.secret_key);
        let answer = TestResponse::to(request.json(&tags)).await;
        assert_eq!(answer.status, status, "{answer}");
    }
}
