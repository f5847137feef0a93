//! The Nango client, when Nango or the network fails.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use axum::response::{Html, IntoResponse, Response};
use patchbay::nango::{
    Config, ConfigError, Credentials, Deleted, Error, IntegrationDefaults, ListConnections, Nango,
    Priority, Refresh, Session, SessionRequest,
};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use url::Url;

use crate::test_server::serve;

mod filters;
mod odd_answers;

const SECRET_KEY: &str = "0d5f4d0e-4f9c-4b2a-8f0e-2f6d5c1b7a90";

fn client(base_url: Url, timeout: Duration) -> Nango {
    let secret_key = SECRET_KEY.into();
    Nango::new(Config {
        public_url: base_url.clone(),
        base_url,
        secret_key,
        timeout,
    })
    .unwrap()
}

/// Returns a client of a Nango that sends these responses in order, and then 410; and the number of requests.
async fn scripted_server<const N: usize>(answers: [Response; N]) -> (Nango, Arc<AtomicUsize>) {
    let answers = Arc::new(Mutex::new(VecDeque::from(answers)));
    let count = Arc::new(AtomicUsize::new(0));
    let request_count = Arc::clone(&count);
    let router = Router::new().fallback(move || async move {
        request_count.fetch_add(1, Ordering::SeqCst);
        let next = answers.lock().unwrap().pop_front();
        next.unwrap_or_else(|| StatusCode::GONE.into_response())
    });
    (client(serve(router).await, Duration::from_secs(10)), count)
}

fn no_integrations() -> Response {
    axum::Json(json!({"data": []})).into_response()
}

fn rate_limited(seconds: &'static str) -> Response {
    (StatusCode::TOO_MANY_REQUESTS, [(RETRY_AFTER, seconds)]).into_response()
}

fn github() -> SessionRequest {
    SessionRequest {
        reconnects: None,
        integration: "github".to_owned(),
        tags: BTreeMap::new(),
        webhook_url_override: None,
        defaults: IntegrationDefaults::default(),
    }
}

#[tokio::test]
async fn call_without_caller_ends_while_rate_limit_has_no_room() {
    let (nango, count) = scripted_server([(); 20].map(|()| rate_limited("1"))).await;
    let refused = Priority::Deletion.scope(nango.integrations()).await;
    assert!(
        matches!(refused, Err(Error::RateLimited { .. })),
        "{refused:?}"
    );
    assert!((2..=5).contains(&count.load(Ordering::SeqCst)));
}

#[tokio::test]
async fn server_errors_are_retried() {
    for status in [500, 502, 503, 504] {
        let failure = StatusCode::from_u16(status).unwrap().into_response();
        let (nango, count) = scripted_server([failure, no_integrations()]).await;
        assert_eq!(nango.integrations().await, Ok(vec![]), "{status}");
        assert_eq!(count.load(Ordering::SeqCst), 2, "{status}");
    }
}

