//! Rate limits of callers, and the responses above the limit.

mod concurrency;
mod forwarded;
mod shares;
mod updates;

use chrono::TimeDelta;
use futures::future::join_all;
use patchbay::auth::service_keys::Scope;
use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder, StatusCode};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::eventually::{eventually, eventually_value};
use crate::isolation::query_parity::with_statement_log;
use crate::test_app::{ORIGIN, PROMPT_TIMEOUT, TestApp, User};
use crate::test_database;

pub(crate) const METRICS_TOKEN: &str = "a token that only Prometheus has";

/// A well-formed service key that does not exist.
const MADE_UP_KEY: &str = "pbk_aaaaaaaa_0123456789abcdef0123456789abcdef";

/// The status, headers and body of a response.
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Value,
}

impl Answer {
    async fn to(request: RequestBuilder) -> Self {
        let response = request.send().await.unwrap();
        Self {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.json().await.unwrap_or_default(),
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        Some(self.headers.get(name)?.to_str().unwrap())
    }

    /// Fails unless this is a rate limit error with this `Retry-After`.
    fn is_refused(&self, code: &str, wait: &str) {
        let status = if code == "rate_limited" { 429 } else { 503 };
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(self.body["code"], code);
        assert_eq!(self.header("retry-after"), Some(wait));
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json")
        );
        assert!(self.body["request_id"].is_string());
    }
}

async fn list(user: &User<'_>) -> Answer {
    Answer::to(user.request(Method::GET, "/connections")).await
}

#[tokio::test]
async fn user_rate_limit_is_enforced_and_reported_in_headers() {
    let app = TestApp::with(&[("RATE_LIMIT_USER_PER_MINUTE", "3")]).await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    for left in [
        "\"user\";r=2;t=20",
        "\"user\";r=1;t=40",
        "\"user\";r=0;t=60",
    ] {
        let answer = list(&ada).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("ratelimit"), Some(left));
        assert_eq!(answer.header("ratelimit-policy"), Some("\"user\";q=3;w=60"));
    }
    let refused = list(&ada).await;
    refused.is_refused("rate_limited", "20");
    assert_eq!(refused.header("ratelimit"), Some("\"user\";r=0;t=60"));
    assert_eq!(list(&bob).await.status, 200);
    app.advance(TimeDelta::seconds(20));
    assert_eq!(list(&ada).await.status, 200);
    list(&ada).await.is_refused("rate_limited", "20");
    // Browsers can read the error and `Retry-After`.
    let request = ada.request(Method::GET, "/connections");
    let refused = Answer::to(request.header("origin", ORIGIN)).await;
    refused.is_refused("rate_limited", "20");
    assert_eq!(refused.header("access-control-allow-origin"), Some(ORIGIN));
}

#[tokio::test]
async fn connect_rate_limit_applies_to_users_and_services() {
    let app = TestApp::with(&[("RATE_LIMIT_CONNECT_PER_MINUTE", "2")]).await;
    let ada = app.user("ada").await;
    let started = ada.connect("gmail").await;
    ada.connect("github").await;
    let id = started["connection_id"].as_str().unwrap();
    let sessions = app.nango_calls("POST", "/connect/sessions").await;
    for path in [
        "/notion/connect".to_owned(),
        format!("/connections/{id}/reconnect"),
        format!("/connections/{id}/check"),
    ] {
        let refused = Answer::to(ada.request(Method::POST, &path)).await;
        refused.is_refused("rate_limited", "30");
        assert_eq!(
            refused.header("ratelimit-policy"),
            Some("\"connect\";q=2;w=60")
        );
    }
    let keys = app.keys().await;
    let scopes = [Scope::ConnectionsWrite, Scope::ConnectionsRead].into();
    let key = keys.create("backend", &scopes).await.unwrap();
    let for_user = |method: Method, path: &str, user: &str| {
        let url = format!("{}/api/v1/connectors{path}", app.url);
        let request = app.client.request(method, url);
        let request = request.bearer_auth(key.expose_secret());
        Answer::to(request.header("patchbay-user", user))
    };
    let refused = for_user(Method::POST, "/notion/connect", "ada").await;
    refused.is_refused("rate_limited", "30");
    assert_eq!(app.nango_calls("POST", "/connect/sessions").await, sessions);
    let other = for_user(Method::POST, "/notion/connect", "bob").await;
    assert_eq!(other.status, 200, "{}", other.body);
    assert_eq!(list(&ada).await.status, 200);
}

