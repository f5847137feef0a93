//! Tokens for workflows, and the service keys that grant access to them.

use std::time::Duration;

use chrono::TimeDelta;
use futures::future::join_all;
use reqwest::{Method, StatusCode};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::eventually::eventually;
use crate::test_app::{TestApp, client};

mod auth_modes;
mod bodies;
mod changes;
mod names;
mod not_connected;
mod rejected;
mod uses;

/// A service key in the environment with all scopes, and one with only `connections:read`.
const KEY: &str = "pbk_workflow_0123456789abcdef0123456789abcdef";
const READER: &str = "pbk_reader_0123456789abcdef0123456789abcdef";

async fn app() -> TestApp {
    TestApp::with(&[
        ("DATABASE_POOL_SIZE", "10"),
        (
            "SERVICE_API_KEYS",
            &format!("workflow={KEY},reader={READER};connections:read"),
        ),
    ])
    .await
}

/// Sends a workflow's request for a user to the API.
async fn call(
    url: &str,
    key: &str,
    user: &str,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> (StatusCode, Value) {
    let request = client()
        .request(method, format!("{url}/api/v1{path}"))
        .bearer_auth(key);
    let request = if user.is_empty() {
        request
    } else {
        request.header("patchbay-user", user)
    };
    let request = match body {
        Some(body) => request.json(&body),
        None => request,
    };
    let response = request.send().await.unwrap();
    (
        response.status(),
        response.json().await.unwrap_or(Value::Null),
    )
}

async fn token(app: &TestApp, user: &str, connection: &Value) -> (StatusCode, Value) {
    let path = format!("/connectors/connections/{}/token", text(connection, "id"));
    call(&app.url, KEY, user, Method::POST, &path, None).await
}

fn text<'a>(body: &'a Value, field: &str) -> &'a str {
    body[field]
        .as_str()
        .unwrap_or_else(|| panic!("{field} in {body:#}"))
}

/// Returns the number of requests to Nango for a connection's credentials.
async fn nango_token_calls(app: &TestApp) -> usize {
    let requests = app.control("requests", Method::GET, Value::Null).await;
    let of_one = |request: &&Value| {
        request["method"] == "GET"
            && request["path"]
                .as_str()
                .unwrap()
                .starts_with("/connections/")
    };
    requests.as_array().unwrap().iter().filter(of_one).count()
}

#[tokio::test]
async fn workflow_receives_working_token() {
    let app = app().await;
    let ada = app.user("ada").await;
    let gmail = ada.connected("gmail").await;
    let (status, given) = token(&app, "ada", &gmail).await;
    assert_eq!(status, StatusCode::OK, "{given}");
    assert_eq!(
        (&given["type"], &given["token_type"]),
        (&json!("oauth2"), &json!("Bearer"))
    );
    let account = client()
        .get(format!(
            "http://{}/provider/userinfo",
            app.sandbox.address()
        ))
        .bearer_auth(text(&given, "access_token"))
        .send()
        .await
        .unwrap();
    assert_eq!(account.status(), StatusCode::OK);

    let (status, same) = call(
        &app.url,
        KEY,
        "ada",
        Method::POST,
        "/connectors/gmail/token",
        None,
    )
    .await;
    assert_eq!(
        (status, &same["access_token"]),
        (StatusCode::OK, &given["access_token"])
    );

    let accesses = ada
        .get(&format!("/connections/{}/accesses", text(&gmail, "id")))
        .await;
    let counts = accesses["accesses"].as_array().unwrap().iter();
    let counts = counts.map(|used| used["count"].as_i64().unwrap());
    assert_eq!(counts.sum::<i64>(), 2);
    assert_eq!(accesses["accesses"][0]["service"], "workflow");
    let used = ada.connection(text(&gmail, "id")).await;
    assert!(used["last_synced_at"].is_string());
}

