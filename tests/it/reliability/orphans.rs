//! Connections at Nango without a row, and failing lists.

use chrono::TimeDelta;
use futures::future::join_all;
use nango_sandbox::Integration;
use patchbay::domain::UserId;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::credential_checks::force_check;
use super::text;
use crate::eventually::eventually;
use crate::test_app::{IMMEDIATE_SWEEP, TestApp};

/// Creates a connection of this installation at Nango whose row is deleted.
async fn orphan(app: &TestApp) -> String {
    let ada = app.user("ada").await;
    let connected = ada.connected("gmail").await;
    // A late webhook would restore it.
    eventually(async || {
        let hooks = app.control("webhooks", Method::GET, Value::Null).await;
        let mut hooks = hooks.as_array().unwrap().iter();
        hooks.all(|hook| hook["attempts"][0]["status"] == 204)
    })
    .await;
    sqlx::query("delete from user_connector_connection")
        .execute(&mut app.sql().await)
        .await
        .unwrap();
    text(&connected, "nango_connection_id").to_owned()
}

#[tokio::test]
async fn orphan_is_kept_and_counted() {
    let app = TestApp::new().await;
    let kept = orphan(&app).await;
    for hours in [0, 2, 48] {
        app.advance(TimeDelta::hours(hours));
        assert_eq!(app.sweep().await.orphans, 1);
        app.service().await.deletions.delete_due().await.unwrap();
        assert_eq!(app.nango_connections().await, [kept.as_str()]);
    }
}

#[tokio::test]
async fn late_grant_of_erased_user_is_deleted() {
    let app = TestApp::new().await;
    app.faults(json!({ "consent": "allow" })).await;
    let started = app.user("ada").await.connect("gmail").await;
    let ada = UserId::try_from("ada".to_owned()).unwrap();
    let erased = app.service().await.erasure.erase(&ada).await.unwrap();
    assert_eq!((erased.connections, erased.upstream_deleted), (1, true));
    app.popup(text(&started, "oauth_url")).await;
    eventually(async || app.nango_calls("DELETE", "/connections/").await > 0).await;
    app.wait_for_nango_connections(&[]).await;
}

#[tokio::test]
async fn repeated_erasure_is_unconfirmed_until_nango_confirms() {
    let app = TestApp::new().await;
    let connected = app.user("ada").await.connected("gmail").await;
    // An imported connection has no tags that name its user.
    app.import(json!({
        "connection_id": connected["nango_connection_id"], "provider_config_key": "gmail",
        "credentials": { "type": "OAUTH2", "access_token": "imported" },
    }))
    .await;
    app.faults(json!({ "refuse_delete": true })).await;
    let ada = UserId::try_from("ada".to_owned()).unwrap();
    let service = app.service().await;
    for connections in [1, 0, 0] {
        let erased = service.erasure.erase(&ada).await.unwrap();
        assert_eq!(
            (erased.connections, erased.upstream_deleted),
            (connections, false)
        );
    }
    let named: bool = sqlx::query_scalar("select user_id is not null from upstream_deletion")
        .fetch_one(&mut app.sql().await)
        .await
        .unwrap();
    assert!(!named, "the queue names an erased user");
    app.faults(json!({})).await;
    app.advance(TimeDelta::minutes(15));
    eventually(async || service.erasure.erase(&ada).await.unwrap().upstream_deleted).await;
    app.wait_for_nango_connections(&[]).await;
}

#[tokio::test]
async fn erasure_keeps_ids_of_attempts_until_their_sessions_end() {
    let app = TestApp::new().await;
    let started = app.user("ada").await.connect("gmail").await;
    let other = app.user("bob").await.connect("gmail").await;
    let ada = UserId::try_from("ada".to_owned()).unwrap();
    app.service().await.erasure.erase(&ada).await.unwrap();
    let mut sql = app.sql().await;
    let mut owners = async || {
        let owners: Vec<(String, Option<String>)> = sqlx::query_as(
            "select attempt_id::text, concat_ws(' ', user_id, connection_id::text, browser_token_hash::text) \
             from attempt_owner order by attempt_id",
        )
        .fetch_all(&mut sql)
        .await
        .unwrap();
        owners
    };
    let his = format!("bob {}", text(&other, "connection_id"));
    let erased = (text(&started, "attempt_id").to_owned(), Some(String::new()));
    let kept = (text(&other, "attempt_id").to_owned(), Some(his));
    assert_eq!(owners().await, [erased.clone(), kept.clone()]);
    // The session has expired, and its user may still be at the provider.
    app.advance(TimeDelta::minutes(45));
    app.service().await.expiry.run().await.unwrap();
    assert_eq!(owners().await, [erased, kept]);
    app.advance(TimeDelta::minutes(16));
    app.service().await.expiry.run().await.unwrap();
    eventually(async || owners().await.is_empty()).await;
}

