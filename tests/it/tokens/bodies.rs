//! The bodies of workflows' requests.

use reqwest::{Method, StatusCode};
use serde_json::json;

use super::{KEY, app, call, text};

#[tokio::test]
async fn token_request_with_invalid_body_is_rejected() {
    let app = app().await;
    let gmail = app.user("ada").await.connected("gmail").await;
    let own = format!("/connectors/connections/{}/token", text(&gmail, "id"));
    for path in [own.as_str(), "/connectors/gmail/token"] {
        for (body, named) in [
            (json!({ "scopes": ["a"] }), "scopes"),
            (
                json!({ "required_scopes": ["a b"] }),
                "`required_scopes` must not contain \"a b\"",
            ),
            (json!({ "required_scopes": ["a,b"] }), "\"a,b\""),
            (json!({ "required_scopes": [""] }), "\"\""),
        ] {
            let (status, problem) =
                call(&app.url, KEY, "ada", Method::POST, path, Some(body)).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{problem}");
            assert!(text(&problem, "detail").contains(named), "{problem}");
        }
    }
    let body = json!({ "token_id": "x", "reason": "y" });
    let path = format!("{own}/invalid");
    let (status, problem) = call(&app.url, KEY, "ada", Method::POST, &path, Some(body)).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{problem}");
    assert!(text(&problem, "detail").contains("reason"), "{problem}");
}
