//! The return from the popup: JSON, the page for browsers, and the redirect to Nango.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use insta::assert_snapshot;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{TestResponse, text};
use crate::test_app::{ORIGIN, TestApp, User};

/// Sends a request like a browser's navigation, without a token.
async fn page(app: &TestApp, query: &str) -> TestResponse {
    let url = format!("{}/api/v1/connectors/callback?{query}", app.url);
    let accept = "text/html,application/xhtml+xml,*/*;q=0.8";
    TestResponse::to(app.client.get(url).header("accept", accept)).await
}

/// Returns the text between two markers of a page.
fn between<'a>(page: &'a str, start: &str, end: &str) -> &'a str {
    let (_, rest) = page.split_once(start).unwrap();
    rest.split_once(end).unwrap().0
}

/// Returns the message of the page to its opener, with the allowed origins.
fn message_data(answer: &TestResponse) -> Value {
    let data = between(&answer.text, r#"id="message">"#, "</script>");
    serde_json::from_str(data).unwrap()
}

/// Completes the popup without a webhook.
async fn grant_without_webhook(user: &User<'_>) -> Value {
    let faults = json!({ "consent": "allow", "drop_webhooks": true });
    user.app.faults(faults).await;
    let started = user.connect("gmail").await;
    user.app.popup(&text(&started, "oauth_url")).await;
    started
}

#[tokio::test]
async fn list_detects_grant_without_webhook() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let started = grant_without_webhook(&ada).await;
    let list = ada.get("/connections").await;
    assert_eq!(list["connections"][0]["id"], started["connection_id"]);
    assert_eq!(list["connections"][0]["status"], "connected");
}

#[tokio::test]
async fn callback_detects_grant_without_webhook() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "allow", "drop_webhooks": true }))
        .await;
    let started = ada.connect("gmail").await;
    // This poll finds no grant; the callback must not reuse its result.
    assert_eq!(
        ada.get("/connections").await["connections"][0]["status"],
        "pending"
    );
    app.popup(&text(&started, "oauth_url")).await;
    let path = format!(
        "/callback?connection_id={}",
        text(&started, "connection_id")
    );
    assert_snapshot!(ada.send_get(&path).await, @r#"
    200 OK
    {
      "connection_id": "[id]",
      "connector_id": "2ca8a1b8-0995-578b-b87c-dc39f677e722",
      "connector_slug": "gmail",
      "message": "Gmail is connected",
      "nango_connection_id": "[id]",
      "status": "connected",
      "status_reason": null,
      "success": true
    }
    "#);
}

#[tokio::test]
async fn callback_accepts_nango_connection_id() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let started = grant_without_webhook(&ada).await;
    let nango_id = app.nango_connections().await.remove(0);
    let answer = ada
        .send_get(&format!("/callback?connection_id={nango_id}"))
        .await
        .json();
    assert_eq!(
        (&answer["success"], &answer["connection_id"]),
        (&json!(true), &started["connection_id"])
    );
    assert_eq!(answer["nango_connection_id"], nango_id);
}