#[tokio::test]
async fn expiry_skips_attempts_whose_rows_are_gone() {
    let app = TestApp::new().await;
    let started = app.user("ada").await.connect("gmail").await;
    app.user("bob").await.connect("gmail").await;
    let mut sql = app.sql().await;
    sqlx::query("delete from user_connector_connection where user_id = 'ada'")
        .execute(&mut sql)
        .await
        .unwrap();
    app.advance(TimeDelta::minutes(31));
    let expired = app.service().await.expiry.run().await.unwrap();
    assert!(expired <= 1, "the running replica may be at it instead");
    let attempt: uuid::Uuid = text(&started, "attempt_id").parse().unwrap();
    app.advance(TimeDelta::minutes(30));
    app.service().await.expiry.run().await.unwrap();
    eventually(async || {
        let left = "select exists (select from attempt_owner where attempt_id = $1)";
        let left: bool = sqlx::query_scalar(left)
            .bind(attempt)
            .fetch_one(&mut sql)
            .await
            .unwrap();
        !left
    })
    .await;
}

#[tokio::test]
async fn foreign_nango_connections_are_kept() {
    let app = TestApp::new().await;
    let theirs = orphan(&app).await;
    app.import_with(json!({ "end_user_id": "ada" })).await;
    let before = app.nango_connections().await;
    assert!(before.len() == 2 && before.contains(&theirs));
    sqlx::query("update installation set id = gen_random_uuid()")
        .execute(&mut app.sql().await)
        .await
        .unwrap();
    let installed_later = app.service().await;
    app.advance(TimeDelta::hours(3));
    let stop = CancellationToken::new();
    let report = installed_later
        .sweeper
        .sweep(IMMEDIATE_SWEEP, &stop)
        .await
        .unwrap();
    let report = report.unwrap();
    assert_eq!((report.listed, report.orphans, report.found), (2, 0, 0));
    installed_later.deletions.delete_due().await.unwrap();
    assert_eq!(app.nango_connections().await, before);
}

#[tokio::test]
async fn partial_listing_changes_nothing() {
    let app = TestApp::new().await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    let (hers, his) = (ada.connected("gmail").await, bob.connected("gmail").await);
    app.advance(TimeDelta::minutes(5));
    // Newer foreign connections fill the first page.
    for _ in 0..20 {
        join_all((0..50).map(|_| app.import_with(json!({})))).await;
    }
    let gone = text(&hers, "nango_connection_id");
    let path = format!("/connections/{gone}?provider_config_key=gmail");
    app.nango(Method::DELETE, &path).await;

    let faults = json!({ "status": 500, "only": "page=1" });
    app.faults(faults).await;
    let stop = CancellationToken::new();
    let broken = app
        .service()
        .await
        .sweeper
        .sweep(IMMEDIATE_SWEEP, &stop)
        .await;
    assert!(broken.is_err(), "{broken:?}");
    for (user, connection) in [(&ada, &hers), (&bob, &his)] {
        let now = user.connection(text(connection, "id")).await;
        assert_eq!(now["status"], "connected");
    }

    app.faults(json!({})).await;
    assert_eq!(app.sweep_until_missing().await, 1);
    let report = app.sweep().await;
    assert_eq!((report.listed, report.orphans), (1001, 0));
    assert_eq!(
        ada.connection(text(&hers, "id")).await["status_reason"],
        "missing_upstream"
    );
    assert_eq!(
        bob.connection(text(&his, "id")).await["status"],
        "connected"
    );
}

#[tokio::test]
async fn sweep_continues_when_one_check_fails() {
    let app = TestApp::new().await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    let revoked = ada.connected("github").await;
    bob.connected("github").await;
    let unanswered = ada.connected("gmail").await;
    let skipped = bob.connected("gmail").await;
    app.faults(json!({ "drop_webhooks": true })).await;
    let rejected = [
        (&revoked, "github"),
        (&unanswered, "gmail"),
        (&skipped, "gmail"),
    ];
    for (connection, key) in rejected {
        let nango_id = text(connection, "nango_connection_id");
        let body = json!({ "connection_id": nango_id });
        app.control("revoke", Method::POST, body).await;
        let path = format!("/connections/{nango_id}?provider_config_key={key}&force_refresh=true");
        assert_ne!(app.nango(Method::GET, &path).await.0, StatusCode::OK);
    }
    app.advance(TimeDelta::minutes(5));
    let faults = json!({ "status": 500, "only": "provider_config_key=gmail" });
    app.faults(faults).await;
    let before = force_check(&app).await.len();
    assert_eq!(app.sweep().await.checked, 1);
    let forced = force_check(&app).await.split_off(before);
    let of_gmail = [&unanswered, &skipped].map(|one| text(one, "nango_connection_id"));
    let is_forced = |id: &&str| forced.iter().any(|forced| forced == id);
    assert_eq!(of_gmail.iter().filter(|id| is_forced(id)).count(), 1);
    let status = async |connection| ada.connection(text(connection, "id")).await["status"].clone();
    assert_eq!(status(&revoked).await, "connected");
    let failing = ada.connection(text(&revoked, "id")).await;
    assert!(failing["failing_since"].is_string());
    assert_eq!(status(&unanswered).await, "connected");
}

