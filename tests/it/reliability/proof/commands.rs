//! The commands `patchbay orphans` and `patchbay brake`.

use super::restore_backup_without;
use crate::reliability::text;
use crate::test_app::TestApp;

/// Runs the program with the app's variables. Returns its output; panics if it fails.
async fn patchbay(app: &TestApp, arguments: &[&str]) -> String {
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
    assert!(output.status.success(), "{arguments:?}: {printed}{error}");
    printed
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
    assert_eq!(brakes.matches("not engaged").count(), 5, "{brakes}");
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
}
