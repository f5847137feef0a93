//! A database of the original system, imported in place or left unchanged.

mod invalid;
mod users;

use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use patchbay::catalog::Catalog;
use patchbay::db::{DatabaseError, InvalidRows, LegacyImport};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::eventually::{eventually_locked, eventually_value};
use crate::pooler::Pooler;
use crate::process::Process;
use crate::test_app::{POOLER_SETTINGS, TestApp, User};
use crate::test_database::{self, TestDatabase};

const ADA: &str = "a0a0a0a0-0000-4000-8000-00000000000a";
const BEN: &str = "b0b0b0b0-0000-4000-8000-00000000000b";
const KEY: &str = "pbk_workflow_0123456789abcdef0123456789abcdef";

/// Creates a database of the original system, with the catalog's connectors under the original ids.
async fn legacy_database(rows: &str) -> (TestDatabase, PgConnection) {
    let database = test_database::database().await;
    let mut sql = PgConnection::connect(database.url()).await.unwrap();
    run(&mut sql, include_str!("../data/legacy_schema/schema.sql")).await;
    let catalog = Catalog::builtin();
    let slugs: Vec<&str> = catalog.iter().map(|one| one.slug.as_str()).collect();
    sqlx::query(
        "insert into connector select case slug when 'github' then '20000000-0000-4000-8000-000000000001' \
           else gen_random_uuid() end, slug, initcap(slug), 'Any', '{}', now(), now() from unnest($1::text[]) slug",
    )
    .bind(&slugs)
    .execute(&mut sql)
    .await
    .unwrap();
    run(&mut sql, rows).await;
    (database, sql)
}

async fn run(sql: &mut PgConnection, statements: &str) {
    sqlx::raw_sql(AssertSqlSafe(statements.to_owned()))
        .execute(sql)
        .await
        .unwrap();
}

async fn import(url: &str) -> Result<Option<LegacyImport>, DatabaseError> {
    let database = test_database::pool(url, 2).await?;
    let invalid = InvalidRows::Refuse;
    database.import_legacy(&Catalog::builtin(), invalid).await
}

/// Imports a connection into Nango as the old flow created it: with a chosen id, and without tags.
async fn nango_connection(app: &TestApp, integration: &str, id: &str) {
    let url = format!("http://{}/connections", app.sandbox.address());
    let body = json!({
        "provider_config_key": integration,
        "connection_id": id,
        "credentials": { "type": "OAUTH2", "access_token": format!("token of {id}") },
    });
    let request = app.client.post(url).bearer_auth(&app.secret_key);
    let response = request.json(&body).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::CREATED);
}

/// Starts a test app with an imported database, whose Nango has the connections of the old flow.
async fn imported_app() -> TestApp {
    let (database, _) = legacy_database(include_str!("../data/legacy_schema/rows.sql")).await;
    let keys = format!("workflow={KEY}");
    let settings = [("SERVICE_API_KEYS", keys.as_str())];
    let app = TestApp::build_on(database, None, &settings, |_| {}).await;
    for (integration, id) in [
        ("gmail", format!("{ADA}_gmail_default")),
        ("gmail", format!("{ADA}_gmail_work")),
        ("gmail", "an-id-of-nangos-own".to_owned()),
        ("notion", format!("{BEN}_notion_default")),
        ("gmail", format!("{BEN}_gmail_default")),
        // Connections of the old flow without a row do not belong to this installation.
        ("gmail", "somebody_gmail_default".to_owned()),
    ] {
        nango_connection(&app, integration, &id).await;
    }
    app
}

/// Returns the end of a connection's id, which identifies its row in the file.
fn connection_bodies(connection: &Value) -> String {
    let id = connection["id"].as_str().unwrap();
    json!([
        &id[id.len() - 1..],
        connection["connector_slug"],
        connection["instance_id"],
        connection["status"],
        connection["status_reason"],
        connection["error_count"],
    ])
    .to_string()
}

async fn list(user: &User<'_>) -> Vec<String> {
    let list = user.get("/connections").await;
    let connections = list["connections"].as_array().unwrap();
    let mut shown: Vec<String> = connections.iter().map(connection_bodies).collect();
    shown.sort();
    shown
}

fn id(number: u8) -> String {
    format!("10000000-0000-4000-8000-00000000000{number}")
}

