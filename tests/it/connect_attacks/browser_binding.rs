//! A grant is bound to the browser that started it.

use reqwest::Method;
use reqwest::header::HeaderValue;
use serde_json::{Value, json};

use super::app;
use super::test_browser::{PageResponse, TestBrowser};
use crate::eventually::eventually_value;
use crate::test_app::{ORIGIN, TestApp, User};

const COOKIE: &str = "patchbay-browser";

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field]
        .as_str()
        .unwrap_or_else(|| panic!("{field} of {value:#}"))
}

/// Fails unless this is the mismatch page, without any details of the requested grant.
fn is_mismatch_page(shown: &PageResponse, status: u16) {
    assert_eq!(shown.status, status, "{}", shown.text);
    assert!(
        shown.text.contains("Started in another browser"),
        "{}",
        shown.text
    );
    assert!(!shown.text.contains("<script"), "{}", shown.text);
    assert_eq!(shown.header("cache-control"), "no-store");
    assert_eq!(shown.header("referrer-policy"), "no-referrer");
    assert_eq!(shown.header("x-frame-options"), "DENY");
}

async fn assert_no_effect(app: &TestApp, user: &User<'_>, started: &Value) {
    let connection = user.connection(text(started, "connection_id")).await;
    assert_eq!(connection["status"], "pending", "{connection:#}");
    assert!(app.nango_connections().await.is_empty());
}

#[tokio::test]
async fn starting_browser_is_recognized_on_return() {
    for binding in ["ask", "required"] {
        let app = app(binding).await;
        let ada = app.user("ada").await;
        let mut browser = TestBrowser::new();
        let started = browser.connect(&ada, "gmail").await;
        assert!(browser.cookie(COOKIE).is_some());
        let waiting = ada.connection(text(&started, "connection_id")).await;
        assert_eq!(waiting["attempt"]["same_browser"], json!(null));
        let page = browser.open(text(&started, "oauth_url")).await;
        assert_eq!(
            (page.status.as_u16(), page.url.path()),
            (200, "/oauth/callback")
        );
        let connected = ada
            .wait_until(text(&started, "connection_id"), "connected")
            .await;
        assert_eq!(connected["attempt"]["same_browser"], true, "{connected:#}");
        // A second attempt in a browser that has a cookie already.
        let path = format!("/connections/{}/reconnect", text(&started, "connection_id"));
        let known = browser.cookie(COOKIE).unwrap().to_owned();
        let again = browser.post(&ada, &path, None).await.json();
        assert_eq!(browser.cookie(COOKIE), Some(known.as_str()));
        browser.open(text(&again, "oauth_url")).await;
        let list = async || ada.get("/connections").await["connections"][0].clone();
        let seen = eventually_value(list, |seen| !seen["attempt"]["outcome"].is_null()).await;
        assert_eq!(seen["attempt"]["same_browser"], true, "{seen:#}");
        assert_eq!(seen["attempt"]["id"], again["attempt_id"]);
    }
}

#[tokio::test]
async fn forwarded_link_is_rejected_when_binding_is_required() {
    let app = app("required").await;
    let mallory = app.user("mallory").await;
    let started = TestBrowser::new().connect(&mallory, "gmail").await;
    let mut victim = TestBrowser::new();
    let page = victim.open(text(&started, "oauth_url")).await;
    is_mismatch_page(&page, 403);
    assert!(page.url.as_str().contains("code="));
    // The page exposes no parameter that could complete the grant, not even in a link.
    assert!(
        !page.text.contains("href") && !page.text.contains("code"),
        "{}",
        page.text
    );
    assert_no_effect(&app, &mallory, &started).await;
}

