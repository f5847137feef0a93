use chrono::TimeDelta;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use nango_sandbox::{Config, Sandbox};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::configured;
use crate::eventually::eventually;
use crate::nango_contract::scenario::Scenario;

#[tokio::test]
async fn application_tokens_are_signed_and_valid_twelve_hours() {
    let scenario =
        configured(|config| config.jwt_secret = "the application's".to_owned().into()).await;
    let body = json!({ "user": "ada", "audience": "patchbay" });
    let answer = scenario
        .call(Method::POST, "/sandbox/token", Some(body))
        .await;
    let mut validation = Validation::new(Algorithm::HS256);
    validation.validate_exp = false;
    validation.set_audience(&["patchbay"]);
    let key = DecodingKey::from_secret(b"the application's");
    let token = answer["token"].as_str().unwrap();
    let claims = jsonwebtoken::decode::<Value>(token, &key, &validation)
        .unwrap()
        .claims;
    assert_eq!(claims["sub"], "ada");
    let lifetime = claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap();
    assert_eq!(lifetime, TimeDelta::hours(12).num_seconds());
    assert!(claims.get("iss").is_none());
}

/// Requests a token as a page of `origin`, under the host name `host`. Returns the status and the allowed origin.
async fn token_for_page(
    scenario: &Scenario,
    host: &str,
    origin: Option<&str>,
) -> (u16, Option<String>) {
    let url = format!("http://{}/sandbox/token", scenario.sandbox.address());
    let mut request = scenario.http.post(url).json(&json!({ "user": "ada" }));
    request = request.header("host", host);
    if let Some(origin) = origin {
        request = request.header("origin", origin);
    }
    let answer = request.send().await.unwrap();
    let allowed = answer.headers().get("access-control-allow-origin");
    let allowed = allowed.map(|origin| origin.to_str().unwrap().to_owned());
    let status = answer.status().as_u16();
    assert_eq!(
        answer.text().await.unwrap().contains("token\""),
        status == 200
    );
    (status, allowed)
}

#[tokio::test]
async fn controls_answer_pages_of_allowed_origins_only() {
    let console = "http://localhost:8000";
    let scenario = configured(|config| config.allowed_origins = vec![console.to_owned()]).await;
    let port = scenario.sandbox.address().port();
    let (own, host) = (
        scenario.sandbox.url().to_owned(),
        format!("localhost:{port}"),
    );
    for origin in [console, &own] {
        let expected = (200, Some(origin.to_owned()));
        assert_eq!(
            token_for_page(&scenario, &host, Some(origin)).await,
            expected
        );
    }
    assert_eq!(token_for_page(&scenario, &host, None).await, (200, None));
    let lookalike = format!("{own}.evil.test");
    let other_port = "http://localhost:1";
    for origin in [
        "https://evil.test",
        "null",
        "",
        &lookalike,
        other_port,
        "http://",
    ] {
        let answer = token_for_page(&scenario, &host, Some(origin)).await;
        assert_eq!(answer, (403, None), "{origin:?}");
    }
    for (origin, status) in [(console, 204), ("https://evil.test", 403)] {
        let url = format!("{own}/sandbox/faults");
        let preflight = scenario.http.request(Method::OPTIONS, url);
        let preflight = preflight.header("origin", origin);
        let preflight = preflight.header("access-control-request-method", "PUT");
        assert_eq!(preflight.send().await.unwrap().status(), status, "{origin}");
    }
}

#[tokio::test]
async fn controls_answer_under_loopback_names_only() {
    let scenario = configured(|_| {}).await;
    let port = scenario.sandbox.address().port();
    for name in ["localhost", "127.0.0.1", "127.8.0.1", "[::1]"] {
        let host = format!("{name}:{port}");
        // A page behind a proxy of the developer, whose origin matches the requested host name.
        let origin = format!("http://{host}");
        let (status, _) = token_for_page(&scenario, &host, Some(&origin)).await;
        assert_eq!(status, 200, "{host}");
    }
    for name in [
        "evil.test",
        "localhost.evil.test",
        "10.0.0.1",
        "[::2]",
        "evil.test@localhost",
    ] {
        let host = format!("{name}:{port}");
        for origin in [None, Some(format!("http://{host}"))] {
            let (status, _) = token_for_page(&scenario, &host, origin.as_deref()).await;
            assert_eq!(status, 403, "{host} {origin:?}");
        }
    }
}

#[tokio::test]
async fn api_calls_are_recorded_with_status() {
    let scenario = configured(|_| {}).await;
    scenario
        .call(Method::GET, "/connections?limit=5", None)
        .await;
    let url = format!("{}/connections/nope", scenario.sandbox.url());
    scenario.http.get(url).send().await.unwrap();
    let calls = scenario.call(Method::GET, "/sandbox/requests", None).await;
    let expected = json!([
        { "method": "GET", "path": "/connections", "query": "limit=5", "status": 200 },
        { "method": "GET", "path": "/connections/nope", "query": "", "status": 401 },
    ]);
    assert_eq!(calls, expected, "controls are no API calls");
}

#[tokio::test]
async fn log_lists_calls_and_webhooks_newest_first() {
    let scenario = configured(|_| {}).await;
    let session = scenario.session(json!({ "tags": {} })).await;
    scenario.advance(TimeDelta::seconds(1));
    scenario
        .faults(json!({ "drop_webhooks": true, "consent": "allow" }))
        .await;
    let query = scenario.authorize(&session, "github").await;
    scenario.callback(&query).await;
    scenario.advance(TimeDelta::seconds(1));
    scenario
        .call(Method::GET, "/connections?limit=5", None)
        .await;
    let log = scenario.call(Method::GET, "/sandbox/log", None).await;
    let lines = log.as_array().unwrap();
    assert_eq!(lines[0]["call"]["query"], "limit=5");
    assert_eq!(lines[1]["kind"], "sent");
    assert_eq!(lines[1]["webhook"]["attempts"], json!([]), "it was dropped");
    assert_eq!(lines.last().unwrap()["call"]["path"], "/connect/sessions");
    assert!(lines.iter().all(|line| line["at"].is_string()), "{log}");
}

#[tokio::test]
async fn sandbox_closes_connections_when_stopped_or_dropped() {
    let sandbox = Sandbox::start(Config::default()).await.unwrap();
    let address = sandbox.address();
    let open = TcpStream::connect(address).await.unwrap();
    sandbox.stop().await;
    assert!(TcpStream::connect(address).await.is_err());
    let mut rest = [0; 1];
    open.readable().await.unwrap();
    assert!(
        !matches!(open.try_read(&mut rest), Ok(1..)),
        "open connections are closed"
    );

    let sandbox = Sandbox::start(Config::default()).await.unwrap();
    let address = sandbox.address();
    drop(sandbox);
    // The accept loop ends at its next poll.
    eventually(async || TcpStream::connect(address).await.is_err()).await;
}