/// Returns the content of the database: every table with its schema, and every row.
async fn dump(sql: &mut PgConnection) -> Vec<String> {
    let mut all: Vec<String> = sqlx::query_scalar(
        "select format('%s.%s %s', relnamespace::regnamespace, relname, relkind) from pg_class \
         where relnamespace::regnamespace::text !~ '^pg_|information_schema' order by 1",
    )
    .fetch_all(&mut *sql)
    .await
    .unwrap();
    for table in ["user_connector_connection", "connector"] {
        let rows = AssertSqlSafe(format!("select t::text from {table} t order by 1"));
        let rows: Vec<String> = sqlx::query_scalar(rows).fetch_all(&mut *sql).await.unwrap();
        all.extend(rows);
    }
    all
}

#[tokio::test]
async fn legacy_rows_of_every_status_are_imported() {
    let app = imported_app().await;
    let (ada, ben) = (app.user(ADA).await, app.user(BEN).await);
    assert_eq!(
        list(&ada).await,
        [
            r#"["1","gmail","","connected",null,0]"#,
            r#"["2","gmail","work","connected",null,0]"#,
            r#"["3","gmail","work-10000000-0000-4000-8000-000000000003","error","needs_reauthorization",3]"#,
            r#"["4","github","main","error","needs_reauthorization",1]"#,
        ]
    );
    assert_eq!(
        list(&ben).await,
        [
            r#"["5","notion","","error","attempt_expired",1]"#,
            r#"["6","github","","error","attempt_expired",1]"#,
            r#"["7","gmail","","disconnected","user_disconnected",0]"#,
        ]
    );
    let first = ada.connection(&id(1)).await;
    assert_eq!(first["connected_at"], "2025-01-02T03:04:05.678Z");
    assert_eq!(first["last_synced_at"], "2025-02-03T04:05:06Z");
    assert_eq!(
        first["config"],
        json!({ "account_name": "ada@gmail.example" })
    );
    assert_eq!(first["nango_connection_id"], format!("{ADA}_gmail_default"));
    let history = ada.get(&format!("/connections/{}/history", id(3))).await;
    assert_eq!(history["events"][0]["kind"], "adopted");
    assert_eq!(history["events"][0]["detail"], "token refresh failed");
    // A connector's new id is derived from its slug. The original tables are unchanged.
    let (kept, times): (i64, bool) = sqlx::query_as(
        "select count(*), bool_and(n.created_at = o.created_at at time zone 'UTC' \
           and n.updated_at = o.updated_at at time zone 'UTC') \
         from before_patchbay.user_connector_connection o join user_connector_connection n using (id)",
    )
    .fetch_one(&mut app.sql().await)
    .await
    .unwrap();
    assert_eq!((kept, times), (7, true));
}

#[tokio::test]
async fn imported_connections_serve_tokens_and_checks() {
    let app = imported_app().await;
    let ada = app.user(ADA).await;
    // A workflow's token.
    let url = format!("{}/api/v1/connectors/connections/{}/token", app.url, id(2));
    let request = app.client.post(url).bearer_auth(KEY);
    let token = request.header("patchbay-user", ADA).send().await.unwrap();
    assert_eq!(token.status(), StatusCode::OK);
    let token: Value = token.json().await.unwrap();
    assert_eq!(token["access_token"], format!("token of {ADA}_gmail_work"));
    // A check, and a connect of a connected account.
    let (status, checked) = ada
        .call(Method::POST, &format!("/connections/{}/check", id(1)), None)
        .await;
    assert_eq!(
        (status, &checked["status"]),
        (StatusCode::OK, &json!("connected"))
    );
    assert_eq!(ada.connect("gmail").await["already_connected"], true);
}

#[tokio::test]
async fn sweep_keeps_imported_connections_and_skips_unknown_ones() {
    let app = imported_app().await;
    let (ada, ben) = (app.user(ADA).await, app.user(BEN).await);
    let report = app.sweep().await;
    assert_eq!((report.orphans, report.found), (0, 0));
    assert_eq!(app.sweep_until_missing().await, 2);
    let now = |user| async move { list(user).await };
    assert_eq!(
        now(&ada).await[2..],
        [
            r#"["3","gmail","work-10000000-0000-4000-8000-000000000003","connected",null,0]"#,
            r#"["4","github","main","error","missing_upstream",2]"#,
        ]
    );
    assert_eq!(
        now(&ben).await[..2],
        [
            r#"["5","notion","","connected",null,0]"#,
            r#"["6","github","","error","missing_upstream",2]"#,
        ]
    );
    // Disconnected connections are deleted at Nango; those without a row stay.
    let stored =
        eventually_value(async || app.nango_connections().await, |ids| ids.len() == 5).await;
    assert!(
        !stored.contains(&format!("{BEN}_gmail_default")),
        "{stored:?}"
    );
    assert!(stored.contains(&"somebody_gmail_default".to_owned()));
}

