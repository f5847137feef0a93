//! Rows that the program cannot read.

use chrono::TimeDelta;
use patchbay::cli::doctor::Level;
use reqwest::{Method, StatusCode};
use serde_json::json;
use sqlx::AssertSqlSafe;

use crate::doctor::{run_doctor, single_finding};
use crate::eventually::eventually;
use crate::outgoing_webhooks::webhooks;
use crate::test_app::TestApp;

#[tokio::test]
async fn unreadable_row_is_skipped_counted_and_erasable() {
    for odd in [
        "failing_since = 'infinity'",
        "updated_at = '290000-01-01'",
        "config = '{\"a\": 1e400}'",
        "config = (repeat('{\"a\":', 200) || '1' || repeat('}', 200))::jsonb",
    ] {
        let app = TestApp::with(&[("METRICS_TOKEN", "a token of the tests for metrics")]).await;
        let (ada, ben) = (app.user("ada").await, app.user("ben").await);
        let readable = ada.connected("github").await;
        let unreadable = ada.connected("gmail").await;
        let others = ben.connected("gmail").await;
        let update = format!(
            "update user_connector_connection set {odd} where id = '{}'",
            unreadable["id"].as_str().unwrap()
        );
        // An older version or another program may have written such rows.
        let update = format!("alter domain utc_time drop constraint utc_time_range; {update}");
        sqlx::raw_sql(AssertSqlSafe(update))
            .execute(&mut app.sql().await)
            .await
            .unwrap();

        let list = ada.get("/connections").await;
        let ids: Vec<_> = list["connections"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| &it["id"])
            .collect();
        assert_eq!(ids, [&readable["id"]], "{odd}");
        let check = format!("/connections/{}/check", others["id"].as_str().unwrap());
        let (status, body) = ben.call(Method::POST, &check, None).await;
        assert_eq!(status, StatusCode::OK, "{odd}: {body}");
        app.sweep().await;
        let request = app.client.get(format!("{}/metrics", app.url));
        let metrics = request
            .bearer_auth("a token of the tests for metrics")
            .send()
            .await
            .unwrap();
        let metrics = metrics.text().await.unwrap();
        let skipped = metrics
            .lines()
            .find_map(|line| line.strip_prefix("patchbay_database_unreadable_rows_total "));
        assert!(
            skipped.is_some_and(|count| count.trim() != "0"),
            "{odd}: {metrics}"
        );
        let service = app.service().await;
        let erased = service
            .erasure
            .erase(&"ada".to_owned().try_into().unwrap())
            .await
            .unwrap();
        assert_eq!(erased.connections, 2, "{odd}");
        assert!(erased.upstream_deleted, "{odd}");
    }
}

#[tokio::test]
async fn unreadable_attempt_does_not_block_expiry() {
    let app = TestApp::new().await;
    let (ada, ben) = (app.user("ada").await, app.user("ben").await);
    let odd = ada.connect("gmail").await;
    let readable = ben.connect("gmail").await;
    sqlx::raw_sql(
        "alter domain status_reason_text drop constraint status_reason_known; \
         update connect_attempt set error_code = 'of_another_version' where user_id = 'ada'; \
         update user_connector_connection set attempt_error_code = 'of_another_version' where user_id = 'ada'",
    )
    .execute(&mut app.sql().await)
    .await
    .unwrap();
    // Its owner's other requests work, and no response reports an unavailable database.
    let path = format!("/connections/{}", odd["connection_id"].as_str().unwrap());
    let (status, body) = ada.call(Method::GET, &path, None).await;
    assert_eq!((status.as_u16(), &body["code"]), (500, &json!("internal")));
    let (status, list) = ada.call(Method::GET, "/connections", None).await;
    assert_eq!((status.as_u16(), &list["connections"]), (200, &json!([])));

    app.advance(TimeDelta::minutes(31));
    let service = app.service().await;
    eventually(async || {
        service.expiry.run().await.unwrap();
        let id = readable["connection_id"].as_str().unwrap();
        ben.connection(id).await["attempt"]["outcome"] == "expired"
    })
    .await;
    // It is scheduled for a retry.
    let is_postponed: bool =
        sqlx::query_scalar("select due_at > $1 from attempt_owner where user_id = 'ada'")
            .bind(app.clock.now())
            .fetch_one(&mut app.sql().await)
            .await
            .unwrap();
    assert!(is_postponed);
}