#[tokio::test]
async fn callback_reports_status_when_not_connected() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let started = ada.connect("gmail").await;
    let path = format!(
        "/callback?connection_id={}",
        text(&started, "connection_id")
    );
    assert_snapshot!(ada.send_get(&path).await, @r#"
    200 OK
    {
      "connection_id": "[id]",
      "connector_id": "2ca8a1b8-0995-578b-b87c-dc39f677e722",
      "connector_slug": "gmail",
      "message": "Gmail still waits for the authorization",
      "nango_connection_id": null,
      "status": "pending",
      "status_reason": "awaiting_authorization",
      "success": false
    }
    "#);
    app.faults(json!({ "consent": "deny" })).await;
    app.popup(&text(&started, "oauth_url")).await;
    ada.wait_until(&text(&started, "connection_id"), "error")
        .await;
    assert_snapshot!(ada.send_get(&path).await, @r#"
    200 OK
    {
      "connection_id": "[id]",
      "connector_id": "2ca8a1b8-0995-578b-b87c-dc39f677e722",
      "connector_slug": "gmail",
      "message": "Access was not granted: The user denied the request",
      "nango_connection_id": null,
      "status": "error",
      "status_reason": "authorization_denied",
      "success": false
    }
    "#);
    ada.disconnect("gmail", "").await;
    assert_snapshot!(ada.send_get(&path).await, @r#"
    200 OK
    {
      "connection_id": "[id]",
      "connector_id": "2ca8a1b8-0995-578b-b87c-dc39f677e722",
      "connector_slug": "gmail",
      "message": "Gmail is disconnected",
      "nango_connection_id": null,
      "status": "disconnected",
      "status_reason": "user_disconnected",
      "success": false
    }
    "#);
}

#[tokio::test]
async fn callback_rejects_missing_and_unknown_ids() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    assert_snapshot!(ada.send_get("/callback").await, @r#"
    400 Bad Request
    {
      "code": "invalid_request",
      "detail": "state or connection_id is required",
      "request_id": "[id]",
      "status": 400,
      "title": "The request is not valid",
      "type": "urn:patchbay:problem:invalid_request"
    }
    "#);
    for id in [&Uuid::now_v7().to_string(), "nope"] {
        let answer = ada.send_get(&format!("/callback?connection_id={id}")).await;
        answer.is_problem(404, "connection_not_found");
    }
    let answer = ada.send_get("/callback?connection_id=a%00b").await;
    answer.is_problem(400, "invalid_request");
}

#[tokio::test]
async fn callback_page_posts_result_to_allowed_origins_only() {
    let app = TestApp::with(&[(
        "CORS_ALLOWED_ORIGINS",
        "https://app.example.com, https://admin.example.com/",
    )])
    .await;
    let grace = app.user("grace").await;
    let started = grant_without_webhook(&grace).await;
    let answer = page(
        &app,
        &format!("connection_id={}", text(&started, "connection_id")),
    )
    .await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    assert_eq!(
        message_data(&answer),
        json!({
            "message": {
                "type": "OAUTH_SUCCESS", "connection_id": started["connection_id"],
                "status": "connected", "error": null,
            },
            "origins": [ORIGIN, "https://admin.example.com"],
        })
    );
    // The policy allows only the page's own script and style, which are the only ones.
    let script = between(&answer.text, "<script>", "</script>");
    let style = between(&answer.text, "<style>", "</style>");
    let hash = |text: &str| STANDARD.encode(digest(&SHA256, text.as_bytes()));
    assert_eq!(
        answer.header("content-security-policy").unwrap(),
        format!(
            "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; \
             frame-ancestors 'none'; base-uri 'none'",
            hash(script),
            hash(style)
        )
    );
    assert!(
        script.contains("for (const origin of origins) window.opener.postMessage(message, origin)")
    );
    // The page also closes without an opener, whose reference the product may have removed.
    assert!(script.ends_with("}\nwindow.close();\n"), "{script}");
    assert!(!answer.text.contains('*'));
    // The public page must not reveal the user or the account. Neither name can occur in an id by chance.
    for secret in ["grace", "gmail", &app.nango_connections().await[0]] {
        assert!(!answer.text.to_lowercase().contains(secret), "{secret}");
    }
}

#[tokio::test]
async fn callback_page_reports_failures_and_unknown_ids() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "deny" })).await;
    let started = ada.connect("gmail").await;
    let id = text(&started, "connection_id");
    app.popup(&text(&started, "oauth_url")).await;
    ada.wait_until(&id, "error").await;
    let denied = page(&app, &format!("connection_id={id}")).await;
    assert_eq!(denied.status, 200);
    assert_eq!(
        message_data(&denied)["message"],
        json!({
            "type": "OAUTH_ERROR", "connection_id": id,
            "status": "error", "error": "authorization_denied",
        })
    );
    // Nango's ids are not secret: those of imported connections contain the user and the connector.
    let grace = app.user("grace").await;
    let granted = grant_without_webhook(&grace).await;
    let own = text(&granted, "connection_id");
    let connected = page(&app, &format!("connection_id={own}")).await;
    assert_eq!(message_data(&connected)["message"]["type"], "OAUTH_SUCCESS");
    let nango_id = app.nango_connections().await.remove(0);
    let answer = page(&app, &format!("connection_id={nango_id}")).await;
    assert_eq!(answer.status, 404);
    assert_eq!(
        message_data(&answer)["message"],
        json!({ "type": "OAUTH_ERROR", "error": "connection_not_found" })
    );
    let attack = "%3C%2Fscript%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E";
    for unknown in [&Uuid::now_v7().to_string(), attack] {
        let answer = page(&app, &format!("connection_id={unknown}")).await;
        assert_eq!(answer.status, 404);
        assert_eq!(
            answer.header("content-type"),
            Some("text/html; charset=utf-8")
        );
        assert!(!answer.text.contains("alert"));
        assert_eq!(
            message_data(&answer)["message"],
            json!({ "type": "OAUTH_ERROR", "error": "connection_not_found" })
        );
    }
}

