//! Protection of every page: no framing, no foreign scripts, no caching, no referrers.

use std::collections::BTreeMap;

use reqwest::header::HeaderMap;
use serde_json::json;

use super::test_browser::TestBrowser;
use crate::test_app::{ORIGIN, TestApp};

/// The response of one page or file.
struct Page {
    path: String,
    headers: HeaderMap,
    text: String,
}

impl Page {
    async fn get(app: &TestApp, path: &str) -> Self {
        let request = app
            .client
            .get(format!("{}{path}", app.url))
            .header("accept", "text/html");
        let answer = request.send().await.unwrap();
        Self {
            path: path.to_owned(),
            headers: answer.headers().clone(),
            text: answer.text().await.unwrap(),
        }
    }

    fn header(&self, name: &str) -> &str {
        let values: Vec<_> = self.headers.get_all(name).iter().collect();
        assert_eq!(values.len(), 1, "{name} of {}", self.path);
        values[0].to_str().unwrap()
    }

    /// Returns the rules of the content security policy by name.
    fn policy(&self) -> BTreeMap<&str, &str> {
        let rules = self.header("content-security-policy").split(';');
        rules
            .filter_map(|rule| rule.trim().split_once(' '))
            .collect()
    }
}

/// Returns every HTML page of the service.
async fn pages(app: &TestApp) -> Vec<Page> {
    let ada = app.user("ada").await;
    let started = ada.connect("gmail").await;
    let id = started["connection_id"].as_str().unwrap();
    let mut pages = Vec::new();
    for path in [
        "/console/".to_owned(),
        format!("/console/connections/{id}"),
        "/docs/".to_owned(),
        "/docs/index.html".to_owned(),
        format!("/api/v1/connectors/callback?connection_id={id}"),
        "/api/v1/connectors/callback?connection_id=nobodys".to_owned(),
        "/api/v1/connectors/callback?state=1&code=2".to_owned(),
    ] {
        let page = Page::get(app, &path).await;
        assert!(
            page.header("content-type").starts_with("text/html"),
            "{path}"
        );
        pages.push(page);
    }
    pages
}

#[tokio::test]
async fn pages_prevent_framing_caching_and_referrers() {
    let app = TestApp::with(&[("CONSOLE", "true"), ("CONNECT_BINDING", "ask")]).await;
    for page in pages(&app).await {
        assert_eq!(
            page.policy().get("frame-ancestors"),
            Some(&"'none'"),
            "{}",
            page.path
        );
        assert_eq!(page.header("x-frame-options"), "DENY");
        assert_eq!(page.header("x-content-type-options"), "nosniff");
        assert_eq!(page.header("referrer-policy"), "no-referrer");
        // The console's page is the same for all users, and is revalidated by its ETag.
        let kept = if page.path.starts_with("/console") {
            "no-cache"
        } else {
            "no-store"
        };
        assert_eq!(page.header("cache-control"), kept, "{}", page.path);
    }
}

#[tokio::test]
async fn pages_allow_only_their_own_scripts() {
    let app = TestApp::with(&[("CONSOLE", "true"), ("CONNECT_BINDING", "ask")]).await;
    for page in pages(&app).await {
        let policy = page.policy();
        assert_eq!(policy.get("base-uri"), Some(&"'none'"), "{}", page.path);
        let scripts = policy
            .get("script-src")
            .or(policy.get("default-src"))
            .unwrap();
        for allowed in scripts.split(' ') {
            assert!(
                allowed == "'none'" || allowed == "'self'" || allowed.starts_with("'sha256-"),
                "{allowed}"
            );
        }
        let styles = policy
            .get("style-src")
            .or(policy.get("default-src"))
            .unwrap();
        // Swagger's page sets inline styles, which no hash can name. Inline scripts stay blocked.
        let swagger = page.path.starts_with("/docs");
        assert_eq!(styles.contains("'unsafe-inline'"), swagger, "{}", page.path);
        assert!(
            !page
                .header("content-security-policy")
                .contains("unsafe-eval")
        );
        assert!(
            !page.text.contains(" onload=") && !page.text.contains("javascript:"),
            "{}",
            page.path
        );
        // The page references no other origin.
        for address in page
            .text
            .split(['"', '\''])
            .filter(|text| text.starts_with("http"))
        {
            assert!(
                address.starts_with("http://127.0.0.1")
                    || address.starts_with("https://app.example.com"),
                "{address}"
            );
        }
    }
}

#[tokio::test]
async fn session_token_responses_are_uncached_and_same_origin_only() {
    let app = TestApp::with(&[("CONNECT_BINDING", "required")]).await;
    let ada = app.user("ada").await;
    for (connector, origin, allowed) in [
        ("gmail", ORIGIN, Some(ORIGIN)),
        ("github", "https://evil.example", None),
        ("openai", "null", None),
        ("notion", "https://app.example.com.evil.example", None),
        ("box", "http://app.example.com", None),
        ("airtable", "https://app.example.com:8443", None),
        ("asana", "HTTPS://APP.EXAMPLE.COM", None),
    ] {
        let request = ada.request(reqwest::Method::POST, &format!("/{connector}/connect"));
        let answer = request.header("origin", origin).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{connector}");
        let header = |name: &str| {
            answer
                .headers()
                .get(name)
                .map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(
            header("access-control-allow-origin").as_deref(),
            allowed,
            "{origin}"
        );
        assert_eq!(header("cache-control").as_deref(), Some("no-store"));
        assert_eq!(header("referrer-policy").as_deref(), Some("no-referrer"));
        let text = answer.text().await.unwrap();
        assert!(text.contains("session_token="), "{text}");
    }
}

#[tokio::test]
async fn only_callback_page_posts_to_opener_with_target_origin() {
    let app = TestApp::with(&[("CONSOLE", "true")]).await;
    app.faults(json!({ "consent": "allow" })).await;
    let ada = app.user("ada").await;
    let mut browser = TestBrowser::new();
    let started = browser.connect(&ada, "gmail").await;
    let url = format!(
        "{}/api/v1/connectors/callback?connection_id={}",
        app.url,
        started["connection_id"].as_str().unwrap()
    );
    let page = browser.open(&url).await;
    assert_eq!(page.text.matches("postMessage(").count(), 1);
    assert!(page.text.contains("postMessage(message, origin)"));
    for path in ["/console/", "/docs/"] {
        assert!(
            !Page::get(&app, path).await.text.contains("opener"),
            "{path}"
        );
    }
}
