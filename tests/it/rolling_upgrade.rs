//! Two versions with one database, while replicas are replaced one by one.

use futures::future::join_all;
use patchbay::auth::service_keys::Scope;
use patchbay::db::DatabaseError;
use patchbay::nango::webhook::{SIGNATURE_HEADER, SigningKeys};
use reqwest::{Method, StatusCode};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use sqlx::Connection;

use crate::test_app::{TestApp, User};
use crate::test_database;

/// Executes a migration of a newer version: `sql`, with this description.
async fn migrate_as_newer(app: &TestApp, description: &str, sql: &'static str) {
    let mut database = app.sql().await;
    let mut tx = database.begin().await.unwrap();
    sqlx::raw_sql(sql).execute(&mut *tx).await.unwrap();
    sqlx::query(
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time) \
         values ((select max(version) + 1000 from _sqlx_migrations), $1, true, '', 0)",
    )
    .bind(description)
    .execute(&mut *tx)
    .await
    .unwrap();
    tx.commit().await.unwrap();
}

/// Runs operations of a user and a workflow that read and write rows of every table.
async fn run_lifecycle(user: &User<'_>, url: &str, connector: &str) {
    let connected = user.connected(connector).await;
    let id = connected["id"].as_str().unwrap();
    let scopes = [Scope::TokensRead].into();
    let key = user.app.keys().await.create("engine", &scopes).await;
    let token = format!("{url}/api/v1/connectors/connections/{id}/token");
    let token = user.app.client.post(token);
    let token = token.bearer_auth(key.unwrap().expose_secret());
    let answer = token.header("patchbay-user", "ada").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let history = user.get(&format!("/connections/{id}/history")).await;
    assert!(history["events"].as_array().unwrap().len() >= 2);
    let once = user
        .request(Method::POST, &format!("/connections/{id}/reconnect"))
        .header("idempotency-key", id);
    assert_eq!(once.send().await.unwrap().status(), StatusCode::OK);
    let (status, ended) = user.disconnect(connector, "").await;
    assert_eq!(status, StatusCode::OK, "{ended}");
    assert_eq!(ended["upstream_deleted"], true);
}

#[tokio::test]
async fn older_replicas_work_with_newer_additive_schema() {
    // Few connections, so that each of them has prepared its statements before.
    let app = TestApp::with(&[("DATABASE_POOL_SIZE", "2")]).await;
    let ada = app.user("ada").await;
    for connector in ["gmail", "github", "google-calendar"] {
        run_lifecycle(&ada, &app.url, connector).await;
    }
    let add_everywhere = "do $$ declare t text; begin \
           for t in select tablename from pg_tables \
             where schemaname = 'public' and tablename <> '_sqlx_migrations' loop \
             execute format('alter table %I add column of_tomorrow text default ''new''', t); \
           end loop; end $$; \
         create table tomorrow (id int); create index on connect_attempt (created_at)";
    migrate_as_newer(&app, "of tomorrow", add_everywhere).await;
    for connector in ["gmail", "notion"] {
        run_lifecycle(&ada, &app.url, connector).await;
    }
    assert_eq!(app.sweep().await.orphans, 0);
    // A replica that restarts after a crash.
    let started = app.replica(&[]).await;
    run_lifecycle(&ada.at(&started), &started.url, "google-calendar").await;
}

#[tokio::test]
async fn program_does_not_start_when_columns_were_removed() {
    let app = TestApp::new().await;
    let drop = "alter table connection_event drop column detail";
    migrate_as_newer(&app, "contract the history", drop).await;
    let settings = app.settings(&[]);
    let url = settings.iter().find(|(name, _)| *name == "DATABASE_URL");
    let database = test_database::pool(url.unwrap().1.as_str(), 1)
        .await
        .unwrap();
    let refused = database.migrate().await.unwrap_err();
    assert!(
        matches!(refused, DatabaseError::SchemaTooNew(_)),
        "{refused}"
    );
    assert!(refused.to_string().contains("run that version"));
}

#[tokio::test]
async fn connector_added_by_newer_program_is_shown_by_name() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let mut database = app.sql().await;
    sqlx::raw_sql(
        "insert into connector (id, slug, name, category, integration_key, enabled, manifest) \
         values ('6f9619ff-8b86-d011-b42d-00c04fc964ff', 'tomorrow', 'Tomorrow', 'other', 'tomorrow', true, '{}'); \
         insert into user_connector_connection \
           (id, user_id, connector_id, status, status_reason, created_at, updated_at) \
         values (gen_random_uuid(), 'ada', '6f9619ff-8b86-d011-b42d-00c04fc964ff', 'pending', \
           'awaiting_authorization', now(), now())",
    )
    .execute(&mut database)
    .await
    .unwrap();
    let list = ada.get("/connections").await;
    assert_eq!(list["connections"][0]["connector_slug"], "tomorrow");
    assert_eq!(list["connections"][0]["connector_name"], "Tomorrow");
}

#[tokio::test]
async fn unreadable_row_does_not_block_webhooks_of_other_users() {
    // A value that only a newer version knows, whose migration has changed the constraint; and values that no version
    // can read.
    for unreadable in [
        "alter domain status_reason_text drop constraint status_reason_known; \
         update user_connector_connection set status = 'error', status_reason = 'of_tomorrow' where user_id = 'ada'",
        "alter domain utc_time drop constraint utc_time_range; \
         update user_connector_connection set created_at = 'infinity' where user_id = 'ada'",
    ] {
        let app = TestApp::new().await;
        let faults = json!({ "consent": "allow", "drop_webhooks": true });
        app.faults(faults).await;
        for user in ["ada", "bob"] {
            let started = app.user(user).await.connect("gmail").await;
            app.popup(started["oauth_url"].as_str().unwrap()).await;
        }
        let mut sql = app.sql().await;
        sqlx::raw_sql(unreadable).execute(&mut sql).await.unwrap();
        let webhooks = app.control("webhooks", Method::GET, Value::Null).await;
        let [hers, his] = webhooks.as_array().unwrap().as_slice() else {
            panic!("not one webhook each: {webhooks:#}");
        };
        // Enough concurrent reads for some to be batched.
        let both = (0..10).flat_map(|_| [hers, his]);
        let answers = join_all(both.map(|webhook| deliver(&app, webhook))).await;
        for answers in answers.chunks(2) {
            assert!(answers[0].is_server_error(), "{answers:?}");
            assert_eq!(answers[1], StatusCode::NO_CONTENT);
        }
    }
}

/// Sends a webhook that was dropped.
async fn deliver(app: &TestApp, webhook: &Value) -> StatusCode {
    let body = webhook["body"].to_string();
    let keys = SigningKeys::new(&[app.signing_key.clone().into()]).unwrap();
    let request = app
        .client
        .post(webhook["url"].as_str().unwrap())
        .header("content-type", "application/json")
        .header(SIGNATURE_HEADER, keys.sign(body.as_bytes()));
    request.body(body).send().await.unwrap().status()
}
