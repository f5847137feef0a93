//! Detection of the actual state at Nango under failures.

mod attempts;
mod credential_checks;
mod errors;
pub(crate) mod event_streams;
mod filters;
mod idempotency;
mod long_polls;
mod newer_nango;
mod odd_lists;
mod orphans;
mod proof;
mod replicas;
mod restored_nango;
mod retention;
mod siblings;

use chrono::TimeDelta;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::test_app::{TestApp, User};

/// The account endpoint of the sandbox's provider.
const ACCOUNTS: &str = r#"
[[connector]]
slug = "gmail"
account = { id = "/raw/account/id", name = "/raw/account/name" }
"#;

/// Starts a test app whose gmail has an account rule. Returns it with its catalog file.
pub(crate) async fn app_with_accounts(
    settings: &[(&'static str, &str)],
) -> (TestApp, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), ACCOUNTS).unwrap();
    let catalog = [("CATALOG_FILE", file.path().to_str().unwrap())];
    let app = TestApp::with(&[&catalog, settings].concat()).await;
    (app, file)
}

fn text<'a>(body: &'a Value, field: &str) -> &'a str {
    body[field]
        .as_str()
        .unwrap_or_else(|| panic!("{field} in {body:#}"))
}

async fn check(user: &User<'_>, id: &str) -> Value {
    let (status, body) = user
        .call(Method::POST, &format!("/connections/{id}/check"), None)
        .await;
    assert_eq!(status, StatusCode::OK, "{body}");
    body
}

#[tokio::test]
async fn long_poll_detects_grant_without_webhook() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "allow", "drop_webhooks": true }))
        .await;
    let started = ada.connect("gmail").await;
    let path = format!("/connections/{}?wait=25", text(&started, "connection_id"));
    let (waited, page) = tokio::join!(ada.get(&path), app.popup(text(&started, "oauth_url")));
    assert_eq!(page.status(), StatusCode::OK);
    assert_eq!(waited["status"], "connected");
    assert_eq!(waited["attempt"]["outcome"], "succeeded");
}

#[tokio::test]
async fn sweep_detects_grant_without_webhook() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "allow", "drop_webhooks": true }))
        .await;
    let started = ada.connect("gmail").await;
    app.popup(text(&started, "oauth_url")).await;
    assert_eq!(app.sweep().await.found, 1);
    let mut sql = app.sql().await;
    let status: String = sqlx::query_scalar("select status from user_connector_connection")
        .fetch_one(&mut sql)
        .await
        .unwrap();
    assert_eq!(status, "connected");
    assert_eq!(app.sweep().await.found, 0);
}

#[tokio::test]
async fn sweep_is_not_blocked_by_other_installations() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "allow", "drop_webhooks": true }))
        .await;
    let started = ada.connect("gmail").await;
    app.popup(text(&started, "oauth_url")).await;
    // These are newer than the user's, and more than one sweep reads.
    for _ in 0..201 {
        let tags =
            json!({ "patchbay_attempt": Uuid::new_v4(), "patchbay_installation": Uuid::nil() });
        app.import_with(tags).await;
    }
    assert_eq!(app.sweep().await.found, 1);
    assert_eq!(app.nango_connections().await.len(), 202);
}

#[tokio::test]
async fn connection_deleted_at_nango_is_missing_until_reconnected() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    let id = text(&connected, "id");
    let upstream = text(&connected, "nango_connection_id");
    app.advance(TimeDelta::minutes(5));
    assert_eq!(app.sweep().await.missing, 0);
    let path = format!("/connections/{upstream}?provider_config_key=gmail");
    assert_eq!(app.nango(Method::DELETE, &path).await.0, StatusCode::OK);
    assert_eq!(app.sweep_until_missing().await, 1);
    let missing = ada.connection(id).await;
    assert_eq!(
        (&missing["status"], &missing["status_reason"]),
        (&json!("error"), &json!("missing_upstream"))
    );
    assert_eq!(app.sweep().await.missing, 0);

    let again = ada.connected("gmail").await;
    assert_eq!(again["id"], connected["id"]);
    assert_ne!(
        again["nango_connection_id"],
        connected["nango_connection_id"]
    );
}

#[tokio::test]
async fn revoked_grant_needs_reauthorization_when_others_refresh() {
    let app = TestApp::new().await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    let (hers, his) = (ada.connected("gmail").await, bob.connected("gmail").await);
    let id = text(&hers, "id");
    app.control(
        "revoke",
        Method::POST,
        json!({ "connection_id": hers["nango_connection_id"] }),
    )
    .await;
    for _ in 0..2 {
        let refused = check(&ada, id).await;
        assert_eq!(
            (&refused["status"], &refused["health"]),
            (&json!("connected"), &json!("refused"))
        );
        app.advance(TimeDelta::minutes(3));
    }
    let revoked = check(&ada, id).await;
    assert_eq!(
        (&revoked["status"], &revoked["status_reason"]),
        (&json!("error"), &json!("needs_reauthorization"))
    );
    assert_eq!(
        bob.connection(text(&his, "id")).await["status"],
        "connected"
    );

    let (status, started) = ada
        .call(Method::POST, &format!("/connections/{id}/reconnect"), None)
        .await;
    assert_eq!(status, StatusCode::OK, "{started}");
    app.popup(text(&started, "oauth_url")).await;
    let repaired = ada.wait_until(id, "connected").await;
    assert_eq!(repaired["nango_connection_id"], hers["nango_connection_id"]);
    assert_eq!(repaired["error_count"], 0);
}

