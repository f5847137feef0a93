//! Patchbay deletes nothing at Nango and asks no user to reconnect without proof.

mod absence;
mod brakes;
mod commands;
mod credentials;
mod deletions;
mod imported;
mod leases;
mod moments;

use chrono::TimeDelta;
use patchbay::domain::Brake;
use patchbay::nango::webhook;
use patchbay::service::{Orphans, WebhookOutcome};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{check, text};
use crate::eventually::eventually;
use crate::test_app::{IMMEDIATE_SWEEP, TestApp, User};

const KEY: &str = "pbk_workflow_0123456789abcdef0123456789abcdef";

async fn app() -> TestApp {
    TestApp::with(&[("SERVICE_API_KEYS", &format!("workflow={KEY}"))]).await
}

/// Creates users with a connection to Gmail, which Nango confirmed a while ago.
async fn connected(app: &TestApp, count: usize) -> Vec<(User<'_>, Value)> {
    let mut all = Vec::new();
    for number in 0..count {
        let user = app.user(&format!("user-{number}")).await;
        let connection = user.connected("gmail").await;
        all.push((user, connection));
        app.advance(TimeDelta::seconds(1));
    }
    app.advance(TimeDelta::minutes(5));
    all
}

/// Requests a token as a workflow. Returns the status and code.
async fn token(app: &TestApp, user: usize, connection: &Value) -> (u16, String) {
    let id = text(connection, "id");
    let url = format!("{}/api/v1/connectors/connections/{id}/token", app.url);
    let request = app.client.post(url).bearer_auth(KEY);
    let request = request.header("patchbay-user", format!("user-{user}"));
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    let body: Value = answer.json().await.unwrap();
    (status, body["code"].as_str().unwrap_or_default().to_owned())
}