#[tokio::test]
async fn unauthenticated_callback_does_not_query_nango() {
    let app = TestApp::new().await;
    let calls = async || {
        let calls = app.control("requests", Method::GET, json!(null)).await;
        calls.as_array().unwrap().len()
    };
    let before = calls().await;
    for _ in 0..3 {
        page(&app, &format!("connection_id={}", Uuid::new_v4())).await;
    }
    assert_eq!(calls().await, before);
}

#[tokio::test]
async fn provider_redirect_is_forwarded_to_nango_unmodified() {
    let app = TestApp::new().await;
    let nango = format!("http://{}/oauth/callback", app.sandbox.address());
    for query in [
        "state=1b4e28ba-2fa1-11d2-883f-0016d3cca427&code=4%2F0Ab%20c+d",
        "code=a%2fb%2Fc&state=x&scope=a%20b+c&&empty=&flag",
        "error=access_denied&error_description=The%20user+said%20no&state=",
        "state=x&connection_id=y&code=%E2%9C%93",
    ] {
        let url = format!("{}/api/v1/connectors/callback?{query}", app.url);
        let answer = TestResponse::to(app.client.get(url)).await;
        assert_eq!(answer.status, 308);
        assert_eq!(
            answer.header("location"),
            Some(&*format!("{nango}?{query}"))
        );
    }
}

/// The request is public, so a private address must not appear in the response.
#[tokio::test]
async fn return_goes_to_the_address_for_browsers() {
    let app = TestApp::with(&[("NANGO_PUBLIC_URL", "https://nango.example.com/base/")]).await;
    let url = format!("{}/api/v1/connectors/callback?state=x", app.url);
    let answer = TestResponse::to(app.client.get(url)).await;
    let location = "https://nango.example.com/base/oauth/callback?state=x";
    assert_eq!(answer.header("location"), Some(location));
    let ada = app.user("ada").await;
    // The popup's address, and the callback that Nango's page uses.
    let popup = text(&ada.connect("gmail").await, "oauth_url");
    assert!(
        popup.starts_with("https://nango.example.com/base/oauth/connect/gmail?"),
        "{popup}"
    );
    let page = text(&ada.connect("openai").await, "oauth_url");
    assert!(
        page.ends_with("apiURL=https%3A%2F%2Fnango.example.com%2Fbase"),
        "{page}"
    );
    let stored = "select string_agg(c::text, ' ') from user_connector_connection c";
    let stored: String = sqlx::query_scalar(stored)
        .fetch_one(&mut app.sql().await)
        .await
        .unwrap();
    let internal = app.sandbox.address().to_string();
    assert!(!stored.contains(&internal) && !page.contains(&internal));
}

#[tokio::test]
async fn popup_works_end_to_end_with_own_callback_url() {
    let app = TestApp::build(&[], |nango| {
        let webhook_url = nango.webhook_url.as_ref().unwrap();
        let origin = webhook_url.strip_suffix("/api/v1/webhooks/nango").unwrap();
        nango.callback_url = Some(format!("{origin}/api/v1/connectors/callback"));
    })
    .await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    assert_eq!(connected["status"], "connected");
    assert_eq!(
        app.nango_connections().await,
        [text(&connected, "nango_connection_id")]
    );
}
