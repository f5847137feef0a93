//! Tokens that the provider rejects, or that have expired.

use chrono::TimeDelta;
use futures::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{KEY, app, call, text, token};
use crate::test_app::{TestApp, User};

#[tokio::test]
async fn refused_token_is_refreshed_once_for_concurrent_reports() {
    let app = app().await;
    let key = format!("workflow={KEY}");
    let other = app.replica(&[("SERVICE_API_KEYS", &key)]).await;
    let ada = app.user("ada").await;
    let gmail = ada.connected("gmail").await;
    let (_, old) = token(&app, "ada", &gmail).await;
    let path = format!(
        "/connectors/connections/{}/token/invalid",
        text(&gmail, "id")
    );
    let report = async |url: String| {
        let body = json!({ "token_id": old["token_id"] });
        call(&url, KEY, "ada", Method::POST, &path, Some(body)).await
    };
    let urls = (0..50).map(|n| {
        if n % 2 == 0 {
            app.url.clone()
        } else {
            other.url.clone()
        }
    });
    let answers = join_all(urls.map(report)).await;
    assert!(
        answers.iter().all(|(status, _)| *status == StatusCode::OK),
        "{answers:?}"
    );
    let refreshed = answers
        .iter()
        .filter(|(_, body)| body["refreshed"] == true)
        .count();
    assert!((1..=2).contains(&refreshed), "{refreshed}");
    let (status, new) = token(&app, "ada", &gmail).await;
    assert_eq!(status, StatusCode::OK, "{new}");
    assert_ne!(new["access_token"], old["access_token"]);
    assert_eq!(
        ada.connection(text(&gmail, "id")).await["status"],
        "connected"
    );
}

/// Creates a connection whose tokens neither expire nor can be refreshed, like those of GitHub.
async fn with_long_lived_tokens(app: &TestApp, user: &User<'_>) -> Value {
    let lasting = json!({ "consent": "allow", "no_refresh_token": true });
    app.faults(lasting).await;
    let started = user.connect("github").await;
    app.popup(text(&started, "oauth_url")).await;
    user.wait_until(text(&started, "connection_id"), "connected")
        .await
}

#[tokio::test]
async fn refused_unrefreshable_token_requires_reauthorization() {
    let app = app().await;
    let ada = app.user("ada").await;
    let github = with_long_lived_tokens(&app, &ada).await;
    let id = text(&github, "id");
    let (_, old) = token(&app, "ada", &github).await;
    let refused = json!({ "token_id": old["token_id"] });
    let path = format!("/connectors/connections/{id}/token/invalid");
    let unavailable = (StatusCode::SERVICE_UNAVAILABLE, "provider_unavailable");
    let dead = (StatusCode::CONFLICT, "needs_reauthorization");
    for expected in [unavailable, unavailable, dead, dead] {
        let body = Some(refused.clone());
        let (status, body) = call(&app.url, KEY, "ada", Method::POST, &path, body).await;
        assert_eq!((status, text(&body, "code")), expected);
        app.advance(TimeDelta::minutes(3));
    }
    // Nango still stores it, which does not make it valid again.
    app.advance(TimeDelta::minutes(10));
    app.sweep().await;
    let check = format!("/connections/{id}/check");
    let (status, checked) = ada.call(Method::POST, &check, None).await;
    assert_eq!(status, StatusCode::OK, "{checked}");
    assert_eq!(
        (text(&checked, "status"), text(&checked, "status_reason")),
        ("error", "needs_reauthorization")
    );
    let (status, _) = token(&app, "ada", &github).await;
    assert_eq!(status, StatusCode::CONFLICT);

    let again = format!("/connections/{id}/reconnect");
    let (_, started) = ada.call(Method::POST, &again, None).await;
    app.popup(text(&started, "oauth_url")).await;
    ada.wait_until(id, "connected").await;
    let (status, new) = token(&app, "ada", &github).await;
    assert_eq!(status, StatusCode::OK, "{new}");
    assert_ne!(new["token_id"], old["token_id"]);
}

#[tokio::test]
async fn expired_token_is_not_issued() {
    let app = app().await;
    let ada = app.user("ada").await;
    let gmail = ada.connected("gmail").await;
    let ended = app.clock.now() - TimeDelta::hours(1);
    app.import(json!({
        "provider_config_key": "gmail",
        "connection_id": gmail["nango_connection_id"],
        "credentials": { "type": "OAUTH2", "access_token": "over", "expires_at": ended },
    }))
    .await;
    let unavailable = (StatusCode::SERVICE_UNAVAILABLE, "provider_unavailable");
    let dead = (StatusCode::CONFLICT, "needs_reauthorization");
    for expected in [unavailable, unavailable, dead] {
        let (status, refused) = token(&app, "ada", &gmail).await;
        assert_eq!((status, text(&refused, "code")), expected);
        app.advance(TimeDelta::minutes(3));
    }
    let now = ada.connection(text(&gmail, "id")).await;
    assert_eq!(now["status_reason"], "needs_reauthorization");
}

#[tokio::test]
async fn report_of_another_token_evicts_tokens_without_an_event() {
    let app = app().await;
    let ada = app.user("ada").await;
    let gmail = ada.connected("gmail").await;
    let (id, nango_id) = (text(&gmail, "id"), text(&gmail, "nango_connection_id"));
    let (_, old) = token(&app, "ada", &gmail).await;
    let history = format!("/connections/{id}/history");
    let (_, before) = ada.call(Method::GET, &history, None).await;
    let path = format!("/connectors/connections/{id}/token/invalid");
    let report = async |token: &str| {
        let body = Some(json!({ "token_id": token }));
        let (status, answer) = call(&app.url, KEY, "ada", Method::POST, &path, body).await;
        assert_eq!(
            (status, &answer["refreshed"]),
            (StatusCode::OK, &json!(false))
        );
    };
    // Nango refreshes by itself, so the cached token is replaced.
    let refresh = format!("/connections/{nango_id}?provider_config_key=gmail&force_refresh=true");
    assert_eq!(app.nango(Method::GET, &refresh).await.0, StatusCode::OK);
    report(text(&old, "token_id")).await;
    let (_, new) = token(&app, "ada", &gmail).await;
    assert_ne!(new["access_token"], old["access_token"]);
    for number in 0..5 {
        report(&format!("invented {number}")).await;
    }
    let (_, after) = ada.call(Method::GET, &history, None).await;
    assert_eq!(after["events"], before["events"]);
}
