//! Databases of the original system that cannot be imported as they are.

use super::*;

#[tokio::test]
async fn import_rejects_unsupported_tables_and_changes_nothing() {
    let cases = [
        (
            "alter table user_connector_connection alter column config type text using config::text",
            "user_connector_connection.config is text, and not json or jsonb",
        ),
        (
            "alter table user_connector_connection rename column last_error to error",
            "user_connector_connection has no column last_error",
        ),
        (
            "create table sync (connection_id uuid references user_connector_connection (id))",
            "sync refers to user_connector_connection by the foreign key sync_connection_id_fkey: drop it first (connections keep their ids, connectors get others)",
        ),
        (
            "create schema before_patchbay",
            "there is a schema before_patchbay, to which the tables would be moved: rename it",
        ),
    ];
    for (change, reported) in cases {
        let (database, mut sql) =
            legacy_database(include_str!("../../data/legacy_schema/rows.sql")).await;
        run(&mut sql, change).await;
        let before = dump(&mut sql).await;
        match import(database.url()).await {
            Err(DatabaseError::LegacyTables(problems)) => assert_eq!(problems, [reported]),
            other => panic!("{change}: {other:?}"),
        }
        assert_eq!(dump(&mut sql).await, before, "{change}");
    }
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn invalid_rows_are_named_and_can_be_left_out() {
    let cases = [
        (
            "update connector set slug = 'fax' where slug = 'gmail'",
            4,
            "connector_id \"fax\" is a connector that",
        ),
        (
            "update connector set slug = 'Google_Mail' where slug = 'gmail'",
            4,
            "connector_id \"Google_Mail\" is not a slug",
        ),
        (
            "alter table user_connector_connection drop constraint user_connector_connection_connector_id_fkey; \
             delete from connector where slug = 'notion'",
            1,
            "names no row of the table connector",
        ),
        (
            "update user_connector_connection set status = 'revoked' where status = 'error'",
            2,
            "status \"revoked\" has to be",
        ),
        (
            "update user_connector_connection set config = '[1]' where status = 'pending'",
            2,
            "config \"[1]\" has to be a JSON object",
        ),
        (
            "update user_connector_connection set config = '{\"a\": \"\\u0000\"}' where status = 'pending'",
            2,
            "cannot be read: unsupported Unicode escape sequence",
        ),
        (
            "update user_connector_connection set config = '{\"a\": 1e400}' where status = 'pending'",
            2,
            "a number that is too large",
        ),
        // Characters above U+FFFF count twice, as in a request.
        (
            "update user_connector_connection set config = jsonb_build_object('instance_id', repeat(U&'\\+01F600', 128)) \
             where status = 'pending'",
            2,
            "has an instance_id of more than 255 characters",
        ),
        (
            "update user_connector_connection set updated_at = 'infinity' where status = 'pending'",
            2,
            "updated_at \"infinity\" has to be between",
        ),
        (
            "alter table user_connector_connection drop constraint user_connector_connection_nango_connection_id_key; \
             update user_connector_connection set nango_connection_id = 'shared' where status in ('connected', 'disconnected')",
            1,
            "nango_connection_id \"shared\" is also that of another row",
        ),
        (
            "update user_connector_connection set nango_connection_id = nango_connection_id || repeat('x', 255) where status = 'pending'",
            2,
            "has more than 255 characters",
        ),
        (
            "update user_connector_connection set created_at = '20000-01-01' where status = 'pending'",
            2,
            "created_at \"20000-01-01",
        ),
    ];
    for (change, rows, reported) in cases {
        let (database, mut sql) =
            legacy_database(include_str!("../../data/legacy_schema/rows.sql")).await;
        run(&mut sql, change).await;
        let before = dump(&mut sql).await;
        let Err(DatabaseError::LegacyTables(problems)) = import(database.url()).await else {
            panic!("{change}: it was imported");
        };
        assert_eq!(dump(&mut sql).await, before, "{change}");
        let (remedy, problems) = problems.split_last().unwrap();
        assert!(remedy.contains("--skip-invalid-rows"), "{remedy}");
        assert_eq!(problems.len(), rows, "{change}: {problems:#?}");
        for problem in problems {
            assert!(problem.starts_with("row 10000000-"), "{problem}");
            assert!(problem.contains(reported), "{problem}");
        }
        let settings = [("DATABASE_URL", database.url())];
        let mut process = Process::start(&["migrate", "--skip-invalid-rows"], &settings);
        assert!(process.ended().await.success(), "{}", process.output());
        let text = process.output();
        assert!(
            text.contains(&format!("imported {} connections", 7 - rows)),
            "{text}"
        );
        assert_eq!(
            text.matches("skipped, and kept in before_patchbay: row")
                .count(),
            rows,
            "{text}"
        );
        let kept: i64 =
            sqlx::query_scalar("select count(*) from before_patchbay.user_connector_connection")
                .fetch_one(&mut sql)
                .await
                .unwrap();
        assert_eq!(kept, 7, "{change}");
    }
}

#[tokio::test]
async fn import_queues_no_deletion_of_what_another_row_uses() {
    let (database, mut sql) =
        legacy_database(include_str!("../../data/legacy_schema/rows.sql")).await;
    run(
        &mut sql,
        "alter table user_connector_connection drop constraint user_connector_connection_nango_connection_id_key; \
         update user_connector_connection set nango_connection_id = 'an-id-of-nangos-own' where status = 'disconnected'",
    )
    .await;
    import(database.url()).await.unwrap();
    let deletions: i64 = sqlx::query_scalar("select count(*) from upstream_deletion")
        .fetch_one(&mut sql)
        .await
        .unwrap();
    assert_eq!(deletions, 0);
}

#[tokio::test]
async fn import_aborts_when_legacy_tables_are_locked() {
    let (database, mut sql) =
        legacy_database(include_str!("../../data/legacy_schema/rows.sql")).await;
    let mut legacy_session = PgConnection::connect(database.url()).await.unwrap();
    run(
        &mut legacy_session,
        "begin; update user_connector_connection set error_count = 1",
    )
    .await;
    let Err(DatabaseError::LegacyTables(problems)) = import(database.url()).await else {
        panic!("the import ran while another session held the tables");
    };
    assert_eq!(
        problems,
        ["another program uses the tables: stop it and try again"]
    );
    run(&mut legacy_session, "rollback").await;
    // Commands without a catalog leave the import to those with one.
    let patchbay = test_database::pool(database.url(), 2).await.unwrap();
    let refused = patchbay.migrate().await.unwrap_err();
    assert!(refused.to_string().contains("Run `patchbay migrate`"));
    assert_eq!(dump(&mut sql).await.len(), dump(&mut sql).await.len());
    let adopted = import(database.url()).await.unwrap().unwrap();
    assert_eq!(adopted.connections, 7);
    assert_eq!(import(database.url()).await.unwrap(), None);
}

#[tokio::test]
async fn migrate_prints_no_statement_of_a_slow_import() {
    let (database, _) = legacy_database(include_str!("../../data/legacy_schema/rows.sql")).await;
    let mut legacy_session = PgConnection::connect(database.url()).await.unwrap();
    run(&mut legacy_session, "begin; lock table connector").await;
    let settings = [("DATABASE_URL", database.url())];
    let mut process = Process::start(&["migrate"], &settings);
    eventually_locked(&mut legacy_session).await;
    run(&mut legacy_session, "select pg_sleep(1.5); rollback").await;
    assert!(process.ended().await.success(), "{}", process.output());
    assert_eq!(process.output().lines().count(), 2, "{}", process.output());
}
