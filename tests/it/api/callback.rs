//! The return from the popup: to a program, to a browser, and on to Nango.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use insta::assert_snapshot;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Answer, text};
use crate::house::{House, ORIGIN, User};

/// Asks as a browser's navigation does: without a token.
async fn page(house: &House, query: &str) -> Answer {
    let url = format!("{}/api/v1/connectors/callback?{query}", house.url);
    let accept = "text/html,application/xhtml+xml,*/*;q=0.8";
    Answer::to(house.client.get(url).header("accept", accept)).await
}

/// The text between two marks of a page.
fn between<'a>(page: &'a str, start: &str, end: &str) -> &'a str {
    let (_, rest) = page.split_once(start).unwrap();
    rest.split_once(end).unwrap().0
}

/// What the page tells its opener, and at which origins.
fn told(answer: &Answer) -> Value {
    let data = between(&answer.text, r#"id="message">"#, "</script>");
    serde_json::from_str(data).unwrap()
}

/// Goes through the popup with no webhook sent.
async fn granted_in_silence(user: &User<'_>) -> Value {
    let faults = json!({ "consent": "allow", "drop_webhooks": true });
    user.house.faults(faults).await;
    let begun = user.connect("gmail").await;
    user.house.popup(&text(&begun, "oauth_url")).await;
    begun
}

#[tokio::test]
async fn without_webhooks_the_list_knows() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let begun = granted_in_silence(&ada).await;
    let list = ada.get("/connections").await;
    assert_eq!(list["connections"][0]["id"], begun["connection_id"]);
    assert_eq!(list["connections"][0]["status"], "connected");
}

#[tokio::test]
async fn without_webhooks_the_callback_knows_at_once() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    house
        .faults(json!({ "consent": "allow", "drop_webhooks": true }))
        .await;
    let begun = ada.connect("gmail").await;
    // Somebody has just looked, and found nothing: that does not count any more.
    assert_eq!(
        ada.get("/connections").await["connections"][0]["status"],
        "pending"
    );
    house.popup(&text(&begun, "oauth_url")).await;
    let path = format!("/callback?connection_id={}", text(&begun, "connection_id"));
    assert_snapshot!(ada.ask_get(&path).await, @r#"
    200 OK
    {
      "connection_id": "[id]",
      "message": "Gmail is connected",
      "nango_connection_id": "[id]",
      "status": "connected",
      "status_reason": null,
      "success": true
    }
    "#);
}

#[tokio::test]
async fn the_callback_knows_nangos_ids_too() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let begun = granted_in_silence(&ada).await;
    let nango_id = house.nango_connections().await.remove(0);
    let answer = ada
        .ask_get(&format!("/callback?connection_id={nango_id}"))
        .await
        .json();
    assert_eq!(
        (&answer["success"], &answer["connection_id"]),
        (&json!(true), &begun["connection_id"])
    );
    assert_eq!(answer["nango_connection_id"], nango_id);
}