async fn statuses(all: &[(User<'_>, Value)]) -> Vec<String> {
    let mut statuses = Vec::new();
    for (user, connection) in all {
        let now = user.connection(text(connection, "id")).await;
        statuses.push(text(&now, "status").to_owned());
    }
    statuses
}

async fn kinds(user: &User<'_>, id: &str) -> Vec<String> {
    let history = user.get(&format!("/connections/{id}/history")).await;
    let events = history["events"].as_array().unwrap().iter().rev();
    events.map(|event| text(event, "kind").to_owned()).collect()
}

async fn engaged(app: &TestApp) -> Vec<Brake> {
    let engaged = app.service().await.core.brakes.engaged().await.unwrap();
    engaged.iter().map(|one| one.brake).collect()
}

/// Restores a backup from before these users connected.
async fn restore_backup_without(app: &TestApp, all: &[(User<'_>, Value)]) {
    let mut sql = app.sql().await;
    for (_, connection) in all {
        let id: uuid::Uuid = text(connection, "id").parse().unwrap();
        for statement in [
            "delete from user_connector_connection where id = $1",
            "delete from attempt_owner where connection_id = $1",
        ] {
            sqlx::query(statement)
                .bind(id)
                .execute(&mut sql)
                .await
                .unwrap();
        }
    }
}

async fn refuse_refresh(app: &TestApp, of: &[&Value]) {
    let ids: Vec<&Value> = of.iter().map(|it| &it["nango_connection_id"]).collect();
    app.faults(json!({ "refuse_refresh_of": ids, "drop_webhooks": true }))
        .await;
}

async fn delete_at_nango(app: &TestApp, connection: &Value) {
    let id = text(connection, "nango_connection_id");
    let path = format!("/connections/{id}?provider_config_key=gmail");
    assert_eq!(app.nango(Method::DELETE, &path).await.0, StatusCode::OK);
}

#[tokio::test]
async fn grants_newer_than_a_restored_backup_are_kept_and_restored() {
    let app = app().await;
    let all = connected(&app, 4).await;
    let before = app.nango_connections().await;
    restore_backup_without(&app, &all[1..]).await;
    app.advance(TimeDelta::hours(6));
    // Nango retries the webhooks of their grants.
    let service = app.service().await;
    let hooks = app.control("webhooks", Method::GET, Value::Null).await;
    for hook in hooks.as_array().unwrap() {
        let event = webhook::parse(hook["body"].to_string().as_bytes()).unwrap();
        let outcome = service.nango_webhooks.handle(None, &event).await.unwrap();
        assert_eq!(outcome, WebhookOutcome::Ignored);
    }
    assert_eq!(app.sweep().await.orphans, 3);
    service.deletions.delete_due().await.unwrap();
    assert_eq!(app.nango_connections().await, before);

    let orphans = Orphans::new(service.core.clone()).list().await.unwrap();
    assert_eq!(orphans.len(), 3);
    for orphan in &orphans {
        Orphans::new(service.core.clone())
            .restore(orphan)
            .await
            .unwrap();
    }
    for (user, connection) in &all[1..] {
        let id = text(connection, "id");
        let restored = user.connection(id).await;
        assert_eq!(restored["status"], "connected");
        assert_eq!(
            restored["nango_connection_id"],
            connection["nango_connection_id"]
        );
        assert_eq!(kinds(user, id).await, ["restored"]);
    }
    assert_eq!(token(&app, 1, &all[1].1).await.0, 200);
    assert_eq!(app.sweep().await.orphans, 0);
    assert_eq!(app.nango_connections().await, before);
}

#[tokio::test]
async fn orphan_keeps_its_instance_and_yields_to_a_newer_connection() {
    let app = app().await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "allow" })).await;
    let connect = async |instance: &str| {
        let path = format!("/gmail/connect?instance_id={instance}");
        let (status, started) = ada.call(Method::POST, &path, None).await;
        assert_eq!(status, StatusCode::OK, "{started}");
        app.popup(text(&started, "oauth_url")).await;
        let id = text(&started, "connection_id");
        let connection = ada.wait_until(id, "connected").await;
        (app.user("ada").await, connection)
    };
    let (work, home) = (connect("work").await, connect("home").await);
    restore_backup_without(&app, &[work, home]).await;
    // In the meantime she has connected one of them again.
    let (_, again) = connect("home").await;
    let service = app.service().await;
    let mut restored = Vec::new();
    for orphan in Orphans::new(service.core.clone()).list().await.unwrap() {
        restored.push(
            Orphans::new(service.core.clone())
                .restore(&orphan)
                .await
                .map(|it| it.instance_id),
        );
    }
    assert_eq!(restored.len(), 2);
    let refused = restored.iter().find_map(|one| one.as_ref().err()).unwrap();
    assert!(refused.to_string().contains("connected again"), "{refused}");
    assert!(
        restored
            .iter()
            .any(|one| one.as_deref().ok() == Some("work"))
    );
    // The operator deletes the unwanted orphans.
    for orphan in Orphans::new(service.core.clone()).list().await.unwrap() {
        Orphans::new(service.core.clone())
            .delete(&orphan)
            .await
            .unwrap();
    }
    service.deletions.delete_due().await.unwrap();
    let left = app.nango_connections().await;
    assert_eq!(left.len(), 2);
    assert!(left.contains(&text(&again, "nango_connection_id").to_owned()));
}

#[tokio::test]
async fn restored_or_copied_database_is_paused_until_released() {
    let app = app().await;
    let all = connected(&app, 2).await;
    let before = app.nango_connections().await;
    let stop = CancellationToken::new();
    // Another address, another cluster, another database, and the tables of a restored dump.
    for change in [
        "public_url = 'https://staging.example.com/'",
        "system_identifier = system_identifier + 1",
        "database_name = 'production'",
        "database_oid = database_oid + 1",
        "table_oid = table_oid + 1",
    ] {
        let statement = format!("update installation set {change}");
        sqlx::query(sqlx::AssertSqlSafe(statement))
            .execute(&mut app.sql().await)
            .await
            .unwrap();
        let service = app.service().await;
        assert!(service.core.is_database_foreign().await, "{change}");
        assert_eq!(
            service.sweeper.sweep(IMMEDIATE_SWEEP, &stop).await.unwrap(),
            None
        );
        assert_eq!(engaged(&app).await, [Brake::Database]);
        service.core.brakes.release(Brake::Database).await.unwrap();
        assert_eq!(engaged(&app).await, []);
    }
    // A disconnect of the user is pending at Nango.
    let foreign = "update installation set public_url = 'https://staging.example.com/'";
    sqlx::query(foreign)
        .execute(&mut app.sql().await)
        .await
        .unwrap();
    let service = app.service().await;
    let user = "user-0".to_owned().try_into().unwrap();
    let target = patchbay::service::DisconnectTarget::Only;
    let ended = service
        .disconnect
        .disconnect(&user, "gmail", &target, patchbay::domain::Actor::User)
        .await
        .unwrap();
    assert!(!ended.confirmed);
    service.deletions.delete_due().await.unwrap();
    assert_eq!(app.nango_connections().await, before);
    // The operator declares the database a copy, so the original's connections are not its own.
    let running = app.service().await;
    service.core.brakes.release_copy().await.unwrap();
    app.advance(TimeDelta::minutes(11));
    // Running replicas still have the original's id, and must be restarted first.
    assert!(running.core.is_database_foreign().await);
    assert_eq!(running.deletions.delete_due().await.unwrap(), 0);
    assert_eq!(app.nango_connections().await, before);
    let copy = app.service().await;
    assert_eq!(engaged(&app).await, []);
    copy.deletions.delete_due().await.unwrap();
    assert_eq!(app.nango_connections().await, before);
    assert_eq!(statuses(&all[1..]).await, ["connected"]);
}

#[tokio::test]
async fn database_restored_a_moment_ago_deletes_nothing() {
    let app = app().await;
    let all = connected(&app, 2).await;
    app.faults(json!({ "refuse_delete": true })).await;
    let (_, ended) = all[0].0.disconnect("gmail", "").await;
    assert_eq!(ended["upstream_deleted"], false);
    app.faults(json!({})).await;
    let before = app.nango_connections().await;
    let service = app.service().await;
    // The service has just compared the database, and caches the result.
    assert!(!service.core.is_database_foreign().await);
    sqlx::query("update installation set table_oid = table_oid + 1")
        .execute(&mut app.sql().await)
        .await
        .unwrap();
    app.advance(TimeDelta::minutes(11));
    assert_eq!(service.deletions.delete_due().await.unwrap(), 0);
    assert_eq!(app.nango_connections().await, before);
    service.core.brakes.release(Brake::Database).await.unwrap();
    service.deletions.delete_due().await.unwrap();
    app.wait_for_nango_connections(&[&before[0]]).await;
}

#[tokio::test]
async fn other_nango_environment_tells_nobody_and_deletes_nothing() {
    let app = app().await;
    let mut all = connected(&app, 4).await;
    let before = app.nango_connections().await;
    app.faults(json!({ "environment": "staging", "consent": "allow" }))
        .await;
    let service = app.service().await;
    let stop = CancellationToken::new();
    assert!(service.sweeper.sweep(IMMEDIATE_SWEEP, &stop).await.is_err());
    assert!(
        app.service()
            .await
            .sweeper
            .sweep(IMMEDIATE_SWEEP, &stop)
            .await
            .is_err()
    );
    for (number, (user, connection)) in all.iter().enumerate() {
        let path = format!("/connections/{}/check", text(connection, "id"));
        let (status, body) = user.call(Method::POST, &path, None).await;
        assert_eq!(
            (status.as_u16(), text(&body, "code")),
            (503, "nango_unavailable")
        );
        let refused = token(&app, number, connection).await;
        assert_eq!(refused, (503, "nango_unavailable".to_owned()));
        // A grant that replaces the original one would be lost in the right environment.
        let path = format!("/connections/{}/reconnect", text(connection, "id"));
        let (status, _) = user.call(Method::POST, &path, None).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    }
    assert_eq!(statuses(&all).await, ["connected"; 4]);
    let (user, ended) = all.pop().unwrap();
    let (_, answer) = user.disconnect("gmail", "").await;
    assert_eq!(answer["upstream_deleted"], false);

    app.faults(json!({})).await;
    app.advance(TimeDelta::minutes(11));
    assert_eq!(app.nango_connections().await, before);
    assert_eq!(app.sweep().await.missing, 0);
    assert_eq!(statuses(&all).await, ["connected"; 3]);
    assert_eq!(token(&app, 0, &all[0].1).await.0, 200);
    // The app's own worker may have claimed it.
    app.service().await.deletions.delete_due().await.unwrap();
    let is_deleted = async || {
        let left = app.nango_connections().await;
        left.len() == 3 && !left.contains(&text(&ended, "nango_connection_id").to_owned())
    };
    eventually(is_deleted).await;
}

#[tokio::test]
async fn operator_confirms_an_environment_without_the_connections() {
    let app = app().await;
    let all = connected(&app, 3).await;
    app.faults(json!({ "environment": "new" })).await;
    let service = app.service().await;
    let stop = CancellationToken::new();
    assert!(service.sweeper.sweep(IMMEDIATE_SWEEP, &stop).await.is_err());
    service.core.brakes.release(Brake::Nango).await.unwrap();
    assert_eq!(app.sweep_until_missing().await, 3);
    assert_eq!(statuses(&all).await, ["error"; 3]);
}

#[tokio::test]
async fn false_deletion_is_not_confirmed() {
    let answers = [
        "not_found",
        "unknown_connection",
        "unsuccessful",
        "no_effect",
    ];
    let app = app().await;
    for (number, answer) in answers.into_iter().enumerate() {
        let user = app.user(&format!("user-{number}")).await;
        user.connected("gmail").await;
        app.faults(json!({ "false_deletion": answer })).await;
        let (_, ended) = user.disconnect("gmail", "").await;
        assert_eq!(ended["upstream_deleted"], false, "{answer}");
        assert_eq!(app.nango_connections().await.len(), 1);
        app.faults(json!({})).await;
        app.advance(TimeDelta::minutes(11));
        app.service().await.deletions.delete_due().await.unwrap();
        app.wait_for_nango_connections(&[]).await;
        let (_, again) = user.disconnect("gmail", "").await;
        assert_eq!(again["upstream_deleted"], true, "{answer}");
    }
}

#[tokio::test]
async fn replaced_grant_is_kept_until_its_successor_worked() {
    let app = app().await;
    let all = connected(&app, 2).await;
    let (user, connection) = &all[0];
    let (id, first) = (
        text(connection, "id"),
        text(connection, "nango_connection_id"),
    );
    // Two grants of one session: the newer one replaces the older one.
    let started = user.connect("github").await;
    app.faults(json!({ "consent": "allow" })).await;
    app.popup(text(&started, "oauth_url")).await;
    user.wait_until(text(&started, "connection_id"), "connected")
        .await;
    app.popup(text(&started, "oauth_url")).await;
    app.sweep().await;
    let github = user.connection(text(&started, "connection_id")).await;
    let newest = text(&github, "nango_connection_id");
    let stored = app.nango_connections().await;
    assert_eq!((stored.len(), stored[0].as_str()), (4, newest));
    // The new grant does not work.
    app.faults(json!({ "refuse_refresh_of": [newest] })).await;
    app.control("expire", Method::POST, json!({ "connection_id": newest }))
        .await;
    app.advance(TimeDelta::minutes(11));
    app.service().await.deletions.delete_due().await.unwrap();
    assert_eq!(app.nango_connections().await.len(), 4);
    app.faults(json!({})).await;
    app.advance(TimeDelta::minutes(11));
    app.service().await.deletions.delete_due().await.unwrap();
    assert_eq!(app.nango_connections().await.len(), 3);
    assert!(app.nango_connections().await.contains(&first.to_owned()));
    assert_eq!(user.connection(id).await["status"], "connected");
}

#[tokio::test]
async fn connection_in_use_is_not_deleted_whatever_is_queued() {
    let app = app().await;
    let all = connected(&app, 1).await;
    let id = text(&all[0].1, "nango_connection_id");
    sqlx::query(
        "insert into upstream_deletion \
           (nango_connection_id, integration_key, connection_id, reason, next_attempt_at, created_at) \
         values ($1, 'gmail', gen_random_uuid(), 'disconnected', now(), now())",
    )
    .bind(id)
    .execute(&mut app.sql().await)
    .await
    .unwrap();
    app.service().await.deletions.delete_due().await.unwrap();
    app.wait_for_nango_connections(&[id]).await;
    let left: i64 = sqlx::query_scalar("select count(*) from upstream_deletion")
        .fetch_one(&mut app.sql().await)
        .await
        .unwrap();
    assert_eq!(
        (left, statuses(&all).await),
        (0, vec!["connected".to_owned()])
    );
}

#[tokio::test]
async fn popup_survives_a_changed_integration_key() {
    let app = TestApp::build(&[], |nango| {
        let gmail = (nango.integrations.iter()).find(|one| one.unique_key == "gmail");
        let production = nango_sandbox::Integration {
            unique_key: "gmail-production".to_owned(),
            ..gmail.unwrap().clone()
        };
        nango.integrations.push(production);
    })
    .await;
    let ada = app.user("ada").await;
    app.faults(json!({ "consent": "allow", "drop_webhooks": true }))
        .await;
    let started = ada.connect("gmail").await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let changed = "[[connector]]\nslug = \"gmail\"\nintegration_key = \"gmail-production\"\n";
    std::fs::write(file.path(), changed).unwrap();
    let catalog = file.path().to_str().unwrap();
    let restarted = app.replica(&[("CATALOG_FILE", catalog)]).await;
    app.popup(text(&started, "oauth_url")).await;
    let ada = ada.at(&restarted);
    let connected = ada
        .wait_until(text(&started, "connection_id"), "connected")
        .await;
    let checked = check(&ada, text(&connected, "id")).await;
    assert_eq!(checked["health"], "working");
    // Only new connects use the new integration.
    let (_, other) = ada
        .call(Method::POST, "/gmail/connect?instance_id=other", None)
        .await;
    assert!(
        text(&other, "oauth_url").contains("gmail-production"),
        "{other}"
    );
}