#[tokio::test]
async fn forwarded_link_asks_and_marks_grant_when_binding_is_ask() {
    let app = app("ask").await;
    let mallory = app.user("mallory").await;
    let started = TestBrowser::new().connect(&mallory, "gmail").await;
    let mut victim = TestBrowser::new();
    let page = victim.open(text(&started, "oauth_url")).await;
    is_mismatch_page(&page, 200);
    assert_no_effect(&app, &mallory, &started).await;

    // The link to continue is Nango's callback with the whole query.
    let link = page
        .text
        .split("href=\"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap();
    let link = link.replace("&#38;", "&").replace("&amp;", "&");
    let query = page.url.query().unwrap();
    assert_eq!(
        link,
        format!("http://{}/oauth/callback?{query}", app.sandbox.address())
    );
    victim.open(&link).await;
    let connected = mallory
        .wait_until(text(&started, "connection_id"), "connected")
        .await;
    assert_eq!(connected["attempt"]["same_browser"], false, "{connected:#}");
}

#[tokio::test]
async fn outgoing_webhook_reports_browser_mismatch() {
    let app = app("ask").await;
    sqlx::query(
        "insert into webhook_endpoint (id, url, secret, created_at) values ('we_1', 'https://a.example', 'x', now())",
    )
    .execute(&mut app.sql().await)
    .await
    .unwrap();
    let mallory = app.user("mallory").await;
    let started = TestBrowser::new().connect(&mallory, "gmail").await;
    let mut victim = TestBrowser::new();
    let page = victim.open(text(&started, "oauth_url")).await;
    let query = page.url.query().unwrap();
    victim
        .open(&format!(
            "http://{}/oauth/callback?{query}",
            app.sandbox.address()
        ))
        .await;
    mallory
        .wait_until(text(&started, "connection_id"), "connected")
        .await;
    let reported: Value =
        sqlx::query_scalar("select webhook from connection_event where kind = 'connected'")
            .fetch_one(&mut app.sql().await)
            .await
            .unwrap();
    assert_eq!(
        reported["data"]["attempt"]["same_browser"], false,
        "{reported:#}"
    );
}

#[tokio::test]
async fn finished_attempt_does_not_authorize_other_returns() {
    let app = app("required").await;
    let (mallory, eve) = (app.user("mallory").await, app.user("eve").await);
    let mut victim = TestBrowser::new();
    let own = victim.connect(&eve, "gmail").await;
    victim.open(text(&own, "oauth_url")).await;
    eve.wait_until(text(&own, "connection_id"), "connected")
        .await;

    let started = TestBrowser::new().connect(&mallory, "github").await;
    is_mismatch_page(&victim.open(text(&started, "oauth_url")).await, 403);
    let ended = victim.connect(&eve, "notion").await;
    eve.disconnect("notion", "").await;
    assert!(ended["attempt_id"].is_string());
    is_mismatch_page(&victim.open(text(&started, "oauth_url")).await, 403);
    let old = victim.connect(&eve, "notion").await;
    assert!(old["attempt_id"].is_string());
    app.advance(chrono::TimeDelta::minutes(61));
    let started = TestBrowser::new().connect(&mallory, "github").await;
    is_mismatch_page(&victim.open(text(&started, "oauth_url")).await, 403);
}

/// The limit of the binding: only Nango knows which of several attempts a return belongs to.
#[tokio::test]
async fn foreign_grant_is_marked_when_victim_has_open_attempt() {
    let app = app("required").await;
    let (mallory, eve) = (app.user("mallory").await, app.user("eve").await);
    let started = TestBrowser::new().connect(&mallory, "gmail").await;
    let mut victim = TestBrowser::new();
    victim.connect(&eve, "github").await;
    victim.open(text(&started, "oauth_url")).await;
    let connected = mallory
        .wait_until(text(&started, "connection_id"), "connected")
        .await;
    assert_eq!(connected["attempt"]["same_browser"], false, "{connected:#}");
}

#[tokio::test]
async fn attacker_grant_cannot_complete_in_victim_browser() {
    let app = app("required").await;
    let mallory = app.user("mallory").await;
    let mut attacker = TestBrowser::new();
    let started = attacker.connect(&mallory, "gmail").await;
    // The attacker stops before the last step, and another browser completes it.
    let page = TestBrowser::new().open(text(&started, "oauth_url")).await;
    let code: String = page.url.query().unwrap().to_owned();
    let mut victim = TestBrowser::new();
    let url = format!("{}/api/v1/connectors/callback?{code}", app.url);
    is_mismatch_page(&victim.open(&url).await, 403);
    assert_no_effect(&app, &mallory, &started).await;
}

#[tokio::test]
async fn idempotent_retry_binds_retrying_browser() {
    let app = app("required").await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "allow" })).await;
    // The first response, with its cookie, was lost.
    let lost = TestBrowser::new()
        .post(&ada, "/gmail/connect", Some("once"))
        .await
        .json();
    let mut browser = TestBrowser::new();
    let started = browser
        .post(&ada, "/gmail/connect", Some("once"))
        .await
        .json();
    assert_eq!(started, lost);
    browser.open(text(&started, "oauth_url")).await;
    let connected = ada
        .wait_until(text(&started, "connection_id"), "connected")
        .await;
    assert_eq!(connected["attempt"]["same_browser"], true);
}

