//! The users of the original system: which ids are imported, and what the old ids at Nango reveal.

use patchbay::db::DatabaseError;
use reqwest::{Method, StatusCode};

use super::{ADA, BEN, dump, id, import, imported_app, legacy_database, run};

/// Changes the type of user ids to text.
const TEXTS: &str = "alter table user_connector_connection drop constraint user_connector_connection_user_id_fkey; \
    alter table user_connector_connection alter column user_id type text; ";

#[tokio::test]
async fn refused_user_ids_are_not_taken_over() {
    let refused = |count: usize, why: &str| (count, format!("is refused: a user id {why}"));
    let cases = [
        (
            "update user_connector_connection set user_id = '.' where status = 'disconnected'; \
             update user_connector_connection set user_id = '..' where status = 'pending'",
            refused(3, "must not be . or .., which URLs resolve"),
        ),
        (
            "update user_connector_connection set user_id = user_id || U&'\\00a0' where status = 'pending'; \
             update user_connector_connection set user_id = ' ' || user_id where status = 'connected'",
            refused(4, "must not start or end with whitespace"),
        ),
        (
            "update user_connector_connection set user_id = E'a\\tb' where status = 'connected'",
            refused(2, "must not contain control characters"),
        ),
        (
            "update user_connector_connection set user_id = repeat('x', 256) where status = 'pending'; \
             update user_connector_connection set user_id = '' where status = 'connected'",
            refused(4, "must have 1 to 255 characters"),
        ),
        (
            "alter table user_connector_connection alter column user_id drop not null; \
             update user_connector_connection set user_id = null where status = 'connected'",
            (2, "user_id is null, and has to name a user".to_owned()),
        ),
    ];
    for (change, (rows, reported)) in cases {
        let (database, mut sql) =
            legacy_database(include_str!("../../data/legacy_schema/rows.sql")).await;
        run(&mut sql, &format!("{TEXTS}{change}")).await;
        let before = dump(&mut sql).await;
        match import(database.url()).await {
            Err(DatabaseError::LegacyTables(problems)) => {
                let named = problems.iter().filter(|it| it.contains(&reported)).count();
                assert_eq!((named, problems.len()), (rows, rows + 1), "{problems:#?}");
            }
            other => panic!("{change}: {other:?}"),
        }
        assert_eq!(dump(&mut sql).await, before, "{change}");
    }
}

#[tokio::test]
async fn odd_user_ids_are_taken_over_as_they_are() {
    let (database, mut sql) =
        legacy_database(include_str!("../../data/legacy_schema/rows.sql")).await;
    let change = "update user_connector_connection set user_id = 'adèle|1 \"x\"' where status = 'connected'; \
                  update user_connector_connection set user_id = 'é' where status = 'pending'; \
                  update user_connector_connection set user_id = 'x' where status = 'error'";
    run(&mut sql, &format!("{TEXTS}{change}")).await;
    import(database.url()).await.unwrap();
    let users = "select user_id from user_connector_connection where user_id <> $1 \
                 group by user_id order by user_id collate \"C\"";
    let users: Vec<String> = sqlx::query_scalar(users)
        .bind(BEN)
        .fetch_all(&mut sql)
        .await
        .unwrap();
    assert_eq!(users, ["adèle|1 \"x\"", "x", "é"]);
}

/// The old ids at Nango contain the user and the connector, so a public page must not accept them.
#[tokio::test]
async fn callback_page_does_not_know_the_old_ids() {
    let app = imported_app().await;
    let url = format!("{}/api/v1/connectors/callback", app.url);
    let page = async |id: &str| {
        let request = app.client.get(format!("{url}?connection_id={id}"));
        let answer = request.header("accept", "text/html").send().await.unwrap();
        answer.status()
    };
    for old in [
        format!("{ADA}_gmail_default"),
        format!("{BEN}_notion_default"),
    ] {
        assert_eq!(page(&old).await, StatusCode::NOT_FOUND, "{old}");
    }
    // With the user's token it is found.
    let ada = app.user(ADA).await;
    let path = format!("/callback?connection_id={ADA}_gmail_default");
    assert_eq!(ada.get(&path).await["connection_id"], id(1));
    // The page accepts the connection's own id while an attempt may be granted.
    assert_eq!(page(&id(1)).await, StatusCode::NOT_FOUND);
    let reconnect = format!("/connections/{}/reconnect", id(1));
    ada.call(Method::POST, &reconnect, None).await;
    assert_eq!(page(&id(1)).await, StatusCode::OK);
}
