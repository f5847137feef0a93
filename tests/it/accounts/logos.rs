//! Logos, requested like an `<img>` does.

use reqwest::StatusCode;

use super::text;
use crate::test_app::TestApp;

#[tokio::test]
async fn logo_needs_no_token_and_is_cacheable() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    let github = ada.get("/github").await;
    let url = text(&github, "logo_url");
    assert_eq!(url, format!("{}/api/v1/connectors/github/logo", app.url));
    let logo = app.client.get(url).send().await.unwrap();
    assert_eq!(logo.status(), StatusCode::OK);
    let header = |name: &str| logo.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("content-type"), "image/svg+xml");
    assert_eq!(header("cache-control"), "public, max-age=86400");
    assert_eq!(header("cross-origin-resource-policy"), "cross-origin");
    assert!(header("content-security-policy").contains("sandbox"));
    let tag = header("etag");
    assert!(logo.text().await.unwrap().contains("<title>GitHub</title>"));
    let again = app
        .client
        .get(url)
        .header("if-none-match", tag)
        .send()
        .await
        .unwrap();
    assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
}

#[tokio::test]
async fn connector_without_icon_has_initials() {
    let app = TestApp::new().await;
    let logo = |slug: &str| {
        let url = format!("{}/api/v1/connectors/{slug}/logo", app.url);
        let request = app.client.get(url);
        async move { request.send().await.unwrap() }
    };
    let salesforce = logo("salesforce").await;
    assert_eq!(salesforce.headers()["cache-control"], "public, max-age=300");
    assert!(salesforce.text().await.unwrap().contains(">S</text>"));
    assert_eq!(logo("no-such-thing").await.status(), StatusCode::NOT_FOUND);
}
