//! Plans touch the same number of buffers at different sizes, and on the first and the last page.

use patchbay::auth::service_keys::Scope;
use patchbay::webhooks::DeliveryFilter;
use secrecy::ExposeSecret;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::eventually::eventually;
use crate::isolation::query_parity::{Statements, with_statement_log};
use crate::outgoing_webhooks::webhooks;
use crate::test_app::TestApp;
use crate::test_database;

/// Returns the recorded statement that contains this text.
fn statement(statements: &Statements, part: &str) -> String {
    let all = statements.lock().unwrap();
    let found = all.iter().find(|text| text.contains(part));
    found
        .unwrap_or_else(|| panic!("no statement has {part:?}: {all:#?}"))
        .clone()
}

/// Returns the number of buffers that a statement touches under its generic plan with these values.
async fn buffers(sql: &mut PgConnection, text: &str, values: &[&str]) -> i64 {
    let mut tx = sql.begin().await.unwrap();
    let prepare = format!(
        "set local plan_cache_mode = force_generic_plan; deallocate all; prepare plan_of as {text}"
    );
    sqlx::raw_sql(AssertSqlSafe(prepare))
        .execute(&mut *tx)
        .await
        .unwrap();
    let explain = format!(
        "explain (analyze, buffers, format json) execute plan_of({})",
        values.join(", ")
    );
    let mut measured = 0;
    // The first run also reads the catalog.
    for _ in 0..2 {
        let row = sqlx::raw_sql(AssertSqlSafe(explain.clone()))
            .fetch_one(&mut *tx)
            .await
            .unwrap();
        let plan: sqlx::types::Json<Value> = sqlx::Row::try_get(&row, 0).unwrap_or_else(|_| {
            let text: String = sqlx::Row::try_get_unchecked(&row, 0).unwrap();
            sqlx::types::Json(serde_json::from_str(&text).unwrap())
        });
        let top = &plan.0[0]["Plan"];
        measured = top["Shared Hit Blocks"].as_i64().unwrap()
            + top["Shared Read Blocks"].as_i64().unwrap();
    }
    tx.rollback().await.unwrap();
    measured
}

/// Starts an app with recorded statements, and a connection of ada with many events, accesses and siblings.
async fn app_with_history() -> (TestApp, Statements, String) {
    let database = test_database::database().await;
    let (url, statements) = with_statement_log(&database).await;
    let app = TestApp::build_on(database, None, &[("DATABASE_URL", &url)], |_| {}).await;
    let connected = app.user("ada").await.connected("gmail").await;
    let id = connected["id"].as_str().unwrap().to_owned();
    sqlx::raw_sql(
        "update user_connector_connection set version = 20000; \
         insert into connection_event (user_id, id, connection_id, version, kind, status, created_at) \
         select 'ada', gen_random_uuid(), id, n, 'updated', 'connected', now() \
         from user_connector_connection, generate_series(10, 20000) n; \
         insert into token_access (user_id, connection_id, service, purpose, used_at) \
         select 'ada', id, 'engine', 'token', now() from user_connector_connection, generate_series(1, 20000) n",
    )
    .execute(&mut app.sql().await)
    .await
    .unwrap();
    sqlx::raw_sql("vacuum analyze")
        .execute(&mut app.sql().await)
        .await
        .unwrap();
    (app, statements, id)
}

#[tokio::test]
async fn last_pages_cost_as_much_as_first_pages() {
    let (app, statements, id) = app_with_history().await;
    let ada = app.user("ada").await;
    let mut sql = app.sql().await;
    ada.get(&format!("/connections/{id}/history?limit=20"))
        .await;
    ada.get(&format!("/connections/{id}/accesses?limit=20"))
        .await;
    let uuid = format!("'{id}'");
    for part in ["from connection_event e", "from token_access"] {
        let text = statement(&statements, part);
        let page = async |sql: &mut PgConnection, before: &str| {
            buffers(sql, &text, &["'ada'", &uuid, before, "20"]).await
        };
        let first = page(&mut sql, "9223372036854775807").await;
        let last = page(&mut sql, "30").await;
        assert!(
            last <= first + 5 && first < 60,
            "{part}: {first}, then {last}"
        );
    }
}