#[tokio::test]
async fn retries_stop_after_limit() {
    let failure = || StatusCode::SERVICE_UNAVAILABLE.into_response();
    let (nango, count) =
        scripted_server([failure(), failure(), failure(), no_integrations()]).await;
    let error = nango.session(&github()).await.unwrap_err();
    assert_eq!(error, Error::Unavailable { status: 503 });
    assert!(error.is_transient());
    assert_eq!(count.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn client_errors_are_not_retried() {
    for status in [400, 401, 403, 404, 415, 424] {
        let refusal = StatusCode::from_u16(status).unwrap().into_response();
        let (nango, count) = scripted_server([refusal, no_integrations()]).await;
        let error = nango.integrations().await.unwrap_err();
        assert!(!error.is_transient(), "{status}: {error}");
        assert_eq!(count.load(Ordering::SeqCst), 1, "{status}");
    }
}

#[tokio::test]
async fn short_retry_after_is_honored() {
    let (nango, count) = scripted_server([rate_limited("1"), no_integrations()]).await;
    let start = Instant::now();
    assert_eq!(nango.integrations().await, Ok(vec![]));
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert_eq!(count.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn long_retry_after_is_returned_to_caller() {
    let (nango, count) = scripted_server([rate_limited("30"), no_integrations()]).await;
    let error = nango.integrations().await.unwrap_err();
    let retry_after = Some(Duration::from_secs(30));
    assert_eq!(error, Error::RateLimited { retry_after });
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn timeout_is_not_retried() {
    let count = Arc::new(AtomicUsize::new(0));
    let request_count = Arc::clone(&count);
    let router = Router::new().fallback(move || async move {
        request_count.fetch_add(1, Ordering::SeqCst);
        std::future::pending::<()>().await;
    });
    let nango = client(serve(router).await, Duration::from_millis(300));
    assert_eq!(nango.integrations().await, Err(Error::Timeout));
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn rate_limited_call_is_given_up_after_ten_seconds() {
    let count = Arc::new(AtomicUsize::new(0));
    let request_count = Arc::clone(&count);
    let router = Router::new().fallback(move || async move {
        request_count.fetch_add(1, Ordering::SeqCst);
        rate_limited("4")
    });
    let nango = client(serve(router).await, Duration::from_secs(1));
    let error = nango.integrations().await.unwrap_err();
    let retry_after = Some(Duration::from_secs(4));
    assert_eq!(error, Error::RateLimited { retry_after });
    // The fourth call would start after twelve seconds.
    assert!((2..=3).contains(&count.load(Ordering::SeqCst)));
}

#[tokio::test]
async fn dropped_connection_is_retried_then_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let accepted = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            accepted.fetch_add(1, Ordering::SeqCst);
            drop(stream);
        }
    });
    let nango = client(url.parse().unwrap(), Duration::from_secs(10));
    let error = nango.integrations().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert!(error.is_transient());
    assert!(count.load(Ordering::SeqCst) >= 3);
}

#[tokio::test]
async fn closed_port_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let nango = client(url.parse().unwrap(), Duration::from_secs(10));
    let error = nango.integrations().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    assert!(!error.to_string().contains("/integrations"), "{error}");
}

#[tokio::test]
async fn non_nango_response_is_unexpected() {
    let redirect = (StatusCode::FOUND, [(LOCATION, "https://example.com/")]);
    let answers = [
        (200, Html("<h1>Welcome</h1>").into_response(), "text/html"),
        (302, redirect.into_response(), "redirect"),
        (
            404,
            (StatusCode::NOT_FOUND, Html("no")).into_response(),
            "text/html",
        ),
        (
            200,
            axum::Json(json!({"data": [{"unique_key": "access_me"}]})).into_response(),
            "json",
        ),
        (
            200,
            vec![b' '; 8 * 1024 * 1024 + 1].into_response(),
            "longer than",
        ),
    ];
    for (expected, answer, about) in answers {
        let (nango, count) = scripted_server([answer]).await;
        let error = nango.integrations().await.unwrap_err();
        let Error::Unexpected { status, detail } = error else {
            panic!("{about}: {error:?}");
        };
        assert_eq!(status, expected, "{about}");
        assert!(detail.contains(about), "{about}: {detail}");
        assert!(!detail.contains("access_me"), "{detail}");
        assert_eq!(count.load(Ordering::SeqCst), 1, "{about}");
    }
}

#[tokio::test]
async fn error_detail_is_shortened_and_redacts_key() {
    let router = Router::new().fallback(|request: Request| async move {
        let key = request.headers()[AUTHORIZATION]
            .to_str()
            .unwrap()
            .to_owned();
        let message = format!("{key}\n{}", "long ".repeat(10_000));
        let body = json!({"error": {"code": "odd", "message": message}});
        (StatusCode::BAD_REQUEST, axum::Json(body))
    });
    let nango = client(serve(router).await, Duration::from_secs(10));
    let error = nango.integrations().await.unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(text.contains("odd: Bearer [redacted] long"), "{text}");
    assert!(!text.contains(SECRET_KEY), "{text}");
    assert!(text.len() < 1000, "{text}");
    assert!(!format!("{nango:?}").contains(SECRET_KEY));
}

#[tokio::test]
async fn unsupported_field_is_detected_for_older_nango() {
    let message = "Unrecognized key(s) in object: 'webhook_url_override'";
    let issue = json!({"code": "unrecognized_keys", "message": message, "path": []});
    let body = json!({"error": {"code": "invalid_body", "errors": [issue]}});
    let refusal = (StatusCode::BAD_REQUEST, axum::Json(body)).into_response();
    let (nango, _) = scripted_server([refusal]).await;
    let error = nango.session(&github()).await.unwrap_err();
    let field = "webhook_url_override".to_owned();
    assert_eq!(error, Error::UnsupportedField(field));
}

/// The requests to a Nango: method and path, and body.
type Requests = Arc<Mutex<Vec<(String, Value)>>>;

async fn recording(answer: Value) -> (Nango, Url, Requests) {
    let requests = Requests::default();
    let log = Arc::clone(&requests);
    let router = Router::new().fallback(move |request: Request| async move {
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let body = serde_json::from_slice(&body).unwrap_or_default();
        let typed = parts.headers.contains_key(CONTENT_TYPE);
        let line = format!(
            "{} {}{}",
            parts.method,
            parts.uri,
            if typed { " json" } else { "" }
        );
        log.lock().unwrap().push((line, body));
        axum::Json(answer)
    });
    let base = serve(router).await.join("nango/").unwrap();
    (
        client(base.clone(), Duration::from_secs(10)),
        base,
        requests,
    )
}

fn session_answer() -> Value {
    json!({"data": {
        "token": "nango_connect_session_ab+c",
        "connect_link": "https://connect.example.com/?session_token=nango_connect_session_ab%2Bc",
        "expires_at": "2026-11-23T13:13:37.7+00:00",
    }})
}

#[tokio::test]
async fn session_requests_match_nango_format() {
    let (nango, _, requests) = recording(session_answer()).await;
    let create = SessionRequest {
        tags: [("end_user_id".to_owned(), "ada".to_owned())].into(),
        webhook_url_override: Some("https://app.example.com/hooks/1".parse().unwrap()),
        defaults: IntegrationDefaults {
            scopes: vec!["repo".to_owned(), "user".to_owned()],
            parameters: [("subdomain".to_owned(), "acme".to_owned())].into(),
            authorization_params: [("prompt".to_owned(), "consent".to_owned())].into(),
        },
        ..github()
    };
    nango.session(&create).await.unwrap();
    let reconnect = SessionRequest {
        reconnects: Some("c-1".to_owned()),
        ..create
    };
    nango.session(&reconnect).await.unwrap();

    let common = json!({
        "tags": {"end_user_id": "ada"},
        "webhook_url_override": "https://app.example.com/hooks/1",
        "integrations_config_defaults": {
            "github": {
                "connection_config": {"oauth_scopes_override": "repo,user", "subdomain": "acme"},
                "authorization_params": {"prompt": "consent"},
            },
        },
    });
    let mut created = common.clone();
    created["allowed_integrations"] = json!(["github"]);
    let mut reconnected = common;
    reconnected["connection_id"] = json!("c-1");
    reconnected["integration_id"] = json!("github");
    let path = "POST /nango/connect/sessions";
    let expected = vec![
        (format!("{path} json"), created),
        (format!("{path}/reconnect json"), reconnected),
    ];
    assert_eq!(*requests.lock().unwrap(), expected);
}

#[tokio::test]
async fn ids_and_tags_are_escaped_in_url() {
    let (nango, _, requests) = recording(json!({"connections": [], "success": true})).await;
    let filter = ListConnections {
        tags: [("a&b".to_owned(), "c=d e".to_owned())].into(),
        limit: Some(100),
        page: Some(0),
        ..ListConnections::default()
    };
    nango.connections(&filter).await.unwrap();
    nango.delete_connection("a/b?c#d", "x&y").await.unwrap();
    for id in ["", ".", ".."] {
        let deleted = nango.delete_connection(id, "github").await;
        assert_eq!(deleted, Ok(Deleted::AlreadyGone));
        let found = nango.connection(id, "github", Refresh::WhenDue).await;
        assert_eq!(found.unwrap_err(), Error::NotFound);
    }
    let requests = requests.lock().unwrap();
    let lines: Vec<_> = requests.iter().map(|(line, _)| line.as_str()).collect();
    let expected = [
        "GET /nango/connections?tags%5Ba%26b%5D=c%3Dd+e&limit=100&page=0",
        "DELETE /nango/connections/a%2Fb%3Fc%23d?provider_config_key=x%26y",
    ];
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn browser_urls_point_to_configured_nango() {
    let (nango, base, _) = recording(session_answer()).await;
    let session: Session = nango.session(&github()).await.unwrap();
    assert_eq!(
        nango.oauth_connect_url("my github", &session).as_str(),
        format!(
            "{base}oauth/connect/my%20github?connect_session_token=nango_connect_session_ab%2Bc"
        )
    );
    let api_url =
        url::form_urlencoded::byte_serialize(base.as_str().trim_end_matches('/').as_bytes());
    let link = "https://connect.example.com/?session_token=nango_connect_session_ab%2Bc";
    assert_eq!(
        nango.connect_link(&session).as_str(),
        format!("{link}&apiURL={}", api_url.collect::<String>())
    );
    let hosted = client(
        "https://api.nango.dev".parse().unwrap(),
        Duration::from_secs(1),
    );
    assert_eq!(hosted.connect_link(&session).as_str(), link);
    assert_eq!(
        hosted.oauth_callback_url("state=a%2Fb&code=x+y%20z&empty"),
        "https://api.nango.dev/oauth/callback?state=a%2Fb&code=x+y%20z&empty"
    );
    assert!(!format!("{session:?}").contains("nango_connect_session"));
}

#[test]
fn invalid_configuration_is_rejected() {
    let new = |base_url: &str, secret_key: &str| {
        Nango::new(Config {
            base_url: base_url.parse().unwrap(),
            public_url: base_url.parse().unwrap(),
            secret_key: secret_key.into(),
            timeout: Duration::from_secs(1),
        })
    };
    for base in [
        "ftp://nango",
        "mailto:a@b",
        "http://u:p@nango",
        "http://nango/?a",
        "http://nango/#a",
    ] {
        assert!(
            matches!(new(base, SECRET_KEY), Err(ConfigError::BaseUrl)),
            "{base}"
        );
    }
    for key in ["", "a key", "key\n", "schlüssel"] {
        let refused = new("http://nango", key);
        assert!(matches!(refused, Err(ConfigError::SecretKey)), "{key:?}");
    }
}

#[tokio::test]
async fn unrecorded_credential_types_are_parsed() {
    let credentials = async |credentials: Value| {
        let connection = json!({ "connection_id": "c-1", "credentials": credentials });
        let (nango, _) = scripted_server([axum::Json(connection).into_response()]).await;
        let connection = nango.connection("c-1", "x", Refresh::WhenDue).await?;
        Ok::<_, Error>(connection.credentials)
    };
    let oauth1 = json!({"type": "OAUTH1", "oauth_token": "t", "oauth_token_secret": "s"});
    let read = credentials(oauth1).await.unwrap();
    let Credentials::OAuth1 {
        token,
        token_secret,
    } = read
    else {
        panic!("{read:?}");
    };
    assert_eq!(
        (token.expose_secret(), token_secret.expose_secret()),
        ("t", "s")
    );

    let jwt = json!({"type": "JWT", "token": "t", "expires_at": 7});
    let read = credentials(jwt.clone()).await.unwrap();
    assert!(!format!("{read:?}").contains("token"), "{read:?}");
    let Credentials::Other { kind, raw, .. } = read else {
        panic!("{read:?}");
    };
    assert_eq!(kind, "JWT");
    assert_eq!(
        serde_json::from_str::<Value>(raw.expose_secret()).unwrap(),
        jwt
    );

    let number = json!({"type": "OAUTH2", "access_token": 1234567890123456789_u64});
    let Credentials::OAuth2 { access_token, .. } = credentials(number).await.unwrap() else {
        panic!("its type is OAUTH2");
    };
    assert_eq!(access_token.expose_secret(), "1234567890123456789");

    let without_token = credentials(json!({"type": "OAUTH2"})).await.unwrap_err();
    assert!(matches!(
        without_token,
        Error::Unexpected { status: 200, .. }
    ));
}