/// Starts an app whose Nango has two integrations for Gmail.
async fn house_with_two_integrations() -> TestApp {
    TestApp::build(&[], |nango| {
        let gmail = (nango.integrations.iter()).find(|one| one.unique_key == "gmail");
        let production = Integration {
            unique_key: "gmail-production".to_owned(),
            ..gmail.unwrap().clone()
        };
        nango.integrations.push(production);
    })
    .await
}

/// Creates a catalog file in which Gmail has another integration.
fn exchanged() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let changed = "[[connector]]\nslug = \"gmail\"\nintegration_key = \"gmail-production\"\n";
    std::fs::write(file.path(), changed).unwrap();
    file
}

#[tokio::test]
async fn changed_integration_key_leaves_old_connections_usable() {
    let app = house_with_two_integrations().await;
    let connected = app.user("ada").await.connected("gmail").await;
    let file = exchanged();
    let catalog = file.path().to_str().unwrap();
    let restarted = app.replica(&[("CATALOG_FILE", catalog)]).await;
    let ada = app.user("ada").await;
    let ada = ada.at(&restarted);
    let id = text(&connected, "id");
    let check = format!("/connections/{id}/check");
    let (status, checked) = ada.call(Method::POST, &check, None).await;
    assert_eq!(
        (status, text(&checked, "status")),
        (StatusCode::OK, "connected")
    );
    // It is reauthorized under the integration that created it.
    app.faults(json!({ "consent": "allow" })).await;
    let reconnect = format!("/connections/{id}/reconnect");
    let (status, started) = ada.call(Method::POST, &reconnect, None).await;
    assert_eq!(status, StatusCode::OK, "{started}");
    app.popup(text(&started, "oauth_url")).await;
    let renewed = ada.get(&format!("/connections/{id}?wait=25")).await;
    assert_eq!(renewed["attempt"]["outcome"], "succeeded");
    assert_eq!(renewed["attempt"]["kind"], "reconnect");
    assert_eq!(
        renewed["nango_connection_id"],
        connected["nango_connection_id"]
    );
    // New connections use the integration of the catalog.
    let (_, ended) = ada.disconnect("gmail", "").await;
    assert_eq!(ended["upstream_deleted"], true);
    assert_eq!(app.nango_connections().await, [""; 0]);
    ada.connected("gmail").await;
    let keys: Vec<(String, String)> = sqlx::query_as(
        "select c.integration_key, a.integration_key from user_connector_connection c \
         join connect_attempt a on a.user_id = c.user_id and a.id = c.attempt_id",
    )
    .fetch_all(&mut app.sql().await)
    .await
    .unwrap();
    let new = "gmail-production".to_owned();
    assert_eq!(keys, [(new.clone(), new)]);
}

#[tokio::test]
async fn integration_key_changed_while_popup_is_open_connects() {
    let app = house_with_two_integrations().await;
    app.faults(json!({ "consent": "allow" })).await;
    let started = app.user("ada").await.connect("gmail").await;
    let file = exchanged();
    let catalog = file.path().to_str().unwrap();
    let restarted = app.replica(&[("CATALOG_FILE", catalog)]).await;
    let ada = app.user("ada").await;
    app.popup(text(&started, "oauth_url")).await;
    let id = text(&started, "connection_id");
    let connected = ada.at(&restarted).wait_until(id, "connected").await;
    let stored = text(&connected, "nango_connection_id").to_owned();
    assert_eq!(app.nango_connections().await, [stored]);
}

#[tokio::test]
async fn removed_integration_is_replaced_by_the_catalogs_on_reconnect() {
    let app = TestApp::build(&[], |nango| {
        for integration in &mut nango.integrations {
            if integration.unique_key == "gmail" {
                "gmail-production".clone_into(&mut integration.unique_key);
            }
        }
    })
    .await;
    let file = exchanged();
    let catalog = file.path().to_str().unwrap();
    let replica = app.replica(&[("CATALOG_FILE", catalog)]).await;
    let ada = app.user("ada").await;
    let ada = ada.at(&replica);
    let connected = ada.connected("gmail").await;
    let id = text(&connected, "id");
    // As if an integration that Nango no longer has had created it.
    sqlx::query(
        "update user_connector_connection set integration_key = 'gmail-old', nango_connection_id = 'old'",
    )
    .execute(&mut app.sql().await)
    .await
    .unwrap();
    app.faults(json!({ "consent": "allow" })).await;
    let (status, started) = ada
        .call(Method::POST, &format!("/connections/{id}/reconnect"), None)
        .await;
    assert_eq!(status, StatusCode::OK, "{started}");
    app.popup(text(&started, "oauth_url")).await;
    let renewed = ada.get(&format!("/connections/{id}?wait=25")).await;
    assert_eq!(renewed["attempt"]["kind"], "connect");
    assert_eq!(renewed["attempt"]["outcome"], "succeeded");
    assert_eq!(renewed["status"], "connected");
}
