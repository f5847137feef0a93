//! The access log: an access is stored before the token is returned.

use std::time::Duration;

use chrono::TimeDelta;
use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::Value;

use super::{KEY, app, call, text, token};
use crate::eventually::eventually_locked;
use crate::test_app::{PROMPT_TIMEOUT, TestApp};

/// Returns the number of stored token accesses.
pub(super) async fn written(app: &TestApp) -> i64 {
    sqlx::query_scalar("select coalesce(sum(count), 0) from token_access")
        .fetch_one(&mut app.sql().await)
        .await
        .unwrap()
}

#[tokio::test]
async fn token_use_is_written_before_the_answer() {
    let app = app().await;
    let gmail = app.user("ada").await.connected("gmail").await;
    for round in 1..=3 {
        let answers = join_all((0..20).map(|_| token(&app, "ada", &gmail))).await;
        assert!(answers.iter().all(|(status, _)| *status == StatusCode::OK));
        assert_eq!(written(&app).await, round * 20);
        app.advance(TimeDelta::milliseconds(700));
    }
    // Accesses within a second share one row.
    let rows: Vec<i32> = sqlx::query_scalar("select count from token_access order by id")
        .fetch_all(&mut app.sql().await)
        .await
        .unwrap();
    assert_eq!(rows, [40, 20]);
}

#[tokio::test]
async fn token_is_not_issued_when_its_use_cannot_be_written() {
    let app = app().await;
    let gmail = app.user("ada").await.connected("gmail").await;
    assert_eq!(token(&app, "ada", &gmail).await.0, StatusCode::OK);
    let mut sql = app.sql().await;
    let rename = "alter table token_access rename to hidden";
    sqlx::raw_sql(rename).execute(&mut sql).await.unwrap();
    let (status, refused) = token(&app, "ada", &gmail).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused["access_token"], Value::Null);
    let path = format!("/connectors/connections/{}/proxy/echo", text(&gmail, "id"));
    let (status, _) = call(&app.url, KEY, "ada", Method::GET, &path, None).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(app.nango_calls("GET", "/proxy/").await, 0);
}

#[tokio::test]
async fn token_use_waits_for_no_change_of_the_connection() {
    let app = app().await;
    let gmail = app.user("ada").await.connected("gmail").await;
    let mut sql = app.sql().await;
    // The lock of a change, which a hanging replica may hold for long.
    let lock = "begin; select from user_connector_connection for no key update";
    sqlx::raw_sql(lock).execute(&mut sql).await.unwrap();
    let answered = tokio::time::timeout(PROMPT_TIMEOUT, token(&app, "ada", &gmail));
    assert_eq!(answered.await.unwrap().0, StatusCode::OK);
    sqlx::raw_sql("rollback").execute(&mut sql).await.unwrap();
    assert_eq!(written(&app).await, 1);
}

/// Erases the connections of the user `ada`.
async fn erase(app: &TestApp) -> (StatusCode, Value) {
    let path = "/users/ada/connections";
    call(&app.url, KEY, "", Method::DELETE, path, None).await
}

#[tokio::test]
async fn token_use_waits_for_no_erasure_of_another_user() {
    let app = app().await;
    let (ada, bob) = (app.user("ada").await, app.user("bob").await);
    let (erased, other) = (ada.connected("gmail").await, bob.connected("gmail").await);
    let mut sql = app.sql().await;
    // The erasure of a long history holds its locks for long.
    let hold = "begin; lock table connection_event in exclusive mode";
    sqlx::raw_sql(hold).execute(&mut sql).await.unwrap();
    let requests = async {
        eventually_locked(&mut sql).await;
        let refused = token(&app, "ada", &erased);
        let issued = join_all((0..5).map(|_| token(&app, "bob", &other)));
        let ((_, refused), issued) = tokio::join!(refused, issued);
        sqlx::raw_sql("rollback").execute(&mut sql).await.unwrap();
        // Not the error of a lock that was not granted.
        assert_eq!(text(&refused, "code"), "provider_unavailable");
        assert!(issued.iter().all(|(status, _)| *status == StatusCode::OK));
    };
    tokio::join!(erase(&app), requests);
    assert_eq!(erase(&app).await.0, StatusCode::OK);
    assert_eq!(token(&app, "ada", &erased).await.0, StatusCode::NOT_FOUND);
    assert_eq!(written(&app).await, 5);
}

#[tokio::test]
async fn token_of_user_who_is_erased_meanwhile_is_not_found() {
    let app = app().await;
    let gmail = app.user("ada").await.connected("gmail").await;
    let mut sql = app.sql().await;
    for statement in ["begin", "delete from user_connector_connection"] {
        sqlx::raw_sql(statement).execute(&mut sql).await.unwrap();
    }
    let commit = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        sqlx::raw_sql("commit").execute(&mut sql).await.unwrap();
    };
    let ((_, refused), ()) = tokio::join!(token(&app, "ada", &gmail), commit);
    let code = text(&refused, "code");
    assert!(
        ["provider_unavailable", "connection_not_found"].contains(&code),
        "{refused}"
    );
}

#[tokio::test]
async fn erase_deletes_many_accesses_in_several_statements() {
    let app = app().await;
    app.user("ada").await.connected("gmail").await;
    let mut sql = app.sql().await;
    sqlx::raw_sql(
        "insert into token_access (user_id, connection_id, service, purpose, used_at) \
         select user_id, id, 'workflow', 'token', now() from user_connector_connection, generate_series(1, 25000); \
         create function refuse_many() returns trigger language plpgsql as \
         $$ begin if (select count(*) from gone) > 10000 then raise 'too many'; end if; return null; end $$; \
         create trigger bounded after delete on token_access referencing old table as gone \
         for each statement execute function refuse_many()",
    )
    .execute(&mut sql)
    .await
    .unwrap();
    let (status, erased) = erase(&app).await;
    assert_eq!(
        (status, &erased["connections"]),
        (StatusCode::OK, &1.into())
    );
    assert_eq!(written(&app).await, 0);
}
