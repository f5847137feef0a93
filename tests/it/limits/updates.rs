//! The rate limit of updates of labels and configs.

use chrono::TimeDelta;
use reqwest::Method;
use serde_json::json;

use super::{Answer, list};
use crate::test_app::TestApp;

#[tokio::test]
async fn changes_of_a_connection_have_a_limit_of_their_own() {
    let app = TestApp::with(&[("RATE_LIMIT_CONNECT_PER_MINUTE", "2")]).await;
    let ada = app.user("ada").await;
    let started = ada.connect("gmail").await;
    let path = format!(
        "/connections/{}",
        started["connection_id"].as_str().unwrap()
    );
    let change = |label: &str| {
        let request = ada.request(Method::PATCH, &path);
        Answer::to(request.json(&json!({ "label": label })))
    };
    for label in ["one", "two"] {
        let changed = change(label).await;
        assert_eq!(
            (changed.status, &changed.body["label"]),
            (200, &json!(label))
        );
    }
    let refused = change("three").await;
    refused.is_refused("rate_limited", "30");
    assert_eq!(
        refused.header("ratelimit-policy"),
        Some("\"update\";q=2;w=60")
    );
    assert_eq!(
        ada.connection(started["connection_id"].as_str().unwrap())
            .await["label"],
        "two"
    );
    assert_eq!(list(&ada).await.status, 200);
    app.advance(TimeDelta::seconds(30));
    assert_eq!(change("three").await.status, 200);
}
