//! One caller's share of a replica: slow bodies, forged tokens, guessed secrets, and unread responses.

use std::future::pending;
use std::io;

use axum::Router;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use chrono::TimeDelta;
use futures::stream::{self, StreamExt};
use patchbay::auth::service_keys::Scope;
use reqwest::{Body, Client, Method, RequestBuilder, StatusCode};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{Answer, METRICS_TOKEN, list};
use crate::eventually::eventually;
use crate::isolation::query_parity::with_statement_log;
use crate::test_app::{PROMPT_TIMEOUT, TestApp, User, client};
use crate::test_database;
use crate::test_server::serve;

/// More requests than there are permits.
const MANY: usize = 30;

type Sent = JoinHandle<Option<StatusCode>>;

fn send(request: RequestBuilder) -> Sent {
    tokio::spawn(async move { Some(request.send().await.ok()?.status()) })
}

/// Sends a request whose body never ends.
fn endless(request: RequestBuilder) -> Sent {
    let start = stream::once(async { Ok::<_, io::Error>(r#"{"config":"#) });
    let body = Body::wrap_stream(start.chain(stream::pending()));
    send(
        request
            .header("content-type", "application/json")
            .body(body),
    )
}

/// Waits until all requests except `left` were rejected.
async fn until_refused(sent: Vec<Sent>, left: usize, status: u16) -> Vec<Sent> {
    let unfinished = || sent.iter().filter(|one| !one.is_finished()).count();
    eventually(async || unfinished() <= left).await;
    let mut open = Vec::new();
    for one in sent {
        if one.is_finished() {
            let refused = one.await.unwrap().unwrap();
            assert_eq!(refused.as_u16(), status);
        } else {
            open.push(one);
        }
    }
    assert_eq!(open.len(), left);
    open
}

async fn until_listed(user: &User<'_>) {
    eventually(async || list(user).await.status == 200).await;
}

/// Returns clients of HTTP/1 and HTTP/2.
fn clients() -> [Client; 2] {
    let http2 = Client::builder().http2_prior_knowledge();
    [client(), http2.build().unwrap()]
}

#[tokio::test]
async fn slow_bodies_occupy_their_users_share_only() {
    let app = TestApp::with(&[("MAX_CONCURRENT_REQUESTS", "20")]).await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    let url = format!("{}/api/v1/connectors/gmail/connect", app.url);
    for client in clients() {
        let slow = || endless(client.post(&url).bearer_auth(&ada.token));
        let slow = until_refused((0..MANY).map(|_| slow()).collect(), 1, 429).await;
        list(&ada).await.is_refused("rate_limited", "1");
        assert_eq!(list(&bob).await.status, 200);
        slow.iter().for_each(JoinHandle::abort);
        until_listed(&ada).await;
    }
}

#[tokio::test]
async fn slow_bodies_occupy_their_keys_share_only() {
    let app = TestApp::with(&[("MAX_CONCURRENT_REQUESTS", "20")]).await;
    let scopes = [Scope::ConnectionsWrite].into();
    let key = app.keys().await.create("backend", &scopes).await.unwrap();
    let bob = app.user("bob").await;
    let url = format!("{}/api/v1/connectors/gmail/connect", app.url);
    for client in clients() {
        // Until the key has been looked up, its requests count by address.
        let known = client.get(format!("{}/api/v1/connectors", app.url));
        let known = known.bearer_auth(key.expose_secret()).send().await;
        assert_eq!(known.unwrap().status(), 200);
        let slow = |n: usize| {
            let request = client.post(&url).bearer_auth(key.expose_secret());
            endless(request.header("patchbay-user", format!("user-{n}")))
        };
        let slow = until_refused((0..MANY).map(slow).collect(), 2, 429).await;
        assert_eq!(list(&bob).await.status, 200);
        slow.iter().for_each(JoinHandle::abort);
    }
}

#[tokio::test]
async fn slow_bodies_leave_requests_without_body_alone() {
    let app = TestApp::with(&[("MAX_CONCURRENT_REQUESTS", "2")]).await;
    let users = [app.user("ada").await, app.user("bob").await];
    let slow = users.map(|user| endless(user.request(Method::POST, "/gmail/connect")));
    let carol = app.user("carol").await;
    let with_body = async || {
        let request = carol.request(Method::POST, "/gmail/connect");
        Answer::to(request.json(&json!({}))).await
    };
    eventually(async || with_body().await.status == 503).await;
    with_body().await.is_refused("overloaded", "1");
    assert_eq!(list(&carol).await.status, 200);
    assert!(slow.iter().all(|one| !one.is_finished()));
}

/// Returns a forged token with the id of an existing key.
fn forged() -> String {
    let header = json!({ "alg": "RS256", "typ": "JWT", "kid": "made-up" });
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.c2lnbmVk", part(&header), part(&json!({})))
}

fn with_forged(app: &TestApp, from: &str) -> RequestBuilder {
    let request = app.client.get(format!("{}/api/v1/connectors", app.url));
    request
        .bearer_auth(forged())
        .header("x-forwarded-for", from)
}

#[tokio::test]
async fn forged_tokens_hold_no_permits_while_keys_hang() {
    let hanging = Router::new().fallback(async || pending::<()>().await);
    let keys = serve(hanging).await;
    let app = TestApp::with(&[
        ("AUTH_JWKS_URL", keys.as_str()),
        ("MAX_CONCURRENT_REQUESTS", "20"),
        ("TRUSTED_PROXY_HOPS", "1"),
    ])
    .await;
    let ada = app.user("ada").await;
    let sent = (0..MANY).map(|_| send(with_forged(&app, "192.0.2.1")));
    let waiting = until_refused(sent.collect(), 2, 503).await;
    let answer = timeout(PROMPT_TIMEOUT, list(&ada)).await;
    assert_eq!(answer.expect("an answer in time").status, 200);
    assert!(waiting.iter().any(|one| !one.is_finished()));
}

#[tokio::test]
async fn forged_tokens_count_while_keys_cannot_be_had() {
    let failing = Router::new().fallback(async || StatusCode::BAD_GATEWAY);
    let keys = serve(failing).await;
    let app = TestApp::with(&[
        ("AUTH_JWKS_URL", keys.as_str()),
        ("RATE_LIMIT_ADDRESS_PER_MINUTE", "2"),
        ("TRUSTED_PROXY_HOPS", "1"),
    ])
    .await;
    for _ in 0..2 {
        let unknown = Answer::to(with_forged(&app, "192.0.2.1")).await;
        assert_eq!(
            (unknown.status, &unknown.body["code"]),
            (503, &json!("keys_unavailable"))
        );
    }
    Answer::to(with_forged(&app, "192.0.2.1"))
        .await
        .is_refused("rate_limited", "30");
    assert_eq!(Answer::to(with_forged(&app, "192.0.2.2")).await.status, 503);
}

/// Gives a user this many connections with configs of the maximum size.
async fn with_large_configs(app: &TestApp, user: &User<'_>, name: &str, count: i32) {
    user.connect("gmail").await;
    sqlx::query(
        "insert into user_connector_connection \
           (id, user_id, connector_id, instance_id, label, status, status_reason, disconnected_at, config, \
            created_at, updated_at) \
         select gen_random_uuid(), user_id, connector_id, 'number ' || n, repeat('é', 255), 'disconnected', \
           'user_disconnected', now(), jsonb_build_object('k', repeat('x', 4000)), now(), now() \
         from user_connector_connection, generate_series(2, $2) n where user_id = $1",
    )
    .bind(name)
    .bind(count)
    .execute(&mut app.sql().await)
    .await
    .unwrap();
}

#[tokio::test]
async fn page_stops_at_its_bytes_and_continues() {
    const MOST: usize = 512 * 1024;
    let app = TestApp::new().await;
    for (name, count) in [("ada", 100), ("bob", 300)] {
        let user = app.user(name).await;
        with_large_configs(&app, &user, name, count).await;
        for filter in ["", "&status=disconnected"] {
            let mut seen = Vec::new();
            let mut cursor = String::new();
            loop {
                let path = format!("/connections?limit=500{filter}{cursor}");
                let answer = user.request(Method::GET, &path).send().await.unwrap();
                let text = answer.text().await.unwrap();
                assert!(text.len() < MOST + 1024, "{} bytes", text.len());
                let page: Value = serde_json::from_str(&text).unwrap();
                let connections = page["connections"].as_array().unwrap();
                seen.extend(connections.iter().map(|one| one["id"].clone()));
                match page["next_cursor"].as_str() {
                    Some(next) => cursor = format!("&cursor={next}"),
                    None => break,
                }
            }
            let expected = usize::try_from(count).unwrap() - usize::from(!filter.is_empty());
            assert_eq!(seen.len(), expected);
            seen.sort_by_key(ToString::to_string);
            seen.dedup();
            assert_eq!(seen.len(), expected, "each is on one page");
        }
    }
}

/// Requests the longest list, and reads only the beginning of the response.
async fn unread_list(app: &TestApp, user: &User<'_>) -> (TcpStream, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let address = app.url.trim_start_matches("http://").parse().unwrap();
    let mut socket = socket.connect(address).await.unwrap();
    let request = format!(
        "GET /api/v1/connectors/connections?limit=500 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
         authorization: Bearer {}\r\n\r\n",
        user.token
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 15];
    socket.read_exact(&mut head).await.unwrap();
    (socket, String::from_utf8_lossy(&head).into_owned())
}

#[tokio::test]
async fn unread_answers_occupy_their_callers_share() {
    let app = TestApp::with(&[("MAX_CONCURRENT_REQUESTS", "200")]).await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    with_large_configs(&app, &ada, "ada", 300).await;
    // Eight of ten permits: one for the request and seven for its bytes.
    let (mut first, head) = unread_list(&app, &ada).await;
    assert_eq!(head, "HTTP/1.1 200 OK");
    let (_, head) = unread_list(&app, &ada).await;
    assert_eq!(head, "HTTP/1.1 429 To");
    assert_eq!(list(&bob).await.status, 200);
    let one = ada.request(Method::GET, "/connections?limit=1");
    assert_eq!(Answer::to(one).await.status, 200);
    // A response that has been read returns its permits.
    let mut rest = Vec::new();
    let read = timeout(PROMPT_TIMEOUT, first.read_to_end(&mut rest)).await;
    read.expect("the answer's end").unwrap();
    let (_, head) = unread_list(&app, &ada).await;
    assert_eq!(head, "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn large_lists_are_read_apart() {
    let database = test_database::database().await;
    let (url, statements) = with_statement_log(&database).await;
    let app = TestApp::build_on(database, None, &[("DATABASE_URL", &url)], |_| {}).await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    with_large_configs(&app, &ada, "ada", 50).await;
    bob.connect("gmail").await;
    let shared = async |user: &User<'_>| {
        statements.lock().unwrap().clear();
        let found = user.get("/connections?limit=500").await["connections"].clone();
        let statements = statements.lock().unwrap();
        let shared = statements.iter().any(|text| text.contains("limit 101"));
        (found.as_array().unwrap().len(), shared)
    };
    // The first read shows that the connections are large.
    assert_eq!(shared(&ada).await, (50, true));
    assert_eq!(shared(&ada).await, (50, false));
    assert_eq!(shared(&bob).await, (1, true));
}

#[tokio::test]
async fn waiting_request_costs_no_statements() {
    let database = test_database::database().await;
    let (url, statements) = with_statement_log(&database).await;
    let app = TestApp::build_on(database, None, &[("DATABASE_URL", &url)], |_| {}).await;
    let ada = app.user("ada").await;
    let started = ada.connect("gmail").await;
    let id = started["connection_id"].as_str().unwrap();
    // A known account needs no statement of its own.
    let known = "update user_connector_connection set account_id = 'ada@example.com'";
    let mut sql = app.sql().await;
    sqlx::raw_sql(known).execute(&mut sql).await.unwrap();
    statements.lock().unwrap().clear();
    let waited = ada.get(&format!("/connections/{id}?wait=5")).await;
    assert_eq!(waited["status"], "pending");
    let statements = statements.lock().unwrap();
    let of_connections = |text: &&String| text.contains("user_connector_connection");
    let reads: Vec<_> = statements.iter().filter(of_connections).collect();
    // At the start, at the end, and perhaps after a late notification of the connect.
    assert!(reads.len() <= 3, "{reads:#?}");
}

#[tokio::test]
async fn corrected_clock_does_not_lock_users_out() {
    let app = TestApp::with(&[("RATE_LIMIT_USER_PER_MINUTE", "3")]).await;
    let ada = app.user("ada").await;
    app.clock.correct(TimeDelta::hours(1));
    assert_eq!(list(&ada).await.status, 200);
    app.clock.correct(TimeDelta::hours(-1));
    assert_eq!(list(&ada).await.status, 200);
    assert_eq!(list(&ada).await.status, 200);
    list(&ada).await.is_refused("rate_limited", "20");
    // A clock that is set forward does not refill the quota.
    app.clock.correct(TimeDelta::hours(1));
    list(&ada).await.is_refused("rate_limited", "20");
}

#[tokio::test]
async fn metrics_token_guesses_are_limited() {
    let app = TestApp::with(&[
        ("RATE_LIMIT_ADDRESS_PER_MINUTE", "2"),
        ("METRICS_TOKEN", METRICS_TOKEN),
        ("TRUSTED_PROXY_HOPS", "1"),
    ])
    .await;
    let guess = |token: &str, from: &str| {
        let request = app.client.get(format!("{}/metrics", app.url));
        let request = request.header("x-forwarded-for", from);
        Answer::to(request.bearer_auth(token))
    };
    for _ in 0..5 {
        assert_eq!(guess(METRICS_TOKEN, "192.0.2.1").await.status, 200);
    }
    for _ in 0..2 {
        assert_eq!(guess("wrong", "192.0.2.1").await.status, 401);
    }
    // Further guesses are rejected without a comparison.
    for token in ["wrong", METRICS_TOKEN] {
        let refused = guess(token, "192.0.2.1").await;
        refused.is_refused("rate_limited", "30");
    }
    assert_eq!(guess(METRICS_TOKEN, "192.0.2.2").await.status, 200);
    app.advance(TimeDelta::seconds(30));
    assert_eq!(guess(METRICS_TOKEN, "192.0.2.1").await.status, 200);
}
