//! Endless rate limits, and lists with malformed entries.

use super::*;

#[tokio::test]
async fn rate_limit_without_seconds_is_not_retried() {
    for header in [None, Some("soon"), Some("Wed, 21 Oct 2026 07:28:00 GMT")] {
        let mut answer = StatusCode::TOO_MANY_REQUESTS.into_response();
        if let Some(header) = header {
            let value = header.parse().unwrap();
            answer.headers_mut().insert("retry-after", value);
        }
        let (nango, count) = scripted_server([answer, no_integrations()]).await;
        let error = nango.integrations().await.unwrap_err();
        assert_eq!(error, Error::RateLimited { retry_after: None });
        assert_eq!(count.load(Ordering::SeqCst), 1, "{header:?}");
    }
}

#[tokio::test]
async fn retry_after_is_bounded_by_a_minute() {
    for seconds in ["3600", "18446744073709551615"] {
        let answer = ([("retry-after", seconds)], StatusCode::TOO_MANY_REQUESTS);
        let answer = (answer.1, answer.0).into_response();
        let (nango, _) = scripted_server([answer]).await;
        let retry_after = Some(Duration::from_secs(60));
        let error = nango.integrations().await.unwrap_err();
        assert_eq!(error, Error::RateLimited { retry_after });
    }
}

#[tokio::test]
async fn each_entry_of_a_list_is_read_by_itself() {
    let entry = |id: &str, rest: &str| {
        format!(
            r#"{{"connection_id":"{id}","provider_config_key":"github","created":"2026-11-23T12:46:28.263+00:00"{rest}}}"#
        )
    };
    let metadata = format!(r#","metadata":"{}""#, "m".repeat(9 * 1024 * 1024));
    let nested = format!(r#","metadata":{}1{}"#, "[".repeat(500), "]".repeat(500));
    let body = format!(
        r#"{{"connections":[{},{},{},{},null,7]}}"#,
        entry("large", &metadata),
        entry("nested", &nested),
        entry("number", r#","metadata":1e400"#),
        entry("odd", r#","tags":{"n":1e400}"#),
    );
    let json = [(CONTENT_TYPE, "application/json")];
    let (nango, _) = scripted_server([(json, body).into_response()]).await;
    let page = nango.connection_page(&ListConnections::default()).await;
    let page = page.unwrap();
    let ids: Vec<&str> = page
        .connections
        .iter()
        .map(|it| it.connection_id.as_str())
        .collect();
    assert_eq!(ids, ["large", "nested", "number"]);
    assert_eq!(page.unreadable, [Some("odd".to_owned()), None, None]);
    assert!(page.complete().is_err());
}

#[tokio::test]
async fn failed_refresh_with_status_500_is_not_retried() {
    for (message, kept) in [
        (
            r#"Failed to fetch client credentials token: {"connection":{"id":1}}"#,
            "Failed to fetch client credentials token",
        ),
        (
            r#"An unhandled error of type 'x' with payload '{"connection":{}}' has occurred"#,
            "An unhandled error of type 'x' with payload",
        ),
    ] {
        let error = json!({ "error": { "code": "invalid_credentials", "message": message } });
        let answer = (StatusCode::INTERNAL_SERVER_ERROR, axum::Json(error)).into_response();
        let (nango, count) = scripted_server([answer]).await;
        let error = nango.connection("c", "x", Refresh::WhenDue).await;
        let message = kept.to_owned();
        assert_eq!(error.unwrap_err(), Error::InvalidCredentials { message });
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }
}