#[tokio::test]
async fn callbacks_use_bounded_nango_calls() {
    const MANY: usize = 50;
    let app = TestApp::with(&[("RATE_LIMIT_CONNECT_PER_MINUTE", "3")]).await;
    let ada = app.user("ada").await;
    let opened = ada.connect("gmail").await;
    let id = opened["connection_id"].as_str().unwrap();
    let looks = async || app.nango_calls("GET", "/connections").await;
    // Each with an id that is not known.
    let before = looks().await;
    for n in 0..MANY {
        let path = format!("/callback?connection_id=made-up-{n}");
        let answer = Answer::to(ada.request(Method::GET, &path)).await;
        if n < 2 {
            assert_eq!(answer.status, 404);
        } else {
            answer.is_refused("rate_limited", "20");
        }
    }
    assert_eq!(looks().await - before, 2);
    // Each for an open attempt, as JSON and as a page.
    let path = format!("/callback?connection_id={id}");
    let before = looks().await;
    for _ in 0..MANY {
        let returned = Answer::to(ada.request(Method::GET, &path)).await;
        assert_eq!(returned.body["status"], "pending");
        let page = app
            .client
            .get(format!("{}/api/v1/connectors{path}", app.url));
        let page = page
            .header("accept", "text/html")
            .header("authorization", "x");
        assert_eq!(Answer::to(page).await.status, 200);
    }
    // Of one attempt, three polls a minute are sent, however many callbacks there are.
    assert!(looks().await - before <= 6);
}

#[tokio::test]
async fn service_keys_are_exempt_from_rate_limits() {
    let app = TestApp::with(&[
        ("RATE_LIMIT_USER_PER_MINUTE", "1"),
        ("RATE_LIMIT_ADDRESS_PER_MINUTE", "1"),
    ])
    .await;
    let scopes = [Scope::ConnectionsRead].into();
    let key = app.keys().await.create("backend", &scopes).await.unwrap();
    for _ in 0..5 {
        let url = format!("{}/api/v1/connectors/connections", app.url);
        let request = app.client.get(url).bearer_auth(key.expose_secret());
        let answer = Answer::to(request.header("patchbay-user", "ada")).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("ratelimit"), None);
    }
}

/// Builds an unauthenticated request that was forwarded by these proxies.
fn send_as(app: &TestApp, proxies: &[&str]) -> RequestBuilder {
    let url = format!("{}/api/v1/connectors/callback", app.url);
    let request = app.client.get(url);
    proxies.iter().fold(request, |request, proxy| {
        request.header("x-forwarded-for", *proxy)
    })
}

#[tokio::test]
async fn unauthenticated_requests_are_limited_by_address() {
    let app = TestApp::with(&[("RATE_LIMIT_ADDRESS_PER_MINUTE", "2")]).await;
    let ada = app.user("ada").await;
    let connectors = format!("{}/api/v1/connectors", app.url);
    let bad_token = || Answer::to(app.client.get(&connectors).bearer_auth("not.a.token"));
    assert_eq!(bad_token().await.status, 401);
    // Without a trusted proxy, the header is not trustworthy and is ignored.
    assert_eq!(Answer::to(send_as(&app, &["192.0.2.1"])).await.status, 400);
    Answer::to(send_as(&app, &["192.0.2.2"]))
        .await
        .is_refused("rate_limited", "30");
    bad_token().await.is_refused("rate_limited", "30");
    // An authenticated caller is not limited by the address.
    assert_eq!(list(&ada).await.status, 200);
    for path in ["/healthz", "/readyz"] {
        let url = format!("{}{path}", app.url);
        assert_eq!(app.client.get(url).send().await.unwrap().status(), 200);
    }
    app.advance(TimeDelta::seconds(30));
    assert_eq!(bad_token().await.status, 401);
}

