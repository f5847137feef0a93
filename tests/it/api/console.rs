//! The console: its page, its files and its configuration.

use serde_json::json;

use super::TestResponse;
use crate::test_app::{ORIGIN, TestApp};

async fn get(app: &TestApp, path: &str) -> TestResponse {
    TestResponse::to(app.client.get(format!("{}{path}", app.url))).await
}

/// Returns the addresses of the files that the console's page references.
fn files(page: &str) -> Vec<String> {
    let named = |attribute: &'static str| page.split(attribute).skip(1);
    let files = named("src=\"").chain(named("href=\""));
    let files: Vec<String> = files
        .map(|rest| rest.split('"').next().unwrap().to_owned())
        .collect();
    assert!(files.len() >= 3, "a script, a style and an icon: {page}");
    files
}

#[tokio::test]
async fn console_is_not_served_by_default() {
    let app = TestApp::new().await;
    assert_eq!(get(&app, "/").await.header("location"), Some("/docs"));
    for path in ["/console", "/console/", "/console/config.json"] {
        get(&app, path).await.is_problem(404, "not_found");
    }
}

#[tokio::test]
async fn console_is_served_below_its_path_only() {
    let app = TestApp::with(&[("CONSOLE", "true")]).await;
    for path in ["/", "/console"] {
        let answer = get(&app, path).await;
        assert_eq!(answer.header("location"), Some("/console/"), "{path}");
    }
    let page = get(&app, "/console/").await;
    assert_eq!(page.status, 200);
    assert_eq!(page.header("cache-control"), Some("no-cache"));
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
    let deeper = get(&app, "/console/connections/some-id").await;
    assert_eq!((deeper.status, &deeper.text), (page.status, &page.text));
    get(&app, "/connections").await.is_problem(404, "not_found");
    assert_ne!(get(&app, "/docs").await.status, 404);
}

#[tokio::test]
async fn console_csp_blocks_inline_code_and_other_hosts() {
    let app = TestApp::with(&[("CONSOLE", "true")]).await;
    let page = get(&app, "/console/").await;
    let policy = page.header("content-security-policy").unwrap();
    let rules: Vec<&str> = policy.split(';').map(str::trim).collect();
    for rule in [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "frame-ancestors 'none'",
    ] {
        assert!(rules.contains(&rule), "{rule} in {policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    for inline in ["<style", "style=\"", "<script>", "onload="] {
        assert!(!page.text.contains(inline), "{inline} in {}", page.text);
    }
}

#[tokio::test]
async fn console_assets_are_immutable_and_page_is_revalidated() {
    let app = TestApp::with(&[("CONSOLE", "true")]).await;
    let page = get(&app, "/console/").await;
    for path in files(&page.text) {
        let answer = get(&app, &path).await;
        assert_eq!(answer.status, 200, "{path}");
        let kept = answer.header("cache-control").unwrap();
        assert!(kept.contains("immutable"), "{path}: {kept}");
        let kind = answer.header("content-type").unwrap();
        let expected = match path.rsplit_once('.').unwrap().1 {
            "js" => "text/javascript",
            "css" => "text/css",
            "svg" => "image/svg+xml",
            other => panic!("{other}"),
        };
        assert_eq!(kind, expected, "{path}");
        not_modified(&app, &path, answer.header("etag").unwrap()).await;
    }
    not_modified(&app, "/console/", page.header("etag").unwrap()).await;
    for path in ["/console/assets/nope.js", "/console/assets/..%2Findex.html"] {
        get(&app, path).await.is_problem(404, "not_found");
    }
}

/// Checks that a client with a cached file gets 304 Not Modified.
async fn not_modified(app: &TestApp, path: &str, tag: &str) {
    let request = app.client.get(format!("{}{path}", app.url));
    let answer =
        TestResponse::to(request.header("if-none-match", format!("\"other\", {tag}"))).await;
    assert_eq!((answer.status.as_u16(), &*answer.text), (304, ""), "{path}");
    assert_eq!(answer.header("etag"), Some(tag), "{path}");
}

#[tokio::test]
async fn console_config_lists_allowed_origins() {
    let app = TestApp::with(&[("CONSOLE", "true")]).await;
    let reported = get(&app, "/console/config.json").await;
    assert_eq!(reported.status, 200);
    assert_eq!(
        reported.json(),
        json!({ "controls": null, "origins": [ORIGIN] })
    );
}
