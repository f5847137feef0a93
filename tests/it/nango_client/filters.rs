//! A Nango that ignores the filter of a list.

use axum::response::IntoResponse;
use patchbay::nango::{Error, ListConnections};
use serde_json::json;

use super::scripted_server;

#[tokio::test]
async fn list_that_ignores_its_filter_is_filtered_here() {
    let entry = |id: &str, user: &str| {
        json!({
            "connection_id": id, "provider_config_key": "gmail", "tags": { "end_user_id": user },
            "errors": [], "created": "2026-08-01T00:00:00Z",
        })
    };
    let all =
        json!({ "connections": [entry("one", "ada"), entry("two", "bob"), entry("three", "cem")] });
    let answer = || axum::Json(all.clone()).into_response();
    let (nango, _) = scripted_server([answer(), answer(), answer(), answer(), answer()]).await;
    let ids = async |filter: ListConnections| {
        let found = nango.connections(&filter).await?;
        let ids = found.into_iter().map(|one| one.connection_id);
        Ok::<Vec<String>, Error>(ids.collect())
    };
    let of_bob = ListConnections {
        tags: [("end_user_id".to_owned(), "bob".to_owned())].into(),
        ..ListConnections::default()
    };
    assert_eq!(ids(of_bob.clone()).await.unwrap(), ["two"]);
    let by_id = |id: &str| ListConnections {
        connection_id: Some(id.to_owned()),
        ..ListConnections::default()
    };
    assert_eq!(ids(by_id("three")).await.unwrap(), ["three"]);
    assert_eq!(ids(by_id("four")).await.unwrap(), [""; 0]);
    let elsewhere = ListConnections {
        integration: Some("github".to_owned()),
        ..ListConnections::default()
    };
    assert_eq!(ids(elsewhere).await.unwrap(), [""; 0]);
    // A full page of other connections does not show that the next one has none.
    let full = ListConnections {
        limit: Some(3),
        ..of_bob
    };
    assert_eq!(ids(full).await, Err(Error::FilterIgnored));
}