#[tokio::test]
async fn public_endpoints_are_limited_by_address() {
    let app = TestApp::with(&[
        ("RATE_LIMIT_ADDRESS_PER_MINUTE", "2"),
        ("TRUSTED_PROXY_HOPS", "1"),
    ])
    .await;
    let scopes = [Scope::ConnectionsRead].into();
    let key = app.keys().await.create("backend", &scopes).await.unwrap();
    let ada = app.user("ada").await;
    let mut from = (1..).map(|n| format!("192.0.2.{n}"));
    for path in [
        "/api/v1/openapi.json",
        "/docs/",
        "/nothing",
        "/api/v1/connectors/callback?connection_id=x",
        "/api/v1/connectors/callback?state=x",
        "/api/v1/webhooks/nothing",
    ] {
        let made_up = format!("Bearer {MADE_UP_KEY}");
        for header in ["x", "Bearer a.b.c", &made_up] {
            let from = from.next().unwrap();
            let ask = || {
                let request = app.client.get(format!("{}{path}", app.url));
                let request = request.header("x-forwarded-for", &from);
                Answer::to(
                    request
                        .header("accept", "text/html")
                        .header("authorization", header),
                )
            };
            for _ in 0..2 {
                let status = ask().await.status;
                assert!(status != 429 && status < 500, "{path} {header}: {status}");
            }
            let code = if path.contains("webhooks") {
                "overloaded"
            } else {
                "rate_limited"
            };
            ask().await.is_refused(code, "30");
            // Authenticated callers from the same address are served.
            let list = ada.request(Method::GET, "/connections");
            let list = Answer::to(list.header("x-forwarded-for", &from)).await;
            assert_eq!(list.status, 200);
            let list = app.client.get(format!("{}/api/v1/connectors", app.url));
            let list = list.bearer_auth(key.expose_secret());
            let list = Answer::to(list.header("x-forwarded-for", &from)).await;
            assert_eq!(list.status, 200);
        }
    }
}

#[tokio::test]
async fn public_endpoints_count_toward_authenticated_user() {
    let app = TestApp::with(&[("RATE_LIMIT_USER_PER_MINUTE", "2")]).await;
    let ada = app.user("ada").await;
    let ask = |path: &str| {
        let request = app.client.get(format!("{}{path}", app.url));
        Answer::to(request.bearer_auth(&ada.token))
    };
    assert_eq!(ask("/api/v1/openapi.json").await.status, 200);
    assert_eq!(ask("/nothing").await.status, 404);
    ask("/api/v1/openapi.json")
        .await
        .is_refused("rate_limited", "30");
}

#[tokio::test]
async fn unknown_keys_use_at_most_one_database_connection() {
    const MANY: usize = 50;
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let mut sql = app.sql().await;
    let stored = "begin; lock table service_key in access exclusive mode";
    sqlx::raw_sql(stored).execute(&mut sql).await.unwrap();
    let forged = (0..MANY).map(|n| {
        let request = app.client.get(format!("{}/api/v1/connectors", app.url));
        let key = MADE_UP_KEY.replace("aaaaaaaa", &format!("{n:08}"));
        Answer::to(request.bearer_auth(key))
    });
    let forged = join_all(forged);
    let others = async {
        // More than enough time for all admitted requests to wait for the table.
        let waiting = "select count(*) from pg_locks where not granted \
                       and relation = 'service_key'::regclass and database = \
                       (select oid from pg_database where datname = current_database())";
        let mut most = 0;
        for _ in 0..50 {
            let count: i64 = sqlx::query_scalar(waiting)
                .fetch_one(&mut sql)
                .await
                .unwrap();
            most = most.max(count);
            let answer = timeout(PROMPT_TIMEOUT, list(&ada)).await;
            assert_eq!(answer.expect("an answer in time").status, 200);
        }
        sqlx::raw_sql("rollback").execute(&mut sql).await.unwrap();
        most
    };
    let (forged, most) = tokio::join!(forged, others);
    assert_eq!(most, 1);
    assert!(forged.iter().all(|answer| answer.status == 401));
}