#[tokio::test]
async fn binding_skips_service_and_api_key_connects() {
    let keys = "product=pbk_product_0123456789abcdef0123456789abcdef";
    let app = TestApp::with(&[("CONNECT_BINDING", "ask"), ("SERVICE_API_KEYS", keys)]).await;
    let service = app
        .client
        .post(format!("{}/api/v1/connectors/gmail/connect", app.url));
    let service = service.bearer_auth("pbk_product_0123456789abcdef0123456789abcdef");
    let answer = service.header("patchbay-user", "ada").send().await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), answer.headers().get("set-cookie")),
        (200, None)
    );
    // A key is entered on Nango's page, not in a popup of the provider.
    let ada = app.user("ada").await;
    let started = TestBrowser::new().connect(&ada, "openai").await;
    let bound: i64 = sqlx::query_scalar(
        "select count(*) from connect_attempt where browser_token_hash is not null",
    )
    .fetch_one(&mut app.sql().await)
    .await
    .unwrap();
    assert_eq!((bound, started["popup"].as_bool()), (0, Some(true)));
    // An existing connection needs no browser.
    let gmail = ada.connected("gmail").await;
    assert_eq!(
        gmail["attempt"]["same_browser"], false,
        "a test's client is no browser"
    );
    let mut browser = TestBrowser::new();
    assert_eq!(
        browser.connect(&ada, "gmail").await["already_connected"],
        true
    );
    assert_eq!(browser.cookie(COOKIE), None);
}

#[tokio::test]
async fn grants_are_accepted_unmarked_when_binding_is_off() {
    let app = app("off").await;
    let ada = app.user("ada").await;
    let mut browser = TestBrowser::new();
    let started = browser.connect(&ada, "gmail").await;
    assert_eq!(browser.cookie(COOKIE), None);
    TestBrowser::new().open(text(&started, "oauth_url")).await;
    let connected = ada
        .wait_until(text(&started, "connection_id"), "connected")
        .await;
    assert_eq!(connected["attempt"]["same_browser"], json!(null));
}

#[tokio::test]
async fn browser_cookie_is_host_only_secure_and_httponly() {
    let app = TestApp::with(&[
        ("CONNECT_BINDING", "required"),
        ("PUBLIC_URL", "https://connect.example.com"),
    ])
    .await;
    let ada = app.user("ada").await;
    let set = async |cookie: &str| {
        let request = ada
            .request(Method::POST, "/gmail/connect")
            .header("cookie", cookie);
        let answer = request.header("origin", ORIGIN).send().await.unwrap();
        assert_eq!(answer.headers()["access-control-allow-credentials"], "true");
        assert_eq!(answer.headers()["access-control-allow-origin"], ORIGIN);
        answer.headers()["set-cookie"].to_str().unwrap().to_owned()
    };
    let first = set("").await;
    let (pair, rest) = first.split_once("; ").unwrap();
    let (name, secret) = pair.split_once('=').unwrap();
    assert_eq!(name, "__Host-patchbay-browser");
    assert_eq!(rest, "Path=/; Max-Age=3600; HttpOnly; SameSite=Lax; Secure");
    assert_eq!(secret.len(), 64);
    assert_eq!(set(&format!("a=b; {pair}; c=d")).await, first);
    // A malformed value is not returned, and a cookie of another name is ignored.
    for odd in [
        "__Host-patchbay-browser=short".to_owned(),
        format!("__Host-patchbay-browser={}", "G".repeat(64)),
        format!("__Host-patchbay-browser={}", "a".repeat(65)),
        format!("patchbay-browser={secret}"),
        format!("__Host-patchbay-browser=\"{secret}\""),
    ] {
        let answered = set(&odd).await;
        assert!(answered.starts_with("__Host-patchbay-browser="));
        assert!(
            !answered.contains("short") && !answered.contains('G') && !answered.contains(secret)
        );
    }
    // Only a digest of the secret is stored.
    let kept: Vec<Vec<u8>> = sqlx::query_scalar(
        "select browser_token_hash from connect_attempt where browser_token_hash is not null",
    )
    .fetch_all(&mut app.sql().await)
    .await
    .unwrap();
    assert!(!kept.is_empty());
    assert!(
        kept.iter()
            .all(|digest| digest.len() == 32 && hex::encode(digest) != secret)
    );
}

