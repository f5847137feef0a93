//! Valid names of service keys.

use patchbay::auth::service_keys::EnvironmentKey;

use super::KEY;
use crate::process::Process;
use crate::test_app::TestApp;

/// The same rule applies to keys from the environment and from `keys create`.
#[tokio::test]
async fn names_of_keys_are_plain_wherever_they_are_given() {
    let app = TestApp::with_system_clock().await;
    let settings = app.settings(&[]);
    let settings: Vec<(&str, &str)> = settings
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let longer = "x".repeat(65);
    for name in [
        "",
        "two words",
        "esc\u{1b}[2Jape",
        "line\nbreak",
        "turned\u{202e}round",
        "Zürich",
        "pbk_0123456789abcdef0123456789abcdef",
        "a=b",
        "a,b",
        "a;b",
        "\"quoted\"",
        &longer,
    ] {
        let arguments = ["keys", "create", name, "--scope", "tokens:read"];
        let mut process = Process::start(&arguments, &settings);
        assert_eq!(process.ended().await.code(), Some(1), "{name:?}");
        let text = process.output();
        assert!(text.contains("a key's name has 1 to 64"), "{text}");
        assert!(!text.contains("pbk_0123"), "{text}");
        let given = format!("{name}={KEY}");
        let parsed: Result<EnvironmentKey, _> = given.parse();
        assert!(parsed.is_err(), "{name:?}");
    }
    for name in ["engine", "eu-1/workflows_2", "ops@example.com", "a:b+c.d"] {
        let arguments = ["keys", "create", name, "--scope", "tokens:read"];
        let mut process = Process::start(&arguments, &settings);
        assert!(process.ended().await.success(), "{}", process.output());
        let given: EnvironmentKey = format!("{name}={KEY}").parse().unwrap();
        assert_eq!(given.name(), name);
    }
    // A key of an earlier version.
    let odd = "insert into service_key (id, prefix, name, scopes, digest) \
               values (gen_random_uuid(), 'aaaaaaaa', E'old\\x1b[2J\\nname', '{}', sha256('x'))";
    sqlx::raw_sql(odd)
        .execute(&mut app.sql().await)
        .await
        .unwrap();
    let mut listed = Process::start(&["keys", "list"], &settings);
    assert!(listed.ended().await.success(), "{}", listed.output());
    let text = listed.output();
    assert_eq!(text.lines().count(), 5, "{text}");
    assert!(
        !text.contains('\u{1b}') && text.contains("aaaaaaaa"),
        "{text}"
    );
}
