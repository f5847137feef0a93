//! Isolation of users: each unauthorized caller requests every operation of the OpenAPI document.

mod access_matrix;
mod batched_reads;
mod callers;
mod database_confusion;
pub(crate) mod query_parity;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgConnection};
use uuid::Uuid;

use self::callers::service_keys;
use crate::test_app::TestApp;
use crate::test_database::{self, TestDatabase};

/// The OpenAPI document, as JSON.
static DOCUMENT: LazyLock<Value> = LazyLock::new(patchbay::http::openapi);

/// The callers that may use an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// Anyone, such as platforms, without a token.
    Everybody,
    /// Nango, by the signature of its webhook.
    Signed,
    /// Any caller with a valid token or key.
    Caller,
    /// A user for their own data, and a service with this scope for the user in its header.
    User(&'static str),
    /// A service with this scope for the user in its header.
    Service(&'static str),
    /// A service with this scope for the user in the path.
    Administrator(&'static str),
}

use Access::{Administrator, Caller, Everybody, Service, Signed, User};

const READ: &str = "connections:read";
const WRITE: &str = "connections:write";
const TOKENS: &str = "tokens:read";

/// Every operation with its query, body and authorized callers. Those on a connection have `{id}` in the path.
// Formatted as a table.
#[rustfmt::skip]
const OPERATIONS: [(&str, &str, &str, &str, Access); 31] = [
    ("get", "/api/v1/connectors", "", "", Caller),
    ("get", "/api/v1/connectors/callback", "?connection_id={id}", "", User(READ)),
    ("get", "/api/v1/connectors/connections", "", "", User(READ)),
    ("get", "/api/v1/connectors/connections/events", "", "", User(READ)),
    ("get", "/api/v1/connectors/connections/{id}", "?wait=1", "", User(READ)),
    ("delete", "/api/v1/connectors/connections/{id}", "", "", User(WRITE)),
    ("patch", "/api/v1/connectors/connections/{id}", "", r#"{"label":"mine","config":{"a":1}}"#, User(WRITE)),
    ("post", "/api/v1/connectors/connections/{id}/account", "", r#"{"account_id":"mine"}"#, User(WRITE)),
    ("post", "/api/v1/connectors/connections/{id}/cancel", "", "{}", User(WRITE)),
    ("post", "/api/v1/connectors/connections/{id}/check", "", "", User(WRITE)),
    ("get", "/api/v1/connectors/connections/{id}/history", "", "", User(READ)),
    ("get", "/api/v1/connectors/connections/{id}/proxy/{path}", "", "", Service(TOKENS)),
    ("post", "/api/v1/connectors/connections/{id}/proxy/{path}", "", "{}", Service(TOKENS)),
    ("put", "/api/v1/connectors/connections/{id}/proxy/{path}", "", "{}", Service(TOKENS)),
    ("patch", "/api/v1/connectors/connections/{id}/proxy/{path}", "", "{}", Service(TOKENS)),
    ("delete", "/api/v1/connectors/connections/{id}/proxy/{path}", "", "", Service(TOKENS)),
    ("post", "/api/v1/connectors/connections/{id}/reconnect", "", r#"{"label":"mine"}"#, User(WRITE)),
    ("post", "/api/v1/connectors/connections/{id}/token", "", "", Service(TOKENS)),
    ("post", "/api/v1/connectors/connections/{id}/token/invalid", "", r#"{"token_id":"some"}"#, Service(TOKENS)),
    ("get", "/api/v1/connectors/connections/{id}/accesses", "", "", User(READ)),
    ("get", "/api/v1/connectors/list", "", "", Caller),
    ("get", "/api/v1/connectors/{connector}", "", "", Caller),
    ("post", "/api/v1/connectors/{connector}/connect", "", "", User(WRITE)),
    ("delete", "/api/v1/connectors/{connector}/disconnect", "?connection_id={id}", "", User(WRITE)),
    ("get", "/api/v1/connectors/{connector}/logo", "", "", Everybody),
    ("post", "/api/v1/connectors/{connector}/token", "", "", Service(TOKENS)),
    ("delete", "/api/v1/users/{user}/connections", "", "", Administrator(WRITE)),
    ("post", "/api/v1/webhooks/nango", "", r#"{"type":"auth"}"#, Signed),
    ("post", "/api/v1/webhooks/nango/{attempt}", "", r#"{"type":"auth"}"#, Signed),
    ("get", "/healthz", "", "", Everybody),
    ("get", "/readyz", "", "", Everybody),
];

/// An operation and its authorized callers.
#[derive(Clone, Debug)]
struct Operation {
    method: Method,
    path: &'static str,
    query: &'static str,
    body: &'static str,
    access: Access,
}

impl Operation {
    /// Returns all operations.
    fn all() -> Vec<Self> {
        let operation = |(method, path, query, body, access): (&str, _, _, _, _)| Self {
            method: method.to_uppercase().parse().unwrap(),
            path,
            query,
            body,
            access,
        };
        OPERATIONS.into_iter().map(operation).collect()
    }

    /// Returns `true` if it addresses a connection, which may be another user's.
    fn names_one(&self) -> bool {
        self.path.contains("{id}") || self.query.contains("{id}")
    }

    /// Returns the scope that a service key requires for it.
    fn scope(&self) -> Option<&'static str> {
        match self.access {
            User(scope) | Service(scope) | Administrator(scope) => Some(scope),
            Everybody | Signed | Caller => None,
        }
    }

    /// Builds a request for this connection or attempt, without credentials.
    fn request(&self, app: &TestApp, id: &str) -> RequestBuilder {
        let path = [self.path, self.query].concat();
        let path = path
            .replace("{id}", id)
            .replace("{attempt}", id)
            .replace("{connector}", "gmail")
            .replace("{path}", "userinfo")
            .replace("{user}", "ada");
        let request = app
            .client
            .request(self.method.clone(), app.url.clone() + &path);
        match self.body {
            "" => request,
            body => request
                .header("content-type", "application/json")
                .body(body),
        }
    }
}

/// A response, as far as a caller can distinguish it from another.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ObservedResponse {
    status: StatusCode,
    headers: BTreeMap<String, String>,
    body: String,
}

impl ObservedResponse {
    /// Returns the response without the values from the request and those that differ in each response.
    async fn of(request: RequestBuilder, id: &str) -> Self {
        let mut response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let mut body = Vec::new();
        if is_stream(&headers) {
            // A stream does not end. Its first chunk shows whether it was accepted.
            body.extend(response.chunk().await.unwrap().unwrap());
        } else {
            body.extend(response.bytes().await.unwrap());
        }
        let mut body = String::from_utf8(body).unwrap();
        if let Some(own) = headers.get("x-request-id") {
            body = body.replace(own.to_str().unwrap(), "[request]");
        }
        Self {
            status,
            headers: compared_headers(&headers),
            body: body.replace(id, "[id]"),
        }
    }

    fn code(&self) -> String {
        let body: Value = serde_json::from_str(&self.body).unwrap_or_default();
        body["code"].as_str().unwrap_or_default().to_owned()
    }
}

fn is_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get("content-type");
    kind.is_some_and(|kind| kind == "text/event-stream")
}

fn compared_headers(headers: &HeaderMap) -> BTreeMap<String, String> {
    headers
        .iter()
        .filter(|(name, _)| !matches!(name.as_str(), "x-request-id" | "date"))
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect()
}

/// A test app in which ada has connections in each state.
struct IsolationFixture {
    app: TestApp,
    /// The ids of her connections: connected, denied, and pending.
    ids: Vec<String>,
    sql: PgConnection,
}

impl IsolationFixture {
    async fn new() -> Self {
        Self::over(test_database::database().await, &[]).await
    }

    async fn over(database: TestDatabase, settings: &[(&'static str, &str)]) -> Self {
        let keys = service_keys();
        let settings = [&[("SERVICE_API_KEYS", keys.as_str())], settings].concat();
        let app = TestApp::build_on(database, None, &settings, |_| {}).await;
        let ada = app.user("ada").await;
        let connected = ada.connected("gmail").await;
        app.faults(json!({ "consent": "deny" })).await;
        let denied = ada.connect("github").await;
        app.popup(denied["oauth_url"].as_str().unwrap()).await;
        let id = denied["connection_id"].as_str().unwrap();
        ada.wait_until(id, "error").await;
        let pending = ada.connect("notion").await;
        let ids = [
            &connected["id"],
            &denied["connection_id"],
            &pending["connection_id"],
        ];
        let ids = ids.map(|id| id.as_str().unwrap().to_owned()).to_vec();
        let sql = app.sql().await;
        Self { app, ids, sql }
    }
}

/// Returns a digest of all rows in the database, without the times of jobs.
async fn all_rows(sql: &mut PgConnection) -> String {
    let tables: Vec<String> = sqlx::query_scalar(
        "select tablename::text from pg_tables where schemaname = 'public' and tablename <> 'job' order by 1",
    )
    .fetch_all(&mut *sql)
    .await
    .unwrap();
    let digests: Vec<String> = tables
        .iter()
        .map(|table| {
            format!("(select coalesce(md5(string_agg(t::text, '|' order by t::text)), '') from {table} t)")
        })
        .collect();
    sqlx::query_scalar(AssertSqlSafe(format!("select {}", digests.join(" || "))))
        .fetch_one(sql)
        .await
        .unwrap()
}

/// Returns the texts that only ada may see: her name, and her ids.
async fn markers(app: &TestApp, ids: &[String]) -> Vec<String> {
    let attempts: Vec<Uuid> = sqlx::query_scalar("select id from connect_attempt")
        .fetch_all(&mut app.sql().await)
        .await
        .unwrap();
    let mut marks = app.nango_connections().await;
    marks.extend_from_slice(ids);
    marks.extend(attempts.iter().map(Uuid::to_string));
    // In quotes, because an id may contain the letters, too.
    marks.push("\"ada\"".to_owned());
    marks
}

/// Returns all rows of one user, as text.
async fn all_of(app: &TestApp, user: &str) -> String {
    sqlx::query_scalar(
        r#"select concat(
             (select string_agg(c::text, '|' order by c.id) from user_connector_connection c
                where user_id = $1 collate "C"),
             (select string_agg(e::text, '|' order by e.position) from connection_event e where user_id = $1 collate "C"),
             (select string_agg(a::text, '|' order by a.id) from connect_attempt a where user_id = $1 collate "C"),
             (select string_agg(k::text, '|' order by k.key) from idempotency_key k where user_id = $1 collate "C"),
             (select string_agg(u::text, '|' order by u.id) from token_access u where user_id = $1 collate "C"))"#,
    )
    .bind(user)
    .fetch_one(&mut app.sql().await)
    .await
    .unwrap()
}