#[tokio::test]
async fn imported_connections_can_be_reconnected_and_disconnected() {
    let app = imported_app().await;
    let (ada, ben) = (app.user(ADA).await, app.user(BEN).await);
    // A reconnect keeps Nango's id, and adds this installation's tags at Nango.
    app.faults(json!({ "consent": "allow" })).await;
    let path = format!("/connections/{}/reconnect", id(1));
    let (status, started) = ada.call(Method::POST, &path, None).await;
    assert_eq!(status, StatusCode::OK, "{started}");
    app.popup(started["oauth_url"].as_str().unwrap()).await;
    let path = format!("/connections/{}?wait=25", id(1));
    let renewed = ada.get(&path).await;
    assert_eq!(renewed["attempt"]["outcome"], "succeeded");
    assert_eq!(
        renewed["nango_connection_id"],
        format!("{ADA}_gmail_default")
    );
    // A connection that never existed at Nango can be connected again.
    ben.connected("github").await;
    assert_eq!(
        list(&ben).await[1],
        r#"["6","github","","connected",null,0]"#
    );
    // A disconnect also deletes it at Nango.
    let query = format!("?connection_id={}", id(2));
    let (status, ended) = ada.disconnect("gmail", &query).await;
    assert_eq!(
        (status, &ended["upstream_deleted"]),
        (StatusCode::OK, &json!(true))
    );
    let stored = app.nango_connections().await;
    assert!(!stored.contains(&format!("{ADA}_gmail_work")), "{stored:?}");
}

#[tokio::test]
async fn refresh_failure_webhook_is_matched_by_nango_id() {
    let app = imported_app().await;
    let (status, _) = app
        .nango(
            Method::DELETE,
            &format!("/connections/{ADA}_gmail_work?provider_config_key=gmail"),
        )
        .await;
    assert_eq!(status, StatusCode::OK);
    let body = json!({
        "type": "auth", "operation": "refresh", "success": false, "from": "nango",
        "connectionId": format!("{ADA}_gmail_work"), "providerConfigKey": "gmail", "provider": "google-mail",
        "authMode": "OAUTH2", "environment": "dev", "error": { "type": "refresh_token_external_error", "description": "no" },
    })
    .to_string();
    let key = hmac::Key::new(hmac::HMAC_SHA256, app.signing_key.as_bytes());
    let signature = hex::encode(hmac::sign(&key, body.as_bytes()));
    let request = app
        .client
        .post(format!("{}/api/v1/webhooks/nango", app.url))
        .header("x-nango-hmac-sha256", signature);
    let answer = request.body(body).send().await.unwrap();
    assert!(answer.status().is_success());
    // The service has looked it up, and Nango does not have it.
    let absences: i32 = sqlx::query_scalar(
        "select cardinality(absences) from user_connector_connection where id = $1",
    )
    .bind(id(2).parse::<uuid::Uuid>().unwrap())
    .fetch_one(&mut app.sql().await)
    .await
    .unwrap();
    assert_eq!(absences, 1);
}

#[tokio::test]
async fn import_works_through_pooler_and_keeps_users_deletable() {
    let (database, mut sql) = legacy_database(include_str!("../data/legacy_schema/rows.sql")).await;
    let Some(pooler) = Pooler::start(&database, POOLER_SETTINGS).await else {
        return;
    };
    let adopted = import(&pooler.url(&database)).await.unwrap().unwrap();
    assert_eq!(adopted.connections, 7);
    run(&mut sql, "delete from \"user\"").await;
}

#[tokio::test]
async fn import_accepts_connectors_from_catalog_file() {
    let rows = include_str!("../data/legacy_schema/rows.sql");
    let (database, mut sql) = legacy_database(rows).await;
    run(
        &mut sql,
        "update connector set slug = 'fax' where slug = 'gmail'",
    )
    .await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let entry = "[[connector]]\nslug = \"fax\"\nname = \"Fax\"\ncategory = \"Old\"\nprovider = \"fax\"\nauth_mode = \"OAUTH2\"\n";
    std::fs::write(file.path(), entry).unwrap();
    let settings = [
        ("DATABASE_URL", database.url()),
        ("CATALOG_FILE", file.path().to_str().unwrap()),
    ];
    let mut process = Process::start(&["migrate"], &settings);
    assert!(process.ended().await.success(), "{}", process.output());
    let text = process.output();
    assert!(
        text.contains("imported 7 connections of the FastAPI service"),
        "{text}"
    );
}