#[tokio::test]
async fn provider_401_does_not_count_toward_address_limit() {
    let app = TestApp::with(&[
        ("RATE_LIMIT_ADDRESS_PER_MINUTE", "1"),
        ("SERVICE_API_KEYS", &format!("workflow={MADE_UP_KEY}")),
    ])
    .await;
    let gmail = app.user("ada").await.connected("gmail").await;
    let upstream = json!({ "connection_id": gmail["nango_connection_id"] });
    app.control("revoke", Method::POST, upstream).await;
    let id = gmail["id"].as_str().unwrap();
    let url = format!("{}/api/v1/connectors/connections/{id}/proxy/echo", app.url);
    for _ in 0..3 {
        let request = app.client.get(&url).bearer_auth(MADE_UP_KEY);
        let refused = Answer::to(request.header("patchbay-user", "ada")).await;
        assert_eq!(
            (refused.status, &refused.body["error"]),
            (401, &json!("invalid_token"))
        );
    }
}

#[tokio::test]
async fn readiness_checks_share_one_database_ping() {
    const MANY: usize = 200;
    let database = test_database::database().await;
    let (url, statements) = with_statement_log(&database).await;
    let app = TestApp::build_on(database, None, &[("DATABASE_URL", &url)], |_| {}).await;
    let ready = format!("{}/readyz", app.url);
    statements.lock().unwrap().clear();
    let started = Instant::now();
    let answers = join_all((0..MANY).map(|_| Answer::to(app.client.get(&ready)))).await;
    let took = started.elapsed();
    assert!(answers.iter().all(|answer| answer.status == 200));
    let statements = statements.lock().unwrap();
    let pings = statements.iter().filter(|text| *text == "select 1").count();
    let allowed = took.as_millis() as usize / 500 + 2;
    assert!(pings <= allowed, "asked {pings} times in {took:?}");
}

#[tokio::test]
async fn client_address_comes_from_outermost_trusted_proxy() {
    let app = TestApp::with(&[
        ("RATE_LIMIT_ADDRESS_PER_MINUTE", "1"),
        ("TRUSTED_PROXY_HOPS", "2"),
    ])
    .await;
    let first_of = async |proxies: &[&str]| Answer::to(send_as(&app, proxies)).await.status == 400;
    assert!(first_of(&["192.0.2.1, 10.0.0.1"]).await);
    assert!(!first_of(&["192.0.2.1, 10.0.0.2"]).await);
    // An entry that the client writes comes before that of the proxy.
    assert!(!first_of(&["198.51.100.7, 192.0.2.1, 10.0.0.1"]).await);
    assert!(!first_of(&["198.51.100.8, 192.0.2.1", "10.0.0.1"]).await);
    assert!(!first_of(&["192.0.2.1:51000, 10.0.0.1"]).await);
    assert!(first_of(&["192.0.2.2, 10.0.0.1"]).await);
    // An IPv6 client has a whole /64.
    assert!(first_of(&["2001:db8:1:1::1, 10.0.0.1"]).await);
    assert!(!first_of(&["2001:db8:1:1:ffff::1, 10.0.0.1"]).await);
    assert!(!first_of(&["[2001:db8:1:1::2]:51000, 10.0.0.1"]).await);
    assert!(first_of(&["2001:db8:1:2::1, 10.0.0.1"]).await);
    // Requests that bypass the proxies count by the address of the connection.
    assert!(first_of(&[]).await);
    assert!(!first_of(&["192.0.2.9"]).await);
    assert!(!first_of(&["nonsense, 10.0.0.1"]).await);
}

