//! The console as the service hands it out: its page, its files, and what it is told.

use serde_json::json;

use super::Answer;
use crate::house::{House, ORIGIN};

async fn get(house: &House, path: &str) -> Answer {
    Answer::to(house.client.get(format!("{}{path}", house.url))).await
}

/// The addresses of the files that the console's page asks for.
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
async fn nothing_of_it_is_there_unless_it_is_switched_on() {
    let house = House::new().await;
    assert_eq!(get(&house, "/").await.header("location"), Some("/docs"));
    for path in ["/console", "/console/", "/console/config.json"] {
        get(&house, path).await.is_problem(404, "not_found");
    }
}

#[tokio::test]
async fn the_front_door_leads_to_it_and_its_page_is_shown_at_its_own_paths_only() {
    let house = House::with(&[("CONSOLE", "true")]).await;
    for path in ["/", "/console"] {
        let answer = get(&house, path).await;
        assert_eq!(answer.header("location"), Some("/console/"), "{path}");
    }
    let page = get(&house, "/console/").await;
    assert_eq!(page.status, 200);
    assert_eq!(page.header("cache-control"), Some("no-cache"));
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(page.header("referrer-policy"), Some("no-referrer"));
    let deeper = get(&house, "/console/connections/some-id").await;
    assert_eq!((deeper.status, &deeper.text), (page.status, &page.text));
    get(&house, "/connections")
        .await
        .is_problem(404, "not_found");
    assert_ne!(get(&house, "/docs").await.status, 404);
}

#[tokio::test]
async fn its_policy_lets_nothing_run_that_stands_in_a_page_and_nobody_else_be_asked() {
    let house = House::with(&[("CONSOLE", "true")]).await;
    let page = get(&house, "/console/").await;
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
async fn its_files_may_be_kept_for_ever_and_the_page_is_asked_for_again() {
    let house = House::with(&[("CONSOLE", "true")]).await;
    let page = get(&house, "/console/").await;
    for path in files(&page.text) {
        let answer = get(&house, &path).await;
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
        unchanged(&house, &path, answer.header("etag").unwrap()).await;
    }
    unchanged(&house, "/console/", page.header("etag").unwrap()).await;
    for path in ["/console/assets/nope.js", "/console/assets/..%2Findex.html"] {
        get(&house, path).await.is_problem(404, "not_found");
    }
}

/// Who has a file already is told only that.
async fn unchanged(house: &House, path: &str, tag: &str) {
    let request = house.client.get(format!("{}{path}", house.url));
    let answer = Answer::to(request.header("if-none-match", format!("\"other\", {tag}"))).await;
    assert_eq!((answer.status.as_u16(), &*answer.text), (304, ""), "{path}");
    assert_eq!(answer.header("etag"), Some(tag), "{path}");
}

#[tokio::test]
async fn it_is_told_who_may_hand_over_a_token() {
    let house = House::with(&[("CONSOLE", "true")]).await;
    let told = get(&house, "/console/config.json").await;
    assert_eq!(told.status, 200);
    assert_eq!(
        told.json(),
        json!({ "controls": null, "origins": [ORIGIN] })
    );
}