#[tokio::test]
async fn commands_name_the_import_of_a_legacy_database() {
    let (database, _) = legacy_database("").await;
    let settings = [("DATABASE_URL", database.url())];
    let mut process = Process::start(&["keys", "list"], &settings);
    assert_eq!(process.ended().await.code(), Some(1));
    let text = process.output();
    assert!(text.contains("needs an imported database"), "{text}");
    assert!(text.contains("Run `patchbay migrate`"), "{text}");
    assert!(!text.contains("cannot be imported"), "{text}");
}

#[tokio::test]
async fn reported_lock_time_omits_the_wait_for_the_lock() {
    const WAIT: Duration = Duration::from_secs(3);
    let (database, mut sql) = legacy_database("").await;
    run(&mut sql, "begin; select from user_connector_connection").await;
    let url = database.url().to_owned();
    let importing = tokio::spawn(async move { import(&url).await });
    let mut other = PgConnection::connect(database.url()).await.unwrap();
    eventually_locked(&mut other).await;
    tokio::time::sleep(WAIT).await;
    run(&mut sql, "rollback").await;
    let released = Instant::now();
    let imported = importing.await.unwrap().unwrap().unwrap();
    assert!(
        imported.locked < released.elapsed() + Duration::from_millis(500),
        "{imported:?}"
    );
}

/// Run with `cargo test --test it -- --ignored --nocapture import_preserves_100k`.
#[tokio::test]
#[ignore = "takes half a minute: to be run when the takeover changes"]
async fn import_preserves_100k_rows() {
    let (database, mut sql) = legacy_database(
        "insert into \"user\" select gen_random_uuid(), n || '@example.com', true from generate_series(1, 20000) n; \
         insert into user_connector_connection \
         select gen_random_uuid(), u.id, k.id, u.id || '_' || k.slug || '_default', \
           (array['connected', 'connected', 'disconnected', 'error', 'pending'])[1 + (k.n + u.n) % 5], \
           now() - interval '3 days', case (k.n + u.n) % 5 when 2 then now() end, now(), \
           json_build_object('account_name', u.email), case (k.n + u.n) % 5 when 3 then 'failed' end, \
           case (k.n + u.n) % 5 when 3 then 1 else 0 end, now() - interval '9 days', now() \
         from (select *, row_number() over (order by id) n from \"user\") u \
         cross join (select *, row_number() over (order by slug) n from connector order by slug limit 5) k",
    )
    .await;
    let started = Instant::now();
    let adopted = import(database.url()).await.unwrap().unwrap();
    let (took, locked) = (started.elapsed(), adopted.locked);
    println!("100,000 rows in {took:.1?}, the old tables locked for {locked:.1?}");
    assert_eq!(adopted.connections, 100_000);
    let (equal, events, deletions): (i64, i64, i64) = sqlx::query_as(
        "select (select count(*) from before_patchbay.user_connector_connection o \
           join before_patchbay.connector k on k.id = o.connector_id \
           join user_connector_connection n on n.id = o.id join connector c on c.id = n.connector_id \
           where n.user_id = o.user_id::text and c.slug = k.slug and n.instance_id = '' \
             and n.config = o.config::jsonb and n.connected_at = o.connected_at at time zone 'UTC' \
             and n.disconnected_at is not distinct from o.disconnected_at at time zone 'UTC' \
             and n.last_synced_at = o.last_synced_at at time zone 'UTC' \
             and n.created_at = o.created_at at time zone 'UTC' and n.updated_at = o.updated_at at time zone 'UTC' \
             and n.nango_connection_id is not distinct from case o.status when 'disconnected' then null else o.nango_connection_id end \
             and n.status = case o.status when 'pending' then 'error' else o.status end), \
           (select count(*) from connection_event where kind = 'adopted'), \
           (select count(*) from upstream_deletion)",
    )
    .fetch_one(&mut sql)
    .await
    .unwrap();
    assert_eq!((equal, events, deletions), (100_000, 100_000, 20_000));
}
