//! Rows that the program cannot read.

use reqwest::{Method, StatusCode};
use sqlx::AssertSqlSafe;

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
        // As rows may be that an older version or another program has written.
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
            .erase(&"ada".to_owned().try_into().unwrap())
            .await
            .unwrap();
        assert_eq!(erased.connections, 2, "{odd}");
        assert!(erased.confirmed, "{odd}");
    }
}
