//! The logs of a whole flow contain no secrets or personal data.

use std::process::Stdio;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use url::Url;

use super::{TestResponse, text};
use crate::eventually::{eventually, eventually_value};
use crate::fault_table::process_killed::replica_process;
use crate::test_app::{JWT_SECRET, TestApp, User, free_port};

#[tokio::test]
async fn debug_logs_contain_no_secrets_or_addresses() {
    let app = TestApp::with_system_clock().await;
    let port = free_port();
    let url = format!("http://127.0.0.1:{port}");
    let settings = app.settings(&[
        ("PORT", &port.to_string()),
        ("PUBLIC_URL", &url),
        ("CONNECT_BINDING", "ask"),
    ]);
    let mut child = Command::new(env!("CARGO_BIN_EXE_patchbay"))
        .env_clear()
        .envs(settings)
        .env("RUST_LOG", "debug")
        .current_dir(env!("CARGO_TARGET_TMPDIR"))
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let logs = tokio::spawn(async move {
        let mut text = String::new();
        stderr.read_to_string(&mut text).await.unwrap();
        text
    });
    until_ready(&app, &url).await;
    let secrets = flow(&app, &url).await;
    child.start_kill().unwrap();
    child.wait().await.unwrap();
    let logs = logs.await.unwrap();

    let requests = logs
        .lines()
        .filter(|line| line.contains(r#""message":"request""#))
        .count();
    assert!(requests >= 12, "{logs}");
    assert!(logs.contains(r#""level":"DEBUG""#));
    for (what, secret) in secrets {
        let found: Vec<&str> = logs.lines().filter(|line| line.contains(&secret)).collect();
        assert!(found.is_empty(), "{what} is in the logs: {found:#?}");
    }
}

#[tokio::test]
async fn internal_error_is_logged_with_request_id_and_not_returned() {
    let app = TestApp::with_system_clock().await;
    let (process, url) = replica_process(&app).await;
    let ada = app.user("ada").await.at_url(&url);
    let connect = async || {
        let request = ada.request(Method::POST, "/gmail/connect");
        TestResponse::to(request.header("idempotency-key", "once")).await
    };
    assert_eq!(connect().await.status, 200);
    // An invalid stored response.
    sqlx::query("update idempotency_key set answer = '{}'")
        .execute(&mut app.sql().await)
        .await
        .unwrap();
    let reported = connect().await.is_problem(500, "internal");
    assert_eq!(
        reported["detail"],
        "the log has the details under this request id"
    );
    let text = process.output();
    let lines = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let lines: Vec<Value> = lines
        .filter(|line| line["request_id"] == reported["request_id"] && line["level"] == "ERROR")
        .collect();
    let [line] = lines.as_slice() else {
        panic!("not one line but {lines:#?}\n{text}");
    };
    assert!(
        line["error"].as_str().unwrap().contains("`connection_id`"),
        "{line}"
    );
}

#[tokio::test]
async fn failed_dependency_is_logged_with_request_id_and_code() {
    let app = TestApp::with_system_clock().await;
    let (process, url) = replica_process(&app).await;
    let ada = app.user("ada").await.at_url(&url);
    app.faults(json!({ "status": 401 })).await;
    let request = ada.request(Method::POST, "/gmail/connect");
    let reported = TestResponse::to(request).await;
    let reported = reported.is_problem(502, "nango_misconfigured");
    let is_logged = |text: &str| {
        let lines = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        let mut lines: Vec<Value> = lines
            .filter(|line: &Value| line["request_id"] == reported["request_id"])
            .collect();
        lines.retain(|line| line["code"] == "nango_misconfigured");
        lines.iter().any(|line| {
            line["error"]
                .as_str()
                .is_some_and(|error| error.contains("401"))
        }) && lines.iter().any(|line| line["message"] == "request")
    };
    eventually_value(async || process.output(), |text| is_logged(text)).await;
}

async fn until_ready(app: &TestApp, url: &str) {
    eventually(async || {
        let answer = app.client.get(format!("{url}/readyz")).send().await;
        answer.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
}

/// Runs a user's operations, including failures. Returns the values that must not be logged.
async fn flow(app: &TestApp, url: &str) -> Vec<(&'static str, String)> {
    let user = app.user("ada@user.example").await;
    let ada = user.at_url(url);
    let mut secrets = vec![
        ("a user's token", ada.token.clone()),
        (
            "a user's token's signature",
            ada.token.rsplit('.').next().unwrap().to_owned(),
        ),
        ("a refused token", "token-of-anybody".to_owned()),
        ("the tokens' secret", JWT_SECRET.to_owned()),
        ("Nango's key", app.secret_key.clone()),
        ("the signing key", app.signing_key.clone()),
        ("a forged signature", "ab".repeat(32)),
        ("an API key", "sk-of-ada".to_owned()),
        ("a code", "the-code-of-a-flow".to_owned()),
        ("a state", "the-state-of-a-flow".to_owned()),
        ("an e-mail address", "@".to_owned()),
        ("an e-mail address in a URL", "%40".to_owned()),
    ];
    let (session, browser) = connect(&ada).await;
    secrets.push(("a session's token", session));
    secrets.push(("a browser's cookie", browser));
    secrets.push(("a session's token for a key", type_key(&ada).await));
    fail(&ada).await;
    send_unauthenticated(app, url, &ada.token).await;
    secrets
}

/// Connects, updates and reads a connection. Returns the session's token, and the browser's cookie.
async fn connect(ada: &User<'_>) -> (String, String) {
    ada.app.faults(json!({ "consent": "allow" })).await;
    let body = json!({
        "label": "ada@label.example", "config": { "mail": "ada@config.example" },
        "login_hint": "ada@hint.example",
    });
    let path = "/gmail/connect?instance_id=ada@instance.example";
    let answer = ada.send_post(path, body).await;
    let cookie = answer.header("set-cookie").unwrap();
    let cookie = cookie.split(['=', ';']).nth(1).unwrap().to_owned();
    let started = answer.json();
    let oauth_url: Url = text(&started, "oauth_url").parse().unwrap();
    ada.app.popup(oauth_url.as_str()).await;
    let id = text(&started, "connection_id");
    ada.wait_until(&id, "connected").await;
    ada.send_patch(&id, json!({ "label": "\u{0}" })).await;
    let unstorable = json!({ "config": { "k": "ada@config.example\u{0}" } });
    ada.send_patch(&id, unstorable).await;
    for path in [
        "/connections?cursor=ada@cursor.example",
        "/ada@connector.example",
        "/callback?connection_id=ada@callback.example",
        "/callback?state=the-state-of-a-flow&code=the-code-of-a-flow",
    ] {
        ada.send_get(path).await;
    }
    let session = oauth_url.query_pairs().next().unwrap().1.into_owned();
    (session, cookie)
}

/// Enters a key on Nango's page. Returns the session's token.
async fn type_key(ada: &User<'_>) -> String {
    let keyed = ada.connect("openai").await;
    let link: Url = text(&keyed, "oauth_url").parse().unwrap();
    let mut query = link.query_pairs();
    let session = query.find(|(name, _)| name == "session_token").unwrap().1;
    let form = [
        ("session_token", &*session),
        ("integration", "openai"),
        ("apiKey", "sk-of-ada"),
    ];
    let page = link.join("/connect-ui/").unwrap();
    let posted = TestResponse::to(ada.app.client.post(page).form(&form)).await;
    assert_eq!(posted.status, 200);
    ada.wait_until(&text(&keyed, "connection_id"), "connected")
        .await;
    session.into_owned()
}

/// Causes a denied grant and an error of Nango.
async fn fail(ada: &User<'_>) {
    ada.app.faults(json!({ "consent": "deny" })).await;
    let denied = ada.connect("github").await;
    ada.app.popup(&text(&denied, "oauth_url")).await;
    ada.wait_until(&text(&denied, "connection_id"), "error")
        .await;
    for status in [401, 429, 500] {
        ada.app.faults(json!({ "status": status })).await;
        let hint = json!({ "login_hint": "ada@hint.example" });
        ada.send_post("/notion/connect", hint).await;
    }
    ada.app.faults(json!({ "refuse_delete": true })).await;
    ada.send_delete("/gmail/disconnect").await;
}

/// Sends invalid tokens, and a webhook without a valid signature.
async fn send_unauthenticated(app: &TestApp, url: &str, token: &str) {
    for bad in ["not.a.token-of-anybody", &format!("{token}x")] {
        let request = app.client.get(format!("{url}/api/v1/connectors"));
        let answer = TestResponse::to(request.bearer_auth(bad)).await;
        answer.is_problem(401, "unauthenticated");
    }
    let hook = app
        .client
        .post(format!("{url}/api/v1/webhooks/nango"))
        .header("x-nango-hmac-sha256", "ab".repeat(32))
        .body(r#"{"type":"auth","mail":"ada@webhook.example"}"#);
    TestResponse::to(hook)
        .await
        .is_problem(401, "invalid_signature");
}