#[tokio::test]
async fn forged_webhooks_limit_their_sender_but_not_nango() {
    let app = TestApp::with(&[
        ("RATE_LIMIT_ADDRESS_PER_MINUTE", "2"),
        ("TRUSTED_PROXY_HOPS", "1"),
    ])
    .await;
    let hook = |from: &str| {
        let url = format!("{}/api/v1/webhooks/nango", app.url);
        Answer::to(app.client.post(url).header("x-forwarded-for", from))
    };
    for _ in 0..2 {
        let forged = hook("192.0.2.1").await;
        assert_eq!(forged.status, 401);
        assert_eq!(
            forged.header("www-authenticate"),
            Some("X-Nango-Hmac-Sha256")
        );
    }
    // After a 4xx response, a real Nango would drop its webhook permanently.
    hook("192.0.2.1").await.is_refused("overloaded", "30");
    assert_eq!(hook("192.0.2.2").await.status, 401);
    // The sandbox's Nango bypasses the proxy, and sends more than two.
    let ada = app.user("ada").await;
    for connector in ["gmail", "github", "notion"] {
        ada.connected(connector).await;
    }
}

#[tokio::test]
async fn stream_limit_frees_slot_when_stream_closes() {
    let app = TestApp::with(&[("MAX_STREAMS_PER_USER", "2")]).await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    let open = async |user: &User<'_>| {
        let stream = user.request(Method::GET, "/connections/events");
        stream.send().await.unwrap()
    };
    let (_first, second) = (open(&ada).await, open(&ada).await);
    let third = ada.request(Method::GET, "/connections/events");
    Answer::to(third).await.is_refused("rate_limited", "1");
    assert_eq!(open(&bob).await.status(), StatusCode::OK);
    drop(second);
    eventually(async || open(&ada).await.status() == StatusCode::OK).await;
}

#[tokio::test]
async fn overload_sheds_requests_but_not_health_checks() {
    let app = TestApp::with(&[
        ("MAX_CONCURRENT_REQUESTS", "1"),
        ("METRICS_TOKEN", METRICS_TOKEN),
    ])
    .await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    let busy = busy(&ada).await;
    list(&bob).await.is_refused("overloaded", "1");
    // Beyond the user's own share, the error is that of the user's limit.
    list(&ada).await.is_refused("rate_limited", "1");
    for path in ["/healthz", "/readyz"] {
        let url = format!("{}{path}", app.url);
        assert_eq!(app.client.get(url).send().await.unwrap().status(), 200);
    }
    // A client that disconnects returns its slot.
    busy.abort();
    assert!(busy.await.unwrap_err().is_cancelled());
    until_metrics_say(&app, "patchbay_http_requests_in_flight 0").await;
    assert_eq!(list(&bob).await.status, 200);
    until_metrics_say(&app, "patchbay_limit_refusals_total{limit=\"requests\"} 1").await;
}

/// Starts a request of a user, the only one in progress, which takes as long as Nango does.
async fn busy(user: &User<'_>) -> JoinHandle<reqwest::Result<reqwest::Response>> {
    let slow = json!({ "latency_ms": 7000, "only": "POST /connect/sessions" });
    user.app.faults(slow).await;
    let busy = tokio::spawn(user.request(Method::POST, "/gmail/connect").send());
    until_metrics_say(user.app, "patchbay_http_requests_in_flight 1").await;
    busy
}

/// Waits until the metrics have this line.
pub(crate) async fn until_metrics_say(app: &TestApp, line: &str) {
    let (name, _) = line.split_once([' ', '{']).unwrap();
    let lines = async || -> Vec<String> {
        let request = app.client.get(format!("{}/metrics", app.url));
        let answer = request.bearer_auth(METRICS_TOKEN).send().await.unwrap();
        let text = answer.text().await.unwrap();
        let of_metric = text.lines().filter(|one| one.starts_with(name));
        of_metric.map(str::to_owned).collect()
    };
    eventually_value(lines, |lines| lines.iter().any(|one| one == line)).await;
}
