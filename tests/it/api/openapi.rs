//! The OpenAPI document and its page.

pub(crate) mod examples;
mod rules;

use reqwest::Method;
use serde_json::Value;
use url::Url;
use uuid::Uuid;

use super::{DOCUMENT, TestResponse};
use crate::test_app::TestApp;

#[tokio::test]
async fn openapi_document_is_served() {
    let app = TestApp::new().await;
    let url = format!("{}/api/v1/openapi.json", app.url);
    let answer = TestResponse::to(app.client.get(url)).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let mut served = answer.json();
    assert_eq!(served["servers"][0]["url"], app.url);
    served["servers"] = DOCUMENT["servers"].clone();
    assert_eq!(served, *DOCUMENT);
    assert!(DOCUMENT["openapi"].as_str().unwrap().starts_with("3.1."));
}

#[test]
fn openapi_file_in_repository_is_current() {
    let current = serde_json::to_string_pretty(&patchbay::http::openapi()).unwrap();
    assert!(
        include_str!("../../../docs/openapi.json").trim_end() == current,
        "the API has changed: cargo run -- openapi > docs/openapi.json"
    );
}

#[tokio::test]
async fn documented_operations_return_documented_statuses() {
    let app = TestApp::new().await;
    let ada = app.user("ada").await;
    for (template, methods) in DOCUMENT["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let path: Vec<String> = template
                .split('/')
                .map(|segment| match segment {
                    "{connector}" => "gmail".to_owned(),
                    segment if segment.starts_with('{') => Uuid::now_v7().to_string(),
                    segment => segment.to_owned(),
                })
                .collect();
            let method: Method = method.to_uppercase().parse().unwrap();
            let url = format!("{}{}", app.url, path.join("/"));
            let request = app
                .client
                .request(method.clone(), url)
                .bearer_auth(&ada.token);
            // Only the head, because the body of an event stream does not end.
            let answer = request.send().await.unwrap();
            let status = answer.status();
            assert!(
                !operation["responses"][status.as_str()].is_null(),
                "{method} {template} may not answer {status}, by its documentation"
            );
            if matches!(status.as_u16(), 404 | 405) {
                let code = answer.json::<Value>().await.unwrap()["code"].clone();
                let there = code == "connection_not_found" || code == "connector_not_found";
                assert!(there, "{method} {template} is not there: {code}");
            }
        }
    }
}

/// Returns the `src` and `href` attributes of a page.
fn schema_name(page: &str) -> Vec<String> {
    ["src=\"", "href=\""]
        .iter()
        .flat_map(|attribute| page.split(attribute).skip(1))
        .map(|rest| rest.split('"').next().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn docs_page_loads_no_external_resources() {
    let app = TestApp::new().await;
    let first = app.client.get(&app.url).send().await.unwrap();
    assert_eq!(first.headers()["location"], "/docs");
    let mut url: Url = format!("{}/docs", app.url).parse().unwrap();
    let page = loop {
        let response = app.client.get(url.clone()).send().await.unwrap();
        match response.headers().get("location") {
            Some(next) => url = url.join(next.to_str().unwrap()).unwrap(),
            None => break response,
        }
    };
    assert_eq!(page.status(), 200);
    let policy = page.headers()["content-security-policy"]
        .to_str()
        .unwrap()
        .to_owned();
    assert!(
        policy.starts_with("default-src 'self'; style-src 'self' 'unsafe-inline'"),
        "{policy}"
    );
    let page = page.text().await.unwrap();
    // The policy blocks inline scripts.
    assert!(!page.contains("<script>"), "{page}");
    let named = schema_name(&page);
    assert!(named.len() >= 4, "{named:?}");
    for name in named {
        let asset = url.join(&name).unwrap();
        assert_eq!(asset.origin(), url.origin(), "{name}");
        let answer = TestResponse::to(app.client.get(asset)).await;
        assert_eq!(answer.status, 200, "{name}");
        if name.ends_with("initializer.js") {
            assert!(answer.text.contains("/api/v1/openapi.json"));
            assert!(!answer.text.contains("https://"), "{}", answer.text);
        }
    }
}