#[tokio::test]
async fn provider_outage_keeps_connections_and_reports_recovery() {
    let app = TestApp::new().await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    let hers = ada.connected("gmail").await;
    bob.connected("gmail").await;
    let id = text(&hers, "id");
    app.faults(json!({ "refuse_refresh": true })).await;
    for _ in 0..3 {
        let doubtful = check(&ada, id).await;
        assert_eq!(doubtful["status"], "connected");
        assert!(doubtful["failing_since"].is_string());
        app.advance(TimeDelta::hours(2));
    }
    app.faults(json!({})).await;
    app.sweep().await;
    let recovered = ada.connection(id).await;
    assert_eq!(recovered["failing_since"], json!(null));
    let history = ada.get(&format!("/connections/{id}/history")).await;
    let kinds: Vec<&str> = history["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| text(event, "kind"))
        .collect();
    assert_eq!(
        kinds,
        [
            "recovered",
            "credentials_failing",
            "connected",
            "attempt_started"
        ]
    );
}

#[tokio::test]
async fn connection_needs_reauthorization_after_day_of_outage() {
    let app = TestApp::new().await;
    let hers = app.user("ada").await.connected("gmail").await;
    app.user("bob").await.connected("gmail").await;
    let id = text(&hers, "id");
    app.faults(json!({ "refuse_refresh": true })).await;
    for hours in [0, 23, 1] {
        app.advance(TimeDelta::hours(hours));
        // Her token is valid for twelve hours only.
        let ada = app.user("ada").await;
        let doubtful = ada.connection(id).await;
        assert_eq!(doubtful["status"], "connected");
        check(&ada, id).await;
    }
    let revoked = app.user("ada").await.connection(id).await;
    assert_eq!(
        (&revoked["status"], &revoked["status_reason"]),
        (&json!("error"), &json!("needs_reauthorization"))
    );
}

#[tokio::test]
async fn reconnect_with_other_account_needs_user_decision() {
    let (app, _file) = app_with_accounts(&[]).await;
    let ada = app.user("ada").await;
    let work = ada.connected("gmail").await;
    assert_eq!(work["account"]["id"], "ada-work");
    let id = text(&work, "id");
    let reconnect = json!({ "login_hint": "grace" });
    let (_, started) = ada
        .call(
            Method::POST,
            &format!("/connections/{id}/reconnect"),
            Some(reconnect),
        )
        .await;
    app.popup(text(&started, "oauth_url")).await;
    let refused = ada.wait_until(id, "error").await;
    assert_eq!(refused["status_reason"], "account_mismatch");
    assert_eq!(refused["account"]["id"], "ada-work");
    assert_eq!(refused["pending_account"]["id"], "grace");
    assert_eq!(refused["attempt"]["error_code"], "account_mismatch");

    let path = format!("/connections/{id}/account");
    let (status, _) = ada
        .call(
            Method::POST,
            &path,
            Some(json!({ "account_id": "ada-work" })),
        )
        .await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let (status, taken) = ada
        .call(Method::POST, &path, Some(json!({ "account_id": "grace" })))
        .await;
    assert_eq!(status, StatusCode::OK, "{taken}");
    assert_eq!(
        (&taken["status"], &taken["account"]["id"]),
        (&json!("connected"), &json!("grace"))
    );

    let second = "/gmail/connect?instance_id=second";
    let (_, started) = ada
        .call(Method::POST, second, Some(json!({ "login_hint": "grace" })))
        .await;
    app.popup(text(&started, "oauth_url")).await;
    let twice = ada
        .wait_until(text(&started, "connection_id"), "connected")
        .await;
    assert_eq!(twice["same_account_as"], json!([id]));
}

#[tokio::test]
async fn reconnect_of_missing_connection_detects_account_mismatch() {
    let (app, _file) = app_with_accounts(&[]).await;
    let ada = app.user("ada").await;
    let work = ada.connected("gmail").await;
    let (id, lost) = (text(&work, "id"), text(&work, "nango_connection_id"));
    let path = format!("/connections/{lost}?provider_config_key=gmail");
    app.nango(Method::DELETE, &path).await;
    let path = format!("/connections/{id}/reconnect");
    let other = json!({ "login_hint": "grace" });
    let (_, started) = ada.call(Method::POST, &path, Some(other)).await;
    let kind: String = sqlx::query_scalar("select kind from connect_attempt where id = $1::uuid")
        .bind(text(&started, "attempt_id"))
        .fetch_one(&mut app.sql().await)
        .await
        .unwrap();
    assert_eq!(kind, "connect", "Nango has nothing to reauthorize");
    app.popup(text(&started, "oauth_url")).await;
    let refused = ada.wait_until(id, "error").await;
    assert_eq!(refused["status_reason"], "account_mismatch");
    assert_ne!(refused["nango_connection_id"], lost);
    assert_eq!(refused["account"]["id"], "ada-work");
    assert_eq!(refused["pending_account"]["id"], "grace");
}

#[tokio::test]
async fn idempotency_key_returns_first_response() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let send = async |key: &str, path: &str| {
        let response = reqwest::Client::builder()
            .build()
            .unwrap()
            .post(format!("{}/api/v1/connectors{path}", app.url))
            .bearer_auth(&ada.token)
            .header("idempotency-key", key)
            .send()
            .await
            .unwrap();
        (response.status(), response.json::<Value>().await.unwrap())
    };
    let first = send("k1", "/gmail/connect").await;
    assert_eq!(first.0, StatusCode::OK);
    assert_eq!(send("k1", "/gmail/connect").await, first);
    let (status, other) = send("k1", "/github/connect").await;
    assert_eq!(
        (status, text(&other, "code")),
        (StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused")
    );
    let second = send("k2", "/gmail/connect").await;
    assert_ne!(second.1["attempt_id"], first.1["attempt_id"]);
}
