//! Users whose reads are batched into one statement.

use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::test_app::{TestApp, User};

#[tokio::test]
async fn unreadable_row_is_left_out_of_its_users_list() {
    let app = TestApp::new().await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    ada.connect("gmail").await;
    bob.connect("gmail").await;
    app.faults(json!({ "only": "tags", "status": 500 })).await;
    sqlx::raw_sql(
        "alter domain status_reason_text drop constraint status_reason_known; \
         update user_connector_connection set status = 'error', status_reason = 'of another version' \
         where user_id = 'ada'",
    )
    .execute(&mut app.sql().await)
    .await
    .unwrap();
    // Concurrently, so that they are batched.
    let list = async |user: &User<'_>| {
        let (status, list) = user.call(Method::GET, "/connections", None).await;
        (
            status.as_u16(),
            list["connections"].as_array().map(Vec::len),
        )
    };
    let all = join_all((0..40).map(async |_| tokio::join!(list(&ada), list(&bob)))).await;
    let expected = ((200, Some(0)), (200, Some(1)));
    assert!(all.iter().all(|both| *both == expected), "{all:?}");
}

#[tokio::test]
async fn unstorable_text_fails_only_its_sender() {
    let app = TestApp::new().await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    let both = join_all((0..20).map(async |n| {
        let sent = join_all((0..4).map(|_| ada.disconnect("gmail", "?instance_id=%00")));
        let path = format!("/gmail/connect?instance_id={n}");
        tokio::join!(sent, bob.call(Method::POST, &path, None))
    }))
    .await;
    for (sent, (status, connected)) in both {
        assert_eq!(status, StatusCode::OK, "{connected}");
        for (status, refused) in sent {
            assert_eq!(status, StatusCode::BAD_REQUEST);
            let reported = "`instance_id` must not have control characters. Remove them.";
            assert_eq!(refused["detail"], reported);
        }
    }
}

#[tokio::test]
async fn failed_batched_query_does_not_fail_other_users() {
    let app = TestApp::new().await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    ada.connect("gmail").await;
    bob.connect("gmail").await;
    app.faults(json!({ "only": "tags", "status": 500 })).await;
    // Any statement that reads ada's rows fails.
    sqlx::raw_sql(
        "alter table user_connector_connection rename to kept; \
         create view user_connector_connection as \
         select * from kept where 1 / case user_id when 'ada' then 0 else 1 end = 1",
    )
    .execute(&mut app.sql().await)
    .await
    .unwrap();
    let list = async |user: &User<'_>| user.call(Method::GET, "/connections", None).await;
    let all = join_all((0..40).map(async |_| tokio::join!(list(&ada), list(&bob)))).await;
    for (adas, (status, bobs)) in all {
        assert_ne!(adas.0, StatusCode::OK);
        assert_eq!(status, StatusCode::OK, "{bobs}");
        assert_eq!(bobs["total_count"], 1);
    }
}