/// Fills both queues with entries that are due.
async fn seed_queues(sql: &mut PgConnection, size: usize) {
    let seed = format!(
        "truncate webhook_queue, upstream_deletion; \
         insert into webhook_queue (user_id, connection_id, endpoint_id, next_attempt_at) \
         select 'user ' || n, gen_random_uuid(), 'whe_1', now() - interval '1 minute' from generate_series(1, {size}) n; \
         insert into upstream_deletion (nango_connection_id, integration_key, reason, next_attempt_at, created_at) \
         select 'nango ' || n, 'gmail', 'disconnected', now() - interval '1 minute', now() from generate_series(1, {size}) n; \
         vacuum analyze webhook_queue, upstream_deletion"
    );
    for statement in seed.split(';') {
        sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))
            .execute(&mut *sql)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn claims_cost_as_much_however_much_is_due() {
    let (app, statements, _) = app_with_history().await;
    let mut sql = app.sql().await;
    sqlx::raw_sql(
        "insert into webhook_endpoint (id, url, secret, created_at, off_since, off_reason) \
         values ('whe_1', 'http://127.0.0.1:9/', 'x', now(), now(), 'a test')",
    )
    .execute(&mut sql)
    .await
    .unwrap();
    let claims = [
        (
            "update webhook_queue q set leased_until",
            vec!["now()", "60", "8", "1", "64", "32"],
        ),
        (
            "update upstream_deletion set leased_until",
            vec!["now()", "60", "5"],
        ),
    ];
    eventually(async || {
        let all = statements.lock().unwrap();
        claims
            .iter()
            .all(|(part, _)| all.iter().any(|text| text.contains(part)))
    })
    .await;
    let texts: Vec<String> = claims
        .iter()
        .map(|(part, _)| statement(&statements, part))
        .collect();
    let mut app = app;
    app.stop().await.unwrap();
    sqlx::raw_sql("update webhook_endpoint set off_since = null, off_reason = null")
        .execute(&mut sql)
        .await
        .unwrap();
    let mut measured = Vec::new();
    for size in [1_000, 30_000] {
        seed_queues(&mut sql, size).await;
        let mut of_size = Vec::new();
        for (text, (_, values)) in texts.iter().zip(&claims) {
            of_size.push(buffers(&mut sql, text, values).await);
        }
        measured.push(of_size);
    }
    for (few, many) in measured[0].iter().zip(&measured[1]) {
        assert!(*many <= few * 2 && *many < 400, "{measured:?}");
    }
}

#[tokio::test]
async fn operators_queries_of_webhooks_read_no_whole_table() {
    let (app, _, id) = app_with_history().await;
    let mut sql = app.sql().await;
    let hooks = webhooks(&app).await;
    sqlx::raw_sql(
        "insert into webhook_endpoint (id, url, secret, created_at, off_since, off_reason) \
         select 'whe_' || n, 'http://127.0.0.1:9/', 'x', now(), now(), 'a test' from generate_series(1, 2) n; \
         update connection_event set webhook = '{\"type\": \"connection.connected\"}'; \
         insert into webhook_delivery (user_id, endpoint_id, connection_id, event_id, created_at, outcome, ended_at, last_error) \
         select user_id, 'whe_1', connection_id, id, now() - make_interval(secs => version), 'delivered', now(), 'an error' \
         from connection_event; \
         update webhook_delivery set outcome = 'given_up' where id in (select id from webhook_delivery limit 1)",
    )
    .execute(&mut sql)
    .await
    .unwrap();
    sqlx::raw_sql("vacuum analyze")
        .execute(&mut sql)
        .await
        .unwrap();
    sql.close().await.unwrap();
    let of = |endpoint: Option<&str>, failed, connection: bool| DeliveryFilter {
        endpoint: endpoint.map(str::to_owned),
        connection: connection.then(|| id.parse().unwrap()),
        failed,
        limit: 5,
    };
    let found = async |filter| hooks.deliveries(&filter).await.unwrap().len();
    let seen = async || -> i64 {
        // A session's statistics are flushed after it has been idle for a moment.
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        sqlx::query_scalar(
            "select sum(seq_tup_read)::bigint from pg_stat_user_tables \
             where relname in ('webhook_delivery', 'connection_event')",
        )
        .fetch_one(&mut app.sql().await)
        .await
        .unwrap()
    };
    let before = seen().await;
    assert_eq!(found(of(None, false, false)).await, 5);
    assert_eq!(found(of(None, true, false)).await, 1);
    assert_eq!(found(of(Some("whe_1"), true, false)).await, 1);
    assert_eq!(found(of(Some("whe_1"), false, false)).await, 5);
    assert_eq!(found(of(Some("whe_2"), false, false)).await, 0);
    assert_eq!(found(of(None, false, true)).await, 5);
    assert_eq!(
        hooks
            .replay(
                "whe_2",
                app.clock.now() + chrono::TimeDelta::days(99_999),
                None
            )
            .await
            .unwrap(),
        0
    );
    assert_eq!(seen().await, before);
}

#[tokio::test]
async fn first_access_costs_little_beside_a_long_history() {
    let (app, statements, _) = app_with_history().await;
    let connected = app.user("bob").await.connected("gmail").await;
    let scopes = [Scope::TokensRead].into();
    let key = app.keys().await.create("engine", &scopes).await.unwrap();
    let url = format!("{}/api/v1/connectors/gmail/token", app.url);
    let request = app.client.post(url).bearer_auth(key.expose_secret());
    let answer = request.header("patchbay-user", "bob").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let array = |name: &str, kind: &str| {
        format!("array['{}']::{kind}[]", connected[name].as_str().unwrap())
    };
    let (id, nango_id) = (array("id", "uuid"), array("nango_connection_id", "text"));
    let values = [
        "array['bob']",
        &id,
        "array['other']",
        "array['token']",
        "array[now()]",
        &nango_id,
    ];
    let text = statement(&statements, "insert into token_access");
    let measured = buffers(&mut app.sql().await, &text, &values).await;
    assert!(measured < 150, "{measured}");
}
