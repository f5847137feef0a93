use chrono::TimeDelta;
use reqwest::Method;
use serde_json::{Value, json};

use super::configured;
use crate::nango_contract::scenario::{Scenario, location};

async fn session(scenario: &Scenario, integration: &str) -> (String, String) {
    let body = json!({ "tags": { "end_user_id": "ada" }, "allowed_integrations": [integration] });
    let answer = scenario
        .call(Method::POST, "/connect/sessions", Some(body))
        .await;
    let field = |name: &str| answer["data"][name].as_str().unwrap().to_owned();
    (field("token"), field("connect_link"))
}

async fn submit(scenario: &Scenario, form: &[(&str, &str)]) -> (u16, String) {
    let url = format!("{}/connect-ui/", scenario.sandbox.url());
    let response = scenario.http.post(url).form(form).send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

async fn newest_credentials(scenario: &Scenario) -> Value {
    let list = scenario.call(Method::GET, "/connections", None).await;
    let newest = &list["connections"][0];
    let (id, key) = (&newest["connection_id"], &newest["provider_config_key"]);
    let (id, key) = (id.as_str().unwrap(), key.as_str().unwrap());
    let path = format!("/connections/{id}?provider_config_key={key}");
    scenario.call(Method::GET, &path, None).await["credentials"].clone()
}

#[tokio::test]
async fn consent_page_offers_accounts_and_decision() {
    let scenario = configured(|_| {}).await;
    let (token, _) = session(&scenario, "github").await;
    let url = format!("{}/oauth/connect/github", scenario.sandbox.url());
    for (decision, status) in [("deny", 400), ("allow", 200)] {
        let request = scenario
            .http
            .get(&url)
            .query(&[("connect_session_token", &token)]);
        let provider = location(&request.send().await.unwrap());
        let page = scenario
            .http
            .get(&provider)
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        for shown in [
            "The github",
            "Ada Lovelace (private)",
            "Grace Hopper",
            "Allow",
            "Deny",
        ] {
            assert!(page.contains(shown), "{shown} in {page}");
        }
        let asked = url::Url::parse(&provider).unwrap();
        let mut form: Vec<_> = asked.query_pairs().into_owned().collect();
        form.push(("account".into(), "ada-private".into()));
        form.push(("decision".into(), decision.into()));
        let action = provider.split('?').next().unwrap();
        let answer = scenario.http.post(action).form(&form).send().await.unwrap();
        let back = location(&answer);
        let page = scenario.http.get(back).send().await.unwrap();
        assert_eq!(page.status(), status, "{decision}");
    }
    let credentials = newest_credentials(&scenario).await;
    assert_eq!(
        credentials["raw"]["account"]["name"],
        "Ada Lovelace (private)"
    );
}

#[tokio::test]
async fn connect_page_shows_fields_of_auth_mode() {
    let mut scenario = configured(|_| {}).await;
    let (token, link) = session(&scenario, "stripe").await;
    let page = scenario
        .http
        .get(&link)
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(page.contains("name=\"apiKey\"") && !page.contains("name=\"password\""));
    let form = |value| {
        [
            ("session_token", &*token),
            ("integration", "stripe"),
            ("apiKey", value),
        ]
    };
    let (status, page) = submit(&scenario, &form("invalid-key")).await;
    assert_eq!(status, 400);
    assert!(page.contains("did not accept"), "{page}");
    let (status, page) = submit(&scenario, &form("sk_123")).await;
    assert_eq!(status, 200);
    assert!(page.contains("Success!"), "{page}");
    let hook: Value = serde_json::from_str(&scenario.next_hook().await.body).unwrap();
    assert_eq!(
        (&hook["authMode"], &hook["tags"]["end_user_id"]),
        (&json!("API_KEY"), &json!("ada"))
    );
    let stored = newest_credentials(&scenario).await;
    assert_eq!(stored, json!({ "type": "API_KEY", "apiKey": "sk_123" }));

    let (token, _) = session(&scenario, "jira").await;
    let form = [
        ("session_token", &*token),
        ("integration", "jira"),
        ("username", "ada"),
    ];
    assert_eq!(
        submit(&scenario, &form).await.0,
        400,
        "the password is missing"
    );
    let form = [form[0], form[1], form[2], ("password", "secret")];
    assert_eq!(submit(&scenario, &form).await.0, 200);
    let stored = newest_credentials(&scenario).await;
    assert_eq!(
        stored,
        json!({ "type": "BASIC", "username": "ada", "password": "secret" })
    );
}

#[tokio::test]
async fn connect_page_links_to_popup_for_oauth() {
    let scenario = configured(|_| {}).await;
    let (token, link) = session(&scenario, "github").await;
    let page = scenario
        .http
        .get(&link)
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    let expected = format!("href=\"/oauth/connect/github?connect_session_token={token}\"");
    assert!(page.contains(&expected), "{page}");
    assert!(
        !page.contains("window.opener"),
        "it tells its opener nothing"
    );
    let form = [("session_token", &*token), ("integration", "github")];
    assert_eq!(submit(&scenario, &form).await.0, 400);
    scenario.advance(TimeDelta::minutes(30));
    assert_eq!(scenario.http.get(&link).send().await.unwrap().status(), 401);
}

#[tokio::test]
async fn oauth1_credentials_have_their_own_format() {
    let mut scenario = configured(|_| {}).await;
    scenario
        .connect("trello", "first", json!({ "tags": {} }))
        .await;
    let credentials = newest_credentials(&scenario).await;
    assert_eq!(credentials["type"], "OAUTH1");
    assert!(
        credentials["oauth_token"].is_string() && credentials["oauth_token_secret"].is_string()
    );
}

#[tokio::test]
async fn front_page_describes_sandbox() {
    let scenario = configured(|_| {}).await;
    let page = scenario
        .http
        .get(scenario.sandbox.url())
        .send()
        .await
        .unwrap();
    assert_eq!(page.status(), 200);
    let page = page.text().await.unwrap();
    assert!(page.contains("Patchbay sandbox") && page.contains("/sandbox/faults"));
}