#[tokio::test]
async fn queue_statistics_skip_unreadable_rows() {
    let app = TestApp::with(&[("METRICS_TOKEN", "a token of the tests for metrics")]).await;
    app.user("ada").await.connect("gmail").await;
    app.user("ben").await.connect("gmail").await;
    for odd in ["infinity", "-infinity", "290000-01-01"] {
        let update = format!(
            "alter domain utc_time drop constraint if exists utc_time_range; \
             update connect_attempt set created_at = '{odd}' where user_id = 'ada'; \
             update job set finished_at = '{odd}' where name = 'sweep'; \
             delete from upstream_deletion; \
             insert into upstream_deletion (nango_connection_id, integration_key, reason, next_attempt_at, created_at) \
             select n, 'gmail', 'disconnected', '9999-01-01', at::timestamptz \
             from (values ('odd', '{odd}'), ('readable', '2026-01-01')) v (n, at)"
        );
        sqlx::raw_sql(AssertSqlSafe(update))
            .execute(&mut app.sql().await)
            .await
            .unwrap();
        let request = app.client.get(format!("{}/metrics", app.url));
        let request = request.bearer_auth("a token of the tests for metrics");
        let metrics = request.send().await.unwrap().text().await.unwrap();
        for line in [
            "patchbay_database_up 1",
            "patchbay_queue_waiting{queue=\"open_attempts\"} 1",
            "patchbay_queue_waiting{queue=\"upstream_deletions\"} 1",
        ] {
            assert!(metrics.contains(line), "{odd}: {line} in {metrics}");
        }
        let skipped = metrics
            .lines()
            .find_map(|line| line.strip_prefix("patchbay_database_unreadable_rows_total "));
        assert!(
            skipped.is_some_and(|count| count.trim() != "0"),
            "{odd}: {metrics}"
        );
    }
}

#[tokio::test]
async fn unreadable_endpoint_does_not_block_webhooks() {
    for odd in [
        "url = 'https://['",
        "old_secret = 'whsec_1', old_secret_until = 'infinity'",
    ] {
        let app = TestApp::with(&[("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8")]).await;
        let hooks = webhooks(&app).await;
        let closed = "http://127.0.0.1:9/".parse().unwrap();
        for _ in 0..2 {
            hooks.add(&closed, &[], false).await.unwrap();
        }
        let update = format!(
            "alter domain utc_time drop constraint utc_time_range; \
             alter table webhook_endpoint drop constraint webhook_endpoint_url_check; \
             update webhook_endpoint set {odd} where id = (select min(id) from webhook_endpoint)"
        );
        sqlx::raw_sql(AssertSqlSafe(update))
            .execute(&mut app.sql().await)
            .await
            .unwrap();
        app.user("ada").await.connected("gmail").await;
        let mut sql = app.sql().await;
        let tried = "select count(distinct endpoint_id) from webhook_delivery where attempts > 0";
        eventually(async || {
            let tried: i64 = sqlx::query_scalar(tried).fetch_one(&mut sql).await.unwrap();
            tried == 1
        })
        .await;
        // The messages of the unreadable endpoint are kept.
        let waiting = "select count(*) from webhook_queue where endpoint_id = (select min(id) from webhook_endpoint)";
        let waiting: i64 = sqlx::query_scalar(waiting)
            .fetch_one(&mut sql)
            .await
            .unwrap();
        assert_eq!(waiting, 1, "{odd}");
    }
}

#[tokio::test]
async fn doctor_names_unreadable_rows() {
    let app = TestApp::with_system_clock().await;
    let ada = app.user("ada").await;
    let connection = ada.connected("gmail").await;
    let id = connection["id"].as_str().unwrap();
    sqlx::raw_sql("update user_connector_connection set config = '{\"a\": 1e400}'")
        .execute(&mut app.sql().await)
        .await
        .unwrap();
    let report = run_doctor(&app, &[], None).await;
    single_finding(&report, "rows", Level::Fail, id, "correct or delete");
}
