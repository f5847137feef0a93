//! The commands `patchbay orphans` and `patchbay brake`.

use super::restore_backup_without;
use crate::reliability::text;
use crate::test_app::TestApp;

/// Runs the program with the app's variables. Returns its output; panics if it fails.
async fn patchbay(app: &TestApp, arguments: &[&str]) -> String {
    let (is_successful, printed, error) = run(app, arguments).await;
    assert!(is_successful, "{arguments:?}: {printed}{error}");
    printed
}

/// Runs the program with the app's variables. Returns whether it succeeds, its output, and its errors.
async fn run(app: &TestApp, arguments: &[&str]) -> (bool, String, String) {
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_patchbay"))
        .args(arguments)
        .env_clear()
        .envs(app.settings(&[]))
        .current_dir(std::env::temp_dir())
        .output()
        .await
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    (output.status.success(), printed, error)
}

#[tokio::test]
async fn operator_restores_orphans_by_command() {
    let app = TestApp::with_system_clock().await;
    let all = vec![{
        let user = app.user("ada").await;
        let connection = user.connected("gmail").await;
        (user, connection)
    }];
    assert_eq!(patchbay(&app, &["orphans", "list"]).await, "");
    restore_backup_without(&app, &all).await;
    let (user, connection) = &all[0];
    let nango_id = text(connection, "nango_connection_id");
    let listed = patchbay(&app, &["orphans", "list"]).await;
    for part in [
        nango_id,
        "user ada",
        "gmail",
        text(connection, "id"),
        "min old",
    ] {
        assert!(listed.contains(part), "{part} in {listed}");
    }
    patchbay(&app, &["orphans", "restore", nango_id]).await;
    let restored = user.connection(text(connection, "id")).await;
    assert_eq!(restored["status"], "connected");
    assert_eq!(patchbay(&app, &["orphans", "list"]).await, "");
}

#[tokio::test]
async fn operator_shows_and_releases_brakes_by_command() {
    let app = TestApp::with_system_clock().await;
    let brakes = patchbay(&app, &["brake"]).await;
    assert_eq!(brakes.matches("not engaged\n").count(), 5, "{brakes}");
    let counted = "insert into brake_user (kind, user_hash) values ('missing', '\\x00')";
    sqlx::query(counted)
        .execute(&mut app.sql().await)
        .await
        .unwrap();
    for brake in ["database", "missing", "dead", "deletions"] {
        let released = patchbay(&app, &["brake", "release", brake]).await;
        assert!(released.contains("nothing was changed"), "{released}");
    }
    assert_eq!(patchbay(&app, &["brake"]).await, brakes);
    let users: i64 = sqlx::query_scalar("select count(*) from brake_user")
        .fetch_one(&mut app.sql().await)
        .await
        .unwrap();
    assert_eq!(users, 1);
    sqlx::raw_sql(
        "update installation set public_url = 'https://old.example.com/'; \
         update brake set engaged_at = now() where kind = 'dead'",
    )
    .execute(&mut app.sql().await)
    .await
    .unwrap();
    let brakes = patchbay(&app, &["brake", "list"]).await;
    assert!(
        brakes.contains("database  engaged: PUBLIC_URL was https://old.example.com/"),
        "{brakes}"
    );
    assert!(brakes.contains("dead  engaged since"), "{brakes}");
    patchbay(&app, &["brake", "release", "database"]).await;
    patchbay(&app, &["brake", "release", "dead"]).await;
    let brakes = patchbay(&app, &["brake"]).await;
    assert_eq!(brakes.matches("not engaged").count(), 5, "{brakes}");
    assert!(
        brakes.contains("dead  not engaged, unlimited until"),
        "{brakes}"
    );
}

#[tokio::test]
async fn own_database_cannot_be_declared_a_copy() {
    let app = TestApp::with_system_clock().await;
    let installation = async || -> String {
        sqlx::query_scalar("select row_to_json(i)::text from installation i")
            .fetch_one(&mut app.sql().await)
            .await
            .unwrap()
    };
    let before = installation().await;
    let copy = ["brake", "release", "database", "--copy"];
    let (is_successful, _, error) = run(&app, &copy).await;
    assert!(!is_successful && error.contains("PUBLIC_URL"), "{error}");
    assert_eq!(installation().await, before);
}