#[tokio::test]
async fn token_requires_scoped_key_and_named_user() {
    let app = app().await;
    let ada = app.user("ada").await;
    let gmail = ada.connected("gmail").await;
    let path = format!("/connectors/connections/{}/token", text(&gmail, "id"));
    let post =
        async |key: &str, user: &str| call(&app.url, key, user, Method::POST, &path, None).await;
    let cases = [
        (
            ada.token.as_str(),
            "ada",
            StatusCode::FORBIDDEN,
            "service_key_required",
        ),
        (READER, "ada", StatusCode::FORBIDDEN, "insufficient_scope"),
        (
            "pbk_workflow_ffffffffffffffffffffffffffffffff",
            "ada",
            StatusCode::UNAUTHORIZED,
            "unauthenticated",
        ),
        (KEY, "", StatusCode::BAD_REQUEST, "user_required"),
        (KEY, "bob", StatusCode::NOT_FOUND, "connection_not_found"),
    ];
    for (key, user, status, code) in cases {
        let answer = post(key, user).await;
        assert_eq!((answer.0, text(&answer.1, "code")), (status, code));
    }
    let (status, list) = call(
        &app.url,
        READER,
        "ada",
        Method::GET,
        "/connectors/connections",
        None,
    )
    .await;
    assert_eq!((status, &list["total_count"]), (StatusCode::OK, &json!(1)));
    let (status, _) = call(
        &app.url,
        READER,
        "ada",
        Method::DELETE,
        "/connectors/gmail/disconnect",
        None,
    )
    .await;
    assert_eq!(status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn concurrent_token_requests_share_one_nango_call() {
    let app = app().await;
    let gmail = app.user("ada").await.connected("gmail").await;
    app.faults(json!({ "latency_ms": 100 })).await;
    let before = nango_token_calls(&app).await;
    let answers = join_all((0..90).map(|_| token(&app, "ada", &gmail))).await;
    let first = &answers[0];
    assert_eq!(first.0, StatusCode::OK, "{}", first.1);
    assert!(answers.iter().all(|answer| answer == first));
    assert_eq!(nango_token_calls(&app).await - before, 1);
}

#[tokio::test]
async fn disconnect_invalidates_token_cache_on_all_replicas() {
    let app = app().await;
    let key = format!("workflow={KEY}");
    let other = app.replica(&[("SERVICE_API_KEYS", &key)]).await;
    let ada = app.user("ada").await;
    let gmail = ada.connected("gmail").await;
    let path = format!("/connectors/connections/{}/token", text(&gmail, "id"));
    let call_replica = async || call(&other.url, KEY, "ada", Method::POST, &path, None).await;
    assert_eq!(call_replica().await.0, StatusCode::OK);
    ada.disconnect("gmail", "").await;
    let (status, gone) = call_replica().await;
    assert_eq!(
        (status, text(&gone, "code")),
        (StatusCode::NOT_FOUND, "not_connected")
    );
    let reconnect = format!(
        "/api/v1/connectors/connections/{}/reconnect",
        text(&gmail, "id")
    );
    assert_eq!(gone["connect"], reconnect.as_str());
}

#[tokio::test]
async fn token_errors_state_precise_reason() {
    let app = app().await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    let of_gmail = async |user: &str, query: &str| {
        let path = format!("/connectors/gmail/token{query}");
        let (status, body) = call(&app.url, KEY, user, Method::POST, &path, None).await;
        (
            status.as_u16(),
            body["code"].as_str().unwrap_or_default().to_owned(),
            body,
        )
    };
    assert_eq!(of_gmail("ada", "").await.1, "not_connected");

    let hers = ada.connected("gmail").await;
    let (_, started) = ada
        .call(Method::POST, "/gmail/connect?instance_id=second", None)
        .await;
    app.popup(text(&started, "oauth_url")).await;
    ada.wait_until(text(&started, "connection_id"), "connected")
        .await;
    let (status, code, body) = of_gmail("ada", "").await;
    assert_eq!((status, code.as_str()), (409, "ambiguous_connection"));
    assert_eq!(body["candidates"].as_array().unwrap().len(), 2);
    assert_eq!(of_gmail("ada", "?instance_id=second").await.0, 200);
    assert_eq!(
        of_gmail("ada", "?instance_id=third").await.1,
        "not_connected"
    );

    bob.connected("gmail").await;
    app.control(
        "revoke",
        Method::POST,
        json!({ "connection_id": hers["nango_connection_id"] }),
    )
    .await;
    app.advance(TimeDelta::minutes(50));
    for _ in 0..2 {
        let (status, refused) = token(&app, "ada", &hers).await;
        assert_eq!(
            (status, text(&refused, "code")),
            (StatusCode::SERVICE_UNAVAILABLE, "provider_unavailable")
        );
        app.advance(TimeDelta::minutes(3));
    }
    let (status, dead) = token(&app, "ada", &hers).await;
    assert_eq!(
        (status, text(&dead, "code")),
        (StatusCode::CONFLICT, "needs_reauthorization")
    );
    assert!(text(&dead, "connect").ends_with("/reconnect"));

    // Some connection's credentials were refreshed meanwhile, to test whether the provider works.
    app.advance(TimeDelta::minutes(50));
    app.faults(json!({ "refuse_refresh": true })).await;
    let (status, code, _) = of_gmail("bob", "").await;
    assert_eq!((status, code.as_str()), (503, "provider_unavailable"));
    app.faults(json!({ "status": 500 })).await;
    app.advance(TimeDelta::minutes(2));
    let (status, code, _) = of_gmail("bob", "").await;
    assert_eq!((status, code.as_str()), (503, "nango_unavailable"));
    app.faults(json!({})).await;
    assert_eq!(of_gmail("bob", "").await.0, 200);
}

#[tokio::test]
async fn service_keys_are_created_rotated_and_revoked() {
    let app = app().await;
    app.user("ada").await.connected("gmail").await;
    let keys = app.keys().await;
    let all = patchbay::auth::service_keys::Scope::ALL.into();
    let first = keys.create("engine", &all).await.unwrap();
    let opens = async |key: &str| {
        call(
            &app.url,
            key,
            "ada",
            Method::POST,
            "/connectors/gmail/token",
            None,
        )
        .await
        .0
    };
    let first = first.expose_secret().to_owned();
    assert_eq!(opens(&first).await, StatusCode::OK);
    let second = keys.rotate("engine", TimeDelta::hours(1)).await.unwrap();
    let second = second.expose_secret().to_owned();
    assert_eq!(
        (opens(&first).await, opens(&second).await),
        (StatusCode::OK, StatusCode::OK)
    );
    app.advance(TimeDelta::hours(2));
    keys.revoke("engine").await.unwrap();
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    assert_eq!(
        (opens(&first).await, opens(&second).await),
        (StatusCode::UNAUTHORIZED, StatusCode::UNAUTHORIZED)
    );
    let listed = keys.list().await.unwrap();
    assert_eq!(listed.len(), 2);
    assert!(listed[0].revoked_at.is_some() && listed[1].expires_at.is_some());

    let mut sql = app.sql().await;
    let kept: String =
        sqlx::query_scalar("select string_agg(service_key::text, ' ') from service_key")
            .fetch_one(&mut sql)
            .await
            .unwrap();
    assert!(!kept.contains(&first) && !kept.contains(&second), "{kept}");
}

#[tokio::test]
async fn narrowed_key_allows_less_within_two_seconds() {
    let app = app().await;
    app.user("ada").await.connected("gmail").await;
    let keys = app.keys().await;
    let all = patchbay::auth::service_keys::Scope::ALL.into();
    let first = keys.create("engine", &all).await.unwrap();
    let second = keys.rotate("engine", TimeDelta::hours(1)).await.unwrap();
    let opens = async |key: &str| {
        let path = "/connectors/gmail/token";
        let (status, body) = call(&app.url, key, "ada", Method::POST, path, None).await;
        (status, body["code"].as_str().unwrap_or_default().to_owned())
    };
    let both = [first.expose_secret(), second.expose_secret()];
    for key in both {
        assert_eq!(opens(key).await.0, StatusCode::OK);
    }
    let reads = [patchbay::auth::service_keys::Scope::ConnectionsRead].into();
    let before = keys.set_scopes("engine", &reads).await.unwrap();
    assert_eq!(before.scopes, all);
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    // The key that it was rotated from, too.
    for key in both {
        let refused = (StatusCode::FORBIDDEN, "insufficient_scope".to_owned());
        assert_eq!(opens(key).await, refused);
    }
    let unknown = keys.set_scopes("nobody", &reads).await;
    assert!(matches!(
        unknown,
        Err(patchbay::service::service_keys::Error::NotFound(_))
    ));
}

#[tokio::test]
async fn abandoned_proxy_call_is_recorded() {
    let app = app().await;
    let gmail = app.user("ada").await.connected("gmail").await;
    let faults = json!({ "only": "/proxy/", "hold_answers_ms": 60_000 });
    app.faults(faults).await;
    let path = format!("/connectors/connections/{}/proxy/echo", text(&gmail, "id"));
    let url = app.url.clone();
    let calling =
        tokio::spawn(async move { call(&url, KEY, "ada", Method::GET, &path, None).await });
    eventually(async || app.nango_calls("GET", "/proxy/").await > 0).await;
    calling.abort();
    assert!(calling.await.unwrap_err().is_cancelled());
    let mut sql = app.sql().await;
    eventually(async || {
        let written = sqlx::query_scalar("select service || ' ' || purpose from token_access");
        let written: Vec<String> = written.fetch_all(&mut sql).await.unwrap();
        written == ["workflow proxy"]
    })
    .await;
}

#[tokio::test]
async fn erase_deletes_user_data_here_and_at_nango() {
    let app = app().await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    ada.connected("gmail").await;
    ada.connected("github").await;
    let his = bob.connected("gmail").await;
    let started = ada.connect("dropbox").await;
    app.faults(json!({ "consent": "allow", "drop_webhooks": true }))
        .await;
    app.popup(text(&started, "oauth_url")).await;
    // The count includes the grant without a row, and all of them are deleted at Nango.
    erases_ada(&app, 3, true).await;
    assert_eq!(
        app.nango_connections().await,
        [text(&his, "nango_connection_id")]
    );
    assert_eq!(ada.get("/connections").await["total_count"], 0);
    erases_ada(&app, 0, true).await;
}

#[tokio::test]
async fn erase_is_unconfirmed_while_nango_holds_data() {
    let app = app().await;
    app.user("ada").await.connected("gmail").await;
    app.faults(json!({ "refuse_delete": true })).await;
    erases_ada(&app, 1, false).await;
    // Its row no longer exists.
    erases_ada(&app, 0, false).await;
    app.faults(json!({})).await;
    erases_ada(&app, 0, true).await;
    assert_eq!(app.nango_connections().await, [""; 0]);
}

async fn erases_ada(app: &TestApp, connections: usize, upstream_deleted: bool) {
    let path = "/users/ada/connections";
    let (status, erased) = call(&app.url, KEY, "", Method::DELETE, path, None).await;
    assert_eq!(status, StatusCode::OK, "{erased}");
    assert_eq!(
        erased,
        json!({
            "connections": connections,
            "upstream_deleted": upstream_deleted,
            "upstream_pending": usize::from(!upstream_deleted),
        })
    );
}

#[tokio::test]
async fn clean_shutdown_loses_no_token_access() {
    let mut app = app().await;
    let gmail = app.user("ada").await.connected("gmail").await;
    let answers = join_all((0..50).map(|_| token(&app, "ada", &gmail))).await;
    assert!(answers.iter().all(|(status, _)| *status == StatusCode::OK));
    app.stop().await.unwrap();
    assert_eq!(uses::written(&app).await, 50);
}