/// Any page of the site can set a cookie with any bytes. Foreign cookies are ignored.
#[tokio::test]
async fn foreign_cookies_of_odd_bytes_do_not_hide_ours() {
    let app = app("required").await;
    let ada = app.user("ada").await;
    for odd in [
        &b"x=\xc3\xbc; "[..],
        b"\xff\xfe=1;",
        b"=; ; novalue; a=b=c;",
        b"\"; patchbay-browse=1;\t",
        b"patchbay-browser2=1;",
    ] {
        let mut browser = TestBrowser::new();
        let started = browser.connect(&ada, "gmail").await;
        let secret = browser.cookie(COOKIE).unwrap().to_owned();
        let own = format!("{COOKIE}={secret}");
        let value = HeaderValue::from_bytes(&[odd, own.as_bytes()].concat()).unwrap();
        let request = ada.request(Method::POST, "/gmail/connect");
        let again = request.header("cookie", &value).send().await.unwrap();
        let set = again.headers()["set-cookie"].to_str().unwrap();
        assert!(set.starts_with(&own), "{odd:?}: {set}");
        let back = returning(&app, &[value]).await;
        assert_eq!(back.status(), 308, "{odd:?}");
        ada.disconnect("gmail", "").await;
        assert!(started["oauth_url"].is_string());
    }
}

/// Sends a request like that of a browser that returns from a provider.
async fn returning(app: &TestApp, cookies: &[HeaderValue]) -> reqwest::Response {
    let url = format!("{}/api/v1/connectors/callback?state=x&code=y", app.url);
    let request = app.client.get(url).header("accept", "text/html");
    let add = |request: reqwest::RequestBuilder, cookie| request.header("cookie", cookie);
    cookies.iter().fold(request, add).send().await.unwrap()
}

/// Of two cookies with our name, another page of the site has set one, and it is unknown which.
#[tokio::test]
async fn repeated_browser_cookie_is_refused_as_an_attack() {
    for binding in ["ask", "required"] {
        let app = app(binding).await;
        let (ada, mallory) = (app.user("ada").await, app.user("mallory").await);
        let (mut browser, mut attacker) = (TestBrowser::new(), TestBrowser::new());
        browser.connect(&ada, "gmail").await;
        attacker.connect(&mallory, "gmail").await;
        let own = format!("{COOKIE}={}", browser.cookie(COOKIE).unwrap());
        let tossed = format!("{COOKIE}={}", attacker.cookie(COOKIE).unwrap());
        let sessions = app.nango_calls("POST", "/connect/sessions").await;
        for pair in [
            vec![format!("{own}; {tossed}")],
            vec![format!("{tossed};{own}")],
            vec![own.clone(), tossed.clone()],
            vec![format!("{own}; {COOKIE}=\u{fc}")],
            vec![format!("{own}; {own}")],
        ] {
            let cookies: Vec<HeaderValue> = pair
                .iter()
                .map(|cookies| HeaderValue::from_bytes(cookies.as_bytes()).unwrap())
                .collect();
            let back = returning(&app, &cookies).await;
            assert_eq!(back.status(), 403, "{pair:?}");
            let page = back.text().await.unwrap();
            assert!(
                page.contains("more than once") && !page.contains("href"),
                "{page}"
            );
            let request = ada.request(Method::POST, "/github/connect");
            let add = |request: reqwest::RequestBuilder, cookie| request.header("cookie", cookie);
            let refused = cookies.iter().fold(request, add).send().await.unwrap();
            assert_eq!(refused.status(), 400, "{pair:?}");
            let problem: Value = refused.json().await.unwrap();
            assert!(
                text(&problem, "detail").contains("more than once"),
                "{problem}"
            );
        }
        assert_eq!(app.nango_calls("POST", "/connect/sessions").await, sessions);
        assert_eq!(ada.get("/connections").await["total_count"], 1);
    }
}