#[tokio::test]
async fn the_callback_says_how_it_stands_if_not_connected() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    let begun = ada.connect("gmail").await;
    let path = format!("/callback?connection_id={}", text(&begun, "connection_id"));
    assert_snapshot!(ada.ask_get(&path).await, @r#"
    200 OK
    {
      "connection_id": "[id]",
      "message": "Gmail still waits for the authorization",
      "nango_connection_id": null,
      "status": "pending",
      "status_reason": "awaiting_authorization",
      "success": false
    }
    "#);
    house.faults(json!({ "consent": "deny" })).await;
    house.popup(&text(&begun, "oauth_url")).await;
    ada.until(&text(&begun, "connection_id"), "error").await;
    assert_snapshot!(ada.ask_get(&path).await, @r#"
    200 OK
    {
      "connection_id": "[id]",
      "message": "Access was not granted: The user denied the request",
      "nango_connection_id": null,
      "status": "error",
      "status_reason": "authorization_denied",
      "success": false
    }
    "#);
    ada.disconnect("gmail", "").await;
    assert_snapshot!(ada.ask_get(&path).await, @r#"
    200 OK
    {
      "connection_id": "[id]",
      "message": "Gmail is disconnected",
      "nango_connection_id": null,
      "status": "disconnected",
      "status_reason": "user_disconnected",
      "success": false
    }
    "#);

    assert_snapshot!(ada.ask_get("/callback").await, @r#"
    400 Bad Request
    {
      "code": "invalid_request",
      "detail": "state or connection_id is needed",
      "request_id": "[id]",
      "status": 400,
      "title": "The request is not valid",
      "type": "urn:patchbay:problem:invalid_request"
    }
    "#);
    for id in [&Uuid::now_v7().to_string(), "nope"] {
        let answer = ada.ask_get(&format!("/callback?connection_id={id}")).await;
        answer.is_problem(404, "connection_not_found");
    }
    let answer = ada.ask_get("/callback?connection_id=a%00b").await;
    answer.is_problem(400, "invalid_request");
}

#[tokio::test]
async fn a_browser_gets_a_page_that_tells_its_opener_and_nobody_else() {
    let house = House::with(&[(
        "CORS_ALLOWED_ORIGINS",
        "https://app.example.com, https://admin.example.com/",
    )])
    .await;
    let grace = house.user("grace").await;
    let begun = granted_in_silence(&grace).await;
    let answer = page(
        &house,
        &format!("connection_id={}", text(&begun, "connection_id")),
    )
    .await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    assert_eq!(
        told(&answer),
        json!({
            "message": {
                "type": "OAUTH_SUCCESS", "connection_id": begun["connection_id"],
                "status": "connected", "error": null,
            },
            "origins": [ORIGIN, "https://admin.example.com"],
        })
    );
    // Only the page's own script runs, and only its own style counts: nothing else in it is one.
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
    // The page closes without an opener, too: the product may have cut it.
    assert!(script.ends_with("}\nwindow.close();\n"), "{script}");
    assert!(!answer.text.contains('*'));
    // A page that anybody may ask for says nothing of the user or the account. Neither name is one that an id could hold by chance.
    for secret in ["grace", "gmail", &house.nango_connections().await[0]] {
        assert!(!answer.text.to_lowercase().contains(secret), "{secret}");
    }
}

#[tokio::test]
async fn a_browsers_page_tells_failures_and_unknown_ids() {
    let house = House::new().await;
    let ada = house.user("ada").await;
    house.faults(json!({ "consent": "deny" })).await;
    let begun = ada.connect("gmail").await;
    let id = text(&begun, "connection_id");
    house.popup(&text(&begun, "oauth_url")).await;
    ada.until(&id, "error").await;
    let denied = page(&house, &format!("connection_id={id}")).await;
    assert_eq!(denied.status, 200);
    assert_eq!(
        told(&denied)["message"],
        json!({
            "type": "OAUTH_ERROR", "connection_id": id,
            "status": "error", "error": "authorization_denied",
        })
    );
    // Nango's ids are no secret: those of imported connections name the user and the connector.
    let grace = house.user("grace").await;
    let granted = granted_in_silence(&grace).await;
    let own = text(&granted, "connection_id");
    let connected = page(&house, &format!("connection_id={own}")).await;
    assert_eq!(told(&connected)["message"]["type"], "OAUTH_SUCCESS");
    let nango_id = house.nango_connections().await.remove(0);
    let answer = page(&house, &format!("connection_id={nango_id}")).await;
    assert_eq!(answer.status, 404);
    assert_eq!(
        told(&answer)["message"],
        json!({ "type": "OAUTH_ERROR", "error": "connection_not_found" })
    );
    let attack = "%3C%2Fscript%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E";
    for unknown in [&Uuid::now_v7().to_string(), attack] {
        let answer = page(&house, &format!("connection_id={unknown}")).await;
        assert_eq!(answer.status, 404);
        assert_eq!(
            answer.header("content-type"),
            Some("text/html; charset=utf-8")
        );
        assert!(!answer.text.contains("alert"));
        assert_eq!(
            told(&answer)["message"],
            json!({ "type": "OAUTH_ERROR", "error": "connection_not_found" })
        );
    }
}

#[tokio::test]
async fn who_shows_no_token_makes_nobody_ask_nango_for_ids_of_his_own() {
    let house = House::new().await;
    let calls = async || {
        let calls = house.control("requests", Method::GET, json!(null)).await;
        calls.as_array().unwrap().len()
    };
    let before = calls().await;
    for _ in 0..3 {
        page(&house, &format!("connection_id={}", Uuid::new_v4())).await;
    }
    assert_eq!(calls().await, before);
}

#[tokio::test]
async fn a_providers_return_goes_on_to_nango_byte_for_byte() {
    let house = House::new().await;
    let nango = format!("http://{}/oauth/callback", house.sandbox.address());
    for query in [
        "state=1b4e28ba-2fa1-11d2-883f-0016d3cca427&code=4%2F0Ab%20c+d",
        "code=a%2fb%2Fc&state=x&scope=a%20b+c&&empty=&flag",
        "error=access_denied&error_description=The%20user+said%20no&state=",
        "state=x&connection_id=y&code=%E2%9C%93",
    ] {
        let url = format!("{}/api/v1/connectors/callback?{query}", house.url);
        let answer = Answer::to(house.client.get(url)).await;
        assert_eq!(answer.status, 308);
        assert_eq!(
            answer.header("location"),
            Some(&*format!("{nango}?{query}"))
        );
    }
}

/// Any stranger can ask: an address in a private network is not for them.
#[tokio::test]
async fn return_goes_to_the_address_for_browsers() {
    let house = House::with(&[("NANGO_PUBLIC_URL", "https://nango.example.com/base/")]).await;
    let url = format!("{}/api/v1/connectors/callback?state=x", house.url);
    let answer = Answer::to(house.client.get(url)).await;
    let location = "https://nango.example.com/base/oauth/callback?state=x";
    assert_eq!(answer.header("location"), Some(location));
    let ada = house.user("ada").await;
    // The popup's address, and the one that Nango's own page calls.
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
        .fetch_one(&mut house.sql().await)
        .await
        .unwrap();
    let internal = house.sandbox.address().to_string();
    assert!(!stored.contains(&internal) && !page.contains(&internal));
}

#[tokio::test]
async fn with_nangos_callback_set_to_ours_the_popup_works_from_end_to_end() {
    let house = House::build(&[], |nango| {
        let webhook_url = nango.webhook_url.as_ref().unwrap();
        let origin = webhook_url.strip_suffix("/api/v1/webhooks/nango").unwrap();
        nango.callback_url = Some(format!("{origin}/api/v1/connectors/callback"));
    })
    .await;
    let ada = house.user("ada").await;
    let connected = ada.connected("gmail").await;
    assert_eq!(connected["status"], "connected");
    assert_eq!(
        house.nango_connections().await,
        [text(&connected, "nango_connection_id")]
    );
}
